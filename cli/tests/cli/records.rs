//! Two visits to one mirror: one that went well, one whose ClientHello met silence.

use std::net::{IpAddr, SocketAddr};

use zerkalo_core::record::{
    Arm, Cause, Certificate, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, HttpExchange,
    HttpOutcome, ProbeRecord, QueryType, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake,
    TlsOutcome,
};
use zerkalo_core::target::{Sha256, TargetUrl};
use zerkalo_core::words::UnixMillis;

pub const NOON: UnixMillis = UnixMillis(1_790_000_000_000);
pub const URL: &str = "https://mirror.example/";

/// A visit that went well.
pub fn reached() -> ProbeRecord {
    let url = TargetUrl::parse(URL).unwrap();
    let mut record = silenced();
    let certificate = Certificate {
        sha256: Sha256([1; 32]),
        spki_sha256: Sha256([2; 32]),
        subject: "CN=mirror.example".to_owned(),
        issuer: "CN=A Public CA".to_owned(),
        not_before: NOON.minus_millis(86_400_000),
        not_after: NOON.plus_secs(86_400),
        der: vec![],
    };
    record.tls[0].outcome = TlsOutcome::Completed {
        version: "TLSv1_3".to_owned(),
        cipher_suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        alpn: Some("h2".to_owned()),
    };
    record.tls[0].bytes_received = 2_000;
    record.tls[0].chain = vec![certificate];
    record.tls[0].chain_fault = Some(ChainFault::Valid);
    record.tls.truncate(1);
    record.tcp.truncate(1);
    record.http = vec![HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url,
        address: address(),
        protocol: "h2".to_owned(),
        span: Span { start_micros: 60_000, duration_micros: 30_000 },
        last_byte_micros: Some(29_000),
        status: Some(200),
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        body_len: 5_000,
        body_sha256: Sha256::of(b"page"),
        title: Some("Mirror".to_owned()),
        canary_found: Some(true),
        excerpt: String::new(),
        outcome: HttpOutcome::Complete,
    }];
    record
}

/// A visit whose ClientHello was never answered, while a neutral name was.
pub fn silenced() -> ProbeRecord {
    let span = Span { start_micros: 1_000, duration_micros: 20_000 };
    let dns = |resolver, server: &str| DnsExchange {
        detail: DnsDetail::default(),
        transport: DnsTransport::Udp,
        others: vec![],
        resolver,
        server: server.parse().unwrap(),
        name: "mirror.example".to_owned(),
        query: QueryType::A,
        span,
        outcome: DnsOutcome::Answer {
            rcode: 0,
            addresses: vec![address().ip()],
            cnames: vec![],
            ttl_min_secs: 60,
        },
    };
    let tcp =
        |arm| TcpConnect { transport: None, arm, address: address(), span, outcome: TcpOutcome::Connected };
    let tls = |arm, sni: &str, outcome| TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm,
        address: address(),
        sni: Some(sni.to_owned()),
        span,
        bytes_sent: 517,
        bytes_received: 0,
        outcome,
        chain: vec![],
        chain_fault: None,
    };
    let completed = TlsOutcome::Completed {
        version: "TLSv1_3".to_owned(),
        cipher_suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        alpn: None,
    };
    ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: None,
        url: TargetUrl::parse(URL).unwrap(),
        list_version: 0,
        cause: Cause::Manual,
        started_at: NOON,
        duration_micros: 10_000_000,
        agent_version: "0.1.0".to_owned(),
        dns: vec![dns(ResolverKind::System, "198.51.100.53:53"), dns(ResolverKind::Public, "9.9.9.9:53")],
        tcp: vec![tcp(Arm::Main), tcp(Arm::NeutralSni)],
        tls: vec![
            tls(Arm::Main, "mirror.example", TlsOutcome::Timeout),
            tls(Arm::NeutralSni, "www.example.com", completed),
        ],
        http: vec![],
        quic: vec![],
        references: vec![],
    }
}

fn address() -> SocketAddr {
    SocketAddr::new(IpAddr::from([93, 184, 216, 34]), 443)
}
