//! QUIC, HTTP/3 and ECH beside a page that loads.

use super::*;

fn quic(arm: Arm, outcome: QuicOutcome) -> QuicHandshake {
    let is_silent = outcome == QuicOutcome::Timeout;
    QuicHandshake {
        arm,
        address: socket(OWN),
        sni: if arm == Arm::Main { "mirror.example" } else { "neutral.example" }.into(),
        span: Span::default(),
        bytes_sent: 1200,
        bytes_received: if is_silent { 0 } else { 1200 },
        outcome,
        chain: vec![],
        chain_fault: None,
        datagrams_received: u32::from(!is_silent),
        first_received: vec![],
        versions_offered: vec![],
        ja4: String::new(),
    }
}

fn shaken() -> QuicOutcome {
    QuicOutcome::Completed { alpn: Some("h3".into()) }
}

/// A healthy visit with these steps, and what the control's had.
#[track_caller]
fn judged(expected: &str, record: impl Fn(&mut ProbeRecord), control: impl Fn(&mut ProbeRecord)) -> Verdict {
    let (mut measured, mut compared) = (healthy(), healthy());
    record(&mut measured);
    control(&mut compared);
    let verdict = verdict(&measured, Some(&compared));
    assert_eq!(summary(&verdict), expected, "{:?}", verdict.basis);
    verdict
}

#[test]
fn quic_alone_silent_is_impaired_and_the_neutral_name_tells_the_trigger() {
    let silent = |neutral: Option<QuicOutcome>| {
        move |record: &mut ProbeRecord| {
            record.quic = vec![quic(Arm::Main, QuicOutcome::Timeout)];
            record.quic.extend(neutral.clone().map(|outcome| quic(Arm::NeutralSni, outcome)));
        }
    };
    let answered = |record: &mut ProbeRecord| record.quic = vec![quic(Arm::Main, shaken())];
    judged("identity.reached ok", silent(None), |_| {});
    judged("identity.reached ok", silent(None), silent(None));
    judged("identity.reached ok", answered, answered);
    judged("quic.timeout impaired quic.timeout unknown", silent(None), answered);
    judged("quic.timeout impaired quic.timeout sni", silent(Some(shaken())), answered);
    let refused = QuicOutcome::Closed("no such host".into());
    judged("quic.timeout impaired quic.timeout sni", silent(Some(refused)), answered);
    judged("quic.timeout impaired quic.timeout protocol", silent(Some(QuicOutcome::Timeout)), answered);
    // A control that reached it with the neutral name alone tells nothing of the mirror's.
    judged("identity.reached ok", silent(None), |control| {
        control.quic = vec![quic(Arm::Main, QuicOutcome::Timeout), quic(Arm::NeutralSni, shaken())];
    });
}

#[test]
fn a_page_that_stalls_by_http_3_alone_is_impaired() {
    let page = |outcome: HttpOutcome, last_byte_micros, duration_micros| {
        move |record: &mut ProbeRecord| {
            record.quic = vec![quic(Arm::Main, shaken())];
            let span = Span { start_micros: 0, duration_micros };
            let page = http("https://mirror.example/", 200, true);
            let outcome = outcome.clone();
            record.http.push(HttpExchange { arm: Arm::Http3, last_byte_micros, span, outcome, ..page });
        }
    };
    let whole = page(HttpOutcome::Complete, Some(9), 9);
    let stalled = page(HttpOutcome::Timeout, Some(100_000), 8_000_000);
    judged("identity.reached ok", &whole, &whole);
    let verdict = judged("quic.stall impaired quic.timeout unknown", &stalled, &whole);
    assert!(verdict.basis[0].contains("after 70000 bytes"), "{:?}", verdict.basis);
    judged("quic.stall impaired quic.timeout unknown", page(HttpOutcome::Timeout, None, 8_000_000), &whole);
    judged("identity.reached ok", &stalled, &stalled);
    judged("identity.reached ok", page(HttpOutcome::Timeout, Some(7_900_000), 8_000_000), &whole);
    // What HTTP/3 brings is no substitute for the visit.
    let mut alone = healthy();
    whole(&mut alone);
    alone.http.remove(0);
    assert_ne!(super::verdict(&alone, Some(&healthy())).outcome, Outcome::Ok);
}

/// A handshake with ECH.
fn ech(arm: Arm, outcome: TlsOutcome, bytes_received: u64) -> TlsHandshake {
    let (ech, sni) = match arm {
        Arm::EchReal => (Ech::Offered, "front.example"),
        _ => (Ech::Grease, "mirror.example"),
    };
    TlsHandshake { ech, sni: Some(sni.into()), bytes_received, ..tls(arm, outcome) }
}

#[test]
fn ech_dropped_is_impaired_where_the_controls_is_read() {
    let with = |steps: Vec<TlsHandshake>| move |record: &mut ProbeRecord| record.tls.extend(steps.clone());
    let dropped = || ech(Arm::EchReal, TlsOutcome::Timeout, 0);
    let rejected = || ech(Arm::EchReal, TlsOutcome::Protocol("rejected".into()), 900);
    let accepted = || ech(Arm::EchReal, done(), 900);
    let dead = "ech.timeout impaired ech.timeout protocol";
    judged(dead, with(vec![dropped()]), with(vec![rejected()]));
    judged(dead, with(vec![dropped()]), with(vec![accepted()]));
    judged(dead, with(vec![ech(Arm::EchReal, TlsOutcome::Reset, 0)]), with(vec![accepted()]));
    judged("identity.reached ok", with(vec![accepted()]), with(vec![accepted()]));
    judged("identity.reached ok", with(vec![rejected()]), with(vec![accepted()]));
    judged("identity.reached ok", with(vec![dropped()]), with(vec![dropped()]));
    judged("identity.reached ok", with(vec![dropped()]), |_| {});
    judged("identity.reached ok", with(vec![dropped(), accepted()]), with(vec![accepted()]));
    // Silence amid an answer is no dropped hello.
    judged(
        "identity.reached ok",
        with(vec![ech(Arm::EchReal, TlsOutcome::Timeout, 9)]),
        with(vec![accepted()]),
    );
    // GREASE tells more of the trigger, in words.
    let basis = |grease: TlsHandshake| {
        judged(dead, with(vec![dropped(), grease]), with(vec![accepted()])).basis.join("\n")
    };
    assert!(basis(ech(Arm::EchGrease, done(), 900)).contains("passes beside"));
    assert!(basis(ech(Arm::EchGrease, TlsOutcome::Timeout, 0)).contains("ended with Timeout"));
    // A front of another name at the control is another front.
    let other = TlsHandshake { sni: Some("other.example".into()), ..accepted() };
    judged("identity.reached ok", with(vec![dropped()]), with(vec![other]));
}

#[test]
fn a_name_that_passes_encrypted_was_minded_in_the_clear() {
    let with = |steps: Vec<TlsHandshake>| {
        let mut record = healthy();
        cut(&mut record, TlsOutcome::Timeout, None);
        record.tls.extend(steps);
        summary(&verdict(&record, Some(&healthy())))
    };
    assert_eq!(with(vec![]), "tls.cut blocked tls.timeout unknown");
    assert_eq!(with(vec![ech(Arm::EchReal, done(), 900)]), "tls.cut blocked tls.timeout sni");
    let rejected = TlsHandshake {
        ech: Ech::Rejected,
        ..ech(Arm::EchReal, TlsOutcome::Protocol("rejected".into()), 900)
    };
    assert_eq!(with(vec![rejected]), "tls.cut blocked tls.timeout sni");
    assert_eq!(with(vec![ech(Arm::EchReal, TlsOutcome::Timeout, 0)]), "tls.cut blocked tls.timeout unknown");
    // A front that shows the mirror's own name hides nothing.
    let own = TlsHandshake { sni: Some("mirror.example".into()), ..ech(Arm::EchReal, done(), 900) };
    assert_eq!(with(vec![own]), "tls.cut blocked tls.timeout unknown");
}
