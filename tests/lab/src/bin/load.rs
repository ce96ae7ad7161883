//! `zerkalo-load`: how many records per second a collector on this machine admits, syncs and acknowledges over mTLS.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use zerkalo_lab::load::{LoadPlan, LoadReport, run};

/// Loads a real collector with signed records from in-process agents.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Agents that stream at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    agents: u16,
    /// Records each agent streams.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    records: u32,
    /// Kill the collector under its agents instead, and serve it again: how soon are they back.
    #[arg(long)]
    restart: bool,
    /// What is printed on standard output.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.restart {
        return restart(&options);
    }
    let plan = LoadPlan { agents: options.agents.into(), records_per_agent: options.records as usize };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(plan) => report.map(Some),
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

fn restart(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = zerkalo_lab::restart::run(options.agents.into()) => report.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    runtime.shutdown_background();
    let Some(report) = report? else { return Ok(ExitCode::FAILURE) };
    match options.output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => {
            println!("{} agents, {} records", report.agents, report.records);
            println!("serves again after    {:>10.0} ms", report.served_again_millis);
            println!(
                "agents deliver after  {:>10.0} ms (median), {:.0} ms (95 %), {:.0} ms (last)",
                report.back_p50_millis, report.back_p95_millis, report.back_max_millis
            );
            println!("lost {}, double {}", report.lost, report.double);
        }
    }
    Ok(if report.lost == 0 && report.double == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &LoadReport) {
    let machine = &report.machine;
    println!("{}: {}, {} cores, {} build", machine.name, machine.cpu, machine.cores, machine.build);
    println!("{} agents, {} records, window {}", report.agents, report.records, report.window);
    println!("admitted and synced   {:>10.0} records/s", report.records_per_sec);
    println!(
        "acknowledged after    {:>10.2} ms (median), {:.2} ms (99 %)",
        report.ack_p50_millis, report.ack_p99_millis
    );
    println!(
        "a record              {:>10} bytes signed, {:.0} in the journal",
        report.body_bytes, report.journal_bytes_per_record
    );
}
