//! Facts around the visit itself: the agent's own network, where on the way a box sits, the picture of the page.

use std::net::SocketAddr;

use super::{Span, TlsOutcome};
use crate::words::UnixMillis;

/// What the agent found of its own network, beside the reference hosts, once a cycle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkCheck {
    /// When it was checked, by the agent's wall clock.
    pub checked_at: UnixMillis,
    /// Where a plain page of the operator's sent the agent instead of answering as itself: host name only.
    pub captive_host: Option<String>,
    pub ipv6: Ipv6Health,
    /// Who asked the authoritative side in the system resolver's name, as the operator's whoami name tells: addresses
    /// of resolvers, masked where they are the agent's own.
    pub resolver_identity: Vec<String>,
    /// The agent's clock minus the median of the reference hosts' `Date` headers and the collector's welcome, in ms.
    pub clock_ahead_millis: Option<i64>,
    /// Product that signs certificates on the agent's own host (antivirus, corporate proxy), by issuer: what
    /// [`issuer_words`] leaves of the one name that vouches for every reference.
    pub host_interference: Option<String>,
    /// The host itself knew no way out, by either family, and no reference answered.
    pub is_offline: bool,
}

/// What the agent's own line to the collector did while the probe ran: it shares the way with what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkActivity {
    /// What carried it at the probe's end; `None` while it was down.
    pub transport: Option<UplinkTransport>,
    /// Bytes sent while the probe ran, over whatever transport.
    pub bytes_sent: u64,
    /// Bytes received meanwhile.
    pub bytes_received: u64,
    /// Whether it went over to another address or transport meanwhile.
    pub is_switched: bool,
}

/// What carries the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkTransport {
    /// TLS over TCP.
    Tcp,
    /// One stream of QUIC.
    Quic,
}

/// By which clocks a record was made, beside the wall clock's own time in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Of the steady clock when the probe began: since the box booted, sleep included.
    pub monotonic_millis: u64,
    /// Which boot that counts from; readings of two boots cannot be compared.
    pub boot: [u8; 8],
    /// How far the wall clock may have been off, by what the collector told last; `None`: it told nothing yet.
    pub error_millis: Option<u64>,
}

/// Most answers of the whoami name kept in [`NetworkCheck::resolver_identity`].
pub const RESOLVER_IDENTITIES_MAX: usize = 8;

/// Common name and organisation of a distinguished name in RFC 4514 text, in that order; the whole name where it has
/// neither. What tells one signer from another: serial numbers and units differ from leaf to leaf.
pub fn issuer_words(name: &str) -> String {
    let parts: Vec<&str> = split_name(name);
    let told =
        ["CN=", "O="].into_iter().filter_map(|key| parts.iter().find(|part| part.starts_with(key)).copied());
    let told: Vec<&str> = told.collect();
    if told.is_empty() { name.to_owned() } else { told.join(", ") }
}

/// The relative names between commas that no backslash escapes.
fn split_name(name: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (index, byte) in name.bytes().enumerate() {
        if byte == b',' && !is_escaped {
            parts.push(name[start..index].trim());
            start = index + 1;
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    parts.push(name[start..].trim());
    parts
}

/// Whether IPv6 works on the agent's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipv6Health {
    #[default]
    Unknown,
    /// No address, no route: a mirror's IPv6 addresses say nothing about blocking.
    Absent,
    /// There is a route, and no reference host is reached over it.
    Broken,
    Works,
}

/// The ClientHello with the mirror's name, sent with a small TTL: which hop answers in the mirror's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopProbe {
    pub address: SocketAddr,
    /// The host name in the ClientHello.
    pub sni: String,
    /// IP TTL (hop limit) of the segments that carried the ClientHello.
    pub ttl: u8,
    pub span: Span,
    /// `Timeout` where the hello died on the way, unseen.
    pub outcome: TlsOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_is_known_by_its_name_and_house() {
        let check = |name: &str, words: &str| assert_eq!(issuer_words(name), words, "{name}");
        check("C=RU, O=AO Kaspersky Lab, CN=Kaspersky Root", "CN=Kaspersky Root, O=AO Kaspersky Lab");
        check("CN=Gateway\\, Inc,OU=17,O=House", "CN=Gateway\\, Inc, O=House");
        check("CN=Gateway\\\\,O=House", "CN=Gateway\\\\, O=House");
        check("OU=only this", "OU=only this");
        check("", "");
    }
}
