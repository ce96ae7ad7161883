//! What OONI's test helper saw, as a control's record.

use std::net::{IpAddr, SocketAddr};

use super::facts::NOWHERE;
use super::format::{Control, ControlFetch, Measurement};
use super::pages::http_failure;
use crate::record::{
    Arm, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, HttpExchange, HttpOutcome,
    ProbeRecord, QueryType, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};
use crate::target::Sha256;

/// The helper's view of the same input; `None` if it did not answer. OONI does not say where the helper's redirects
/// ended: its page counts as the input's own.
pub(super) fn control_record(measurement: &Measurement, record: &ProbeRecord) -> Option<ProbeRecord> {
    let keys = &measurement.test_keys;
    if keys.control_failure.is_some() {
        return None;
    }
    let control = keys.control.as_ref()?;
    let tcp = attempts(control);
    let connected = tcp.iter().find(|tcp| tcp.outcome == TcpOutcome::Connected);
    let address = connected.map_or(SocketAddr::new(NOWHERE.ip(), record.url.port()), |tcp| tcp.address);
    let exchange = fetch(&control.http_request, record, address);
    let mut tls = handshakes(control);
    let fetched = exchange.as_ref().is_some_and(|exchange| exchange.outcome == HttpOutcome::Complete);
    if record.url.is_https() && fetched {
        // The helper's client accepts no bad certificate.
        tls.push(completed(address, record.url.host()));
    }
    Some(ProbeRecord {
        agent_version: "OONI test helper".to_owned(),
        dns: control.dns.failure.is_none().then(|| answers(control, record)).into_iter().collect(),
        tcp,
        tls,
        http: exchange.into_iter().collect(),
        ..record.clone()
    })
}

/// Whether the helper said anything of a fetch.
fn fetch(fetch: &ControlFetch, record: &ProbeRecord, address: SocketAddr) -> Option<HttpExchange> {
    let status = u16::try_from(fetch.status_code).ok().filter(|code| *code > 0);
    if status.is_none() && fetch.failure.is_none() {
        return None;
    }
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    Some(HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url: record.url.clone(),
        address,
        protocol: "h1".to_owned(),
        span: Span::default(),
        last_byte_micros: None,
        status,
        headers: fetch
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), text(value)?)))
            .collect(),
        body_len: u64::try_from(fetch.body_length).unwrap_or_default(),
        body_sha256: Sha256::default(),
        title: fetch.title.as_deref().map(str::trim).filter(|title| !title.is_empty()).map(str::to_owned),
        canary_found: fetch.x_canary_found,
        excerpt: String::new(),
        outcome: fetch.failure.as_deref().map_or(HttpOutcome::Complete, http_failure),
    })
}

fn answers(control: &Control, record: &ProbeRecord) -> DnsExchange {
    // Names of a CNAME chain stand among the addresses.
    let addresses: Vec<IpAddr> = control.dns.addrs.iter().filter_map(|text| text.parse().ok()).collect();
    DnsExchange {
        detail: DnsDetail::default(),
        resolver: ResolverKind::Public,
        server: NOWHERE,
        transport: DnsTransport::Udp,
        others: Vec::new(),
        name: record.url.host(),
        query: QueryType::A,
        span: Span::default(),
        outcome: DnsOutcome::Answer { rcode: 0, addresses, cnames: Vec::new(), ttl_min_secs: 0 },
    }
}

fn attempts(control: &Control) -> Vec<TcpConnect> {
    let attempts = control.tcp_connect.iter();
    attempts
        .filter_map(|(address, attempt)| {
            let failure = attempt.failure.as_deref().unwrap_or("unstated");
            Some(TcpConnect {
                transport: None,
                arm: Arm::Main,
                address: address.parse().ok()?,
                span: Span::default(),
                outcome: match attempt.status {
                    true => TcpOutcome::Connected,
                    false if failure.contains("timeout") => TcpOutcome::Timeout,
                    false => TcpOutcome::Failed(failure.to_owned()),
                },
            })
        })
        .collect()
}

fn handshakes(control: &Control) -> Vec<TlsHandshake> {
    let handshakes = control.tls_handshake.iter().filter(|(_, handshake)| handshake.status);
    handshakes
        .filter_map(|(address, handshake)| {
            Some(completed(address.parse().ok()?, handshake.server_name.to_ascii_lowercase()))
        })
        .collect()
}

fn completed(address: SocketAddr, name: String) -> TlsHandshake {
    TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm: Arm::Main,
        address,
        sni: Some(name),
        span: Span::default(),
        bytes_sent: 0,
        bytes_received: 0,
        outcome: TlsOutcome::Completed { version: String::new(), cipher_suite: String::new(), alpn: None },
        chain: Vec::new(),
        chain_fault: Some(ChainFault::Valid),
    }
}
