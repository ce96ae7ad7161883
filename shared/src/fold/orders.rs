//! People's orders: checked before they are journaled, obeyed when they are folded.

use super::Fold;
use crate::market::{Order, OrderError, OrderKind};
use crate::words::{MarketId, MirrorId};

impl Fold {
    /// Whether an order can be obeyed as things stand. Asked before it is journaled; one that became void in between
    /// changes nothing.
    pub fn check_order(&self, order: &Order) -> Result<(), OrderError> {
        order.check_texts()?;
        match &order.kind {
            OrderKind::Freeze { market } => {
                self.require_market(market)?;
                match self.markets.frozen.contains(market) {
                    true => Err(OrderError::AlreadyFrozen { market: market.clone() }),
                    false => Ok(()),
                }
            }
            OrderKind::Thaw { market } => {
                self.require_market(market)?;
                match self.markets.frozen.contains(market) {
                    true => Ok(()),
                    false => Err(OrderError::NotFrozen { market: market.clone() }),
                }
            }
            OrderKind::SetState { market, mirror, .. } => self.require_mirror(market, mirror),
            OrderKind::Override { market, mirror, action, .. } => {
                self.require_mirror(market, mirror)?;
                Err(OrderError::NotOverridable { action: *action })
            }
            OrderKind::Release { market, mirror } => {
                self.require_mirror(market, mirror)?;
                Err(OrderError::NoOverride { market: market.clone(), mirror: mirror.clone() })
            }
            OrderKind::Approve { decision } | OrderKind::Decline { decision } => {
                Err(OrderError::NothingWaits { decision: decision.chars().take(80).collect() })
            }
            OrderKind::RotateAll { market } => {
                self.require_market(market)?;
                Err(OrderError::NothingLive { market: market.clone() })
            }
        }
    }

    /// Obeys an order that can be obeyed.
    pub(super) fn obey(&mut self, order: &Order) {
        if self.check_order(order).is_err() {
            return;
        }
        match &order.kind {
            OrderKind::Freeze { market } => drop(self.markets.frozen.insert(market.clone())),
            OrderKind::Thaw { market } => drop(self.markets.frozen.remove(market)),
            OrderKind::SetState { market, mirror, state } => {
                let at = self.at;
                if let Some(place) = self.markets.places.get_mut(&(market.clone(), mirror.clone())) {
                    place.set(*state, at, Some(order.author.clone()));
                }
            }
            _ => {}
        }
    }

    fn require_market(&self, market: &MarketId) -> Result<(), OrderError> {
        match self.settings.policy(market) {
            Some(_) => Ok(()),
            None => Err(OrderError::UnknownMarket { market: market.clone() }),
        }
    }

    fn require_mirror(&self, market: &MarketId, mirror: &MirrorId) -> Result<(), OrderError> {
        self.require_market(market)?;
        match self.markets.places.contains_key(&(market.clone(), mirror.clone())) {
            true => Ok(()),
            false => Err(OrderError::UnknownMirror { market: market.clone(), mirror: mirror.clone() }),
        }
    }
}
