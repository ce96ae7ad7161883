//! Where a gap belongs: it bridges what its agent could not keep.

use super::{BODY_LEN_MAX, ChainHead, Place, Rejection, RejectionCode};
use crate::evidence::CheckedRecord;
use crate::gap::Gap;
use crate::target::Sha256;

/// Checks signature and chain of a gap against its agent's head. It must begin where the chain ends, or before, where an
/// older stream brought some of what the agent meanwhile gave up. A gap that ends where the chain has been is a duplicate
/// if the chain knows the statement it ends with.
pub fn place_gap(checked: &CheckedRecord, gap: &Gap, head: &ChainHead) -> Result<Place, Rejection> {
    let record = checked.record();
    let last = head.last();
    let refuse = |code, detail: String| Err(Rejection::new(code, detail));
    if record.body.len() > BODY_LEN_MAX {
        return refuse(RejectionCode::FrameTooLarge, format!("a gap of {} bytes", record.body.len()));
    }
    let is_same = record.epoch == last.epoch;
    if is_same && record.sequence <= last.sequence && record.sequence > 0 {
        return match head.known(record.sequence) {
            Some(hash) if *hash != gap.last_hash => refuse(
                RejectionCode::ConflictingKey,
                format!(
                    "epoch {} sequence {} was admitted with other bytes: is this box a copy of another?",
                    record.epoch, record.sequence
                ),
            ),
            _ => Ok(Place::Duplicate),
        };
    }
    checked.signature().map_err(|bad| {
        let place = format!("(gap, epoch {}, sequence {})", record.epoch, record.sequence);
        Rejection::new(RejectionCode::BadSignature, format!("{bad} {place}"))
    })?;
    let before = gap.first.saturating_sub(1);
    let follows = is_same && before == last.sequence && record.previous == last.hash;
    let overlaps = is_same && before < last.sequence && head.known(before) == Some(&record.previous);
    let begins = record.epoch > last.epoch && gap.first == 1 && record.previous == Sha256::default();
    if gap.covers(record.sequence) && (follows || overlaps || begins) {
        return match is_same && head.contradicts(gap.first, &record.previous, gap.link(record)) {
            true => refuse(
                RejectionCode::ConflictingKey,
                format!(
                    "a gap that ends with epoch {} sequence {} does not fit what was admitted ahead of it: is this box a \
                     copy of another?",
                    record.epoch, record.sequence
                ),
            ),
            false => Ok(Place::Next),
        };
    }
    refuse(
        RejectionCode::WrongChain,
        format!(
            "a gap of {} from epoch {} sequence {} to {} does not follow epoch {} sequence {}",
            gap.len(),
            record.epoch,
            gap.first,
            record.sequence,
            last.epoch,
            last.sequence
        ),
    )
}
