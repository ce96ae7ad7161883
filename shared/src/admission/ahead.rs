//! Records ahead of their chain: what an agent measures now need not wait behind what it measured while it was away.
//!
//! A record's signature covers its own place in the chain, so one can be admitted before those that it follows came. Its
//! place and both hashes are remembered; once the chain has come so far it goes on over it. Whatever contradicts a record
//! held ahead is another box's: the agent's key vouched for two things in one place.

use super::{BODY_LEN_MAX, ChainHead, Place, Rejection, RejectionCode, place};
use crate::evidence::{ChainLink, CheckedRecord, SignedRecord};
use crate::gap::Gap;
use crate::target::Sha256;

/// Records of one agent that may stand ahead of its chain; the next waits for its turn. Only places and hashes are
/// remembered: 72 bytes each.
pub const AHEAD_RECORDS_MAX: usize = 1_024;
/// Runs of such records, so that a welcome can name them all: about one for each connection of an agent that is back.
pub const AHEAD_RUNS_MAX: usize = 32;

/// Records in a row that are held ahead of their chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub first: u64,
    pub last: u64,
    /// Of the last: whoever signed it signed all before it.
    pub hash: Sha256,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead {
    pub(super) sequence: u64,
    previous: Sha256,
    pub(super) hash: Sha256,
}

impl ChainHead {
    /// Notes a record that [`place_ahead`] called ahead.
    pub fn advance_ahead(&mut self, link: ChainLink, previous: Sha256) {
        // A mended journal may lack what made it so.
        if link.epoch != self.last.epoch || link.sequence <= self.last.sequence {
            return;
        }
        let at = self.ahead.partition_point(|known| known.sequence < link.sequence);
        self.ahead.insert(at, Ahead { sequence: link.sequence, previous, hash: link.hash });
    }

    /// The records held ahead, in runs.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for Ahead { sequence, hash, .. } in &self.ahead {
            match runs.last_mut().filter(|run| run.last + 1 == *sequence) {
                Some(run) => (run.last, run.hash) = (*sequence, *hash),
                None => runs.push(Run { first: *sequence, last: *sequence, hash: *hash }),
            }
        }
        runs
    }

    /// How many of the records that a gap stands for never came: some may have before they were given up.
    pub fn lacks(&self, gap: &Gap, signed: &SignedRecord) -> u64 {
        let is_within = |ahead: &&Ahead| (gap.first..=signed.sequence).contains(&ahead.sequence);
        let held = match signed.epoch == self.last.epoch {
            true => self.ahead.iter().filter(is_within).count() as u64,
            false => 0,
        };
        gap.len_after(self.last, signed).saturating_sub(held)
    }

    /// What a statement for `first` to the link's sequence, which follows `previous`, contradicts of what is held ahead.
    pub(super) fn contradicts(&self, first: u64, previous: &Sha256, link: ChainLink) -> bool {
        let at = |sequence| self.at_ahead(sequence);
        at(first).is_some_and(|held| held.previous != *previous)
            || at(link.sequence).is_some_and(|held| held.hash != link.hash)
            || at(link.sequence.saturating_add(1)).is_some_and(|held| held.previous != link.hash)
            || at(first.saturating_sub(1)).is_some_and(|held| held.hash != *previous)
    }

    /// The record held ahead under `sequence`.
    pub(super) fn at_ahead(&self, sequence: u64) -> Option<&Ahead> {
        let index = self.ahead.binary_search_by_key(&sequence, |held| held.sequence).ok()?;
        self.ahead.get(index)
    }

    /// Goes on over what is held ahead and follows.
    pub(super) fn catch_up(&mut self) {
        while let Some(next) = self.ahead.front().copied() {
            let follows = next.sequence == self.last.sequence + 1 && next.previous == self.last.hash;
            if !follows {
                return;
            }
            self.ahead.pop_front();
            self.last = ChainLink { sequence: next.sequence, hash: next.hash, ..self.last };
            self.remember(next.sequence, next.hash);
        }
    }

    /// Whether one more may be held, under this sequence.
    fn has_room_ahead(&self, sequence: u64) -> bool {
        let lengthens = [sequence - 1, sequence + 1].iter().any(|beside| self.at_ahead(*beside).is_some());
        self.ahead.len() < AHEAD_RECORDS_MAX && (lengthens || self.runs().len() < AHEAD_RUNS_MAX)
    }
}

/// Checks signature and place of a record that its agent sends ahead of its chain; one whose turn it is has its place as
/// any other. `None`: there is no room for it now, it comes again in its turn.
pub fn place_ahead(checked: &CheckedRecord, head: &ChainHead) -> Result<Option<Place>, Rejection> {
    let record = checked.record();
    let (last, place_of) = (head.last, format!("epoch {} sequence {}", record.epoch, record.sequence));
    let is_ahead = match record.epoch == last.epoch {
        true => record.sequence > last.sequence.saturating_add(1) && record.sequence < u64::MAX,
        false => record.epoch > last.epoch && record.sequence > 1,
    };
    if !is_ahead || record.body.len() > BODY_LEN_MAX {
        return place(checked, head).map(Some);
    }
    let is_same = record.epoch == last.epoch;
    let conflict = |what: &str| {
        let detail = format!("{place_of} {what}: is this box a copy of another?");
        Err(Rejection::new(RejectionCode::ConflictingKey, detail))
    };
    match head.at_ahead(record.sequence).filter(|_| is_same) {
        Some(held) if held.hash == checked.hash() => return Ok(Some(Place::Duplicate)),
        Some(_) => return conflict("was admitted with other bytes"),
        None => {}
    }
    checked.signature().map_err(|bad| {
        Rejection::new(RejectionCode::BadSignature, format!("{bad} ({place_of}, ahead of its chain)"))
    })?;
    // Nothing is known of an epoch that has not begun here.
    if !is_same {
        return Ok(None);
    }
    if head.contradicts(record.sequence, &record.previous, checked.link()) {
        return conflict("does not fit what was admitted beside it");
    }
    Ok(head.has_room_ahead(record.sequence).then_some(Place::Ahead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{RESEND_WINDOW, place_gap};
    use crate::evidence::SecretKey;
    use crate::gap::Shape;
    use crate::words::{AgentId, UnixMillis};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn agent() -> AgentId {
        AgentId::parse("a1").unwrap()
    }

    fn chain(epoch: u64, len: u64) -> Vec<SignedRecord> {
        let mut link = ChainLink::start(epoch);
        let sign = |n: u64| {
            let signed = SignedRecord::sign(&agent(), link, n.to_be_bytes().to_vec(), &key());
            link = signed.link();
            signed
        };
        (0..len).map(sign).collect()
    }

    /// A collector's side of one chain, as the journal would have it.
    #[derive(Default)]
    struct Side {
        head: ChainHead,
        admitted: Vec<(u64, u64)>,
        dropped: u64,
    }

    impl Side {
        fn take(&mut self, record: &SignedRecord, is_ahead: bool) -> Result<Option<Place>, RejectionCode> {
            let checked = CheckedRecord::new(record.clone(), &key().public());
            let placed = match is_ahead {
                true => place_ahead(&checked, &self.head),
                false => place(&checked, &self.head).map(Some),
            };
            let placed = placed.map_err(|rejection| rejection.code)?;
            match placed {
                Some(Place::Next) => self.head.advance(checked.link()),
                Some(Place::Ahead) => self.head.advance_ahead(checked.link(), record.previous),
                _ => return Ok(placed),
            }
            self.admitted.push((record.epoch, record.sequence));
            Ok(placed)
        }

        fn take_gap(&mut self, gap: &Gap, last: ChainLink) -> Result<Place, RejectionCode> {
            let signed = gap.sign(&agent(), last, |gap| format!("{gap:?}").into_bytes(), &key());
            let checked = CheckedRecord::new(signed.clone(), &key().public());
            let placed = place_gap(&checked, gap, &self.head).map_err(|rejection| rejection.code)?;
            if placed == Place::Next {
                self.dropped += self.head.lacks(gap, &signed);
                self.head.advance(gap.link(&signed));
            }
            Ok(placed)
        }
    }

    /// The gap in the place of the records from the one at `first` to the one at `last`.
    fn gap(chain: &[SignedRecord], first: usize, last: usize) -> (Gap, ChainLink) {
        let (from, to) = (&chain[first], &chain[last]);
        let count = to.sequence - from.sequence + 1;
        let gap = Gap::of((from.sequence, count), to.hash(), UnixMillis(1), None, Shape::Ok);
        (gap, ChainLink { epoch: from.epoch, sequence: from.sequence - 1, hash: from.previous })
    }

    #[test]
    fn a_record_is_admitted_before_those_it_follows_and_the_chain_goes_on_over_it() {
        let chain = chain(1, 9);
        let mut side = Side::default();
        // Nothing is known of the epoch yet.
        assert_eq!(side.take(&chain[5], true), Ok(None));
        assert_eq!(side.take(&chain[0], true), Ok(Some(Place::Next)));
        for index in [5, 8, 6] {
            assert_eq!(side.take(&chain[index], true), Ok(Some(Place::Ahead)));
            assert_eq!(side.take(&chain[index], true), Ok(Some(Place::Duplicate)));
        }
        let run = |first: u64, last: u64| Run { first, last, hash: chain[last as usize - 1].hash() };
        assert_eq!(side.head.runs(), [run(6, 7), run(9, 9)]);
        for record in &chain[1..4] {
            assert_eq!(side.take(record, false), Ok(Some(Place::Next)));
        }
        assert_eq!(side.head.last().sequence, 4);
        // In its turn only what follows is taken.
        assert_eq!(side.take(&chain[5], false), Err(RejectionCode::WrongChain));
        assert_eq!(side.take(&chain[4], false), Ok(Some(Place::Next)));
        assert_eq!((side.head.last(), side.head.runs()), (chain[6].link(), vec![run(9, 9)]));
        assert_eq!(side.take(&chain[5], false), Ok(Some(Place::Duplicate)));
        assert_eq!(side.take(&chain[7], true), Ok(Some(Place::Next)));
        assert_eq!((side.head.last(), side.head.runs()), (chain[8].link(), vec![]));
    }

    #[test]
    fn what_nobody_signed_is_refused_and_what_contradicts_is_a_copied_box_s() {
        let chain = chain(1, 9);
        let held = || {
            let mut side = Side::default();
            side.take(&chain[0], false).unwrap();
            side.take(&chain[5], true).unwrap();
            side
        };
        let mut forged = chain[7].clone();
        forged.body[0] ^= 1;
        assert_eq!(held().take(&forged, true), Err(RejectionCode::BadSignature));
        forged.epoch = 2;
        assert_eq!(held().take(&forged, true), Err(RejectionCode::BadSignature), "nor of an epoch to come");
        let other = |after: usize, body: &[u8]| {
            SignedRecord::sign(&agent(), chain[after].link(), body.to_vec(), &key())
        };
        // The same place with other bytes, ahead; beside it on either side.
        assert_eq!(held().take(&other(4, b"other"), true), Err(RejectionCode::ConflictingKey));
        assert_eq!(held().take(&other(3, b"other"), true), Err(RejectionCode::ConflictingKey));
        let stranger = ChainLink { hash: Sha256([9; 32]), ..chain[5].link() };
        let after = SignedRecord::sign(&agent(), stranger, b"after".to_vec(), &key());
        assert_eq!(held().take(&after, true), Err(RejectionCode::ConflictingKey));
        // By the chain, once it has come so far.
        let mut side = held();
        for record in &chain[1..4] {
            assert_eq!(side.take(record, false), Ok(Some(Place::Next)));
        }
        assert_eq!(side.take(&other(3, b"other"), false), Err(RejectionCode::ConflictingKey));
        let (mut lie, last) = gap(&chain, 4, 5);
        lie.last_hash = Sha256([3; 32]);
        assert_eq!(side.take_gap(&lie, last), Err(RejectionCode::ConflictingKey));
        assert_eq!(side.take(&chain[4], false), Ok(Some(Place::Next)), "the true one still fits");
        // Of an epoch gone by nothing is taken.
        let next = self::chain(2, 3);
        side.take(&next[0], false).unwrap();
        assert!(side.head.runs().is_empty());
        assert_eq!(side.take(&chain[8], true), Err(RejectionCode::WrongChain));
        let long = SignedRecord::sign(&agent(), next[1].link(), vec![0; BODY_LEN_MAX + 1], &key());
        assert_eq!(side.take(&long, true), Err(RejectionCode::FrameTooLarge));
    }

    #[test]
    fn what_has_no_room_waits_for_its_turn_and_is_not_refused() {
        let chain = chain(1, AHEAD_RECORDS_MAX as u64 + 80);
        let mut side = Side::default();
        side.take(&chain[0], false).unwrap();
        for run in 0..AHEAD_RUNS_MAX {
            assert_eq!(side.take(&chain[3 + run * 2], true), Ok(Some(Place::Ahead)));
        }
        let beyond = 3 + AHEAD_RUNS_MAX * 2;
        assert_eq!(side.take(&chain[beyond], true), Ok(None), "another run");
        assert_eq!(side.head.runs().len(), AHEAD_RUNS_MAX);
        // What lengthens one is taken, as long as there are not too many.
        for record in &chain[beyond - 1..] {
            let held: u64 = side.head.runs().iter().map(|run| run.last - run.first + 1).sum();
            let expected = (held < AHEAD_RECORDS_MAX as u64).then_some(Place::Ahead);
            assert_eq!(side.take(record, true), Ok(expected));
        }
        for record in &chain[1..] {
            assert!(matches!(side.take(record, false), Ok(Some(Place::Next | Place::Duplicate))));
        }
        assert_eq!((side.head.last(), side.admitted.len()), (chain[chain.len() - 1].link(), chain.len()));
        assert!(side.head.recent.len() <= RESEND_WINDOW);
    }

    /// What comes next, of those that were not yet given up.
    #[derive(Debug, Clone)]
    enum Step {
        Chain,
        Ahead(prop::sample::Index),
        Again(prop::sample::Index),
        GiveUp { from: prop::sample::Index, count: usize },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Chain),
            3 => any::<prop::sample::Index>().prop_map(Step::Ahead),
            1 => any::<prop::sample::Index>().prop_map(Step::Again),
            1 => (any::<prop::sample::Index>(), 1usize..6)
                .prop_map(|(from, count)| Step::GiveUp { from, count }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_ahead_in_turn_again_or_never_is_admitted_once_or_told_of(
            len in 2u64..40, steps in proptest::collection::vec(any_step(), 0..80),
        ) {
            let chain = chain(3, len);
            let mut side = Side::default();
            // What the agent still has, by index: a record, or the end of a gap that begins here.
            let mut gaps: Vec<(usize, usize)> = Vec::new();
            let covered = |gaps: &[(usize, usize)], index: usize| {
                gaps.iter().copied().find(|(first, last)| (*first..=*last).contains(&index))
            };
            let mut next = 0;
            let in_turn = |side: &mut Side, gaps: &[(usize, usize)], next: &mut usize| {
                let Some(record) = chain.get(*next) else { return Ok(()) };
                match covered(gaps, *next) {
                    Some((first, last)) => {
                        let (gap, before) = gap(&chain, first, last);
                        prop_assert!(side.take_gap(&gap, before).is_ok());
                        *next = last + 1;
                    }
                    None => {
                        let placed = side.take(record, false);
                        prop_assert!(matches!(placed, Ok(Some(Place::Next | Place::Duplicate))), "{:?}", placed);
                        *next += 1;
                    }
                }
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Chain => in_turn(&mut side, &gaps, &mut next)?,
                    Step::Ahead(index) => {
                        let index = index.index(chain.len());
                        if covered(&gaps, index).is_none() {
                            let placed = side.take(&chain[index], true);
                            prop_assert!(placed.is_ok(), "{:?}", placed);
                        }
                    }
                    Step::Again(index) if next > 0 => {
                        let index = index.index(next);
                        if covered(&gaps, index).is_none() {
                            prop_assert_eq!(side.take(&chain[index], false), Ok(Some(Place::Duplicate)));
                        }
                    }
                    Step::GiveUp { from, count } => {
                        let first = from.index(chain.len());
                        let last = (first + count - 1).min(chain.len() - 1);
                        let is_free = (first..=last).all(|index| covered(&gaps, index).is_none());
                        // What bridges the very first tells nothing of the chain that was begun.
                        if first >= next && is_free && (first > 0 || side.head.last().sequence == 0) {
                            gaps.push((first, last));
                        }
                    }
                    Step::Again(_) => {}
                }
            }
            while next < chain.len() {
                in_turn(&mut side, &gaps, &mut next)?;
            }
            prop_assert_eq!(side.head.last(), chain[chain.len() - 1].link());
            prop_assert!(side.head.runs().is_empty());
            let once: BTreeSet<_> = side.admitted.iter().copied().collect();
            prop_assert_eq!(once.len(), side.admitted.len(), "one is there twice");
            prop_assert_eq!(once.len() as u64 + side.dropped, len, "one is missing and not told of");
            // And the same journal gives the same state.
            let mut again = ChainHead::default();
            chain.iter().for_each(|record| again.advance(record.link()));
            prop_assert_eq!(again.last(), side.head.last());
        }
    }
}
