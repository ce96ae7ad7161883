//! Facts around the visit itself: the agent's own network, where on the way a box sits, the picture of the page.

use std::net::SocketAddr;

use super::{Span, TlsOutcome};
use crate::target::Sha256;
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
    /// Product that signs certificates on the agent's own host (antivirus, corporate proxy), by issuer.
    pub host_interference: Option<String>,
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

/// A picture of the page as a browser shows it; its bytes travel apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshot {
    /// Digest of the picture's bytes; of nothing where there is a failure.
    pub sha256: Sha256,
    pub len: u64,
    /// `image/webp` or `image/png`.
    pub media_type: String,
    /// The address the browser was pinned to.
    pub address: SocketAddr,
    pub span: Span,
    /// Why there is no picture.
    pub failure: Option<String>,
}
