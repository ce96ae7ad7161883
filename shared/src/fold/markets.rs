//! Markets in the fold: their mirrors' state machines, and the decisions and alerts these make possible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::rotations::OpenRotation;
use super::settings::Settings;
use super::{Fold, MirrorCells, Outcome};
use crate::market::{
    Action, Alert, AlertKind, Arg, CarrierInput, Change, Decision, Effect, Key, Lags, Life, Line,
    MarketInput, MarketMirror, MarketWord, Place, PoolState, Replacement, Suspicion, Texts, advice, line,
};
use crate::policy::Policy;
use crate::target::MirrorList;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

/// Ended lives kept, the newest: years of a busy market.
const LIVES_MAX: usize = 4_096;

/// One mirror in one market.
pub(super) type PlaceKey = (MarketId, MirrorId);

/// An action that a person put in force.
#[derive(Debug, Clone)]
pub(super) struct Override {
    pub(super) action: Action,
    pub(super) until: Option<UnixMillis>,
    pub(super) author: String,
    pub(super) reason: String,
}

/// Everything that is decided and ordered.
#[derive(Debug, Default)]
pub(super) struct Markets {
    decisions: u64,
    alerts: u64,
    pub(super) mirrors: BTreeMap<PlaceKey, MarketMirror>,
    pub(super) places: BTreeMap<PlaceKey, Place>,
    pub(super) overrides: BTreeMap<PlaceKey, Override>,
    pub(super) rotations: BTreeMap<PlaceKey, OpenRotation>,
    /// Who froze them.
    pub(super) frozen: BTreeMap<MarketId, String>,
    /// When each market rotated, the newest last.
    pub(super) rotated: BTreeMap<MarketId, VecDeque<UnixMillis>>,
    /// Since when a burned mirror is green everywhere, and whether that was told.
    pub(super) green_since: BTreeMap<PlaceKey, (UnixMillis, bool)>,
    /// What people have heard of a block before a decision fell.
    pub(super) suspicions: BTreeMap<PlaceKey, Suspicion>,
    pub(super) lags: Lags,
    pub(super) lives: VecDeque<Life>,
    /// Markets whose pool is low, and told so.
    pub(super) low: BTreeSet<MarketId>,
    pub(super) pools_checked_at: UnixMillis,
}

/// A decision in the making.
pub(super) struct Draft {
    pub(super) change: Change,
    pub(super) effect: Effect,
    pub(super) replacement: Option<Replacement>,
    pub(super) carries_out: Option<String>,
}

impl Markets {
    pub(super) fn mirror(&self, market: &MarketId, mirror: &MirrorId) -> Option<&MarketMirror> {
        self.mirrors.get(&(market.clone(), mirror.clone()))
    }

    pub(super) fn next_deadline(&self, now: UnixMillis, settings: &Settings) -> Option<UnixMillis> {
        let states = self
            .mirrors
            .iter()
            .filter_map(|((market, _), state)| state.next_deadline(now, settings.policy(market)?));
        let offers = self.green_since.iter().filter_map(|((market, _), (since, is_told))| {
            let policy = settings.policy(market).filter(|_| !is_told)?;
            Some(since.plus_secs(policy.unblock_dwell_secs))
        });
        let rotations = self.rotations.values().filter_map(OpenRotation::until);
        let overrides = self.overrides.values().filter_map(|order| order.until);
        states.chain(offers).chain(rotations).chain(overrides).filter(|at| *at > now).min()
    }

    /// What is known of a mirror ends with its URL; a new one takes the place the list gives it.
    pub(super) fn put_list(&mut self, list: &MirrorList, stays: impl Fn(&MirrorId) -> bool, at: UnixMillis) {
        let is_listed = |market: &MarketId, mirror: &MirrorId| {
            stays(mirror) && list.mirror(mirror).is_some_and(|mirror| mirror.markets.contains(market))
        };
        let gone: Vec<PlaceKey> =
            self.places.keys().filter(|(market, mirror)| !is_listed(market, mirror)).cloned().collect();
        for key in gone {
            self.end_life(&key, None, at);
            self.places.remove(&key);
        }
        self.mirrors.retain(|(market, mirror), _| is_listed(market, mirror));
        self.overrides.retain(|(market, mirror), _| is_listed(market, mirror));
        self.rotations.retain(|(market, mirror), _| is_listed(market, mirror));
        self.green_since.retain(|(market, mirror), _| is_listed(market, mirror));
        self.suspicions.retain(|(market, mirror), _| is_listed(market, mirror));
        self.lags.retain(is_listed);
        for mirror in &list.mirrors {
            for market in &mirror.markets {
                self.put_place((market.clone(), mirror.id.clone()), mirror.standby, at);
            }
        }
        self.pools_checked_at = UnixMillis::default();
    }

    /// The list's word on a place counts when it is new.
    fn put_place(&mut self, key: PlaceKey, is_standby: bool, at: UnixMillis) {
        if self.places.get(&key).is_some_and(|place| place.is_standby == is_standby) {
            return;
        }
        self.end_life(&key, None, at);
        self.forget_state(&key);
        self.places.insert(key, Place::listed(is_standby, at));
    }

    /// Begins a mirror's story in a market anew.
    pub(super) fn forget_state(&mut self, key: &PlaceKey) {
        self.mirrors.remove(key);
        self.rotations.remove(key);
        self.overrides.remove(key);
        self.green_since.remove(key);
    }

    /// Writes down how long a mirror served, if it does.
    pub(super) fn end_life(
        &mut self,
        key: &PlaceKey,
        died_of: Option<crate::market::EndCause>,
        at: UnixMillis,
    ) {
        let Some(place) = self.places.get(key).filter(|place| place.state.serves()) else { return };
        let from = place.served_since.unwrap_or(place.since);
        let (market, mirror) = key.clone();
        self.lives.push_back(Life { market, mirror, from, until: at, died_of });
        if self.lives.len() > LIVES_MAX {
            self.lives.pop_front();
        }
    }
}

impl Fold {
    /// Moves the state machines of one mirror, or of all, to the present.
    pub(super) fn decide(&mut self, only: Option<&MirrorId>) -> Outcome {
        let mut outcome = Outcome::default();
        self.settle_cells(only);
        let targets: Vec<PlaceKey> = self
            .list()
            .into_iter()
            .flat_map(|list| list.mirrors.iter())
            .filter(|mirror| only.is_none_or(|id| *id == mirror.id))
            .flat_map(|mirror| mirror.markets.iter().map(|market| (market.clone(), mirror.id.clone())))
            .collect();
        for key in &targets {
            self.step_market(key, &mut outcome);
            self.suspect(key, &mut outcome);
            self.pursue(&key.0, &key.1);
        }
        // What waits may go on: a standby has turned up, or another's rotation is done.
        let waiting: Vec<PlaceKey> = self.markets.rotations.keys().cloned().collect();
        for key in waiting {
            self.with_input(&key, |fold, input| fold.advance_rotation(&key, input, &mut outcome));
        }
        self.check_pools(&mut outcome);
        outcome
    }

    fn settle_cells(&mut self, only: Option<&MirrorId>) {
        let mut settle = |mirror: &MirrorId, cells: &mut MirrorCells| {
            let mut earliest = None;
            for ((carrier, _), cell) in cells {
                if let Some(policy) = self.settings.policy_of_carrier(carrier) {
                    cell.settle(self.at, &policy.cell);
                    earliest = earliest.into_iter().chain(cell.next_deadline(self.at, &policy.cell)).min();
                }
            }
            match earliest {
                Some(at) => drop(self.cell_deadlines.insert(mirror.clone(), at)),
                None => drop(self.cell_deadlines.remove(mirror)),
            }
        };
        match only {
            Some(mirror) => {
                self.cells.get_mut(mirror).into_iter().for_each(|cells| settle(mirror, cells));
            }
            None => self.cells.iter_mut().for_each(|(mirror, cells)| settle(mirror, cells)),
        }
    }

    fn with_input(&mut self, key: &PlaceKey, then: impl FnOnce(&mut Self, &MarketInput<'_>)) {
        let Some(policy) = self.settings.policy(&key.0).cloned() else { return };
        let carriers = self.carrier_inputs(&key.1, &policy);
        let role = self.markets.places.get(key).map_or(PoolState::Live, |place| place.state);
        let input = MarketInput { now: self.at, role, policy: &policy, carriers: &carriers };
        then(self, &input);
    }

    fn step_market(&mut self, key: &PlaceKey, outcome: &mut Outcome) {
        self.with_input(key, |fold, input| {
            let (market, mirror) = key;
            fold.markets.lags.note(market, mirror, input.now, input.carriers);
            if matches!(input.role, PoolState::Burned | PoolState::Retired) {
                return fold.offer_back(key, input, outcome);
            }
            if fold.markets.rotations.get(key).is_some_and(OpenRotation::is_ordered) {
                return;
            }
            let change = fold.step_or_force(key, input);
            match change {
                Some(change) if change.action == Action::Rotate => {
                    fold.markets.rotations.insert(key.clone(), OpenRotation::measured(change));
                }
                Some(change) => {
                    fold.markets.rotations.remove(key);
                    fold.log_plain(key, input, change, outcome);
                }
                None => {}
            }
        });
    }

    /// Moves the state machine, or keeps it where a person put it.
    fn step_or_force(&mut self, key: &PlaceKey, input: &MarketInput<'_>) -> Option<Change> {
        if self.markets.overrides.get(key).is_some_and(|order| order.until.is_some_and(|at| at <= input.now))
        {
            self.markets.overrides.remove(key);
        }
        let state = self.markets.mirrors.entry(key.clone()).or_default();
        match self.markets.overrides.get(key) {
            Some(order) if state.action() == Some(order.action) => None,
            Some(order) => {
                let texts = Texts::from_iter([ordered(&order.author, &order.reason, order.until)]);
                Some(state.force(order.action, texts, input))
            }
            None => state.step(input),
        }
    }

    /// Logs a change that needs nobody's yes.
    fn log_plain(
        &mut self,
        key: &PlaceKey,
        input: &MarketInput<'_>,
        mut change: Change,
        outcome: &mut Outcome,
    ) {
        let effect = match (self.markets.frozen.get(&key.0), input.policy.dry_run) {
            (Some(author), _) => {
                change.texts.push(line(Key::Frozen, &[("author", author.as_str().into())]));
                Effect::Frozen
            }
            (None, true) => {
                change.texts.push(line(Key::DryRun, &[]));
                Effect::DryRun
            }
            (None, false) => Effect::Act,
        };
        if change.action == Action::Prepare {
            self.warnings(input).into_iter().for_each(|line| change.texts.push(line));
        }
        let action = change.action;
        let draft = Draft { change, effect, replacement: None, carries_out: None };
        let decision = self.log(key, input, draft);
        self.move_place(key, action, effect, &decision.id);
        outcome.decisions.push(decision);
    }

    /// What an action without a replacement makes of a place.
    pub(super) fn move_place(&mut self, key: &PlaceKey, action: Action, effect: Effect, decision: &str) {
        let at = self.at;
        let Some(place) = self.markets.places.get_mut(key) else { return };
        let state = match action {
            Action::Retire if effect == Effect::Act => PoolState::Burned,
            _ if !place.state.serves() => return,
            Action::Keep => PoolState::Live,
            Action::Prepare | Action::Pause | Action::Rotate | Action::MoveHosting => PoolState::Suspect,
            _ => return,
        };
        place.set(state, at, Some(decision.to_owned()));
        if state == PoolState::Burned {
            self.markets.pools_checked_at = UnixMillis::default();
        }
    }

    /// Gives a decision its number and everything it names.
    pub(super) fn log(&mut self, key: &PlaceKey, input: &MarketInput<'_>, draft: Draft) -> Decision {
        let (market, mirror) = key;
        let Draft { change, effect, replacement, carries_out } = draft;
        self.markets.decisions += 1;
        let number = self.markets.decisions;
        let id = format!("{market}-{number:06}");
        self.markets.mirrors.entry(key.clone()).or_default().log_as(&id);
        let listed = self.list().and_then(|list| list.mirror(mirror));
        Decision {
            id,
            number,
            at: self.at,
            market: market.clone(),
            mirror: mirror.clone(),
            url: listed.expect("decided mirrors are listed").url.clone(),
            action: change.action,
            previous: change.previous,
            effect,
            replacement,
            carries_out,
            possible_at: change.possible_at,
            reasons: change.texts.en.clone(),
            texts: change.texts,
            cause: change.cause,
            advice: self.advice_on(mirror),
            evidence: self.evidence_for(mirror, change.action, input.policy),
            carriers: input.carriers.iter().map(|carrier| carrier.view.clone()).collect(),
            rules_version: crate::judge::RULES_VERSION.to_owned(),
            policy_version: input.policy.version.clone(),
            journal_position: self.entries,
            input_sha256: input.sha256(),
        }
    }

    /// Raises an alert.
    pub(super) fn alert(
        &mut self,
        kind: AlertKind,
        market: &MarketId,
        mirror: Option<&MirrorId>,
        carriers: Vec<CarrierId>,
        lines: impl IntoIterator<Item = Line>,
    ) -> Alert {
        self.markets.alerts += 1;
        let number = self.markets.alerts;
        Alert {
            id: format!("{market}-alert-{number:06}"),
            number,
            at: self.at,
            market: market.clone(),
            kind,
            mirror: mirror.cloned(),
            carriers,
            texts: lines.into_iter().collect(),
            evidence: Vec::new(),
            journal_position: self.entries,
        }
    }

    /// What the markets' states together advise about a mirror.
    fn advice_on(&self, mirror: &MirrorId) -> Option<Line> {
        let listed = self.list()?.mirror(mirror)?;
        let policies = listed.markets.iter().filter_map(|market| self.settings.policy(market));
        let words: Vec<MarketWord> =
            policies.map(|policy| MarketWord::of(policy, &self.carrier_inputs(mirror, policy))).collect();
        advice(&words)
    }

    /// That the leader fell, and how soon the others usually follow.
    fn warnings(&self, input: &MarketInput<'_>) -> Vec<Line> {
        use crate::cell::CellState::Red;
        let policy = input.policy;
        let is_red = |carrier: &&CarrierInput| carrier.view.state == Red;
        let leader =
            input.carriers.iter().filter(is_red).find(|one| policy.leaders.contains(&one.view.carrier));
        let mut lines: Vec<Line> = leader
            .map(|leader| line(Key::Leader, &[("carrier", leader.view.name.as_str().into())]))
            .into_iter()
            .collect();
        let Some(first) = leader.or_else(|| input.carriers.iter().find(is_red)) else { return lines };
        let open =
            input.carriers.iter().filter(|carrier| !is_red(carrier)).map(|carrier| &carrier.view.carrier);
        let name = |id: &CarrierId| {
            let known = self.settings.catalogue().carrier(id);
            Arg::from(known.map_or(id.as_str(), |carrier| &carrier.name))
        };
        let led = ("leader", Arg::from(first.view.name.as_str()));
        lines.extend(match self.markets.lags.next_after(&first.view.carrier, open) {
            Some(lag) => Some(line(
                Key::LagHistory,
                &[
                    ("carrier", name(&lag.follower)),
                    led,
                    ("span", Arg::Span(lag.secs)),
                    ("count", lag.falls.into()),
                ],
            )),
            None if leader.is_some() => {
                Some(line(Key::LagPlaybook, &[led, ("span", Arg::Span(policy.usual_lag_secs))]))
            }
            None => None,
        });
        lines
    }

    /// What the state machine sees of each carrier that votes.
    pub(super) fn carrier_inputs(&self, mirror: &MirrorId, policy: &Policy) -> Vec<CarrierInput> {
        let input = |id: &CarrierId| {
            let cells = self.cells_of(mirror).filter(|((carrier, _), _)| carrier == id).map(|(_, cell)| cell);
            CarrierInput::of_cells(self.carrier_view(mirror, id, self.at), cells, self.at, &policy.cell)
        };
        policy.carriers.iter().map(input).collect()
    }
}

/// The reason of an action that a person ordered.
pub(super) fn ordered(author: &str, reason: &str, until: Option<UnixMillis>) -> Line {
    let args = [("author", Arg::from(author)), ("reason", Arg::from(reason))];
    match until {
        Some(until) => {
            let [author, reason] = args;
            line(Key::OrderedUntil, &[author, reason, ("until", until.into())])
        }
        None => line(Key::Ordered, &args),
    }
}
