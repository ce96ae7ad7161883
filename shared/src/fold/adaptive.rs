//! Who looks how often: mirrors in doubt are asked about again until the doubt is settled, calm ones rest at the agents' own
//! interval, and standbys are visited seldom, by few. All by wishes: each agent keeps to its own budget, and nobody is
//! asked about a mirror twice in 30 s.

use std::collections::{BTreeMap, BTreeSet};

use super::Fold;
use super::doubt::{Doubt, LOOK_SECS, sees_block, warning};
use crate::cell::CellState;
use crate::market::{Action, PoolState};
use crate::target::Sha256;
use crate::words::{Access, AgentId, CarrierId, MarketId, MirrorId, OwnerId, Station, UnixMillis};

/// An agent silent for longer is no visitor of standbys.
const VISITOR_SILENT_SECS: u64 = 3_600;

/// What is in doubt, and when standbys were last asked about.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: BTreeMap<(MarketId, MirrorId), Doubt<Seen>>,
    standbys: BTreeMap<(MarketId, MirrorId), UnixMillis>,
    standbys_due: UnixMillis,
}

/// Cells that see a block, and how surely; the market's warning, if there is one.
type Seen = (Vec<(CarrierId, Access, CellState)>, Option<Action>);

impl Doubts {
    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.open.retain(|(_, mirror), _| keep(mirror));
        self.standbys.retain(|(_, mirror), _| keep(mirror));
        self.standbys_due = UnixMillis::default();
    }
}

impl Fold {
    /// Asks again about a mirror in doubt: the carriers that doubt, or with a warning in force all of the market, and then its
    /// standbys too, so that one that works is known when it is needed.
    pub(super) fn pursue(&mut self, market: &MarketId, mirror: &MirrorId) {
        let now = self.at;
        let key = (market.clone(), mirror.clone());
        let (cells, action) = self.in_doubt(market, mirror);
        if cells.is_empty() && action.is_none() {
            self.doubts.open.remove(&key);
            return;
        }
        let carriers: Option<BTreeSet<CarrierId>> =
            action.is_none().then(|| cells.iter().map(|(carrier, ..)| carrier.clone()).collect());
        let mut open = self.doubts.open.remove(&key);
        let is_due = Doubt::pursue(&mut open, (cells, action), now);
        open.into_iter().for_each(|open| drop(self.doubts.open.insert(key.clone(), open)));
        if !is_due {
            return;
        }
        self.ask_field(market, mirror, carriers.as_ref());
        if action.is_some() {
            for standby in self.standbys_of(market) {
                self.ask_field(market, &standby, None);
            }
        }
    }

    /// Asks about standbys that are due: the list leaves them to the collector. One that serves is asked about like any other.
    pub(super) fn visit_standbys(&mut self) {
        let now = self.at;
        if now < self.doubts.standbys_due {
            return;
        }
        self.doubts.standbys_due = now.plus_secs(LOOK_SECS);
        let listed = self.list().into_iter().flat_map(|list| &list.mirrors).filter(|mirror| mirror.standby);
        let places: Vec<(MarketId, MirrorId)> = listed
            .flat_map(|mirror| mirror.markets.iter().map(|market| (market.clone(), mirror.id.clone())))
            .collect();
        for place in places {
            let Some(policy) = self.settings.policy(&place.0) else { continue };
            let state = self.markets.places.get(&place).map(|place| place.state);
            let every_secs = match state {
                Some(PoolState::Live | PoolState::Suspect) => policy.cell.interval_secs(),
                Some(PoolState::Retired) => continue,
                Some(PoolState::Fresh | PoolState::Burned) | None => policy.standby.every_secs,
            };
            let last = self.doubts.standbys.get(&place);
            if last.is_none_or(|last| now >= last.plus_secs(every_secs)) {
                self.ask_field(&place.0, &place.1, None);
                self.doubts.standbys.insert(place, now);
            }
        }
    }

    /// Who may visit a mirror that waits in a market's pool: of each carrier the policy's number of owners, by lot, with the
    /// box heard of last. `None`: whoever measures there.
    pub(super) fn visitors(&self, market: &MarketId, mirror: &MirrorId) -> Option<BTreeSet<AgentId>> {
        let place = self.markets.places.get(&(market.clone(), mirror.clone()))?;
        let owners_max = self.settings.policy(market)?.standby.owners_max as usize;
        if place.state != PoolState::Fresh {
            return None;
        }
        let mut boxes: BTreeMap<(&CarrierId, &OwnerId), (UnixMillis, &AgentId)> = BTreeMap::new();
        for (agent, state) in &self.agents {
            let Station::Field { carrier, .. } = &state.enrolment.station else { continue };
            let heard = state
                .last_record_at
                .filter(|last| state.has_say() && self.at.since_millis(*last) <= VISITOR_SILENT_SECS * 1_000);
            let Some(heard) = heard else { continue };
            let of_owner = boxes.entry((carrier, &state.enrolment.owner)).or_insert((heard, agent));
            *of_owner = (heard, agent).max(*of_owner);
        }
        let mut lots: BTreeMap<&CarrierId, Vec<(Sha256, &AgentId)>> = BTreeMap::new();
        for ((carrier, owner), (_, agent)) in boxes {
            let lot = Sha256::of(format!("{mirror} {owner}").as_bytes());
            lots.entry(carrier).or_default().push((lot, agent));
        }
        let mut visitors = BTreeSet::new();
        for mut lots in lots.into_values() {
            lots.sort_unstable();
            visitors.extend(lots.into_iter().take(owners_max).map(|(_, agent)| agent.clone()));
        }
        Some(visitors)
    }

    /// Cells of carriers that vote and see a block, and the market's warning.
    fn in_doubt(&self, market: &MarketId, mirror: &MirrorId) -> Seen {
        let Some(policy) = self.settings.policy(market) else { return (Vec::new(), None) };
        let cells = self.cells_of(mirror).filter(|((carrier, _), _)| policy.carriers.contains(carrier));
        let cells = cells
            .map(|((carrier, access), cell)| (carrier, *access, cell.state(self.at, &policy.cell)))
            .filter(|(_, _, state)| sees_block(*state))
            .map(|(carrier, access, state)| (carrier.clone(), access, state));
        let action = self.markets.mirror(market, mirror).and_then(|state| state.action());
        (cells.collect(), warning(action))
    }

    /// The market's mirrors that wait to serve.
    fn standbys_of(&self, market: &MarketId) -> Vec<MirrorId> {
        let pool = self.pool(market).into_iter();
        pool.filter(|entry| entry.state == PoolState::Fresh).map(|entry| entry.mirror).collect()
    }
}
