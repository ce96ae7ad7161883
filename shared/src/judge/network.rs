//! Rules on the state of the network, the agent's own and the control's: a network that is restricted, or that nothing
//! proves to be alive, says nothing of one mirror.
//!
//! A reference host may be dead itself. It counts against the agent's network unless a control with a network of its own
//! could not reach it either; and where something abroad spoke to the agent, no reference says otherwise.

use super::facts::{has_reached, heard, is_alive, is_answered_by, is_connected, reason_unreached};
use super::rules::Found;
use super::{Case, Conclusion};
use crate::record::{Arm, ProbeRecord, ReferenceCheck, ResolverKind};
use crate::target::{Mirror, ReferenceSide, TargetUrl};
use crate::verdict::Outcome;

pub(super) fn whitelist(case: &Case<'_>) -> Found {
    let foreign: Vec<_> =
        references_that_count(case).filter(|check| check.side == ReferenceSide::Foreign).collect();
    let domestic_reached = case
        .record
        .references
        .iter()
        .filter(|check| check.side == ReferenceSide::Domestic && check.reached)
        .count();
    let refuted = heard(case.record).next().is_some()
        || !is_vouched(case, &foreign) && case.record.http.iter().any(|exchange| exchange.status.is_some());
    if foreign.is_empty() || foreign.iter().any(|check| check.reached) || domestic_reached == 0 || refuted {
        return None;
    }
    let basis = format!(
        "domestic references answer ({domestic_reached}), none of {} foreign ones does",
        foreign.len()
    );
    Conclusion::of(Outcome::Restricted, vec![basis])
}

pub(super) fn shutdown(case: &Case<'_>) -> Found {
    let references: Vec<_> = references_that_count(case).collect();
    if references.is_empty() || case.record.references.iter().any(|check| check.reached) {
        return None;
    }
    // A login page lets DNS and sometimes TCP through: that refutes only references that nobody knows to be alive.
    let shows_life = case.record.http.iter().any(|exchange| exchange.status.is_some())
        || is_connected(case.record)
        || is_answered_by(case.record, ResolverKind::Public);
    // Where the hosts at home are alive and silent too, the line may have died under the visit; the arms come later.
    let at_home: Vec<_> =
        references.iter().copied().filter(|check| check.side == ReferenceSide::Domestic).collect();
    let died_since = is_vouched(case, &at_home);
    let is_heard = heard(case.record).any(|tls| tls.arm != Arm::Main || !died_since);
    if is_heard || shows_life && !is_vouched(case, &references) {
        return None;
    }
    let mut basis = vec![format!("none of {} reference hosts answers", references.len())];
    basis.extend(references.iter().filter_map(|check| check.failure.clone()));
    Conclusion::of(Outcome::Restricted, basis)
}

pub(super) fn control_ill(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let asked = control.references.len();
    is_ill(control, case.mirror)
        .then(|| format!("the control's own network is ill: none of {asked} reference hosts answers it"))
        .and_then(|basis| Conclusion::of(Outcome::Insufficient, vec![basis]))
}

/// Whether a control reached neither the mirror nor any reference host, though it asked for some.
pub(super) fn is_ill(control: &ProbeRecord, mirror: Option<&Mirror>) -> bool {
    let references = &control.references;
    !references.is_empty() && references.iter().all(|check| !check.reached) && !has_reached(control, mirror)
}

/// A control that failed, and met nothing alive: its line may be dead, not the site.
pub(super) fn control_unproven(case: &Case<'_>) -> Found {
    let (_, control) = case.control?;
    let reason = reason_unreached(control, case.mirror).filter(|_| !is_alive(control))?;
    let basis = format!("the control fails too ({reason}), and nothing shows that its own network works");
    Conclusion::of(Outcome::Insufficient, vec![basis])
}

/// A record in which nothing succeeded: a dead line looks like any block.
pub(super) fn network_unproven(case: &Case<'_>) -> Found {
    let basis = "nothing shows that the agent's own network works: no resolver answers, nothing connects, \
                 no reference host is reached";
    if is_alive(case.record) { None } else { Conclusion::of(Outcome::Insufficient, vec![basis.to_owned()]) }
}

/// The record's references but those the control could not reach either.
fn references_that_count<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a ReferenceCheck> {
    let case = *case;
    let dead = move |url: &TargetUrl| reached_by_control(&case, url) == Some(false);
    case.record.references.iter().filter(move |check| check.reached || !dead(&check.url))
}

/// Whether the control reached one of these references.
fn is_vouched(case: &Case<'_>, references: &[&ReferenceCheck]) -> bool {
    references.iter().any(|check| reached_by_control(case, &check.url) == Some(true))
}

/// Whether the control reached that reference; `None` if it did not ask, or has no network to ask through.
fn reached_by_control(case: &Case<'_>, url: &TargetUrl) -> Option<bool> {
    let (_, control) = case.control?;
    let is_well = has_reached(control, case.mirror) || control.references.iter().any(|check| check.reached);
    let mut asked = control.references.iter().filter(|check| check.url == *url && is_well).peekable();
    asked.peek()?;
    Some(asked.any(|check| check.reached))
}
