//! What the collector holds ahead of the end of its chain: it is not sent again, and not signed again.

use zerkalo_core::admission::Run;
use zerkalo_core::evidence::ChainLink;

use super::stored::{Stored, key_of, place_of};
use super::{RECORDS, Spool, SpoolError};

/// Records of this box that the collector holds ahead, all of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    epoch: u64,
    pub(super) runs: Vec<Run>,
}

impl Held {
    /// Whether the record under this key is among them.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        place_of(key).is_some_and(|(epoch, sequence)| self.between(epoch, sequence, sequence) > 0)
    }

    /// How many of those from `first` to `last` are among them.
    pub(super) fn between(&self, epoch: u64, first: u64, last: u64) -> u64 {
        let within = |run: &Run| (run.last.min(last) + 1).saturating_sub(run.first.max(first));
        if epoch == self.epoch { self.runs.iter().map(within).sum() } else { 0 }
    }
}

impl Spool {
    /// Of the runs that the collector names, those that are of this box's own chain. Of an epoch gone by there is nothing
    /// left to tell them by.
    pub(super) fn ours_of(&mut self, epoch: u64, runs: &[Run]) -> Result<Held, SpoolError> {
        let mut ours = Vec::with_capacity(runs.len());
        for run in runs {
            if epoch != self.mark.head.epoch || self.is_ours(run)? {
                ours.push(*run);
            }
        }
        Ok(Held { epoch, runs: ours })
    }

    /// Whether this box's chain has what the collector holds. Each statement vouches for all before it.
    fn is_ours(&mut self, run: &Run) -> Result<bool, SpoolError> {
        let head = self.mark.head;
        if run.last >= head.sequence {
            return Ok(run.last == head.sequence && run.hash == head.hash);
        }
        let next = self.first_from(run.last)?;
        Ok(match next {
            Some(stored) if stored.signed.sequence == run.last => stored.link().hash == run.hash,
            Some(stored) if stored.first() == run.last + 1 => stored.signed.previous == run.hash,
            // Given up meanwhile, or damaged: nothing speaks against it.
            _ => true,
        })
    }

    /// Whether acknowledged records of older epochs than the head's are kept here that came after `link`, beside those
    /// that the collector holds.
    pub(super) fn keeps_between(&mut self, link: ChainLink, held: &Held) -> Result<bool, SpoolError> {
        let end = key_of(self.mark.head.epoch, 0);
        for entry in self.store()?.scan(RECORDS, &key_of(link.epoch, link.sequence + 1)) {
            let (key, _) = entry?;
            if key[..] >= end[..] {
                return Ok(false);
            }
            if !held.contains(&key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many of the records that a statement stands for the collector holds.
    pub(super) fn held_within(&self, stored: &Stored, held: &Held) -> u64 {
        held.between(stored.signed.epoch, stored.first().max(self.mark.acked + 1), stored.signed.sequence)
    }
}
