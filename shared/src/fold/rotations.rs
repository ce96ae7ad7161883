//! Rotations under way: decided, and held until people, the hour, the pool and the freeze allow them.

use std::collections::BTreeSet;

use super::markets::{Draft, PlaceKey, ordered};
use super::pools::foreseen;
use super::{Fold, Outcome};
use crate::market::{
    Action, AlertKind, Arg, Change, Effect, EndCause, Key, Line, MarketInput, PoolState, Replacement, Texts,
    line,
};
use crate::policy::Policy;
use crate::words::{MarketId, UnixMillis};

const DAY_SECS: u64 = 86_400;
/// Instants of rotations kept for a market: more than any limit of a day.
const ROTATED_MAX: usize = 1_024;

/// Why a mirror is to be rotated.
#[derive(Debug, Clone)]
enum Origin {
    Measured(Change),
    Ordered {
        author: String,
        reason: String,
        /// Once it stands in the state machine.
        change: Option<Change>,
        /// Orders that one yes answers together.
        group: u64,
    },
}

/// A rotation decided and not carried out.
#[derive(Debug, Clone)]
pub(super) struct OpenRotation {
    origin: Origin,
    /// The latest decision about it.
    decision: Option<String>,
    /// What executors were told to make of it.
    told: Option<Effect>,
    /// People it needs, beside what the policy asks for.
    people_min: u32,
    approved_by: BTreeSet<String>,
    /// When time alone may let it go on.
    until: Option<UnixMillis>,
}

/// Whether a rotation may go on.
enum Gate {
    Closed { effect: Effect, lines: Vec<Line>, until: Option<UnixMillis> },
    Open,
}

impl OpenRotation {
    pub(super) fn measured(change: Change) -> Self {
        Self {
            origin: Origin::Measured(change),
            decision: None,
            told: None,
            people_min: 0,
            approved_by: BTreeSet::new(),
            until: None,
        }
    }

    /// Whoever orders a rotation has said yes to it.
    pub(super) fn ordered(author: &str, reason: &str, people_min: u32, group: u64) -> Self {
        let (author, reason) = (author.to_owned(), reason.to_owned());
        Self {
            approved_by: BTreeSet::from([author.clone()]),
            people_min,
            origin: Origin::Ordered { author, reason, change: None, group },
            decision: None,
            told: None,
            until: None,
        }
    }

    pub(super) fn is_ordered(&self) -> bool {
        matches!(self.origin, Origin::Ordered { .. })
    }

    pub(super) fn until(&self) -> Option<UnixMillis> {
        self.until
    }

    /// Whether it waits for a yes under this id.
    pub(super) fn waits_as(&self, decision: &str) -> bool {
        self.told == Some(Effect::AwaitingApproval) && self.decision.as_deref() == Some(decision)
    }

    /// The orders it was given together with.
    pub(super) fn group(&self) -> Option<u64> {
        match self.origin {
            Origin::Ordered { group, .. } => Some(group),
            Origin::Measured(_) => None,
        }
    }

    pub(super) fn has_approved(&self, author: &str) -> bool {
        self.approved_by.contains(author)
    }

    pub(super) fn approve(&mut self, author: &str) {
        self.approved_by.insert(author.to_owned());
    }

    /// The action before it was ordered; none where it was measured.
    pub(super) fn previous(&self) -> Option<Option<Action>> {
        match &self.origin {
            Origin::Ordered { change, .. } => Some(change.as_ref().and_then(|change| change.previous)),
            Origin::Measured(_) => None,
        }
    }

    fn people_needed(&self, policy: &Policy) -> u32 {
        self.people_min.max(policy.approval.people())
    }

    fn is_approved(&self, policy: &Policy) -> bool {
        let given = self.approved_by.len() as u32;
        given > 0 && given >= self.people_needed(policy)
    }

    fn authors(&self) -> String {
        self.approved_by.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Fold {
    /// Takes a rotation as far as it may go now.
    pub(super) fn advance_rotation(
        &mut self,
        key: &PlaceKey,
        input: &MarketInput<'_>,
        outcome: &mut Outcome,
    ) {
        let Some(mut open) = self.markets.rotations.remove(key) else { return };
        if !input.role.serves() {
            return;
        }
        let change = self.change_of(key, &mut open, input);
        match self.gate(&key.0, input.policy, &open) {
            Gate::Closed { effect, lines, until } => {
                open.until = until;
                if open.told != Some(effect) {
                    self.tell(key, input, &mut open, (change, lines, effect), outcome);
                }
            }
            Gate::Open => {
                open.until = None;
                // What waited for time, not for people, goes on only while the block does.
                let is_wanted =
                    open.decision.is_none() || open.is_approved(input.policy) || input.is_red_enough();
                if is_wanted && let Some((standby, green)) = self.standby(input.policy) {
                    self.carry_out(key, input, &open, (change, standby, green), outcome);
                    return;
                }
                if is_wanted && open.told != Some(Effect::Act) {
                    let lines = vec![line(Key::NoStandby, &[])];
                    self.tell(key, input, &mut open, (change, lines, Effect::Act), outcome);
                }
            }
        }
        self.markets.rotations.insert(key.clone(), open);
    }

    /// What is decided: as measured, or as ordered and put in force.
    fn change_of(&mut self, key: &PlaceKey, open: &mut OpenRotation, input: &MarketInput<'_>) -> Change {
        match &mut open.origin {
            Origin::Measured(change) => change.clone(),
            Origin::Ordered { change: Some(change), .. } => change.clone(),
            Origin::Ordered { author, reason, change, .. } => {
                let texts = Texts::from_iter([ordered(author, reason, None)]);
                let state = self.markets.mirrors.entry(key.clone()).or_default();
                change.insert(state.force(Action::Rotate, texts, input)).clone()
            }
        }
    }

    fn gate(&self, market: &MarketId, policy: &Policy, open: &OpenRotation) -> Gate {
        if let Some(author) = self.markets.frozen.get(market) {
            let lines = vec![line(Key::Frozen, &[("author", author.as_str().into())])];
            return Gate::Closed { effect: Effect::Frozen, lines, until: None };
        }
        if policy.dry_run {
            return Gate::Closed { effect: Effect::DryRun, lines: vec![line(Key::DryRun, &[])], until: None };
        }
        let needed = open.people_needed(policy);
        if open.is_approved(policy) {
            return Gate::Open;
        }
        let waits = self.waits(market, policy);
        if needed == 0 && waits.is_empty() {
            return Gate::Open;
        }
        let until = waits.iter().map(|(at, _)| *at).max().filter(|_| needed == 0);
        let mut lines: Vec<Line> = waits.into_iter().map(|(_, line)| line).collect();
        if needed > 0 {
            let given = Arg::from(open.approved_by.len() as u32);
            lines.insert(0, line(Key::WaitsForPeople, &[("given", given), ("needed", needed.into())]));
        }
        Gate::Closed { effect: Effect::AwaitingApproval, lines, until }
    }

    /// What of the hour and of the market's rotations of late holds a rotation back, and until when.
    fn waits(&self, market: &MarketId, policy: &Policy) -> Vec<(UnixMillis, Line)> {
        let now = self.at;
        let mut waits = Vec::new();
        let mut add = |key, until: UnixMillis, count: u32| {
            if until > now {
                waits.push((until, line(key, &[("until", until.into()), ("count", count.into())])));
            }
        };
        if let Some(end) = policy.quiet_hours.as_ref().and_then(|quiet| quiet.end(now)) {
            add(Key::QuietHours, end, 0);
        }
        let Some(rotated) = self.markets.rotated.get(market) else { return waits };
        if let Some(last) = rotated.back() {
            add(Key::CoolDown, last.plus_secs(policy.cool_down_secs), 0);
        }
        if let Some(max) = policy.rotations_a_day_max {
            let of_today = rotated.iter().filter(|at| at.plus_secs(DAY_SECS) > now).count() as u32;
            let oldest = rotated.len().checked_sub(max as usize).and_then(|place| rotated.get(place));
            if let Some(oldest) = oldest.filter(|_| of_today >= max) {
                add(Key::RotationsADay, oldest.plus_secs(DAY_SECS), of_today);
            }
        }
        waits
    }

    /// Logs that it is not carried out, and why.
    fn tell(
        &mut self,
        key: &PlaceKey,
        input: &MarketInput<'_>,
        open: &mut OpenRotation,
        (mut change, lines, effect): (Change, Vec<Line>, Effect),
        outcome: &mut Outcome,
    ) {
        lines.iter().cloned().for_each(|line| change.texts.push(line));
        if open.decision.is_some() {
            (change.previous, change.possible_at) = (Some(Action::Rotate), self.at);
        }
        let draft = Draft { change, effect, replacement: None, carries_out: None };
        let decision = self.log(key, input, draft);
        self.move_place(key, Action::Rotate, effect, &decision.id);
        (open.decision, open.told) = (Some(decision.id.clone()), Some(effect));
        outcome.decisions.push(decision.clone());
        let (market, mirror) = key;
        let named = [("market", Arg::from(market.as_str())), ("mirror", mirror.as_str().into())];
        let [of_market, of_mirror] = named;
        let red = input.carriers.iter().filter(|carrier| carrier.view.state == crate::cell::CellState::Red);
        let red = red.map(|carrier| carrier.view.carrier.clone()).collect();
        let (kind, headline) = match effect {
            Effect::AwaitingApproval => {
                let id = ("decision", Arg::from(decision.id.as_str()));
                (AlertKind::ApprovalNeeded, line(Key::AlertApproval, &[id, of_market, of_mirror]))
            }
            Effect::Act => {
                let fresh = ("fresh", Arg::from(self.count_fresh(market)));
                (AlertKind::PoolEmpty, line(Key::AlertPoolEmpty, &[of_market, of_mirror, fresh]))
            }
            Effect::DryRun | Effect::Frozen => return,
        };
        let more = match kind {
            AlertKind::PoolEmpty => self.forecast(market).as_ref().map(foreseen).into_iter().collect(),
            _ => lines,
        };
        let said = std::iter::once(headline).chain(more);
        let alert = self.alert(kind, market, Some(mirror), red, said);
        outcome.alerts.push(alert);
    }

    /// Puts the standby in the mirror's place.
    fn carry_out(
        &mut self,
        key: &PlaceKey,
        input: &MarketInput<'_>,
        open: &OpenRotation,
        (mut change, standby, green): (Change, Replacement, u32),
        outcome: &mut Outcome,
    ) {
        if open.decision.is_some() {
            (change.previous, change.possible_at) = (Some(Action::Rotate), self.at);
            change.texts.push(match open.told {
                _ if open.is_approved(input.policy) => {
                    line(Key::Approved, &[("authors", open.authors().as_str().into())])
                }
                Some(Effect::Act) => line(Key::StandbyFound, &[]),
                _ => line(Key::WaitOver, &[]),
            });
        }
        let total = Arg::from(input.carriers.len() as u32);
        let args =
            [("mirror", Arg::from(standby.mirror.as_str())), ("green", green.into()), ("total", total)];
        change.texts.push(line(Key::TakesItsPlace, &args));
        let died_of = change.cause.as_ref().map(|cause| EndCause::of(cause.mechanism, cause.trigger));
        let died_of = died_of.or((!open.is_ordered()).then_some(EndCause::Unknown));
        let successor = (key.0.clone(), standby.mirror.clone());
        let draft = Draft {
            change,
            effect: Effect::Act,
            replacement: Some(standby),
            carries_out: open.decision.clone(),
        };
        let decision = self.log(key, input, draft);
        let (at, by) = (self.at, Some(decision.id.clone()));
        let markets = &mut self.markets;
        markets.end_life(key, died_of, at);
        if let Some(place) = markets.places.get_mut(key) {
            place.set(PoolState::Burned, at, by.clone());
        }
        markets.forget_state(&successor);
        if let Some(place) = markets.places.get_mut(&successor) {
            place.set(PoolState::Live, at, by);
        }
        let rotated = markets.rotated.entry(key.0.clone()).or_default();
        rotated.push_back(at);
        if rotated.len() > ROTATED_MAX {
            rotated.pop_front();
        }
        markets.pools_checked_at = UnixMillis::default();
        outcome.decisions.push(decision);
    }
}
