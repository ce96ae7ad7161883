//! Races and other contradictions, each with the honest twin that must prove nothing.

use super::super::tests::{OWN, answer, check, cut, healthy, mirror, summary, verdict};
use crate::catalogue::Carrier;
use crate::fingerprint::Fingerprints;
use crate::judge::{Case, Home, judge};
use crate::networks::Networks;
use crate::record::*;
use crate::target::Sha256;
use crate::verdict::Verdict;
use crate::words::{CarrierId, MarketId};

/// A false first answer, and another one `arrived_micros` after the probe's beginning; the visit failed.
fn raced(record: &mut ProbeRecord, first: DnsOutcome, second: &str, arrived_micros: u64) {
    cut(record, TlsOutcome::Reset, None);
    record.dns[0].outcome = first;
    record.dns[0].span = Span { start_micros: 10, duration_micros: 1_000 };
    record.dns[0].others = vec![DnsOtherAnswer {
        arrived_micros,
        matches_question: true,
        rcode: 0,
        addresses: vec![second.parse().unwrap()],
        ttl_min_secs: 60,
    }];
}

/// The verdict where the operator does not state the mirror's addresses.
fn without_stated_addresses(record: &ProbeRecord, control: &ProbeRecord, home: Option<Home<'_>>) -> Verdict {
    let (mut mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    mirror.expected_addresses.clear();
    judge(&Case {
        record,
        control: Some((Sha256([9; 32]), control)),
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: None,
        home,
    })
}

#[test]
fn the_truth_that_comes_second_shows_an_injection() {
    check("dns.other_address blocked dns.injection.other name", |r| {
        raced(r, answer(0, &["9.9.9.10"]), OWN, 9_000);
    });
    check("dns.bogon blocked dns.injection.bogon name", |r| raced(r, answer(0, &["10.1.2.3"]), OWN, 9_000));
    check("dns.no_address blocked dns.nxdomain name", |r| raced(r, answer(3, &[]), OWN, 9_000));
    check("dns.no_address blocked dns.injection.other name", |r| {
        raced(r, DnsOutcome::Failed("garbage".into()), OWN, 9_000);
    });
    // The other question's honest answer does not hide the race.
    check("dns.other_address blocked dns.injection.other name", |r| {
        raced(r, answer(0, &["9.9.9.10"]), OWN, 9_000);
        let honest = DnsExchange { outcome: answer(0, &[OWN]), others: vec![], ..r.dns[0].clone() };
        r.dns.push(DnsExchange { query: QueryType::Aaaa, ..honest });
    });
    // The liar came second: the visit failed for another reason.
    let cut = "tls.cut blocked tls.reset unknown";
    check(cut, |r| raced(r, answer(0, &[OWN]), "9.9.9.10", 9_000));
    // Another address of an honest resolver is no contradiction, and what came before the answer taken is no race.
    check(cut, |r| raced(r, answer(0, &[OWN]), OWN, 9_000));
}

#[test]
fn a_race_proves_the_lie_where_nothing_else_does() {
    let judged = |change: &dyn Fn(&mut ProbeRecord)| {
        let mut record = healthy();
        raced(&mut record, answer(0, &["9.9.9.10"]), OWN, 9_000);
        change(&mut record);
        without_stated_addresses(&record, &healthy(), None)
    };
    let lie = judged(&|_| {});
    assert_eq!(summary(&lie), "dns.other_address blocked dns.injection.other name");
    assert!(lie.basis[1].contains("198.51.100.7 came 7990 us after"), "{lie:?}");
    let cut = "tls.cut blocked tls.reset unknown";
    assert_eq!(summary(&judged(&|r| r.dns[0].others.clear())), cut);
    assert_eq!(summary(&judged(&|r| r.dns[0].others[0].matches_question = false)), cut);
    assert_eq!(summary(&judged(&|r| r.dns[0].others[0].arrived_micros = 900)), cut);
    // Asked twice, an honest resolver with many addresses may give two answers.
    assert_eq!(summary(&judged(&|r| r.dns[0].span.duration_micros = DNS_RESEND_AFTER_MICROS)), cut);
}

#[test]
fn a_public_resolver_honest_by_tcp_alone_is_noted() {
    let noted = |by_udp: DnsOutcome, by_tcp: DnsOutcome| {
        let mut record = healthy();
        cut(&mut record, TlsOutcome::Reset, None);
        record.dns[0].outcome = answer(0, &["9.9.9.10"]);
        for (transport, outcome) in [(DnsTransport::Udp, by_udp), (DnsTransport::Tcp, by_tcp)] {
            let resolver = ResolverKind::Public;
            record.dns.push(DnsExchange { resolver, transport, outcome, ..record.dns[0].clone() });
        }
        let verdict = verdict(&record, Some(&healthy()));
        assert_eq!(verdict.rule, "dns.other_address");
        verdict.basis.into_iter().find(|line| line.contains("over TCP"))
    };
    let lie = noted(answer(0, &["9.9.9.10"]), answer(0, &[OWN])).unwrap();
    assert!(lie.contains("gives 9.9.9.10 over UDP and 198.51.100.7 over TCP"), "{lie}");
    assert!(noted(DnsOutcome::Timeout, answer(0, &[OWN])).unwrap().contains("gives no address over UDP"));
    assert_eq!(noted(answer(0, &[OWN]), answer(0, &[OWN])), None);
    assert_eq!(noted(answer(0, &["9.9.9.10"]), answer(0, &["9.9.9.10"])), None);
    assert_eq!(noted(answer(0, &["9.9.9.10"]), DnsOutcome::Timeout), None);
}

/// A visit to a false address in 5.3.3.0/24, by a subscriber of whoever announces AS1, judged by what else is known.
fn at_home(control_address: &str, change: &dyn Fn(&mut ProbeRecord)) -> Verdict {
    let networks = Networks::parse(["5.3.3.0,5.3.3.255,1,Home\n9.9.9.0,9.9.9.255,2,Abroad\n"]).unwrap();
    let carrier = Carrier {
        id: CarrierId::parse("ru-home").unwrap(),
        name: "Home".to_owned(),
        market: MarketId::parse("ru").unwrap(),
        asns: vec![1],
    };
    let (mut control, mut record) = (healthy(), healthy());
    control.dns[0].outcome = answer(0, &[control_address]);
    record.dns[0].outcome = answer(0, &["5.3.3.77"]);
    record.tcp[0].outcome = TcpOutcome::Timeout;
    record.tls.clear();
    record.http.clear();
    change(&mut record);
    without_stated_addresses(&record, &control, Some(Home { carrier: &carrier, networks: &networks }))
}

#[test]
fn an_answer_inside_the_carriers_own_network_is_a_lie_where_the_controls_is_not() {
    let lie = at_home(OWN, &|_| {});
    assert_eq!(summary(&lie), "dns.other_address blocked dns.injection.other name");
    let named = "5.3.3.77 lies in Home's own network, AS1 (Home); the mirror's addresses do not";
    assert!(lie.basis.iter().any(|line| line == named), "{lie:?}");
    let unconnected = "tcp.unconnected blocked tcp.timeout ip";
    // The mirror itself has an address there: hosters keep caches at carriers.
    assert_eq!(summary(&at_home("5.3.3.9", &|_| {})), unconnected);
    // Another network's address proves nothing.
    assert_eq!(summary(&at_home(OWN, &|r| r.dns[0].outcome = answer(0, &["9.9.9.10"]))), unconnected);
    // A handshake cut there may be one with a cache of the mirror's hoster.
    let cut_there = at_home(OWN, &|r| {
        r.tcp[0].outcome = TcpOutcome::Connected;
        cut(r, TlsOutcome::Reset, None);
        r.tls[0].address = "5.3.3.77:443".parse().unwrap();
    });
    assert_eq!(summary(&cut_there), "tls.cut blocked tls.reset unknown");
}

/// A visit to a false address, and what other roads said of the mirror whose operator states no address.
fn by_roads(roads: &[(ResolverKind, DnsTransport, DnsOutcome)]) -> Verdict {
    let (control, mut record) = (healthy(), healthy());
    record.dns[0].outcome = answer(0, &["9.9.9.10"]);
    record.tcp[0].outcome = TcpOutcome::Timeout;
    record.tls.clear();
    record.http.clear();
    for (resolver, transport, outcome) in roads {
        let (resolver, transport, outcome) = (*resolver, *transport, outcome.clone());
        record.dns.push(DnsExchange { resolver, transport, outcome, ..record.dns[0].clone() });
    }
    without_stated_addresses(&record, &control, None)
}

#[test]
fn a_resolver_that_is_honest_by_harder_roads_exposes_the_lie() {
    use DnsTransport::{Doh, Dot, Tcp, Udp};
    use ResolverKind::{Nobody, Public, System};
    let (lie, truth, nxdomain) = (answer(0, &["9.9.9.10"]), answer(0, &[OWN]), answer(3, &[]));
    let check = |roads: &[(ResolverKind, DnsTransport, DnsOutcome)], expected: &str, line: &str| {
        let verdict = by_roads(roads);
        assert_eq!(summary(&verdict), expected, "{roads:?}");
        assert!(verdict.basis.iter().any(|found| found.contains(line)), "{line}: {verdict:?}");
    };
    let exposed = "dns.other_address blocked dns.injection.other name";
    let open = "tcp.unconnected blocked tcp.timeout ip";
    check(
        &[(System, Tcp, truth.clone())],
        exposed,
        "the system's resolver 192.0.2.53:53 gives 9.9.9.10 over UDP",
    );
    let public = [
        (Public, Udp, lie.clone()),
        (Public, Tcp, lie.clone()),
        (Public, Dot, truth.clone()),
        (Public, Doh, truth.clone()),
    ];
    check(&public, exposed, "gives 9.9.9.10 over UDP and 198.51.100.7 over TLS, HTTPS");
    check(&[(Nobody, Udp, lie.clone())], exposed, "where no resolver runs, answers 9.9.9.10");
    // Nobody to contradict it: the address may be a new one of the mirror's.
    check(&[], open, "no address connects");
    check(&[(System, Tcp, lie.clone()), (Public, Udp, lie.clone()), (Public, Dot, lie.clone())], open, "");
    // Another lie than the one the visitor got, or none at all, says nothing of his.
    check(&[(Public, Udp, nxdomain.clone()), (Public, Dot, truth.clone())], open, "");
    check(&[(Nobody, Udp, nxdomain)], open, "");
    // A box that passes the truth on is no liar.
    check(&[(Nobody, Udp, truth.clone())], open, "");
    check(&[(Public, Udp, truth.clone()), (Public, Tcp, truth)], open, "");
}

#[test]
fn the_systems_answer_by_tcp_does_not_hide_the_one_by_udp() {
    let by_tcp = |record: &mut ProbeRecord, outcome| {
        record.dns.push(DnsExchange { transport: DnsTransport::Tcp, outcome, ..record.dns[0].clone() });
    };
    check("dns.bogon blocked dns.injection.bogon name", |r| {
        cut(r, TlsOutcome::Reset, None);
        r.dns[0].outcome = answer(0, &["10.1.2.3"]);
        by_tcp(r, answer(0, &[OWN]));
    });
    check("dns.no_address blocked dns.nxdomain name", |r| {
        cut(r, TlsOutcome::Reset, None);
        r.dns[0].outcome = answer(3, &[]);
        by_tcp(r, answer(0, &[OWN]));
    });
    check("dns.no_address blocked dns.timeout name", |r| {
        cut(r, TlsOutcome::Reset, None);
        r.dns[0].outcome = DnsOutcome::Timeout;
        by_tcp(r, answer(0, &[OWN]));
    });
    check("dns.no_address blocked dns.injection.other name", |r| {
        cut(r, TlsOutcome::Reset, None);
        r.dns[0].outcome = DnsOutcome::Failed("garbage".into());
        by_tcp(r, answer(0, &[OWN]));
    });
    // A liar by TCP alone harms nobody.
    check("identity.reached ok", |r| by_tcp(r, answer(0, &["10.1.2.3"])));
}

#[test]
fn a_proxy_that_passes_the_truth_on_is_no_block() {
    let nobody = |r: &mut ProbeRecord, outcome| {
        let (resolver, server) = (ResolverKind::Nobody, "198.51.100.53:53".parse().unwrap());
        r.dns.push(DnsExchange { resolver, server, outcome, ..r.dns[0].clone() });
    };
    check("identity.reached ok", |r| nobody(r, answer(0, &[OWN])));
    check("tls.cut blocked tls.reset unknown", |r| {
        cut(r, TlsOutcome::Reset, None);
        nobody(r, answer(0, &[OWN]));
    });
    let mut record = healthy();
    cut(&mut record, TlsOutcome::Reset, None);
    record.dns[0].outcome = answer(3, &[]);
    nobody(&mut record, answer(0, &[OWN]));
    let verdict = verdict(&record, Some(&healthy()));
    let line = "198.51.100.53:53, where no resolver runs, answers 198.51.100.7: a box on the way passes questions on";
    assert!(verdict.basis.iter().any(|found| found == line), "{verdict:?}");
}

#[test]
fn a_lie_about_one_family_or_one_of_two_addresses_is_named_and_no_block() {
    let noted = |addresses: &[&str]| {
        let mut record = healthy();
        record.dns[0].outcome = answer(0, addresses);
        let verdict = verdict(&record, Some(&healthy()));
        assert_eq!(summary(&verdict), "identity.reached ok");
        verdict.basis.get(1).cloned()
    };
    let line = |rest: &str| Some(format!("beside the mirror's own addresses the resolver answers {rest}"));
    assert_eq!(
        noted(&[OWN, "10.10.34.36"]),
        line("10.10.34.36 (private 10.0.0.0/8), which is not known as one")
    );
    assert_eq!(noted(&[OWN, "100::36"]), line("100::36 (discard 100::/64), which is not known as one"));
    assert_eq!(noted(&[OWN, "9.9.9.10"]), line("9.9.9.10, which is not known as one"));
    assert_eq!(noted(&[OWN]), None);
    assert_eq!(noted(&["9.9.9.10"]), None);
}
