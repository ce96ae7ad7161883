//! What made an action possible, put into the reasons' keys and numbers. The words stand in `reasons`.

use super::reasons::{Arg, Key, line};
use super::remedy::Cause;
use super::{Action, Line, MarketInput, Texts};
use crate::cell::{CarrierView, CellState, CellView};
use crate::verdict::Mechanism;
use crate::words::Access;

/// What made the action possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Works,
    Recovered,
    RedCarriers,
    Confirmed(Option<Cause>),
    StandbyBlocked(Option<Cause>),
    /// On so many carriers.
    Impaired(Cause, u32),
    ControlFails,
    DomainLost,
    NetworkState,
    OriginRefuses,
    Silence,
}

/// The reasons, the most important first.
pub(super) fn explain(action: Action, why: Why, input: &MarketInput<'_>) -> Texts {
    let mut lines = vec![headline(action, why, input)];
    match why {
        Why::Works if input.fresh() < input.carriers.len() as u32 => {
            let silent = input.carriers.len() as u32 - input.fresh();
            lines.push(line(Key::Unheard, &[("silent", silent.into())]));
        }
        Why::Confirmed(Some(cause)) | Why::StandbyBlocked(Some(cause)) => lines.push(of_cause(&cause)),
        _ => {}
    }
    let telling =
        |carrier: &&CarrierView| !matches!(carrier.state, CellState::Green | CellState::Insufficient);
    lines.extend(input.views().filter(telling).map(describe));
    if matches!(action, Action::Prepare | Action::Pause) {
        lines.extend(laggard(input));
    }
    lines.into_iter().collect()
}

fn headline(action: Action, why: Why, input: &MarketInput<'_>) -> Line {
    let policy = input.policy;
    let counted = |state| Arg::from(input.count(state));
    let total = ("total", Arg::from(input.carriers.len() as u32));
    let market = ("market", Arg::from(policy.market.as_str()));
    match why {
        Why::Works => line(Key::Works, &[("green", counted(CellState::Green)), total, market]),
        Why::Recovered => line(
            Key::Recovered,
            &[
                ("span", Arg::Span(policy.leave_dwell_secs)),
                ("leave", policy.leave_red_carriers.into()),
                total,
                market,
            ],
        ),
        Why::RedCarriers => {
            let needed = match action {
                Action::Prepare => policy.prepare_red_carriers,
                _ => policy.pause_red_carriers,
            };
            let key = if policy.weights.is_empty() { Key::RedCarriers } else { Key::RedCarriersWeighed };
            let mut args = vec![
                ("red", counted(CellState::Red)),
                total,
                market,
                ("action", Arg::Term(Key::of_action(action))),
                ("needed", needed.into()),
            ];
            if key == Key::RedCarriersWeighed {
                args.push(("weight", input.red_weight().into()));
            }
            line(key, &args)
        }
        Why::Confirmed(_) => line(
            Key::Confirmed,
            &[
                ("red", counted(CellState::Red)),
                total,
                market,
                ("span", Arg::Span(policy.rotate_hold_secs)),
                ("age", Arg::Span(policy.confirm_age_max_secs())),
            ],
        ),
        Why::StandbyBlocked(_) => {
            line(Key::StandbyBlocked, &[("red", counted(CellState::Red)), total, market])
        }
        Why::Impaired(cause, carriers) => {
            let key = match (cause.remedy, cause.mechanism) {
                (Action::DisableH3, _) => Key::ImpairedQuic,
                (Action::DisableEch, _) => Key::ImpairedEch,
                (_, Mechanism::TransferFreeze | Mechanism::TransferThrottle) => Key::ImpairedTransfer,
                _ => Key::ImpairedAddresses,
            };
            line(key, &[("count", carriers.into()), total, market])
        }
        Why::ControlFails => line(Key::ControlFails, &[("down", counted(CellState::Down)), total, market]),
        Why::DomainLost => line(Key::DomainLost, &[("down", counted(CellState::Down)), total, market]),
        Why::NetworkState => {
            line(Key::NetworkState, &[("restricted", counted(CellState::Restricted)), total, market])
        }
        Why::OriginRefuses => {
            line(Key::OriginRefuses, &[("refused", counted(CellState::Refused)), total, market])
        }
        Why::Silence => line(Key::Silence, &[("fresh", input.fresh().into()), total, market]),
    }
}

fn of_cause(cause: &Cause) -> Line {
    let how = match cause.trigger {
        Some(trigger) => format!("{} ({trigger})", cause.mechanism),
        None => cause.mechanism.to_string(),
    };
    let key = match cause.remedy {
        Action::MoveHosting => Key::CauseAddresses,
        Action::DisableEch => Key::CauseEch,
        Action::DisableH3 => Key::CauseQuic,
        _ => Key::CauseName,
    };
    let args = [("how", Arg::from(how.as_str())), ("owners", cause.owners.into()), ("of", cause.of.into())];
    line(key, &args)
}

/// The carrier that usually falls last, where it still works.
fn laggard(input: &MarketInput<'_>) -> Option<Line> {
    let lags = |carrier: &&CarrierView| {
        carrier.state == CellState::Green && input.policy.laggards.contains(&carrier.carrier)
    };
    let carrier = input.views().find(lags)?;
    Some(line(Key::LaggardWorks, &[("carrier", carrier.name.as_str().into())]))
}

fn describe(carrier: &CarrierView) -> Line {
    let cells = carrier.cells.iter().map(describe_cell).collect();
    line(
        Key::Carrier,
        &[
            ("carrier", carrier.name.as_str().into()),
            ("state", Arg::Term(Key::of_state(carrier.state))),
            ("cells", Arg::List(cells)),
        ],
    )
}

fn describe_cell(cell: &CellView) -> Line {
    let access = ("access", Arg::Term(Key::of_access(cell.access)));
    let owners = ("owners", Arg::from(cell.owners));
    match cell.state {
        CellState::Suspect if cell.flagged == 0 => line(Key::CellFirst, &[access, owners]),
        CellState::Red | CellState::Suspect if cell.mechanisms.is_empty() => {
            line(Key::CellBlocked, &[("flagged", cell.flagged.into()), owners, access])
        }
        CellState::Red | CellState::Suspect => {
            let mechanisms: Vec<&str> = cell.mechanisms.iter().map(|m| m.as_str()).collect();
            let mechanisms = ("mechanisms", Arg::from(mechanisms.join(", ").as_str()));
            line(Key::CellBlockedBy, &[("flagged", cell.flagged.into()), owners, access, mechanisms])
        }
        state => line(Key::CellState, &[access, ("state", Arg::Term(Key::of_state(state)))]),
    }
}

impl Key {
    pub(super) fn of_action(action: Action) -> Self {
        match action {
            Action::Keep => Self::ActionKeep,
            Action::Prepare => Self::ActionPrepare,
            Action::Pause => Self::ActionPause,
            Action::Rotate => Self::ActionRotate,
            Action::Retire => Self::ActionRetire,
            Action::Hold => Self::ActionHold,
            Action::MoveHosting => Self::ActionMoveHosting,
            Action::ChangeCdnRule => Self::ActionChangeCdnRule,
            Action::DisableEch => Self::ActionDisableEch,
            Action::DisableH3 => Self::ActionDisableH3,
            Action::FixOrigin => Self::ActionFixOrigin,
            Action::DomainLost => Self::ActionDomainLost,
        }
    }

    fn of_state(state: CellState) -> Self {
        match state {
            CellState::Red => Self::StateRed,
            CellState::Suspect => Self::StateSuspect,
            CellState::Restricted => Self::StateRestricted,
            CellState::Down => Self::StateDown,
            CellState::Refused => Self::StateRefused,
            CellState::Green => Self::StateGreen,
            CellState::Stale => Self::StateStale,
            CellState::Insufficient => Self::StateInsufficient,
        }
    }

    pub(crate) fn of_access(access: Access) -> Self {
        match access {
            Access::Fixed => Self::AccessFixed,
            Access::Mobile => Self::AccessMobile,
        }
    }
}
