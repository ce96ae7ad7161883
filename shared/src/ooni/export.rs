//! Our records in OONI's format: what a visitor's probe did, without a conclusion and without any address of its host.
//!
//! The main arm only: OONI's format has no place for the others, nor for QUIC. A page or a header may echo the
//! visitor's own address; since records do not hold it, every address the record itself does not know is struck out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base64::Engine as _;
use serde_json::Value;

use super::export_control::control_keys;
use super::format::{
    Answer, Asked, Binary, Handshake, Measurement, NetworkEvent, Query, Request, Response, TEST_NAME,
    TcpAttempt, TcpStatus, TestKeys,
};
use super::scrub::{known_addresses, strike_out};
use crate::record::{
    Arm, ChainFault, DnsExchange, DnsOutcome, DnsTransport, HttpExchange, HttpOutcome, ProbeRecord,
    QueryType, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};
use crate::words::{Country, UnixMillis};

/// What OONI's probes write where their own address once stood.
pub const NO_ADDRESS: &str = "127.0.0.1";
/// A failure that OONI has no word for.
const OTHER_FAILURE: &str = "unknown_failure";
const TIMEOUT: &str = "generic_timeout_error";
/// The version of the test whose keys these are.
const TEST_VERSION: &str = "0.4.3";

/// What makes one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Exported<'a> {
    pub record: &'a ProbeRecord,
    /// The control's record of the same mirror, measured after it.
    pub control: Option<&'a ProbeRecord>,
    /// The first of the carrier's.
    pub asn: u32,
    /// Of the carrier's market.
    pub country: Option<Country>,
}

/// Writes a record as a measurement.
pub fn export(exported: &Exported<'_>) -> Measurement {
    let record = exported.record;
    let known = known_addresses(record, exported.control);
    let at = date(record.started_at);
    Measurement {
        annotations: annotations(record),
        data_format_version: "0.2.0".to_owned(),
        input: record.url.as_str().to_owned(),
        measurement_start_time: at.clone(),
        probe_asn: format!("AS{}", exported.asn),
        // ZZ is OONI's word for an unknown country.
        probe_cc: exported.country.map_or_else(|| "ZZ".to_owned(), |country| country.to_string()),
        probe_ip: Some(NO_ADDRESS.to_owned()),
        report_id: String::new(),
        resolver_ip: None,
        software_name: "zerkalo-agent".to_owned(),
        software_version: record.agent_version.clone(),
        test_keys: test_keys(record, exported.control, &known),
        test_name: TEST_NAME.to_owned(),
        test_runtime: record.duration_micros as f64 / 1e6,
        test_start_time: at,
        test_version: TEST_VERSION.to_owned(),
    }
}

/// Beside our name, how far the box's clock may have been off.
fn annotations(record: &ProbeRecord) -> BTreeMap<String, Value> {
    let error = record.clock.and_then(|clock| clock.error_millis).map(Value::from);
    let error = error.map(|error| ("clock_error_millis".to_owned(), error));
    std::iter::once(("engine_name".to_owned(), Value::from("zerkalo"))).chain(error).collect()
}

fn test_keys(record: &ProbeRecord, control: Option<&ProbeRecord>, known: &BTreeSet<IpAddr>) -> TestKeys {
    let handshakes: Vec<&TlsHandshake> = record.tls.iter().filter(|tls| tls.arm == Arm::Main).collect();
    let mut requests: Vec<Request> = record
        .http
        .iter()
        .filter(|exchange| exchange.arm == Arm::Main)
        .map(|exchange| request(exchange, known))
        .collect();
    if requests.is_empty() {
        requests.push(failed_request(record));
    }
    // OONI lists the newest first.
    requests.reverse();
    TestKeys {
        agent: "redirect".to_owned(),
        queries: record.dns.iter().map(query).collect::<Vec<_>>().into(),
        tcp_connect: main_attempts(record).map(attempt).collect::<Vec<_>>().into(),
        network_events: handshakes.iter().flat_map(|tls| events(tls)).collect::<Vec<_>>().into(),
        tls_handshakes: handshakes.iter().map(|tls| handshake(tls)).collect::<Vec<_>>().into(),
        http_experiment_failure: requests.first().and_then(|request| request.failure.clone()),
        dns_experiment_failure: dns_failure(record),
        requests: requests.into(),
        control: control.map(|control| control_keys(control, known)),
        control_failure: control.is_none().then(|| OTHER_FAILURE.to_owned()),
        // Conclusions are not exported: the reader has the facts.
        blocking: Value::Null,
        accessible: Value::Null,
    }
}

/// `YYYY-MM-DD HH:MM:SS`, UTC.
fn date(at: UnixMillis) -> String {
    at.to_rfc3339().chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

fn ended_secs(span: Span) -> f64 {
    (span.start_micros.saturating_add(span.duration_micros)) as f64 / 1e6
}

fn query(exchange: &DnsExchange) -> Query {
    let answers = match &exchange.outcome {
        DnsOutcome::Answer { addresses, cnames, ttl_min_secs, .. } => {
            let ttl = Some(*ttl_min_secs);
            let names = cnames.iter().map(|name| Answer {
                answer_type: "CNAME".to_owned(),
                hostname: Some(name.clone()),
                ttl,
                ..Answer::default()
            });
            let addresses = addresses.iter().map(|address| match address {
                IpAddr::V4(v4) => Answer {
                    answer_type: "A".to_owned(),
                    ipv4: Some(v4.to_string()),
                    ttl,
                    ..Answer::default()
                },
                IpAddr::V6(v6) => Answer {
                    answer_type: "AAAA".to_owned(),
                    ipv6: Some(v6.to_string()),
                    ttl,
                    ..Answer::default()
                },
            });
            names.chain(addresses).collect()
        }
        _ => Vec::new(),
    };
    Query {
        answers,
        engine: match (exchange.resolver, exchange.transport) {
            (ResolverKind::System, DnsTransport::Udp) => "system".to_owned(),
            (_, DnsTransport::Udp) => "udp".to_owned(),
            (_, DnsTransport::Tcp) => "tcp".to_owned(),
            (_, DnsTransport::Dot) => "dot".to_owned(),
            (_, DnsTransport::Doh) => "doh".to_owned(),
        },
        failure: query_failure(&exchange.outcome).map(str::to_owned),
        hostname: exchange.name.clone(),
        query_type: exchange.query.as_str().to_owned(),
        // A resolver in a private range is the host's own box.
        resolver_address: crate::address::require_public(exchange.server.ip())
            .is_ok()
            .then(|| exchange.server.to_string()),
        t: ended_secs(exchange.span),
    }
}

fn query_failure(outcome: &DnsOutcome) -> Option<&'static str> {
    match outcome {
        DnsOutcome::Answer { rcode: 0, addresses, .. } if !addresses.is_empty() => None,
        DnsOutcome::Answer { rcode: 0, .. } => Some("dns_no_answer"),
        DnsOutcome::Answer { rcode: 2, .. } => Some("dns_server_misbehaving"),
        DnsOutcome::Answer { rcode: 3, .. } => Some("dns_nxdomain_error"),
        DnsOutcome::Answer { rcode: 5, .. } => Some("dns_refused_error"),
        DnsOutcome::Timeout => Some(TIMEOUT),
        DnsOutcome::Answer { .. } | DnsOutcome::Failed(_) => Some(OTHER_FAILURE),
    }
}

pub(super) fn dns_failure(record: &ProbeRecord) -> Option<String> {
    let own = record.dns.iter().filter(|x| {
        x.resolver == ResolverKind::System && x.transport == DnsTransport::Udp && x.query != QueryType::Https
    });
    let failures: Vec<_> = own.map(|exchange| query_failure(&exchange.outcome)).collect();
    let all = !failures.is_empty() && failures.iter().all(Option::is_some);
    failures.into_iter().next().flatten().filter(|_| all).map(str::to_owned)
}

pub(super) fn main_attempts(record: &ProbeRecord) -> impl Iterator<Item = &TcpConnect> {
    record.tcp.iter().filter(|tcp| tcp.arm == Arm::Main)
}

pub(super) fn attempt(tcp: &TcpConnect) -> TcpAttempt {
    let failure = match tcp.outcome {
        TcpOutcome::Connected => None,
        TcpOutcome::Timeout => Some(TIMEOUT),
        TcpOutcome::Refused => Some("connection_refused"),
        TcpOutcome::Reset => Some("connection_reset"),
        TcpOutcome::Unreachable(101) => Some("network_unreachable"),
        TcpOutcome::Unreachable(_) => Some("host_unreachable"),
        TcpOutcome::Forbidden(_) | TcpOutcome::Failed(_) => Some(OTHER_FAILURE),
    };
    TcpAttempt {
        ip: tcp.address.ip().to_string(),
        port: tcp.address.port(),
        status: TcpStatus {
            blocked: None,
            failure: failure.map(str::to_owned),
            success: tcp.outcome == TcpOutcome::Connected,
        },
        t: ended_secs(tcp.span),
    }
}

pub(super) fn tls_failure(tls: &TlsHandshake) -> Option<&'static str> {
    match (&tls.outcome, &tls.chain_fault) {
        (TlsOutcome::Completed { .. }, Some(ChainFault::Valid)) => None,
        (TlsOutcome::Completed { .. }, Some(ChainFault::UnknownIssuer)) => Some("ssl_unknown_authority"),
        (TlsOutcome::Completed { .. }, Some(ChainFault::WrongName)) => Some("ssl_invalid_hostname"),
        (TlsOutcome::Completed { .. }, _) => Some("ssl_invalid_certificate"),
        (TlsOutcome::Timeout, _) => Some(TIMEOUT),
        (TlsOutcome::Reset, _) => Some("connection_reset"),
        (TlsOutcome::Eof, _) => Some("eof_error"),
        (TlsOutcome::Alert(_), _) => Some("ssl_failed_handshake"),
        (TlsOutcome::Protocol(_) | TlsOutcome::Failed(_), _) => Some(OTHER_FAILURE),
    }
}

fn handshake(tls: &TlsHandshake) -> Handshake {
    let (version, cipher_suite, alpn) = match &tls.outcome {
        TlsOutcome::Completed { version, cipher_suite, alpn } => {
            (version.replace('_', "."), cipher_suite.clone(), alpn.clone().unwrap_or_default())
        }
        _ => Default::default(),
    };
    let kept = tls.chain.iter().filter(|certificate| !certificate.der.is_empty());
    Handshake {
        address: Some(tls.address.to_string()),
        cipher_suite,
        failure: tls_failure(tls).map(str::to_owned),
        negotiated_protocol: alpn,
        no_tls_verify: false,
        peer_certificates: kept
            .map(|certificate| Binary {
                data: base64::engine::general_purpose::STANDARD.encode(&certificate.der),
                format: "base64".to_owned(),
            })
            .collect(),
        server_name: tls.sni.clone().unwrap_or_default(),
        t: ended_secs(tls.span),
        tls_version: version,
    }
}

/// The bytes of a handshake, as OONI writes them: between its start and its end.
fn events(tls: &TlsHandshake) -> Vec<NetworkEvent> {
    let event = |operation: &str, num_bytes: Option<u64>| NetworkEvent {
        address: None,
        failure: None,
        num_bytes,
        operation: operation.to_owned(),
        t: ended_secs(tls.span),
    };
    vec![
        NetworkEvent { address: Some(tls.address.to_string()), ..event("connect", None) },
        event("tls_handshake_start", None),
        event("write", Some(tls.bytes_sent)),
        event("read", Some(tls.bytes_received)),
        NetworkEvent { failure: tls_failure(tls).map(str::to_owned), ..event("tls_handshake_done", None) },
    ]
}

pub(super) fn http_failure(outcome: &HttpOutcome) -> Option<&'static str> {
    match outcome {
        HttpOutcome::Complete => None,
        HttpOutcome::Timeout => Some(TIMEOUT),
        HttpOutcome::Reset => Some("connection_reset"),
        HttpOutcome::Eof => Some("eof_error"),
        HttpOutcome::Protocol(_) | HttpOutcome::RedirectRefused(_) | HttpOutcome::Failed(_) => {
            Some(OTHER_FAILURE)
        }
    }
}

fn request(exchange: &HttpExchange, known: &BTreeSet<IpAddr>) -> Request {
    let headers: Vec<(String, Value)> = exchange
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(strike_out(value, known))))
        .collect();
    Request {
        address: Some(exchange.address.to_string()),
        failure: http_failure(&exchange.outcome).map(str::to_owned),
        request: asked(strike_out(exchange.url.as_str(), known)),
        response: Response {
            body: match exchange.excerpt.as_str() {
                "" => Value::Null,
                text => Value::from(strike_out(text, known)),
            },
            body_is_truncated: exchange.body_len > exchange.excerpt.len() as u64,
            code: exchange.status.map_or(0, i64::from),
            headers: headers.iter().cloned().collect(),
            headers_list: headers,
            x_body_length: Some(exchange.body_len),
            x_canary_found: exchange.canary_found,
            x_title: exchange.title.as_deref().map(|title| strike_out(title, known)),
        },
        t: ended_secs(exchange.span),
    }
}

/// A visit that never reached HTTP: OONI's requests say so too.
pub(super) fn failed_request(record: &ProbeRecord) -> Request {
    let tls = record.tls.iter().rfind(|tls| tls.arm == Arm::Main).and_then(tls_failure);
    let tcp = || main_attempts(record).last().and_then(|tcp| attempt(tcp).status.failure);
    Request {
        failure: tls
            .map(str::to_owned)
            .or_else(tcp)
            .or_else(|| dns_failure(record))
            .or_else(|| Some(OTHER_FAILURE.to_owned())),
        request: asked(record.url.as_str().to_owned()),
        ..Request::default()
    }
}

fn asked(url: String) -> Asked {
    Asked { method: "GET".to_owned(), url, x_transport: "tcp".to_owned() }
}
