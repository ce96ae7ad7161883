//! The collector's side of one mirror in one market, at the level of verdicts: failed records wait for a control, cells
//! take evidence, the market steps. Cells, views and the market are the real ones; this file only carries to them.

use std::collections::BTreeSet;

use super::world::Met;
use crate::cell::{CarrierView, Cell, CellState, Evidence, News};
use crate::fold::{sees_block, tells_of_block, warning};
use crate::market::{Action, CarrierInput, MarketInput, MarketMirror, PoolState, Suspicion};
use crate::policy::Policy;
use crate::target::Sha256;
use crate::verdict::{Mechanism, Outcome, Verdict};
use crate::words::{Access, AgentId, OwnerId, UnixMillis};

/// Control visits remembered: some minutes of them.
const CONTROLS_MAX: usize = 16;

/// A visit that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Visit {
    pub(super) agent: usize,
    pub(super) began: UnixMillis,
    pub(super) ended: UnixMillis,
    pub(super) met: Met,
}

/// A change of action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub at: UnixMillis,
    pub action: Action,
}

/// Carriers that see a block, and how surely; the market's warning, if there is one.
pub(super) type Seen = (Vec<(usize, CellState)>, Option<Action>);

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filed {
    /// It waits for a control's word, at the latest until then.
    Waits(UnixMillis),
    Judged(Heard),
}

/// A verdict reached its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) agent: usize,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) struct Desk<'a> {
    policy: &'a Policy,
    owners: usize,
    cells: Vec<Cell>,
    states: Vec<CellState>,
    newest: Vec<UnixMillis>,
    /// Since when each carrier is or was last red.
    red_since: Vec<Option<UnixMillis>>,
    market: MarketMirror,
    waiting: Vec<(Visit, UnixMillis)>,
    /// When the control's last visits began, and whether they worked.
    controls: Vec<(UnixMillis, bool)>,
    records: u64,
    suspicion: Suspicion,
    /// When people heard of a block by an early word.
    pub(super) suspicions: Vec<UnixMillis>,
    pub(super) turns: Vec<Turn>,
    /// Carriers that turned red, and those of them that half of the honest owners saw free.
    pub(super) reds: u64,
    pub(super) reds_by_liars: u64,
    /// Who speaks by no visit of its own.
    liars: BTreeSet<OwnerId>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(policy: &'a Policy, owners: u32, liars: BTreeSet<OwnerId>) -> Self {
        let carriers = policy.carriers.len();
        Self {
            policy,
            owners: owners as usize,
            cells: vec![Cell::default(); carriers],
            states: vec![CellState::Insufficient; carriers],
            newest: vec![UnixMillis::default(); carriers],
            red_since: vec![None; carriers],
            market: MarketMirror::default(),
            waiting: Vec::new(),
            controls: Vec::new(),
            records: 0,
            suspicion: Suspicion::default(),
            suspicions: Vec::new(),
            turns: Vec::new(),
            reds: 0,
            reds_by_liars: 0,
            liars,
        }
    }

    /// Takes an agent's record in.
    pub(super) fn file(&mut self, visit: Visit, who: (&AgentId, &OwnerId), now: UnixMillis) -> Filed {
        let outcome = match visit.met {
            Met::Ok => Outcome::Ok,
            Met::Restricted => Outcome::Restricted,
            Met::Blocked => match self.control_for(visit) {
                Some(true) => Outcome::Blocked,
                Some(false) => Outcome::Down,
                None => {
                    let until =
                        visit.began.plus_secs(self.policy.cell.control_wait_secs).max(now.plus_millis(1));
                    self.waiting.push((visit, until));
                    return Filed::Waits(until);
                }
            },
        };
        Filed::Judged(self.observe(visit, who, outcome))
    }

    /// The control spoke: records that it may speak for leave the docket, with their outcomes.
    pub(super) fn hear_control(&mut self, began: UnixMillis, works: bool) -> Vec<(Visit, Outcome)> {
        self.controls.push((began, works));
        if self.controls.len() > CONTROLS_MAX {
            self.controls.remove(0);
        }
        let outcome = if works { Outcome::Blocked } else { Outcome::Down };
        self.release(|(visit, _)| began >= visit.began, outcome)
    }

    /// Records that waited long enough leave the docket.
    pub(super) fn give_up_waiting(&mut self, now: UnixMillis) -> Vec<(Visit, Outcome)> {
        self.release(|(_, until)| *until <= now, Outcome::Insufficient)
    }

    fn release(
        &mut self,
        goes: impl Fn(&(Visit, UnixMillis)) -> bool,
        outcome: Outcome,
    ) -> Vec<(Visit, Outcome)> {
        let gone = self.waiting.extract_if(.., |waiting| goes(waiting));
        gone.map(|(visit, _)| (visit, outcome)).collect()
    }

    /// Whether the control works, by its first visit that began after this one's beginning.
    fn control_for(&self, visit: Visit) -> Option<bool> {
        self.controls.iter().find(|(began, _)| *began >= visit.began).map(|(_, works)| *works)
    }

    /// The newest instant that a carrier's cell has heard of.
    pub(super) fn newest(&self, carrier: usize) -> UnixMillis {
        self.newest[carrier]
    }

    /// Gives a verdict to its cell.
    pub(super) fn observe(&mut self, visit: Visit, who: (&AgentId, &OwnerId), outcome: Outcome) -> Heard {
        self.records += 1;
        let mut record = Sha256::default();
        record.0[..8].copy_from_slice(&self.records.to_be_bytes());
        let evidence = Evidence {
            agent: who.0.clone(),
            record,
            at: visit.ended,
            verdict: verdict(outcome),
            vicinity: None,
            addresses: None,
        };
        let carrier = visit.agent / self.owners;
        self.newest[carrier] = self.newest[carrier].max(visit.ended);
        let cell = &mut self.cells[carrier];
        Heard { agent: visit.agent, news: cell.observe(who.1, evidence, &self.policy.cell) }
    }

    /// Moves one carrier's cell to the present; tells whether it looks so different that a market may care: one that keeps
    /// does not care whether a carrier is green or under suspicion.
    pub(super) fn settle(&mut self, carrier: usize, now: UnixMillis) -> bool {
        let cell = &mut self.cells[carrier];
        cell.settle(now, &self.policy.cell);
        let state = cell.state(now, &self.policy.cell);
        let before = std::mem::replace(&mut self.states[carrier], state);
        if state == CellState::Red && before != CellState::Red {
            self.count_red(carrier, now);
        }
        let is_fine = |state| matches!(state, CellState::Green | CellState::Suspect);
        state != before && !(is_fine(state) && is_fine(before))
    }

    /// Counts a carrier that turned red; one that late evidence opens again is no other.
    fn count_red(&mut self, carrier: usize, now: UnixMillis) {
        let since = self.cells[carrier].view(Access::Fixed, now, &self.policy.cell).red_since;
        if self.red_since[carrier] != since {
            self.red_since[carrier] = since;
            self.reds += 1;
            self.reds_by_liars += u64::from(self.do_honest_see_none(carrier, now));
        }
    }

    /// Whether honest owners are heard, and half of them or more see no block.
    fn do_honest_see_none(&self, carrier: usize, now: UnixMillis) -> bool {
        let policy = &self.policy.cell;
        let words = self.cells[carrier].fresh(now, policy);
        let honest = words.filter(|(owner, _)| !self.liars.contains(*owner));
        let (flagged, all) = honest.fold((0, 0), |(flagged, all), (_, word)| {
            (flagged + u32::from(word.is_flagged(policy)), all + 1)
        });
        all > 0 && flagged * 2 <= all
    }

    /// Whether evidence that repeats what is known could change nothing: the market keeps, and nobody is in doubt.
    pub(super) fn is_calm(&self) -> bool {
        self.market.action() == Some(Action::Keep)
    }

    /// Whether one more clear verdict of this owner, whose score is at its end, would change nothing.
    pub(super) fn is_owner_calm(&self, agent: usize, owner: &OwnerId, now: UnixMillis) -> bool {
        let carrier = agent / self.owners;
        let is_shown = matches!(self.states[carrier], CellState::Green | CellState::Suspect);
        let mut words = self.cells[carrier].fresh(now, &self.policy.cell);
        is_shown && words.any(|(other, word)| other == owner && word.score == 0)
    }

    /// Counts clear verdicts of a calm owner: its noise is a share of them.
    pub(super) fn pass_over(&mut self, agent: usize, owner: &OwnerId, verdicts: u64) {
        self.cells[agent / self.owners].pass_over(owner, u32::try_from(verdicts).unwrap_or(u32::MAX));
    }

    /// Whether an owner's last word was none of a failure.
    pub(super) fn was_well(&self, agent: usize, owner: &OwnerId) -> bool {
        let last = self.cells[agent / self.owners].last_outcome(owner);
        last.is_none_or(|last| matches!(last, Outcome::Ok | Outcome::Impaired | Outcome::Refused))
    }

    /// Carriers to be asked: those that see a block, all of them while a warning is in force; and what must change for a new
    /// doubt.
    pub(super) fn in_doubt(&self) -> (Vec<usize>, Seen) {
        let states = self.states.iter().copied().enumerate().filter(|(_, state)| sees_block(*state));
        let seen: Seen = (states.collect(), warning(self.market.action()));
        let all = 0..self.states.len();
        let asked = all.filter(|carrier| seen.1.is_some() || seen.0.iter().any(|(one, _)| one == carrier));
        (asked.collect(), seen)
    }

    /// Moves the market to the present.
    pub(super) fn step(&mut self, now: UnixMillis) -> Option<Action> {
        let carriers: Vec<CarrierInput> = self
            .policy
            .carriers
            .iter()
            .zip(&self.cells)
            .map(|(id, cell)| {
                let view = cell.view(Access::Fixed, now, &self.policy.cell);
                let view = CarrierView::of(id.clone(), id.to_string(), vec![view]);
                CarrierInput::of_cells(view, std::iter::once(cell), now, &self.policy.cell)
            })
            .collect();
        let input = MarketInput { now, role: PoolState::Live, policy: self.policy, carriers: &carriers };
        let action = self.market.step(&input)?.action;
        self.turns.push(Turn { at: now, action });
        Some(action)
    }

    /// Whether people must hear of a block that no carrier is red for yet: the fold's own rule.
    pub(super) fn suspect(&mut self, now: UnixMillis) {
        let (cell, suspicion) = (&self.policy.cell, &self.policy.suspicion);
        let sightings: Vec<_> =
            self.cells.iter().map(|one| vec![one.sighting(now, cell, suspicion)]).collect();
        let is_told = tells_of_block(self.market.action());
        if self.suspicion.take(&sightings, is_told, now, (suspicion, cell)) {
            self.suspicions.push(now);
        }
    }

    /// The next instant at which time alone may change something.
    pub(super) fn next_deadline(&self, now: UnixMillis) -> Option<UnixMillis> {
        if self.is_calm() {
            return None;
        }
        let cells = self.cells.iter().filter_map(|cell| cell.next_deadline(now, &self.policy.cell));
        cells.chain(self.market.next_deadline(now, self.policy)).min()
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    Verdict {
        outcome,
        mechanism: (outcome == Outcome::Blocked).then_some(Mechanism::TlsTimeout),
        trigger: None,
        rule: "tls.cut".to_owned(),
        rules_version: String::new(),
        basis: Vec::new(),
        control: None,
        dissent: None,
    }
}
