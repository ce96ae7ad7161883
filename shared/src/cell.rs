//! A cell: the evidence of all owners about one mirror on one carrier and access. k of n distinct owners make it red.
//!
//! A cell is a function of the *set* of its evidence, ordered by when it was measured, never by when it arrived: what comes
//! late takes its place in the window, and everything behind it is worked out anew. What a market makes of its cells is
//! `market`'s business.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::target::Sha256;
use crate::verdict::{Mechanism, Outcome, Verdict, words};
use crate::words::{Access, AgentId, CarrierId, OwnerId, UnixMillis, Vicinity};

mod latch;
mod policy;
mod share;
mod sighting;
mod word;

pub use policy::{CellPolicy, SCORE_OF_ONE_VERDICT, Thousandths};
pub use share::{Count, Share};
pub use sighting::Sighting;
pub use word::OwnerWord;

use latch::Latch;
use word::Told;

/// Evidence kept in a cell's window: a quarter of an hour of sixty owners who measure every minute. What is beyond is
/// settled and cannot be re-opened.
const WINDOW_LEN_MAX: usize = 1_024;

words!(
    /// What a cell, or a carrier, looks like.
    CellState {
        Red = "red",
        /// Some owners see a block, too few to act on.
        Suspect = "suspect",
        /// The network's state: whitelist mode, shutdown, captive portal.
        Restricted = "restricted",
        /// The control fails too.
        Down = "down",
        /// The origin refuses this country.
        Refused = "refused",
        Green = "green",
        /// There was evidence; it is too old.
        Stale = "stale",
        /// There never was evidence that counts.
        Insufficient = "insufficient",
    }
);

/// One verdict of one agent, as evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub agent: AgentId,
    pub record: Sha256,
    /// When it was measured, by the collector's clock.
    pub at: UnixMillis,
    pub verdict: Verdict,
    /// Where owners of one neighbourhood are one voice, the agent's.
    pub vicinity: Option<Vicinity>,
    /// Addresses of the mirror that the visit found blocked, of those it tried; `None` where the record does not tell.
    pub addresses: Option<Count>,
}

/// Whether a verdict tells something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// An owner sees a block, and did not before.
    FirstBlocked,
    /// An owner's word has become "blocked".
    FirstFlagged,
    Nothing,
}

/// The evidence of all owners in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Everything measured before the horizon, settled.
    settled: Latch,
    /// Evidence measured before this comes too late.
    horizon: UnixMillis,
    /// Everything since, in order.
    window: VecDeque<Item>,
    /// What follows from both.
    present: Latch,
    too_late: u64,
}

/// One piece of evidence in the window.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    owner: OwnerId,
    evidence: Arc<Evidence>,
}

impl Item {
    /// What evidence is ordered by.
    fn key(&self) -> (UnixMillis, Sha256, &OwnerId) {
        (self.evidence.at, self.evidence.record, &self.owner)
    }
}

/// A cell as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellView {
    pub access: Access,
    pub state: CellState,
    /// Since when it is red: a change of mechanism is no new event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub red_since: Option<UnixMillis>,
    /// Owners with fresh evidence that counts; those of one vicinity are one.
    pub owners: u32,
    /// Those whose word is "blocked".
    pub flagged: u32,
    /// Those that have said so for long, and nobody with them: they have no voice.
    #[serde(default, skip_serializing_if = "is_none")]
    pub apart: u32,
    /// Mechanisms seen by flagged owners, most frequent first.
    pub mechanisms: Vec<Mechanism>,
    #[serde(default)]
    pub shares: Shares,
    /// Pieces of evidence that came too late to count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub too_late: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

/// How much of a cell is blocked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Owners whose word is "blocked", of owners heard.
    pub owners: Share,
    /// Blocked verdicts of all that tell something, in the last `stale_after_secs`.
    pub verdicts: Share,
    /// Addresses blocked of addresses tried in the same time, visit by visit; `None` where no record tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Share>,
}

/// A carrier as shown: its cells, and the worst of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierView {
    pub carrier: CarrierId,
    pub name: String,
    pub state: CellState,
    pub cells: Vec<CellView>,
    /// Since when several of its owners are silent at once, while others are heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_suspected_since: Option<UnixMillis>,
}

impl CarrierView {
    /// Puts a carrier's cells together: the worst speaks, in the order of [`CellState`].
    pub fn of(carrier: CarrierId, name: String, cells: Vec<CellView>) -> Self {
        let state = cells.iter().map(|cell| cell.state).min().unwrap_or(CellState::Insufficient);
        Self { carrier, name, state, cells, shutdown_suspected_since: None }
    }
}

impl Cell {
    /// Takes one verdict in, wherever its place in time. Evidence older than the window is counted and changes nothing.
    pub fn observe(&mut self, owner: &OwnerId, evidence: Evidence, policy: &CellPolicy) -> News {
        if evidence.at < self.horizon {
            self.too_late = self.too_late.saturating_add(1);
            return News::Nothing;
        }
        let is_blocked = evidence.verdict.outcome == Outcome::Blocked;
        let standing = |latch: &Latch| {
            latch.owners.get(owner).map_or((false, false), |word| (word.score > 0, word.is_flagged(policy)))
        };
        let before = standing(&self.present);
        self.put(Item { owner: owner.clone(), evidence: Arc::new(evidence) }, policy);
        self.settle_old(policy);
        match (before, standing(&self.present)) {
            ((_, false), (_, true)) => News::FirstFlagged,
            ((false, _), (true, _)) if is_blocked => News::FirstBlocked,
            _ => News::Nothing,
        }
    }

    /// Puts another verdict on a record in the place of the one it had, if that is in the window still.
    pub fn amend(&mut self, owner: &OwnerId, evidence: Evidence, policy: &CellPolicy) {
        let place = self.window.iter().position(|item| {
            item.evidence.record == evidence.record && item.owner == *owner && item.evidence.at == evidence.at
        });
        if let Some(place) = place {
            self.window[place].evidence = Arc::new(evidence);
            self.replay(policy);
        }
    }

    /// Counts clear verdicts of an owner whose score is at its end, where nobody needs them one by one: all they change is
    /// what its noise is measured against. For simulations, which leap over calm hours.
    pub fn pass_over(&mut self, owner: &OwnerId, verdicts: u32) {
        for latch in [&mut self.settled, &mut self.present] {
            latch.owners.get_mut(owner).into_iter().for_each(|word| word.pass_over(verdicts));
        }
    }

    /// Forgets what an agent said.
    pub fn forget(&mut self, agent: &AgentId, policy: &CellPolicy) {
        self.settled.retain(|word| word.last.agent != *agent, policy);
        self.window.retain(|item| item.evidence.agent != *agent);
        self.replay(policy);
    }

    /// Works out anew what follows from the window: the policy has changed.
    pub fn replay(&mut self, policy: &CellPolicy) {
        self.present = self.settled.clone();
        for item in &self.window {
            self.present.hear(&item.owner, Arc::clone(&item.evidence), policy);
        }
    }

    /// Moves the colour to `now`: red by majority; released by the reversed test, or by too few who could say so, after
    /// the dwell; gone when nobody votes any more.
    pub fn settle(&mut self, now: UnixMillis, policy: &CellPolicy) {
        self.present.advance(now, policy);
    }

    /// What the cell looks like at `now`, which is not before the last call of [`Cell::settle`].
    pub fn state(&self, now: UnixMillis, policy: &CellPolicy) -> CellState {
        state_of(&self.present_at(now, policy), now, policy)
    }

    /// The cell as shown at `now`, which is not before the last call of [`Cell::settle`].
    pub fn view(&self, access: Access, now: UnixMillis, policy: &CellPolicy) -> CellView {
        let present = self.present_at(now, policy);
        let tally = present.tally(now, policy);
        let mut counts: BTreeMap<Mechanism, u32> = BTreeMap::new();
        for word in present.owners.values().filter(|word| is_fresh(word, now, policy)) {
            let is_heard = word.is_flagged(policy) && !tally.is_apart(word, policy);
            let seen = word.last_blocked.as_ref().filter(|_| is_heard);
            if let Some(mechanism) = seen.and_then(|evidence| evidence.verdict.mechanism) {
                *counts.entry(mechanism).or_default() += 1;
            }
        }
        let mut mechanisms: Vec<(Mechanism, u32)> = counts.into_iter().collect();
        mechanisms.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let state = state_of(&present, now, policy);
        CellView {
            access,
            state,
            red_since: present.red_since.filter(|_| state == CellState::Red),
            owners: tally.voters,
            flagged: tally.flagged,
            apart: tally.apart,
            mechanisms: mechanisms.into_iter().map(|(mechanism, _)| mechanism).collect(),
            shares: self.shares(Count { blocked: tally.flagged, of: tally.voters }, now, policy),
            too_late: self.too_late,
        }
    }

    /// Owners whose latest evidence is fresh at `now`.
    pub fn fresh<'a>(
        &'a self,
        now: UnixMillis,
        policy: &'a CellPolicy,
    ) -> impl Iterator<Item = (&'a OwnerId, &'a OwnerWord)> {
        self.present.owners.iter().filter(move |(_, word)| is_fresh(word, now, policy))
    }

    /// What became of an owner's latest visit.
    pub fn last_outcome(&self, owner: &OwnerId) -> Option<Outcome> {
        self.present.owners.get(owner).map(|word| word.last.verdict.outcome)
    }

    /// The latest blocked record of each voice that votes "blocked" at `now`.
    pub fn flagged<'a>(&'a self, now: UnixMillis, policy: &'a CellPolicy) -> Vec<&'a Evidence> {
        let mut voices: BTreeMap<Result<Vicinity, &OwnerId>, &Evidence> = BTreeMap::new();
        let tally = self.present.tally(now, policy);
        for (owner, word) in &self.present.owners {
            let is_heard =
                word.votes(now, policy) && word.is_flagged(policy) && !tally.is_apart(word, policy);
            let Some(seen) = word.last_blocked.as_deref().filter(|_| is_heard) else { continue };
            let latest = voices.entry(word.last.vicinity.ok_or(owner)).or_insert(seen);
            if seen.at > latest.at {
                *latest = seen;
            }
        }
        voices.into_values().collect()
    }

    /// The latest instant since which as many voices as confirm a block said so in their newest verdicts; none where
    /// they are fewer. An owner that sees the mirror again confirms nothing, flagged or not.
    pub fn confirmed_at(&self, now: UnixMillis, policy: &CellPolicy) -> Option<UnixMillis> {
        let tally = self.present.tally(now, policy);
        let mut newest: BTreeMap<Result<Vicinity, &OwnerId>, &OwnerWord> = BTreeMap::new();
        for (owner, word) in self.fresh(now, policy) {
            let voice = newest.entry(word.last.vicinity.ok_or(owner)).or_insert(word);
            if word.last.at > voice.last.at {
                *voice = word;
            }
        }
        let confirms = |word: &&OwnerWord| {
            let is_blocked = word.last.verdict.outcome == Outcome::Blocked;
            is_blocked && word.is_flagged(policy) && !tally.is_apart(word, policy)
        };
        let mut confirming: Vec<_> = newest.into_values().filter(confirms).map(|word| word.last.at).collect();
        confirming.sort_unstable();
        let needed = if policy.confirm_by_majority { tally.needed } else { policy.owners_red_min };
        confirming.len().checked_sub(needed as usize).map(|place| confirming[place])
    }

    /// The next instant after `now` at which the cell may look different without new evidence.
    pub fn next_deadline(&self, now: UnixMillis, policy: &CellPolicy) -> Option<UnixMillis> {
        self.present_at(now, policy).deadline
    }

    /// Puts evidence in its place.
    fn put(&mut self, item: Item, policy: &CellPolicy) {
        let place = self.window.partition_point(|other| other.key() <= item.key());
        let is_next = place == self.window.len() && item.evidence.at >= self.present.at;
        if is_next {
            self.present.hear(&item.owner, Arc::clone(&item.evidence), policy);
            self.window.push_back(item);
        } else {
            self.window.insert(place, item);
            self.replay(policy);
        }
    }

    /// Settles what has left the window. Where it ends depends on the newest evidence, not on when anything came.
    fn settle_old(&mut self, policy: &CellPolicy) {
        let Some(newest) = self.window.back().map(|item| item.evidence.at) else { return };
        let window_millis = policy.window_secs.saturating_mul(1_000);
        self.horizon = self.horizon.max(newest.minus_millis(window_millis));
        while let Some(oldest) = self.window.front() {
            if self.window.len() > WINDOW_LEN_MAX {
                self.horizon = self.horizon.max(oldest.evidence.at.plus_millis(1));
            }
            if oldest.evidence.at >= self.horizon {
                return;
            }
            let item = self.window.pop_front().expect("it has a front");
            self.settled.hear(&item.owner, item.evidence, policy);
        }
    }

    /// What follows from the evidence and from time passing until `now`.
    fn present_at(&self, now: UnixMillis, policy: &CellPolicy) -> Cow<'_, Latch> {
        let is_due = self.present.deadline.is_some_and(|deadline| deadline <= now);
        let mut present = Cow::Borrowed(&self.present);
        if is_due {
            present.to_mut().advance(now, policy);
        }
        present
    }

    fn shares(&self, owners: Count, now: UnixMillis, policy: &CellPolicy) -> Shares {
        let since = now.minus_millis(policy.stale_after_secs.saturating_mul(1_000));
        let (mut verdicts, mut addresses) = (Count::default(), Count::default());
        for item in self.window.iter().rev().take_while(|item| item.evidence.at > since) {
            if let Some(told) = Told::of(item.evidence.verdict.outcome) {
                verdicts = verdicts + Count { blocked: u32::from(told == Told::Blocked), of: 1 };
                addresses = addresses + item.evidence.addresses.unwrap_or_default();
            }
        }
        Shares {
            owners: owners.into(),
            verdicts: verdicts.into(),
            addresses: (addresses.of > 0).then(|| addresses.into()),
        }
    }
}

fn state_of(latch: &Latch, now: UnixMillis, policy: &CellPolicy) -> CellState {
    let fresh: Vec<&OwnerWord> = latch.owners.values().filter(|word| is_fresh(word, now, policy)).collect();
    let share = |outcome| fresh.iter().filter(|word| word.last.verdict.outcome == outcome).count();
    let tally = latch.tally(now, policy);
    let sees_block =
        |word: &&OwnerWord| word.last.verdict.outcome == Outcome::Blocked && !tally.is_apart(word, policy);
    if fresh.is_empty() {
        return if latch.owners.is_empty() { CellState::Insufficient } else { CellState::Stale };
    }
    if latch.red_since.is_some() && tally.voters > 0 {
        return CellState::Red;
    }
    for (outcome, state) in [(Outcome::Restricted, CellState::Restricted), (Outcome::Down, CellState::Down)] {
        if share(outcome) * 2 > fresh.len() {
            return state;
        }
    }
    if tally.flagged > 0 || fresh.iter().any(sees_block) {
        CellState::Suspect
    } else if tally.voters == 0 {
        // Verdicts that tell nothing age a cell; they never keep it what it was.
        let has_told = latch.owners.values().any(OwnerWord::has_told);
        if has_told { CellState::Stale } else { CellState::Insufficient }
    } else if share(Outcome::Refused) * 2 > fresh.len() {
        CellState::Refused
    } else {
        CellState::Green
    }
}

fn is_fresh(word: &OwnerWord, now: UnixMillis, policy: &CellPolicy) -> bool {
    word.heard_until(policy) > now
}

#[cfg(test)]
mod tests;
