//! What the state machine sees of one carrier: its view, and what its owners say about how the mirror fails.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cell::{CarrierView, Cell, CellState, OwnerWord};
use crate::policy::CellPolicy;
use crate::verdict::{Mechanism, Outcome, Trigger, Verdict};
use crate::words::{OwnerId, UnixMillis, Vicinity};

/// Owners that say the same about how a mirror fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CauseVotes {
    pub mechanism: Mechanism,
    pub trigger: Option<Trigger>,
    pub owners: u32,
}

/// What the state machine sees of one carrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CarrierInput {
    pub view: CarrierView,
    /// The latest instant since which one of its cells is confirmed; see [`Cell::confirmed_at`].
    pub confirmed_at: Option<UnixMillis>,
    /// How its flagged owners say it is blocked: one vote an owner, in the order of the words.
    pub causes: Vec<CauseVotes>,
    /// How owners for whom it loads say it is degraded, by their newest verdicts.
    pub impaired: Vec<CauseVotes>,
    /// Owners whose newest verdict is that the control fails too, and those among them that say the name is gone there.
    pub down: u32,
    pub lost: u32,
    /// When the newest evidence was measured.
    pub measured_at: Option<UnixMillis>,
}

impl CarrierInput {
    /// A carrier of which only the view is known.
    pub fn of_view(view: CarrierView) -> Self {
        Self {
            view,
            confirmed_at: None,
            causes: vec![],
            impaired: vec![],
            down: 0,
            lost: 0,
            measured_at: None,
        }
    }

    /// The same from a carrier's cells at `now`.
    pub fn of_cells<'a>(
        view: CarrierView,
        cells: impl Iterator<Item = &'a Cell>,
        now: UnixMillis,
        policy: &CellPolicy,
    ) -> Self {
        let (mut blocked, mut impaired) = (Tally::default(), Tally::default());
        let mut input = Self::of_view(view);
        for cell in cells {
            input.confirmed_at = input.confirmed_at.max(cell.confirmed_at(now, policy));
            cell.flagged(now, policy).iter().for_each(|evidence| blocked.count(&evidence.verdict));
            let mut voices: BTreeMap<Result<Vicinity, &OwnerId>, &OwnerWord> = BTreeMap::new();
            for (owner, word) in cell.fresh(now, policy) {
                let voice = voices.entry(word.last.vicinity.ok_or(owner)).or_insert(word);
                if word.last.at > voice.last.at {
                    *voice = word;
                }
            }
            for word in voices.into_values() {
                let last = &word.last;
                input.measured_at = input.measured_at.max(Some(last.at));
                match last.verdict.outcome {
                    Outcome::Impaired if !word.is_flagged(policy) => impaired.count(&last.verdict),
                    Outcome::Down => {
                        input.down += 1;
                        input.lost += u32::from(last.verdict.mechanism == Some(Mechanism::DnsNxdomain));
                    }
                    _ => {}
                }
            }
        }
        (input.causes, input.impaired) = (blocked.votes(), impaired.votes());
        input
    }

    /// Owners with fresh evidence that counts.
    pub(super) fn voters(&self) -> u32 {
        self.view.cells.iter().map(|cell| cell.owners).sum()
    }

    pub(super) fn is(&self, state: CellState) -> bool {
        self.view.state == state
    }
}

/// Votes on how a mirror fails.
#[derive(Debug, Default)]
struct Tally(BTreeMap<(Mechanism, Option<Trigger>), u32>);

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        if let Some(mechanism) = verdict.mechanism {
            *self.0.entry((mechanism, verdict.trigger)).or_default() += 1;
        }
    }

    fn votes(self) -> Vec<CauseVotes> {
        let votes = self.0.into_iter();
        votes.map(|((mechanism, trigger), owners)| CauseVotes { mechanism, trigger, owners }).collect()
    }
}
