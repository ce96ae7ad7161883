//! Reasons in plain words, from the same input the decision was made of.

use super::{Action, MarketInput};
use crate::cell::{CarrierView, CellState};

/// What made the action possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Works,
    Recovered,
    RedCarriers,
    Confirmed,
    ControlFails,
    NetworkState,
    OriginRefuses,
    Silence,
}

/// The reasons, the most important first.
pub(super) fn explain(action: Action, why: Why, input: &MarketInput<'_>) -> Vec<String> {
    let policy = input.policy;
    let total = input.carriers.len();
    let market = policy.market.as_str();
    let mut reasons = vec![match why {
        Why::Works => {
            format!(
                "the mirror works on {} of {total} carriers of {market}{}",
                input.count(CellState::Green),
                unheard(input)
            )
        }
        Why::Recovered => format!(
            "for {} s no more than {} of {total} carriers of {market} have been red: the mirror works again",
            policy.leave_dwell_secs, policy.leave_red_carriers
        ),
        Why::RedCarriers => {
            let (red, needed) = (input.count(CellState::Red), needed(action, input));
            let verb = if red == 1 { "is" } else { "are" };
            format!("{red} of {total} carriers of {market} {verb} red; {action} needs {needed}")
        }
        Why::Confirmed => format!(
            "{} of {total} carriers of {market} are still red after the hold of {} s, confirmed by fresh records",
            input.count(CellState::Red),
            policy.rotate_hold_secs
        ),
        Why::ControlFails => format!(
            "the control fails too, on {} of {total} carriers of {market}: the site is down, no domain needs burning",
            input.count(CellState::Down)
        ),
        Why::NetworkState => format!(
            "{} of {total} carriers of {market} are in whitelist mode, shut down or captive: a state of the network, \
             no domain needs burning",
            input.count(CellState::Restricted)
        ),
        Why::OriginRefuses => format!(
            "the origin itself refuses on {} of {total} carriers of {market}: change the CDN's or server's country rule, \
             no domain needs burning",
            input.count(CellState::Refused)
        ),
        Why::Silence => {
            format!(
                "too little is heard: {} of {total} carriers of {market} have fresh evidence",
                input.fresh()
            )
        }
    }];
    let telling =
        |carrier: &&CarrierView| !matches!(carrier.state, CellState::Green | CellState::Insufficient);
    reasons.extend(input.views().filter(telling).map(describe));
    if action == Action::Prepare {
        reasons.extend(leader_warning(input));
    }
    reasons
}

/// How many carriers nothing is heard of, in words; empty if none.
fn unheard(input: &MarketInput<'_>) -> String {
    match input.carriers.len() as u32 - input.fresh() {
        0 => String::new(),
        silent => format!("; nothing fresh is heard of {silent}"),
    }
}

fn needed(action: Action, input: &MarketInput<'_>) -> u32 {
    match action {
        Action::Prepare => input.policy.prepare_red_carriers,
        _ => input.policy.pause_red_carriers,
    }
}

fn leader_warning(input: &MarketInput<'_>) -> Option<String> {
    let leads = |carrier: &&CarrierView| {
        carrier.state == CellState::Red && input.policy.leaders.contains(&carrier.carrier)
    };
    let leader = input.views().find(leads)?;
    Some(format!("{} usually falls first: have a fresh mirror ready", leader.name))
}

fn describe(carrier: &CarrierView) -> String {
    let cells: Vec<String> = carrier
        .cells
        .iter()
        .map(|cell| {
            let mechanisms: Vec<&str> = cell.mechanisms.iter().map(|m| m.as_str()).collect();
            let how =
                if mechanisms.is_empty() { String::new() } else { format!(" by {}", mechanisms.join(", ")) };
            match cell.state {
                CellState::Suspect if cell.flagged == 0 => {
                    format!("a first {} owner of {} sees it blocked", cell.access, cell.owners)
                }
                CellState::Red | CellState::Suspect => {
                    format!("{} of {} {} owners see it blocked{how}", cell.flagged, cell.owners, cell.access)
                }
                state => format!("{} is {state}", cell.access),
            }
        })
        .collect();
    format!("{} is {}: {}", carrier.name, carrier.state, cells.join("; "))
}
