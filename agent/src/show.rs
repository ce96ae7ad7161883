//! A record for human eyes: the steps as a tree in order of time, with timings. Draws no conclusion either.

use std::fmt::Write;

use owo_colors::OwoColorize;
use zerkalo_core::goodput::goodput;
use zerkalo_core::hops::answering_hop;
use zerkalo_core::record::{
    Arm, DnsExchange, DnsOtherAnswer, DnsOutcome, DnsTransport, HttpExchange, HttpOutcome, HttpsService,
    Ipv6Health, NetworkCheck, ProbeRecord, QueryType, QuicHandshake, QuicOutcome, ReferenceCheck,
    ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake, TlsOutcome,
};
use zerkalo_core::target::ReferenceSide;

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    On,
    Off,
}

/// A clock that is off by more is shown as odd, in ms: `Date` has a grain of a second.
const CLOCK_OFF_MILLIS: u64 = 2_000;

/// How a line is meant.
#[derive(Debug, Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Odd,
}

/// One step of the tree.
#[derive(Debug)]
struct Line {
    depth: usize,
    span: Span,
    what: String,
    tone: Tone,
    outcome: String,
    details: Vec<String>,
}

/// The record as a step tree.
pub fn tree(record: &ProbeRecord, colours: Colours) -> String {
    let mut lines: Vec<Line> = record.dns.iter().map(dns_line).collect();
    lines.extend(record.tcp.iter().map(tcp_line));
    lines.extend(record.tls.iter().map(tls_line));
    lines.extend(record.http.iter().map(http_line));
    lines.extend(record.quic.iter().map(quic_line));
    // Stable: what began at once stays in the order of the record.
    lines.sort_by_key(|line| line.span.start_micros);
    let url = match colours {
        Colours::On => record.url.as_str().bold().to_string(),
        Colours::Off => record.url.to_string(),
    };
    let mut text = format!("{url}  {}  {}\n", record.started_at, duration_text(record.duration_micros));
    lines.iter().for_each(|line| write_line(&mut text, line, colours));
    write_hops(&mut text, record, colours);
    record.references.iter().for_each(|check| write_reference(&mut text, check, colours));
    record.network.iter().for_each(|check| write_network(&mut text, check, colours));
    if let Some(clock) = &record.clock {
        let told = match clock.error_millis {
            Some(error) => toned(&format!("off by {error} ms at most"), Tone::Good, colours),
            None => toned("nobody told the time yet", Tone::Odd, colours),
        };
        let up = duration_text(clock.monotonic_millis.saturating_mul(1_000));
        let _ = writeln!(text, "{:20} - clock, {up} after boot {}  {told}", "", hex::encode(clock.boot));
    }
    text
}

fn write_line(text: &mut String, line: &Line, colours: Colours) {
    let timing = format!(
        "{:>9} +{:<9}",
        duration_text(line.span.start_micros),
        duration_text(line.span.duration_micros)
    );
    let timing = match colours {
        Colours::On => timing.dimmed().to_string(),
        Colours::Off => timing,
    };
    let (indent, what) = ("  ".repeat(line.depth), printable(&line.what));
    let outcome = toned(&line.outcome, line.tone, colours);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{timing} {indent}- {what}  {outcome}");
    for detail in &line.details {
        let _ = writeln!(text, "{:20} {indent}    {}", "", printable(detail));
    }
}

fn write_hops(text: &mut String, record: &ProbeRecord, colours: Colours) {
    let Some(last) = record.hops.last() else { return };
    for probe in &record.hops {
        let outcome = match &probe.outcome {
            TlsOutcome::Timeout => toned("no answer", Tone::Odd, colours),
            TlsOutcome::Completed { .. } => toned("completed", Tone::Good, colours),
            TlsOutcome::Failed(reason) => toned(&format!("failed: {reason}"), Tone::Odd, colours),
            other => toned(&format!("{other:?}"), Tone::Bad, colours),
        };
        let _ =
            writeln!(text, "{:20} - {} as far as hop {}  {outcome}", "", printable(&probe.sni), probe.ttl);
    }
    let told = match answering_hop(&record.hops, &record.url.host()) {
        Some(found) => found.to_string(),
        None => format!("nobody answers the name within {} hops", last.ttl),
    };
    let _ = writeln!(text, "{:20}   {}", "", printable(&told));
}

fn write_reference(text: &mut String, check: &ReferenceCheck, colours: Colours) {
    let side = match check.side {
        ReferenceSide::Domestic => "domestic",
        ReferenceSide::Foreign => "foreign",
    };
    let outcome = match &check.failure {
        None => toned("reached", Tone::Good, colours),
        Some(failure) => toned(failure, Tone::Bad, colours),
    };
    let _ = writeln!(text, "{:20} - {side} reference {}  {outcome}", "", check.url);
}

fn write_network(text: &mut String, check: &NetworkCheck, colours: Colours) {
    let mut write = |what: &str, tone, outcome: &str| {
        let _ = writeln!(text, "{:20} - {what}  {}", "", toned(outcome, tone, colours));
    };
    if check.is_offline {
        write("network", Tone::Bad, "this host knows no way out");
    }
    if let Some(host) = &check.captive_host {
        write("captive portal", Tone::Bad, host);
    }
    match check.ipv6 {
        Ipv6Health::Unknown => {}
        Ipv6Health::Absent => write("IPv6", Tone::Odd, "absent"),
        Ipv6Health::Broken => write("IPv6", Tone::Bad, "broken"),
        Ipv6Health::Works => write("IPv6", Tone::Good, "works"),
    }
    if !check.resolver_identity.is_empty() {
        write("resolver asks as", Tone::Good, &check.resolver_identity.join(" "));
    }
    if let Some(millis) = check.clock_ahead_millis {
        let is_well = millis.unsigned_abs() < CLOCK_OFF_MILLIS;
        let sign = if millis < 0 { "-" } else { "+" };
        let off = format!("{sign}{}.{} s", millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000 / 100);
        write("clock", if is_well { Tone::Good } else { Tone::Odd }, &off);
    }
    if let Some(signer) = &check.host_interference {
        write("TLS broken open on this host", Tone::Bad, signer);
    }
}

fn toned(text: &str, tone: Tone, colours: Colours) -> String {
    let text = printable(text);
    match (colours, tone) {
        (Colours::Off, _) => text,
        (Colours::On, Tone::Good) => text.green().to_string(),
        (Colours::On, Tone::Bad) => text.red().to_string(),
        (Colours::On, Tone::Odd) => text.yellow().to_string(),
    }
}

fn line(depth: usize, span: Span, what: String, (tone, outcome): (Tone, String)) -> Line {
    Line { depth, span, what, tone, outcome, details: Vec::new() }
}

fn dns_line(step: &DnsExchange) -> Line {
    let resolver = match step.resolver {
        ResolverKind::System => "system",
        ResolverKind::Public => "public",
        ResolverKind::Nobody => "nobody's",
    };
    let query = step.query.as_str();
    let by = match step.transport {
        DnsTransport::Udp => String::new(),
        other => format!(" by {}", other.as_str()),
    };
    let what = format!("dns {query} {} @ {resolver} {}{by}", step.name, step.server);
    let mut details: Vec<String> = step.detail.services.iter().map(service_text).collect();
    details.extend(detail_text(step));
    details.extend(step.others.iter().map(other_answer_text));
    let outcome = match &step.outcome {
        DnsOutcome::Answer { rcode: 0, .. } if step.query == QueryType::Https => {
            (Tone::Good, format!("{} service(s)", step.detail.services.len()))
        }
        outcome => dns_text(outcome),
    };
    Line { details, ..line(0, step.span, what, outcome) }
}

/// The flags of an answer, and the payload it announces.
fn detail_text(step: &DnsExchange) -> Option<String> {
    let (detail, DnsOutcome::Answer { .. }) = (&step.detail, &step.outcome) else { return None };
    let payload = detail.edns_payload_len.map_or("no EDNS".to_owned(), |len| format!("EDNS {len}"));
    let flags = [
        (detail.is_authoritative, "authoritative"),
        (detail.is_recursion_available, "recursive"),
        (detail.is_authenticated, "authenticated"),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| format!(", {name}"));
    Some(format!("answer {:04x}, {payload}{}", detail.message_id, flags.collect::<String>()))
}

fn service_text(service: &HttpsService) -> String {
    let target = if service.target.is_empty() { "." } else { &service.target };
    let mut text = format!("service {} {target}", service.priority);
    if !service.alpn.is_empty() {
        text.push_str(&format!(" alpn {}", service.alpn.join(",")));
    }
    if !service.hints.is_empty() {
        let hints: Vec<String> = service.hints.iter().map(ToString::to_string).collect();
        text.push_str(&format!(" hints {}", hints.join(",")));
    }
    if !service.ech_config.is_empty() {
        text.push_str(&format!(" ECH {} bytes", service.ech_config.len()));
    }
    text
}

fn other_answer_text(other: &DnsOtherAnswer) -> String {
    let stray = if other.matches_question { "" } else { " (stray)" };
    let outcome = DnsOutcome::Answer {
        rcode: other.rcode,
        addresses: other.addresses.clone(),
        cnames: Vec::new(),
        ttl_min_secs: other.ttl_min_secs,
    };
    format!("also answered at {}: {}{stray}", duration_text(other.arrived_micros), dns_text(&outcome).1)
}

fn tcp_line(step: &TcpConnect) -> Line {
    line(0, step.span, format!("tcp {}{}", step.address, arm_text(step.arm)), tcp_text(&step.outcome))
}

fn tls_line(step: &TlsHandshake) -> Line {
    let what = format!("tls {}", step.sni.as_deref().unwrap_or("(no name)"));
    let mut details: Vec<String> = step
        .chain
        .iter()
        .map(|certificate| format!("{} <- {}", certificate.subject, certificate.issuer))
        .collect();
    if let (TlsOutcome::Timeout | TlsOutcome::Reset | TlsOutcome::Eof, Some(transport)) =
        (&step.outcome, step.transport)
    {
        let (acked, retransmits) = (transport.bytes_acked.min(step.hello_len), transport.retransmits);
        details.push(format!(
            "{} hello of {} bytes, {acked} acknowledged, {retransmits} retransmits",
            step.hello_shape, step.hello_len
        ));
    }
    Line { details, ..line(1, step.span, what, tls_text(step)) }
}

fn http_line(step: &HttpExchange) -> Line {
    let status = step.status.map_or("no status".to_owned(), |status| status.to_string());
    let (tone, end) = match &step.outcome {
        HttpOutcome::Complete => (Tone::Good, "complete".to_owned()),
        HttpOutcome::Timeout => (Tone::Bad, "stalled there".to_owned()),
        HttpOutcome::Reset => (Tone::Bad, "reset".to_owned()),
        HttpOutcome::Eof => (Tone::Bad, "closed before the end".to_owned()),
        HttpOutcome::Protocol(reason) => (Tone::Bad, format!("not HTTP: {reason}")),
        HttpOutcome::RedirectRefused(reason) => (Tone::Odd, format!("redirect not followed: {reason}")),
        HttpOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
    };
    let mut details = Vec::new();
    if let Some(title) = &step.title {
        details.push(format!("title: {title}"));
    }
    match step.canary_found {
        Some(true) => details.push("canary found".to_owned()),
        Some(false) => details.push("canary NOT found".to_owned()),
        None => {}
    }
    let depth = if step.url.is_https() { 2 } else { 1 };
    if let (Arm::LargePage | Arm::ReferenceObject, Some(speed)) = (step.arm, goodput(step)) {
        details.push(format!("at {speed}"));
    }
    let what = format!("{} GET {}{}", step.protocol, step.url, arm_text(step.arm));
    let outcome = (tone, format!("{status}, {} bytes, {end}", step.body_len));
    Line { details, ..line(depth, step.span, what, outcome) }
}

fn quic_line(step: &QuicHandshake) -> Line {
    let outcome = match &step.outcome {
        QuicOutcome::Completed { alpn } => {
            (Tone::Good, format!("completed ({})", alpn.as_deref().unwrap_or("no ALPN")))
        }
        QuicOutcome::Timeout => (Tone::Bad, format!("timeout, {} bytes received", step.bytes_received)),
        QuicOutcome::Refused => (Tone::Bad, "refused".to_owned()),
        QuicOutcome::Closed(reason) => (Tone::Bad, format!("closed: {reason}")),
        QuicOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
    };
    line(0, step.span, format!("quic {} {}", step.address, step.sni), outcome)
}

/// Hostile text must not drive the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if drives_terminals(c) { ' ' } else { c }).collect()
}

/// Control characters, those of one byte and of two, and what turns the direction of all text after it.
fn drives_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON that says the same, with escapes where JSON itself asks for none and a terminal would obey.
pub fn harmless_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if drives_terminals(c) && c != '\n' {
            // All of them lie in the basic plane, and only within strings.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

fn duration_text(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} us"),
        1_000..=999_999 => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
    }
}

fn arm_text(arm: Arm) -> &'static str {
    match arm {
        Arm::Main => "",
        Arm::OtherResolver => " (other resolver's address)",
        Arm::NeutralSni => " (neutral name)",
        Arm::OtherHello => " (other hello)",
        Arm::NeutralFirst => " (neutral name, first)",
        Arm::EachAddress => " (each address)",
        Arm::FieldAddress => " (field's address)",
        Arm::OtherPort => " (other port)",
        Arm::ControlAddress => " (control address)",
        Arm::EchGrease => " (ECH GREASE)",
        Arm::EchReal => " (ECH)",
        Arm::FreshTuple => " (again)",
        Arm::LargePage => " (large page)",
        Arm::ReferenceObject => " (reference object)",
        Arm::Http3 => " (HTTP/3)",
    }
}

fn dns_text(outcome: &DnsOutcome) -> (Tone, String) {
    match outcome {
        DnsOutcome::Answer { rcode: 0, addresses, .. } if addresses.is_empty() => {
            (Tone::Odd, "no address".to_owned())
        }
        DnsOutcome::Answer { rcode: 0, addresses, .. } => {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (Tone::Good, texts.join(" "))
        }
        DnsOutcome::Answer { rcode, .. } => (Tone::Bad, rcode_text(*rcode)),
        DnsOutcome::Timeout => (Tone::Bad, "timeout".to_owned()),
        DnsOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
    }
}

fn rcode_text(rcode: u16) -> String {
    match rcode {
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("rcode {other}"),
    }
}

fn tcp_text(outcome: &TcpOutcome) -> (Tone, String) {
    match outcome {
        TcpOutcome::Connected => (Tone::Good, "connected".to_owned()),
        TcpOutcome::Timeout => (Tone::Bad, "timeout".to_owned()),
        TcpOutcome::Refused => (Tone::Bad, "refused".to_owned()),
        TcpOutcome::Reset => (Tone::Bad, "reset".to_owned()),
        TcpOutcome::Unreachable(errno) => (Tone::Bad, format!("unreachable (errno {errno})")),
        TcpOutcome::Forbidden(range) => (Tone::Odd, format!("not tried: {range}")),
        TcpOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
    }
}

fn tls_text(step: &TlsHandshake) -> (Tone, String) {
    let received = step.bytes_received;
    match &step.outcome {
        TlsOutcome::Completed { version, cipher_suite, alpn } => {
            let alpn = alpn.as_deref().unwrap_or("no ALPN");
            let fault = step.chain_fault.as_ref().map_or("no chain".to_owned(), |fault| format!("{fault:?}"));
            let is_valid = crate::probe::tls::is_trusted(step);
            let tone = if is_valid { Tone::Good } else { Tone::Bad };
            (tone, format!("{version} {cipher_suite} {alpn}, chain: {fault}"))
        }
        TlsOutcome::Timeout => (Tone::Bad, format!("timeout, {received} bytes received")),
        TlsOutcome::Reset => (Tone::Bad, format!("reset, {received} bytes received")),
        TlsOutcome::Eof => (Tone::Bad, format!("closed, {received} bytes received")),
        TlsOutcome::Alert(name) => (Tone::Bad, format!("alert {name}")),
        TlsOutcome::Protocol(reason) => (Tone::Bad, format!("not TLS: {reason}")),
        TlsOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_cannot_drive_the_terminal() {
        let title = toned("\u{1b}]0;owned\u{7}\u{9b}2J\r\nx", Tone::Bad, Colours::Off);
        assert!(!title.chars().any(char::is_control), "{title:?}");
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a b c");
    }

    #[test]
    fn harmless_json_says_the_same() {
        let (value, json) = ("ж\u{9b}2J\u{202e}\u{7f}\n", harmless_json);
        let text = json(&serde_json::to_string_pretty(&[value]).unwrap());
        assert!(text.chars().all(|c| c == '\n' || !drives_terminals(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [value]);
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let check = |micros, text| assert_eq!(duration_text(micros), text);
        check(999, "999 us");
        check(1_250, "1.2 ms");
        check(8_004_000, "8.00 s");
    }
}
