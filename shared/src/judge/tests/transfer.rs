//! Freezes and throttling of the large page and of the page itself, with the twins that are neither.

use super::*;

const LARGE: &str = "https://mirror.example/large";
const OBJECT: &str = "https://object.example/128k";
const SEC: u64 = 1_000_000;

/// A reading of `len` bytes that took `micros` from the first to the last.
fn reading(arm: Arm, at: &str, len: u64, micros: u64) -> HttpExchange {
    HttpExchange {
        arm,
        first_byte_micros: Some(50_000),
        last_byte_micros: Some(50_000 + micros),
        span: Span { start_micros: 9, duration_micros: 60_000 + micros },
        body_len: len,
        canary_found: None,
        ..http(at, 200, false)
    }
}

pub(crate) fn large(micros: u64) -> HttpExchange {
    reading(Arm::LargePage, LARGE, 65_536, micros)
}

fn object(micros: u64) -> HttpExchange {
    reading(Arm::ReferenceObject, OBJECT, 131_072, micros)
}

/// Silence after `len` bytes, of which the kernel had `received`.
pub(crate) fn frozen(len: u64, received: u64) -> HttpExchange {
    HttpExchange {
        outcome: HttpOutcome::Timeout,
        span: Span { start_micros: 9, duration_micros: 10 * SEC },
        transport: Some(Transport {
            bytes_acked: 1,
            bytes_received: received,
            unacked_segments: 0,
            retransmits: 0,
        }),
        ..reading(Arm::LargePage, LARGE, len, 200_000)
    }
}

/// A reading that the deadline cut off while bytes still came.
fn trickle(arm: Arm, at: &str, len: u64) -> HttpExchange {
    let whole = reading(arm, at, len, 9 * SEC);
    HttpExchange {
        outcome: HttpOutcome::Timeout,
        span: Span { start_micros: 9, duration_micros: 10 * SEC },
        ..whole
    }
}

fn broken(outcome: HttpOutcome, len: u64) -> HttpExchange {
    HttpExchange { outcome, ..reading(Arm::LargePage, LARGE, len, 1_000) }
}

/// The verdict where the field agent and the control read these beside the page.
#[track_caller]
fn judged(expected: &str, field: &[HttpExchange], control: Option<&[HttpExchange]>) -> Verdict {
    let with = |steps: &[HttpExchange]| {
        let mut record = healthy();
        for step in steps.iter().filter(|step| step.arm == Arm::ReferenceObject) {
            let address = step.address;
            record.tcp.push(TcpConnect { arm: Arm::ReferenceObject, address, ..record.tcp[0].clone() });
        }
        record.http.extend_from_slice(steps);
        record
    };
    let control = control.map(with);
    let verdict = verdict(&with(field), control.as_ref());
    assert_eq!(summary(&verdict), expected, "{verdict:?}");
    verdict
}

const OK: &str = "identity.reached ok";
const THROTTLED: &str = "transfer.throttle impaired transfer.throttle unknown";
const UNCOMPARED: &str = "transfer.uncompared insufficient";
const FROZEN: &str = "transfer.freeze.large_page blocked transfer.freeze ip";

#[test]
fn a_page_policed_to_128_kbit_is_throttled() {
    let fast = [large(SEC / 10)];
    let verdict = judged(THROTTLED, &[large(4 * SEC), object(SEC / 10)], Some(&fast));
    assert!(
        verdict.basis[0].contains("65536 bytes") && verdict.basis[0].contains("131 kbit/s"),
        "{verdict:?}"
    );
    assert!(verdict.basis[1].contains("10.4 Mbit/s") && verdict.control.is_some(), "{verdict:?}");
    // The deadline cut it off while bytes still came.
    judged(THROTTLED, &[trickle(Arm::LargePage, LARGE, 30_000), object(SEC / 10)], Some(&fast));
}

#[test]
fn slow_lines_slow_origins_and_few_bytes_are_no_throttling() {
    let (slow, fast) = (large(4 * SEC), [large(SEC / 10)]);
    // The line is slow: the object came no faster, or not much.
    judged(OK, &[slow.clone(), object(8 * SEC)], Some(&fast));
    judged(OK, &[slow.clone(), object(3 * SEC)], Some(&fast));
    // Nothing to compare with, nothing that came whole, or too little of it.
    judged(OK, std::slice::from_ref(&slow), Some(&fast));
    let half = HttpExchange { outcome: HttpOutcome::Reset, ..object(SEC / 10) };
    judged(OK, &[slow.clone(), half], Some(&fast));
    judged(OK, &[slow.clone(), reading(Arm::ReferenceObject, OBJECT, 9_000, 1_000)], Some(&fast));
    // The origin is slow: the control waits as long.
    judged(OK, &[slow.clone(), object(SEC / 10)], Some(&[large(5 * SEC)]));
    judged(OK, &[slow.clone(), object(SEC / 10)], Some(&[large(2 * SEC)]));
    // One reading of two is slow, on a bad line.
    judged(OK, &[slow.clone(), object(SEC / 10), large(SEC / 2)], Some(&fast));
    judged(THROTTLED, &[slow.clone(), object(SEC / 10), large(3 * SEC)], Some(&fast));
    // Slower than the others, and fast enough.
    judged(OK, &[large(SEC), object(SEC / 10)], Some(&[large(SEC / 100)]));
    // Too few bytes for a verdict.
    judged(OK, &[reading(Arm::LargePage, LARGE, 16_383, 9 * SEC), object(SEC / 10)], Some(&fast));
    // An error page is no large page.
    let missing = HttpExchange { status: Some(404), ..slow };
    judged(OK, &[missing, object(SEC / 10)], Some(&fast));
}

#[test]
fn a_page_large_enough_speaks_for_itself() {
    let page = |micros| reading(Arm::Main, "https://mirror.example/", 65_536, micros);
    let visit = |micros: u64, object: Option<HttpExchange>| {
        let mut record = healthy();
        record.http = vec![HttpExchange { canary_found: Some(true), ..page(micros) }];
        record.http.extend(object);
        record
    };
    let check = |expected: &str, field: &ProbeRecord, control: Option<&ProbeRecord>| {
        assert_eq!(summary(&verdict(field, control)), expected);
    };
    let slow = visit(4 * SEC, Some(object(SEC / 10)));
    check(THROTTLED, &slow, Some(&visit(SEC / 10, None)));
    check(OK, &slow, Some(&visit(4 * SEC, None)));
    check(UNCOMPARED, &slow, None);
    check(OK, &visit(4 * SEC, None), None);
    // So slow that the visit ended first.
    let mut late = visit(0, Some(object(SEC / 10)));
    late.http[0] = trickle(Arm::Main, "https://mirror.example/", 40_000);
    let throttled = "transfer.throttle.page blocked transfer.throttle unknown";
    check(throttled, &late, Some(&visit(SEC / 10, None)));
    check("http.cut blocked http.timeout unknown", &late, Some(&visit(5 * SEC, None)));
    check("control.missing insufficient", &late, None);
    // Bytes that still come are no freeze, wherever the deadline fell.
    late.http = vec![trickle(Arm::Main, "https://mirror.example/", 20_000)];
    check("http.cut blocked http.timeout unknown", &late, Some(&visit(SEC / 10, None)));
}

#[test]
fn a_large_page_frozen_where_the_small_one_passes_is_a_block() {
    let whole = [large(SEC / 10)];
    judged(FROZEN, &[frozen(16_384, 18_000)], Some(&whole));
    judged(FROZEN, &[frozen(16_384, 18_000), frozen(24_000, 26_000)], Some(&whole));
    // The kernel got what TLS could not show yet.
    judged(FROZEN, &[frozen(0, 15_200)], Some(&whole));
    // The object stands in a range that freezes too.
    let stalled = HttpExchange { arm: Arm::ReferenceObject, ..frozen(20_000, 22_000) };
    judged(FROZEN, &[frozen(16_384, 18_000), stalled], Some(&whole));
    judged(FROZEN, &[frozen(16_384, 18_000), object(SEC / 10)], Some(&whole));
    // One of two readings: it loads, now and then.
    let verdict = judged(
        "transfer.freeze.large_page impaired transfer.freeze ip",
        &[frozen(20_000, 22_000), large(SEC / 10)],
        Some(&whole),
    );
    assert!(verdict.basis.iter().any(|line| line.contains("another connection")), "{verdict:?}");
}

#[test]
fn a_large_page_that_stalls_for_everybody_is_no_block() {
    judged(OK, &[frozen(16_384, 18_000)], Some(&[frozen(16_384, 18_000)]));
    judged(OK, &[frozen(16_384, 18_000)], Some(&[reading(Arm::LargePage, LARGE, 9_000, 100)]));
    // The line died under the reading: the object came no better.
    let dead = HttpExchange { arm: Arm::ReferenceObject, body_len: 0, status: None, ..frozen(0, 0) };
    judged(OK, &[frozen(16_384, 18_000), dead], Some(&[large(SEC / 10)]));
}

#[test]
fn a_large_page_cut_short_elsewhere_impairs() {
    let whole = [large(SEC / 10)];
    let cut = |mechanism: &str| format!("transfer.cut impaired {mechanism} unknown");
    judged(
        &cut("http.reset"),
        &[broken(HttpOutcome::Reset, 9_000), broken(HttpOutcome::Reset, 9_000)],
        Some(&whole),
    );
    judged(&cut("http.eof"), &[broken(HttpOutcome::Eof, 40_000)], Some(&whole));
    judged(&cut("http.timeout"), &[frozen(60_000, 62_000)], Some(&whole));
    // The second reading went through.
    judged(OK, &[broken(HttpOutcome::Reset, 9_000), large(SEC / 10)], Some(&whole));
    judged(OK, &[broken(HttpOutcome::Reset, 9_000)], Some(&[broken(HttpOutcome::Reset, 9_000)]));
}

#[test]
fn doubt_waits_for_a_control_that_read_the_same_page() {
    let doubtful: [&[HttpExchange]; 3] = [
        &[large(4 * SEC), object(SEC / 10)],
        &[frozen(16_384, 18_000)],
        &[broken(HttpOutcome::Reset, 9_000)],
    ];
    for field in doubtful {
        for control in [None, Some(&[][..])] {
            assert!(wants_control(&judged(UNCOMPARED, field, control)));
        }
    }
    // A list that changed between the two readings.
    let other = reading(Arm::LargePage, "https://mirror.example/other", 65_536, 9_000);
    judged(UNCOMPARED, &[frozen(16_384, 18_000)], Some(&[other]));
}
