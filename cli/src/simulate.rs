//! `zerkalo simulate`: how soon a block is seen and how seldom nothing is taken for one, by simulation, without a collector.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::policy::{BUILT_IN, Policy};
use zerkalo_core::simulate::{
    Noise, QuietReport, Scenario, ScenarioReport, Setup, Story, play, summarize, summarize_quiet,
};

use crate::table::{Format, print, print_json};

mod chart;
mod fit;
mod show;

/// Largest file read, in bytes: far beyond any policy or noise.
const FILE_LEN_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SimulateArgs {
    #[command(subcommand)]
    command: Option<SimulateCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum SimulateCommand {
    /// Read the noise off a journal; prints a file for `--noise`.
    Fit(fit::FitArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The market's policy [default: Kazakhstan's, as shipped]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What goes wrong without a censor [default: the sample, shared/data/noise/default.toml]
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// The same seed gives the same numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Times each scenario is played.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    runs: u64,
    /// Months of one market with noise alone.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    months: u64,
    /// Owners on each carrier.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    owners: u32,
    /// Seconds between two visits of an agent.
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Nobody is asked for a fresh look but the control.
    #[arg(long)]
    no_adaptive: bool,
    /// Draw delay against false alarms over the threshold of a carrier; plays the market once more for each point.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    market: String,
    policy_version: String,
    carriers: usize,
    owners: u32,
    interval_secs: u64,
    adaptive: bool,
    noise: Noise,
    quiet: QuietReport,
    scenarios: Vec<ScenarioReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    curve: Vec<chart::Point>,
}

/// Simulates and prints.
pub fn simulate(args: &SimulateArgs) -> Result<()> {
    if let Some(SimulateCommand::Fit(args)) = &args.command {
        return fit::fit_journal(args);
    }
    let args = &args.run;
    let policy = read_policy(args.policy.as_deref())?;
    let noise = match &args.noise {
        Some(path) => {
            let text = read_bounded(path)?;
            Noise::parse(&text).with_context(|| format!("{} describes no noise", path.display()))?
        }
        None => Noise::built_in(),
    };
    let setup = Setup {
        policy: &policy,
        noise: &noise,
        seed: args.seed,
        owners: args.owners,
        interval_secs: args.interval,
        is_adaptive: !args.no_adaptive,
    };
    let censored = Scenario::ALL.iter().filter(|scenario| **scenario != Scenario::Quiet);
    let report = Report {
        seed: args.seed,
        market: policy.market.to_string(),
        policy_version: policy.version.clone(),
        carriers: policy.carriers.len(),
        owners: args.owners,
        interval_secs: args.interval,
        adaptive: !args.no_adaptive,
        scenarios: censored
            .map(|scenario| summarize(*scenario, &play_all(&setup, *scenario, args.runs)))
            .collect(),
        quiet: summarize_quiet(&setup, &play_all(&setup, Scenario::Quiet, args.months)),
        curve: match &args.svg {
            Some(path) => draw_curve(path, &setup, args)?,
            None => Vec::new(),
        },
        noise: noise.clone(),
    };
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Table => print(&show::draw(&report))?,
    }
    Ok(())
}

fn draw_curve(path: &Path, setup: &Setup<'_>, args: &RunArgs) -> Result<Vec<chart::Point>> {
    let points: Vec<chart::Point> = chart::thresholds(setup.policy)
        .into_iter()
        .map(|policy| {
            let setup = Setup { policy: &policy, ..setup.clone() };
            let quiet = summarize_quiet(&setup, &play_all(&setup, Scenario::Quiet, args.months));
            let blocked = summarize(Scenario::AllAtOnce, &play_all(&setup, Scenario::AllAtOnce, args.runs));
            chart::Point::new(&policy, &quiet, &blocked)
        })
        .collect();
    let svg = chart::draw(&points, setup.policy)?;
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(points)
}

/// Plays runs on every processor; each run has chance of its own, so that their order is the same on any number of them.
fn play_all(setup: &Setup<'_>, scenario: Scenario, runs: u64) -> Vec<Story> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicU64::new(0);
    let mut stories: Vec<(u64, Story)> = std::thread::scope(|scope| {
        let player = || {
            let mut played = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= runs {
                    return played;
                }
                played.push((number, play(setup, scenario, number)));
            }
        };
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(player)).collect();
        players.into_iter().flat_map(|player| player.join().expect("a simulation does not panic")).collect()
    });
    stories.sort_by_key(|(number, _)| *number);
    stories.into_iter().map(|(_, story)| story).collect()
}

fn read_policy(path: Option<&Path>) -> Result<Policy> {
    let catalogue = Catalogue::built_in();
    let Some(path) = path else {
        let kazakh = BUILT_IN.iter().find(|text| text.contains("market = \"kz\""));
        let text =
            kazakh.ok_or_else(|| anyhow!("no policy of Kazakhstan is built in; name one by --policy"))?;
        return Ok(Policy::parse(text, &catalogue)?);
    };
    let text = read_bounded(path)?;
    Policy::parse(&text, &catalogue).with_context(|| format!("{} is refused", path.display()))
}

fn read_bounded(path: &Path) -> Result<String> {
    let place = || format!("cannot read {}", path.display());
    let len = std::fs::metadata(path).with_context(place)?.len();
    if len > FILE_LEN_MAX {
        bail!("{} has {len} bytes; the limit is {FILE_LEN_MAX}", path.display());
    }
    std::fs::read_to_string(path).with_context(place)
}
