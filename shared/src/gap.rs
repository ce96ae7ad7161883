//! Gaps: what a box says of records it signed and could not keep. A gap stands in their place in its chain, signed like a
//! record, so that loss is never silent.
//!
//! It covers the sequences from `first` to its own, and holds the hash of the last statement it stands for: what was signed
//! after that one follows from the gap as it followed from the statement.

use std::collections::BTreeMap;

use crate::evidence::{ChainLink, SecretKey, SignedRecord};
use crate::record::ProbeRecord;
use crate::target::Sha256;
use crate::words::{AgentId, MirrorId, UnixMillis};

/// Most lines of one gap: a large list's mirrors with two shapes each. What is beyond is counted without its mirror.
pub const GAP_COUNTS_MAX: usize = 128;

/// What a record that is gone was like, as far as its agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// The visit went through.
    Ok,
    Failed,
    /// It told of a picture alone.
    Picture,
    /// Kept by an older agent, which noted no shape.
    Unknown,
    /// The agent's disk changed or lost it: no choice of the agent's.
    Damaged,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Picture, Self::Unknown, Self::Damaged];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Picture => "picture",
            Self::Unknown => "unknown",
            Self::Damaged => "damaged",
        }
    }

    /// The shape of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == text)
    }
}

/// What a statement in an agent's chain says.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Record(Box<ProbeRecord>),
    Gap(Gap),
}

/// Records that are gone, in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Sequence of the first; the gap's own is the last's.
    pub first: u64,
    /// Hash of the last.
    pub last_hash: Sha256,
    /// When they were measured, by the agent's clock.
    pub since: UnixMillis,
    pub until: UnixMillis,
    /// How many, by mirror and shape, in order. No mirror: unknown.
    pub counts: BTreeMap<(Option<MirrorId>, Shape), u64>,
}

impl Gap {
    /// A gap of `count` records alike.
    pub fn of(
        (first, count): (u64, u64),
        last_hash: Sha256,
        at: UnixMillis,
        mirror: Option<MirrorId>,
        shape: Shape,
    ) -> Self {
        Self { first, last_hash, since: at, until: at, counts: BTreeMap::from([((mirror, shape), count)]) }
    }

    /// This one and the one that follows at once, as one.
    pub fn joined(mut self, later: Self) -> Self {
        self.last_hash = later.last_hash;
        self.since = self.since.min(later.since);
        self.until = self.until.max(later.until);
        for ((mirror, shape), count) in later.counts {
            let is_new = !self.counts.contains_key(&(mirror.clone(), shape));
            // Lines without a mirror have room besides.
            let mirror = mirror.filter(|_| !is_new || self.counts.len() < GAP_COUNTS_MAX);
            let known = self.counts.entry((mirror, shape)).or_default();
            *known = known.saturating_add(count);
        }
        self
    }

    /// The same without its first `count`; of what kind those were nobody knows any more.
    pub fn without_first(mut self, count: u64) -> Self {
        self.first += count;
        let mut left = count;
        for known in self.counts.values_mut() {
            let less = left.min(*known);
            (*known, left) = (*known - less, left - less);
        }
        self.counts.retain(|_, count| *count > 0);
        self
    }

    /// Records that are gone.
    pub fn len(&self) -> u64 {
        self.counts.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Of those, the ones that a chain lacks which ends at `last`: some may have come before they were given up.
    pub fn len_after(&self, last: ChainLink, signed: &SignedRecord) -> u64 {
        let known = if last.epoch == signed.epoch { last.sequence } else { 0 };
        self.len().min(signed.sequence.saturating_sub(known))
    }

    /// Whether nothing is gone: no gap that makes sense.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Signs it as what follows `last`, of which `first` must be the next; it ends after as many as it counts.
    pub fn sign(
        &self,
        agent: &AgentId,
        last: ChainLink,
        encode: impl FnOnce(&Self) -> Vec<u8>,
        key: &SecretKey,
    ) -> SignedRecord {
        SignedRecord::sign_over(agent, last, self.len(), encode(self), key)
    }

    /// The place in the chain after `signed`, which says this.
    pub fn link(&self, signed: &SignedRecord) -> ChainLink {
        ChainLink { epoch: signed.epoch, sequence: signed.sequence, hash: self.last_hash }
    }

    /// Whether it says as many as it covers.
    pub fn covers(&self, last: u64) -> bool {
        self.first > 0
            && last.checked_sub(self.first).and_then(|more| more.checked_add(1)) == Some(self.len())
            && self.counts.len() <= GAP_COUNTS_MAX + Shape::ALL.len()
    }
}

impl Statement {
    /// The gap, if it is one.
    pub fn gap(&self) -> Option<&Gap> {
        match self {
            Self::Gap(gap) => Some(gap),
            Self::Record(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{ChainHead, Place, RejectionCode, place, place_gap};
    use crate::evidence::CheckedRecord;
    use proptest::prelude::*;

    fn agent() -> AgentId {
        AgentId::parse("a1").unwrap()
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    /// Stands for the wall's encoding: the bytes matter to nobody here.
    fn encode(gap: &Gap) -> Vec<u8> {
        format!("{gap:?}").into_bytes()
    }

    /// One statement as a spool keeps it.
    #[derive(Debug, Clone)]
    struct Kept {
        signed: SignedRecord,
        gap: Option<Gap>,
    }

    impl Kept {
        fn first(&self) -> u64 {
            self.gap.as_ref().map_or(self.signed.sequence, |gap| gap.first)
        }

        fn link(&self) -> ChainLink {
            self.gap.as_ref().map_or_else(|| self.signed.link(), |gap| gap.link(&self.signed))
        }

        fn place(&self, head: &ChainHead) -> Result<Place, RejectionCode> {
            let checked = CheckedRecord::new(self.signed.clone(), &key().public());
            let placed = match &self.gap {
                None => place(&checked, head),
                Some(gap) => place_gap(&checked, gap, head),
            };
            placed.map_err(|rejection| rejection.code)
        }
    }

    fn chain(len: u64) -> Vec<Kept> {
        let mut link = ChainLink::start(1);
        let mut kept = Vec::new();
        for n in 0..len {
            let signed = SignedRecord::sign(&agent(), link, n.to_be_bytes().to_vec(), &key());
            link = signed.link();
            kept.push(Kept { signed, gap: None });
        }
        kept
    }

    fn mirror(n: u64) -> Option<MirrorId> {
        MirrorId::parse(&format!("m{n}")).ok()
    }

    /// Puts a gap in the place of the record at `index`, one with the gaps beside it.
    fn dropped(kept: &mut Vec<Kept>, index: usize) {
        let Kept { signed, .. } = kept.remove(index);
        let at = UnixMillis(signed.sequence);
        let mut gap =
            Gap::of((signed.sequence, 1), signed.hash(), at, mirror(signed.sequence % 3), Shape::Ok);
        let mut previous = signed.previous;
        let mut index = index;
        if let Some(before) = index.checked_sub(1).filter(|before| kept[*before].gap.is_some()) {
            let before = kept.remove(before);
            index -= 1;
            previous = before.signed.previous;
            gap = before.gap.unwrap().joined(gap);
        }
        if kept.get(index).is_some_and(|after| after.gap.is_some()) {
            gap = gap.joined(kept.remove(index).gap.unwrap());
        }
        let last = ChainLink { epoch: signed.epoch, sequence: gap.first - 1, hash: previous };
        kept.insert(index, Kept { signed: gap.sign(&agent(), last, encode, &key()), gap: Some(gap) });
    }

    proptest! {
        #[test]
        fn a_chain_with_gaps_verifies_whatever_was_dropped_and_counts_all_of_it(
            len in 1u64..40,
            drops in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
            epoch_before in any::<bool>(),
        ) {
            let whole = chain(len);
            let mut kept = whole.clone();
            for drop in drops {
                let records: Vec<usize> = (0..kept.len()).filter(|n| kept[*n].gap.is_none()).collect();
                if let Some(index) = (!records.is_empty()).then(|| records[drop.index(records.len())]) {
                    dropped(&mut kept, index);
                }
            }
            let mut head = ChainHead::default();
            if epoch_before {
                head.advance(ChainLink { epoch: 0, sequence: 9, hash: Sha256([3; 32]) });
            }
            let mut expected = 1;
            for (place, statement) in kept.iter().enumerate() {
                prop_assert_eq!(statement.first(), expected);
                // Whatever comes too early is refused.
                if let Some(later) = kept.get(place + 1) {
                    prop_assert_eq!(later.place(&head), Err(RejectionCode::WrongChain));
                }
                prop_assert_eq!(statement.place(&head), Ok(Place::Next));
                head.advance(statement.link());
                // Sent again: known.
                prop_assert_eq!(statement.place(&head), Ok(Place::Duplicate));
                expected = statement.signed.sequence + 1;
            }
            prop_assert_eq!(head.last(), whole.last().unwrap().signed.link());
            let gone: u64 = kept.iter().filter_map(|kept| kept.gap.as_ref()).map(Gap::len).sum();
            let stays = kept.iter().filter(|kept| kept.gap.is_none()).count() as u64;
            prop_assert_eq!(gone + stays, len);
            // No two beside each other: their number is bounded by the records kept.
            prop_assert!(kept.windows(2).all(|pair| pair[0].gap.is_none() || pair[1].gap.is_none()));
            // And every record of the whole chain agrees with what stands for it, or is unknown.
            for record in &whole {
                prop_assert_eq!(record.place(&head), Ok(Place::Duplicate));
            }
        }

        #[test]
        fn a_gap_that_lies_about_its_place_is_refused(
            len in 3u64..12, at in 0u64..12, first_off in -2i64..3, count_off in 0u64..2, flip in any::<bool>(),
        ) {
            let mut kept = chain(len);
            let at = (at % len) as usize;
            let mut head = ChainHead::default();
            kept[..at].iter().for_each(|record| head.advance(record.link()));
            dropped(&mut kept, at);
            let Kept { signed, gap } = kept[at].clone();
            let mut gap = gap.unwrap();
            gap.first = gap.first.saturating_add_signed(first_off);
            *gap.counts.values_mut().next().unwrap() += count_off;
            let mut last = ChainLink { epoch: 1, sequence: signed.sequence - 1, hash: signed.previous };
            if flip {
                last.hash.0[5] ^= 4;
            }
            let signed = SignedRecord::sign_over(&agent(), last, 1, encode(&gap), &key());
            let is_true = first_off == 0 && count_off == 0 && !flip;
            let placed = Kept { signed, gap: Some(gap) }.place(&head);
            prop_assert_eq!(placed, if is_true { Ok(Place::Next) } else { Err(RejectionCode::WrongChain) });
        }
    }

    #[test]
    fn a_gap_over_what_came_by_an_older_stream_is_bridged_and_another_chain_s_is_a_clone() {
        let mut kept = chain(6);
        let mut head = ChainHead::default();
        kept[..3].iter().for_each(|record| head.advance(record.link()));
        // Three to five are dropped; three had come meanwhile.
        [2, 3, 3].into_iter().for_each(|index| dropped(&mut kept, index));
        let gap = &kept[2];
        assert_eq!((gap.first(), gap.signed.sequence), (3, 5));
        assert_eq!(gap.place(&head), Ok(Place::Next));
        assert_eq!(gap.gap.as_ref().unwrap().len_after(head.last(), &gap.signed), 2);
        head.advance(gap.link());
        assert_eq!(kept[3].place(&head), Ok(Place::Next));
        let Kept { signed, gap } = kept[2].clone();
        let other = Gap { last_hash: Sha256([9; 32]), ..gap.unwrap() };
        let last = ChainLink { epoch: 1, sequence: 2, hash: signed.previous };
        let cloned = Kept { signed: other.sign(&agent(), last, encode, &key()), gap: Some(other) };
        assert_eq!(cloned.place(&head), Err(RejectionCode::ConflictingKey));
    }

    #[test]
    fn what_is_beyond_the_lines_is_counted_without_its_mirror() {
        let gaps = (1..=GAP_COUNTS_MAX as u64 + 50)
            .map(|n| Gap::of((n, 1), Sha256([n as u8; 32]), UnixMillis(n), mirror(n), Shape::Ok));
        let joined = gaps.reduce(Gap::joined).unwrap();
        assert_eq!((joined.len(), joined.first), (GAP_COUNTS_MAX as u64 + 50, 1));
        assert_eq!(joined.counts[&(None, Shape::Ok)], 50);
        assert_eq!((joined.since, joined.until), (UnixMillis(1), UnixMillis(GAP_COUNTS_MAX as u64 + 50)));
        assert!(joined.covers(GAP_COUNTS_MAX as u64 + 50) && !joined.covers(3));
    }
}
