//! A table of small cases, each with the rule that must speak, and a healthy twin where one could be mistaken.

mod beside;
mod controls;
mod cuts;
mod gate;
mod identity;
mod line;
pub(crate) mod transfer;

use super::*;
use crate::record::*;
use crate::target::{ReferenceSide, TargetUrl};
use crate::words::{Country, MarketId, MirrorId, UnixMillis};

pub(crate) const OWN: &str = "198.51.100.7";

pub(crate) fn mirror() -> Mirror {
    Mirror {
        large_page: None,
        id: MirrorId::parse("m1").unwrap(),
        url: url("https://mirror.example/"),
        markets: vec![MarketId::parse("kz").unwrap()],
        canary: Some("canary-4711".into()),
        key_pins: vec![],
        expected_addresses: vec![OWN.parse().unwrap()],
        standby: false,
        category: None,
    }
}

fn url(text: &str) -> TargetUrl {
    TargetUrl::parse(text).unwrap()
}

fn socket(ip: &str) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip.parse().unwrap(), 443)
}

pub(crate) fn answer(rcode: u16, addresses: &[&str]) -> DnsOutcome {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    DnsOutcome::Answer { rcode, addresses, cnames: vec![], ttl_min_secs: 60 }
}

fn certificate(issuer: &str, spki: u8) -> Certificate {
    Certificate {
        sha256: Sha256([spki; 32]),
        spki_sha256: Sha256([spki; 32]),
        subject: "CN=mirror.example".into(),
        issuer: issuer.into(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: vec![],
    }
}

fn done() -> TlsOutcome {
    TlsOutcome::Completed { version: "TLSv1_3".into(), cipher_suite: "x".into(), alpn: None }
}

fn tls(arm: Arm, outcome: TlsOutcome) -> TlsHandshake {
    let whole = matches!(outcome, TlsOutcome::Completed { .. });
    TlsHandshake {
        ja4: String::new(),
        ech: Ech::Absent,
        hello_shape: String::new(),
        hello_len: 0,
        transport: None,
        arm,
        address: socket(OWN),
        sni: Some("mirror.example".into()),
        span: Span::default(),
        bytes_sent: 300,
        bytes_received: 0,
        outcome,
        chain: if whole { vec![certificate("CN=Public CA", 1)] } else { vec![] },
        chain_fault: whole.then_some(ChainFault::Valid),
    }
}

fn http(at: &str, status: u16, canary: bool) -> HttpExchange {
    HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url: url(at),
        address: socket(OWN),
        protocol: "h1".into(),
        span: Span::default(),
        last_byte_micros: Some(1),
        status: Some(status),
        headers: vec![],
        body_len: 70_000,
        body_sha256: Sha256::default(),
        title: None,
        canary_found: Some(canary),
        excerpt: String::new(),
        outcome: HttpOutcome::Complete,
    }
}

/// What a visit to the healthy mirror records.
pub(crate) fn healthy() -> ProbeRecord {
    let check = |side| ReferenceCheck {
        side,
        url: url("https://reference.example/"),
        checked_at: UnixMillis(0),
        reached: true,
        failure: None,
    };
    ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: Some(mirror().id),
        url: mirror().url,
        list_version: 1,
        cause: Cause::Scheduled,
        started_at: UnixMillis(0),
        duration_micros: 1,
        agent_version: "t".into(),
        dns: vec![DnsExchange {
            detail: DnsDetail::default(),
            transport: DnsTransport::Udp,
            others: vec![],
            resolver: ResolverKind::System,
            server: "192.0.2.53:53".parse().unwrap(),
            name: "mirror.example".into(),
            query: QueryType::A,
            span: Span::default(),
            outcome: answer(0, &[OWN]),
        }],
        tcp: vec![TcpConnect {
            transport: None,
            arm: Arm::Main,
            address: socket(OWN),
            span: Span::default(),
            outcome: TcpOutcome::Connected,
        }],
        tls: vec![tls(Arm::Main, done())],
        http: vec![http("https://mirror.example/", 200, true)],
        quic: vec![],
        references: vec![check(ReferenceSide::Domestic), check(ReferenceSide::Foreign)],
    }
}

pub(crate) fn verdict(record: &ProbeRecord, control: Option<&ProbeRecord>) -> Verdict {
    let (mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    let control = control.map(|control| (Sha256([9; 32]), control));
    judge(&Case {
        record,
        control,
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: None,
        home: None,
    })
}

/// The verdict of a record changed by `change`, with a healthy control, as "rule outcome mechanism trigger".
#[track_caller]
pub(crate) fn check(expected: &str, change: impl Fn(&mut ProbeRecord)) {
    let mut record = healthy();
    change(&mut record);
    assert_eq!(summary(&verdict(&record, Some(&healthy()))), expected);
}

pub(crate) fn summary(verdict: &Verdict) -> String {
    let words = [
        Some(verdict.rule.clone()),
        Some(verdict.outcome.to_string()),
        verdict.mechanism.map(|m| m.to_string()),
        verdict.trigger.map(|t| t.to_string()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn without_tls(record: &mut ProbeRecord) {
    record.tls.clear();
    record.http.clear();
}

pub(crate) fn cut(record: &mut ProbeRecord, outcome: TlsOutcome, neutral: Option<TlsOutcome>) {
    record.http.clear();
    record.tls = vec![tls(Arm::Main, outcome)];
    record.tls.extend(neutral.map(|outcome| tls(Arm::NeutralSni, outcome)));
}

#[test]
fn identity_beats_every_oddity() {
    check("identity.reached ok", |_| {});
    check("identity.reached ok", |r| r.dns[0].outcome = answer(0, &["95.167.13.50"]));
    check("identity.reached ok", |r| r.references.iter_mut().for_each(|c| c.reached = false));
}

#[test]
fn dns_lies_are_told_apart() {
    let lie = |outcome: DnsOutcome| {
        move |r: &mut ProbeRecord| {
            r.dns[0].outcome = outcome.clone();
            r.tcp.clear();
            without_tls(r);
        }
    };
    check("dns.no_address blocked dns.nxdomain name", lie(answer(3, &[])));
    check("dns.no_address blocked dns.refused name", lie(answer(5, &[])));
    check("dns.no_address blocked dns.servfail name", lie(answer(2, &[])));
    check("dns.no_address blocked dns.timeout name", lie(DnsOutcome::Timeout));
    check("dns.stub_address blocked dns.injection.blockpage name", lie(answer(0, &["95.167.13.50"])));
    check("dns.bogon blocked dns.injection.bogon name", lie(answer(0, &["127.0.0.1"])));
    check("dns.other_address blocked dns.injection.other name", lie(answer(0, &["9.9.9.10"])));
    check("dns.no_address blocked dns.injection.other name", lie(answer(0, &[])));
    check("contradictory insufficient", lie(DnsOutcome::Failed("garbage".into())));
    // A known page at a false address is the resolver's doing.
    check("http.stub_page blocked dns.injection.blockpage name", |r| {
        r.url = url("http://mirror.example/");
        r.dns[0].outcome = answer(0, &["9.9.9.10"]);
        r.tls.clear();
        r.http = vec![http("http://mirror.example/", 200, false)];
        r.http[0].address = socket("9.9.9.10");
        r.http[0].excerpt = "включен в ЕДИНЫЙ РЕЕСТР доменных имен".into();
    });
}

#[test]
fn tcp_failures_are_told_apart() {
    let tcp = |outcome: TcpOutcome| {
        move |r: &mut ProbeRecord| {
            r.tcp[0].outcome = outcome.clone();
            without_tls(r);
        }
    };
    check("tcp.unconnected blocked tcp.timeout ip", tcp(TcpOutcome::Timeout));
    check("tcp.unconnected blocked tcp.reset ip", tcp(TcpOutcome::Reset));
    check("tcp.unconnected blocked tcp.refused ip", tcp(TcpOutcome::Refused));
    check("tcp.unconnected blocked tcp.unreachable ip", tcp(TcpOutcome::Unreachable(113)));
    check("contradictory insufficient", tcp(TcpOutcome::Forbidden("loopback".into())));
}

#[test]
fn tls_cuts_name_their_trigger() {
    check("tls.cut blocked tls.timeout unknown", |r| cut(r, TlsOutcome::Timeout, None));
    check("tls.cut blocked tls.timeout sni", |r| cut(r, TlsOutcome::Timeout, Some(done())));
    check("tls.cut blocked tls.timeout unknown", |r| cut(r, TlsOutcome::Timeout, Some(TlsOutcome::Timeout)));
    check("tls.cut blocked tls.reset sni", |r| cut(r, TlsOutcome::Reset, Some(done())));
    check("tls.cut blocked tls.eof sni", |r| cut(r, TlsOutcome::Eof, Some(done())));
    check("contradictory insufficient", |r| cut(r, TlsOutcome::Protocol("garbage".into()), None));
}

#[test]
fn a_block_on_the_second_hop_is_a_block() {
    let sent_on = |r: &mut ProbeRecord| {
        r.http[0] = http("https://mirror.example/", 302, false);
        r.http[0].headers = vec![("location".into(), "https://landing.example/".into())];
        r.http[0].span = Span { start_micros: 10, duration_micros: 10 };
    };
    let landing = socket("198.51.100.8");
    let connect = |outcome| TcpConnect {
        transport: None,
        arm: Arm::Main,
        address: landing,
        span: Span { start_micros: 30, duration_micros: 1 },
        outcome,
    };
    check("tcp.unconnected blocked tcp.timeout ip", |r| {
        sent_on(r);
        r.tcp.push(connect(TcpOutcome::Timeout));
    });
    check("tls.cut blocked tls.reset unknown", |r| {
        sent_on(r);
        r.tcp.push(connect(TcpOutcome::Connected));
        let mut cut = tls(Arm::Main, TlsOutcome::Reset);
        (cut.address, cut.sni, cut.span.start_micros) = (landing, Some("landing.example".into()), 40);
        r.tls.push(cut);
    });
}

#[test]
fn a_hello_never_acknowledged_and_one_then_ignored_differ() {
    let check = |bytes_acked, bytes_received, expected: &str| {
        let mut record = healthy();
        cut(&mut record, TlsOutcome::Timeout, None);
        record.tls[0].hello_len = 517;
        record.tls[0].bytes_received = bytes_received;
        record.tls[0].transport =
            Some(Transport { bytes_acked, bytes_received, unacked_segments: 1, retransmits: 4 });
        let verdict = verdict(&record, Some(&healthy()));
        assert!(verdict.basis.iter().any(|line| line == expected), "{verdict:?}");
    };
    check(0, 0, "of the 517 bytes of ClientHello 0 were acknowledged, after 4 retransmits");
    check(517, 0, "all 517 bytes of ClientHello were acknowledged, then no byte came");
    check(518, 7, "all 517 bytes of ClientHello were acknowledged");
    // A record without the kernel's word keeps silent about it.
    let mut record = healthy();
    cut(&mut record, TlsOutcome::Timeout, None);
    assert!(!verdict(&record, Some(&healthy())).basis.iter().any(|line| line.contains("acknowledged")));
}

#[test]
fn the_fate_of_another_hello_is_told() {
    let check = |outcome: TlsOutcome, expected: &str| {
        let mut record = healthy();
        cut(&mut record, TlsOutcome::Timeout, None);
        (record.tls[0].hello_shape, record.tls[0].hello_len) = ("pq".into(), 1_700);
        let other = tls(Arm::OtherHello, outcome);
        record.tls.push(TlsHandshake { hello_shape: "classic".into(), hello_len: 250, ..other });
        let verdict = verdict(&record, Some(&healthy()));
        assert_eq!(summary(&verdict), "tls.cut blocked tls.timeout unknown");
        assert_eq!(verdict.basis.last().map(String::as_str), Some(expected));
    };
    let both = "a classic hello of 250 bytes";
    check(done(), &format!("{both} passes where the pq one of 1700 bytes does not: its shape matters"));
    check(TlsOutcome::Timeout, &format!("{both} fares no better than the pq one of 1700 bytes"));
}

#[test]
fn interception_is_known_by_its_authority() {
    let intercepted = |issuer: &'static str| {
        move |r: &mut ProbeRecord| {
            r.tls[0].chain = vec![certificate(issuer, 7)];
            r.tls[0].chain_fault = Some(ChainFault::UnknownIssuer);
            r.http[0].canary_found = Some(true);
        }
    };
    let state = "C=KZ, O=ISCA, CN=Information Security Certification Authority";
    check("tls.state_ca blocked tls.mitm.state_ca sni", intercepted(state));
    check("tls.other_key blocked tls.mitm.other sni", intercepted("CN=Nobody"));
    check("host.interceptor insufficient", intercepted("O=AO Kaspersky Lab, CN=Kaspersky Anti-Virus Root"));
}

/// Kazakhstan went on intercepting with an intermediate that had expired.
#[test]
fn an_expired_state_authority_is_one_still_and_named() {
    let now = UnixMillis(1_700_000_000_000);
    let intercepted = |issuer: &str, sha256: Option<&str>| {
        let mut record = healthy();
        record.started_at = now;
        let mut leaf = certificate(issuer, 7);
        leaf.not_after = now.plus_secs(60);
        let mut authority = certificate("CN=some root", 8);
        (authority.subject, authority.not_after) = (issuer.to_owned(), now.minus_millis(1_000));
        authority.sha256 = sha256.map_or(authority.sha256, |digest| Sha256::from_hex(digest).unwrap());
        record.tls[0].chain = vec![leaf, authority];
        record.tls[0].chain_fault = Some(ChainFault::Expired);
        verdict(&record, Some(&healthy()))
    };
    let by_name = intercepted("C=KZ, O=ISCA, CN=Information Security Certification Authority", None);
    let digest = "00309c736dd661da6f1eb24173aa849944c168a43a15bffd192eecfdb6f8dbd2";
    let by_digest = intercepted("CN=renamed", Some(digest));
    for (verdict, which) in [(&by_name, "CN=Information Security"), (&by_digest, digest)] {
        assert_eq!(summary(verdict), "tls.state_ca blocked tls.mitm.state_ca sni");
        assert!(
            verdict.basis[0].contains(which) && verdict.basis[0].ends_with("authority of kz"),
            "{verdict:?}"
        );
        let expired = &verdict.basis[1..];
        assert_eq!(expired.len(), 1, "the leaf is valid still: {verdict:?}");
        assert!(expired[0].ends_with("issued by \"CN=some root\", had expired on 2023-11-14T22:13:19.000Z"));
    }
    // An expired certificate of nobody's is no authority.
    assert_eq!(summary(&intercepted("CN=renamed", None)), "tls.other_key blocked tls.mitm.other sni");
}

#[test]
fn http_interference_is_told_apart() {
    let plain = |change: fn(&mut HttpExchange)| {
        move |r: &mut ProbeRecord| {
            r.url = url("http://mirror.example/");
            r.tls.clear();
            r.http = vec![http("http://mirror.example/", 200, false)];
            change(&mut r.http[0]);
        }
    };
    check(
        "http.stub_redirect blocked http.redirect host",
        plain(|x| {
            x.status = Some(302);
            x.headers = vec![("location".into(), "http://warning.rt.ru/?id=1".into())];
        }),
    );
    check(
        "http.foreign_redirect blocked http.redirect host",
        plain(|x| {
            x.status = Some(302);
            x.headers = vec![("location".into(), "http://stub.example/".into())];
        }),
    );
    check(
        "http.stub_page blocked http.blockpage host",
        plain(|x| x.excerpt = "… включен в ЕДИНЫЙ РЕЕСТР доменных имен …".into()),
    );
    check(
        "http.stub_page blocked http.redirect host",
        plain(|x| {
            x.url = url("http://unlisted.example/");
            x.excerpt = "… включен в ЕДИНЫЙ РЕЕСТР доменных имен …".into();
        }),
    );
    check("http.other_page blocked http.blockpage host", plain(|x| x.excerpt = "Доступ ограничен".into()));
    check(
        "http.broken_redirect blocked http.redirect host",
        plain(|x| {
            x.status = Some(302);
            x.outcome = HttpOutcome::RedirectRefused("more than 10 redirects".into());
        }),
    );
    check("http.cut blocked http.reset host", plain(|x| x.outcome = HttpOutcome::Reset));
    check(
        "network.unpaid restricted",
        plain(|x| {
            x.status = Some(302);
            x.headers = vec![("location".into(), "http://unblock.mts.ru/".into())];
        }),
    );
}

/// The verdict in Kazakhstan with rows of a public list, and how often the basis speaks of suspicion.
#[track_caller]
fn check_rows(expected: &str, rows: &[&str], change: impl Fn(&mut ProbeRecord)) {
    let (mirror, control) = (mirror(), healthy());
    let fingerprints = crate::fingerprint::tests::with_rows(rows);
    let mut record = healthy();
    change(&mut record);
    let verdict = judge(&Case {
        record: &record,
        control: Some((Sha256([9; 32]), &control)),
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: Country::parse("KZ").ok(),
        home: None,
    });
    let remarks = verdict.basis.iter().filter(|line| line.contains("only") || line.contains("confirms here"));
    assert_eq!(format!("{}, {} remarks", summary(&verdict), remarks.count()), expected, "{verdict:?}");
}

#[test]
fn rows_of_public_lists_confirm_suspect_and_suppress() {
    let page = |r: &mut ProbeRecord| {
        r.url = url("http://mirror.example/");
        r.tls.clear();
        r.http = vec![http("http://mirror.example/", 200, false)];
        r.http[0].excerpt = "closed by order".into();
        r.http[0].headers = vec![("server".into(), "Wall".into())];
    };
    let redirect = |r: &mut ProbeRecord| {
        page(r);
        r.http[0].status = Some(302);
        r.http[0].headers = vec![("location".into(), "http://stub.example?x".into())];
    };
    let stub = "http.stub_page blocked http.blockpage host, 0 remarks";
    let other = "http.other_page blocked http.blockpage host, 1 remarks";
    check_rows(stub, &["r nat body contains KZ 5 by order"], page);
    check_rows(stub, &["r isp header.server full KZ 5 Wall"], page);
    check_rows(other, &["r nat body contains RU 5 by order"], page);
    check_rows(other, &["r vbw body contains KZ 5 by order"], page);
    check_rows(other, &["r nat body contains KZ 5 by order", "f fp body contains - 5 closed"], page);
    check_rows(
        "http.other_page blocked http.blockpage host, 1 remarks",
        &["r isp header.server full KZ 5 Wall", "f fp body contains - 5 closed"],
        page,
    );
    let prefix = "r isp header.location prefix KZ 5 http://stub.example?";
    check_rows("http.stub_redirect blocked http.redirect host, 0 remarks", &[prefix], redirect);
    let lie = |r: &mut ProbeRecord| {
        r.dns[0].outcome = answer(0, &["9.9.9.10"]);
        r.tcp.clear();
        without_tls(r);
    };
    let known = "dns.stub_address blocked dns.injection.blockpage name, 0 remarks";
    check_rows(known, &["r isp dns full KZ 5 9.9.9.10"], lie);
    check_rows(
        "dns.other_address blocked dns.injection.other name, 1 remarks",
        &["r isp dns full RU 5 9.9.9.10"],
        lie,
    );
    // Its own page under its own key may say what it likes, and a reached mirror is not discussed.
    check_rows("identity.reached ok, 0 remarks", &["r nat body contains KZ 5 by order"], |r| {
        r.http[0].excerpt = "closed by order".into();
    });
}

#[test]
fn transfers_and_origins_are_told_apart() {
    check("transfer.freeze blocked transfer.freeze ip", |r| {
        r.http[0].outcome = HttpOutcome::Timeout;
        r.http[0].body_len = 16_384;
        r.http[0].span.duration_micros = 15_000_000;
    });
    check("http.cut blocked http.timeout unknown", |r| {
        r.http[0].outcome = HttpOutcome::Timeout;
        r.http[0].body_len = 0;
    });
    // The kernel got what TLS could not show yet.
    check("transfer.freeze blocked transfer.freeze ip", |r| {
        r.http[0].outcome = HttpOutcome::Timeout;
        r.http[0].body_len = 0;
        r.http[0].span.duration_micros = 15_000_000;
        r.http[0].transport =
            Some(Transport { bytes_acked: 600, bytes_received: 16_900, unacked_segments: 0, retransmits: 0 });
    });
    check("http.cut blocked http.eof unknown", |r| r.http[0].outcome = HttpOutcome::Eof);
    check("origin.refused refused", |r| r.http[0] = http("https://mirror.example/", 403, false));
    // A stub with a certificate of its own is not the origin.
    for status in [200, 451] {
        check("http.foreign_redirect blocked http.redirect host", move |r| {
            r.url = url("http://mirror.example/");
            r.tls[0].sni = Some("stub.example".into());
            let mut sent = http("http://mirror.example/", 302, false);
            sent.headers = vec![("location".into(), "https://stub.example/".into())];
            r.http = vec![sent, http("https://stub.example/", status, false)];
        });
    }
    // The origin's own page may quote a register; under its own key that is no stub, but it is not the control's page.
    check("origin.refused refused", |r| {
        r.http[0].canary_found = Some(false);
        r.http[0].excerpt = "включен в ЕДИНЫЙ РЕЕСТР доменных имен".into();
    });
}

#[test]
fn the_state_of_the_network_is_no_block() {
    let fail = |r: &mut ProbeRecord, sides: &[ReferenceSide]| {
        cut(r, TlsOutcome::Timeout, None);
        r.references.iter_mut().for_each(|c| c.reached = !sides.contains(&c.side));
    };
    check("network.whitelist restricted", |r| fail(r, &[ReferenceSide::Foreign]));
    check("network.shutdown restricted", |r| fail(r, &[ReferenceSide::Foreign, ReferenceSide::Domestic]));
    check("tls.cut blocked tls.timeout unknown", |r| fail(r, &[ReferenceSide::Domestic]));
}

#[test]
fn a_certificate_that_browsers_refuse_everywhere_is_the_site_s_fault() {
    let (mut mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    mirror.key_pins = vec![Sha256([1; 32])];
    let mut record = healthy();
    record.tls[0].chain_fault = Some(ChainFault::Expired);
    let judged = |control: &ProbeRecord| {
        summary(&judge(&Case {
            record: &record,
            control: Some((Sha256([9; 32]), control)),
            others: &[],
            mirror: Some(&mirror),
            fingerprints: &fingerprints,
            country: None,
            home: None,
        }))
    };
    assert_eq!(judged(&record.clone()), "origin.certificate down");
    // Here alone: this agent's clock or roots.
    assert_eq!(judged(&healthy()), "identity.reached ok");
}

#[test]
fn pins_replace_public_authorities() {
    let (mut mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    let mut record = healthy();
    record.tls[0].chain_fault = Some(ChainFault::Expired);
    let mut judged = |pins: Vec<Sha256>| {
        mirror.key_pins = pins;
        summary(&judge(&Case {
            record: &record,
            control: None,
            others: &[],
            mirror: Some(&mirror),
            fingerprints: &fingerprints,
            country: None,
            home: None,
        }))
    };
    assert_eq!(judged(vec![Sha256([1; 32])]), "identity.reached ok");
    assert_eq!(judged(vec![Sha256([2; 32])]), "control.missing insufficient");
    assert_eq!(judged(vec![]), "control.missing insufficient");
}

#[test]
fn rule_ids_stand_once_and_name_their_source() {
    let mut ids: Vec<_> = rules().iter().map(|rule| rule.id).collect();
    assert!(DOUBTFUL.iter().all(|doubtful| ids.contains(doubtful)), "a rule no longer in the table");
    assert!(rules().iter().all(|rule| !rule.source.is_empty()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rules().len());
}
