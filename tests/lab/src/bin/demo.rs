//! `zerkalo-demo`: the whole road on this machine's loopback, in a terminal or as one JSON object for tests.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use zerkalo_lab::play::{Pace, Play};
use zerkalo_lab::report::Report;
use zerkalo_lab::scenario;
use zerkalo_lab::screen::{Audience, Screen};

/// How long the last picture stays on a terminal.
const LAST_PICTURE: Duration = Duration::from_secs(4);
/// As shells report a death by SIGINT.
const INTERRUPTED: u8 = 130;

/// Simulated carriers, a real collector and 25 real agents on loopback.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// What the censor does.
    #[arg(long, default_value = "early-warning", value_parser = known_scenario)]
    scenario: String,
    /// No terminal: each act begins as soon as the one before has come to its state.
    #[arg(long)]
    once: bool,
    /// What is printed on standard output at the end.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn known_scenario(name: &str) -> Result<String, String> {
    let names: Vec<_> = scenario::all().iter().map(|scenario| scenario.name).collect();
    match scenario::named(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("choose one of: {}", names.join(", "))),
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Children die with the thread that starts them: this one, which lives to the end.
    let code = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            done = play(&options) => done,
            _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
            _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
            _ = hangup.recv() => Ok(ExitCode::from(INTERRUPTED)),
        }
    });
    runtime.shutdown_background();
    code
}

async fn play(options: &Options) -> Result<ExitCode> {
    let scenario = scenario::named(&options.scenario).context("the scenario was checked when parsed")?;
    let watched = !options.once && options.output == Output::Text && std::io::stdout().is_terminal();
    let mut audience = if watched { Audience::Terminal(Screen::enter()) } else { Audience::Log };
    let pace = if options.once { Pace::AsSoonAsReached } else { Pace::Live };
    let mut play = Play::start(scenario, pace, &mut audience).await?;
    let report = play.run(&mut audience).await?;
    if watched {
        tokio::time::sleep(LAST_PICTURE).await;
    }
    audience.end();
    print(&report, options.output)?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report, output: Output) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string(report)?)?,
        Output::Text => {
            for check in &report.checks {
                let mark = if check.passed { "held  " } else { "BROKEN" };
                writeln!(out, "{mark} {}{}", check.name, detail(&check.detail, check.passed))?;
            }
            let (verdict, secs) =
                (if report.passed { "as expected" } else { "NOT as expected" }, report.timings.total_secs);
            writeln!(out, "{}: {verdict}, in {secs:.0} s", report.scenario)?;
        }
    }
    Ok(())
}

fn detail(detail: &str, passed: bool) -> String {
    if passed || detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
