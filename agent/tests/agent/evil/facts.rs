//! A record as short lines, one a step, so that a test can say in a line what must stand in it.

use zerkalo_core::record::{
    Arm, DnsExchange, DnsOutcome, DnsTransport, HttpExchange, HttpOutcome, ProbeRecord, QuicHandshake,
    QuicOutcome, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};

/// All steps of a record, as lines.
pub fn facts(record: &ProbeRecord) -> Vec<String> {
    let mut lines: Vec<String> = record.dns.iter().map(dns).collect();
    lines.extend(record.tcp.iter().map(tcp));
    lines.extend(record.tls.iter().map(tls));
    lines.extend(record.http.iter().map(http));
    lines.extend(record.quic.iter().map(quic));
    lines
}

/// Whether `line` reads as `pattern`, in which a star stands for anything.
pub fn reads_as(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    for part in &parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || parts.last().is_some_and(|last| last.is_empty() || line.ends_with(last))
}

fn dns(step: &DnsExchange) -> String {
    let query = step.query.as_str();
    let by = match step.transport {
        DnsTransport::Udp => String::new(),
        other => format!(" by {}", other.as_str()),
    };
    let outcome = match &step.outcome {
        DnsOutcome::Answer { rcode, addresses, cnames, .. } => format!(
            "rcode {rcode}, {} addresses, {} aliases, {} others",
            addresses.len(),
            cnames.len(),
            step.others.len()
        ),
        DnsOutcome::Timeout => format!("timeout, {} others", step.others.len()),
        DnsOutcome::Failed(why) => format!("failed: {why}"),
    };
    format!("dns {query}{by}: {outcome}")
}

fn tcp(step: &TcpConnect) -> String {
    let outcome = match &step.outcome {
        TcpOutcome::Connected => "connected".to_owned(),
        TcpOutcome::Forbidden(range) => format!("forbidden, {range}"),
        outcome => format!("{outcome:?}"),
    };
    format!("tcp{}: {outcome}", arm(step.arm))
}

fn tls(step: &TlsHandshake) -> String {
    let outcome = match &step.outcome {
        TlsOutcome::Completed { version, alpn, .. } => {
            let alpn = alpn.as_deref().unwrap_or("no ALPN");
            format!("completed, {version}, {alpn}")
        }
        TlsOutcome::Timeout => "timeout".to_owned(),
        TlsOutcome::Reset => "reset".to_owned(),
        TlsOutcome::Eof => "closed".to_owned(),
        TlsOutcome::Alert(name) => format!("alert {name}"),
        TlsOutcome::Protocol(why) => format!("no TLS, {why}"),
        TlsOutcome::Failed(why) => format!("failed: {why}"),
    };
    let chain = match &step.chain_fault {
        Some(fault) => format!("; chain of {}, {fault:?}", step.chain.len()),
        None => String::new(),
    };
    format!("tls{}: {outcome}{chain}", arm(step.arm))
}

fn http(step: &HttpExchange) -> String {
    let status = step.status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
    let outcome = match &step.outcome {
        HttpOutcome::Complete => "complete".to_owned(),
        HttpOutcome::Timeout => "stalled".to_owned(),
        HttpOutcome::Reset => "reset".to_owned(),
        HttpOutcome::Eof => "closed".to_owned(),
        HttpOutcome::Protocol(why) => format!("no HTTP, {why}"),
        HttpOutcome::RedirectRefused(why) => format!("redirect refused, {why}"),
        HttpOutcome::Failed(why) => format!("failed: {why}"),
    };
    format!("{}{}: {status}, {} bytes, {outcome}", step.protocol, arm(step.arm), step.body_len)
}

fn quic(step: &QuicHandshake) -> String {
    let outcome = match &step.outcome {
        QuicOutcome::Completed { alpn } => {
            format!("completed, {}", alpn.as_deref().unwrap_or("no ALPN"))
        }
        QuicOutcome::Timeout => "timeout".to_owned(),
        QuicOutcome::Refused => "refused".to_owned(),
        QuicOutcome::Closed(why) => format!("closed, {why}"),
        QuicOutcome::Failed(why) => format!("failed: {why}"),
    };
    format!("quic{}: {outcome}", arm(step.arm))
}

fn arm(arm: Arm) -> String {
    if arm == Arm::Main { String::new() } else { format!(" ({arm:?})") }
}

#[test]
fn a_pattern_matches_whole_lines_only() {
    let check = |line: &str, pattern: &str, expected| assert_eq!(reads_as(line, pattern), expected, "{line}");
    check("tls: timeout", "tls: timeout", true);
    check("tls: timeout", "tls: time", false);
    check("tls: timeout; chain", "tls: timeout", false);
    check("tls: no TLS, because of this", "tls: no TLS, *", true);
    check("h1: 200, 5 bytes, complete", "h1: 200, * bytes, complete", true);
    check("h1: 200, 5 bytes, complete", "h1: 200, * bytes, reset", false);
    check("h1: 200, 5 bytes, complete", "h2*", false);
}
