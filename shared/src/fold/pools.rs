//! Pools in the fold: which standby takes a place, which mirror is offered back, how long the pool will last.

use super::Fold;
use super::Outcome;
use super::markets::PlaceKey;
use crate::market::{
    Active, AlertKind, Arg, DEATHS_MIN, Forecast, Key, Life, Line, MarketInput, PoolEntry, PoolState,
    Replacement, forecast, line,
};
use crate::policy::Policy;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

/// A pool is looked at again after this, though nothing moved: mirrors grow older.
const POOL_CHECK_SECS: u64 = 3_600;

impl Fold {
    /// Whether an order froze the market.
    pub fn is_frozen(&self, market: &MarketId) -> bool {
        self.markets.frozen.contains_key(market)
    }

    /// The action in force for a mirror in a market, and the decision that put it in force.
    pub fn decided(&self, market: &MarketId, mirror: &MirrorId) -> Option<(crate::market::Action, &str)> {
        let state = self.markets.mirror(market, mirror)?;
        Some((state.action()?, state.decision().unwrap_or_default()))
    }

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
        let works = |entry: &PoolEntry| match carrier {
            Some(id) => self.carrier_view(&entry.mirror, id, self.at).state != Red,
            None => {
                let carriers = self.carrier_inputs(&entry.mirror, policy);
                let input = MarketInput { now: self.at, role: entry.state, policy, carriers: &carriers };
                !input.is_red_enough()
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

    /// Lives of mirrors in all markets: those that ended, and those that go on, up to now.
    pub fn lives(&self) -> Vec<Life> {
        let going = self.markets.places.iter().filter(|(_, place)| place.state.serves());
        let going = going.map(|((market, mirror), place)| Life {
            market: market.clone(),
            mirror: mirror.clone(),
            from: place.served_since.unwrap_or(place.since),
            until: self.at,
            died_of: None,
        });
        self.markets.lives.iter().cloned().chain(going).collect()
    }

    /// What a market may expect of its pool; none of a market without a policy.
    pub fn forecast(&self, market: &MarketId) -> Option<Forecast> {
        self.settings.policy(market)?;
        let places = self.markets.places.iter().filter(|((of, _), _)| of == market);
        let serving: Vec<(MirrorId, UnixMillis)> = places
            .clone()
            .filter(|(_, place)| place.state.serves())
            .map(|((_, mirror), place)| (mirror.clone(), place.served_since.unwrap_or(place.since)))
            .collect();
        let fresh = places.filter(|(_, place)| place.state == PoolState::Fresh).count() as u32;
        Some(forecast(market, &self.lives(), &serving, fresh, self.at))
    }

    /// The first standby of the list that works on every carrier heard of, and on how many.
    pub(super) fn standby(&self, policy: &Policy) -> Option<(Replacement, u32)> {
        let market = &policy.market;
        let free = |mirror: &MirrorId| {
            !policy.one_market_a_mirror || self.serves_elsewhere(market, mirror).is_none()
        };
        let list = self.list()?;
        list.mirrors.iter().filter(|mirror| self.is_fresh(market, &mirror.id) && free(&mirror.id)).find_map(
            |mirror| {
                let carriers = self.carrier_inputs(&mirror.id, policy);
                let input = MarketInput { now: self.at, role: PoolState::Fresh, policy, carriers: &carriers };
                let replacement = || Replacement { mirror: mirror.id.clone(), url: mirror.url.clone() };
                input
                    .is_green_everywhere()
                    .then(|| (replacement(), input.count(crate::cell::CellState::Green)))
            },
        )
    }

    /// Another market that the mirror serves, or served.
    pub(super) fn serves_elsewhere(&self, market: &MarketId, mirror: &MirrorId) -> Option<&MarketId> {
        let others = self.markets.places.iter().filter(|((of, id), _)| id == mirror && of != market);
        others.filter(|(_, place)| place.served_since.is_some()).map(|((of, _), _)| of).next()
    }

    pub(super) fn count_fresh(&self, market: &MarketId) -> u32 {
        let fresh = self
            .markets
            .places
            .iter()
            .filter(|((of, _), place)| of == market && place.state == PoolState::Fresh);
        fresh.count() as u32
    }

    /// Whether the market has standbys, or has used some: who keeps a single mirror is not told so every day.
    fn has_pool(&self, market: &MarketId) -> bool {
        let places = self.markets.places.iter().filter(|((of, _), _)| of == market);
        places.into_iter().any(|(_, place)| place.is_standby)
    }

    fn is_fresh(&self, market: &MarketId, mirror: &MirrorId) -> bool {
        let place = self.markets.places.get(&(market.clone(), mirror.clone()));
        place.is_some_and(|place| place.state == PoolState::Fresh)
    }

    /// Offers a burned mirror back once it has been green everywhere for the dwell; told once.
    pub(super) fn offer_back(&mut self, key: &PlaceKey, input: &MarketInput<'_>, outcome: &mut Outcome) {
        if input.role != PoolState::Burned || !input.is_green_everywhere() {
            self.markets.green_since.remove(key);
            return;
        }
        let dwell = input.policy.unblock_dwell_secs;
        let (since, is_told) = *self.markets.green_since.entry(key.clone()).or_insert((input.now, false));
        if is_told || input.now < since.plus_secs(dwell) {
            return;
        }
        self.markets.green_since.insert(key.clone(), (since, true));
        let (market, mirror) = key;
        let args = [
            ("mirror", Arg::from(mirror.as_str())),
            ("market", market.as_str().into()),
            ("span", Arg::Span(dwell)),
        ];
        let carriers = input.carriers.iter().map(|carrier| carrier.view.carrier.clone()).collect();
        let said = [line(Key::AlertUnblocked, &args)];
        outcome.alerts.push(self.alert(AlertKind::Unblocked, market, Some(mirror), carriers, said));
    }

    /// Warns of each pool that will not last, once until it is filled.
    pub(super) fn check_pools(&mut self, outcome: &mut Outcome) {
        let is_due = self.at >= self.markets.pools_checked_at.plus_secs(POOL_CHECK_SECS);
        if !is_due || self.list.is_none() {
            return;
        }
        self.markets.pools_checked_at = self.at;
        let policies: Vec<Policy> = self.settings.policies().to_vec();
        for policy in &policies {
            let market = &policy.market;
            let Some(forecast) = self.forecast(market).filter(|_| self.has_pool(market)) else {
                self.markets.low.remove(market);
                continue;
            };
            let needed = forecast.needed.map(|needed| needed.value.round() as u32);
            let is_low =
                forecast.fresh <= policy.standby.low || needed.is_some_and(|needed| needed > forecast.fresh);
            if !is_low {
                self.markets.low.remove(market);
            } else if self.markets.low.insert(market.clone()) {
                let args = [("market", Arg::from(market.as_str())), ("fresh", forecast.fresh.into())];
                let lines = [line(Key::AlertPoolLow, &args), foreseen(&forecast)];
                outcome.alerts.push(self.alert(AlertKind::PoolLow, market, None, Vec::new(), lines));
            }
        }
    }
}

/// What the pool will need, or why nobody can say.
pub(super) fn foreseen(forecast: &Forecast) -> Line {
    let lives = ("lives", Arg::from(forecast.lives));
    let Some(needed) = forecast.needed else {
        let args = [lives, ("deaths", forecast.deaths.into()), ("needed", DEATHS_MIN.into())];
        return line(Key::AlertPoolUnforeseen, &args);
    };
    let whole = |number: f64| Arg::from(number.round() as u32);
    let (low, high) = (whole(needed.low), whole(needed.high.unwrap_or(needed.value)));
    line(Key::AlertPoolForecast, &[lives, ("needed", whole(needed.value)), ("low", low), ("high", high)])
}
