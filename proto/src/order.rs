//! People's orders across the wall: in the journal, and as operators send them.

use zerkalo_core::market::{Action, Order, OrderKind, PoolState};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

use crate::journal_v1 as wire;
use crate::record::DecodeError;

/// An order for the journal, or for the collector.
pub fn order_to_wire(order: &Order) -> wire::Ordered {
    let mut wire = wire::Ordered {
        author: order.author.clone(),
        reason: order.reason.clone(),
        kind: order.kind.word().to_owned(),
        ..wire::Ordered::default()
    };
    match &order.kind {
        OrderKind::Freeze { market } | OrderKind::Thaw { market } | OrderKind::RotateAll { market } => {
            wire.market = market.to_string();
        }
        OrderKind::Override { market, mirror, action, until } => {
            (wire.market, wire.mirror) = (market.to_string(), mirror.to_string());
            wire.action = action.as_str().to_owned();
            wire.until_millis = until.map_or(0, |at| at.0);
        }
        OrderKind::Release { market, mirror } => {
            (wire.market, wire.mirror) = (market.to_string(), mirror.to_string());
        }
        OrderKind::Approve { decision } | OrderKind::Decline { decision } => {
            wire.decision = decision.clone();
        }
        OrderKind::SetState { market, mirror, state } => {
            (wire.market, wire.mirror) = (market.to_string(), mirror.to_string());
            wire.state = state.as_str().to_owned();
        }
    }
    wire
}

/// Reads an order; whether it can be obeyed is the fold's to say.
pub fn order_from_wire(wire: wire::Ordered) -> Result<Order, DecodeError> {
    let market = || MarketId::parse(&wire.market).map_err(|_| DecodeError::invalid("market", &wire.market));
    let mirror = || MirrorId::parse(&wire.mirror).map_err(|_| DecodeError::invalid("mirror", &wire.mirror));
    let kind = match wire.kind.as_str() {
        "freeze" => OrderKind::Freeze { market: market()? },
        "thaw" => OrderKind::Thaw { market: market()? },
        "rotate_all" => OrderKind::RotateAll { market: market()? },
        "override" => OrderKind::Override {
            market: market()?,
            mirror: mirror()?,
            action: word(Action::ALL, Action::as_str, "action", &wire.action)?,
            until: Some(UnixMillis(wire.until_millis)).filter(|at| at.0 != 0),
        },
        "release" => OrderKind::Release { market: market()?, mirror: mirror()? },
        "approve" => OrderKind::Approve { decision: wire.decision.clone() },
        "decline" => OrderKind::Decline { decision: wire.decision.clone() },
        "set_state" => OrderKind::SetState {
            market: market()?,
            mirror: mirror()?,
            state: word(PoolState::ALL, PoolState::as_str, "state", &wire.state)?,
        },
        other => return Err(DecodeError::invalid("kind", other)),
    };
    Ok(Order { author: wire.author, reason: wire.reason, kind })
}

fn word<T: Copy>(
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
    field: &'static str,
    text: &str,
) -> Result<T, DecodeError> {
    all.iter().copied().find(|word| as_str(*word) == text).ok_or_else(|| DecodeError::invalid(field, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_and_nonsense_does_not() {
        let (market, mirror) = (MarketId::parse("kz").unwrap(), MirrorId::parse("m1").unwrap());
        let of = |kind| Order { author: "anna".into(), reason: "why".into(), kind };
        for kind in [
            OrderKind::Freeze { market: market.clone() },
            OrderKind::Thaw { market: market.clone() },
            OrderKind::RotateAll { market: market.clone() },
            OrderKind::Override {
                market: market.clone(),
                mirror: mirror.clone(),
                action: Action::Pause,
                until: Some(UnixMillis(5)),
            },
            OrderKind::Release { market: market.clone(), mirror: mirror.clone() },
            OrderKind::Approve { decision: "kz-000001".into() },
            OrderKind::Decline { decision: "kz-000001".into() },
            OrderKind::SetState { market, mirror, state: PoolState::Burned },
        ] {
            let order = of(kind);
            assert_eq!(order_from_wire(order_to_wire(&order)).unwrap(), order);
            let wire = order_to_wire(&order);
            assert!(order_from_wire(wire::Ordered { kind: "nonsense".into(), ..wire.clone() }).is_err());
            let without = wire::Ordered { market: "../".into(), action: "?".into(), ..wire };
            let needs_market = !matches!(order.kind, OrderKind::Approve { .. } | OrderKind::Decline { .. });
            assert_eq!(order_from_wire(without).is_err(), needs_market);
        }
    }
}
