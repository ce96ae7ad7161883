//! The state of the agent's network and of the control's: what must not be taken for a block, and what must not hide one.

use super::*;

const DOMESTIC: &str = "https://domestic.example/";
const FOREIGN: &str = "https://foreign.example/";

/// References as (URL, side, reached).
fn references(checks: &[(&str, bool)]) -> Vec<ReferenceCheck> {
    let check = |(at, reached): &(&str, bool)| ReferenceCheck {
        side: if *at == DOMESTIC { ReferenceSide::Domestic } else { ReferenceSide::Foreign },
        url: url(at),
        checked_at: UnixMillis(0),
        reached: *reached,
        failure: None,
    };
    checks.iter().map(check).collect()
}

fn with_references(mut record: ProbeRecord, checks: &[(&str, bool)]) -> ProbeRecord {
    record.references = references(checks);
    record
}

/// A visit whose first step to fail is TCP.
fn unconnected() -> ProbeRecord {
    let mut record = healthy();
    record.tcp[0].outcome = TcpOutcome::Timeout;
    without_tls(&mut record);
    record
}

fn cut_with(neutral: Option<TlsOutcome>) -> ProbeRecord {
    let mut record = healthy();
    cut(&mut record, TlsOutcome::Reset, neutral);
    record
}

/// Another resolver's answer beside the system's.
fn other_answer(record: &mut ProbeRecord, outcome: DnsOutcome) {
    record.dns.push(DnsExchange { resolver: ResolverKind::Public, outcome, ..record.dns[0].clone() });
}

#[track_caller]
fn check_pair(expected: &str, record: &ProbeRecord, control: Option<&ProbeRecord>) {
    let verdict = verdict(record, control);
    assert_eq!(summary(&verdict), expected, "{verdict:?}");
}

#[test]
fn one_dead_reference_hides_no_block() {
    let one = [(DOMESTIC, true), (FOREIGN, false)];
    let (cut_by_name, cut) = ("tls.cut blocked tls.reset sni", "tls.cut blocked tls.reset unknown");
    let (dead, alive) = (with_references(healthy(), &one), with_references(healthy(), &[(FOREIGN, true)]));
    let unchecked = with_references(healthy(), &[]);
    // The neutral name came through: something abroad answers, whatever the reference does.
    for control in [&dead, &alive, &unchecked] {
        check_pair(cut_by_name, &with_references(cut_with(Some(done())), &one), Some(control));
        check_pair(cut_by_name, &with_references(cut_with(Some(done())), &[(FOREIGN, false)]), Some(control));
    }
    // The control cannot reach it either: it says nothing of this network.
    check_pair(cut, &with_references(cut_with(None), &one), Some(&dead));
    check_pair(cut, &with_references(cut_with(None), &[(FOREIGN, false)]), Some(&dead));
    check_pair("tcp.unconnected blocked tcp.timeout ip", &with_references(unconnected(), &one), Some(&dead));
    // The control reaches it.
    check_pair("network.whitelist restricted", &with_references(cut_with(None), &one), Some(&alive));
    let only_foreign = with_references(cut_with(None), &[(FOREIGN, false)]);
    check_pair("network.shutdown restricted", &only_foreign, Some(&alive));
}

#[test]
fn a_domestic_reference_closed_to_the_control_still_shows_whitelist_mode() {
    let record = with_references(cut_with(None), &[(DOMESTIC, true), (FOREIGN, false)]);
    let control = with_references(healthy(), &[(DOMESTIC, false), (FOREIGN, true)]);
    check_pair("network.whitelist restricted", &record, Some(&control));
}

#[test]
fn a_control_without_a_network_does_not_vouch_for_dead_references() {
    let record = with_references(cut_with(None), &[(DOMESTIC, true), (FOREIGN, false)]);
    let control = with_references(cut_with(None), &[(DOMESTIC, false), (FOREIGN, false)]);
    check_pair("network.whitelist restricted", &record, Some(&control));
}

#[test]
fn the_record_alone_shows_a_restriction_or_refutes_it() {
    let one = [(DOMESTIC, true), (FOREIGN, false)];
    let none = [(DOMESTIC, false), (FOREIGN, false)];
    check_pair("network.whitelist restricted", &with_references(cut_with(None), &one), None);
    check_pair("control.missing insufficient", &with_references(cut_with(Some(done())), &one), None);
    check_pair("network.shutdown restricted", &with_references(unconnected(), &none), None);
    check_pair("control.missing insufficient", &with_references(cut_with(None), &none), None);
    let mut resolved = with_references(unconnected(), &none);
    other_answer(&mut resolved, answer(0, &[OWN]));
    check_pair("control.missing insufficient", &resolved, None);
    // A login page lets DNS through; that the control reaches all references tells it from dead ones.
    let alive = with_references(healthy(), &[(DOMESTIC, true), (FOREIGN, true)]);
    check_pair("network.shutdown restricted", &resolved, Some(&alive));
}

#[test]
fn a_line_that_dies_under_the_visit_is_no_block() {
    let (none, all) = ([(DOMESTIC, false), (FOREIGN, false)], [(DOMESTIC, true), (FOREIGN, true)]);
    let mut stalled = with_references(healthy(), &none);
    stalled.http[0].outcome = HttpOutcome::Timeout;
    stalled.http[0].canary_found = None;
    let alive = with_references(healthy(), &all);
    check_pair("network.shutdown restricted", &stalled, Some(&alive));
    // Nobody knows the references to be alive, or a later arm was answered.
    let expected = "http.cut blocked http.timeout unknown";
    check_pair(expected, &stalled, Some(&with_references(healthy(), &none)));
    stalled.tls.push(tls(Arm::NeutralSni, done()));
    check_pair(expected, &stalled, Some(&alive));
}

#[test]
fn where_nothing_at_all_succeeded_nothing_is_blocked() {
    let silent = |change: fn(&mut ProbeRecord)| {
        let mut record = with_references(healthy(), &[]);
        record.dns[0].outcome = DnsOutcome::Timeout;
        record.tcp.clear();
        without_tls(&mut record);
        change(&mut record);
        record
    };
    let unproven = "network.unproven insufficient";
    check_pair(unproven, &silent(|_| {}), Some(&healthy()));
    check_pair(unproven, &silent(|r| other_answer(r, DnsOutcome::Timeout)), Some(&healthy()));
    check_pair(unproven, &silent(|r| other_answer(r, DnsOutcome::Failed("x".into()))), Some(&healthy()));
    // ENETUNREACH: the host has no way out, whatever a cache at home answers.
    let no_route = |r: &mut ProbeRecord| {
        r.tcp = unconnected().tcp;
        r.tcp[0].outcome = TcpOutcome::Unreachable(101);
    };
    let mut offline = silent(|_| {});
    no_route(&mut offline);
    check_pair(unproven, &offline, Some(&healthy()));
    offline.dns[0].outcome = answer(0, &[OWN]);
    check_pair(unproven, &offline, Some(&healthy()));
    // One sign of life, and the failure is told apart again.
    let dns = "dns.no_address blocked dns.timeout name";
    check_pair(dns, &silent(|r| other_answer(r, answer(0, &[OWN]))), Some(&healthy()));
    check_pair(dns, &silent(|r| r.references = references(&[(DOMESTIC, true)])), Some(&healthy()));
    let no_references = with_references(unconnected(), &[]);
    check_pair("tcp.unconnected blocked tcp.timeout ip", &no_references, Some(&healthy()));
}

#[test]
fn a_control_must_prove_its_own_network_before_it_calls_the_site_down() {
    let failed = cut_with(None);
    let control = |change: fn(&mut ProbeRecord)| {
        let mut record = with_references(healthy(), &[]);
        record.dns[0].outcome = DnsOutcome::Timeout;
        record.tcp.clear();
        without_tls(&mut record);
        change(&mut record);
        record
    };
    let (unproven, down) = ("control.unproven insufficient", "control.failed down");
    check_pair(unproven, &failed, Some(&control(|_| {})));
    check_pair(unproven, &failed, Some(&control(|r| r.dns[0].outcome = answer(2, &[]))));
    check_pair(down, &failed, Some(&control(|r| r.dns[0].outcome = answer(3, &[]))));
    check_pair(down, &failed, Some(&control(|r| r.dns[0].outcome = answer(0, &[]))));
    check_pair(down, &failed, Some(&control(|r| r.dns[0].outcome = answer(0, &[OWN]))));
    check_pair(down, &failed, Some(&control(|r| r.tcp = healthy().tcp)));
    check_pair(down, &failed, Some(&control(|r| r.references = references(&[(FOREIGN, true)]))));
}
