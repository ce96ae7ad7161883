//! `zerkalo-load`: what one collector on this machine bears. By default how many records per second it admits, syncs and
//! acknowledges over mTLS; or what connected agents cost it, how soon they are back after a restart, and whether its memory
//! grows.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use zerkalo_lab::idle::{self, IdleReport};
use zerkalo_lab::load::{self, LoadPlan, LoadReport, Machine};
use zerkalo_lab::restart::{self, RestartReport};
use zerkalo_lab::soak::{self, SoakReport};

/// Loads a real collector with agents inside this process: distinct keys, real enrolment, mTLS, signed records.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Agents at once, as many as a collector keeps tokens for: 20 by default, 1,000 with --idle, --restart and --soak.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: Option<u32>,
    /// Records each agent streams.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    records: u32,
    /// Connect agents that say nothing instead: what each costs.
    #[arg(long, conflicts_with_all = ["restart", "soak"])]
    idle: bool,
    /// With --idle: how long to look.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    secs: u64,
    /// Kill the collector under its agents instead, and serve it again: how soon are they back.
    #[arg(long, conflicts_with = "soak")]
    restart: bool,
    /// Have agents send, leave and come back for long instead: exits with 1 if the collector's memory grows too fast.
    #[arg(long)]
    soak: bool,
    /// With --soak: how long.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: u64,
    /// What is printed on standard output.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What was measured, in words, and whether it is as it must be.
trait Report: Serialize {
    fn print(&self);

    fn is_good(&self) -> bool {
        true
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let agents = |default: usize| options.agents.map_or(default, |agents| agents as usize);
    if options.idle {
        let idle = Duration::from_secs(options.secs);
        return tell(idle::run(agents(1_000), idle), options.output);
    }
    if options.restart {
        return tell(restart::run(agents(1_000)), options.output);
    }
    if options.soak {
        let duration = Duration::from_secs(options.minutes * 60);
        return tell(soak::run(agents(1_000), duration), options.output);
    }
    let plan = LoadPlan { agents: agents(20), records_per_agent: options.records as usize };
    tell(load::run(plan), options.output)
}

/// Measures, and prints what came of it; a person may end it.
fn tell<R: Report>(measuring: impl Future<Output = Result<R>>, output: Output) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = measuring => report.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    runtime.shutdown_background();
    let Some(report) = report? else { return Ok(ExitCode::FAILURE) };
    match output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => report.print(),
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_machine(machine: &Machine) {
    println!("{}: {}, {} cores, {} build", machine.name, machine.cpu, machine.cores, machine.build);
}

impl Report for LoadReport {
    fn print(&self) {
        print_machine(&self.machine);
        println!("{} agents, {} records, window {}", self.agents, self.records, self.window);
        println!("admitted and synced   {:>10.0} records/s", self.records_per_sec);
        println!(
            "acknowledged after    {:>10.2} ms (median), {:.2} ms (99 %)",
            self.ack_p50_millis, self.ack_p99_millis
        );
        println!(
            "a record              {:>10} bytes signed, {:.0} in the journal",
            self.body_bytes, self.journal_bytes_per_record
        );
    }
}

impl Report for IdleReport {
    fn print(&self) {
        print_machine(&self.machine);
        println!("{} agents enrolled in {:.1} s", self.agents, self.enrol_secs);
        println!(
            "agents connected      {:>10} in {:.1} s; processor time: collector {:.1} s, agents {:.1} s",
            self.connected, self.connect_secs, self.collector_connect_cpu_secs, self.agents_connect_cpu_secs
        );
        println!(
            "memory for each       {:>10.1} KiB ({} KiB before, {} KiB after)",
            self.rss_kib_each, self.rss_before_kib, self.rss_after_kib
        );
        println!(
            "time for each         {:>10.1} us of the collector a second, over {:.0} s",
            self.cpu_micros_each, self.idle_secs
        );
    }

    fn is_good(&self) -> bool {
        self.connected == self.agents
    }
}

impl Report for RestartReport {
    fn print(&self) {
        print_machine(&self.machine);
        println!("{} agents, {} records", self.agents, self.records);
        println!("serves again after    {:>10.0} ms", self.served_again_millis);
        println!(
            "agents deliver after  {:>10.0} ms (median), {:.0} ms (95 %), {:.0} ms (last), {} tries",
            self.back_p50_millis, self.back_p95_millis, self.back_max_millis, self.tries
        );
        println!(
            "processor time        {:>10.1} s of the collector, {:.1} s of the agents beside it",
            self.collector_cpu_secs, self.agents_cpu_secs
        );
        println!("lost {}, double {}", self.lost, self.double);
    }

    fn is_good(&self) -> bool {
        self.lost == 0 && self.double == 0
    }
}

impl Report for SoakReport {
    fn print(&self) {
        print_machine(&self.machine);
        println!(
            "{} agents for {:.0} s: {} records, {} streams, {:.0} % of a core",
            self.agents,
            self.secs,
            self.records,
            self.streams,
            self.cpu_share * 100.0
        );
        println!(
            "memory                {:>10} KiB after the warm-up, {} KiB at last",
            self.rss_warm_kib, self.rss_last_kib
        );
        println!(
            "slope                 {:>10.0} KiB/h over {} looks; {:.0} KiB/h are too many",
            self.slope_kib_per_hour, self.samples, self.slope_max_kib_per_hour
        );
    }

    fn is_good(&self) -> bool {
        !self.exceeds()
    }
}
