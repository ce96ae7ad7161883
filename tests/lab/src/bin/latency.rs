//! `zerkalo-latency`: how long from the first packet a censor drops until the operator's webhook is received, over many
//! rounds, as a distribution, and where that time went.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use zerkalo_core::market::Action;
use zerkalo_lab::fleet::Tempo;
use zerkalo_lab::interference::Interference;
use zerkalo_lab::latency::parts::Parts;
use zerkalo_lab::latency::{LatencyPlan, LatencyReport, run};

/// A real collector, real agents at four carriers, a censor that begins, a webhook that comes.
#[derive(Debug, Parser)]
#[command(name = "zerkalo-latency", version)]
struct Options {
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Rounds played at once, each with a fleet of its own; they mostly wait.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    at_once: u16,
    /// What the censor does to the mirror's name.
    #[arg(long, value_name = "TRICK", default_value = "drop")]
    censor: Censor,
    /// The decision whose webhook is awaited. `prepare`, or the first word before it: the carrier that leads blocks alone;
    /// else all four do.
    #[arg(long, value_name = "ACTION", default_value = "prepare")]
    until: Awaited,
    /// Policies with seconds for minutes, probes every 2 s with a deadline of 2 s: a look at the road, no measurement of it.
    #[arg(long)]
    hurried: bool,
    /// Seconds between probes of one mirror.
    #[arg(long, value_name = "SECS", conflicts_with = "hurried", default_value_t = Tempo::SHIPPED.interval_secs)]
    interval: u64,
    /// Deadline of a probe's main arm.
    #[arg(long, value_name = "SECS", conflicts_with = "hurried", default_value_t = Tempo::SHIPPED.timeout_secs)]
    timeout: u64,
    /// What is printed on standard output.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Censor {
    /// Silence after the ClientHello: a probe learns of it by its deadline.
    Drop,
    /// A reset after the ClientHello: a probe learns of it at once.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Awaited {
    Prepare,
    Pause,
    Rotate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let plan = plan(&options);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(plan, tell) => report.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    runtime.shutdown_background();
    match (report?, options.output) {
        (None, _) => return Ok(ExitCode::FAILURE),
        (Some(report), Output::Json) => println!("{}", serde_json::to_string(&report)?),
        (Some(report), Output::Text) => print(&report),
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(options: &Options) -> LatencyPlan {
    let (interval_secs, timeout_secs) = (options.interval.max(1), options.timeout.max(1));
    let shipped = Tempo { interval_secs, timeout_secs, ..Tempo::SHIPPED };
    let hurried = Tempo { control: Tempo::SHIPPED.control, ..Tempo::HURRIED };
    LatencyPlan {
        rounds: options.rounds,
        at_once: options.at_once.into(),
        tempo: if options.hurried { hurried } else { shipped },
        trick: match options.censor {
            Censor::Drop => Interference::DropClientHello,
            Censor::Reset => Interference::ResetOnClientHello,
        },
        awaited: match options.until {
            Awaited::Prepare => Action::Prepare,
            Awaited::Pause => Action::Pause,
            Awaited::Rotate => Action::Rotate,
        },
    }
}

/// One round, for who watches.
fn tell(parts: &Parts) {
    let each: Vec<String> = parts.secs().iter().map(|secs| format!("{secs:.1}")).collect();
    eprintln!("{:>7.1} s = {} s", parts.total_secs(), each.join(" + "));
}

fn print(report: &LatencyReport) {
    println!(
        "first packet dropped to webhook of `{}`: {} rounds; the censor {}; probes every {} s, deadline {} s",
        report.awaited,
        report.rounds.len(),
        report.censor,
        report.interval_secs,
        report.timeout_secs
    );
    println!("{:<22} {:>8} {:>8} {:>8}", "seconds", "p50", "p95", "max");
    for part in &report.parts {
        let secs = &part.secs;
        println!("{:<22} {:>8.1} {:>8.1} {:>8.1}", part.part, secs.p50, secs.p95, secs.max);
    }
    let total = &report.total;
    println!("{:<22} {:>8.1} {:>8.1} {:>8.1}", "all of it", total.p50, total.p95, total.max);
    total.histogram().iter().for_each(|line| println!("{line}"));
}
