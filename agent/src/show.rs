//! A record for human eyes: the steps as a tree, with timings. Draws no conclusion either.

use std::fmt::Write;

use owo_colors::OwoColorize;
use zerkalo_core::record::{
    Arm, DnsOutcome, HttpExchange, HttpOutcome, ProbeRecord, QuicOutcome, ResolverKind, Span, TcpOutcome,
    TlsHandshake, TlsOutcome,
};

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    On,
    Off,
}

/// How a line is meant.
#[derive(Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Odd,
}

/// The record as a step tree.
pub fn tree(record: &ProbeRecord, colours: Colours) -> String {
    let mut tree = Tree { text: String::new(), colours };
    tree.head(record);
    for step in &record.dns {
        let resolver = match step.resolver {
            ResolverKind::System => "system",
            ResolverKind::Public => "public",
        };
        let (tone, outcome) = dns_text(&step.outcome);
        tree.line(
            1,
            step.span,
            tone,
            &format!("dns {:?} {} @ {resolver} {}", step.query, step.name, step.server),
            &outcome,
        );
    }
    for step in &record.tcp {
        let (tone, outcome) = tcp_text(&step.outcome);
        tree.line(1, step.span, tone, &format!("tcp {}{}", step.address, arm_text(step.arm)), &outcome);
        for tls in record.tls.iter().filter(|tls| tls.address == step.address && tls.arm == step.arm) {
            tree.tls(tls);
        }
    }
    for step in &record.http {
        tree.http(step);
    }
    for step in &record.quic {
        let (tone, outcome) = match &step.outcome {
            QuicOutcome::Completed { alpn } => {
                (Tone::Good, format!("completed ({})", alpn.as_deref().unwrap_or("no ALPN")))
            }
            QuicOutcome::Timeout => (Tone::Bad, format!("timeout, {} bytes received", step.bytes_received)),
            QuicOutcome::Refused => (Tone::Bad, "refused".to_owned()),
            QuicOutcome::Closed(reason) => (Tone::Bad, format!("closed: {reason}")),
            QuicOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
        };
        tree.line(1, step.span, tone, &format!("quic {} {}", step.address, step.sni), &outcome);
    }
    tree.text
}

struct Tree {
    text: String,
    colours: Colours,
}

impl Tree {
    fn head(&mut self, record: &ProbeRecord) {
        let url = match self.colours {
            Colours::On => record.url.as_str().bold().to_string(),
            Colours::Off => record.url.to_string(),
        };
        // Writing to a String cannot fail.
        let _ =
            writeln!(self.text, "{url}  {}  {}", record.started_at, duration_text(record.duration_micros));
    }

    fn line(&mut self, depth: usize, span: Span, tone: Tone, what: &str, outcome: &str) {
        let outcome = match (self.colours, tone) {
            (Colours::Off, _) => printable(outcome),
            (Colours::On, Tone::Good) => printable(outcome).green().to_string(),
            (Colours::On, Tone::Bad) => printable(outcome).red().to_string(),
            (Colours::On, Tone::Odd) => printable(outcome).yellow().to_string(),
        };
        let timing =
            format!("{:>9} +{:<9}", duration_text(span.start_micros), duration_text(span.duration_micros));
        let timing = match self.colours {
            Colours::On => timing.dimmed().to_string(),
            Colours::Off => timing,
        };
        let _ = writeln!(self.text, "{timing} {}- {}  {outcome}", "  ".repeat(depth), printable(what));
    }

    fn detail(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.text, "{:20} {}  {}", "", "  ".repeat(depth), printable(text));
    }

    fn tls(&mut self, step: &TlsHandshake) {
        let (tone, outcome) = tls_text(step);
        let name = step.sni.as_deref().unwrap_or("(no name)");
        self.line(2, step.span, tone, &format!("tls {name}"), &outcome);
        for certificate in &step.chain {
            self.detail(2, &format!("{} <- {}", certificate.subject, certificate.issuer));
        }
    }

    fn http(&mut self, step: &HttpExchange) {
        let status = step.status.map_or("no status".to_owned(), |status| status.to_string());
        let (tone, end) = match &step.outcome {
            HttpOutcome::Complete => (Tone::Good, "complete".to_owned()),
            HttpOutcome::Timeout => (Tone::Bad, format!("stalled at byte {}", step.body_len)),
            HttpOutcome::Reset => (Tone::Bad, "reset".to_owned()),
            HttpOutcome::Eof => (Tone::Bad, "closed before the end".to_owned()),
            HttpOutcome::Protocol(reason) => (Tone::Bad, format!("not HTTP: {reason}")),
            HttpOutcome::RedirectRefused(reason) => (Tone::Odd, format!("redirect not followed: {reason}")),
            HttpOutcome::Failed(reason) => (Tone::Odd, format!("failed: {reason}")),
        };
        let outcome = format!("{status}, {} bytes, {end}", step.body_len);
        self.line(1, step.span, tone, &format!("{} GET {}", step.protocol, step.url), &outcome);
        if let Some(title) = &step.title {
            self.detail(1, &format!("title: {title}"));
        }
        match step.canary_found {
            Some(true) => self.detail(1, "canary found"),
            Some(false) => self.detail(1, "canary NOT found"),
            None => {}
        }
    }
}

/// Hostile text must not drive the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
