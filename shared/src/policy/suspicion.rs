//! When people hear of a block before any carrier is red: the keys of `[suspicion]`.

use serde::Deserialize;

use super::{CellPolicy, PolicyError, Thousandths};
use crate::cell::SCORE_OF_ONE_VERDICT;

/// Longest time in the table, in seconds: a day.
const SECS_MAX: u64 = 86_400;

/// When people hear of a block that no carrier is red for yet. Nothing else follows from it. A journal holds policies
/// older than this: what they do not say fits whatever else they do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuspicionPolicy {
    /// Owners that see it blocked, over the whole market, and over so many of its carriers at least.
    pub owners_min: u32,
    pub carriers_min: u32,
    /// Of the owners that would turn one carrier red, those whose word is "blocked" already.
    pub flagged_min: u32,
    /// An owner counts from this score on: who is often wrong must say so more than once.
    pub score_min: Option<Thousandths>,
    /// How old what it says may be; an interval where nothing is said.
    pub age_max_secs: Option<u64>,
    /// A suspicion is over when nobody saw a block for so long; `cell.stale_after_secs` where nothing is said.
    pub over_secs: Option<u64>,
}

impl Default for SuspicionPolicy {
    fn default() -> Self {
        Self {
            owners_min: 6,
            carriers_min: 2,
            flagged_min: 2,
            score_min: None,
            age_max_secs: None,
            over_secs: None,
        }
    }
}

impl SuspicionPolicy {
    /// From which score on an owner counts.
    pub fn score_min(&self, cell: &CellPolicy) -> Thousandths {
        self.score_min.unwrap_or(SCORE_OF_ONE_VERDICT.min(cell.flag_score))
    }

    /// How old a verdict may be.
    pub fn age_max_secs(&self, cell: &CellPolicy) -> u64 {
        self.age_max_secs.unwrap_or(cell.interval_secs().max(1))
    }

    /// How long nobody may have seen a block for the next one to be another.
    pub fn over_secs(&self, cell: &CellPolicy) -> u64 {
        self.over_secs.unwrap_or(cell.stale_after_secs)
    }

    /// Every number out of its bounds, or against another.
    pub(super) fn check(&self, carriers: u64, cell: &CellPolicy, faults: &mut Vec<PolicyError>) {
        let mut within = |key, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                let rule = format!("it must be from {min} to {max}");
                faults.push(PolicyError::OutOfRange { key, value, rule });
            }
        };
        // A market of one carrier is as wide as it gets.
        let carriers_max = carriers.max(Self::default().carriers_min.into());
        within("suspicion.owners_min", self.owners_min.into(), 2, 1_000);
        within("suspicion.carriers_min", self.carriers_min.into(), 1, carriers_max);
        within("suspicion.flagged_min", self.flagged_min.into(), 0, 100);
        let stale_after_secs = cell.stale_after_secs.max(1);
        within("suspicion.age_max_secs", self.age_max_secs(cell), 1, stale_after_secs);
        within("suspicion.over_secs", self.over_secs(cell), 1, SECS_MAX);
        let (key, value, most) = ("suspicion.score_min", self.score_min(cell), cell.score_max.0.max(1));
        if !(1..=most).contains(&value.0) {
            let rule = format!("it must be from {} to {}", Thousandths(1), Thousandths(most));
            faults.push(PolicyError::DecimalOutOfRange { key, value, rule });
        }
    }

    /// What the table means, in a sentence.
    pub(super) fn explain(&self, cell: &CellPolicy) -> String {
        let also = match self.flagged_min {
            0 => String::new(),
            flagged => format!(" (of whom {flagged} said so twice)"),
        };
        format!(
            "Before any carrier is red people hear a first word, on which nothing acts: when {} owners on {} carriers or \
             more, or a carrier's majority{also}, saw a block within the last {} s; once an event, which ends after {} s \
             without a block.",
            self.owners_min,
            self.carriers_min,
            self.age_max_secs(cell),
            self.over_secs(cell)
        )
    }
}
