//! A measurement's own steps as a record: what OONI wrote down, in our words. Concludes nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::control::control_record;
use super::format::{Measurement, MeasurementError, Query};
use super::handshakes::{derive_handshakes, handshakes};
use super::pages::take_request;
use crate::record::{
    Arm, Cause, Certificate, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, ProbeRecord, QueryType,
    ResolverKind, Span, TcpConnect, TcpOutcome,
};
use crate::target::TargetUrl;
use crate::words::{Country, UnixMillis};

/// Stands where a measurement does not say which address was meant.
pub(super) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Reads a certificate's names, key and validity from its DER bytes: parsing X.509 is the caller's.
pub type ReadCertificate = fn(&[u8]) -> Certificate;

/// A measurement in our words.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    pub record: ProbeRecord,
    /// `None` if the test helper did not answer.
    pub control: Option<ProbeRecord>,
    pub country: Option<Country>,
    /// As the measurement has it, such as `AS42668`.
    pub asn: String,
    /// Whether pages are whole, by place in `record.http`.
    pub whole_pages: Vec<bool>,
    /// Where requests went that never got an answer, and why not.
    pub unanswered: Vec<(TargetUrl, String)>,
    /// OONI's own conclusion, in words.
    pub theirs: String,
    /// What the measurement does not carry.
    pub missing: Vec<String>,
}

/// Reads a measurement as records.
pub fn import(measurement: &Measurement, read: ReadCertificate) -> Result<Import, MeasurementError> {
    let keys = &measurement.test_keys;
    let url = TargetUrl::parse(&measurement.input).map_err(MeasurementError::Input)?;
    let mut record = ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: None,
        url: url.clone(),
        list_version: 0,
        cause: Cause::Manual,
        started_at: instant(&measurement.measurement_start_time).unwrap_or_default(),
        duration_micros: micros(measurement.test_runtime),
        agent_version: format!("{} {}", measurement.software_name, measurement.software_version),
        dns: keys.queries.entries.iter().filter_map(dns_exchange).collect(),
        tcp: keys.tcp_connect.entries.iter().filter_map(tcp_connect).collect(),
        tls: Vec::new(),
        http: Vec::new(),
        quic: Vec::new(),
        references: Vec::new(),
    };
    record.tls = handshakes(measurement, &record.tcp, read);
    let mut import = Import {
        control: control_record(measurement, &record),
        record,
        country: Country::parse(&measurement.probe_cc).ok(),
        asn: measurement.probe_asn.clone(),
        whole_pages: Vec::new(),
        unanswered: Vec::new(),
        theirs: theirs(measurement),
        missing: unreadable(measurement),
    };
    // OONI lists the newest first.
    for request in keys.requests.entries.iter().rev() {
        take_request(&mut import, request);
    }
    derive_handshakes(&mut import, measurement);
    Ok(import)
}

/// An instant as OONI writes it, UTC.
pub(super) fn instant(text: &str) -> Option<UnixMillis> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let secs = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    Some(UnixMillis((crate::words::days_from_civil(year, month, day)? * 86_400 + secs) * 1000))
}

fn micros(secs: f64) -> u64 {
    // A cast saturates; what is no number becomes 0.
    (secs * 1e6) as u64
}

pub(super) fn ended(secs: f64) -> Span {
    Span { start_micros: micros(secs), duration_micros: 0 }
}

fn dns_exchange(query: &Query) -> Option<DnsExchange> {
    let (mut addresses, mut cnames) = (Vec::new(), Vec::new());
    for answer in &query.answers {
        let text = answer.ipv4.as_deref().or(answer.ipv6.as_deref());
        let address: Option<IpAddr> = text.and_then(|text| text.parse().ok());
        addresses.extend(address);
        cnames.extend(answer.hostname.clone().filter(|_| answer.answer_type == "CNAME"));
    }
    let ttl_min_secs = query.answers.iter().filter_map(|answer| answer.ttl).min().unwrap_or_default();
    let rcode = match query.failure.as_deref() {
        None | Some("dns_no_answer" | "dns_bogon_error") => Ok(0),
        Some("dns_nxdomain_error") => Ok(3),
        Some("dns_refused_error") => Ok(5),
        Some("dns_server_misbehaving" | "dns_servfail_error" | "dns_temporary_failure") => Ok(2),
        Some(failure) if failure.contains("timeout") => Err(DnsOutcome::Timeout),
        Some(failure) => Err(DnsOutcome::Failed(failure.to_owned())),
    };
    Some(DnsExchange {
        detail: DnsDetail::default(),
        resolver: match query.engine.as_str() {
            "udp" | "tcp" | "dot" | "doh" => ResolverKind::Public,
            _ => ResolverKind::System,
        },
        server: query.resolver_address.as_deref().and_then(|text| text.parse().ok()).unwrap_or(NOWHERE),
        transport: match query.engine.as_str() {
            "tcp" | "dot" | "doh" => DnsTransport::Tcp,
            _ => DnsTransport::Udp,
        },
        // OONI keeps the first answer only.
        others: Vec::new(),
        name: query.hostname.trim_end_matches('.').to_ascii_lowercase(),
        query: match query.query_type.as_str() {
            "A" | "ANY" | "" => QueryType::A,
            "AAAA" => QueryType::Aaaa,
            _ => return None,
        },
        span: ended(query.t),
        outcome: rcode.map_or_else(
            |outcome| outcome,
            |rcode| DnsOutcome::Answer { rcode, addresses, cnames, ttl_min_secs },
        ),
    })
}

fn tcp_connect(attempt: &super::format::TcpAttempt) -> Option<TcpConnect> {
    Some(TcpConnect {
        transport: None,
        arm: Arm::Main,
        address: SocketAddr::new(attempt.ip.parse().ok()?, attempt.port),
        span: ended(attempt.t),
        outcome: match attempt.status.failure.as_deref() {
            None if attempt.status.success => TcpOutcome::Connected,
            None => TcpOutcome::Failed("unstated".to_owned()),
            Some("connection_refused") => TcpOutcome::Refused,
            Some("connection_reset") => TcpOutcome::Reset,
            // Linux errnos, as our own agents write them.
            Some("host_unreachable") => TcpOutcome::Unreachable(113),
            Some("network_unreachable") => TcpOutcome::Unreachable(101),
            Some(failure) if failure.contains("timeout") || failure.contains("timed_out") => {
                TcpOutcome::Timeout
            }
            Some(failure) => TcpOutcome::Failed(failure.to_owned()),
        },
    })
}

fn theirs(measurement: &Measurement) -> String {
    let keys = &measurement.test_keys;
    match (&keys.blocking, &keys.accessible) {
        (Value::String(how), _) => format!("blocked ({how})"),
        (Value::Bool(false), Value::Bool(true)) => "accessible".to_owned(),
        (Value::Bool(false), _) => "not blocked, not accessible".to_owned(),
        _ => "undecided".to_owned(),
    }
}

fn unreadable(measurement: &Measurement) -> Vec<String> {
    let keys = &measurement.test_keys;
    [
        ("queries", keys.queries.unreadable),
        ("tcp_connect", keys.tcp_connect.unreadable),
        ("tls_handshakes", keys.tls_handshakes.unreadable),
        ("network_events", keys.network_events.unreadable),
        ("requests", keys.requests.unreadable),
    ]
    .iter()
    .filter(|(_, count)| *count > 0)
    .map(|(section, count)| format!("{count} of `{section}` cannot be read"))
    .collect()
}
