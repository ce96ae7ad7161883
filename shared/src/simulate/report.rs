//! From stories to numbers: percentiles of delays, and rates with what so few events can say at most.

use serde::{Deserialize, Serialize};

use super::run::{Setup, Story, play};
use super::scenario::{Duty, Scenario};

/// The normal distribution's 95th percentile, for bounds that hold in 95 of 100 cases.
const Z_95: f64 = 1.644_853_626_951;

/// Delays over many runs, in seconds, in tenths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// Runs in which it came at all.
    pub seen: u64,
    pub p50_secs: Option<f64>,
    /// Runs in which it never came count as the longest.
    pub p95_secs: Option<f64>,
    pub most_secs: Option<f64>,
}

/// Events over a time, as a rate a month with its upper bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub events: u64,
    /// Months watched, of one market or of one carrier.
    pub months: f64,
    pub a_month: f64,
    /// The rate is below this in 95 of 100 such simulations; for no event that is 3 / months (the rule of three).
    pub a_month_max: f64,
}

/// One scenario over many runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    pub scenario: Scenario,
    pub runs: u64,
    /// Until the first word to people: an early one, or a decision.
    pub alert: Delays,
    /// Until the first decision that warns.
    pub warning: Delays,
    pub rotation: Delays,
    /// Runs in which the market rotated, and carriers that turned red.
    pub rotated_runs: u64,
    pub reds: u64,
    /// Those of them that half of their honest owners saw free.
    #[serde(default)]
    pub reds_by_liars: u64,
    /// The part of runs that rotate is below this in 95 of 100 such simulations.
    pub rotated_share_max: f64,
}

/// Noise alone, over many months.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuietReport {
    /// By carrier and month.
    pub false_reds: Rate,
    /// By market and month: decisions that warn, and early words to people.
    pub false_alerts: Rate,
    pub false_suspicions: Rate,
    pub false_rotations: Rate,
    /// Visits simulated, and those of them that were slept through.
    pub visits: u64,
    pub slept: u64,
}

/// Plays a scenario so many times.
pub fn repeat(setup: &Setup<'_>, scenario: Scenario, runs: u64) -> ScenarioReport {
    let stories: Vec<Story> = (0..runs).map(|number| play(setup, scenario, number)).collect();
    summarize(scenario, &stories)
}

/// Puts runs of one scenario together.
pub fn summarize(scenario: Scenario, stories: &[Story]) -> ScenarioReport {
    let rotated_runs = stories.iter().filter(|story| story.rotations > 0).count() as u64;
    let runs = stories.len() as u64;
    ScenarioReport {
        scenario,
        runs,
        alert: delays(stories.iter().map(|story| story.alert_millis)),
        warning: delays(stories.iter().map(|story| story.warning_millis)),
        rotation: delays(stories.iter().map(|story| story.rotation_millis)),
        rotated_runs,
        reds: stories.iter().map(|story| story.reds).sum(),
        reds_by_liars: stories.iter().map(|story| story.reds_by_liars).sum(),
        rotated_share_max: (events_max(rotated_runs) / runs.max(1) as f64).min(1.0),
    }
}

/// Puts months of noise together.
pub fn summarize_quiet(setup: &Setup<'_>, stories: &[Story]) -> QuietReport {
    let months = stories.len() as f64 * Scenario::Quiet.watched_millis() as f64 / (30.0 * 86_400_000.0);
    let sum = |count: &dyn Fn(&Story) -> u64| stories.iter().map(count).sum::<u64>();
    QuietReport {
        false_reds: Rate::new(sum(&|story| story.reds), months * setup.policy.carriers.len() as f64),
        false_alerts: Rate::new(sum(&|story| story.alerts), months),
        false_suspicions: Rate::new(sum(&|story| story.suspicions), months),
        false_rotations: Rate::new(sum(&|story| story.rotations), months),
        visits: sum(&|story| story.visits),
        slept: sum(&|story| story.slept),
    }
}

impl Rate {
    fn new(events: u64, months: f64) -> Self {
        let rate = |events: f64| rounded(events / months.max(f64::MIN_POSITIVE), 100_000.0);
        Self { events, months, a_month: rate(events as f64), a_month_max: rate(events_max(events)) }
    }
}

impl ScenarioReport {
    /// Whether what is asked was done in every run.
    pub fn keeps_its_duty(&self) -> bool {
        match self.scenario.duty() {
            Duty::Rotate => self.rotated_runs == self.runs,
            Duty::NeverRotate => self.rotated_runs == 0,
            Duty::NeverRed => self.rotated_runs == 0 && self.reds_by_liars == 0,
        }
    }
}

/// The mean number of events that 95 of 100 times brings more than `events` (Wilson and Hilferty's approximation of the
/// chi-squared distribution): 3.0 for none.
fn events_max(events: u64) -> f64 {
    let next = events as f64 + 1.0;
    let root = 1.0 - 1.0 / (9.0 * next) + Z_95 / (3.0 * libm::sqrt(next));
    next * root * root * root
}

fn delays(delays: impl Iterator<Item = Option<u64>>) -> Delays {
    let mut sorted: Vec<u64> = delays.map(|delay| delay.unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    let seen = sorted.iter().filter(|delay| **delay < u64::MAX).count() as u64;
    let at = |hundredths: usize| {
        let index = (sorted.len() * hundredths).div_ceil(100).max(1) - 1;
        sorted
            .get(index)
            .filter(|delay| **delay < u64::MAX)
            .map(|delay| (*delay as f64 / 100.0).round() / 10.0)
    };
    Delays { seen, p50_secs: at(50), p95_secs: at(95), most_secs: at(100) }
}

fn rounded(number: f64, parts: f64) -> f64 {
    libm::round(number * parts) / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_is_bounded_by_the_rule_of_three() {
        let check = |events, expected: f64| {
            let found = events_max(events);
            assert!((found - expected).abs() < 0.03, "{found} for {events}");
        };
        // Half of the chi-squared distribution's 95th percentile with 2 (n + 1) degrees of freedom.
        check(0, 2.996);
        check(1, 4.744);
        check(10, 16.962);
        assert_eq!(Rate::new(0, 300.0).a_month_max, rounded(events_max(0) / 300.0, 100_000.0));
    }

    #[test]
    fn a_run_without_the_event_counts_as_the_longest() {
        let runs = |delay: &dyn Fn(u64) -> Option<u64>| delays((1..=100).map(delay));
        let all = runs(&|number| Some(number * 1_000));
        assert_eq!((all.seen, all.p50_secs, all.p95_secs), (100, Some(50.0), Some(95.0)));
        let some = runs(&|number| (number <= 94).then_some(number * 1_000));
        assert_eq!((some.seen, some.p50_secs, some.p95_secs), (94, Some(50.0), None));
    }
}
