//! The trials as a table: one row a scenario.

use std::time::Duration;

use comfy_table::{Table, presets};

use super::scenarios::ALL;
use super::trial::Outcome;

/// One scenario's trials together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub scenario: &'static str,
    pub trials: usize,
    pub p50: Duration,
    pub p95: Duration,
    pub records: u64,
    pub lost: u64,
    pub double: u64,
    pub transport: String,
    /// The longest connection that was recycled, in bytes one way; 0 where none was.
    pub recycled_bytes_max: u64,
    pub faults: Vec<String>,
}

/// A row for each scenario played, in the scenarios' order.
pub fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    ALL.iter().filter_map(|scenario| row(scenario.name, outcomes)).collect()
}

/// As people read it.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "scenario",
        "trials",
        "dark p50",
        "dark p95",
        "records",
        "lost",
        "double",
        "then by",
        "longest short connection",
    ]);
    for row in rows {
        let secs = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        let short = match row.recycled_bytes_max {
            0 => "-".to_owned(),
            bytes => format!("{bytes} B"),
        };
        table.add_row([
            row.scenario.to_owned(),
            row.trials.to_string(),
            secs(row.p50),
            secs(row.p95),
            row.records.to_string(),
            row.lost.to_string(),
            row.double.to_string(),
            row.transport.clone(),
            short,
        ]);
    }
    let faults = rows.iter().flat_map(|row| row.faults.iter().map(|fault| (row.scenario, fault)));
    let faults: String = faults.map(|(scenario, fault)| format!("\n{scenario}: {fault}")).collect();
    format!("{table}{faults}\n")
}

fn row(scenario: &'static str, outcomes: &[Outcome]) -> Option<Row> {
    let own: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.scenario == scenario).collect();
    let last = own.last()?;
    let mut dark: Vec<Duration> = own.iter().map(|outcome| outcome.switched_after).collect();
    dark.sort_unstable();
    Some(Row {
        scenario,
        trials: own.len(),
        p50: percentile(&dark, 50),
        p95: percentile(&dark, 95),
        records: own.iter().map(|outcome| outcome.acknowledged).sum(),
        lost: own.iter().map(|outcome| outcome.lost).sum(),
        double: own.iter().map(|outcome| outcome.double).sum(),
        transport: last.seen.transport.clone(),
        recycled_bytes_max: own.iter().map(|outcome| outcome.seen.recycled_bytes_max).max().unwrap_or(0),
        faults: own.iter().flat_map(|outcome| outcome.faults.clone()).collect(),
    })
}

/// The smallest that so many of a hundred do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_among_what_was_measured() {
        let dark: Vec<Duration> = (1..=20).map(Duration::from_secs).collect();
        assert_eq!(percentile(&dark, 50), Duration::from_secs(10));
        assert_eq!(percentile(&dark, 95), Duration::from_secs(19));
        assert_eq!(percentile(&dark[..1], 95), Duration::from_secs(1));
    }
}
