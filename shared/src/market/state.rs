//! The state machine of one mirror in one market. Pure: the carriers' views and the instant are arguments.

use serde::Serialize;

use super::reasons::{self, Why};
use super::{Action, PoolState, Texts};
use crate::cell::{CarrierView, CellState};
use crate::policy::Policy;
use crate::target::Sha256;
use crate::verdict::{Mechanism, Trigger};
use crate::words::UnixMillis;

/// The state of one mirror in one market.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarketMirror {
    action: Option<Action>,
    decision: Option<String>,
    /// When the pause began: the hold before `rotate` counts from here.
    paused_at: Option<UnixMillis>,
    /// Since when the market is at or below its leave threshold.
    calm_since: Option<UnixMillis>,
}

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
    /// The latest instant since which as many flagged owners as a red cell needs saw a block; none where fewer ever did.
    pub confirmed_at: Option<UnixMillis>,
    /// How its flagged owners say it is blocked: one vote an owner, in the order of the words.
    pub causes: Vec<CauseVotes>,
}

/// What the state machine sees: frozen.
#[derive(Debug, Serialize)]
pub struct MarketInput<'a> {
    pub now: UnixMillis,
    /// What the mirror is in this market.
    pub role: PoolState,
    #[serde(serialize_with = "version")]
    pub policy: &'a Policy,
    /// The carriers that vote, in the policy's order.
    pub carriers: &'a [CarrierInput],
}

fn version<S: serde::Serializer>(policy: &Policy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&policy.version)
}

impl MarketInput<'_> {
    /// Of the canonical JSON: what a decision names as its input.
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&serde_json::to_vec(self).expect("an input has only text keys"))
    }

    pub(super) fn views(&self) -> impl Iterator<Item = &CarrierView> {
        self.carriers.iter().map(|carrier| &carrier.view)
    }

    pub(super) fn count(&self, state: CellState) -> u32 {
        self.views().filter(|carrier| carrier.state == state).count() as u32
    }

    /// Red carriers that enough owners confirmed by records measured after an instant.
    fn confirmed_after(&self, since: UnixMillis) -> u32 {
        let is_confirmed = |carrier: &&CarrierInput| {
            carrier.view.state == CellState::Red && carrier.confirmed_at.is_some_and(|at| at > since)
        };
        self.carriers.iter().filter(is_confirmed).count() as u32
    }

    /// Carriers with fresh evidence of any kind.
    pub(super) fn fresh(&self) -> u32 {
        self.carriers.len() as u32 - self.count(CellState::Stale) - self.count(CellState::Insufficient)
    }

    /// Whether at least half of the carriers that vote have fresh evidence: fewer say too little of a market.
    fn is_covered(&self) -> bool {
        self.fresh() * 2 >= self.carriers.len() as u32
    }

    /// Whether the mirror works on at least half of what is heard of, and is blocked nowhere.
    fn works(&self) -> bool {
        self.is_covered()
            && self.count(CellState::Red) == 0
            && self.count(CellState::Green) * 2 >= self.fresh()
    }
}

/// A change of action, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub action: Action,
    pub previous: Option<Action>,
    pub texts: Texts,
}

impl MarketMirror {
    /// The action in force.
    pub fn action(&self) -> Option<Action> {
        self.action
    }

    /// The decision that put it in force.
    pub fn decision(&self) -> Option<&str> {
        self.decision.as_deref()
    }

    /// Notes under which id the last change was logged.
    pub fn log_as(&mut self, id: &str) {
        self.decision = Some(id.to_owned());
    }

    /// Moves the state machine to `input.now`; a change is returned once.
    pub fn step(&mut self, input: &MarketInput<'_>) -> Option<Change> {
        self.measure_calm(input);
        let (action, why) = self.desired(input)?;
        if self.action == Some(action) {
            return None;
        }
        let previous = self.action.replace(action);
        self.paused_at = match action {
            Action::Pause => Some(input.now),
            Action::Rotate => self.paused_at,
            _ => None,
        };
        let texts = Texts { en: reasons::explain(action, why, input), ..Texts::default() };
        Some(Change { action, previous, texts })
    }

    /// The next instant after `now` at which the action may change without new evidence.
    pub fn next_deadline(&self, now: UnixMillis, policy: &Policy) -> Option<UnixMillis> {
        let hold = self
            .paused_at
            .filter(|_| self.action == Some(Action::Pause))
            .map(|at| at.plus_secs(policy.rotate_hold_secs));
        let leave = self.calm_since.map(|at| at.plus_secs(policy.leave_dwell_secs));
        hold.into_iter().chain(leave).filter(|at| *at > now).min()
    }

    /// Calm: few enough carriers are red, and at least half of those heard of are not blocked.
    fn measure_calm(&mut self, input: &MarketInput<'_>) {
        let unblocked = input.count(CellState::Green) + input.count(CellState::Refused);
        let calm = input.count(CellState::Red) <= input.policy.leave_red_carriers
            && unblocked > 0
            && unblocked * 2 >= input.fresh();
        let warned = matches!(self.action, Some(Action::Prepare | Action::Pause | Action::Rotate));
        self.calm_since = if calm && warned { self.calm_since.or(Some(input.now)) } else { None };
    }

    fn desired(&self, input: &MarketInput<'_>) -> Option<(Action, Why)> {
        let calm_for = |since: UnixMillis| input.now >= since.plus_secs(input.policy.leave_dwell_secs);
        if self.calm_since.is_some_and(calm_for) {
            return Some((Action::Keep, Why::Recovered));
        }
        match self.action {
            Some(Action::Rotate) => None,
            _ if input.count(CellState::Red) >= input.policy.pause_red_carriers => {
                Some(self.pause_or_rotate(input))
            }
            Some(Action::Pause) => None,
            _ => self.without_pause(input),
        }
    }

    fn pause_or_rotate(&self, input: &MarketInput<'_>) -> (Action, Why) {
        let policy = input.policy;
        let confirmed = self.paused_at.is_some_and(|since| {
            input.now >= since.plus_secs(policy.rotate_hold_secs)
                && input.confirmed_after(since) >= policy.pause_red_carriers
        });
        if confirmed && self.action == Some(Action::Pause) {
            (Action::Rotate, Why::Confirmed)
        } else {
            (Action::Pause, Why::RedCarriers)
        }
    }

    fn without_pause(&self, input: &MarketInput<'_>) -> Option<(Action, Why)> {
        let (fresh, restricted) = (input.fresh(), input.count(CellState::Restricted));
        // Entered at half, left at a quarter: one carrier that comes and goes is told once.
        let holds = |share: u32| restricted > 0 && restricted * share >= fresh;
        if input.is_covered() && input.count(CellState::Down) * 2 > fresh {
            return Some((Action::FixOrigin, Why::ControlFails));
        }
        if input.is_covered() && holds(2) {
            return Some((Action::Hold, Why::NetworkState));
        }
        if input.count(CellState::Red) >= input.policy.prepare_red_carriers {
            return Some((Action::Prepare, Why::RedCarriers));
        }
        if fresh == 0 || (!input.is_covered() && self.action != Some(Action::Prepare)) {
            return self.action.map(|_| (Action::Hold, Why::Silence));
        }
        if self.action == Some(Action::Prepare) || (self.action == Some(Action::Hold) && holds(4)) {
            return None;
        }
        if input.count(CellState::Refused) * 2 > fresh {
            return Some((Action::Hold, Why::OriginRefuses));
        }
        input.works().then_some((Action::Keep, Why::Works))
    }
}
