//! Records survive both encodings whole; nonsense is refused by the name of its field.

use zerkalo_core::record::*;
use zerkalo_core::target::{ReferenceSide, Sha256, TargetUrl};
use zerkalo_core::words::{MirrorId, UnixMillis};

use super::*;

#[expect(clippy::too_many_lines, reason = "one literal that holds every variant once")]
pub(crate) fn full() -> ProbeRecord {
    let url = TargetUrl::parse("https://mirror.example/").unwrap();
    let address = "192.0.2.7:443".parse().unwrap();
    let span = Span { start_micros: 10, duration_micros: 20 };
    let certificate = Certificate {
        sha256: Sha256([1; 32]),
        spki_sha256: Sha256([2; 32]),
        subject: "CN=mirror.example".into(),
        issuer: "C=KZ, O=ISCA".into(),
        not_before: UnixMillis(1),
        not_after: UnixMillis(2),
        der: vec![0x30, 0],
    };
    let dns = |resolver, outcome| DnsExchange {
        detail: DnsDetail {
            message_id: 1,
            edns_payload_len: Some(1_232),
            is_authoritative: true,
            is_recursion_available: true,
            is_authenticated: true,
            services: vec![HttpsService {
                priority: 1,
                target: "edge.example".into(),
                alpn: vec!["h3".into()],
                hints: vec!["192.0.2.8".parse().unwrap()],
                ech_config: vec![0, 1],
            }],
        },
        resolver,
        server: "[2001:db8::53]:53".parse().unwrap(),
        transport: DnsTransport::Tcp,
        name: "mirror.example".into(),
        query: QueryType::Aaaa,
        span,
        outcome,
        others: vec![DnsOtherAnswer {
            arrived_micros: 31,
            matches_question: true,
            rcode: 3,
            addresses: vec!["192.0.2.9".parse().unwrap()],
            ttl_min_secs: 7,
        }],
    };
    let transport =
        Some(Transport { bytes_acked: 1, bytes_received: 2, unacked_segments: 3, retransmits: 4 });
    let tcp = |outcome| TcpConnect { arm: Arm::OtherResolver, address, span, outcome, transport };
    let tls = |outcome, chain_fault| TlsHandshake {
        ja4: "t13d0910h2_x_y".into(),
        ech: Ech::Rejected,
        arm: Arm::OtherHello,
        address,
        sni: Some("mirror.example".into()),
        span,
        hello_shape: "classic".into(),
        hello_len: 1,
        bytes_sent: 1,
        bytes_received: 2,
        outcome,
        transport,
        chain: vec![certificate.clone()],
        chain_fault,
    };
    let http = |outcome| HttpExchange {
        first_byte_micros: Some(8),
        arm: Arm::Main,
        url: url.clone(),
        address,
        protocol: "h2".into(),
        span,
        last_byte_micros: Some(9),
        status: Some(302),
        headers: vec![("location".into(), "/x".into())],
        body_len: 16_384,
        body_sha256: Sha256([3; 32]),
        title: Some(String::new()),
        canary_found: Some(false),
        excerpt: "Доступ ограничен".into(),
        outcome,
        transport,
    };
    let quic = |outcome| QuicHandshake {
        arm: Arm::NeutralSni,
        chain: vec![certificate.clone()],
        chain_fault: Some(ChainFault::Valid),
        datagrams_received: 3,
        first_received: vec![0xc0, 0],
        versions_offered: vec![1],
        ja4: "q13d0310h3_x_y".into(),
        address,
        sni: "mirror.example".into(),
        span,
        bytes_sent: 1200,
        bytes_received: 0,
        outcome,
    };
    let text = || "why".to_owned();
    let completed = TlsOutcome::Completed {
        version: "TLSv1_3".into(),
        cipher_suite: "x".into(),
        alpn: Some("h2".into()),
    };
    ProbeRecord {
        clock: Some(ClockReading { monotonic_millis: 7, boot: [3; 8], error_millis: Some(40) }),
        network: Some(NetworkCheck {
            checked_at: UnixMillis(6),
            captive_host: Some("login.example".into()),
            ipv6: Ipv6Health::Broken,
            resolver_identity: vec!["192.0.2.53".into()],
            clock_ahead_millis: Some(-7),
            host_interference: Some("CN=Shield".into()),
            is_offline: true,
        }),
        hops: vec![HopProbe {
            address,
            sni: "mirror.example".into(),
            ttl: 3,
            span,
            outcome: TlsOutcome::Reset,
        }],
        uplink: Some(UplinkActivity {
            transport: Some(UplinkTransport::Quic),
            bytes_sent: 4_321,
            bytes_received: 210,
            is_switched: true,
        }),
        screenshot: Some(Screenshot {
            sha256: Sha256([4; 32]),
            len: 5,
            media_type: "image/webp".into(),
            address,
            span,
            failure: Some(text()),
        }),
        mirror: Some(MirrorId::parse("m1").unwrap()),
        url: url.clone(),
        list_version: 3,
        cause: Cause::Requested,
        started_at: UnixMillis(1_763_717_400_250),
        duration_micros: u64::MAX,
        agent_version: "0.1.0".into(),
        dns: vec![
            dns(
                ResolverKind::System,
                DnsOutcome::Answer {
                    rcode: 3,
                    addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                    cnames: vec!["a.example".into()],
                    ttl_min_secs: 60,
                },
            ),
            dns(ResolverKind::Public, DnsOutcome::Timeout),
            dns(ResolverKind::Public, DnsOutcome::Failed(text())),
        ],
        tcp: [
            TcpOutcome::Connected,
            TcpOutcome::Timeout,
            TcpOutcome::Refused,
            TcpOutcome::Reset,
            TcpOutcome::Unreachable(113),
            TcpOutcome::Forbidden(text()),
            TcpOutcome::Failed(text()),
        ]
        .map(tcp)
        .to_vec(),
        tls: vec![
            tls(completed, Some(ChainFault::Valid)),
            tls(TlsOutcome::Timeout, None),
            tls(TlsOutcome::Reset, Some(ChainFault::Expired)),
            tls(TlsOutcome::Eof, Some(ChainFault::NotYetValid)),
            tls(TlsOutcome::Alert(text()), Some(ChainFault::WrongName)),
            tls(TlsOutcome::Protocol(text()), Some(ChainFault::UnknownIssuer)),
            tls(TlsOutcome::Failed(text()), Some(ChainFault::Other(text()))),
        ],
        http: [
            HttpOutcome::Complete,
            HttpOutcome::Timeout,
            HttpOutcome::Reset,
            HttpOutcome::Eof,
            HttpOutcome::Protocol(text()),
            HttpOutcome::RedirectRefused(text()),
            HttpOutcome::Failed(text()),
        ]
        .map(http)
        .to_vec(),
        quic: [
            QuicOutcome::Completed { alpn: Some("h3".into()) },
            QuicOutcome::Timeout,
            QuicOutcome::Refused,
            QuicOutcome::Closed(text()),
            QuicOutcome::Failed(text()),
        ]
        .map(quic)
        .to_vec(),
        references: vec![ReferenceCheck {
            side: ReferenceSide::Foreign,
            url,
            checked_at: UnixMillis(5),
            reached: false,
            failure: Some("timeout".into()),
        }],
    }
}

#[test]
fn every_fact_survives_protobuf_and_json() {
    let record = full();
    assert_eq!(decode(&encode(&record)).unwrap(), record);
    let json = to_json(&record);
    assert!(json.contains("\"schema\": \"zerkalo.record.v1\""), "{json}");
    assert_eq!(from_json(&json).unwrap(), record);
}

#[test]
fn every_arm_survives() {
    for number in 1..=15 {
        let arm = wire::Arm::try_from(number).unwrap();
        let mut message = wire::ProbeRecord::from(&full());
        message.tcp[0].arm = arm.into();
        let record = decode(&message.encode_to_vec()).unwrap();
        assert_eq!(wire::ProbeRecord::from(&record).tcp[0].arm, number);
    }
    assert!(wire::Arm::try_from(16).is_err());
}

#[test]
fn a_record_of_an_older_agent_is_read_without_what_it_did_not_know() {
    let (mut record, mut message) = (full(), wire::ProbeRecord::from(&full()));
    message.dns.iter_mut().for_each(|step| (step.transport, step.others) = (0, vec![]));
    message.tcp.iter_mut().for_each(|step| step.transport = None);
    message.tls.iter_mut().for_each(|step| {
        (step.transport, step.hello_len, step.hello_shape) = (None, 0, String::new());
    });
    message.http.iter_mut().for_each(|step| (step.transport, step.first_byte_micros) = (None, None));
    message.quic.iter_mut().for_each(|step| step.arm = 0);
    message.dns.iter_mut().for_each(|step| step.detail = None);
    message.tls.iter_mut().for_each(|step| (step.ja4, step.ech) = (String::new(), 0));
    (message.network, message.hops, message.screenshot) = (None, vec![], None);
    record.dns.iter_mut().for_each(|step| (step.transport, step.others) = (DnsTransport::Udp, vec![]));
    record.tcp.iter_mut().for_each(|step| step.transport = None);
    record.tls.iter_mut().for_each(|step| {
        (step.transport, step.hello_len, step.hello_shape) = (None, 0, String::new());
    });
    record.http.iter_mut().for_each(|step| (step.transport, step.first_byte_micros) = (None, None));
    record.quic.iter_mut().for_each(|step| step.arm = Arm::Main);
    record.dns.iter_mut().for_each(|step| step.detail = DnsDetail::default());
    record.tls.iter_mut().for_each(|step| (step.ja4, step.ech) = (String::new(), Ech::Absent));
    (record.network, record.hops, record.screenshot) = (None, vec![], None);
    assert_eq!(decode(&message.encode_to_vec()).unwrap(), record);
}

#[test]
fn nonsense_is_refused_by_the_name_of_its_field() {
    let check = |change: &dyn Fn(&mut wire::ProbeRecord), part: &str| {
        let mut message = wire::ProbeRecord::from(&full());
        change(&mut message);
        let error = decode(&message.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    check(&|m| m.schema = "zerkalo.record.v9".into(), "schema");
    check(&|m| m.cause = 77, "cause");
    check(&|m| m.url = "nonsense".into(), "url");
    check(&|m| m.mirror = "../m".into(), "mirror");
    check(&|m| m.dns[0].others[0].addresses.push("there".into()), "dns.others.addresses");
    check(&|m| m.dns[0].transport = 77, "dns.transport");
    check(&|m| m.dns[0].others[0].rcode = 70_000, "dns.others.rcode");
    check(&|m| m.tcp[0].address = "here".into(), "tcp.address");
    check(&|m| m.tcp[0].outcome = None, "tcp.outcome");
    check(&|m| m.tls[0].chain[0].sha256.push(0), "tls.chain.sha256");
    check(&|m| m.http[0].status = 70_000, "http.status");
    check(&|m| m.references[0].side = 0, "references.side");
    check(&|m| m.dns[0].detail.as_mut().unwrap().message_id = 70_000, "dns.detail.message_id");
    check(&|m| m.tls[0].ech = 77, "tls.ech");
    check(&|m| m.network.as_mut().unwrap().ipv6 = 77, "network.ipv6");
    check(&|m| m.hops[0].ttl = 256, "hops.ttl");
    check(&|m| m.hops[0].hello = None, "hops.hello");
    check(&|m| m.hops[0].hello.as_mut().unwrap().outcome = None, "hops.hello.outcome");
    check(&|m| m.screenshot.as_mut().unwrap().sha256.clear(), "screenshot.sha256");
    assert!(decode(b"\xff\xff\xff").is_err());
    assert!(from_json("{\"schema\": 5}").is_err());
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_are_an_error_or_a_record_but_never_a_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        at in proptest::prelude::any::<proptest::sample::Index>(),
        bit in 0u8..8,
    ) {
        let _ = decode(&noise);
        let mut bytes = encode(&full());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(record) = decode(&bytes) {
            proptest::prop_assert_eq!(decode(&encode(&record)).ok(), Some(record));
        }
    }
}
