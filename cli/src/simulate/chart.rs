//! The price of speed as one chart: the decided warning's delay against false red carriers, over the threshold of a carrier.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;
use zerkalo_core::policy::Policy;
use zerkalo_core::simulate::{QuietReport, ScenarioReport};

/// Thresholds tried, in thousandths of a nat for each owner a red carrier needs; the policy's own is tried beside them.
const THRESHOLDS: [i64; 8] = [2_500, 3_400, 4_200, 5_000, 5_500, 6_000, 6_700, 7_300];
/// The picture, in pixels.
const SIZE: (u32, u32) = (900, 560);
/// Room over and beside what is drawn, as a factor.
const ROOM: f64 = 1.25;

/// One threshold: what it costs, and what it brings.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Point {
    pub red_score_per_owner: f64,
    pub flag_score: f64,
    pub alert_p50_secs: Option<f64>,
    pub alert_p95_secs: Option<f64>,
    pub false_reds_a_month: f64,
    pub false_reds_a_month_max: f64,
    pub false_rotations_a_month_max: f64,
}

impl Point {
    pub(super) fn new(policy: &Policy, quiet: &QuietReport, blocked: &ScenarioReport) -> Self {
        Self {
            red_score_per_owner: policy.cell.red_score_per_owner.0 as f64 / 1_000.0,
            flag_score: policy.cell.flag_score.0 as f64 / 1_000.0,
            // The decision's: no threshold of a carrier moves the first word before it.
            alert_p50_secs: blocked.warning.p50_secs,
            alert_p95_secs: blocked.warning.p95_secs,
            false_reds_a_month: quiet.false_reds.a_month,
            false_reds_a_month_max: quiet.false_reds.a_month_max,
            false_rotations_a_month_max: quiet.false_rotations.a_month_max,
        }
    }
}

/// The policy with other thresholds, the lowest first. An owner's own is kept in proportion.
pub(super) fn thresholds(policy: &Policy) -> Vec<Policy> {
    let own = policy.cell.red_score_per_owner.0;
    let mut tried: Vec<i64> = THRESHOLDS.into_iter().chain([own]).collect();
    tried.retain(|threshold| *threshold <= policy.cell.score_max.0);
    tried.sort_unstable();
    tried.dedup();
    let with = |threshold: i64| {
        let mut policy = policy.clone();
        policy.cell.flag_score.0 = policy.cell.flag_score.0 * threshold / own;
        policy.cell.red_score_per_owner.0 = threshold;
        policy
    };
    tried.into_iter().map(with).collect()
}

/// Draws the points that have a delay as an SVG document.
pub(super) fn draw(points: &[Point], policy: &Policy) -> Result<String> {
    let own = policy.cell.red_score_per_owner.0 as f64 / 1_000.0;
    let line = |delay: fn(&Point) -> Option<f64>| -> Vec<(f64, f64)> {
        points.iter().filter_map(|point| Some((point.false_reds_a_month_max, delay(point)?))).collect()
    };
    let (late, usual) = (line(|point| point.alert_p95_secs), line(|point| point.alert_p50_secs));
    let edge = |values: &mut dyn Iterator<Item = f64>, least: f64| values.fold(least, f64::max);
    let most_secs = edge(&mut late.iter().chain(&usual).map(|(_, secs)| *secs), 60.0) * ROOM;
    let most = edge(&mut late.iter().map(|(rate, _)| *rate), 0.01) * ROOM;
    let least = late.iter().map(|(rate, _)| *rate).fold(most / 10.0, f64::min).max(1e-5) / ROOM;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Warning decided after a block against false red carriers", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d((least..most).log_scale(), 0.0..most_secs)?;
        chart
            .configure_mesh()
            .x_desc("false reds a carrier and month, 95 % upper bound")
            .y_desc("seconds from block to warning")
            .x_label_formatter(&|rate| format!("{rate}"))
            .label_style(("sans-serif", 14))
            .draw()?;
        for (line, colour, name) in [(&late, &RED, "95th percentile"), (&usual, &BLUE, "median")] {
            chart
                .draw_series(LineSeries::new(line.iter().copied(), colour))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
            chart.draw_series(line.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
        }
        let named = points.iter().filter_map(|point| Some((point, point.alert_p95_secs?)));
        chart.draw_series(named.map(|(point, secs)| {
            let mark = if (point.red_score_per_owner - own).abs() < 1e-9 { " (policy)" } else { "" };
            let text = format!("{}{mark}", point.red_score_per_owner);
            Text::new(text, (point.false_reds_a_month_max, secs + most_secs * 0.035), ("sans-serif", 13))
        }))?;
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        root.present().map_err(|error| anyhow!("the chart cannot be drawn: {error}"))?;
    }
    Ok(svg)
}
