//! The state machine of one mirror in one market. Pure: the frozen input and nothing else moves it.

use serde::Serialize;

use super::remedy::{Cause, cause_of_red, impairment};
use super::why::{self, Why};
use super::{Action, CarrierInput, PoolState, Texts};
use crate::cell::{CarrierView, CellState};
use crate::policy::Policy;
use crate::target::Sha256;
use crate::words::UnixMillis;

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

/// The state of one mirror in one market.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarketMirror {
    action: Option<Action>,
    decision: Option<String>,
    /// Since when enough carriers are red: the hold before a remedy counts from here.
    paused_at: Option<UnixMillis>,
    /// Since when the market is at or below its leave threshold.
    calm_since: Option<UnixMillis>,
    /// The remedy that degraded visits ask for, and since when.
    impaired: Option<(Action, UnixMillis)>,
}

/// A change of action, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub action: Action,
    pub previous: Option<Action>,
    pub texts: Texts,
    /// How the mirror is blocked, where the action rests on that.
    pub cause: Option<DecidedCause>,
    /// When the measurements that made it possible were complete.
    pub possible_at: UnixMillis,
}

/// How a mirror is blocked, by the votes of owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DecidedCause {
    pub mechanism: crate::verdict::Mechanism,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<crate::verdict::Trigger>,
    /// Owners that say exactly this.
    pub owners: u32,
    /// Flagged owners of red carriers that say how at all.
    pub of: u32,
}

impl From<Cause> for DecidedCause {
    fn from(cause: Cause) -> Self {
        Self { mechanism: cause.mechanism, trigger: cause.trigger, owners: cause.owners, of: cause.of }
    }
}

impl MarketInput<'_> {
    /// Of the canonical JSON: what a decision names as its input.
    pub fn sha256(&self) -> Sha256 {
        Sha256::of(&serde_json::to_vec(self).expect("an input has only text keys"))
    }

    pub(super) fn views(&self) -> impl Iterator<Item = &CarrierView> {
        self.carriers.iter().map(|carrier| &carrier.view)
    }

    pub(crate) fn count(&self, state: CellState) -> u32 {
        self.carriers.iter().filter(|carrier| carrier.is(state)).count() as u32
    }

    /// How many carriers are so, and what they weigh.
    fn weigh(&self, is_so: impl Fn(&CarrierInput) -> bool) -> (u32, u32) {
        let those = self.carriers.iter().filter(|carrier| is_so(carrier));
        those.fold((0, 0), |(count, weight), carrier| {
            (count + 1, weight + self.policy.weight(&carrier.view.carrier))
        })
    }

    pub(super) fn red_weight(&self) -> u32 {
        self.weigh(|carrier| carrier.is(CellState::Red)).1
    }

    /// Whether as many are so as a pause needs.
    fn enough(&self, is_so: impl Fn(&CarrierInput) -> bool) -> bool {
        let (count, weight) = self.weigh(is_so);
        weight >= self.policy.pause_red_carriers && count >= self.policy.pause_carriers_min()
    }

    /// Whether as many carriers are red as a pause needs.
    pub(crate) fn is_red_enough(&self) -> bool {
        self.enough(|carrier| carrier.is(CellState::Red))
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

    /// Whether the mirror works on every carrier heard of, and at least half are.
    pub(crate) fn is_green_everywhere(&self) -> bool {
        self.is_covered() && self.fresh() > 0 && self.count(CellState::Green) == self.fresh()
    }

    /// When the newest evidence was measured.
    fn measured_at(&self) -> UnixMillis {
        let newest = self.carriers.iter().filter_map(|carrier| carrier.measured_at).max();
        newest.map_or(self.now, |at| at.min(self.now))
    }
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

    /// Moves the state machine to `input.now`; a change is returned once. A mirror that serves nobody any more has none.
    pub fn step(&mut self, input: &MarketInput<'_>) -> Option<Change> {
        if matches!(input.role, PoolState::Burned | PoolState::Retired) {
            return None;
        }
        self.measure_calm(input);
        self.measure_impairment(input);
        self.measure_red(input);
        let (action, why) = self.desired(input)?;
        (self.action != Some(action)).then(|| self.change_to(action, why, input))
    }

    /// Puts an action in force that a person ordered.
    pub(crate) fn force(&mut self, action: Action, texts: Texts, input: &MarketInput<'_>) -> Change {
        let previous = self.action.replace(action);
        self.paused_at = (action == Action::Pause).then_some(input.now);
        self.calm_since = None;
        Change { action, previous, texts, cause: None, possible_at: input.now }
    }

    /// Takes an ordered action back.
    pub(crate) fn restore(&mut self, previous: Option<Action>) {
        (self.action, self.calm_since) = (previous, None);
    }

    /// The next instant after `now` at which the action may change without new evidence.
    pub fn next_deadline(&self, now: UnixMillis, policy: &Policy) -> Option<UnixMillis> {
        let hold = self.paused_at.map(|at| at.plus_secs(policy.rotate_hold_secs));
        let leave = self.calm_since.map(|at| at.plus_secs(policy.leave_dwell_secs));
        let impaired = self.impaired.map(|(_, at)| at.plus_secs(policy.rotate_hold_secs));
        hold.into_iter().chain(leave).chain(impaired).filter(|at| *at > now).min()
    }

    fn change_to(&mut self, action: Action, why: Why, input: &MarketInput<'_>) -> Change {
        let possible_at = self.possible_at(why, input);
        let previous = self.action.replace(action);
        if action == Action::Keep {
            (self.paused_at, self.calm_since) = (None, None);
        }
        let cause = match why {
            Why::Confirmed(cause) | Why::StandbyBlocked(cause) => cause.map(DecidedCause::from),
            Why::Impaired(cause, _) => Some(cause.into()),
            _ => None,
        };
        Change { action, previous, texts: why::explain(action, why, input), cause, possible_at }
    }

    fn possible_at(&self, why: Why, input: &MarketInput<'_>) -> UnixMillis {
        let policy = input.policy;
        let waited = match why {
            Why::Recovered => self.calm_since.map(|at| at.plus_secs(policy.leave_dwell_secs)),
            Why::Confirmed(_) | Why::StandbyBlocked(_) => {
                let confirmed = input.carriers.iter().filter_map(|carrier| carrier.confirmed_at).max();
                self.paused_at.map(|at| at.plus_secs(policy.rotate_hold_secs)).max(confirmed)
            }
            Why::Impaired(..) => self.impaired.map(|(_, at)| at.plus_secs(policy.rotate_hold_secs)),
            _ => None,
        };
        waited.unwrap_or_else(|| input.measured_at()).min(input.now)
    }

    /// Calm: few enough carriers are red, none is degraded, and at least half of those heard of are not blocked.
    fn measure_calm(&mut self, input: &MarketInput<'_>) {
        use Action::{DisableEch, DisableH3, MoveHosting, Pause, Prepare, Rotate};
        let unblocked = input.count(CellState::Green) + input.count(CellState::Refused);
        let calm = input.red_weight() <= input.policy.leave_red_carriers
            && unblocked > 0
            && unblocked * 2 >= input.fresh()
            && degraded(input).is_none();
        let warned =
            matches!(self.action, Some(Prepare | Pause | Rotate | MoveHosting | DisableEch | DisableH3));
        self.calm_since = if calm && warned { self.calm_since.or(Some(input.now)) } else { None };
    }

    fn measure_impairment(&mut self, input: &MarketInput<'_>) {
        let remedy = degraded(input).map(|(cause, _)| cause.remedy);
        self.impaired = remedy.map(|remedy| match self.impaired {
            Some((before, since)) if before == remedy => (remedy, since),
            _ => (remedy, input.now),
        });
    }

    /// From when on the hold counts. A warning that is not over keeps it: what is blocked in part comes and goes.
    fn measure_red(&mut self, input: &MarketInput<'_>) {
        let is_standby = input.role == PoolState::Fresh;
        if input.is_red_enough() {
            self.paused_at = self.paused_at.or(Some(input.now));
        } else if is_standby
            || !matches!(self.action, Some(Action::Pause | Action::Rotate | Action::MoveHosting))
        {
            self.paused_at = None;
        }
    }

    fn desired(&self, input: &MarketInput<'_>) -> Option<(Action, Why)> {
        let is_over = |since: UnixMillis| input.now >= since.plus_secs(input.policy.leave_dwell_secs);
        if self.calm_since.is_some_and(is_over) {
            return Some((Action::Keep, Why::Recovered));
        }
        match self.action {
            Some(Action::Rotate | Action::Retire) => None,
            _ if input.is_red_enough() => self.pause_or_remedy(input),
            Some(Action::Pause) => None,
            _ => self.without_pause(input),
        }
    }

    fn pause_or_remedy(&self, input: &MarketInput<'_>) -> Option<(Action, Why)> {
        let is_standby = input.role == PoolState::Fresh;
        if !self.is_confirmed(input) {
            let is_advised = matches!(
                self.action,
                Some(Action::MoveHosting | Action::DisableEch | Action::DisableH3) if self.impaired.is_none()
            );
            return (!is_standby && !is_advised).then_some((Action::Pause, Why::RedCarriers));
        }
        let cause = cause_of_red(input.carriers);
        // A block that nobody can tell the way of is a listed name until somebody can.
        let remedy = cause.map_or(Action::Rotate, |cause| cause.remedy);
        match self.action {
            // A standby serves nobody: it is not paused for, and not replaced.
            _ if is_standby && remedy == Action::Rotate => Some((Action::Retire, Why::StandbyBlocked(cause))),
            _ if is_standby => Some((remedy, Why::Confirmed(cause))),
            Some(Action::Pause) => Some((remedy, Why::Confirmed(cause))),
            // Whatever else was advised, a name that turns out to be listed is rotated.
            Some(Action::MoveHosting) if remedy == Action::Rotate => Some((remedy, Why::Confirmed(cause))),
            Some(Action::MoveHosting | Action::DisableEch | Action::DisableH3) if self.impaired.is_none() => {
                None
            }
            _ => Some((Action::Pause, Why::RedCarriers)),
        }
    }

    /// Whether the hold is over and enough carriers are still red by verdicts that are new.
    fn is_confirmed(&self, input: &MarketInput<'_>) -> bool {
        let policy = input.policy;
        let Some(since) = self.paused_at else { return false };
        let oldest = since.max(input.now.minus_millis(policy.confirm_age_max_secs() * 1_000));
        let is_new = |carrier: &CarrierInput| {
            carrier.is(CellState::Red) && carrier.confirmed_at.is_some_and(|at| at > oldest)
        };
        input.now >= since.plus_secs(policy.rotate_hold_secs) && input.enough(is_new)
    }

    fn without_pause(&self, input: &MarketInput<'_>) -> Option<(Action, Why)> {
        let (fresh, restricted) = (input.fresh(), input.count(CellState::Restricted));
        // Entered at half, left at a quarter: one carrier that comes and goes is told once.
        let holds = |share: u32| restricted > 0 && restricted * share >= fresh;
        if input.is_covered() && input.count(CellState::Down) * 2 > fresh {
            return Some(down(input));
        }
        if input.is_covered() && holds(2) {
            return Some((Action::Hold, Why::NetworkState));
        }
        if input.is_covered() && input.count(CellState::Refused) * 2 > fresh {
            return Some((Action::ChangeCdnRule, Why::OriginRefuses));
        }
        if input.role != PoolState::Fresh && input.red_weight() >= input.policy.prepare_red_carriers {
            return Some((Action::Prepare, Why::RedCarriers));
        }
        if let Some((cause, carriers)) = self.sustained_impairment(input) {
            return Some((cause.remedy, Why::Impaired(cause, carriers)));
        }
        if fresh == 0 || (!input.is_covered() && self.action != Some(Action::Prepare)) {
            return self.action.map(|_| (Action::Hold, Why::Silence));
        }
        match self.action {
            // Left by the dwell alone.
            Some(Action::Prepare | Action::MoveHosting | Action::DisableEch | Action::DisableH3) => None,
            Some(Action::Hold) if holds(4) => None,
            _ => input.works().then_some((Action::Keep, Why::Works)),
        }
    }

    fn sustained_impairment(&self, input: &MarketInput<'_>) -> Option<(Cause, u32)> {
        let (_, since) = self.impaired?;
        let is_due = input.now >= since.plus_secs(input.policy.rotate_hold_secs);
        degraded(input).filter(|_| is_due)
    }
}

/// What degrades visits on enough carriers, and on how many. To switch something off costs little, so that a warning's
/// carriers suffice; to move hosting takes a pause's.
fn degraded(input: &MarketInput<'_>) -> Option<(Cause, u32)> {
    let policy = input.policy;
    let of = |carrier: &CarrierInput| impairment(carrier, policy.cell.owners_red_min);
    [Action::MoveHosting, Action::DisableH3, Action::DisableEch].into_iter().find_map(|remedy| {
        let has = |carrier: &CarrierInput| of(carrier).is_some_and(|cause| cause.remedy == remedy);
        let (count, weight) = input.weigh(has);
        let is_enough = match remedy {
            Action::MoveHosting => input.enough(has),
            _ => weight >= policy.prepare_red_carriers,
        };
        let votes =
            input.carriers.iter().filter(|carrier| has(carrier)).flat_map(|carrier| &carrier.impaired);
        super::remedy::cause(votes).filter(|_| is_enough).map(|cause| (cause, count))
    })
}

/// The control fails too: the site is down, or its name is gone.
fn down(input: &MarketInput<'_>) -> (Action, Why) {
    let those = input.carriers.iter().filter(|carrier| carrier.is(CellState::Down));
    let (lost, of) = those.fold((0, 0), |(lost, of), carrier| (lost + carrier.lost, of + carrier.down));
    if lost * 2 > of { (Action::DomainLost, Why::DomainLost) } else { (Action::FixOrigin, Why::ControlFails) }
}
