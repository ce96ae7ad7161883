//! Whether a record may enter the journal. Pure: state, key and time are arguments.
//!
//! Two stages. [`place`] checks signature and chain: a failure there stops the stream, for nothing after it can be
//! placed; [`place_ahead`] does so for a record that is not to wait for those before it. [`accept`] checks the facts: a failure there refuses one record, which is journaled as refused so that the
//! agent's chain goes on and nothing is silently lost.

mod ahead;
mod gap;

use std::collections::VecDeque;

pub use ahead::{AHEAD_RECORDS_MAX, AHEAD_RUNS_MAX, Run, place_ahead};
pub use gap::place_gap;

use ahead::Ahead;

use crate::evidence::{BODY_LEN_MAX, ChainLink, CheckedRecord};
use crate::record::ProbeRecord;
use crate::target::{MirrorList, Sha256};
use crate::words::UnixMillis;

/// How far an agent's clock may run ahead of the collector's.
pub const CLOCK_AHEAD_MAX_MILLIS: u64 = 120_000;
/// Statements an agent may have in flight: resends are compared byte for byte within this window.
pub const RESEND_WINDOW: usize = 256;

/// A record that arrives this much later than it says it ended was spooled: then its own clock is believed.
pub const SPOOLED_AFTER_MILLIS: u64 = 60_000;

/// Stable codes a peer gets; never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectionCode {
    BadSignature,
    WrongChain,
    ConflictingKey,
    WrongAgent,
    FrameTooLarge,
    Malformed,
    FutureTime,
    UnknownMirror,
}

impl RejectionCode {
    /// Every code, for metrics that start at zero.
    pub const ALL: [Self; 8] = [
        Self::BadSignature,
        Self::WrongChain,
        Self::ConflictingKey,
        Self::WrongAgent,
        Self::FrameTooLarge,
        Self::Malformed,
        Self::FutureTime,
        Self::UnknownMirror,
    ];

    /// The code on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::WrongChain => "wrong_chain",
            Self::ConflictingKey => "conflicting_key",
            Self::WrongAgent => "wrong_agent",
            Self::FrameTooLarge => "frame_too_large",
            Self::Malformed => "malformed",
            Self::FutureTime => "future_time",
            Self::UnknownMirror => "unknown_mirror",
        }
    }

    /// The code of that text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// Whether the stream ends: the records after it cannot be placed either.
    pub fn stops_stream(self) -> bool {
        !matches!(self, Self::Malformed | Self::FutureTime | Self::UnknownMirror)
    }
}

/// A record refused, with what a person needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: RejectionCode,
    pub detail: String,
}

impl Rejection {
    /// A refusal with its detail.
    pub fn new(code: RejectionCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

/// What the collector knows of one agent's chain; rebuilt from the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainHead {
    last: ChainLink,
    /// Sequences and hashes of the last statements of this epoch, the latest at the back. Of a gap, what it ends with.
    recent: VecDeque<(u64, Sha256)>,
    /// Records of this epoch that were admitted before those they follow, in order; all behind the next.
    ahead: VecDeque<Ahead>,
}

/// Where a verified record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The next of the chain: new.
    Next,
    /// Admitted before, with the same bytes: acknowledge again, count once.
    Duplicate,
    /// New, before those it follows: only [`place_ahead`] says so.
    Ahead,
}

impl ChainHead {
    /// The last statement known.
    pub fn last(&self) -> ChainLink {
        self.last
    }

    /// Notes a statement that [`place`] called next, and goes on over what was held ahead of it.
    pub fn advance(&mut self, link: ChainLink) {
        if link.epoch != self.last.epoch {
            self.recent.clear();
            self.ahead.clear();
        }
        // What a gap stands for may have come before it was given up.
        while let Some(held) = self.ahead.front().copied().filter(|held| held.sequence <= link.sequence) {
            self.ahead.pop_front();
            if held.sequence < link.sequence {
                self.remember(held.sequence, held.hash);
            }
        }
        self.last = link;
        self.remember(link.sequence, link.hash);
        self.catch_up();
    }

    fn remember(&mut self, sequence: u64, hash: Sha256) {
        self.recent.push_back((sequence, hash));
        if self.recent.len() > RESEND_WINDOW {
            self.recent.pop_front();
        }
    }

    /// The hash admitted under `sequence`, if it is within the window.
    fn known(&self, sequence: u64) -> Option<&Sha256> {
        let index = self.recent.binary_search_by_key(&sequence, |(known, _)| *known).ok()?;
        self.recent.get(index).map(|(_, hash)| hash)
    }
}

/// Checks signature and chain of a record against its agent's head. A key used before is looked at first: a resent
/// record is a duplicate, another one under the same key is a copied box, whatever its signature.
pub fn place(checked: &CheckedRecord, head: &ChainHead) -> Result<Place, Rejection> {
    let record = checked.record();
    if record.body.len() > BODY_LEN_MAX {
        return Err(Rejection::new(
            RejectionCode::FrameTooLarge,
            format!("a record body of {} bytes; the limit is {BODY_LEN_MAX}", record.body.len()),
        ));
    }
    let last = head.last;
    if record.epoch == last.epoch && record.sequence <= last.sequence && record.sequence > 0 {
        return match head.known(record.sequence) {
            Some(hash) if *hash != checked.hash() => Err(Rejection::new(
                RejectionCode::ConflictingKey,
                format!(
                    "epoch {} sequence {} was admitted with other bytes: is this box a copy of another?",
                    record.epoch, record.sequence
                ),
            )),
            _ => Ok(Place::Duplicate),
        };
    }
    checked.signature().map_err(|bad| {
        Rejection::new(
            RejectionCode::BadSignature,
            format!("{bad} (epoch {}, sequence {})", record.epoch, record.sequence),
        )
    })?;
    let follows =
        record.epoch == last.epoch && record.sequence == last.sequence + 1 && record.previous == last.hash;
    let begins = record.epoch > last.epoch && record.sequence == 1 && record.previous == Sha256::default();
    if follows && head.contradicts(record.sequence, &record.previous, checked.link()) {
        Err(Rejection::new(
            RejectionCode::ConflictingKey,
            format!(
                "epoch {} sequence {} does not fit what was admitted ahead of it: is this box a copy of another?",
                record.epoch, record.sequence
            ),
        ))
    } else if follows || begins {
        Ok(Place::Next)
    } else {
        Err(Rejection::new(
            RejectionCode::WrongChain,
            format!(
                "epoch {} sequence {} does not follow epoch {} sequence {}",
                record.epoch, record.sequence, last.epoch, last.sequence
            ),
        ))
    }
}

/// Checks the facts of a placed record.
pub fn accept(facts: &ProbeRecord, list: Option<&MirrorList>, now: UnixMillis) -> Result<(), Rejection> {
    if !facts.is_bounded() {
        return Err(Rejection::new(
            RejectionCode::Malformed,
            format!("more than {} steps of one kind", crate::record::STEPS_MAX),
        ));
    }
    if facts.ended_at() > now.plus_millis(CLOCK_AHEAD_MAX_MILLIS) {
        return Err(Rejection::new(
            RejectionCode::FutureTime,
            format!("measured at {}, but it is {now}: set the agent's clock", facts.ended_at()),
        ));
    }
    let known = facts.mirror.as_ref().is_some_and(|id| list.is_some_and(|list| list.mirror(id).is_some()));
    if known {
        Ok(())
    } else {
        let name = facts.mirror.as_ref().map_or("(none)", |id| id.as_str());
        Err(Rejection::new(
            RejectionCode::UnknownMirror,
            format!("mirror {name} is not on the list in force"),
        ))
    }
}

/// When a record that is admitted at `now` ended, by the collector's clock: by the agent's own, less what the agent found
/// it to be off, so that it does not matter when the record arrives. Nothing ended after it came. A clock is never believed
/// to be further ahead than one that is admitted may be, so that nobody who forges a reference's date can make fresh
/// records old. Where the agent could not tell how its clock goes, it counts for a spooled record alone: what arrives at
/// once and was measured by a slow clock is not old. There the age that the box's steady clock tells (`by_steady`) is better.
pub fn ended_at(facts: &ProbeRecord, by_steady: Option<UnixMillis>, now: UnixMillis) -> UnixMillis {
    let claimed = facts.ended_at();
    let known = facts.network.as_ref().and_then(|network| network.clock_ahead_millis);
    let ahead_millis = known.unwrap_or_default();
    let off_millis = ahead_millis.unsigned_abs();
    let by_wall = if ahead_millis < 0 {
        claimed.plus_millis(off_millis)
    } else {
        claimed.minus_millis(off_millis.min(CLOCK_AHEAD_MAX_MILLIS))
    };
    if let Some(ended) = by_steady.filter(|_| known.is_none()) {
        return ended.min(now);
    }
    let is_believed = known.is_some() || now.since_millis(by_wall) > SPOOLED_AFTER_MILLIS;
    if is_believed { by_wall.min(now) } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{SecretKey, SignedRecord};
    use crate::words::AgentId;

    fn sign(last: ChainLink, body: &[u8]) -> SignedRecord {
        SignedRecord::sign(&AgentId::parse("a1").unwrap(), last, body.to_vec(), &key())
    }

    fn placed(record: &SignedRecord, head: &ChainHead) -> Result<Place, Rejection> {
        place(&CheckedRecord::new(record.clone(), &key().public()), head)
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    /// A head after three statements, and those statements.
    fn three() -> (ChainHead, Vec<SignedRecord>) {
        let (mut head, mut records) = (ChainHead::default(), Vec::new());
        for n in 0..3u8 {
            let last = if n == 0 { ChainLink::start(1) } else { head.last() };
            let record = sign(last, &[n]);
            assert_eq!(placed(&record, &head), Ok(Place::Next));
            head.advance(record.link());
            records.push(record);
        }
        (head, records)
    }

    #[test]
    fn a_chain_admits_only_what_follows() {
        let (head, records) = three();
        let check = |record: &SignedRecord, expected: Result<Place, RejectionCode>| {
            assert_eq!(placed(record, &head).map_err(|r| r.code), expected);
        };
        check(&sign(head.last(), b"next"), Ok(Place::Next));
        check(&records[2], Ok(Place::Duplicate));
        check(&records[0], Ok(Place::Duplicate));
        check(&sign(records[1].link(), b"another third"), Err(RejectionCode::ConflictingKey));
        check(&sign(ChainLink { sequence: 7, ..head.last() }, b"gap"), Err(RejectionCode::WrongChain));
        check(
            &sign(ChainLink { hash: Sha256([1; 32]), ..head.last() }, b"fork"),
            Err(RejectionCode::WrongChain),
        );
        check(&sign(ChainLink::start(2), b"new epoch"), Ok(Place::Next));
        check(&sign(ChainLink::start(0), b"old epoch"), Err(RejectionCode::WrongChain));
        let mut forged = sign(head.last(), b"next");
        forged.body[0] ^= 1;
        check(&forged, Err(RejectionCode::BadSignature));
        check(&sign(head.last(), &vec![0; BODY_LEN_MAX + 1]), Err(RejectionCode::FrameTooLarge));
    }

    #[test]
    fn a_record_is_placed_by_the_collector_s_clock() {
        let now = UnixMillis(10_000_000);
        let check = |ended: u64, ahead_millis: Option<i64>, expected: u64| {
            let mut facts = crate::judge::tests::healthy();
            (facts.started_at, facts.duration_micros) = (UnixMillis(ended - 500), 500_000);
            facts.network =
                Some(crate::record::NetworkCheck { clock_ahead_millis: ahead_millis, ..Default::default() });
            assert_eq!(ended_at(&facts, None, now), UnixMillis(expected), "{ended} {ahead_millis:?}");
        };
        // Just measured, whatever the clock says.
        check(9_999_000, None, 10_000_000);
        check(10_060_000, None, 10_000_000);
        // On its way for a while: who knows how its clock goes, is believed to the moment.
        check(9_970_000, None, 10_000_000);
        check(9_970_000, Some(0), 9_970_000);
        check(9_990_000, Some(20_000), 9_970_000);
        check(9_950_000, Some(-20_000), 9_970_000);
        // Spooled for an hour by a clock that is right, slow by five minutes, fast by one.
        check(6_400_000, None, 6_400_000);
        check(6_100_000, Some(-300_000), 6_400_000);
        check(6_460_000, Some(60_000), 6_400_000);
        // Just measured by a clock five minutes slow, or by one that stands in 1970.
        check(9_700_000, Some(-300_000), 10_000_000);
        check(1_000, Some(-9_999_500), 10_000_000);
        // Nothing ends after it came, and nobody's forged date makes it older than two minutes.
        check(9_999_000, Some(-3_600_000), 10_000_000);
        check(9_999_000, Some(3_600_000), 9_879_000);
        check(9_999_000, Some(i64::MIN), 10_000_000);
    }
}
