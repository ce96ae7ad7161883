//! From facts to a verdict: ordered rules with stable ids. The first rule that applies speaks; none is ever renamed.
//!
//! Exact identity comes first: the operator owns the mirror, so a page with its canary under its key is `ok` whatever
//! else looked odd. A known stub confirms a block by itself; every other "blocked" needs a control that reached the
//! mirror and a healthy network at the agent.

mod beside;
mod addresses;
mod controls;
mod cuts;
mod facts;
mod lies;
mod line;
mod network;
mod rules;
mod stubs;
mod transfer;

pub use addresses::addresses_tried;
pub use controls::{FIELD_ADDRESSES_MAX, Standing, field_addresses, standing, unvisited};
pub use facts::{has_reached, reason_unreached};
pub(crate) use facts::{is_authentic, is_own_key};
pub use transfer::has_read_large_page;

use crate::catalogue::Carrier;
use crate::fingerprint::Fingerprints;
use crate::networks::Networks;
use crate::record::ProbeRecord;
use crate::target::{Mirror, Sha256};
use crate::verdict::{Mechanism, Outcome, Trigger, Verdict};
use crate::words::{CarrierId, Country};

/// Version of the rule table: rises with every change of a rule.
pub const RULES_VERSION: &str = "2026-11.12";
/// The rule that says a control is still missing: who can wait for one, waits.
pub const CONTROL_MISSING: &str = "control.missing";
/// The rule that says two controls, both with a network that works, saw different things.
const CONTROL_CONTRADICTORY: &str = "control.contradictory";
/// The rules that say a control's own network is in doubt: another control may know better.
const CONTROL_ILL: &str = "control.ill";
const CONTROL_UNPROVEN: &str = "control.unproven";
/// The rule that says no control read the page that came slowly or not whole: one that does may still come.
const TRANSFER_UNCOMPARED: &str = "transfer.uncompared";

/// The rule that says an agent stands in another network than it was enrolled for.
pub const ELSEWHERE: &str = "agent.elsewhere";

/// Everything a verdict may rest on.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub record: &'a ProbeRecord,
    /// The control's record of the same mirror in the same minutes, with its hash.
    pub control: Option<(Sha256, &'a ProbeRecord)>,
    /// What other controls recorded in the same minutes, one record each.
    pub others: &'a [(Sha256, &'a ProbeRecord)],
    /// `None` for a URL that is on no list.
    pub mirror: Option<&'a Mirror>,
    pub fingerprints: &'a Fingerprints,
    /// Where the probe stands: rows of public lists confirm only in the countries they name. `None` if nobody knows.
    pub country: Option<Country>,
    /// In whose network the probe stands. `None` if nobody knows.
    pub home: Option<Home<'a>>,
}

/// The carrier of the agent, and who announces which addresses.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    pub carrier: &'a Carrier,
    pub networks: &'a Networks,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Stable id.
    pub id: &'static str,
    /// Where the rule comes from.
    pub source: &'static str,
    apply: fn(&Case<'_>) -> Option<Conclusion>,
}

/// What a rule concludes, with the facts it rests on, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conclusion {
    outcome: Outcome,
    mechanism: Option<Mechanism>,
    trigger: Option<Trigger>,
    basis: Vec<String>,
}

impl Conclusion {
    fn of(outcome: Outcome, basis: Vec<String>) -> Option<Self> {
        Some(Self { outcome, mechanism: None, trigger: None, basis })
    }

    fn blocked(mechanism: Mechanism, trigger: Trigger, basis: Vec<String>) -> Option<Self> {
        let (mechanism, trigger) = (Some(mechanism), Some(trigger));
        Some(Self { outcome: Outcome::Blocked, mechanism, trigger, basis })
    }
}

/// The table, in order.
pub fn rules() -> &'static [Rule] {
    rules::TABLE
}

/// Whether another control, still to come, could say more than the verdict does.
pub fn wants_control(verdict: &Verdict) -> bool {
    [CONTROL_MISSING, CONTROL_ILL, CONTROL_UNPROVEN, TRANSFER_UNCOMPARED].contains(&verdict.rule.as_str())
}

/// Blocked by these says little before others confirm it: what rests on how fast bytes come, or on a page that says what it
/// should not, a bad line and a site's own error page bring as well.
const DOUBTFUL: [&str; 3] = ["transfer.throttle.page", "http.other_page", "http.broken_redirect"];

/// Whether a verdict by this rule may be said aloud before a carrier's majority confirms it.
pub fn is_conclusive(rule: &str) -> bool {
    !DOUBTFUL.contains(&rule)
}

/// The verdict on whatever an agent says that stands in another network than it was enrolled for: nothing about the
/// mirror there. `asn` is the network's, `carrier` the declared one.
pub fn elsewhere(asn: u32, carrier: &CarrierId) -> Verdict {
    let basis = format!(
        "the agent's stream comes from AS{asn}, which is no network of {carrier}: a VPN, roaming, or a wrong word"
    );
    Verdict {
        outcome: Outcome::Insufficient,
        mechanism: None,
        trigger: None,
        rule: ELSEWHERE.to_owned(),
        rules_version: RULES_VERSION.to_owned(),
        basis: vec![basis],
        control: None,
        dissent: None,
    }
}

/// Judges one record.
pub fn judge(case: &Case<'_>) -> Verdict {
    let (rule, conclusion) = rules::TABLE
        .iter()
        .find_map(|rule| (rule.apply)(case).map(|conclusion| (rule.id, conclusion)))
        .expect("the last rule of the table always applies");
    let mut basis = conclusion.basis;
    if !matches!(conclusion.outcome, Outcome::Ok | Outcome::Restricted) {
        basis.extend(stubs::remarks(case));
    }
    Verdict {
        outcome: conclusion.outcome,
        mechanism: conclusion.mechanism,
        trigger: conclusion.trigger,
        rule: rule.to_owned(),
        rules_version: RULES_VERSION.to_owned(),
        basis,
        control: case.control.map(|(hash, _)| hash),
        dissent: (rule == CONTROL_CONTRADICTORY).then(|| controls::dissent(case)).flatten(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
