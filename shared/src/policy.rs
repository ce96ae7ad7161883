//! How a market decides about a mirror: one TOML file a market. Data, parsed and checked here.

use std::collections::BTreeMap;

use serde::Deserialize;

mod explain;
mod place;
mod quiet;
mod suspicion;

pub use place::Place;
pub use quiet::{QuietHours, TimeOfDay, UtcOffset};
pub use suspicion::SuspicionPolicy;

use crate::catalogue::Catalogue;
pub use crate::cell::{CellPolicy, Thousandths};
use crate::target::Sha256;
use crate::words::{CarrierId, MarketId};

/// The policies compiled in; `[data] policies` of the collector overrides them market by market.
pub const BUILT_IN: [&str; 2] =
    [include_str!("../data/policy/ru.toml"), include_str!("../data/policy/kz.toml")];

/// Longest time a policy may state, in seconds (30 days): longer is a slip of the pen.
const SECS_MAX: u64 = 30 * 86_400;
const DAY_SECS: u64 = 86_400;
/// Longest hold before `rotate`: whoever wants to sleep over it wants approval, not a hold.
const HOLD_SECS_MAX: u64 = 6 * 3_600;
/// Heaviest carrier.
const WEIGHT_MAX: u64 = 100;
/// Rotations a day that a limit can name.
const ROTATIONS_MAX: u64 = 1_000;

/// Whose yes a rotation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Nobody's.
    #[default]
    Automatic,
    One,
    Two,
}

impl Approval {
    /// People that must say yes.
    pub fn people(self) -> u32 {
        match self {
            Self::Automatic => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The mirrors that wait.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandbyPolicy {
    /// Owners of a carrier who visit one: being seen shortens its life.
    pub owners_max: u32,
    /// How often they do.
    pub every_secs: u64,
    /// Warn when no more standbys than this are left.
    pub low: u32,
}

impl Default for StandbyPolicy {
    fn default() -> Self {
        Self { owners_max: 2, every_secs: 120, low: 1 }
    }
}

/// How a market decides. Keys with a default were added later: a journal holds older texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub market: MarketId,
    /// The carriers that vote.
    pub carriers: Vec<CarrierId>,
    /// What a carrier counts for beside the others; 1 where nothing is said.
    #[serde(default)]
    pub weights: BTreeMap<CarrierId, u32>,
    /// Those that usually fall first.
    pub leaders: Vec<CarrierId>,
    /// Those that usually fall last: as long as they are green the block may still be spreading.
    #[serde(default)]
    pub laggards: Vec<CarrierId>,
    /// Red carriers, each by its weight.
    pub prepare_red_carriers: u32,
    pub pause_red_carriers: u32,
    pub leave_red_carriers: u32,
    pub rotate_hold_secs: u64,
    /// How old the verdicts may be that confirm a rotation; half of `cell.stale_after_secs` where nothing is said.
    #[serde(default)]
    pub confirm_age_max_secs: Option<u64>,
    pub leave_dwell_secs: u64,
    /// How long a burned mirror must be green everywhere before it is offered back.
    #[serde(default = "unblock_dwell_secs")]
    pub unblock_dwell_secs: u64,
    /// How soon the others usually follow a leader, where no history tells.
    #[serde(default = "usual_lag_secs")]
    pub usual_lag_secs: u64,
    #[serde(default)]
    pub quiet_hours: Option<QuietHours>,
    /// After a rotation the next one waits so long.
    #[serde(default)]
    pub cool_down_secs: u64,
    /// More rotations than this in 24 hours need a person's yes; no limit where nothing is said.
    #[serde(default)]
    pub rotations_a_day_max: Option<u32>,
    #[serde(default)]
    pub approval: Approval,
    /// Decide and tell, but carry nothing out: for a market that is new.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether a mirror that serves or served another market is no standby here.
    #[serde(default = "yes")]
    pub one_market_a_mirror: bool,
    #[serde(default)]
    pub standby: StandbyPolicy,
    #[serde(default)]
    pub suspicion: SuspicionPolicy,
    pub cell: CellPolicy,
    /// First 16 digits of the text's SHA-256: named by each decision.
    #[serde(skip)]
    pub version: String,
}

/// Six hours.
fn unblock_dwell_secs() -> u64 {
    6 * 3_600
}

/// The playbook: "death likely within 24 h".
fn usual_lag_secs() -> u64 {
    86_400
}

fn yes() -> bool {
    true
}

/// Why a text is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("the policy cannot be read: {}", .0.message().trim_end().replace('\n', " "))]
    Toml(Box<toml::de::Error>),
    #[error("market {market} is not in the catalogue")]
    UnknownMarket { market: MarketId },
    #[error("{key} names {carrier}, which is no carrier of market {market}")]
    UnknownCarrier { key: &'static str, carrier: CarrierId, market: MarketId },
    #[error("{key} names {carrier} twice")]
    CarrierTwice { key: &'static str, carrier: CarrierId },
    #[error("{carrier} stands among the leaders and among the laggards; a carrier falls first or last")]
    LeaderLags { carrier: CarrierId },
    #[error("quiet_hours begin and end at {at}; leave them out where there are none")]
    QuietNever { at: TimeOfDay },
    #[error("{key} is {value}; {rule}")]
    OutOfRange { key: &'static str, value: u64, rule: String },
    #[error("{key} is {value}; {rule}")]
    DecimalOutOfRange { key: &'static str, value: Thousandths, rule: String },
    #[error("market {market} has two policies")]
    Twice { market: MarketId },
}

impl PolicyError {
    /// The key at fault, written with dots.
    fn key(&self) -> Option<&str> {
        match self {
            Self::Toml(_) => None,
            Self::UnknownMarket { .. } | Self::Twice { .. } => Some("market"),
            Self::LeaderLags { .. } => Some("laggards"),
            Self::QuietNever { .. } => Some("quiet_hours.until"),
            Self::UnknownCarrier { key, .. }
            | Self::CarrierTwice { key, .. }
            | Self::OutOfRange { key, .. }
            | Self::DecimalOutOfRange { key, .. } => Some(key),
        }
    }
}

/// One thing wrong with a policy, and where.
#[derive(Debug)]
pub struct PolicyFault {
    pub place: Option<Place>,
    pub error: PolicyError,
}

impl std::fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some(place) => write!(f, "{place}: {}", self.error),
            None => write!(f, "{}", self.error),
        }
    }
}

/// Everything wrong with one policy, or with several.
#[derive(Debug)]
pub struct PolicyFaults(pub Vec<PolicyFault>);

impl PolicyFaults {
    fn of(text: &str, errors: Vec<PolicyError>) -> Self {
        let places = place::Places::of(text);
        let fault = |error: PolicyError| {
            let place = match &error {
                PolicyError::Toml(cause) => cause.span().map(|span| Place::of(text, span.start)),
                other => other.key().and_then(|key| places.find(key)),
            };
            PolicyFault { place, error }
        };
        Self(errors.into_iter().map(fault).collect())
    }
}

impl std::fmt::Display for PolicyFaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyFaults {}

impl Policy {
    /// Parses a policy and checks it against itself and the catalogue.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, PolicyFaults> {
        let mut policy: Self = toml::from_str(text)
            .map_err(|error| PolicyFaults::of(text, vec![PolicyError::Toml(Box::new(error))]))?;
        policy.version = Sha256::of(text.as_bytes()).to_string()[..16].to_owned();
        let mut faults = Vec::new();
        policy.check_names(catalogue, &mut faults);
        policy.check_numbers(&mut faults);
        if faults.is_empty() { Ok(policy) } else { Err(PolicyFaults::of(text, faults)) }
    }

    /// What a carrier counts for.
    pub fn weight(&self, carrier: &CarrierId) -> u32 {
        self.weights.get(carrier).copied().unwrap_or(1)
    }

    /// Distinct carriers a pause needs, whatever they weigh: one whole carrier never moves a market of several.
    pub fn pause_carriers_min(&self) -> u32 {
        self.carriers.len().min(2) as u32
    }

    /// How old the verdicts may be that confirm a rotation.
    pub fn confirm_age_max_secs(&self) -> u64 {
        self.confirm_age_max_secs.unwrap_or(self.cell.stale_after_secs / 2)
    }

    fn check_names(&self, catalogue: &Catalogue, faults: &mut Vec<PolicyError>) {
        if !catalogue.has_market(&self.market) {
            // None of its carriers is known either, which says nothing more.
            faults.push(PolicyError::UnknownMarket { market: self.market.clone() });
            return;
        }
        let known = |id: &CarrierId| catalogue.carrier(id).is_some_and(|c| c.market == self.market);
        let unknown = |key| {
            move |carrier: &CarrierId| PolicyError::UnknownCarrier {
                key,
                carrier: carrier.clone(),
                market: self.market.clone(),
            }
        };
        faults.extend(self.carriers.iter().filter(|id| !known(id)).map(unknown("carriers")));
        let leaders = self.leaders.iter().filter(|id| !self.carriers.contains(id));
        faults.extend(leaders.map(unknown("leaders")));
        let laggards = self.laggards.iter().filter(|id| !self.carriers.contains(id));
        faults.extend(laggards.map(unknown("laggards")));
        let weighed = self.weights.keys().filter(|id| !self.carriers.contains(id));
        faults.extend(weighed.map(unknown("weights")));
        let both = self.laggards.iter().filter(|id| self.leaders.contains(id));
        faults.extend(both.map(|carrier| PolicyError::LeaderLags { carrier: carrier.clone() }));
        for (key, ids) in
            [("carriers", &self.carriers), ("leaders", &self.leaders), ("laggards", &self.laggards)]
        {
            let twice = ids.iter().enumerate().filter(|(at, id)| ids[..*at].contains(id));
            faults.extend(
                twice.map(|(_, carrier)| PolicyError::CarrierTwice { key, carrier: carrier.clone() }),
            );
        }
    }

    fn check_numbers(&self, faults: &mut Vec<PolicyError>) {
        let carriers = self.carriers.len() as u64;
        let mut within = |key, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                let rule = format!("it must be from {min} to {max}");
                faults.push(PolicyError::OutOfRange { key, value, rule });
            }
        };
        within("the number of carriers", carriers, 1, 64);
        // Bounds of their own for what is measured against a number that is wrong itself.
        let carriers = carriers.max(1);
        let stale_after_secs = self.cell.stale_after_secs.max(1);
        for weight in self.weights.values() {
            within("weights", (*weight).into(), 1, WEIGHT_MAX);
        }
        let weight: u64 = self.carriers.iter().map(|id| u64::from(self.weight(id))).sum();
        let weight = weight.max(carriers);
        within("prepare_red_carriers", self.prepare_red_carriers.into(), 1, weight);
        let pause_min = u64::from(self.prepare_red_carriers).max(2).min(weight);
        within("pause_red_carriers", self.pause_red_carriers.into(), pause_min, weight);
        let enter = u64::from(self.prepare_red_carriers.min(self.pause_red_carriers));
        within("leave_red_carriers", self.leave_red_carriers.into(), 0, enter.saturating_sub(1));
        within("rotate_hold_secs", self.rotate_hold_secs, 0, HOLD_SECS_MAX);
        within("confirm_age_max_secs", self.confirm_age_max_secs(), 1, stale_after_secs);
        within("leave_dwell_secs", self.leave_dwell_secs, 0, SECS_MAX);
        within("unblock_dwell_secs", self.unblock_dwell_secs, self.leave_dwell_secs.min(SECS_MAX), SECS_MAX);
        within("usual_lag_secs", self.usual_lag_secs, 1, SECS_MAX);
        within("cool_down_secs", self.cool_down_secs, 0, DAY_SECS);
        let daily_max =
            DAY_SECS.checked_div(self.cool_down_secs).unwrap_or(ROTATIONS_MAX).clamp(1, ROTATIONS_MAX);
        within("rotations_a_day_max", self.rotations_a_day_max.map_or(1, u64::from), 1, daily_max);
        within("standby.owners_max", self.standby.owners_max.into(), 1, 100);
        // Visited less often, a standby would never be known to work.
        within("standby.every_secs", self.standby.every_secs, 1, stale_after_secs);
        within("standby.low", self.standby.low.into(), 0, 100);
        self.cell.check(faults);
        self.suspicion.check(carriers, &self.cell, faults);
        if let Some(quiet) = self.quiet_hours.as_ref().filter(|quiet| quiet.from == quiet.until) {
            faults.push(PolicyError::QuietNever { at: quiet.from });
        }
    }
}

/// The market a text is the policy of, whatever else is wrong with it.
pub fn market_of(text: &str) -> Option<MarketId> {
    #[derive(Deserialize)]
    struct Head {
        market: MarketId,
    }
    toml::from_str(text).ok().map(|Head { market }| market)
}

/// Parses one policy a market.
pub fn parse_all(texts: &[String], catalogue: &Catalogue) -> Result<Vec<Policy>, PolicyFaults> {
    let (mut policies, mut faults) = (Vec::<Policy>::new(), Vec::new());
    for text in texts {
        match Policy::parse(text, catalogue) {
            Ok(policy) if policies.iter().any(|other| other.market == policy.market) => {
                let twice = PolicyError::Twice { market: policy.market };
                faults.extend(PolicyFaults::of(text, vec![twice]).0);
            }
            Ok(policy) => policies.push(policy),
            Err(PolicyFaults(found)) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(policies) } else { Err(PolicyFaults(faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_policies_hold() {
        let catalogue = Catalogue::built_in();
        let policies = parse_all(&BUILT_IN.map(str::to_owned), &catalogue).unwrap();
        assert_eq!(policies.len(), catalogue.markets().len());
    }

    #[test]
    fn a_policy_that_contradicts_itself_is_refused_by_key() {
        let catalogue = Catalogue::built_in();
        let check = |from: &str, to: &str, part: &str| {
            assert!(BUILT_IN[1].contains(from), "{from}");
            let text = BUILT_IN[1].replace(from, to);
            let error = Policy::parse(&text, &catalogue).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        check("market = \"kz\"", "market = \"xx\"", "market xx");
        check("\"kz-kcell\"", "\"ru-mts\"", "ru-mts");
        check("leaders = [\"kz-kazakhtelecom\"]", "leaders = [\"kz-almatv\"]", "leaders");
        check("leave_red_carriers = 0", "leave_red_carriers = 1", "leave_red_carriers");
        check("pause_red_carriers = 2", "pause_red_carriers = 5", "pause_red_carriers");
        check("pause_red_carriers = 2", "pause_red_carriers = 1", "pause_red_carriers");
        check("owners_red_min = 2", "owners_red_min = 1", "owners_red_min");
        check("control_wait_secs = 90", "control_wait_secs = 900", "control_wait_secs");
        check("leave_dwell_secs", "leave_dwel_secs", "leave_dwel_secs");
        let added = |line: &str, part: &str| check("[cell]", &format!("{line}\n[cell]"), part);
        added("[weights]\nkz-kcell = 0", "weights is 0");
        added("[weights]\nkz-almatv = 2", "weights names kz-almatv");
        added("[quiet_hours]\nfrom = \"07:00\"\nuntil = \"07:00\"\nutc_offset = \"+05:00\"", "quiet_hours");
        check("low = 1", "low = 101", "standby.low");
        check("owners_max = 2", "owners_max = 0", "standby.owners_max");
        check("every_secs = 120", "every_secs = 900", "standby.every_secs");
        check("rotations_a_day_max = 4", "rotations_a_day_max = 0", "rotations_a_day_max");
        check(
            "cool_down_secs = 900",
            "cool_down_secs = 43200",
            "rotations_a_day_max is 4; it must be from 1 to 2",
        );
        check(
            "laggards = [\"kz-tele2-altel\"]",
            "laggards = [\"kz-kazakhtelecom\"]",
            "leaders and among the laggards",
        );
        check("laggards = [\"kz-tele2-altel\"]", "laggards = [\"kz-almatv\"]", "laggards names kz-almatv");
        check(
            "prepare_red_carriers = 1",
            "prepare_red_carriers = 3",
            "pause_red_carriers is 2; it must be from 3 to 4",
        );
        check("rotate_hold_secs = 240", "rotate_hold_secs = 30000", "rotate_hold_secs is 30000");
        check("confirm_age_max_secs = 90", "confirm_age_max_secs = 200", "confirm_age_max_secs is 200");
        check("\"kz-kcell\"", "\"kz-beeline\"", "carriers names kz-beeline twice");
        check("approval = \"automatic\"", "approval = \"three\"", "three");
        check("owners_min = 6", "owners_min = 1", "suspicion.owners_min is 1; it must be from 2 to 1000");
        check("carriers_min = 2", "carriers_min = 5", "suspicion.carriers_min is 5; it must be from 1 to 4");
        check("flagged_min = 2", "flagged_min = 101", "suspicion.flagged_min");
        check(
            "score_min = 2.0",
            "score_min = 7.6",
            "suspicion.score_min is 7.6; it must be from 0.001 to 7.5",
        );
        check("age_max_secs = 60", "age_max_secs = 181", "suspicion.age_max_secs is 181");
        check("over_secs = 180", "over_secs = 0", "suspicion.over_secs is 0");
        check("unblock_dwell_secs = 21600", "unblock_dwell_secs = 60", "unblock_dwell_secs is 60");
    }

    #[test]
    fn a_text_from_before_the_later_keys_is_still_a_policy() {
        let later = [
            "laggards",
            "confirm_age",
            "unblock",
            "usual_lag",
            "cool_down",
            "rotations_a",
            "approval",
            "dry_run",
            "one_market",
        ];
        let (before, after) = BUILT_IN[1].split_once("[suspicion]").unwrap();
        let text = [before, &after[after.find("[cell]").unwrap()..]].concat();
        let old: String = text
            .lines()
            .filter(|line| !later.iter().any(|key| line.starts_with(key)))
            .fold(String::new(), |text, line| text + line + "\n");
        let policy = Policy::parse(&old, &Catalogue::built_in()).unwrap();
        assert_eq!((policy.confirm_age_max_secs(), policy.rotations_a_day_max), (90, None));
        assert_eq!((policy.approval, policy.dry_run), (Approval::Automatic, false));
        // The keys say what the shipped file does.
        let said = |policy: &Policy| policy.suspicion.explain(&policy.cell);
        let shipped = Policy::parse(BUILT_IN[1], &Catalogue::built_in()).unwrap();
        assert_eq!(said(&policy), said(&shipped));
        assert_eq!(policy.suspicion.score_min(&policy.cell), shipped.suspicion.score_min(&shipped.cell));
        // Scores and times that were chosen before there was a first word bring none out of its bounds.
        let quick = old
            .replace("stale_after_secs = 180", "stale_after_secs = 6")
            .replace("control_wait_secs = 90", "control_wait_secs = 3")
            .replace("confirm_age_max_secs = 90", "confirm_age_max_secs = 4")
            .replace("every_secs = 120", "every_secs = 4")
            .replace("flag_score = 4.6", "flag_score = 1.5");
        let quick = Policy::parse(&quick, &Catalogue::built_in()).unwrap();
        assert_eq!(
            (quick.suspicion.age_max_secs(&quick.cell), quick.suspicion.over_secs(&quick.cell)),
            (2, 6)
        );
        assert_eq!(quick.suspicion.score_min(&quick.cell), Thousandths(1_500));
    }

    #[test]
    fn a_fault_names_its_place() {
        let faults = |from: &str, to: &str| {
            let text = BUILT_IN[1].replace(from, to);
            Policy::parse(&text, &Catalogue::built_in()).unwrap_err().to_string()
        };
        let line = BUILT_IN[1].lines().position(|line| line.starts_with("leave_red")).unwrap() + 1;
        let place = format!("line {line}, column 1: leave_red_carriers is 1");
        assert!(faults("leave_red_carriers = 0", "leave_red_carriers = 1").starts_with(&place));
        let place = format!("line {line}, column 22: the policy cannot be read");
        let found = faults("leave_red_carriers = 0", "leave_red_carriers = \"0\"");
        assert!(found.starts_with(&place), "{found}");
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let text = BUILT_IN[1]
            .replace("owners_red_min = 2", "owners_red_min = 1")
            .replace("\"kz-kcell\"", "\"ru-mts\"")
            .replace("leave_red_carriers = 0", "leave_red_carriers = 1");
        let faults = Policy::parse(&text, &Catalogue::built_in()).unwrap_err();
        assert_eq!(faults.0.len(), 3, "{faults}");
        for part in ["ru-mts", "owners_red_min", "leave_red_carriers"] {
            assert!(faults.to_string().contains(part), "{faults}");
        }
    }
}
