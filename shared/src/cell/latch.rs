//! A cell's colour in time: red by enough owners with enough evidence, released by the reversed test. Evidence comes in
//! the order of its measuring; what time alone changes, happens at its deadline, whenever one looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::word::Told;
use super::{CellPolicy, Evidence, OwnerWord};
use crate::words::{OwnerId, UnixMillis, Vicinity};

/// A voice's clear verdicts count in the reversed test at most so often an interval. Ten boxes of one owner are one voice
/// here too.
const COUNTED_AN_INTERVAL: u64 = 2;

/// The owners' words, and what the cell looks like after the last of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Latch {
    pub owners: BTreeMap<OwnerId, OwnerWord>,
    /// Until when time has been played.
    pub at: UnixMillis,
    /// Since when the cell is red.
    pub red_since: Option<UnixMillis>,
    /// The reversed score, in thousandths of a nat; 0 while the cell would turn red anyway.
    clear_score: i64,
    /// Since when it is above zero.
    clear_since: Option<UnixMillis>,
    /// Since when a red cell has fewer voices than it takes to say so.
    lonely_since: Option<UnixMillis>,
    /// The next instant at which time alone may change something.
    pub deadline: Option<UnixMillis>,
}

/// Voices at an instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub voters: u32,
    pub flagged: u32,
    /// Of those flagged, in thousandths of a nat.
    score: i64,
}

impl Tally {
    /// Flagged voices that make the cell red: the majority, and never fewer than the policy's minimum.
    fn needed(self, policy: &CellPolicy) -> u32 {
        policy.owners_red_min.max(self.voters / 2 + 1)
    }

    fn is_red(self, policy: &CellPolicy) -> bool {
        let needed = self.needed(policy);
        self.flagged >= needed && self.score >= i64::from(needed) * policy.red_score_per_owner.0
    }

    /// Whether those who see no block are as many as it takes to say so.
    fn is_clear(self, policy: &CellPolicy) -> bool {
        self.voters - self.flagged >= self.needed(policy)
    }
}

impl Latch {
    /// Takes in the next verdict in order.
    pub fn hear(&mut self, owner: &OwnerId, evidence: Arc<Evidence>, policy: &CellPolicy) {
        self.advance(evidence.at, policy);
        self.at = evidence.at;
        let is_red = self.red_since.is_some();
        if !self.owners.contains_key(owner) {
            self.owners.insert(owner.clone(), OwnerWord::new(Arc::clone(&evidence), policy));
        }
        let word = self.owners.get_mut(owner).expect("it was put in");
        let told = word.hear(evidence, is_red, policy);
        let tally = self.tally(self.at, policy);
        if let Some((told, reversed)) = told.filter(|_| is_red && !tally.is_red(policy)) {
            self.reverse(owner, told, reversed, tally, policy);
        }
        self.turn(tally, policy);
    }

    /// Lets time pass.
    pub fn advance(&mut self, to: UnixMillis, policy: &CellPolicy) {
        while let Some(deadline) = self.deadline.filter(|deadline| *deadline <= to) {
            self.at = deadline;
            self.turn(self.tally(deadline, policy), policy);
        }
    }

    /// Forgets owners.
    pub fn retain(&mut self, keep: impl Fn(&OwnerWord) -> bool, policy: &CellPolicy) {
        self.owners.retain(|_, word| keep(word));
        self.turn(self.tally(self.at, policy), policy);
    }

    /// Voices at `now`: owners, or where they share a vicinity the loudest of them.
    pub fn tally(&self, now: UnixMillis, policy: &CellPolicy) -> Tally {
        let mut tally = Tally::default();
        let mut loudest: BTreeMap<Vicinity, i64> = BTreeMap::new();
        let mut count = |score: i64| {
            let is_flagged = score >= policy.flag_score.0;
            tally.voters += 1;
            tally.flagged += u32::from(is_flagged);
            tally.score += if is_flagged { score } else { 0 };
        };
        for word in self.owners.values().filter(|word| word.votes(now, policy)) {
            match word.last.vicinity {
                Some(vicinity) => {
                    let loudest = loudest.entry(vicinity).or_default();
                    *loudest = word.score.max(*loudest);
                }
                None => count(word.score),
            }
        }
        loudest.into_values().for_each(count);
        tally
    }

    /// Counts a verdict in the reversed test. A minority that still sees a block cannot hold the cell red; and a voice that
    /// speaks often is no louder.
    fn reverse(&mut self, owner: &OwnerId, told: Told, reversed: i64, tally: Tally, policy: &CellPolicy) {
        let word = self.owners.get_mut(owner).expect("it has just spoken");
        let counts = match told {
            Told::Blocked => !word.is_flagged(policy) || !tally.is_clear(policy),
            Told::Clear => {
                let spacing = policy.interval_secs() * 1_000 / COUNTED_AN_INTERVAL;
                let is_due = word.cleared_at.is_none_or(|last| self.at >= last.plus_millis(spacing));
                word.cleared_at = if is_due { Some(self.at) } else { word.cleared_at };
                is_due
            }
        };
        if counts {
            self.clear_score = (self.clear_score + reversed).clamp(0, policy.clear_score.0);
        }
        self.clear_since = if self.clear_score > 0 { self.clear_since.or(Some(self.at)) } else { None };
    }

    /// Moves the colour to `self.at`, and finds the next deadline.
    fn turn(&mut self, tally: Tally, policy: &CellPolicy) {
        let dwelt = |since: Option<UnixMillis>| {
            since.is_some_and(|since| self.at >= since.plus_secs(policy.green_dwell_secs))
        };
        let is_lonely = self.red_since.is_some() && tally.voters < policy.owners_red_min;
        let is_cleared = self.clear_score >= policy.clear_score.0 && dwelt(self.clear_since);
        if tally.is_red(policy) {
            self.red_since = self.red_since.or(Some(self.at));
            self.owners.values_mut().for_each(OwnerWord::confirm);
            (self.clear_score, self.clear_since, self.lonely_since) = (0, None, None);
        } else if tally.voters == 0 || is_cleared || (is_lonely && dwelt(self.lonely_since)) {
            (self.red_since, self.clear_score, self.clear_since, self.lonely_since) = (None, 0, None, None);
        } else {
            self.lonely_since = if is_lonely { self.lonely_since.or(Some(self.at)) } else { None };
        }
        self.deadline = self.next_deadline(policy);
    }

    fn next_deadline(&self, policy: &CellPolicy) -> Option<UnixMillis> {
        let silences = self
            .owners
            .values()
            .flat_map(|word| std::iter::once(word.heard_until(policy)).chain(word.told_until(policy)));
        let dwells = [self.clear_since, self.lonely_since];
        let dwells = dwells.into_iter().flatten().map(|since| since.plus_secs(policy.green_dwell_secs));
        silences.chain(dwells).filter(|at| *at > self.at).min()
    }
}
