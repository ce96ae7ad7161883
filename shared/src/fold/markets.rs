//! Markets in the fold: their mirrors' state machines and pools, and the decisions these make possible.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::Settings;
use super::{Fold, MirrorCells, Outcome};
use crate::market::{
    Active, CarrierInput, CauseVotes, Decision, Effect, MarketInput, MarketMirror, Place, PoolEntry,
    PoolState,
};
use crate::policy::Policy;
use crate::target::MirrorList;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

/// Everything that is decided and ordered.
#[derive(Debug, Default)]
pub(super) struct Markets {
    pub(super) decisions: u64,
    pub(super) mirrors: BTreeMap<(MarketId, MirrorId), MarketMirror>,
    pub(super) places: BTreeMap<(MarketId, MirrorId), Place>,
    pub(super) frozen: BTreeSet<MarketId>,
}

impl Markets {
    pub(super) fn mirror(&self, market: &MarketId, mirror: &MirrorId) -> Option<&MarketMirror> {
        self.mirrors.get(&(market.clone(), mirror.clone()))
    }

    pub(super) fn next_deadline(&self, now: UnixMillis, settings: &Settings) -> Option<UnixMillis> {
        let each = self.mirrors.iter();
        each.filter_map(|((market, _), state)| state.next_deadline(now, settings.policy(market)?)).min()
    }

    /// What is known of a mirror ends with its URL; a new one takes the place the list gives it.
    pub(super) fn put_list(&mut self, list: &MirrorList, stays: impl Fn(&MirrorId) -> bool, at: UnixMillis) {
        let is_listed = |market: &MarketId, mirror: &MirrorId| {
            stays(mirror) && list.mirror(mirror).is_some_and(|mirror| mirror.markets.contains(market))
        };
        self.mirrors.retain(|(market, mirror), _| is_listed(market, mirror));
        self.places.retain(|(market, mirror), _| is_listed(market, mirror));
        for mirror in &list.mirrors {
            for market in &mirror.markets {
                let place = self.places.entry((market.clone(), mirror.id.clone()));
                place.or_insert_with(|| Place::listed(mirror.standby, at));
            }
        }
    }
}

impl Fold {
    /// A market's mirrors, in the list's order.
    pub fn pool(&self, market: &MarketId) -> Vec<PoolEntry> {
        let mirrors = self.list().into_iter().flat_map(|list| &list.mirrors);
        mirrors
            .filter_map(|mirror| {
                let place = self.markets.places.get(&(market.clone(), mirror.id.clone()))?;
                Some(PoolEntry {
                    market: market.clone(),
                    mirror: mirror.id.clone(),
                    url: mirror.url.clone(),
                    state: place.state,
                    since: place.since,
                    decision: place.decision.clone(),
                })
            })
            .collect()
    }

    /// The mirror to send a market's visitors to: one that serves and is not red there; of a carrier's visitors one that
    /// is not red on that carrier. The first of the list where there are several; none where there is none.
    pub fn active_mirror(&self, market: &MarketId, carrier: Option<&CarrierId>) -> Option<Active> {
        use crate::cell::CellState::Red;
        let policy = self.settings.policy(market)?;
        let is_red = |mirror: &MirrorId, id: &CarrierId| self.carrier_view(mirror, id, self.at).state == Red;
        let works = |entry: &PoolEntry| match carrier {
            Some(id) => !is_red(&entry.mirror, id),
            None => {
                let red = policy.carriers.iter().filter(|id| is_red(&entry.mirror, id)).count();
                (red as u32) < policy.pause_red_carriers
            }
        };
        let entry = self.pool(market).into_iter().find(|entry| entry.state.serves() && works(entry))?;
        Some(Active {
            market: entry.market,
            mirror: entry.mirror,
            url: entry.url,
            state: entry.state,
            carrier: carrier.cloned(),
        })
    }

    /// What the state machine sees of each carrier that votes.
    fn carrier_inputs(&self, mirror: &MirrorId, policy: &Policy) -> Vec<CarrierInput> {
        let input = |id: &CarrierId| {
            let view = self.carrier_view(mirror, id, self.at);
            let flagged = self
                .cells_of(mirror)
                .filter(|((carrier, _), _)| carrier == id)
                .flat_map(|(_, cell)| cell.flagged(self.at, &policy.cell));
            let (mut instants, mut votes) = (Vec::new(), BTreeMap::new());
            for blocked in flagged {
                instants.push(blocked.at);
                if let Some(mechanism) = blocked.verdict.mechanism {
                    *votes.entry((mechanism, blocked.verdict.trigger)).or_default() += 1;
                }
            }
            instants.sort_unstable();
            let needed = policy.cell.owners_red_min as usize;
            let confirmed_at = instants.len().checked_sub(needed).map(|place| instants[place]);
            let vote = |((mechanism, trigger), owners)| CauseVotes { mechanism, trigger, owners };
            CarrierInput { view, confirmed_at, causes: votes.into_iter().map(vote).collect() }
        };
        policy.carriers.iter().map(input).collect()
    }

    /// Moves the state machines of one mirror, or of all, to the present.
    pub(super) fn decide(&mut self, only: Option<&MirrorId>) -> Outcome {
        let targets: Vec<(MarketId, MirrorId)> = self
            .list()
            .into_iter()
            .flat_map(|list| list.mirrors.iter())
            .filter(|mirror| only.is_none_or(|id| *id == mirror.id))
            .flat_map(|mirror| mirror.markets.iter().map(|market| (market.clone(), mirror.id.clone())))
            .collect();
        self.settle_cells(only);
        let decisions =
            targets.into_iter().filter_map(|(market, mirror)| self.step_market(&market, &mirror)).collect();
        Outcome { decisions, alerts: Vec::new() }
    }

    fn settle_cells(&mut self, only: Option<&MirrorId>) {
        let settle = |cells: &mut MirrorCells| {
            for ((carrier, _), cell) in cells {
                if let Some(policy) = self.settings.policy_of_carrier(carrier) {
                    cell.settle(self.at, &policy.cell);
                }
            }
        };
        match only {
            Some(mirror) => self.cells.get_mut(mirror).into_iter().for_each(settle),
            None => self.cells.values_mut().for_each(settle),
        }
    }

    fn step_market(&mut self, market: &MarketId, mirror: &MirrorId) -> Option<Decision> {
        let policy = self.settings.policy(market)?.clone();
        let key = (market.clone(), mirror.clone());
        let role = self.markets.places.get(&key).map_or(PoolState::Live, |place| place.state);
        let carriers = self.carrier_inputs(mirror, &policy);
        let input = MarketInput { now: self.at, role, policy: &policy, carriers: &carriers };
        let mut state = self.markets.mirrors.get(&key).cloned().unwrap_or_default();
        let change = state.step(&input);
        let decision = change.map(|change| {
            let number = self.markets.decisions + 1;
            let is_frozen = self.markets.frozen.contains(market);
            let listed = self.list().and_then(|list| list.mirror(mirror));
            Decision {
                id: format!("{market}-{number:06}"),
                number,
                at: self.at,
                market: market.clone(),
                mirror: mirror.clone(),
                url: listed.expect("decided mirrors are listed").url.clone(),
                action: change.action,
                previous: change.previous,
                effect: if is_frozen { Effect::Frozen } else { Effect::Act },
                replacement: None,
                carries_out: None,
                possible_at: self.at,
                reasons: change.texts.en.clone(),
                texts: change.texts,
                advice: None,
                evidence: self.evidence_for(mirror, change.action, &policy),
                carriers: input.carriers.iter().map(|carrier| carrier.view.clone()).collect(),
                rules_version: crate::judge::RULES_VERSION.to_owned(),
                policy_version: policy.version.clone(),
                journal_position: self.entries,
                input_sha256: input.sha256(),
            }
        });
        if let Some(decision) = &decision {
            state.log_as(&decision.id);
            self.markets.decisions = decision.number;
        }
        self.markets.mirrors.insert(key, state);
        decision
    }
}
