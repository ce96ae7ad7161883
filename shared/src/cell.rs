//! A cell: the evidence of all owners about one mirror on one carrier and access. k of n distinct owners make it red.
//!
//! `restricted`, `down` and `insufficient` verdicts never count towards red: they keep an owner fresh, no more. What a
//! market makes of its cells is `market`'s business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::CellPolicy;
use crate::target::Sha256;
use crate::verdict::{Mechanism, Outcome, Verdict, words};
use crate::words::{Access, AgentId, CarrierId, OwnerId, UnixMillis};

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
}

/// An owner's word: the latest evidence, and what the row of verdicts amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerWord {
    pub last: Evidence,
    /// Whether the owner's word counts as "blocked".
    pub flagged: bool,
    /// The latest blocked verdict.
    pub last_blocked: Option<Evidence>,
    red_streak: u32,
    green_streak: u32,
}

/// Whether a verdict tells something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// An owner sees a block, and did not before.
    FirstBlocked,
    Nothing,
}

/// The evidence of all owners in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    owners: BTreeMap<OwnerId, OwnerWord>,
    /// Latched by a majority, released by the reverse after a dwell.
    red: bool,
    green_since: Option<UnixMillis>,
}

/// A cell as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellView {
    pub access: Access,
    pub state: CellState,
    /// Owners with fresh evidence that counts.
    pub owners: u32,
    /// Those whose word is "blocked".
    pub flagged: u32,
    /// Mechanisms seen by flagged owners, most frequent first.
    pub mechanisms: Vec<Mechanism>,
}

/// A carrier as shown: its cells, and the worst of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierView {
    pub carrier: CarrierId,
    pub name: String,
    pub state: CellState,
    pub cells: Vec<CellView>,
}

impl CarrierView {
    /// Puts a carrier's cells together: the worst speaks, in the order of [`CellState`].
    pub fn of(carrier: CarrierId, name: String, cells: Vec<CellView>) -> Self {
        let state = cells.iter().map(|cell| cell.state).min().unwrap_or(CellState::Insufficient);
        Self { carrier, name, state, cells }
    }
}

impl Cell {
    /// Takes one verdict in. Evidence older than the owner's latest changes nothing.
    pub fn observe(&mut self, owner: &OwnerId, evidence: Evidence, policy: &CellPolicy) -> News {
        let word = self.owners.entry(owner.clone()).or_insert_with(|| OwnerWord {
            last: evidence.clone(),
            flagged: false,
            last_blocked: None,
            red_streak: 0,
            green_streak: 0,
        });
        if evidence.at < word.last.at {
            return News::Nothing;
        }
        // What an owner said before a silence is no part of a row of verdicts.
        if evidence.at >= word.last.at.plus_secs(policy.stale_after_secs) {
            (word.flagged, word.red_streak, word.green_streak) = (false, 0, 0);
        }
        match evidence.verdict.outcome {
            Outcome::Blocked => {
                (word.red_streak, word.green_streak) = (word.red_streak + 1, 0);
                word.last_blocked = Some(evidence.clone());
            }
            Outcome::Ok | Outcome::Impaired | Outcome::Refused => {
                (word.red_streak, word.green_streak) = (0, word.green_streak + 1);
            }
            Outcome::Down | Outcome::Restricted | Outcome::Insufficient => {}
        }
        if word.red_streak >= policy.owner_red_streak {
            word.flagged = true;
        } else if word.green_streak >= policy.owner_green_streak {
            word.flagged = false;
        }
        let first = evidence.verdict.outcome == Outcome::Blocked && word.red_streak == 1 && !word.flagged;
        word.last = evidence;
        if first { News::FirstBlocked } else { News::Nothing }
    }

    /// Forgets what an agent said.
    pub fn forget(&mut self, agent: &AgentId) {
        self.owners.retain(|_, word| word.last.agent != *agent);
    }

    /// Moves the latch to `now`: red by majority; released by the reversed majority, or by nobody seeing a block, after
    /// the dwell; gone when nobody votes any more.
    pub fn settle(&mut self, now: UnixMillis, policy: &CellPolicy) {
        let (voters, flagged) = self.votes(now, policy);
        let needed = majority(voters, policy);
        if flagged >= needed {
            (self.red, self.green_since) = (true, None);
        } else if voters == 0 {
            (self.red, self.green_since) = (false, None);
        } else if self.red && (flagged == 0 || voters - flagged >= needed) {
            let since = *self.green_since.get_or_insert(now);
            if now >= since.plus_secs(policy.green_dwell_secs) {
                (self.red, self.green_since) = (false, None);
            }
        } else {
            self.green_since = None;
        }
    }

    /// What the cell looks like at `now`.
    pub fn state(&self, now: UnixMillis, policy: &CellPolicy) -> CellState {
        let fresh: Vec<&OwnerWord> = self.fresh(now, policy).map(|(_, word)| word).collect();
        let share = |outcome| fresh.iter().filter(|word| word.last.verdict.outcome == outcome).count();
        let (voters, flagged) = self.votes(now, policy);
        if fresh.is_empty() {
            return if self.owners.is_empty() { CellState::Insufficient } else { CellState::Stale };
        }
        if self.red && voters > 0 {
            return CellState::Red;
        }
        for (outcome, state) in
            [(Outcome::Restricted, CellState::Restricted), (Outcome::Down, CellState::Down)]
        {
            if share(outcome) * 2 > fresh.len() {
                return state;
            }
        }
        if flagged > 0 || share(Outcome::Blocked) > 0 {
            CellState::Suspect
        } else if voters == 0 {
            CellState::Insufficient
        } else if share(Outcome::Refused) * 2 > fresh.len() {
            CellState::Refused
        } else {
            CellState::Green
        }
    }

    /// The cell as shown at `now`.
    pub fn view(&self, access: Access, now: UnixMillis, policy: &CellPolicy) -> CellView {
        let (voters, flagged) = self.votes(now, policy);
        let mut counts: BTreeMap<Mechanism, u32> = BTreeMap::new();
        for (_, word) in self.fresh(now, policy).filter(|(_, word)| word.flagged) {
            if let Some(mechanism) = word.last_blocked.as_ref().and_then(|e| e.verdict.mechanism) {
                *counts.entry(mechanism).or_default() += 1;
            }
        }
        let mut mechanisms: Vec<(Mechanism, u32)> = counts.into_iter().collect();
        mechanisms.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        CellView {
            access,
            state: self.state(now, policy),
            owners: voters,
            flagged,
            mechanisms: mechanisms.into_iter().map(|(mechanism, _)| mechanism).collect(),
        }
    }

    /// Owners whose latest evidence is fresh at `now`.
    pub fn fresh<'a>(
        &'a self,
        now: UnixMillis,
        policy: &'a CellPolicy,
    ) -> impl Iterator<Item = (&'a OwnerId, &'a OwnerWord)> {
        self.owners.iter().filter(move |(_, word)| is_fresh(word, now, policy))
    }

    /// The next instant after `now` at which the cell may look different without new evidence.
    pub fn next_deadline(&self, now: UnixMillis, policy: &CellPolicy) -> Option<UnixMillis> {
        let stale = self.owners.values().flat_map(|word| {
            let silent = word.last.at.plus_secs(policy.stale_after_secs);
            std::iter::once(silent).chain(blocked_until(word, policy).filter(|_| word.flagged))
        });
        let dwell = self.green_since.map(|since| since.plus_secs(policy.green_dwell_secs));
        stale.chain(dwell).filter(|at| *at > now).min()
    }

    /// Owners that vote at `now`, and those among them whose word is "blocked".
    fn votes(&self, now: UnixMillis, policy: &CellPolicy) -> (u32, u32) {
        // An owner flagged before its network fell silent does not vote while it says nothing about the mirror.
        let speaks = |word: &OwnerWord| match word.last.verdict.outcome {
            Outcome::Down | Outcome::Restricted => false,
            // It is still what it said last, for as long as that is fresh.
            Outcome::Insufficient => word.flagged && blocked_until(word, policy) > Some(now),
            Outcome::Ok | Outcome::Impaired | Outcome::Refused | Outcome::Blocked => true,
        };
        self.fresh(now, policy)
            .filter(|(_, word)| speaks(word))
            .fold((0, 0), |(voters, flagged), (_, word)| (voters + 1, flagged + u32::from(word.flagged)))
    }
}

fn blocked_until(word: &OwnerWord, policy: &CellPolicy) -> Option<UnixMillis> {
    word.last_blocked.as_ref().map(|evidence| evidence.at.plus_secs(policy.stale_after_secs))
}

fn is_fresh(word: &OwnerWord, now: UnixMillis, policy: &CellPolicy) -> bool {
    word.last.at.plus_secs(policy.stale_after_secs) > now
}

/// Flagged owners that make a cell of `voters` red: the majority, and never fewer than the policy's minimum.
fn majority(voters: u32, policy: &CellPolicy) -> u32 {
    policy.owners_red_min.max(voters / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::policy::{BUILT_IN, Policy};

    fn policy() -> CellPolicy {
        Policy::parse(BUILT_IN[0], &Catalogue::built_in()).unwrap().cell
    }

    fn verdict(outcome: Outcome) -> Verdict {
        Verdict {
            outcome,
            mechanism: (outcome == Outcome::Blocked).then_some(Mechanism::TlsTimeout),
            trigger: None,
            rule: "test".into(),
            rules_version: "t".into(),
            basis: vec![],
            control: None,
            dissent: None,
        }
    }

    /// Plays a script: each word is an owner's letter and a verdict's, a second apart; `.` waits a minute.
    fn play(script: &str) -> CellState {
        let (mut cell, policy, mut now) = (Cell::default(), policy(), UnixMillis(1_000_000));
        for word in script.split_whitespace() {
            if word == "." {
                now = now.plus_secs(60);
            } else {
                now = now.plus_secs(1);
                let outcome = match &word[1..] {
                    "b" => Outcome::Blocked,
                    "o" => Outcome::Ok,
                    "d" => Outcome::Down,
                    "r" => Outcome::Restricted,
                    "i" => Outcome::Insufficient,
                    other => panic!("{other}"),
                };
                let evidence = Evidence {
                    agent: AgentId::parse(&word[..1]).unwrap(),
                    record: Sha256::default(),
                    at: now,
                    verdict: verdict(outcome),
                };
                cell.observe(&OwnerId::parse(&word[..1]).unwrap(), evidence, &policy);
            }
            cell.settle(now, &policy);
        }
        cell.state(now, &policy)
    }

    #[test]
    fn owners_not_boxes_make_a_cell_red() {
        let check = |script: &str, state| assert_eq!(play(script), state, "{script}");
        check("", CellState::Insufficient);
        check("ao bo co", CellState::Green);
        check("ab", CellState::Suspect);
        check("ab ab ab ab", CellState::Suspect);
        check("ab ab bb bb", CellState::Red);
        check("ab ab bb bb co", CellState::Red);
        check("co do ab ab bb bb", CellState::Suspect);
        check("ab ab bb bb co do", CellState::Red);
        check("ab ab bo bo co", CellState::Suspect);
        check("ab bb cb", CellState::Suspect);
        check("ab bo ab bo ab bo", CellState::Suspect);
    }

    #[test]
    fn states_of_network_and_origin_never_count_as_red() {
        let check = |script: &str, state| assert_eq!(play(script), state, "{script}");
        check("ar ar br br cr cr", CellState::Restricted);
        check("ad ad bd bd cd cd", CellState::Down);
        check("ai ai bi bi", CellState::Insufficient);
        check("ao bo co ar br cr ar br cr", CellState::Restricted);
    }

    #[test]
    fn silence_is_stale_and_never_green() {
        let check = |script: &str, state| assert_eq!(play(script), state, "{script}");
        check("ao bo co . .", CellState::Green);
        check("ao bo co . . .", CellState::Stale);
        check("ab ab bb bb . . .", CellState::Stale);
    }

    #[test]
    fn recovery_needs_its_own_majority_and_dwell() {
        let check = |script: &str, state| assert_eq!(play(script), state, "{script}");
        check("ab ab bb bb ao ao bo bo", CellState::Red);
        let keep = ". ao bo ".repeat(9);
        check(&format!("ab ab bb bb ao ao bo bo {keep}"), CellState::Red);
        check(&format!("ab ab bb bb ao ao bo bo {keep} . ao bo"), CellState::Green);
        check(&format!("ab ab bb bb ao ao bo bo {keep} bb bb . ao bo bo"), CellState::Red);
    }

    #[test]
    fn no_cell_is_red_for_ever() {
        let check = |script: &str, state| assert_eq!(play(script), state, "{script}");
        // Both who saw the block went away; the one who stayed sees none.
        check(&format!("ab ab bb bb co {}", ". co ".repeat(4)), CellState::Red);
        check(&format!("ab ab bb bb co {}", ". co ".repeat(20)), CellState::Green);
        // Both who saw the block can no longer tell.
        check(&format!("ab ab bb bb {}", ". ai bi ".repeat(2)), CellState::Red);
        check(&format!("ab ab bb bb {}", ". ai bi ".repeat(4)), CellState::Insufficient);
        // What was said before a silence does not count behind it.
        check("ab ab bb bb . . . . ab bb", CellState::Suspect);
    }
}
