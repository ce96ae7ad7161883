//! A record of the usual size, for senders that measure nothing, and the mirror list it belongs to.

use std::net::SocketAddr;

use anyhow::Result;
use zerkalo_core::record::{
    Arm, Cause, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, HttpExchange, HttpOutcome,
    ProbeRecord, QueryType, ReferenceCheck, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake,
    TlsOutcome,
};
use zerkalo_core::target::{Mirror, MirrorList, ReferenceSide, Sha256, TargetUrl};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

const SPAN: Span = Span { start_micros: 1_200, duration_micros: 800 };

/// A list with the one mirror that [`body`] is about.
pub fn one_mirror(issued_at: UnixMillis) -> Result<MirrorList> {
    mirrors(1, issued_at)
}

/// A list with so many mirrors, those that [`body_about`] is about, from 1 on.
pub fn mirrors(count: usize, issued_at: UnixMillis) -> Result<MirrorList> {
    let mirror = |number| {
        anyhow::Ok(Mirror {
            large_page: None,
            id: MirrorId::parse(&format!("m{number}"))?,
            url: url(number),
            markets: vec![MarketId::parse("ru")?, MarketId::parse("kz")?],
            canary: None,
            key_pins: vec![],
            expected_addresses: vec![],
            standby: false,
            category: None,
        })
    };
    let mirrors = (1..=count).map(mirror).collect::<Result<_>>()?;
    Ok(MirrorList { mirrors, ..MirrorList::issued(1, issued_at) })
}

/// The encoded record of a mirror that works.
pub fn body(started_at: UnixMillis) -> Vec<u8> {
    body_about(1, started_at)
}

/// The same of one of several.
pub fn body_about(number: usize, started_at: UnixMillis) -> Vec<u8> {
    let url = || url(number);
    let reference =
        |side| ReferenceCheck { side, url: url(), checked_at: started_at, reached: true, failure: None };
    let record = ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: MirrorId::parse(&format!("m{number}")).ok(),
        url: url(),
        list_version: 1,
        cause: Cause::Scheduled,
        started_at,
        duration_micros: 4_000,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        dns: [ResolverKind::System, ResolverKind::Public]
            .into_iter()
            .flat_map(|kind| [dns(&url(), kind, QueryType::A), dns(&url(), kind, QueryType::Aaaa)])
            .collect(),
        tcp: vec![TcpConnect {
            transport: None,
            arm: Arm::Main,
            address: address(),
            span: SPAN,
            outcome: TcpOutcome::Connected,
        }],
        tls: vec![tls(&url())],
        http: vec![http(url())],
        quic: vec![],
        references: vec![reference(ReferenceSide::Domestic), reference(ReferenceSide::Foreign)],
    };
    zerkalo_proto::record::encode(&record)
}

fn url(number: usize) -> TargetUrl {
    TargetUrl::parse(&format!("https://m{number}.lab.test/")).expect("a name with a number in it is one")
}

fn address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], 443))
}

fn dns(url: &TargetUrl, resolver: ResolverKind, query: QueryType) -> DnsExchange {
    let addresses = vec![address().ip()];
    DnsExchange {
        detail: DnsDetail::default(),
        transport: DnsTransport::Udp,
        others: vec![],
        resolver,
        server: SocketAddr::from(([198, 51, 100, 53], 53)),
        name: url.host(),
        query,
        span: SPAN,
        outcome: DnsOutcome::Answer { rcode: 0, addresses, cnames: vec![], ttl_min_secs: 300 },
    }
}

fn tls(url: &TargetUrl) -> TlsHandshake {
    let outcome = TlsOutcome::Completed {
        version: "TLSv1_3".to_owned(),
        cipher_suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        alpn: Some("h2".to_owned()),
    };
    TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm: Arm::Main,
        address: address(),
        sni: Some(url.host()),
        span: SPAN,
        bytes_sent: 600,
        bytes_received: 3_100,
        outcome,
        chain: vec![],
        chain_fault: Some(ChainFault::Valid),
    }
}

fn http(url: TargetUrl) -> HttpExchange {
    let headers = ["content-type", "date", "server", "etag", "cache-control"];
    HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url,
        address: address(),
        protocol: "h2".to_owned(),
        span: SPAN,
        last_byte_micros: Some(1_900),
        status: Some(200),
        headers: headers.map(|name| (name.to_owned(), "a value of usual length".to_owned())).to_vec(),
        body_len: 73_000,
        body_sha256: Sha256([7; 32]),
        title: Some("Mirror one".to_owned()),
        canary_found: None,
        excerpt: String::new(),
        outcome: HttpOutcome::Complete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_bounded_record_of_the_listed_mirror() {
        let record = zerkalo_proto::record::decode(&body(UnixMillis(1_000))).unwrap();
        let list = one_mirror(UnixMillis(0)).unwrap();
        assert_eq!(zerkalo_core::admission::accept(&record, Some(&list), UnixMillis(1_000)), Ok(()));
    }
}
