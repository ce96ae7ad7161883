//! `zerkalo-speed`: what a probe costs in time, memory and CPU, beside other tools. Prints ratios of this run. Exit status
//! 1 where the agent is larger than it may be.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use zerkalo_lab::process::program;
use zerkalo_lab::speed::{FILE_BYTES_MAX, IDLE_RSS_BYTES_MAX, SpeedReport, run};

/// Measures an agent as shipped: round trips, memory, CPU. The path with a delay needs root.
#[derive(Debug, Parser)]
#[command(name = "zerkalo-speed", version)]
struct Options {
    /// The agent to measure; default: the one beside this program.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
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
    let agent = options.agent.map_or_else(|| program("zerkalo-agent"), Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(&agent) => report.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    runtime.shutdown_background();
    let Some(report) = report? else { return Ok(ExitCode::FAILURE) };
    match options.output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => print(&report),
    }
    let excesses = report.excesses();
    excesses.iter().for_each(|excess| eprintln!("zerkalo-speed: {excess}"));
    Ok(if excesses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &SpeedReport) {
    const MB: f64 = 1e6;
    let kind = if report.is_static { "static" } else { "with shared libraries" };
    println!(
        "agent's file      {:>8.2} MB, {kind}; {:.0} MB are the most",
        report.agent_file_bytes as f64 / MB,
        FILE_BYTES_MAX as f64 / MB
    );
    let agent = &report.agent;
    println!(
        "agent's memory    {:>8.2} MB resident between probes ({:.0} MB are the most), up to {:.2} MB in them",
        agent.idle_rss_bytes as f64 / MB,
        IDLE_RSS_BYTES_MAX as f64 / MB,
        agent.busy_rss_bytes as f64 / MB
    );
    match &report.path {
        Some(path) => {
            println!(
                "healthy probe     {:>8.1} ms; {} round trips of {:.1} ms: ratio {:.2}",
                path.healthy_millis, path.round_trips, path.rtt_millis, path.ratio
            );
            let [name, connection, handshake, page] = path.healthy_parts_millis;
            println!(
                "                   name {name:.1}, connection {connection:.1}, handshake {handshake:.1}, page {page:.1} ms"
            );
            println!(
                "blocked probe     {:>8.1} s main arm (deadline {} s), {:.1} s with all comparisons",
                path.blocked_main_arm_secs, path.main_arm_deadline_secs, path.blocked_secs
            );
        }
        None => println!(
            "healthy probe          not measured: the path with a delay needs root and tests/prepare"
        ),
    }
    println!(
        "agent at work     {:>8.0} probes per CPU second (resolve, probe, sign, spool, stream)",
        agent.probes_per_cpu_sec
    );
    for peer in &report.peers {
        match peer.probes_per_cpu_sec {
            Some(rate) => println!(
                "{:<30} {rate:>8.0} probes per CPU second; the agent at work does {:.2} times as many",
                peer.tool,
                agent.probes_per_cpu_sec / rate
            ),
            None => println!("{:<30} not installed", peer.tool),
        }
    }
}
