//! Rules on the transfer: pages that begin and freeze, pages that come and come slowly. Speed alone proves nothing: a
//! slow line slows the reference object too, a slow origin slows the control too.

use super::facts::{has_reached, last_exchange, reached_by};
use super::rules::Found;
use super::{Case, Conclusion};
use crate::goodput::{BitsPerSec, goodput, is_silent, is_slow};
use crate::record::{Arm, HttpExchange, HttpOutcome, ProbeRecord};
use crate::verdict::{Mechanism, Outcome, Trigger};

/// Offsets at which the freeze of foreign hosting ranges strikes, in bytes (net4people/bbs: 14-34 KB).
const FREEZE_OFFSETS: std::ops::RangeInclusive<u64> = 14_000..=34_816;
/// What a page is compared with must come at least this many times faster: lines and hours differ by less.
const TIMES_FASTER: u64 = 4;

/// What looks wrong with the transfer of a mirror that was reached.
struct Doubt<'a> {
    page: &'a HttpExchange,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// Silence at an offset known for it; and the other reading, where that went through.
    Frozen { passed: Option<&'a HttpExchange> },
    /// Slow, while this object was fast.
    Slow { speed: BitsPerSec, object: &'a HttpExchange },
    /// No reading came to its end.
    Cut(Mechanism),
}

/// Whether a record tells how the mirror's large page came.
pub fn has_read_large_page(record: &ProbeRecord) -> bool {
    record.http.iter().any(|page| page.arm == Arm::LargePage)
}

/// A transfer in doubt that no control can be compared with.
pub(super) fn uncompared(case: &Case<'_>) -> Found {
    let doubt = doubt(case)?;
    if counterpart(case, &doubt).is_some() {
        return None;
    }
    let what = match doubt.kind {
        Kind::Frozen { .. } => "stalls",
        Kind::Slow { .. } => "comes slowly",
        Kind::Cut(_) => "breaks off",
    };
    let basis = format!("{} {what} here, and no control has read it in the same minutes", doubt.page.url);
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

/// The page passes, and what is longer than it freezes.
pub(super) fn freeze_of_large_page(case: &Case<'_>) -> Found {
    let doubt = doubt(case)?;
    let Kind::Frozen { passed } = doubt.kind else { return None };
    let other = counterpart(case, &doubt).filter(|other| is_whole(other))?;
    if other.body_len <= doubt.page.body_len {
        return None;
    }
    let mut basis = vec![stall(doubt.page), format!("the control read {} bytes of it", other.body_len)];
    basis.extend(passed.map(|page| format!("another connection brought all {} bytes of it", page.body_len)));
    let outcome = if passed.is_some() { Outcome::Impaired } else { Outcome::Blocked };
    conclude(outcome, Mechanism::TransferFreeze, Trigger::Ip, basis)
}

/// The page loads, late.
pub(super) fn throttle(case: &Case<'_>) -> Found {
    let doubt = doubt(case)?;
    let Kind::Slow { speed, object } = doubt.kind else { return None };
    let other = counterpart(case, &doubt)?;
    let basis = slower_than(doubt.page, speed, object, other)?;
    conclude(Outcome::Impaired, Mechanism::TransferThrottle, Trigger::Unknown, basis)
}

/// The page passes; what is longer breaks off, on every connection tried, and not for the control.
pub(super) fn cut_of_large_page(case: &Case<'_>) -> Found {
    let doubt = doubt(case)?;
    let Kind::Cut(mechanism) = doubt.kind else { return None };
    let other = counterpart(case, &doubt).filter(|other| is_whole(other))?;
    let basis = format!(
        "{} ends with {:?} after {} bytes; the control read {}",
        doubt.page.url, doubt.page.outcome, doubt.page.body_len, other.body_len
    );
    conclude(Outcome::Impaired, mechanism, Trigger::Unknown, vec![basis])
}

/// The page itself comes so slowly that the visit is over before it is whole.
pub(super) fn throttled_page(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let page = last_exchange(case.record, Arm::Main)?;
    let speed = goodput(page).filter(|_| page.outcome == HttpOutcome::Timeout && !is_silent(page))?;
    let object = faster_object(case.record, speed).filter(|_| is_slow(page) == Some(true))?;
    let other = reached_by(control, case.mirror, Arm::Main)?;
    let basis = slower_than(page, speed, object, other)?;
    conclude(Outcome::Blocked, Mechanism::TransferThrottle, Trigger::Unknown, basis)
}

/// The page itself freezes.
pub(super) fn freeze(case: &Case<'_>) -> Found {
    let page = last_exchange(case.record, Arm::Main)?;
    let basis = || vec![stall(page)];
    is_frozen(page)
        .then(|| conclude(Outcome::Blocked, Mechanism::TransferFreeze, Trigger::Ip, basis()))
        .flatten()
}

fn conclude(outcome: Outcome, mechanism: Mechanism, trigger: Trigger, basis: Vec<String>) -> Found {
    Some(Conclusion { outcome, mechanism: Some(mechanism), trigger: Some(trigger), basis })
}

/// What looks wrong, as far as the record alone tells.
fn doubt<'a>(case: &Case<'a>) -> Option<Doubt<'a>> {
    if !has_reached(case.record, case.mirror) {
        return None;
    }
    let readings: Vec<_> = large_pages(case.record).collect();
    // The better of two readings: a bad line slows one of them.
    let passed = readings.iter().copied().filter(|page| is_whole(page)).max_by_key(|page| goodput(page));
    if let Some(page) = readings.iter().copied().find(|page| is_frozen(page)) {
        return line_holds(case.record).then_some(Doubt { page, kind: Kind::Frozen { passed } });
    }
    let page = match passed.or(readings.last().copied()) {
        Some(page) => page,
        None => reached_by(case.record, case.mirror, Arm::Main)?,
    };
    if let Some(mechanism) = cut_of(page) {
        return line_holds(case.record).then_some(Doubt { page, kind: Kind::Cut(mechanism) });
    }
    let speed = goodput(page).filter(|_| is_slow(page) == Some(true))?;
    let object = faster_object(case.record, speed)?;
    Some(Doubt { page, kind: Kind::Slow { speed, object } })
}

/// The control's reading of the page in doubt, the best of several.
fn counterpart<'a>(case: &Case<'a>, doubt: &Doubt<'_>) -> Option<&'a HttpExchange> {
    let (_, control) = case.control?;
    match doubt.page.arm {
        Arm::LargePage => large_pages(control)
            .filter(|other| other.url == doubt.page.url)
            .max_by_key(|other| (is_whole(other), goodput(other))),
        _ => reached_by(control, case.mirror, Arm::Main),
    }
}

/// The readings of the large page; one that came whole and is an error page is none.
fn large_pages(record: &ProbeRecord) -> impl Iterator<Item = &HttpExchange> {
    record.http.iter().filter(|page| {
        page.arm == Arm::LargePage && page.status.is_none_or(|status| (200..300).contains(&status))
    })
}

fn objects(record: &ProbeRecord) -> impl Iterator<Item = &HttpExchange> {
    record.http.iter().filter(|object| object.arm == Arm::ReferenceObject)
}

/// Whether the agent's own line carried the reference object, as far as it was tried: what breaks every transfer says
/// nothing of this one. A freeze of whole ranges may strike the object too.
fn line_holds(record: &ProbeRecord) -> bool {
    let is_tried = record.tcp.iter().any(|step| step.arm == Arm::ReferenceObject);
    !is_tried || objects(record).any(|object| is_whole(object) || is_frozen(object))
}

/// The reference object, where it shows that the line is much faster than `speed`.
fn faster_object(record: &ProbeRecord, speed: BitsPerSec) -> Option<&HttpExchange> {
    let is_faster = |object: &&HttpExchange| {
        is_whole(object) && goodput(object).is_some_and(|fast| fast.is_times(TIMES_FASTER, speed))
    };
    objects(record).find(is_faster)
}

/// The comparison in words, where the control was much faster too.
fn slower_than(
    page: &HttpExchange,
    speed: BitsPerSec,
    object: &HttpExchange,
    other: &HttpExchange,
) -> Option<Vec<String>> {
    let fast = goodput(other).filter(|fast| fast.is_times(TIMES_FASTER, speed))?;
    let line = goodput(object)?;
    Some(vec![
        format!("{} bytes of {} came at {speed}", page.body_len, page.url),
        format!("the reference object {} came at {line}, the control read the page at {fast}", object.url),
    ])
}

fn is_whole(page: &HttpExchange) -> bool {
    page.outcome == HttpOutcome::Complete && page.status.is_some_and(|status| (200..300).contains(&status))
}

/// Silence at an offset known for it. A TLS record shows nothing of its 16 KB until all have come: what the kernel got
/// tells the offset better.
fn is_frozen(page: &HttpExchange) -> bool {
    is_silent(page) && [page.body_len, received(page)].iter().any(|offset| FREEZE_OFFSETS.contains(offset))
}

fn received(page: &HttpExchange) -> u64 {
    page.transport.map_or(page.body_len, |transport| transport.bytes_received)
}

fn stall(page: &HttpExchange) -> String {
    let received = received(page);
    format!(
        "the transfer of {} stalls after {} bytes, {received} in all, without an end",
        page.url, page.body_len
    )
}

/// How a reading broke off; `None` for one that came whole or still came.
fn cut_of(page: &HttpExchange) -> Option<Mechanism> {
    match page.outcome {
        HttpOutcome::Reset => Some(Mechanism::HttpReset),
        HttpOutcome::Eof => Some(Mechanism::HttpEof),
        HttpOutcome::Timeout if is_silent(page) => Some(Mechanism::HttpTimeout),
        _ => None,
    }
}
