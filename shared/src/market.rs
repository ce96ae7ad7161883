//! What a market should do about a mirror, with reasons: a small state machine over the market's carriers.
//!
//! Pure: the carriers' views and the instant are arguments. Carrying a decision out is the collector's business.

use serde::{Deserialize, Serialize};

use crate::cell::{CarrierView, CellState};
use crate::policy::Policy;
use crate::target::{Sha256, TargetUrl};
use crate::verdict::{Verdict, words};
use crate::words::{Access, AgentId, CarrierId, MarketId, MirrorId, OwnerId, UnixMillis};

mod reasons;

use reasons::Why;

words!(
    /// What to do.
    Action {
        /// Nothing: the mirror works.
        Keep = "keep",
        /// Early warning: have the next mirror ready.
        Prepare = "prepare",
        /// Stop sending this market's traffic there, now.
        Pause = "pause",
        /// Put the next mirror in its place.
        Rotate = "rotate",
        /// Do nothing: the network's state, or too little evidence.
        Hold = "hold",
        /// The control fails too: mend the site.
        FixOrigin = "fix_origin",
    }
);

/// One record a decision rests on, with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    pub record: Sha256,
    pub agent: AgentId,
    pub owner: OwnerId,
    pub carrier: CarrierId,
    pub access: Access,
    pub at: UnixMillis,
    pub verdict: Verdict,
}

/// One line of the decision log. Its JSON is what is stored, shown and replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Market and number, such as `kz-000012`.
    pub id: String,
    /// From 1, over all markets.
    pub number: u64,
    pub at: UnixMillis,
    pub market: MarketId,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub action: Action,
    /// The action before; none at the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Action>,
    pub reasons: Vec<String>,
    pub carriers: Vec<CarrierView>,
    pub evidence: Vec<EvidenceItem>,
    pub rules_version: String,
    pub policy_version: String,
    /// How many journal entries had been folded, this one's cause among them.
    pub journal_position: u64,
}

impl Decision {
    /// The logged bytes: one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a decision has only text keys")
    }
}

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

/// What the state machine sees: frozen.
pub struct MarketInput<'a> {
    pub now: UnixMillis,
    pub policy: &'a Policy,
    /// The carriers that vote, in the policy's order.
    pub carriers: &'a [CarrierView],
    /// Red carriers that enough owners confirmed by records measured after an instant.
    pub confirmed_after: &'a dyn Fn(UnixMillis) -> u32,
}

impl MarketInput<'_> {
    fn count(&self, state: CellState) -> u32 {
        self.carriers.iter().filter(|carrier| carrier.state == state).count() as u32
    }

    /// Carriers with fresh evidence of any kind.
    fn fresh(&self) -> u32 {
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
    pub reasons: Vec<String>,
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
        Some(Change { action, previous, reasons: reasons::explain(action, why, input) })
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
                && (input.confirmed_after)(since) >= policy.pause_red_carriers
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

#[cfg(test)]
mod tests;
