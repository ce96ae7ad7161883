//! From wire messages to core facts. Every doubt is an error that names its field; nothing here can panic.

mod surroundings;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use zerkalo_core::record as core;
use zerkalo_core::target::{ReferenceSide, Sha256, TargetUrl};
use zerkalo_core::words::{MirrorId, UnixMillis};

use super::DecodeError;
use crate::record_v1 as wire;

type Decoded<T> = Result<T, DecodeError>;

impl TryFrom<wire::ProbeRecord> for core::ProbeRecord {
    type Error = DecodeError;

    fn try_from(record: wire::ProbeRecord) -> Decoded<Self> {
        if record.schema != super::SCHEMA {
            return Err(DecodeError::invalid("schema", &record.schema));
        }
        Ok(Self {
            mirror: optional(&record.mirror, |text| parsed::<MirrorId>("mirror", text))?,
            url: url("url", &record.url)?,
            list_version: record.list_version,
            cause: match record.cause() {
                wire::Cause::Unspecified => return Err(DecodeError::Missing { field: "cause" }),
                wire::Cause::Scheduled => core::Cause::Scheduled,
                wire::Cause::Requested => core::Cause::Requested,
                wire::Cause::Manual => core::Cause::Manual,
            },
            started_at: UnixMillis(record.started_at_millis),
            duration_micros: record.duration_micros,
            dns: all(record.dns, dns)?,
            tcp: all(record.tcp, tcp)?,
            tls: all(record.tls, tls)?,
            http: all(record.http, http)?,
            quic: all(record.quic, quic)?,
            references: all(record.references, reference)?,
            network: record.network.map(surroundings::network).transpose()?,
            hops: all(record.hops, surroundings::hop)?,
            screenshot: record.screenshot.map(surroundings::screenshot).transpose()?,
            uplink: record.uplink.map(surroundings::uplink).transpose()?,
            clock: record.clock.map(|clock| surroundings::clock(&clock)).transpose()?,
            agent_version: record.agent_version,
        })
    }
}

fn all<W, C>(messages: Vec<W>, convert: fn(W) -> Decoded<C>) -> Decoded<Vec<C>> {
    messages.into_iter().map(convert).collect()
}

fn parsed<T: FromStr>(field: &'static str, text: &str) -> Decoded<T> {
    text.parse().map_err(|_| DecodeError::invalid(field, text))
}

fn optional<T>(text: &str, convert: impl FnOnce(&str) -> Decoded<T>) -> Decoded<Option<T>> {
    if text.is_empty() { Ok(None) } else { convert(text).map(Some) }
}

fn non_empty(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn url(field: &'static str, text: &str) -> Decoded<TargetUrl> {
    TargetUrl::parse(text).map_err(|_| DecodeError::invalid(field, text))
}

fn required<T>(field: &'static str, value: Option<T>) -> Decoded<T> {
    value.ok_or(DecodeError::Missing { field })
}

fn sha256(field: &'static str, bytes: &[u8]) -> Decoded<Sha256> {
    bytes.try_into().map(Sha256).map_err(|_| DecodeError::invalid(field, format!("{} bytes", bytes.len())))
}

fn small<T: TryFrom<u32>>(field: &'static str, number: u32) -> Decoded<T> {
    T::try_from(number).map_err(|_| DecodeError::invalid(field, number))
}

fn span(span: Option<wire::Span>) -> core::Span {
    span.map(|s| core::Span { start_micros: s.start_micros, duration_micros: s.duration_micros })
        .unwrap_or_default()
}

fn arm(arm: wire::Arm) -> Decoded<core::Arm> {
    match arm {
        wire::Arm::Unspecified => Err(DecodeError::Missing { field: "arm" }),
        wire::Arm::Main => Ok(core::Arm::Main),
        wire::Arm::OtherResolver => Ok(core::Arm::OtherResolver),
        wire::Arm::NeutralSni => Ok(core::Arm::NeutralSni),
        wire::Arm::OtherHello => Ok(core::Arm::OtherHello),
        wire::Arm::NeutralFirst => Ok(core::Arm::NeutralFirst),
        wire::Arm::EachAddress => Ok(core::Arm::EachAddress),
        wire::Arm::FieldAddress => Ok(core::Arm::FieldAddress),
        wire::Arm::OtherPort => Ok(core::Arm::OtherPort),
        wire::Arm::ControlAddress => Ok(core::Arm::ControlAddress),
        wire::Arm::EchGrease => Ok(core::Arm::EchGrease),
        wire::Arm::EchReal => Ok(core::Arm::EchReal),
        wire::Arm::FreshTuple => Ok(core::Arm::FreshTuple),
        wire::Arm::LargePage => Ok(core::Arm::LargePage),
        wire::Arm::ReferenceObject => Ok(core::Arm::ReferenceObject),
        wire::Arm::Http3 => Ok(core::Arm::Http3),
    }
}

fn dns(exchange: wire::DnsExchange) -> Decoded<core::DnsExchange> {
    use wire::dns_exchange::Outcome;
    Ok(core::DnsExchange {
        resolver: match exchange.resolver() {
            wire::ResolverKind::Unspecified => return Err(DecodeError::Missing { field: "dns.resolver" }),
            wire::ResolverKind::System => core::ResolverKind::System,
            wire::ResolverKind::Public => core::ResolverKind::Public,
            wire::ResolverKind::Nobody => core::ResolverKind::Nobody,
        },
        server: parsed::<SocketAddr>("dns.server", &exchange.server)?,
        transport: match wire::DnsTransport::try_from(exchange.transport) {
            Ok(wire::DnsTransport::Unspecified | wire::DnsTransport::Udp) => core::DnsTransport::Udp,
            Ok(wire::DnsTransport::Tcp) => core::DnsTransport::Tcp,
            Ok(wire::DnsTransport::Dot) => core::DnsTransport::Dot,
            Ok(wire::DnsTransport::Doh) => core::DnsTransport::Doh,
            Err(_) => return Err(DecodeError::invalid("dns.transport", exchange.transport)),
        },
        query: match exchange.query() {
            wire::QueryType::Unspecified => return Err(DecodeError::Missing { field: "dns.query" }),
            wire::QueryType::A => core::QueryType::A,
            wire::QueryType::Aaaa => core::QueryType::Aaaa,
            wire::QueryType::Https => core::QueryType::Https,
        },
        detail: surroundings::dns_detail(exchange.detail)?,
        span: span(exchange.span),
        outcome: match required("dns.outcome", exchange.outcome)? {
            Outcome::Answer(answer) => core::DnsOutcome::Answer {
                rcode: small("dns.answer.rcode", answer.rcode)?,
                addresses: addresses("dns.answer.addresses", &answer.addresses)?,
                cnames: answer.cnames,
                ttl_min_secs: answer.ttl_min_secs,
            },
            Outcome::Timeout(_) => core::DnsOutcome::Timeout,
            Outcome::Failed(failure) => core::DnsOutcome::Failed(failure.detail),
        },
        others: all(exchange.others, other_answer)?,
        name: exchange.name,
    })
}

fn addresses(field: &'static str, texts: &[String]) -> Decoded<Vec<IpAddr>> {
    texts.iter().map(|text| parsed(field, text)).collect()
}

fn other_answer(other: wire::DnsOtherAnswer) -> Decoded<core::DnsOtherAnswer> {
    Ok(core::DnsOtherAnswer {
        arrived_micros: other.arrived_micros,
        matches_question: other.matches_question,
        rcode: small("dns.others.rcode", other.rcode)?,
        addresses: addresses("dns.others.addresses", &other.addresses)?,
        ttl_min_secs: other.ttl_min_secs,
    })
}

fn transport(transport: wire::Transport) -> core::Transport {
    core::Transport {
        bytes_acked: transport.bytes_acked,
        bytes_received: transport.bytes_received,
        unacked_segments: transport.unacked_segments,
        retransmits: transport.retransmits,
    }
}

fn tcp(connect: wire::TcpConnect) -> Decoded<core::TcpConnect> {
    use wire::tcp_connect::Outcome;
    Ok(core::TcpConnect {
        arm: arm(connect.arm())?,
        address: parsed("tcp.address", &connect.address)?,
        span: span(connect.span),
        transport: connect.transport.map(transport),
        outcome: match required("tcp.outcome", connect.outcome)? {
            Outcome::Connected(_) => core::TcpOutcome::Connected,
            Outcome::Timeout(_) => core::TcpOutcome::Timeout,
            Outcome::Refused(_) => core::TcpOutcome::Refused,
            Outcome::Reset(_) => core::TcpOutcome::Reset,
            Outcome::Unreachable(errno) => core::TcpOutcome::Unreachable(errno),
            Outcome::Forbidden(range) => core::TcpOutcome::Forbidden(range),
            Outcome::Failed(failure) => core::TcpOutcome::Failed(failure.detail),
        },
    })
}

fn tls_outcome(
    field: &'static str,
    outcome: Option<wire::tls_handshake::Outcome>,
) -> Decoded<core::TlsOutcome> {
    use wire::tls_handshake::Outcome;
    Ok(match required(field, outcome)? {
        Outcome::Completed(done) => core::TlsOutcome::Completed {
            version: done.version,
            cipher_suite: done.cipher_suite,
            alpn: non_empty(done.alpn),
        },
        Outcome::Timeout(_) => core::TlsOutcome::Timeout,
        Outcome::Reset(_) => core::TlsOutcome::Reset,
        Outcome::Eof(_) => core::TlsOutcome::Eof,
        Outcome::Alert(name) => core::TlsOutcome::Alert(name),
        Outcome::Protocol(detail) => core::TlsOutcome::Protocol(detail),
        Outcome::Failed(failure) => core::TlsOutcome::Failed(failure.detail),
    })
}

fn tls(handshake: wire::TlsHandshake) -> Decoded<core::TlsHandshake> {
    Ok(core::TlsHandshake {
        arm: arm(handshake.arm())?,
        address: parsed("tls.address", &handshake.address)?,
        sni: non_empty(handshake.sni),
        span: span(handshake.span),
        hello_shape: handshake.hello_shape,
        hello_len: handshake.hello_len,
        ech: match wire::Ech::try_from(handshake.ech) {
            Ok(wire::Ech::Unspecified) => core::Ech::Absent,
            Ok(wire::Ech::Grease) => core::Ech::Grease,
            Ok(wire::Ech::Offered) => core::Ech::Offered,
            Ok(wire::Ech::Accepted) => core::Ech::Accepted,
            Ok(wire::Ech::Rejected) => core::Ech::Rejected,
            Err(_) => return Err(DecodeError::invalid("tls.ech", handshake.ech)),
        },
        ja4: handshake.ja4,
        bytes_sent: handshake.bytes_sent,
        bytes_received: handshake.bytes_received,
        transport: handshake.transport.map(transport),
        outcome: tls_outcome("tls.outcome", handshake.outcome)?,
        chain: all(handshake.chain, certificate)?,
        chain_fault: handshake.chain_fault.map(chain_fault).transpose()?,
    })
}

fn chain_fault(fault: wire::ChainFault) -> Decoded<core::ChainFault> {
    use wire::ChainFaultKind as Kind;
    Ok(match fault.kind() {
        Kind::Unspecified => return Err(DecodeError::Missing { field: "tls.chain_fault.kind" }),
        Kind::Valid => core::ChainFault::Valid,
        Kind::Expired => core::ChainFault::Expired,
        Kind::NotYetValid => core::ChainFault::NotYetValid,
        Kind::WrongName => core::ChainFault::WrongName,
        Kind::UnknownIssuer => core::ChainFault::UnknownIssuer,
        Kind::Other => core::ChainFault::Other(fault.detail),
    })
}

fn certificate(certificate: wire::Certificate) -> Decoded<core::Certificate> {
    Ok(core::Certificate {
        sha256: sha256("tls.chain.sha256", &certificate.sha256)?,
        spki_sha256: sha256("tls.chain.spki_sha256", &certificate.spki_sha256)?,
        subject: certificate.subject,
        issuer: certificate.issuer,
        not_before: UnixMillis(certificate.not_before_millis),
        not_after: UnixMillis(certificate.not_after_millis),
        der: certificate.der,
    })
}

fn http(exchange: wire::HttpExchange) -> Decoded<core::HttpExchange> {
    use wire::http_exchange::Outcome;
    Ok(core::HttpExchange {
        arm: arm(exchange.arm())?,
        url: url("http.url", &exchange.url)?,
        address: parsed("http.address", &exchange.address)?,
        protocol: exchange.protocol,
        span: span(exchange.span),
        first_byte_micros: exchange.first_byte_micros,
        last_byte_micros: exchange.last_byte_micros,
        status: match exchange.status {
            0 => None,
            status => Some(small("http.status", status)?),
        },
        headers: exchange.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        body_len: exchange.body_len,
        body_sha256: sha256("http.body_sha256", &exchange.body_sha256)?,
        title: exchange.title,
        canary_found: exchange.canary_found,
        excerpt: exchange.excerpt,
        transport: exchange.transport.map(transport),
        outcome: match required("http.outcome", exchange.outcome)? {
            Outcome::Complete(_) => core::HttpOutcome::Complete,
            Outcome::Timeout(_) => core::HttpOutcome::Timeout,
            Outcome::Reset(_) => core::HttpOutcome::Reset,
            Outcome::Eof(_) => core::HttpOutcome::Eof,
            Outcome::ProtocolError(detail) => core::HttpOutcome::Protocol(detail),
            Outcome::RedirectRefused(why) => core::HttpOutcome::RedirectRefused(why),
            Outcome::Failed(failure) => core::HttpOutcome::Failed(failure.detail),
        },
    })
}

fn quic(handshake: wire::QuicHandshake) -> Decoded<core::QuicHandshake> {
    use wire::quic_handshake::Outcome;
    Ok(core::QuicHandshake {
        arm: match handshake.arm() {
            wire::Arm::Unspecified => core::Arm::Main,
            other => arm(other)?,
        },
        chain: all(handshake.chain, certificate)?,
        chain_fault: handshake.chain_fault.map(chain_fault).transpose()?,
        datagrams_received: handshake.datagrams_received,
        first_received: handshake.first_received,
        versions_offered: handshake.versions_offered,
        ja4: handshake.ja4,
        address: parsed("quic.address", &handshake.address)?,
        sni: handshake.sni,
        span: span(handshake.span),
        bytes_sent: handshake.bytes_sent,
        bytes_received: handshake.bytes_received,
        outcome: match required("quic.outcome", handshake.outcome)? {
            Outcome::Completed(done) => core::QuicOutcome::Completed { alpn: non_empty(done.alpn) },
            Outcome::Timeout(_) => core::QuicOutcome::Timeout,
            Outcome::Refused(_) => core::QuicOutcome::Refused,
            Outcome::Closed(why) => core::QuicOutcome::Closed(why),
            Outcome::Failed(failure) => core::QuicOutcome::Failed(failure.detail),
        },
    })
}

fn reference(check: wire::ReferenceCheck) -> Decoded<core::ReferenceCheck> {
    Ok(core::ReferenceCheck {
        side: match check.side() {
            wire::ReferenceSide::Unspecified => {
                return Err(DecodeError::Missing { field: "references.side" });
            }
            wire::ReferenceSide::Domestic => ReferenceSide::Domestic,
            wire::ReferenceSide::Foreign => ReferenceSide::Foreign,
        },
        url: url("references.url", &check.url)?,
        checked_at: UnixMillis(check.checked_at_millis),
        reached: check.reached,
        failure: check.failure,
    })
}
