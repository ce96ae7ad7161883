//! Races and other contradictions, each with the honest twin that must prove nothing.

use super::super::tests::{OWN, answer, check, cut, healthy, mirror, summary, verdict};
use crate::catalogue::Carrier;
use crate::fingerprint::Fingerprints;
use crate::judge::{Case, Home, judge};
use crate::networks::Networks;
use crate::record::*;
use crate::target::Sha256;
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
    let (mut mirror, fingerprints, control) = (mirror(), Fingerprints::built_in(), healthy());
    mirror.expected_addresses.clear();
    let judged = |change: &dyn Fn(&mut ProbeRecord)| {
        let mut record = healthy();
        raced(&mut record, answer(0, &["9.9.9.10"]), OWN, 9_000);
        change(&mut record);
        judge(&Case {
            record: &record,
            control: Some((Sha256([9; 32]), &control)),
            others: &[],
            mirror: Some(&mirror),
            fingerprints: &fingerprints,
            country: None,
            home: None,
        })
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
fn at_home(control_address: &str, change: &dyn Fn(&mut ProbeRecord)) -> crate::verdict::Verdict {
    let networks = Networks::parse(["5.3.3.0,5.3.3.255,1,Home\n9.9.9.0,9.9.9.255,2,Abroad\n"]).unwrap();
    let carrier = Carrier {
        id: CarrierId::parse("ru-home").unwrap(),
        name: "Home".to_owned(),
        market: MarketId::parse("ru").unwrap(),
        asns: vec![1],
    };
    let (mut mirror, fingerprints, mut control, mut record) =
        (mirror(), Fingerprints::built_in(), healthy(), healthy());
    mirror.expected_addresses.clear();
    control.dns[0].outcome = answer(0, &[control_address]);
    record.dns[0].outcome = answer(0, &["5.3.3.77"]);
    record.tcp[0].outcome = TcpOutcome::Timeout;
    record.tls.clear();
    record.http.clear();
    change(&mut record);
    judge(&Case {
        record: &record,
        control: Some((Sha256([9; 32]), &control)),
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: None,
        home: Some(Home { carrier: &carrier, networks: &networks }),
    })
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
