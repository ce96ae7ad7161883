//! What a probe cost its host's line, in bytes both ways, read off the record. Where the kernel counted, its word counts;
//! the rest is rounded up. Pure.

use std::collections::BTreeMap;

use zerkalo_core::record::{DnsTransport, ProbeRecord, Span, TcpOutcome};

/// A question and its answers, with their headers.
const DNS_UDP_LEN: u64 = 500;
const DNS_TCP_LEN: u64 = 1_500;
/// A handshake with a chain comes with it.
const DNS_TLS_LEN: u64 = 8_000;
/// The three packets of a connection, and those of its end.
const TCP_LEN: u64 = 400;
/// A request and the head of its answer, where the kernel did not count.
const HTTP_HEADS_LEN: u64 = 1_500;
/// A ClientHello on its way to a hop.
const HOP_LEN: u64 = 2_500;
/// What a browser loads of an ordinary page.
const PICTURE_LEN: u64 = 3_000_000;
/// One look at a reference host.
pub const REFERENCE_LEN: u64 = 8_000;

/// The bytes of a probe, and of sending its record.
pub fn bytes_of(record: &ProbeRecord, body_len: u64) -> u64 {
    let dns = record.dns.iter().map(|step| match step.transport {
        DnsTransport::Udp => DNS_UDP_LEN,
        DnsTransport::Tcp => DNS_TCP_LEN,
        DnsTransport::Dot | DnsTransport::Doh => DNS_TLS_LEN,
    });
    let quic = record.quic.iter().map(|step| step.bytes_sent + step.bytes_received);
    let hops = HOP_LEN * record.hops.len() as u64;
    let picture = record.screenshot.as_ref().map_or(0, |_| PICTURE_LEN);
    let data = connections(record) + dns.sum::<u64>() + quic.sum::<u64>() + hops + picture + body_len;
    // Headers of packets: 40 to 72 bytes of each 1,460.
    data + data / 20
}

#[derive(Debug, Default)]
struct Connection {
    handshake_len: u64,
    bodies_len: u64,
    counted_len: u64,
}

/// Bytes of all TCP connections. The kernel counts since a connection's beginning: its last word is the sum.
fn connections(record: &ProbeRecord) -> u64 {
    let mut found: BTreeMap<Option<usize>, Connection> = BTreeMap::new();
    // The connection a step ran over: the last one made to its address before it.
    let over = |address, span: Span| {
        record.tcp.iter().rposition(|tcp| {
            tcp.address == address
                && tcp.outcome == TcpOutcome::Connected
                && tcp.span.start_micros <= span.start_micros
        })
    };
    for step in &record.tls {
        let connection = found.entry(over(step.address, step.span)).or_default();
        connection.handshake_len += step.bytes_sent + step.bytes_received;
    }
    for step in &record.http {
        let is_tcp = step.protocol != "h3";
        let connection = found.entry(is_tcp.then(|| over(step.address, step.span)).flatten()).or_default();
        connection.bodies_len += step.body_len + HTTP_HEADS_LEN;
        let counted = step.transport.map_or(0, |counted| counted.bytes_acked + counted.bytes_received);
        connection.counted_len = connection.counted_len.max(counted);
    }
    let bytes = found.values().map(|connection| {
        let read = connection.handshake_len + connection.bodies_len;
        // What lay unread in the kernel was paid for too.
        if connection.counted_len > 0 { connection.counted_len.max(connection.bodies_len) } else { read }
    });
    bytes.sum::<u64>() + TCP_LEN * record.tcp.len() as u64
}
