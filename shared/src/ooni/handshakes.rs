//! TLS handshakes of a measurement: written down, traced by events, or read off the requests.

use std::net::SocketAddr;

use super::facts::{Import, NOWHERE, ReadCertificate, ended};
use super::format::{Handshake, Measurement, NetworkEvent};
use super::pages::bytes_of;
use crate::record::{Arm, ChainFault, Ech, Span, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome};
use crate::target::TargetUrl;

/// The probe of before 2020 whose HTTPS client accepted any certificate.
const UNVERIFYING_SOFTWARE: &str = "ooniprobe";

pub(super) fn handshakes(
    measurement: &Measurement,
    tcp: &[TcpConnect],
    read: ReadCertificate,
) -> Vec<TlsHandshake> {
    let keys = &measurement.test_keys;
    let connected = tcp.iter().find(|tcp| tcp.outcome == TcpOutcome::Connected).map(|tcp| tcp.address);
    let traced = traced(&keys.network_events.entries);
    let whole_trace = traced.len() == keys.tls_handshakes.entries.len();
    let handshakes = keys.tls_handshakes.entries.iter().enumerate();
    handshakes
        .map(|(place, handshake)| {
            let trace = traced.get(place).filter(|_| whole_trace).copied().unwrap_or_default();
            let stated = handshake.address.as_deref().and_then(|text| text.parse().ok());
            let address = stated.or(trace.address).or(connected).unwrap_or(NOWHERE);
            tls_handshake(handshake, address, trace, read)
        })
        .collect()
}

/// What the events say of one handshake.
#[derive(Debug, Clone, Copy, Default)]
struct Trace {
    address: Option<SocketAddr>,
    sent: u64,
    received: u64,
}

/// The handshakes among the events, in order. Parallel ones cannot be told apart and spoil only the byte counts.
fn traced(events: &[NetworkEvent]) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    let (mut connected, mut open) = (None, false);
    for event in events {
        let bytes = event.num_bytes.unwrap_or_default();
        match (event.operation.as_str(), traces.last_mut()) {
            ("connect", _) if event.failure.is_none() => {
                connected = event.address.as_deref().and_then(|text| text.parse().ok());
            }
            ("tls_handshake_start", _) => {
                traces.push(Trace { address: connected, ..Trace::default() });
                open = true;
            }
            ("tls_handshake_done", _) => open = false,
            ("write", Some(trace)) if open => trace.sent += bytes,
            ("read", Some(trace)) if open => trace.received += bytes,
            _ => {}
        }
    }
    traces
}

fn tls_handshake(
    handshake: &Handshake,
    address: SocketAddr,
    trace: Trace,
    read: ReadCertificate,
) -> TlsHandshake {
    let certificates = handshake.peer_certificates.iter();
    let (outcome, fault) = match handshake.failure.as_deref() {
        None => {
            let version = handshake.tls_version.replace('.', "_");
            let alpn = Some(handshake.negotiated_protocol.clone()).filter(|alpn| !alpn.is_empty());
            let cipher_suite = handshake.cipher_suite.clone();
            let fault = (!handshake.no_tls_verify).then_some(ChainFault::Valid);
            (TlsOutcome::Completed { version, cipher_suite, alpn }, fault)
        }
        Some(failure) => tls_failure(failure),
    };
    TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm: Arm::Main,
        address,
        sni: Some(handshake.server_name.to_ascii_lowercase()).filter(|name| !name.is_empty()),
        span: ended(handshake.t),
        bytes_sent: trace.sent,
        bytes_received: trace.received,
        outcome,
        chain: certificates.filter_map(|certificate| Some(read(&bytes_of(certificate)?))).collect(),
        chain_fault: fault,
    }
}

/// How a handshake failed, and what the client thought of the chain. Go's client ends the handshake itself over a chain
/// it does not accept.
fn tls_failure(failure: &str) -> (TlsOutcome, Option<ChainFault>) {
    let fault = match failure {
        "ssl_unknown_authority" => Some(ChainFault::UnknownIssuer),
        "ssl_invalid_hostname" => Some(ChainFault::WrongName),
        failure if is_certificate_failure(failure) => Some(ChainFault::Other(failure.to_owned())),
        _ => None,
    };
    let outcome = match failure {
        "connection_reset" => TlsOutcome::Reset,
        "eof_error" | "connection_aborted" => TlsOutcome::Eof,
        failure if failure.contains("timeout") => TlsOutcome::Timeout,
        failure => TlsOutcome::Failed(failure.to_owned()),
    };
    (outcome, fault)
}

/// Whether a failure is the client's judgement of a certificate.
pub(super) fn is_certificate_failure(failure: &str) -> bool {
    matches!(failure, "ssl_invalid_certificate" | "ssl_unknown_authority" | "ssl_invalid_hostname")
        || failure.contains("certificate verify failed")
}

/// Not every probe wrote every handshake. A verified fetch had one, and a refused certificate says so too.
pub(super) fn derive_handshakes(import: &mut Import, measurement: &Measurement) {
    let verifies = measurement.software_name != UNVERIFYING_SOFTWARE;
    let step = |url: &TargetUrl, address, outcome, fault| TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm: Arm::Main,
        address,
        sni: Some(url.host()),
        span: Span::default(),
        bytes_sent: 0,
        bytes_received: 0,
        outcome,
        chain: Vec::new(),
        chain_fault: fault,
    };
    let is_written = |url: &TargetUrl| {
        let host = url.host();
        import.record.tls.iter().any(|tls| tls.sni.as_ref().is_none_or(|sni| *sni == host))
    };
    let mut derived = Vec::new();
    for exchange in import.record.http.iter().filter(|x| x.url.is_https() && !is_written(&x.url)) {
        let unstated = String::new();
        let outcome = TlsOutcome::Completed { version: unstated.clone(), cipher_suite: unstated, alpn: None };
        derived.push(step(&exchange.url, exchange.address, outcome, verifies.then_some(ChainFault::Valid)));
    }
    for (url, failure) in import.unanswered.iter().filter(|(url, failure)| {
        let refused = failure.starts_with("ssl_") || is_certificate_failure(failure);
        url.is_https() && refused && !is_written(url)
    }) {
        let (outcome, fault) = tls_failure(failure);
        derived.push(step(url, NOWHERE, outcome, fault));
    }
    if !derived.is_empty() {
        let what = "not every handshake; that TLS was verified, or why it failed, is read off the requests";
        import.missing.push(what.to_owned());
    }
    import.record.tls.extend(derived);
}
