//! `zerkalo`, the operator's command line: asks the collector, or judges and replays files without one.
//!
//! Parses arguments and hands over to a station; exits with 0, with 1 for a failure, with 2 for a wrong command line.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod operator;
mod agents;
mod client;
mod enrolment;
mod people;
mod audit;
mod mirrors;
mod matrix;
mod decisions;
mod orders;
mod outbox;
mod alerts;
mod signal;
mod evidence;
mod packets;
mod policy;
mod forecast;
mod mitm;
mod pictures;
mod judge;
mod journal;
mod replay;
mod simulate;
mod fingerprints;
mod certificate;
mod ooni;
mod export;
mod table;

#[derive(Debug, Parser)]
#[command(name = "zerkalo", version, about = "Watch your mirrors, carrier by carrier")]
struct CommandLine {
    /// The operator's file [default: ~/.config/zerkalo/operator.toml]
    #[arg(long, global = true, env = "ZERKALO_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tokens: one-time ones for boxes to enrol with, lasting ones for people to ask with.
    #[command(subcommand)]
    Tokens(enrolment::Tokens),
    /// Who changed what: a log whose lines are chained to one another.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// The boxes enrolled.
    #[command(subcommand)]
    Agents(agents::Agents),
    /// The signed list of what agents measure.
    #[command(subcommand)]
    Mirrors(mirrors::Mirrors),
    /// Every market by carrier: what works where.
    Matrix(matrix::MatrixArgs),
    /// What each market should do, and why.
    #[command(subcommand)]
    Decisions(decisions::Decisions),
    /// Each market's mirrors: fresh, live, suspect, burned, retired.
    #[command(subcommand)]
    Pool(orders::Pool),
    /// Which mirror of a market visitors are to be sent to.
    Active(signal::ActiveArgs),
    /// Carry nothing out in a market, whatever is decided.
    Freeze(orders::MarketOrder),
    /// End a freeze.
    Thaw(orders::MarketOrder),
    /// Put an action in force, whatever is measured.
    Override(orders::Override),
    /// End an override.
    Release(orders::Release),
    /// Say yes to a decision that waits.
    Approve(orders::Word),
    /// Say no to a decision that waits.
    Decline(orders::Word),
    /// Rotate every live mirror of a market; it waits for two people.
    RotateAll(orders::MarketOrder),
    /// What people must hear beside decisions.
    Alerts(alerts::AlertsArgs),
    /// What executors have yet to carry out, and what they gave up.
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Tokens for redirectors and trackers that ask which mirror is live.
    #[command(subcommand)]
    Signal(signal::Signal),
    /// How a market decides: check its policy, without a collector.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// How long mirrors live in each market, and how many domains the month needs.
    Forecast(forecast::ForecastArgs),
    /// Who was seen breaking TLS open.
    #[command(subcommand)]
    Mitm(mitm::Mitm),
    /// Ask agents for a fresh look at a mirror.
    ProbeNow(pictures::ProbeNowArgs),
    /// What agents' browsers showed of the mirrors.
    #[command(subcommand)]
    Pictures(pictures::Pictures),
    /// Judge records in files, without a collector.
    Judge(judge::JudgeArgs),
    /// Fold a journal again and print its decisions, without a collector.
    Replay(replay::ReplayArgs),
    /// How soon a block is seen, and how seldom nothing is taken for one: by simulation.
    Simulate(simulate::SimulateArgs),
    /// What known blocking looks like: import public lists, try rows.
    #[command(subcommand)]
    Fingerprints(fingerprints::FingerprintsCommand),
    /// Judge what others measured.
    #[command(subcommand)]
    Import(ooni::Import),
    /// A journal's records in another house's format, without a collector.
    Export(export::ExportArgs),
}

fn main() -> ExitCode {
    let CommandLine { config, command } = CommandLine::parse();
    let done = match command {
        Command::Judge(args) => judge::judge_files(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Fingerprints(command) => fingerprints::fingerprints(&command),
        Command::Import(ooni::Import::Ooni(args)) => ooni::import_ooni(&args),
        Command::Export(args) => export::export_journal(&args),
        Command::Policy(command) => policy::policy(&command),
        Command::Forecast(args) if args.journal.is_some() => forecast::forecast_offline(&args),
        Command::Decisions(decisions::Decisions::Explain(args)) if args.journal.is_some() => {
            decisions::explain_offline(&args)
        }
        Command::Audit(audit::Audit::Verify(args)) if args.file.is_some() => audit::verify_offline(&args),
        asking => ask(config, asking),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that needs the collector.
fn ask(config: Option<PathBuf>, command: Command) -> Result<()> {
    if let Command::Mirrors(command) = &command {
        mirrors::check(command)?;
    }
    if let Command::Mirrors(command) = &command
        && let Some(done) = mirrors::keygen(command)
    {
        return done;
    }
    let operator = operator::Operator::read(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start: the system gives no event queue")?;
    runtime.block_on(async {
        let command = match command {
            Command::Mirrors(command) => match mirrors::offline(&operator, command).await? {
                Some(command) => Command::Mirrors(command),
                None => return Ok(()),
            },
            command => command,
        };
        let service = &mut client::connect(&operator).await?;
        match command {
            Command::Tokens(command) => enrolment::tokens(service, &operator, command).await,
            Command::Audit(command) => audit::audit(service, command).await,
            Command::Agents(command) => agents::agents(service, command).await,
            Command::Mirrors(command) => mirrors::mirrors(service, &operator, command).await,
            Command::Matrix(args) => matrix::matrix(service, args).await,
            Command::Decisions(command) => decisions::decisions(service, command).await,
            Command::Pool(command) => orders::pool(service, command).await,
            Command::Active(args) => signal::active(service, args).await,
            Command::Freeze(order) => orders::freeze(service, order).await,
            Command::Thaw(order) => orders::thaw(service, order).await,
            Command::Override(order) => orders::override_action(service, order).await,
            Command::Release(order) => orders::release(service, order).await,
            Command::Approve(word) => orders::approve(service, word).await,
            Command::Decline(word) => orders::decline(service, word).await,
            Command::RotateAll(order) => orders::rotate_all(service, order).await,
            Command::Alerts(args) => alerts::alerts(service, args).await,
            Command::Outbox(command) => outbox::outbox(service, command).await,
            Command::Signal(command) => signal::signal(service, command).await,
            Command::Mitm(command) => mitm::mitm(service, command).await,
            Command::ProbeNow(args) => pictures::probe_now(service, args).await,
            Command::Pictures(command) => pictures::pictures(service, command).await,
            Command::Judge(args) => judge::judge_files(&args),
            Command::Replay(args) => replay::replay(&args),
            Command::Simulate(args) => simulate::simulate(&args),
            Command::Fingerprints(command) => fingerprints::fingerprints(&command),
            Command::Import(ooni::Import::Ooni(args)) => ooni::import_ooni(&args),
            Command::Export(args) => export::export_journal(&args),
            Command::Policy(command) => policy::policy(&command),
            Command::Forecast(args) => forecast::forecast(service, args).await,
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
