//! What controls add: the very address the agent got, and controls that do not agree.

use super::*;

/// An address that neither the operator nor the control's resolver gives.
const EDGE: &str = "9.9.9.10";

/// The agent was sent to that address alone, and met `outcome` there.
fn sent_to(address: &str, outcome: TcpOutcome) -> ProbeRecord {
    let mut record = healthy();
    record.dns[0].outcome = answer(0, &[address]);
    record.tcp[0].address = socket(address);
    record.tcp[0].outcome = outcome;
    without_tls(&mut record);
    record
}

/// A control that reached the mirror by itself, and went to that address too.
fn control_at(address: &str, connected: TcpOutcome, shaken: Option<TlsHandshake>) -> ProbeRecord {
    let mut control = healthy();
    control.tcp.push(TcpConnect {
        arm: Arm::FieldAddress,
        address: socket(address),
        outcome: connected,
        ..control.tcp[0].clone()
    });
    control.tls.extend(shaken.map(|tls| TlsHandshake { address: socket(address), ..tls }));
    control
}

fn own() -> Option<TlsHandshake> {
    Some(tls(Arm::FieldAddress, done()))
}

fn stranger(spki: u8) -> Option<TlsHandshake> {
    let chain = vec![certificate("CN=Nobody", spki)];
    Some(TlsHandshake { chain, chain_fault: Some(ChainFault::UnknownIssuer), ..own().unwrap() })
}

/// The verdict with a mirror whose addresses the operator does not state.
fn judged(record: &ProbeRecord, control: &ProbeRecord, expected: Vec<&str>) -> Verdict {
    let (mut mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    mirror.expected_addresses = expected.iter().map(|address| address.parse().unwrap()).collect();
    judge(&Case {
        record,
        control: Some((Sha256([9; 32]), control)),
        others: &[],
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: None,
        home: None,
    })
}

#[track_caller]
fn check_pair(expected: &str, record: &ProbeRecord, control: &ProbeRecord) {
    let verdict = judged(record, control, vec![]);
    assert_eq!(summary(&verdict), expected, "{verdict:?}");
}

#[test]
fn an_address_where_the_control_meets_the_mirror_s_key_is_no_injected_one() {
    let mut record = sent_to(EDGE, TcpOutcome::Connected);
    record.tls = vec![TlsHandshake { address: socket(EDGE), ..tls(Arm::Main, TlsOutcome::Timeout) }];
    let cut = "tls.cut blocked tls.timeout unknown";
    let lie = "dns.other_address blocked dns.injection.other name";
    // The operator states other addresses, and still it is an edge of the mirror's.
    let known = |control: &ProbeRecord| judged(&record, control, vec![OWN]);
    assert_eq!(summary(&known(&healthy())), lie);
    let verdict = known(&control_at(EDGE, TcpOutcome::Connected, own()));
    assert_eq!(summary(&verdict), cut);
    let same = "the control met the mirror at the very same address, 9.9.9.10";
    assert!(verdict.basis.iter().any(|line| line == same), "{verdict:?}");
    assert_eq!(summary(&known(&control_at(EDGE, TcpOutcome::Connected, stranger(7)))), lie);
    assert_eq!(summary(&known(&control_at(EDGE, TcpOutcome::Timeout, None))), lie);
}

#[test]
fn a_connection_that_fails_here_and_works_for_the_control_at_the_same_address_is_a_block() {
    let record = sent_to(EDGE, TcpOutcome::Timeout);
    let verdict = judged(&record, &control_at(EDGE, TcpOutcome::Connected, own()), vec![]);
    assert_eq!(summary(&verdict), "tcp.unconnected blocked tcp.timeout ip");
    let same = "the control met the mirror at the very same address, 9.9.9.10";
    assert!(verdict.basis.iter().any(|line| line == same), "{verdict:?}");
    // A control that never went there proves less, and says so.
    let verdict = judged(&record, &healthy(), vec![]);
    assert_eq!(summary(&verdict), "tcp.unconnected blocked tcp.timeout ip");
    assert!(verdict.basis.iter().any(|line| line == "the control reached the mirror"), "{verdict:?}");
}

#[test]
fn an_address_dead_for_the_control_too_is_no_block() {
    let dead = control_at(EDGE, TcpOutcome::Timeout, None);
    let record = sent_to(EDGE, TcpOutcome::Timeout);
    // The agent's resolver alone gives it: stale or false, nobody knows.
    check_pair("address.stale insufficient", &record, &dead);
    check_pair("address.stale insufficient", &record, &control_at(EDGE, TcpOutcome::Refused, None));
    let silent = Some(tls(Arm::FieldAddress, TlsOutcome::Timeout));
    check_pair("address.stale insufficient", &record, &control_at(EDGE, TcpOutcome::Connected, silent));
    check_pair("address.stale insufficient", &record, &control_at(EDGE, TcpOutcome::Connected, stranger(7)));
    // One of the mirror's own, by the operator's word or by the control's resolver: the site's fault.
    assert_eq!(summary(&judged(&record, &dead, vec![EDGE])), "address.dead down");
    let mut resolved = dead.clone();
    resolved.dns[0].outcome = answer(0, &[OWN, EDGE]);
    check_pair("address.dead down", &record, &resolved);
    // Never tried by the control, or not for want of trying: nothing is known of it.
    let block = "tcp.unconnected blocked tcp.timeout ip";
    check_pair(block, &record, &control_at(EDGE, TcpOutcome::Forbidden("x".into()), None));
    check_pair(block, &record, &control_at(EDGE, TcpOutcome::Failed("no IPv6 route".into()), None));
    check_pair(block, &record, &control_at("9.9.9.11", TcpOutcome::Timeout, None));
    // One dead address beside one that is blocked.
    let mut both = record.clone();
    both.dns[0].outcome = answer(0, &[EDGE, OWN]);
    both.tcp.push(TcpConnect { address: socket(OWN), ..both.tcp[0].clone() });
    let verdict = judged(&both, &dead, vec![]);
    assert_eq!(summary(&verdict), block);
    assert!(
        verdict.basis.iter().any(|line| line.ends_with("very same address, 198.51.100.7")),
        "{verdict:?}"
    );
}

#[test]
fn a_control_without_ipv6_calls_no_ipv6_address_dead() {
    let v6 = "2a00:1450::1";
    let record = sent_to(v6, TcpOutcome::Timeout);
    let mut control = control_at(v6, TcpOutcome::Timeout, None);
    check_pair("tcp.unconnected blocked tcp.timeout ip", &record, &control);
    control.network = Some(NetworkCheck { ipv6: Ipv6Health::Works, ..NetworkCheck::default() });
    check_pair("address.stale insufficient", &record, &control);
}

#[test]
fn a_stranger_s_certificate_at_the_address_itself_is_no_interception() {
    let mut record = sent_to(EDGE, TcpOutcome::Connected);
    record.tls = vec![TlsHandshake { arm: Arm::Main, address: socket(EDGE), ..stranger(7).unwrap() }];
    let mitm = "tls.other_key blocked tls.mitm.other sni";
    check_pair(mitm, &record, &healthy());
    check_pair(mitm, &record, &control_at(EDGE, TcpOutcome::Connected, stranger(8)));
    check_pair("address.stale insufficient", &record, &control_at(EDGE, TcpOutcome::Connected, stranger(7)));
    let verdict = judged(&record, &control_at(EDGE, TcpOutcome::Connected, own()), vec![]);
    assert_eq!(summary(&verdict), mitm);
    assert!(verdict.basis.iter().any(|line| line.contains("very same address")), "{verdict:?}");
    // It answers here and is silent abroad: no address that is dead for everybody.
    check_pair(mitm, &record, &control_at(EDGE, TcpOutcome::Timeout, None));
}

#[test]
fn over_plain_http_the_canary_tells_whose_the_address_is() {
    let plain = |record: &mut ProbeRecord| {
        record.url = url("http://mirror.example/");
        record.tls.clear();
        record.http = vec![http("http://mirror.example/", 200, true)];
        for tcp in &mut record.tcp {
            tcp.address.set_port(80);
        }
        record.http[0].address.set_port(80);
    };
    let mut record = sent_to(EDGE, TcpOutcome::Timeout);
    plain(&mut record);
    record.http.clear();
    let mut control = control_at(EDGE, TcpOutcome::Connected, None);
    plain(&mut control);
    let mut page = HttpExchange { arm: Arm::FieldAddress, ..control.http[0].clone() };
    page.address.set_ip(EDGE.parse().unwrap());
    control.http.push(page);
    let verdict = judged(&record, &control, vec![]);
    assert_eq!(summary(&verdict), "tcp.unconnected blocked tcp.timeout ip");
    assert!(verdict.basis.iter().any(|line| line.contains("very same address")), "{verdict:?}");
    control.http[1].canary_found = Some(false);
    check_pair("address.stale insufficient", &record, &control);
}

#[test]
fn controls_that_disagree_are_contradictory_and_both_are_named() {
    let mut failed = healthy();
    cut(&mut failed, TlsOutcome::Timeout, None);
    let (good, mut bad) = (healthy(), failed.clone());
    let (mirror, fingerprints) = (mirror(), Fingerprints::built_in());
    let with = |control: (Sha256, &ProbeRecord), others: &[(Sha256, &ProbeRecord)]| {
        judge(&Case {
            record: &failed,
            control: Some(control),
            others,
            mirror: Some(&mirror),
            fingerprints: &fingerprints,
            country: None,
            home: None,
        })
    };
    let (first, second) = (Sha256([1; 32]), Sha256([2; 32]));
    for (verdict, control, dissent) in [
        (with((first, &good), &[(second, &bad)]), first, second),
        (with((second, &bad), &[(first, &good)]), second, first),
    ] {
        assert_eq!(summary(&verdict), "control.contradictory insufficient");
        assert_eq!((verdict.control, verdict.dissent), (Some(control), Some(dissent)));
        for hash in [first, second] {
            assert!(verdict.basis.iter().any(|line| line.contains(&hash.to_string())), "{verdict:?}");
        }
    }
    let agreed = with((first, &good), &[(second, &good)]);
    assert_eq!((summary(&agreed).as_str(), agreed.dissent), ("tls.cut blocked tls.timeout unknown", None));
    assert_eq!(summary(&with((first, &bad), &[(second, &bad)])), "control.failed down");
    // Without a line of its own a control contradicts nobody, nor does one that the origin turned away.
    bad.references.iter_mut().for_each(|check| check.reached = false);
    let block = "tls.cut blocked tls.timeout unknown";
    assert_eq!(summary(&with((first, &good), &[(second, &bad)])), block);
    let mut refused = healthy();
    (refused.http[0].status, refused.http[0].canary_found) = (Some(403), Some(false));
    assert_eq!(summary(&with((first, &good), &[(second, &refused)])), block);
    refused.http[0].status = Some(502);
    assert_eq!(summary(&with((first, &good), &[(second, &refused)])), "control.contradictory insufficient");
}

#[test]
fn the_addresses_a_control_is_sent_to_are_those_of_the_mirror_s_own_host() {
    let check = |change: &dyn Fn(&mut ProbeRecord), expected: &[&str]| {
        let mut record = sent_to(EDGE, TcpOutcome::Timeout);
        change(&mut record);
        let found: Vec<String> = field_addresses(&record).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    };
    check(&|_| {}, &[EDGE]);
    check(&|r| r.dns[0].name = "elsewhere.example".into(), &[]);
    check(&|r| r.tcp[0].address.set_port(8443), &[EDGE]);
    let given = |r: &mut ProbeRecord, addresses: &[&str]| r.dns[0].outcome = answer(0, addresses);
    check(&|r| given(r, &["9.9.9.11", EDGE, "9.9.9.11"]), &[EDGE, "9.9.9.11"]);
    // A special address is passed on only where the agent's host lets it try such ones.
    check(&|r| given(r, &["10.0.0.1", EDGE]), &[EDGE]);
    check(
        &|r| {
            given(r, &["10.0.0.1"]);
            r.tcp[0].address = socket("10.0.0.1");
        },
        &["10.0.0.1"],
    );
    check(
        &|r| {
            given(r, &["10.0.0.1"]);
            r.tcp[0].address = socket("10.0.0.1");
            r.tcp[0].outcome = TcpOutcome::Forbidden("private".into());
        },
        &[],
    );
    let many: Vec<String> = (1..20).map(|n| format!("9.9.8.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    check(&|r| given(r, &many), &many[..FIELD_ADDRESSES_MAX]);
}

#[test]
fn no_control_and_a_failing_control_are_two_things() {
    let mut failed = healthy();
    cut(&mut failed, TlsOutcome::Timeout, None);
    assert_eq!(summary(&verdict(&failed, None)), "control.missing insufficient");
    assert_eq!(summary(&verdict(&failed, Some(&failed))), "control.failed down");
    assert_eq!(summary(&verdict(&healthy(), Some(&failed))), "identity.reached ok");
    // A known stub needs no control.
    failed.dns[0].outcome = answer(0, &["95.167.13.50"]);
    assert_eq!(summary(&verdict(&failed, None)), "dns.stub_address blocked dns.injection.blockpage name");
}

#[test]
fn a_control_without_a_network_says_nothing_of_the_mirror() {
    let (mut failed, mut ill) = (healthy(), healthy());
    cut(&mut failed, TlsOutcome::Timeout, None);
    cut(&mut ill, TlsOutcome::Timeout, None);
    ill.references.iter_mut().for_each(|check| check.reached = false);
    assert_eq!(summary(&verdict(&failed, Some(&ill))), "control.ill insufficient");
    ill.references[0].reached = true;
    assert_eq!(summary(&verdict(&failed, Some(&ill))), "control.failed down");
}
