//! The facts of one probe of one mirror: what was sent, what came back, when, how it ended.
//!
//! A record never says "blocked": only rules conclude. Times inside a record are microseconds since the probe began.
//! No address of the agent's host is ever part of a record.

mod picture;
mod surroundings;

use std::net::{IpAddr, SocketAddr};

use crate::target::{ReferenceSide, Sha256, TargetUrl};
use crate::words::{MirrorId, UnixMillis};

pub use picture::{PICTURE_LEN_MAX, Screenshot};
pub use surroundings::{
    ClockReading, HopProbe, Ipv6Health, NetworkCheck, RESOLVER_IDENTITIES_MAX, UplinkActivity,
    UplinkTransport, issuer_words,
};

/// Most steps of one kind in a record, as a collector accepts them.
pub const STEPS_MAX: usize = 64;
/// Most bytes of a page kept in a record, from its beginning.
pub const EXCERPT_LEN_MAX: usize = 2_048;
/// Most headers kept of one answer, and most bytes of one value.
pub const HEADERS_MAX: usize = 48;
/// See [`HEADERS_MAX`].
pub const HEADER_VALUE_LEN_MAX: usize = 512;
/// Most body bytes an agent reads of one page: beyond the 14-34 KB at which the known freeze strikes.
pub const BODY_LEN_MAX: u64 = 256 * 1024;
/// Most redirects followed.
pub const REDIRECTS_MAX: usize = 10;

/// Most other answers kept of one question.
pub const DNS_OTHERS_MAX: usize = 8;
/// Most HTTPS records kept of one answer, and most bytes of one's ECH configuration.
pub const DNS_SERVICES_MAX: usize = 4;
/// See [`DNS_SERVICES_MAX`].
pub const ECH_CONFIG_LEN_MAX: usize = 1_024;
/// Most bytes kept of the first datagram that came back in a QUIC handshake.
pub const QUIC_FIRST_LEN_MAX: usize = 32;
/// When an unanswered question is sent again for the first time, after its beginning. What is answered before was asked
/// once, so that a second answer to it is somebody else's.
pub const DNS_RESEND_AFTER_MICROS: u64 = 1_000_000;

/// Why the probe ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its turn came.
    Scheduled,
    /// The collector asked for a fresh look.
    Requested,
    /// A person ran it.
    Manual,
}

/// The facts of one probe of one mirror.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeRecord {
    /// Name of the mirror on the list; `None` for a manual probe of any URL.
    pub mirror: Option<MirrorId>,
    pub url: TargetUrl,
    /// Version of the mirror list in force; 0 without one.
    pub list_version: u64,
    pub cause: Cause,
    /// The agent's wall clock at the beginning.
    pub started_at: UnixMillis,
    pub duration_micros: u64,
    pub agent_version: String,
    pub dns: Vec<DnsExchange>,
    pub tcp: Vec<TcpConnect>,
    pub tls: Vec<TlsHandshake>,
    pub http: Vec<HttpExchange>,
    pub quic: Vec<QuicHandshake>,
    /// The state of the agent's own network, checked in the same cycle.
    pub references: Vec<ReferenceCheck>,
    /// What else the agent found of its own network in that cycle; `None` in records of older agents, and by hand where
    /// no reference was named.
    pub network: Option<NetworkCheck>,
    /// Where on the way the hello is answered; empty unless asked for.
    pub hops: Vec<HopProbe>,
    pub screenshot: Option<Screenshot>,
    /// What the uplink did meanwhile; `None` in records of older agents and by hand.
    pub uplink: Option<UplinkActivity>,
    /// `None` in records of older agents and by hand.
    pub clock: Option<ClockReading>,
}

/// Which comparison a step belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// What a visitor's browser would do: the system's resolver and the mirror's own name.
    Main,
    /// The same, over the addresses another resolver gave.
    OtherResolver,
    /// The address of a failed handshake, with a name no censor looks for.
    NeutralSni,
    /// The address and the name of a failed handshake, with a ClientHello of another shape.
    OtherHello,
    /// The neutral name before the mirror's own was shown at all: what a punishment of the address cannot colour.
    NeutralFirst,
    /// A connection alone, to an address the main arm had no need to try.
    EachAddress,
    /// The very addresses another agent got, at the collector's wish: what a control does.
    FieldAddress,
    /// The address of a failed connection or handshake, at another port.
    OtherPort,
    /// The mirror's name shown to a server of the operator's at an address no censor looks for.
    ControlAddress,
    /// The address and name of a failed handshake, with a GREASE ECH extension (RFC 9849).
    EchGrease,
    /// The same with the mirror's own ECH configuration: the name is not shown at all.
    EchReal,
    /// The same handshake once more after a pause, from a new source port.
    FreshTuple,
    /// The mirror's large page.
    LargePage,
    /// An object of about the same size at a host of no interest to a censor, for comparison.
    ReferenceObject,
    /// HTTP/3, after the visit went through.
    Http3,
}

/// When a step began and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Microseconds from the probe's beginning to the step's.
    pub start_micros: u64,
    pub duration_micros: u64,
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResolverKind {
    /// The one the operating system uses: usually the carrier's.
    System,
    /// A public one.
    Public,
    /// An address at which no resolver runs: whoever answers sits on the way.
    Nobody,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryType {
    A,
    Aaaa,
    /// Service binding (RFC 9460): protocols, hints, ECH.
    Https,
}

impl QueryType {
    /// The record type's name in the DNS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Https => "HTTPS",
        }
    }
}

/// What carried a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DnsTransport {
    /// A truncated answer is fetched by TCP, as stub resolvers do.
    Udp,
    Tcp,
    /// Over TLS (RFC 7858).
    Dot,
    /// Over HTTPS (RFC 8484).
    Doh,
}

impl DnsTransport {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Dot => "DoT",
            Self::Doh => "DoH",
        }
    }
}

/// One question to one resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsExchange {
    pub resolver: ResolverKind,
    pub server: SocketAddr,
    pub transport: DnsTransport,
    pub name: String,
    pub query: QueryType,
    pub span: Span,
    pub outcome: DnsOutcome,
    /// Answers that came beside the one taken, within two seconds after it; capped by [`DNS_OTHERS_MAX`].
    pub others: Vec<DnsOtherAnswer>,
    pub detail: DnsDetail,
}

impl DnsExchange {
    /// Whether a visitor's own question may have gone this way: the system's resolver is asked by TCP and other roads for
    /// comparison alone, and the answers would hide what it says by UDP.
    pub fn is_for_visitors(&self) -> bool {
        self.resolver != ResolverKind::System || self.transport == DnsTransport::Udp
    }
}

/// What an answer holds beside addresses. Empty where none came, and in records of older agents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsDetail {
    /// Message id of the question.
    pub message_id: u16,
    /// The EDNS payload size the answer announced; `None` without EDNS: injectors often forget it.
    pub edns_payload_len: Option<u16>,
    /// Flags of the answer: AA, RA, AD.
    pub is_authoritative: bool,
    pub is_recursion_available: bool,
    pub is_authenticated: bool,
    /// HTTPS records, at most [`DNS_SERVICES_MAX`].
    pub services: Vec<HttpsService>,
}

/// One HTTPS record (RFC 9460).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpsService {
    /// 0: an alias.
    pub priority: u16,
    /// Empty: the name asked for.
    pub target: String,
    pub alpn: Vec<String>,
    /// Address hints of both families.
    pub hints: Vec<IpAddr>,
    /// ECHConfigList, at most [`ECH_CONFIG_LEN_MAX`] bytes; empty without one.
    pub ech_config: Vec<u8>,
}

/// An answer from the server's address that was not the one taken: a stray before it, a second one after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOtherAnswer {
    /// Microseconds from the probe's beginning to its arrival.
    pub arrived_micros: u64,
    /// Whether it bore the message id and the question that were sent.
    pub matches_question: bool,
    /// RFC 1035 response code.
    pub rcode: u16,
    pub addresses: Vec<IpAddr>,
    /// Lowest TTL among the answers, in seconds.
    pub ttl_min_secs: u32,
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsOutcome {
    Answer {
        /// RFC 1035 response code: 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
        rcode: u16,
        addresses: Vec<IpAddr>,
        cnames: Vec<String>,
        /// Lowest TTL among the answers, in seconds.
        ttl_min_secs: u32,
    },
    Timeout,
    /// The question could not be sent, or the answer could not be read.
    Failed(String),
}

/// One TCP connection attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConnect {
    pub arm: Arm,
    pub address: SocketAddr,
    pub span: Span,
    pub outcome: TcpOutcome,
    /// `None` where the kernel does not tell, and in records of older agents.
    pub transport: Option<Transport>,
}

/// What the kernel knew of a connection at the end of a step (TCP_INFO); counts since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Bytes of ours that the peer, or a box that plays it, acknowledged.
    pub bytes_acked: u64,
    /// Bytes of the peer that reached the kernel; an orderly end counts as one.
    pub bytes_received: u64,
    /// Segments sent, SYNs too, and not acknowledged at that instant.
    pub unacked_segments: u32,
    /// Segments sent again, SYNs too.
    pub retransmits: u32,
}

/// How a connection attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpOutcome {
    Connected,
    Timeout,
    /// ECONNREFUSED: a reset in answer to the SYN.
    Refused,
    /// ECONNRESET.
    Reset,
    /// EHOSTUNREACH, ENETUNREACH and their kin, with the errno.
    Unreachable(i32),
    /// Never tried: the address lies in a private or special range, named here.
    Forbidden(String),
    Failed(String),
}

/// One TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsHandshake {
    pub arm: Arm,
    pub address: SocketAddr,
    /// The host name in the ClientHello; `None` for an address.
    pub sni: Option<String>,
    pub span: Span,
    /// What the ClientHello offered: `pq`, a post-quantum key share beside the classic one, as browsers do; `classic`, the
    /// latter alone. Empty in records of older agents.
    pub hello_shape: String,
    /// Bytes sent before the first one came back: the ClientHello. 0 in records of older agents.
    pub hello_len: u64,
    /// JA4 of the ClientHello sent (FoxIO, TLS client fingerprint); empty in records of older agents.
    pub ja4: String,
    /// What became of ECH.
    pub ech: Ech,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub outcome: TlsOutcome,
    /// See [`TcpConnect::transport`].
    pub transport: Option<Transport>,
    /// As sent by the server, leaf first, whatever the outcome.
    pub chain: Vec<Certificate>,
    /// What a browser would say of the chain; `None` if no chain came.
    pub chain_fault: Option<ChainFault>,
}

/// Encrypted ClientHello (RFC 9849) in one handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ech {
    /// Not offered.
    #[default]
    Absent,
    /// A GREASE extension: looks like ECH, hides nothing.
    Grease,
    /// Offered for real; the handshake ended before the server's word.
    Offered,
    Accepted,
    Rejected,
}

/// How a handshake ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsOutcome {
    Completed {
        /// `TLSv1_2` or `TLSv1_3`.
        version: String,
        cipher_suite: String,
        alpn: Option<String>,
    },
    Timeout,
    Reset,
    /// The peer closed before the handshake was over.
    Eof,
    /// The peer sent a fatal alert, named as in RFC 8446.
    Alert(String),
    /// Bytes came that are no TLS, or broke its rules.
    Protocol(String),
    Failed(String),
}

/// The judgement of a chain against the public CAs (or those of `--ca-file`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainFault {
    /// None: a browser would accept it.
    Valid,
    Expired,
    NotYetValid,
    WrongName,
    UnknownIssuer,
    Other(String),
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub sha256: Sha256,
    /// SHA-256 of the subject public key info (RFC 7469).
    pub spki_sha256: Sha256,
    /// RFC 4514 text.
    pub subject: String,
    /// RFC 4514 text.
    pub issuer: String,
    pub not_before: UnixMillis,
    pub not_after: UnixMillis,
    /// The whole certificate, kept where the chain is at fault: evidence. Empty otherwise.
    pub der: Vec<u8>,
}

/// One request and its answer; redirects make several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpExchange {
    pub arm: Arm,
    pub url: TargetUrl,
    pub address: SocketAddr,
    /// `h1`, `h2` or `h3`.
    pub protocol: String,
    pub span: Span,
    /// Microseconds from the request to the first byte of the body; `None` if none came.
    pub first_byte_micros: Option<u64>,
    /// Microseconds from the request to the last byte received; `None` if none came.
    pub last_byte_micros: Option<u64>,
    pub status: Option<u16>,
    /// Lower-case names; capped by [`HEADERS_MAX`].
    pub headers: Vec<(String, String)>,
    /// Body bytes read, before any decoding: the offset of a stall.
    pub body_len: u64,
    /// Digest of the body bytes read.
    pub body_sha256: Sha256,
    pub title: Option<String>,
    /// Whether the mirror's canary stood in the body; `None` where no canary was asked for or no body came.
    pub canary_found: Option<bool>,
    /// The page's beginning as text, kept where the canary was not found.
    pub excerpt: String,
    pub outcome: HttpOutcome,
    /// See [`TcpConnect::transport`].
    pub transport: Option<Transport>,
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpOutcome {
    /// The whole body, or as much as the cap allows.
    Complete,
    /// No byte for the rest of the deadline; `body_len` is the offset.
    Timeout,
    Reset,
    /// Closed before the answer was whole.
    Eof,
    /// The answer was no HTTP.
    Protocol(String),
    /// A redirect not followed, and why.
    RedirectRefused(String),
    Failed(String),
}

/// One QUIC handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicHandshake {
    /// `Main`, or `NeutralSni`.
    pub arm: Arm,
    pub address: SocketAddr,
    pub sni: String,
    pub span: Span,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub outcome: QuicOutcome,
    /// As sent by the server, leaf first, whatever the outcome.
    pub chain: Vec<Certificate>,
    /// What a browser would say of the chain; `None` if no chain came.
    pub chain_fault: Option<ChainFault>,
    pub datagrams_received: u32,
    /// The beginning of the first datagram that came back, at most [`QUIC_FIRST_LEN_MAX`] bytes.
    pub first_received: Vec<u8>,
    /// Versions a Version Negotiation packet offered (RFC 9000, 17.2.1).
    pub versions_offered: Vec<u32>,
    /// JA4 of our own hello, as by which a box that opens the Initial packet knows us; empty in records of older agents.
    pub ja4: String,
}

/// How a QUIC handshake ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuicOutcome {
    Completed {
        alpn: Option<String>,
    },
    Timeout,
    /// ICMP port unreachable.
    Refused,
    /// The peer closed the connection.
    Closed(String),
    Failed(String),
}

/// What a reference host of the operator said of the agent's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceCheck {
    pub side: ReferenceSide,
    pub url: TargetUrl,
    /// When it was checked, by the agent's wall clock.
    pub checked_at: UnixMillis,
    /// Whether the reference answered as itself.
    pub reached: bool,
    /// Why not.
    pub failure: Option<String>,
}

impl ProbeRecord {
    /// The instant the probe ended, by the agent's clock.
    pub fn ended_at(&self) -> UnixMillis {
        self.started_at.plus_millis(self.duration_micros.div_ceil(1000))
    }

    /// Whether every list of steps is within [`STEPS_MAX`], and every list of other answers within [`DNS_OTHERS_MAX`].
    pub fn is_bounded(&self) -> bool {
        [
            self.dns.len(),
            self.tcp.len(),
            self.tls.len(),
            self.http.len(),
            self.quic.len(),
            self.references.len(),
            self.hops.len(),
        ]
        .iter()
        .all(|len| *len <= STEPS_MAX)
            && self.dns.iter().all(|exchange| {
                exchange.others.len() <= DNS_OTHERS_MAX && exchange.detail.services.len() <= DNS_SERVICES_MAX
            })
    }

    /// Whether it tells of a picture and of nothing else: it followed the record of the visit, which was not to wait for it.
    /// Says nothing about the mirror that a rule could read.
    pub fn is_picture_alone(&self) -> bool {
        let steps = [self.dns.len(), self.tcp.len(), self.tls.len(), self.http.len(), self.quic.len()];
        self.screenshot.is_some() && steps == [0; 5]
    }

    /// The addresses a resolver gave for the URL's own host, in the order received; of the system's, what visitors get.
    pub fn resolved(&self, kind: ResolverKind) -> Vec<IpAddr> {
        let host = self.url.host();
        let mut found = Vec::new();
        for exchange in
            self.dns.iter().filter(|x| x.resolver == kind && x.name == host && x.is_for_visitors())
        {
            if let DnsOutcome::Answer { addresses, .. } = &exchange.outcome {
                for address in addresses {
                    if !found.contains(address) {
                        found.push(*address);
                    }
                }
            }
        }
        found
    }
}
