//! The simulation's answer as tables, with what the numbers rest on.

use zerkalo_core::simulate::{Delays, Rate, ScenarioReport};

use super::Report;
use crate::table::draw as draw_table;

/// Both tables, and a line on what they rest on.
pub(super) fn draw(report: &Report) -> String {
    let mut text = format!(
        "market {} (policy {}): {} carriers, {} owners each, a visit every {} s, adaptive: {}; seed {}\n\n",
        report.market,
        report.policy_version,
        report.carriers,
        report.owners,
        report.interval_secs,
        if report.adaptive { "yes" } else { "no" },
        report.seed,
    );
    text += &draw_table(
        [
            "scenario",
            "runs",
            "alert p50",
            "alert p95",
            "decided p50",
            "decided p95",
            "rotation p50",
            "rotation p95",
            "rotated",
            "red carriers",
            "duty",
        ],
        report.scenarios.iter().map(scenario_row),
    );
    let quiet = &report.quiet;
    text += "\n";
    text += &draw_table(
        ["noise alone", "events", "over", "a month", "95 % below"],
        [
            rate_row("false carrier reds", &quiet.false_reds, "carrier-months"),
            rate_row("false first words", &quiet.false_suspicions, "market-months"),
            rate_row("false warnings decided", &quiet.false_alerts, "market-months"),
            rate_row("false rotations", &quiet.false_rotations, "market-months"),
        ],
    );
    text += "alert: the first word (`block_suspected`) or the first warning decided, whichever came first\n";
    text += &format!(
        "{} visits simulated, {:.1} % of them leapt over: clear verdicts of owners whose score was at its end\n",
        quiet.visits,
        quiet.slept as f64 * 100.0 / quiet.visits.max(1) as f64
    );
    text
}

fn scenario_row(report: &ScenarioReport) -> [String; 11] {
    let delays = |delays: &Delays| [secs(delays.p50_secs), secs(delays.p95_secs)];
    let [alert, alert_late] = delays(&report.alert);
    let [warning, warning_late] = delays(&report.warning);
    let [rotation, rotation_late] = delays(&report.rotation);
    [
        report.scenario.to_string(),
        report.runs.to_string(),
        alert,
        alert_late,
        warning,
        warning_late,
        rotation,
        rotation_late,
        format!("{} (95 % below {:.1} %)", report.rotated_runs, report.rotated_share_max * 100.0),
        match report.reds_by_liars {
            0 => report.reds.to_string(),
            lies => format!("{} ({lies} by liars)", report.reds),
        },
        if report.keeps_its_duty() { "kept" } else { "BROKEN" }.to_owned(),
    ]
}

fn rate_row(name: &str, rate: &Rate, over: &str) -> [String; 5] {
    [
        name.to_owned(),
        rate.events.to_string(),
        format!("{} {over}", rate.months),
        format!("{}", rate.a_month),
        format!("{}", rate.a_month_max),
    ]
}

/// A dash where it never came.
fn secs(secs: Option<f64>) -> String {
    secs.map_or_else(|| "-".to_owned(), |secs| format!("{secs:.1} s"))
}
