//! How a market decides about a mirror: one TOML file a market. Data, parsed and checked here.

use serde::Deserialize;

use crate::catalogue::Catalogue;
pub use crate::cell::{CellPolicy, Thousandths};
use crate::target::Sha256;
use crate::words::{CarrierId, MarketId};

/// The policies compiled in; `[data] policies` of the collector overrides them market by market.
pub const BUILT_IN: [&str; 2] =
    [include_str!("../data/policy/ru.toml"), include_str!("../data/policy/kz.toml")];

/// Longest time a policy may state, in seconds (30 days): longer is a slip of the pen.
const SECS_MAX: u64 = 30 * 86_400;

/// How a market decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub market: MarketId,
    /// The carriers that vote.
    pub carriers: Vec<CarrierId>,
    /// Those that usually fall first.
    pub leaders: Vec<CarrierId>,
    pub prepare_red_carriers: u32,
    pub pause_red_carriers: u32,
    pub leave_red_carriers: u32,
    pub rotate_hold_secs: u64,
    pub leave_dwell_secs: u64,
    pub cell: CellPolicy,
    /// First 16 digits of the text's SHA-256: named by each decision.
    #[serde(skip)]
    pub version: String,
}

/// Why a text is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("the policy cannot be read: {}", .0.to_string().trim_end().replace('\n', " "))]
    Toml(Box<toml::de::Error>),
    #[error("market {market} is not in the catalogue")]
    UnknownMarket { market: MarketId },
    #[error("{key} names {carrier}, which is no carrier of market {market}")]
    UnknownCarrier { key: &'static str, carrier: CarrierId, market: MarketId },
    #[error("{key} is {value}; {rule}")]
    OutOfRange { key: &'static str, value: u64, rule: String },
    #[error("{key} is {value}; {rule}")]
    DecimalOutOfRange { key: &'static str, value: Thousandths, rule: String },
    #[error("market {market} has two policies")]
    Twice { market: MarketId },
}

/// Everything wrong with one policy, or with several.
#[derive(Debug)]
pub struct PolicyFaults(pub Vec<PolicyError>);

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
        let mut policy: Self =
            toml::from_str(text).map_err(|error| PolicyFaults(vec![PolicyError::Toml(Box::new(error))]))?;
        policy.version = Sha256::of(text.as_bytes()).to_string()[..16].to_owned();
        let mut faults = Vec::new();
        policy.check_names(catalogue, &mut faults);
        policy.check_numbers(&mut faults);
        if faults.is_empty() { Ok(policy) } else { Err(PolicyFaults(faults)) }
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
        within("prepare_red_carriers", self.prepare_red_carriers.into(), 1, carriers);
        within("pause_red_carriers", self.pause_red_carriers.into(), 2.min(carriers), carriers);
        let enter = u64::from(self.prepare_red_carriers.min(self.pause_red_carriers));
        within("leave_red_carriers", self.leave_red_carriers.into(), 0, enter.saturating_sub(1));
        within("rotate_hold_secs", self.rotate_hold_secs, 0, SECS_MAX);
        within("leave_dwell_secs", self.leave_dwell_secs, 0, SECS_MAX);
        self.cell.check(faults);
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
                faults.push(PolicyError::Twice { market: policy.market });
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
