//! People's orders: checked before they are journaled, obeyed when they are folded.

use super::Fold;
use super::markets::{Override, PlaceKey};
use super::rotations::OpenRotation;
use crate::market::{Action, Order, OrderError, OrderKind, PoolState};
use crate::words::{MarketId, MirrorId, UnixMillis};

/// People that a rotation of everything needs.
const ROTATE_ALL_PEOPLE: u32 = 2;

impl Fold {
    /// Whether an order can be obeyed as things stand. Asked before it is journaled; one that became void in between
    /// changes nothing.
    pub fn check_order(&self, order: &Order) -> Result<(), OrderError> {
        order.check_texts()?;
        match &order.kind {
            OrderKind::Freeze { market } => {
                self.require_market(market)?;
                let is_frozen = self.markets.frozen.contains_key(market);
                require(!is_frozen, || OrderError::AlreadyFrozen { market: market.clone() })
            }
            OrderKind::Thaw { market } => {
                self.require_market(market)?;
                let is_frozen = self.markets.frozen.contains_key(market);
                require(is_frozen, || OrderError::NotFrozen { market: market.clone() })
            }
            OrderKind::SetState { market, mirror, state } => self.check_state(market, mirror, *state),
            OrderKind::Override { market, mirror, action, until } => {
                self.check_override(market, mirror, *action, *until)
            }
            OrderKind::Release { market, mirror } => {
                let key = self.require_mirror(market, mirror)?;
                require(self.markets.overrides.contains_key(&key), || OrderError::NoOverride {
                    market: market.clone(),
                    mirror: mirror.clone(),
                })
            }
            OrderKind::Approve { decision } => {
                let known = self.require_waiting(decision)?;
                require(!known.has_approved(&order.author), || OrderError::SameAuthor {
                    author: order.author.clone(),
                    decision: decision.clone(),
                })
            }
            OrderKind::Decline { decision } => self.require_waiting(decision).map(|_| ()),
            OrderKind::RotateAll { market } => {
                self.require_market(market)?;
                require(!self.serving(market).is_empty(), || OrderError::NothingLive {
                    market: market.clone(),
                })
            }
        }
    }

    /// Obeys an order that can be obeyed.
    pub(super) fn obey(&mut self, order: &Order) {
        if self.check_order(order).is_err() {
            return;
        }
        let (author, reason) = (&order.author, &order.reason);
        match &order.kind {
            OrderKind::Freeze { market } => drop(self.markets.frozen.insert(market.clone(), author.clone())),
            OrderKind::Thaw { market } => drop(self.markets.frozen.remove(market)),
            OrderKind::SetState { market, mirror, state } => {
                self.set_state(&(market.clone(), mirror.clone()), *state, author);
            }
            OrderKind::Override { market, mirror, action: Action::Rotate, .. } => {
                let rotation = OpenRotation::ordered(author, reason, 0, self.entries);
                self.markets.overrides.remove(&(market.clone(), mirror.clone()));
                self.markets.rotations.insert((market.clone(), mirror.clone()), rotation);
            }
            OrderKind::Override { market, mirror, action, until } => {
                let (author, reason) = (author.clone(), reason.clone());
                let order = Override { action: *action, until: *until, author, reason };
                self.markets.rotations.remove(&(market.clone(), mirror.clone()));
                self.markets.overrides.insert((market.clone(), mirror.clone()), order);
            }
            OrderKind::Release { market, mirror } => {
                self.markets.overrides.remove(&(market.clone(), mirror.clone()));
            }
            OrderKind::Approve { decision } => {
                for key in self.waiting_with(decision) {
                    self.markets.rotations.entry(key).and_modify(|open| open.approve(author));
                }
            }
            OrderKind::Decline { decision } => {
                self.waiting_with(decision).iter().for_each(|key| self.decline(key))
            }
            OrderKind::RotateAll { market } => {
                for key in self.serving(market) {
                    let rotation = OpenRotation::ordered(author, reason, ROTATE_ALL_PEOPLE, self.entries);
                    self.markets.overrides.remove(&key);
                    self.markets.rotations.insert(key, rotation);
                }
            }
        }
    }

    fn check_state(&self, market: &MarketId, mirror: &MirrorId, state: PoolState) -> Result<(), OrderError> {
        self.require_mirror(market, mirror)?;
        let is_exclusive = self.settings.policy(market).is_some_and(|policy| policy.one_market_a_mirror);
        let is_serving = |other: &&MarketId| {
            let place = self.markets.places.get(&((*other).clone(), mirror.clone()));
            place.is_some_and(|place| place.state.serves())
        };
        let other = self.serves_elsewhere(market, mirror).filter(is_serving);
        match other.filter(|_| is_exclusive && state.serves()) {
            Some(other) => Err(OrderError::InOtherMarket {
                market: market.clone(),
                mirror: mirror.clone(),
                other: other.clone(),
            }),
            None => Ok(()),
        }
    }

    fn check_override(
        &self,
        market: &MarketId,
        mirror: &MirrorId,
        action: Action,
        until: Option<UnixMillis>,
    ) -> Result<(), OrderError> {
        let key = self.require_mirror(market, mirror)?;
        if let Some(until) = until.filter(|until| *until <= self.at) {
            return Err(OrderError::Past { until });
        }
        let serves = self.markets.places.get(&key).is_some_and(|place| place.state.serves());
        let is_possible = match action {
            Action::Keep | Action::Pause | Action::Hold => true,
            // Done once: it has no end.
            Action::Rotate => until.is_none(),
            _ => false,
        };
        require(serves, || OrderError::NotServing { market: market.clone(), mirror: mirror.clone() })?;
        require(is_possible, || OrderError::NotOverridable { action })
    }

    fn set_state(&mut self, key: &PlaceKey, state: PoolState, author: &str) {
        let at = self.at;
        let Some(serves) = self.markets.places.get(key).map(|place| place.state.serves()) else { return };
        if !state.serves() {
            // Taken away by hand: how long it would have lived nobody knows.
            self.markets.end_life(key, None, at);
        }
        if serves != state.serves() || !serves {
            self.markets.forget_state(key);
        }
        if let Some(place) = self.markets.places.get_mut(key) {
            place.set(state, at, Some(author.to_owned()));
        }
        self.markets.pools_checked_at = UnixMillis::default();
    }

    /// Drops a rotation; one that was ordered leaves what was before it.
    fn decline(&mut self, key: &PlaceKey) {
        let Some(open) = self.markets.rotations.remove(key) else { return };
        if let (Some(previous), Some(state)) = (open.previous(), self.markets.mirrors.get_mut(key)) {
            state.restore(previous);
        }
    }

    fn serving(&self, market: &MarketId) -> Vec<PlaceKey> {
        let places = self.markets.places.iter();
        places
            .filter(|((of, _), place)| of == market && place.state.serves())
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// The rotations that a yes or no to this decision answers.
    fn waiting_with(&self, decision: &str) -> Vec<PlaceKey> {
        let Ok(known) = self.require_waiting(decision) else { return Vec::new() };
        let group = known.group();
        let same =
            |open: &OpenRotation| open.waits_as(decision) || (group.is_some() && open.group() == group);
        self.markets.rotations.iter().filter(|(_, open)| same(open)).map(|(key, _)| key.clone()).collect()
    }

    fn require_waiting(&self, decision: &str) -> Result<&OpenRotation, OrderError> {
        let found = self.markets.rotations.values().find(|open| open.waits_as(decision));
        found.ok_or_else(|| OrderError::NothingWaits { decision: decision.chars().take(80).collect() })
    }

    fn require_market(&self, market: &MarketId) -> Result<(), OrderError> {
        let is_known = self.settings.policy(market).is_some();
        require(is_known, || OrderError::UnknownMarket { market: market.clone() })
    }

    fn require_mirror(&self, market: &MarketId, mirror: &MirrorId) -> Result<PlaceKey, OrderError> {
        self.require_market(market)?;
        let key = (market.clone(), mirror.clone());
        match self.markets.places.contains_key(&key) {
            true => Ok(key),
            false => Err(OrderError::UnknownMirror { market: market.clone(), mirror: mirror.clone() }),
        }
    }
}

fn require(holds: bool, error: impl FnOnce() -> OrderError) -> Result<(), OrderError> {
    if holds { Ok(()) } else { Err(error()) }
}
