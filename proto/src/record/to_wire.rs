//! From core facts to wire messages. Nothing can fail here.

mod surroundings;

use zerkalo_core::record as core;
use zerkalo_core::target::ReferenceSide;

use crate::record_v1 as wire;

impl From<&core::ProbeRecord> for wire::ProbeRecord {
    fn from(record: &core::ProbeRecord) -> Self {
        Self {
            schema: super::SCHEMA.to_owned(),
            mirror: record.mirror.as_ref().map(ToString::to_string).unwrap_or_default(),
            url: record.url.to_string(),
            list_version: record.list_version,
            cause: match record.cause {
                core::Cause::Scheduled => wire::Cause::Scheduled,
                core::Cause::Requested => wire::Cause::Requested,
                core::Cause::Manual => wire::Cause::Manual,
            }
            .into(),
            started_at_millis: record.started_at.0,
            duration_micros: record.duration_micros,
            agent_version: record.agent_version.clone(),
            dns: record.dns.iter().map(dns).collect(),
            tcp: record.tcp.iter().map(tcp).collect(),
            tls: record.tls.iter().map(tls).collect(),
            http: record.http.iter().map(http).collect(),
            quic: record.quic.iter().map(quic).collect(),
            references: record.references.iter().map(reference).collect(),
            network: record.network.as_ref().map(surroundings::network),
            hops: record.hops.iter().map(surroundings::hop).collect(),
            screenshot: record.screenshot.as_ref().map(surroundings::screenshot),
            uplink: record.uplink.map(surroundings::uplink),
            clock: record.clock.map(surroundings::clock),
        }
    }
}

fn span(span: core::Span) -> Option<wire::Span> {
    Some(wire::Span { start_micros: span.start_micros, duration_micros: span.duration_micros })
}

fn arm(arm: core::Arm) -> i32 {
    match arm {
        core::Arm::Main => wire::Arm::Main,
        core::Arm::OtherResolver => wire::Arm::OtherResolver,
        core::Arm::NeutralSni => wire::Arm::NeutralSni,
        core::Arm::OtherHello => wire::Arm::OtherHello,
        core::Arm::NeutralFirst => wire::Arm::NeutralFirst,
        core::Arm::EachAddress => wire::Arm::EachAddress,
        core::Arm::FieldAddress => wire::Arm::FieldAddress,
        core::Arm::OtherPort => wire::Arm::OtherPort,
        core::Arm::ControlAddress => wire::Arm::ControlAddress,
        core::Arm::EchGrease => wire::Arm::EchGrease,
        core::Arm::EchReal => wire::Arm::EchReal,
        core::Arm::FreshTuple => wire::Arm::FreshTuple,
        core::Arm::LargePage => wire::Arm::LargePage,
        core::Arm::ReferenceObject => wire::Arm::ReferenceObject,
        core::Arm::Http3 => wire::Arm::Http3,
    }
    .into()
}

fn failure(detail: &str) -> wire::Failure {
    wire::Failure { detail: detail.to_owned() }
}

const PLAIN: wire::Plain = wire::Plain {};

fn dns(exchange: &core::DnsExchange) -> wire::DnsExchange {
    use wire::dns_exchange::Outcome;
    wire::DnsExchange {
        resolver: match exchange.resolver {
            core::ResolverKind::System => wire::ResolverKind::System,
            core::ResolverKind::Public => wire::ResolverKind::Public,
            core::ResolverKind::Nobody => wire::ResolverKind::Nobody,
        }
        .into(),
        server: exchange.server.to_string(),
        name: exchange.name.clone(),
        transport: match exchange.transport {
            core::DnsTransport::Udp => wire::DnsTransport::Udp,
            core::DnsTransport::Tcp => wire::DnsTransport::Tcp,
            core::DnsTransport::Dot => wire::DnsTransport::Dot,
            core::DnsTransport::Doh => wire::DnsTransport::Doh,
        }
        .into(),
        others: exchange.others.iter().map(other_answer).collect(),
        query: match exchange.query {
            core::QueryType::A => wire::QueryType::A,
            core::QueryType::Aaaa => wire::QueryType::Aaaa,
            core::QueryType::Https => wire::QueryType::Https,
        }
        .into(),
        detail: Some(surroundings::dns_detail(&exchange.detail)),
        span: span(exchange.span),
        outcome: Some(match &exchange.outcome {
            core::DnsOutcome::Answer { rcode, addresses, cnames, ttl_min_secs } => {
                Outcome::Answer(wire::DnsAnswer {
                    rcode: u32::from(*rcode),
                    addresses: addresses.iter().map(ToString::to_string).collect(),
                    cnames: cnames.clone(),
                    ttl_min_secs: *ttl_min_secs,
                })
            }
            core::DnsOutcome::Timeout => Outcome::Timeout(PLAIN),
            core::DnsOutcome::Failed(detail) => Outcome::Failed(failure(detail)),
        }),
    }
}

fn other_answer(other: &core::DnsOtherAnswer) -> wire::DnsOtherAnswer {
    wire::DnsOtherAnswer {
        arrived_micros: other.arrived_micros,
        matches_question: other.matches_question,
        rcode: u32::from(other.rcode),
        addresses: other.addresses.iter().map(ToString::to_string).collect(),
        ttl_min_secs: other.ttl_min_secs,
    }
}

fn transport(transport: core::Transport) -> wire::Transport {
    wire::Transport {
        bytes_acked: transport.bytes_acked,
        bytes_received: transport.bytes_received,
        unacked_segments: transport.unacked_segments,
        retransmits: transport.retransmits,
    }
}

fn tcp(connect: &core::TcpConnect) -> wire::TcpConnect {
    use wire::tcp_connect::Outcome;
    wire::TcpConnect {
        arm: arm(connect.arm),
        address: connect.address.to_string(),
        span: span(connect.span),
        transport: connect.transport.map(transport),
        outcome: Some(match &connect.outcome {
            core::TcpOutcome::Connected => Outcome::Connected(PLAIN),
            core::TcpOutcome::Timeout => Outcome::Timeout(PLAIN),
            core::TcpOutcome::Refused => Outcome::Refused(PLAIN),
            core::TcpOutcome::Reset => Outcome::Reset(PLAIN),
            core::TcpOutcome::Unreachable(errno) => Outcome::Unreachable(*errno),
            core::TcpOutcome::Forbidden(range) => Outcome::Forbidden(range.clone()),
            core::TcpOutcome::Failed(detail) => Outcome::Failed(failure(detail)),
        }),
    }
}

fn tls_outcome(outcome: &core::TlsOutcome) -> wire::tls_handshake::Outcome {
    use wire::tls_handshake::Outcome;
    match outcome {
        core::TlsOutcome::Completed { version, cipher_suite, alpn } => {
            Outcome::Completed(wire::TlsCompleted {
                version: version.clone(),
                cipher_suite: cipher_suite.clone(),
                alpn: alpn.clone().unwrap_or_default(),
            })
        }
        core::TlsOutcome::Timeout => Outcome::Timeout(PLAIN),
        core::TlsOutcome::Reset => Outcome::Reset(PLAIN),
        core::TlsOutcome::Eof => Outcome::Eof(PLAIN),
        core::TlsOutcome::Alert(name) => Outcome::Alert(name.clone()),
        core::TlsOutcome::Protocol(detail) => Outcome::Protocol(detail.clone()),
        core::TlsOutcome::Failed(detail) => Outcome::Failed(failure(detail)),
    }
}

fn tls(handshake: &core::TlsHandshake) -> wire::TlsHandshake {
    wire::TlsHandshake {
        arm: arm(handshake.arm),
        address: handshake.address.to_string(),
        sni: handshake.sni.clone().unwrap_or_default(),
        span: span(handshake.span),
        hello_shape: handshake.hello_shape.clone(),
        hello_len: handshake.hello_len,
        ja4: handshake.ja4.clone(),
        ech: match handshake.ech {
            core::Ech::Absent => wire::Ech::Unspecified,
            core::Ech::Grease => wire::Ech::Grease,
            core::Ech::Offered => wire::Ech::Offered,
            core::Ech::Accepted => wire::Ech::Accepted,
            core::Ech::Rejected => wire::Ech::Rejected,
        }
        .into(),
        bytes_sent: handshake.bytes_sent,
        bytes_received: handshake.bytes_received,
        transport: handshake.transport.map(transport),
        outcome: Some(tls_outcome(&handshake.outcome)),
        chain: handshake.chain.iter().map(certificate).collect(),
        chain_fault: handshake.chain_fault.as_ref().map(chain_fault),
    }
}

fn chain_fault(fault: &core::ChainFault) -> wire::ChainFault {
    use wire::ChainFaultKind as Kind;
    let (kind, detail) = match fault {
        core::ChainFault::Valid => (Kind::Valid, ""),
        core::ChainFault::Expired => (Kind::Expired, ""),
        core::ChainFault::NotYetValid => (Kind::NotYetValid, ""),
        core::ChainFault::WrongName => (Kind::WrongName, ""),
        core::ChainFault::UnknownIssuer => (Kind::UnknownIssuer, ""),
        core::ChainFault::Other(detail) => (Kind::Other, detail.as_str()),
    };
    wire::ChainFault { kind: kind.into(), detail: detail.to_owned() }
}

fn certificate(certificate: &core::Certificate) -> wire::Certificate {
    wire::Certificate {
        sha256: certificate.sha256.0.to_vec(),
        spki_sha256: certificate.spki_sha256.0.to_vec(),
        subject: certificate.subject.clone(),
        issuer: certificate.issuer.clone(),
        not_before_millis: certificate.not_before.0,
        not_after_millis: certificate.not_after.0,
        der: certificate.der.clone(),
    }
}

fn http(exchange: &core::HttpExchange) -> wire::HttpExchange {
    use wire::http_exchange::Outcome;
    wire::HttpExchange {
        arm: arm(exchange.arm),
        url: exchange.url.to_string(),
        address: exchange.address.to_string(),
        protocol: exchange.protocol.clone(),
        span: span(exchange.span),
        first_byte_micros: exchange.first_byte_micros,
        last_byte_micros: exchange.last_byte_micros,
        status: exchange.status.map(u32::from).unwrap_or_default(),
        headers: exchange
            .headers
            .iter()
            .map(|(name, value)| wire::Header { name: name.clone(), value: value.clone() })
            .collect(),
        body_len: exchange.body_len,
        body_sha256: exchange.body_sha256.0.to_vec(),
        title: exchange.title.clone(),
        canary_found: exchange.canary_found,
        excerpt: exchange.excerpt.clone(),
        transport: exchange.transport.map(transport),
        outcome: Some(match &exchange.outcome {
            core::HttpOutcome::Complete => Outcome::Complete(PLAIN),
            core::HttpOutcome::Timeout => Outcome::Timeout(PLAIN),
            core::HttpOutcome::Reset => Outcome::Reset(PLAIN),
            core::HttpOutcome::Eof => Outcome::Eof(PLAIN),
            core::HttpOutcome::Protocol(detail) => Outcome::ProtocolError(detail.clone()),
            core::HttpOutcome::RedirectRefused(why) => Outcome::RedirectRefused(why.clone()),
            core::HttpOutcome::Failed(detail) => Outcome::Failed(failure(detail)),
        }),
    }
}

fn quic(handshake: &core::QuicHandshake) -> wire::QuicHandshake {
    use wire::quic_handshake::Outcome;
    wire::QuicHandshake {
        arm: arm(handshake.arm),
        chain: handshake.chain.iter().map(certificate).collect(),
        chain_fault: handshake.chain_fault.as_ref().map(chain_fault),
        datagrams_received: handshake.datagrams_received,
        first_received: handshake.first_received.clone(),
        versions_offered: handshake.versions_offered.clone(),
        ja4: handshake.ja4.clone(),
        address: handshake.address.to_string(),
        sni: handshake.sni.clone(),
        span: span(handshake.span),
        bytes_sent: handshake.bytes_sent,
        bytes_received: handshake.bytes_received,
        outcome: Some(match &handshake.outcome {
            core::QuicOutcome::Completed { alpn } => {
                Outcome::Completed(wire::QuicCompleted { alpn: alpn.clone().unwrap_or_default() })
            }
            core::QuicOutcome::Timeout => Outcome::Timeout(PLAIN),
            core::QuicOutcome::Refused => Outcome::Refused(PLAIN),
            core::QuicOutcome::Closed(why) => Outcome::Closed(why.clone()),
            core::QuicOutcome::Failed(detail) => Outcome::Failed(failure(detail)),
        }),
    }
}

fn reference(check: &core::ReferenceCheck) -> wire::ReferenceCheck {
    wire::ReferenceCheck {
        side: match check.side {
            ReferenceSide::Domestic => wire::ReferenceSide::Domestic,
            ReferenceSide::Foreign => wire::ReferenceSide::Foreign,
        }
        .into(),
        url: check.url.to_string(),
        checked_at_millis: check.checked_at.0,
        reached: check.reached,
        failure: check.failure.clone(),
    }
}
