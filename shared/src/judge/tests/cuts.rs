//! What the arms that compare say of the trigger.

use super::*;
use TlsOutcome::{Eof, Reset, Timeout};

/// A record cut by `outcome`, with these arms beside it; the control's arms.
fn compared(outcome: TlsOutcome, arms: &[(Arm, TlsOutcome)], of_control: &[(Arm, TlsOutcome)]) -> Verdict {
    let (mut record, mut control) = (healthy(), healthy());
    cut(&mut record, outcome, None);
    let steps = |arms: &[(Arm, TlsOutcome)]| -> Vec<_> {
        arms.iter()
            .map(|(arm, outcome)| {
                let mut step = tls(*arm, outcome.clone());
                if matches!(arm, Arm::NeutralFirst | Arm::NeutralSni) {
                    step.sni = Some("neutral.example".into());
                }
                if *arm == Arm::ControlAddress {
                    step.address = socket("198.51.100.200");
                }
                step
            })
            .collect()
    };
    record.tls.extend(steps(arms));
    control.tls.extend(steps(of_control));
    verdict(&record, Some(&control))
}

#[test]
fn each_set_of_arms_names_its_trigger() {
    use Arm::{ControlAddress as Elsewhere, NeutralFirst as First, NeutralSni as After, OtherHello as Shape};
    let alert = || TlsOutcome::Alert("unrecognized_name".into());
    let check = |arms: &[(Arm, TlsOutcome)], trigger: Trigger, part: &str| {
        let verdict = compared(Timeout, arms, &[]);
        assert_eq!(verdict.outcome, Outcome::Blocked, "{arms:?}");
        assert_eq!(verdict.trigger, Some(trigger), "{arms:?} {:?}", verdict.basis);
        assert!(verdict.basis.join("\n").contains(part), "{arms:?} {:?}", verdict.basis);
    };
    check(&[], Trigger::Unknown, "TCP connects");
    // Neutral, before and after.
    check(&[(After, done())], Trigger::Sni, "the same address answers");
    check(&[(After, alert())], Trigger::Sni, "the same address answers");
    check(&[(After, Timeout)], Trigger::Unknown, "a residual block of the address looks the same");
    check(&[(First, done())], Trigger::Sni, "the same address answers");
    check(&[(First, done()), (After, Timeout)], Trigger::Sni, "(residual)");
    check(&[(First, Timeout)], Trigger::Ip, "an address that rested");
    check(&[(First, Timeout), (After, Timeout)], Trigger::Ip, "an address that rested");
    // Where no censor looks.
    check(
        &[(After, Timeout), (Elsewhere, Timeout)],
        Trigger::Sni,
        "fails at the operator's control address too",
    );
    check(
        &[(After, Timeout), (Elsewhere, alert())],
        Trigger::Sni,
        "fails at the operator's control address too",
    );
    check(&[(After, Timeout), (Elsewhere, done())], Trigger::Ip, "passes at the operator's control address");
    check(&[(Elsewhere, done())], Trigger::Ip, "passes at the operator's control address");
    check(&[(After, done()), (Elsewhere, done())], Trigger::Sni, "name and address together");
    check(&[(First, Timeout), (Elsewhere, Timeout)], Trigger::Sni, "fails whatever the name");
    // The shape of the hello.
    check(&[(After, Timeout), (Shape, done())], Trigger::Protocol, "in another hello the own name passes");
    check(&[(After, done()), (Shape, done())], Trigger::Sni, "its shape matters");
    check(&[(Shape, done())], Trigger::Unknown, "its shape matters");
}

/// A second look at what was ill a moment ago: of two addresses one is shown the name, once, and no arm shows it again.
#[test]
fn a_look_with_one_handshake_is_a_block_and_says_no_more_than_it_saw() {
    let mut record = healthy();
    record.dns[0].outcome = answer(0, &[OWN, "198.51.100.8"]);
    cut(&mut record, Timeout, Some(Timeout));
    record.cause = Cause::Requested;
    let beside =
        TcpConnect { arm: Arm::EachAddress, address: socket("198.51.100.8"), ..record.tcp[0].clone() };
    record.tcp.push(beside);
    let judged = |record: &ProbeRecord| verdict(record, Some(&healthy()));
    assert_eq!(summary(&judged(&record)), "tls.cut blocked tls.timeout unknown");
    assert!(judged(&record).basis.join("\n").contains("a residual block of the address looks the same"));
    let tried = addresses_tried(&record, Some(&mirror()), &judged(&record)).unwrap();
    assert_eq!((tried.blocked, tried.of), (1, 1), "the other was not asked");
    // The box had forgotten by then, and the neutral name passes: the name it is.
    cut(&mut record, Timeout, None);
    record.tls.push(TlsHandshake { sni: Some("neutral.example".into()), ..tls(Arm::NeutralSni, done()) });
    assert_eq!(summary(&judged(&record)), "tls.cut blocked tls.timeout sni");
    // And where the name passes again, nothing is left of the first look.
    record.tls = healthy().tls;
    record.http = healthy().http;
    assert_eq!(summary(&judged(&record)), "identity.reached ok");
}

#[test]
fn an_address_that_takes_no_connection_any_more_is_punished_too() {
    let mut record = healthy();
    cut(&mut record, Timeout, None);
    let after = TcpConnect { arm: Arm::NeutralSni, outcome: TcpOutcome::Timeout, ..record.tcp[0].clone() };
    record.tcp.push(after);
    let judged = |record: &ProbeRecord| verdict(record, Some(&healthy()));
    assert_eq!(judged(&record).trigger, Some(Trigger::Unknown));
    assert!(judged(&record).basis.join("\n").contains("looks the same"));
    record.tls.push(tls(Arm::NeutralFirst, done()));
    assert_eq!(judged(&record).trigger, Some(Trigger::Sni));
    assert!(judged(&record).basis.join("\n").contains("(residual)"));
}

#[test]
fn a_site_that_closes_on_foreign_names_is_not_taken_for_a_censor() {
    let check = |first: TlsOutcome, of_control: &[(Arm, TlsOutcome)], trigger, part: &str| {
        let verdict = compared(Reset, &[(Arm::NeutralFirst, first)], of_control);
        assert_eq!(verdict.trigger, Some(trigger), "{:?}", verdict.basis);
        assert!(verdict.basis.join("\n").contains(part), "{:?}", verdict.basis);
    };
    let of_control = |outcome| [(Arm::NeutralFirst, outcome)];
    check(Reset, &[], Trigger::Unknown, "is not known");
    check(Eof, &[], Trigger::Unknown, "is not known");
    check(Reset, &of_control(done()), Trigger::Ip, "rested");
    check(Reset, &of_control(Reset), Trigger::Unknown, "the site itself refuses the neutral name");
    // No server answers a hello with silence; yet where the control says that this one does, it is believed.
    check(Timeout, &[], Trigger::Ip, "rested");
    check(Timeout, &of_control(Timeout), Trigger::Unknown, "the site itself refuses the neutral name");
}

#[test]
fn another_address_says_nothing_of_this_one() {
    let mut record = healthy();
    cut(&mut record, Timeout, None);
    let first = tls(Arm::NeutralFirst, done());
    record.tls.push(TlsHandshake { address: socket("198.51.100.9"), ..first });
    assert_eq!(summary(&verdict(&record, Some(&healthy()))), "tls.cut blocked tls.timeout unknown");
}

#[test]
fn a_handshake_that_passes_the_second_time_is_an_impairment() {
    let check = |arms: &[(Arm, TlsOutcome)], expected: &str| {
        assert_eq!(summary(&compared(Timeout, arms, &[])), expected, "{arms:?}");
    };
    let again = |outcome| (Arm::FreshTuple, outcome);
    check(&[again(done())], "tls.cut impaired tls.timeout unknown");
    check(&[(Arm::NeutralSni, done()), again(done())], "tls.cut impaired tls.timeout unknown");
    check(&[(Arm::NeutralSni, done()), again(Timeout)], "tls.cut blocked tls.timeout sni");
    // Who forges the mirror's certificate the second time does not let it pass.
    let mut record = healthy();
    cut(&mut record, Timeout, None);
    let forged = tls(Arm::FreshTuple, done());
    record.tls.push(TlsHandshake { chain_fault: Some(ChainFault::UnknownIssuer), ..forged });
    assert_eq!(summary(&verdict(&record, Some(&healthy()))), "tls.cut blocked tls.timeout unknown");
}

#[test]
fn the_other_port_tells_how_much_of_the_address_is_dead() {
    let check = |outcome: TcpOutcome, part: &str| {
        let mut record = healthy();
        record.tcp[0].outcome = TcpOutcome::Timeout;
        without_tls(&mut record);
        let mut other = TcpConnect { arm: Arm::OtherPort, outcome, ..record.tcp[0].clone() };
        other.address.set_port(80);
        record.tcp.push(other);
        let verdict = verdict(&record, Some(&healthy()));
        assert_eq!(summary(&verdict), "tcp.unconnected blocked tcp.timeout ip");
        assert!(verdict.basis.iter().any(|line| line.contains(part)), "{verdict:?}");
    };
    check(TcpOutcome::Connected, "port 80 of the same address connects");
    check(TcpOutcome::Timeout, "port 80 of the same address ended with Timeout too");
}

#[test]
fn the_hop_that_answers_is_told() {
    let mut record = healthy();
    cut(&mut record, Reset, Some(done()));
    let hop = |sni: &str, outcome| HopProbe {
        address: socket(OWN),
        sni: sni.into(),
        ttl: 1,
        span: Span::default(),
        outcome,
    };
    record.hops = vec![hop("mirror.example", Reset), hop("neutral.example", Timeout)];
    let verdict = verdict(&record, Some(&healthy()));
    assert!(verdict.basis.iter().any(|line| line.contains("hop 1 of at least 2")), "{verdict:?}");
}

/// A healthy visit to a mirror with a second address, which met `outcome` here and connected at the control.
fn half_dead(second: &str, outcome: TcpOutcome) -> (ProbeRecord, ProbeRecord) {
    let (mut record, mut control) = (healthy(), healthy());
    for (record, outcome) in [(&mut record, outcome), (&mut control, TcpOutcome::Connected)] {
        record.dns[0].outcome = answer(0, &[OWN, second]);
        let address = socket(second);
        record.tcp.push(TcpConnect { arm: Arm::EachAddress, address, outcome, ..record.tcp[0].clone() });
    }
    (record, control)
}

#[test]
fn one_dead_address_of_several_is_an_impairment() {
    let judged = |(record, control): (ProbeRecord, ProbeRecord)| summary(&verdict(&record, Some(&control)));
    let second = "198.51.100.8";
    let partial = |outcome| judged(half_dead(second, outcome));
    assert_eq!(partial(TcpOutcome::Timeout), "tcp.partial impaired tcp.timeout ip");
    assert_eq!(partial(TcpOutcome::Refused), "tcp.partial impaired tcp.refused ip");
    assert_eq!(partial(TcpOutcome::Unreachable(113)), "tcp.partial impaired tcp.unreachable ip");
    assert_eq!(partial(TcpOutcome::Connected), "identity.reached ok");
    assert_eq!(partial(TcpOutcome::Forbidden("private".into())), "identity.reached ok");
    // One lost SYN is a line's noise.
    let noisy = |retransmits| {
        let (mut record, control) = half_dead(second, TcpOutcome::Timeout);
        record.tcp[1].transport =
            Some(Transport { bytes_acked: 0, bytes_received: 0, unacked_segments: 1, retransmits });
        judged((record, control))
    };
    assert_eq!(noisy(1), "identity.reached ok");
    assert_eq!(noisy(2), "tcp.partial impaired tcp.timeout ip");
    // Dead for the control too, or not known to be alive.
    let (record, mut control) = half_dead(second, TcpOutcome::Timeout);
    control.tcp[1].outcome = TcpOutcome::Timeout;
    assert_eq!(judged((record.clone(), control)), "identity.reached ok");
    assert_eq!(judged((record.clone(), healthy())), "identity.reached ok");
    assert_eq!(summary(&verdict(&record, None)), "identity.reached ok");
}

#[test]
fn ipv6_that_does_not_work_at_all_says_nothing_of_the_mirror() {
    let second = "2001:db8::8";
    let judged = |change: &dyn Fn(&mut ProbeRecord)| {
        let (mut record, control) = half_dead(second, TcpOutcome::Timeout);
        change(&mut record);
        summary(&verdict(&record, Some(&control)))
    };
    let health =
        |ipv6| move |r: &mut ProbeRecord| r.network = Some(NetworkCheck { ipv6, ..NetworkCheck::default() });
    assert_eq!(judged(&|_| ()), "identity.reached ok");
    assert_eq!(judged(&health(Ipv6Health::Broken)), "identity.reached ok");
    assert_eq!(judged(&health(Ipv6Health::Works)), "tcp.partial impaired tcp.timeout ip");
    let other = |r: &mut ProbeRecord| {
        r.dns[0].outcome = answer(0, &[OWN, second, "2001:db8::9"]);
        let address = socket("2001:db8::9");
        r.tcp.push(TcpConnect { address, arm: Arm::EachAddress, ..r.tcp[0].clone() });
    };
    assert_eq!(judged(&other), "tcp.partial impaired tcp.timeout ip");
}
