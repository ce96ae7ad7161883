//! The numbers by which a cell changes its colour: read from a market's policy and checked here. Decimals are kept as
//! whole thousandths, so that no machine rounds them otherwise.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::policy::PolicyError;
use crate::words::Access;

/// Longest time a policy may state, in seconds (30 days): longer is a slip of the pen.
const SECS_MAX: u64 = 30 * 86_400;
/// Longest window of evidence, in seconds (1 day): each cell keeps it in memory.
const WINDOW_SECS_MAX: u64 = 86_400;
/// Largest score, in thousandths of a nat: the error it stands for is too small to be measured.
const SCORE_MAX: i64 = 1_000_000;

/// What one blocked verdict of an owner whose visits are seldom blocked for nothing adds to its score, at the least: less than the
/// 3.4 nats of one who is never wrong, and more than those of one who is wrong in one visit of ten.
pub const SCORE_OF_ONE_VERDICT: Thousandths = Thousandths(2_000);

/// Intervals after which evidence is stale.
pub(super) const STALE_INTERVALS: u64 = 3;

/// A decimal of a policy, in thousandths: a probability, a factor, or a score in nats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Thousandths(pub i64);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:03}", self.0.abs() / 1_000, self.0.abs() % 1_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Decimal;

        impl Visitor<'_> for Decimal {
            type Value = Thousandths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal with at most three places")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Thousandths, E> {
                value.checked_mul(1_000).map(Thousandths).ok_or_else(|| E::custom("the number is too large"))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Thousandths, E> {
                let scaled = value * 1_000.0;
                if !scaled.is_finite() || scaled.abs() > 1e12 {
                    return Err(E::custom("the number is too large"));
                }
                let whole = scaled as i64 + if scaled.fract() >= 0.5 { 1 } else { 0 };
                if (scaled - whole as f64).abs() > 1e-6 {
                    return Err(E::custom("more than three places behind the point"));
                }
                Ok(Thousandths(whole))
            }
        }

        deserializer.deserialize_any(Decimal)
    }
}

/// When a cell changes its colour.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellPolicy {
    /// Chance that a visit to a blocked mirror is judged blocked.
    pub p1: Thousandths,
    /// Least chance taken for a visit to a free mirror being judged blocked.
    pub p0_min: Thousandths,
    /// Largest such chance, whatever an owner's history says.
    pub p0_max: Thousandths,
    /// What an owner's measured noise is multiplied with.
    pub p0_factor: Thousandths,
    /// Noise is measured against at least so many verdicts.
    pub p0_verdicts_min: u32,
    /// An owner's score goes no higher, in nats.
    pub score_max: Thousandths,
    /// An owner whose score reaches this sees a block.
    pub flag_score: Thousandths,
    /// What the flagged scores of a red cell must sum to, for each owner needed.
    pub red_score_per_owner: Thousandths,
    /// What the reversed score must reach for a red cell to turn.
    pub clear_score: Thousandths,
    /// Flagged owners a red cell needs, beside the majority.
    pub owners_red_min: u32,
    /// How long a bare majority must stand before it turns a cell; 0: it does at once.
    #[serde(default)]
    pub bare_majority_secs: u64,
    /// An owner that sees a block for so long while the majority sees none has no voice; 0: it keeps it.
    #[serde(default)]
    pub apart_after_secs: u64,
    /// Whether a majority must confirm a block before a remedy, or `owners_red_min` owners suffice.
    #[serde(default)]
    pub confirm_by_majority: bool,
    /// Where owners of one vicinity (a /24 or /48) are one voice.
    pub one_voice_a_vicinity: Vec<Access>,
    /// How long the reversed score must have been above zero before a red cell turns.
    pub green_dwell_secs: u64,
    /// Evidence that arrives late takes its place if it is no older than this, beside the newest.
    pub window_secs: u64,
    /// After this long without evidence an owner is silent: three intervals.
    pub stale_after_secs: u64,
    /// How long a failed record waits for a control measured after it.
    pub control_wait_secs: u64,
}

impl CellPolicy {
    /// Whether owners of one vicinity are one voice on this kind of access.
    pub fn joins_vicinities(&self, access: Access) -> bool {
        self.one_voice_a_vicinity.contains(&access)
    }

    /// Voices of so many that make a cell red: their majority, and never fewer than `owners_red_min`.
    pub fn needed(&self, voters: u32) -> u32 {
        self.owners_red_min.max(voters / 2 + 1)
    }

    /// How often a mirror in use is measured.
    pub fn interval_secs(&self) -> u64 {
        self.stale_after_secs / STALE_INTERVALS
    }

    /// Every number out of its bounds, or against another.
    pub(crate) fn check(&self, faults: &mut Vec<PolicyError>) {
        self.check_decimals(faults);
        let mut within = |key, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                let rule = format!("it must be from {min} to {max}");
                faults.push(PolicyError::OutOfRange { key, value, rule });
            }
        };
        let stale_after_secs = self.stale_after_secs.max(1);
        within("cell.p0_verdicts_min", self.p0_verdicts_min.into(), 1, 1_000_000);
        within("cell.owners_red_min", self.owners_red_min.into(), 2, 100);
        within("cell.bare_majority_secs", self.bare_majority_secs, 0, WINDOW_SECS_MAX);
        within("cell.apart_after_secs", self.apart_after_secs, 0, SECS_MAX);
        within("cell.green_dwell_secs", self.green_dwell_secs, 0, SECS_MAX);
        within("cell.stale_after_secs", self.stale_after_secs, 1, WINDOW_SECS_MAX);
        within("cell.window_secs", self.window_secs, stale_after_secs.min(WINDOW_SECS_MAX), WINDOW_SECS_MAX);
        within("cell.control_wait_secs", self.control_wait_secs, 1, stale_after_secs);
    }

    fn check_decimals(&self, faults: &mut Vec<PolicyError>) {
        let mut within = |key, value: Thousandths, min: i64, max: i64| {
            if !(min..=max).contains(&value.0) {
                let rule = format!("it must be from {} to {}", Thousandths(min), Thousandths(max));
                faults.push(PolicyError::DecimalOutOfRange { key, value, rule });
            }
        };
        within("cell.p1", self.p1, 100, 990);
        within("cell.p0_min", self.p0_min, 1, 500);
        // Closer to p1 a verdict would tell next to nothing, and no number of them would flag anybody.
        within("cell.p0_max", self.p0_max, self.p0_min.0.max(1), (self.p1.0 * 2 / 3).max(1));
        within("cell.p0_factor", self.p0_factor, 1_000, 10_000);
        within("cell.score_max", self.score_max, 1, SCORE_MAX);
        within("cell.flag_score", self.flag_score, 1, self.score_max.0.max(1));
        // More than score_max no owner can bring.
        within("cell.red_score_per_owner", self.red_score_per_owner, 1, self.score_max.0.max(1));
        within("cell.clear_score", self.clear_score, 1, SCORE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::policy::{BUILT_IN, Policy};

    #[test]
    fn decimals_are_read_to_the_thousandth_or_refused() {
        #[derive(Deserialize)]
        struct Line {
            x: Thousandths,
        }
        let read = |text: &str| toml::from_str::<Line>(&format!("x = {text}")).ok().map(|line| line.x.0);
        for (text, expected) in [
            ("0.6", Some(600)),
            ("0.02", Some(20)),
            ("7.5", Some(7_500)),
            ("4.6", Some(4_600)),
            ("9.2", Some(9_200)),
            ("0.333", Some(333)),
            ("5", Some(5_000)),
            ("0.0001", None),
            ("inf", None),
            ("nan", None),
            ("9223372036854775807", None),
            ("\"0.6\"", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(Thousandths(7_500).to_string(), "7.5");
        assert_eq!(Thousandths(20).to_string(), "0.02");
        assert_eq!(Thousandths(10_000).to_string(), "10");
    }

    #[test]
    fn numbers_that_contradict_each_other_are_refused_by_key() {
        let check = |from: &str, to: &str, key: &str| {
            assert!(BUILT_IN[1].contains(from), "{from}");
            let text = BUILT_IN[1].replace(from, to);
            let error = Policy::parse(&text, &Catalogue::built_in()).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        };
        check("p1 = 0.6", "p1 = 1.6", "cell.p1 is 1.6");
        check("p0_max = 0.3", "p0_max = 0.5", "cell.p0_max is 0.5; it must be from 0.02 to 0.4");
        check("p0_min = 0.02", "p0_min = 0.35", "cell.p0_max");
        check("p0_factor = 1.5", "p0_factor = 0.5", "cell.p0_factor");
        check("flag_score = 4.6", "flag_score = 8", "cell.flag_score is 8; it must be from 0.001 to 7.5");
        check("red_score_per_owner = 5.0", "red_score_per_owner = 7.6", "cell.red_score_per_owner");
        check("clear_score = 9.2", "clear_score = 0", "cell.clear_score");
        check("window_secs = 900", "window_secs = 100", "cell.window_secs");
        check("[\"fixed\"]", "[\"wired\"]", "wired");
    }
}
