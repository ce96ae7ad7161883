//! What a record holds of a visit, step by step, down to the bytes and the kernel's count of them.

use zerkalo_core::record::{Arm, ProbeRecord, Span, Transport};

/// The steps of the visit itself, one a line; comparisons with other arms are named by theirs.
pub fn steps(facts: &ProbeRecord) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(clock(facts));
    for dns in &facts.dns {
        lines.push(format!(
            "dns {:?} {} by {:?}, {:?} {}: {:?}{}",
            dns.resolver,
            dns.server,
            dns.transport,
            dns.query,
            dns.name,
            dns.outcome,
            after(&dns.span)
        ));
        lines.extend(dns.others.iter().map(|other| {
            format!("  another answer, {:?}, {} us after the question", other.addresses, other.arrived_micros)
        }));
    }
    lines.extend(facts.tcp.iter().map(|tcp| {
        let (outcome, count) = (&tcp.outcome, counted(tcp.transport.as_ref()));
        format!("tcp{} {}: {outcome:?}{}{count}", arm(tcp.arm), tcp.address, after(&tcp.span))
    }));
    lines.extend(facts.tls.iter().map(|tls| {
        format!(
            "tls{} {} as {:?}: {:?}{}; hello of {} bytes, {} bytes sent, {} received{}",
            arm(tls.arm),
            tls.address,
            tls.sni.as_deref().unwrap_or("no name"),
            tls.outcome,
            after(&tls.span),
            tls.hello_len,
            tls.bytes_sent,
            tls.bytes_received,
            counted(tls.transport.as_ref())
        )
    }));
    lines.extend(facts.http.iter().map(|http| {
        let status = http.status.map_or_else(|| "no status".to_owned(), |status| format!("status {status}"));
        format!(
            "http{} {} at {}: {:?}, {status}, {} bytes of the body{}{}",
            arm(http.arm),
            http.url,
            http.address,
            http.outcome,
            http.body_len,
            after(&http.span),
            counted(http.transport.as_ref())
        )
    }));
    lines.extend(facts.quic.iter().map(|quic| {
        format!(
            "quic{} {} as {:?}: {:?}{}; {} bytes sent, {} received in {} datagrams",
            arm(quic.arm),
            quic.address,
            quic.sni,
            quic.outcome,
            after(&quic.span),
            quic.bytes_sent,
            quic.bytes_received,
            quic.datagrams_received
        )
    }));
    lines
}

/// By which clocks it was made, and how good they were.
fn clock(facts: &ProbeRecord) -> Option<String> {
    let clock = facts.clock?;
    let error =
        clock.error_millis.map_or_else(|| "unknown".to_owned(), |error| format!("{error} ms at most"));
    Some(format!(
        "clock {}, {} ms after boot {}; its error {error}",
        facts.started_at,
        clock.monotonic_millis,
        hex::encode(clock.boot)
    ))
}

fn arm(arm: Arm) -> String {
    if arm == Arm::Main { String::new() } else { format!(" ({arm:?})") }
}

fn after(span: &Span) -> String {
    format!(", after {} ms", span.duration_micros / 1_000)
}

fn counted(transport: Option<&Transport>) -> String {
    transport.map_or_else(String::new, |count| {
        format!(
            "; the kernel counts {} bytes acknowledged, {} received, {} segments unacknowledged, {} retransmits",
            count.bytes_acked, count.bytes_received, count.unacked_segments, count.retransmits
        )
    })
}
