//! `zerkalo-netlab`: plays every scenario of the lab's second floor and writes the confusion report. Exit status 0: every
//! verdict right; 1: one is wrong, or the lab failed; 2: this machine lacks what the lab needs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use zerkalo_lab::namespaces::{confusion, families, run, uplink};

/// Exit status where the lab cannot run here.
const UNFIT: u8 = 2;

/// Simulated censors in network namespaces, against the agent as shipped. Needs root.
#[derive(Debug, Parser)]
#[command(name = "zerkalo-netlab", version)]
struct Args {
    /// Play only scenarios whose name holds this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Topologies at work at once.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    topologies: usize,
    /// Play everything this many times.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    runs: u32,
    /// Where the report goes.
    #[arg(long, value_name = "FILE", default_value = "target/lab/confusion.md")]
    report: PathBuf,
    /// Write what each verdict rests on, and the subscriber's records, beside the report.
    #[arg(long)]
    records: bool,
    /// Play the attacks on the agent's own line instead; the table goes to standard output.
    #[arg(long)]
    uplink: bool,
    /// Only list the scenarios.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        families::all().for_each(|(family, name, _)| println!("{family}: {name}"));
        return ExitCode::SUCCESS;
    }
    let missing = run::missing();
    if !missing.is_empty() {
        eprintln!(
            "zerkalo-netlab: this machine lacks {}; tests/prepare installs packages",
            missing.join(", ")
        );
        return ExitCode::from(UNFIT);
    }
    if args.uplink {
        return tokio::select! {
            code = attack(&args) => code,
            () = stopped() => ExitCode::FAILURE,
        };
    }
    // Dropping the run removes all it made.
    let played = tokio::select! {
        played = play(&args) => played,
        () = stopped() => Err(anyhow::anyhow!("stopped")),
    };
    match played {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("zerkalo-netlab: {failures} verdicts are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("zerkalo-netlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Attacks the agent's own line.
async fn attack(args: &Args) -> ExitCode {
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part));
    let played = uplink::play(args.topologies, args.runs, is_wanted, |outcome| {
        let dark = outcome.switched_after.as_secs_f64();
        let (records, lost) = (outcome.acknowledged, outcome.lost);
        eprintln!("{}: dark for {dark:.1} s, {records} records, {lost} lost", outcome.scenario);
    });
    match played.await {
        Ok(outcomes) => {
            let rows = uplink::rows(&outcomes);
            print!("{}", uplink::table(&rows));
            let is_good = |row: &uplink::Row| row.lost == 0 && row.double == 0 && row.faults.is_empty();
            if rows.iter().all(is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("zerkalo-netlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many verdicts were wrong.
async fn play(args: &Args) -> Result<usize> {
    let mut failures = 0;
    for _ in 0..args.runs {
        let began = Instant::now();
        let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part));
        let findings =
            run::play(args.topologies, is_wanted, |finding| eprintln!("{}", confusion::line(finding)))
                .await?;
        run::write(&args.report, &confusion::report(&findings))?;
        if args.records {
            for finding in &findings {
                let path =
                    args.report.with_file_name(format!("{}.json", finding.name.replace([' ', ','], "-")));
                run::write(&path, &zerkalo_proto::record::to_json(&finding.visited.record))?;
                eprintln!("{}: {:?}", finding.name, finding.visited.verdict.basis);
            }
        }
        failures += findings.iter().filter(|finding| finding.is_failure()).count();
        let (count, secs) = (findings.len(), began.elapsed().as_secs());
        eprintln!("{count} visits in {secs} s; the report is in {}", args.report.display());
    }
    Ok(failures)
}

/// Ends at SIGINT or SIGTERM.
async fn stopped() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
