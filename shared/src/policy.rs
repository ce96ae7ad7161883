//! How a market decides about a mirror: one TOML file a market. Data, parsed and checked here.

use serde::Deserialize;

use crate::catalogue::Catalogue;
use crate::target::Sha256;
use crate::words::{CarrierId, MarketId};

/// The policies compiled in; `[data] policies` of the collector overrides them.
pub const BUILT_IN: [&str; 2] =
    [include_str!("../data/policy/ru.toml"), include_str!("../data/policy/kz.toml")];

/// Longest time a policy may state, in seconds (30 days): longer is a slip of the pen.
const SECS_MAX: u64 = 30 * 86_400;

/// When a cell changes its colour.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellPolicy {
    /// Blocked verdicts in a row that flag an owner.
    pub owner_red_streak: u32,
    /// Ok verdicts in a row that clear an owner.
    pub owner_green_streak: u32,
    /// Flagged owners a red cell needs, beside the majority.
    pub owners_red_min: u32,
    /// How long a red cell must be free of its majority before it turns.
    pub green_dwell_secs: u64,
    /// After this long without evidence an owner is silent.
    pub stale_after_secs: u64,
    /// How long a failed record waits for a control measured after it.
    pub control_wait_secs: u64,
}

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
    #[error("the policy cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    #[error("market {market} is not in the catalogue")]
    UnknownMarket { market: MarketId },
    #[error("{key} names {carrier}, which is no carrier of market {market}")]
    UnknownCarrier { key: &'static str, carrier: CarrierId, market: MarketId },
    #[error("{key} is {value}; {rule}")]
    OutOfRange { key: &'static str, value: u64, rule: String },
    #[error("market {market} has two policies; keep one")]
    Twice { market: MarketId },
}

impl Policy {
    /// Parses a policy and checks it against itself and the catalogue.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, PolicyError> {
        let mut policy: Self = toml::from_str(text).map_err(|error| PolicyError::Toml(Box::new(error)))?;
        policy.version = Sha256::of(text.as_bytes()).to_string()[..16].to_owned();
        policy.check_names(catalogue)?;
        policy.check_numbers()?;
        Ok(policy)
    }

    fn check_names(&self, catalogue: &Catalogue) -> Result<(), PolicyError> {
        if !catalogue.has_market(&self.market) {
            return Err(PolicyError::UnknownMarket { market: self.market.clone() });
        }
        let known = |id: &CarrierId| catalogue.carrier(id).is_some_and(|c| c.market == self.market);
        let unknown = |key, carrier: &CarrierId| PolicyError::UnknownCarrier {
            key,
            carrier: carrier.clone(),
            market: self.market.clone(),
        };
        if let Some(carrier) = self.carriers.iter().find(|id| !known(id)) {
            return Err(unknown("carriers", carrier));
        }
        match self.leaders.iter().find(|id| !self.carriers.contains(id)) {
            Some(carrier) => Err(unknown("leaders", carrier)),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), PolicyError> {
        let carriers = self.carriers.len() as u64;
        let within = |key, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(PolicyError::OutOfRange { key, value, rule: format!("it must be from {min} to {max}") })
            }
        };
        within("the number of carriers", carriers, 1, 64)?;
        within("prepare_red_carriers", self.prepare_red_carriers.into(), 1, carriers)?;
        within("pause_red_carriers", self.pause_red_carriers.into(), 2.min(carriers), carriers)?;
        let enter = u64::from(self.prepare_red_carriers.min(self.pause_red_carriers));
        within("leave_red_carriers", self.leave_red_carriers.into(), 0, enter - 1)?;
        within("rotate_hold_secs", self.rotate_hold_secs, 0, SECS_MAX)?;
        within("leave_dwell_secs", self.leave_dwell_secs, 0, SECS_MAX)?;
        within("cell.owner_red_streak", self.cell.owner_red_streak.into(), 1, 100)?;
        within("cell.owner_green_streak", self.cell.owner_green_streak.into(), 1, 100)?;
        within("cell.owners_red_min", self.cell.owners_red_min.into(), 2, 100)?;
        within("cell.green_dwell_secs", self.cell.green_dwell_secs, 0, SECS_MAX)?;
        within("cell.stale_after_secs", self.cell.stale_after_secs, 1, SECS_MAX)?;
        within("cell.control_wait_secs", self.cell.control_wait_secs, 1, self.cell.stale_after_secs)
    }
}

/// Parses one policy a market.
pub fn parse_all(texts: &[String], catalogue: &Catalogue) -> Result<Vec<Policy>, PolicyError> {
    let mut policies: Vec<Policy> = Vec::new();
    for text in texts {
        let policy = Policy::parse(text, catalogue)?;
        if policies.iter().any(|other| other.market == policy.market) {
            return Err(PolicyError::Twice { market: policy.market });
        }
        policies.push(policy);
    }
    Ok(policies)
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
            let message =
                format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(message.contains(part), "{message}");
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
}
