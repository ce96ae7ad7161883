//! What a scenario is: a visit, what the censor does meanwhile, what the verdict must be; and its healthy twin, which
//! the same censor must not spoil. The scenarios themselves are in the families.

use std::time::Duration;

use zerkalo_core::verdict::{Mechanism, Outcome, Trigger, Verdict};

use super::addresses::{FOREIGN, MIRROR, NEIGHBOUR, ORIGIN};
use super::middlebox::Trick;
use super::names::Lie;

/// The option of `probe` by which the neutral name goes first. A control gets it too: only it can tell whether the site
/// itself takes such a name.
pub const NEUTRAL_FIRST: &str = "--neutral-first";
/// The agent's deadline for its main arm, where the scenario says nothing else.
const TIMEOUT_SECS: u64 = 3;

/// A namespace of a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Subscriber,
    Censor,
    World,
    Control,
}

/// A command that makes something happen to packets in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub place: Place,
    pub command: String,
}

/// Whether the agents ask after the state of their networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Unchecked,
    Checked,
}

/// Whether there is a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Present,
    /// It looks after the subscriber, and goes to the addresses the subscriber got too, as a collector asks it to.
    Follows,
    Absent,
}

/// Whether the operator states the mirror's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    Stated,
    Unstated,
}

/// One visit of the subscriber, and of the control.
#[derive(Debug, Clone)]
pub struct Visit {
    pub url: String,
    /// How the carrier's resolver lies.
    pub lie: Lie,
    pub rules: Vec<Rule>,
    /// What happens while the visit is under way, and when.
    pub later: Option<(Duration, Rule)>,
    pub timeout_secs: u64,
    pub gate: Gate,
    /// Path of a large page that the agents read beside the page.
    pub large_page: Option<&'static str>,
    pub control: Control,
    pub addresses: Addresses,
    /// More options of the subscriber's `probe`; the control gets those that mean something where nothing fails.
    pub options: Vec<String>,
}

/// What a verdict must say; the trigger counts only where one is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub outcome: Outcome,
    pub mechanism: Option<Mechanism>,
    pub trigger: Option<Trigger>,
    /// Words that must stand among its reasons.
    pub because: Option<&'static str>,
}

/// One trick, and its healthy twin.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub visit: Visit,
    pub expected: Expected,
    /// Why today's probe or rules cannot tell it; then nothing fails where they do not.
    pub planned: Option<&'static str>,
    pub twin: Option<(Visit, Expected)>,
}

impl Visit {
    /// To a URL, with nothing in the way.
    pub fn to(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            lie: Lie::None,
            rules: Vec::new(),
            later: None,
            timeout_secs: TIMEOUT_SECS,
            gate: Gate::Unchecked,
            large_page: None,
            control: Control::Present,
            addresses: Addresses::Stated,
            options: Vec::new(),
        }
    }

    /// To the mirror's page.
    pub fn mirror() -> Self {
        Self::to(&format!("https://{MIRROR}/"))
    }

    /// To the mirror's page in the clear.
    pub fn plain_mirror() -> Self {
        Self::to(&format!("http://{MIRROR}/"))
    }

    /// The carrier's resolver lies.
    pub fn lied_to(self, lie: Lie) -> Self {
        Self { lie, ..self }
    }

    /// The censor runs a command.
    pub fn meets(self, command: impl Into<String>) -> Self {
        self.meets_at(Place::Censor, command)
    }

    /// Somebody else does.
    pub fn meets_at(mut self, place: Place, command: impl Into<String>) -> Self {
        self.rules.push(Rule { place, command: command.into() });
        self
    }

    /// The censor leads connections with the mirror to one of its boxes.
    pub fn led_to(self, trick: Trick, port: u16) -> Self {
        self.meets(format!(
            "iptables-legacy -t nat -A PREROUTING -i home -p tcp -d {ORIGIN} --dport {port} -j REDIRECT --to-ports {}",
            trick.port()
        ))
    }

    /// Somebody runs a command while the visit is under way.
    pub fn then(self, after: Duration, place: Place, command: &str) -> Self {
        Self { later: Some((after, Rule { place, command: command.to_owned() })), ..self }
    }

    /// The agents also read a large page, and have an object to compare it with.
    pub fn reading(self, path: &'static str) -> Self {
        Self { large_page: Some(path), ..self }
    }

    /// The agents also ask after the state of their networks.
    pub fn gated(self) -> Self {
        Self { gate: Gate::Checked, ..self }
    }

    /// To an address that rested: the neutral name goes first, and for the control too.
    pub fn rested(self) -> Self {
        self.with(NEUTRAL_FIRST)
    }

    /// The operator runs a server that answers any name.
    pub fn with_control_address(self) -> Self {
        self.with(&format!("--control-address={FOREIGN}:443"))
    }

    /// With one more option of `probe`.
    pub fn with(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// With another deadline.
    pub fn within_secs(self, timeout_secs: u64) -> Self {
        Self { timeout_secs, ..self }
    }

    /// The operator does not say which addresses are the mirror's.
    pub fn with_unstated_addresses(self) -> Self {
        Self { addresses: Addresses::Unstated, ..self }
    }

    /// The control goes to the subscriber's addresses too.
    pub fn followed(self) -> Self {
        Self { control: Control::Follows, ..self }
    }

    /// Nobody outside looks.
    pub fn without_control(self) -> Self {
        Self { control: Control::Absent, ..self }
    }
}

impl Scenario {
    /// A trick against the mirror. Its twin is the same visit to the neighbour, under the same censor: it must go well.
    pub fn of(visit: Visit, expected: Expected) -> Self {
        let neighbour = visit.url.replace(MIRROR, NEIGHBOUR);
        let twin = (neighbour != visit.url).then(|| (Visit { url: neighbour, ..visit.clone() }, OK));
        Self { visit, expected, planned: None, twin }
    }

    /// With a twin of its own.
    pub fn twin(self, visit: Visit, expected: Expected) -> Self {
        Self { twin: Some((visit, expected)), ..self }
    }

    /// Not told apart today.
    pub fn planned(self, reason: &'static str) -> Self {
        Self { planned: Some(reason), ..self }
    }
}

impl Expected {
    /// Whether a verdict says so.
    pub fn is_met_by(&self, verdict: &Verdict) -> bool {
        self.outcome == verdict.outcome
            && self.mechanism == verdict.mechanism
            && self.trigger.is_none_or(|trigger| Some(trigger) == verdict.trigger)
            && self.because.is_none_or(|words| verdict.basis.iter().any(|line| line.contains(words)))
    }

    /// And says why.
    pub const fn because(self, words: &'static str) -> Self {
        Self { because: Some(words), ..self }
    }
}

/// The page loads, whatever looked odd.
pub const OK: Expected = state(Outcome::Ok);
/// The control fails too.
pub const DOWN: Expected = state(Outcome::Down);
/// The control fails too, and nobody knows the name.
pub const NAME_GONE: Expected = Expected { mechanism: Some(Mechanism::DnsNxdomain), ..DOWN };
/// A state of the subscriber's network.
pub const RESTRICTED: Expected = state(Outcome::Restricted);
/// The site itself turns this country away.
pub const REFUSED: Expected = state(Outcome::Refused);
/// Nobody can tell.
pub const INSUFFICIENT: Expected = state(Outcome::Insufficient);

const fn state(outcome: Outcome) -> Expected {
    Expected { outcome, mechanism: None, trigger: None, because: None }
}

/// Blocked.
pub const fn blocked(mechanism: Mechanism, trigger: Trigger) -> Expected {
    let (mechanism, trigger) = (Some(mechanism), Some(trigger));
    Expected { outcome: Outcome::Blocked, mechanism, trigger, because: None }
}

/// Loads, degraded.
pub const fn impaired(mechanism: Mechanism, trigger: Trigger) -> Expected {
    let (mechanism, trigger) = (Some(mechanism), Some(trigger));
    Expected { outcome: Outcome::Impaired, mechanism, trigger, because: None }
}
