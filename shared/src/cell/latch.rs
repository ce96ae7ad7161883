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
    /// Voices that make the cell red: the majority of all heard. Those whose network's state, or the site's, silences them
    /// are heard too: else who lies would be many where honest owners fall silent.
    pub needed: u32,
    pub flagged: u32,
    /// Those that see a block for long and have no voice, for they are few.
    pub apart: u32,
    /// Whether fewer see a block than make the cell red.
    are_few: bool,
    /// Of those flagged, in thousandths of a nat.
    score: i64,
    /// Of all voices but the loudest: one fewer than make the cell red.
    rest: i64,
    /// Those flagged that have stood.
    stood: u32,
}

/// What one voice says.
#[derive(Debug, Clone, Copy, Default)]
struct Voice {
    score: i64,
    has_stood: bool,
    is_heard: bool,
}

impl Voice {
    fn of(word: &OwnerWord, policy: &CellPolicy) -> Self {
        let is_flagged = word.is_flagged(policy);
        Self {
            score: word.score,
            has_stood: is_flagged && word.has_stood(policy),
            is_heard: is_flagged && !word.is_alone(policy),
        }
    }

    /// Owners of one vicinity: the loudest speaks.
    fn join(self, other: Self) -> Self {
        Self {
            score: self.score.max(other.score),
            has_stood: self.has_stood || other.has_stood,
            is_heard: self.is_heard || other.is_heard,
        }
    }
}

impl Tally {
    fn of(voices: &mut [Voice], mute: usize, policy: &CellPolicy) -> Self {
        voices.sort_unstable_by_key(|voice| std::cmp::Reverse(voice.score));
        let voters = voices.len() as u32;
        let needed = policy.needed(voters + mute as u32);
        let flagged = || voices.iter().filter(|voice| voice.score >= policy.flag_score.0);
        // Few against many are heard no more once they have had their time; together with others they are.
        let are_few = (flagged().count() as u32) < needed;
        let is_heard = |voice: &&Voice| voice.is_heard || !are_few;
        let heard = || flagged().filter(is_heard);
        Self {
            voters,
            needed,
            flagged: heard().count() as u32,
            apart: (flagged().count() - heard().count()) as u32,
            are_few,
            score: heard().map(|voice| voice.score).sum(),
            rest: voices.iter().skip(needed as usize - 1).map(|voice| voice.score).sum(),
            stood: heard().filter(|voice| voice.has_stood).count() as u32,
        }
    }

    /// Whether an owner that sees a block has no voice: nobody shares what it has seen for long.
    pub fn is_apart(self, word: &OwnerWord, policy: &CellPolicy) -> bool {
        self.are_few && word.is_alone(policy)
    }

    /// Whether the cell, being red, stays so.
    fn is_red(self, policy: &CellPolicy) -> bool {
        self.flagged >= self.needed && self.score >= i64::from(self.needed) * policy.red_score_per_owner.0
    }

    /// Whether the cell turns red: at once where more than the bare majority see a block, else once that has stood.
    fn turns_red(self, policy: &CellPolicy) -> bool {
        let is_bare = policy.bare_majority_secs > 0 && !self.is_broad(policy);
        self.is_red(policy) && (!is_bare || self.stood >= self.needed)
    }

    /// Whether a majority sees a block, by flags and by scores, even of the voices without the loudest: one fewer than make
    /// a cell red. Whatever so many say adds nothing here: were they liars, it would be a majority of all others.
    fn is_broad(self, policy: &CellPolicy) -> bool {
        let others = (self.voters + 1).saturating_sub(self.needed);
        self.flagged >= self.needed + others / 2
            && self.rest * 2 >= i64::from(others + 1) * policy.score_max.0
    }

    /// Whether those who see no block are as many as it takes to say so.
    fn is_clear(self) -> bool {
        self.voters - self.flagged >= self.needed
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
        let mut voices = Vec::with_capacity(self.owners.len());
        let mute = self.owners.values().filter(|word| word.is_mute(now, policy)).count();
        let mut loudest: BTreeMap<Vicinity, Voice> = BTreeMap::new();
        for word in self.owners.values().filter(|word| word.votes(now, policy)) {
            let voice = Voice::of(word, policy);
            match word.last.vicinity {
                Some(vicinity) => {
                    let loudest = loudest.entry(vicinity).or_default();
                    *loudest = loudest.join(voice);
                }
                None => voices.push(voice),
            }
        }
        voices.extend(loudest.into_values());
        Tally::of(&mut voices, mute, policy)
    }

    /// Counts a verdict in the reversed test. A minority that still sees a block cannot hold the cell red; and a voice that
    /// speaks often is no louder.
    fn reverse(&mut self, owner: &OwnerId, told: Told, reversed: i64, tally: Tally, policy: &CellPolicy) {
        let word = self.owners.get_mut(owner).expect("it has just spoken");
        let counts = match told {
            Told::Blocked => !word.is_flagged(policy) || !tally.is_clear(),
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
        let is_red = if self.red_since.is_some() { tally.is_red(policy) } else { tally.turns_red(policy) };
        if is_red {
            self.red_since = self.red_since.or(Some(self.at));
            self.owners.values_mut().for_each(|word| word.confirm(policy));
            (self.clear_score, self.clear_since, self.lonely_since) = (0, None, None);
        } else if tally.voters == 0 || is_cleared || (is_lonely && dwelt(self.lonely_since)) {
            if self.red_since.take().is_some() {
                self.owners.values_mut().for_each(|word| word.part(self.at));
            }
            (self.clear_score, self.clear_since, self.lonely_since) = (0, None, None);
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
