//! `zerkalo-torture`: what must survive a power cut and a failing disk, tried. Root only; `make torture` runs it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use zerkalo_torture::catch_up::{self, Line};
use zerkalo_torture::image::run;
use zerkalo_torture::keep::{self, Store};
use zerkalo_torture::lies::{Syncs, lie};
use zerkalo_torture::network::{self, Homecoming, Lanes, Spools, Tale};
use zerkalo_torture::power::{self, CUTS_PER_RUN};

/// Faults told one by one; the rest are counted.
const FAULTS_TOLD_MAX: usize = 5;
/// Cuts of the negative control: far more than one of them must go wrong.
const CONTROL_CUTS: u64 = 10;

/// Where files cost no disk: what is played here dies with its process by intent.
const MEMORY: &str = "/dev/shm";
/// Seeds of the network's negative control.
const CONTROL_SEEDS: u64 = 10;
/// One homecoming is played for so many networks.
const NETWORKS_PER_HOMECOMING: u64 = 40;
/// Networks played side by side.
const NETWORKS_AT_ONCE: usize = 8;

/// Power cuts and failing disks, done to the stores of agent and collector.
#[derive(Parser)]
#[command(name = "zerkalo-torture", version)]
struct Arguments {
    /// Set by this program itself, in a mount namespace of its own
    #[arg(long, hide = true)]
    inside: bool,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Cuts the power at random moments and looks what is left
    Power {
        store: Store,
        #[arg(long, default_value_t = 1_000)]
        cuts: u64,
        /// Repeats the choices of a run; its timing never repeats
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Plays a bad network between agents and collector, in simulated time; needs no root
    Network {
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first seed; with --seeds 1, the run of a failure that was told
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Has a real agent come back to a real collector with a backlog, over loopback: how fast it goes, and what waits
    CatchUp {
        /// Records that wait when it is back
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(200..=1_000_000))]
        records: u64,
        /// Milliseconds between two records that it makes meanwhile
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
        pace_millis: u64,
        /// Over connections below 12 KB, as on a path that freezes longer ones
        #[arg(long)]
        short: bool,
    },
    /// Fails a write now and then, as a worn-out disk does
    Fail {
        store: Store,
        #[arg(long, default_value_t = 20)]
        runs: u64,
        /// Repeats the choices of a run; its timing never repeats
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Writes records and promises: the process whose power is cut
    #[command(hide = true)]
    Keep {
        store: Store,
        dir: PathBuf,
        #[arg(long)]
        records: u64,
        #[arg(long)]
        seed: u64,
        /// Every sync says it succeeded and does nothing
        #[arg(long)]
        lie: bool,
    },
}

fn main() -> ExitCode {
    match act(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zerkalo-torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> Result<()> {
    match arguments.act {
        Act::Keep { store, dir, records, seed, lie: lying } => {
            if lying {
                lie(Syncs::Succeed)?;
            }
            keep::keep(store, &dir, records, seed, &mut std::io::stdout().lock())
        }
        Act::Network { seeds, seed } => torture_network(seeds, seed.unwrap_or_else(any_seed)),
        Act::CatchUp { records, pace_millis, short } => {
            let line = if short { Line::Short } else { Line::Long };
            print_catch_up(records, Duration::from_millis(pace_millis), line)
        }
        _ if !arguments.inside => Err(enter_namespace()),
        Act::Power { store, cuts, seed } => torture_power(store, cuts, seed.unwrap_or_else(any_seed)),
        Act::Fail { store, runs, seed } => torture_failures(store, runs, seed.unwrap_or_else(any_seed)),
    }
}

/// Starts again in a mount namespace of its own; returns only where that fails.
fn enter_namespace() -> anyhow::Error {
    let Ok(program) = std::env::current_exe() else { return anyhow::anyhow!("this program has no path") };
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(program).arg("--inside");
    anyhow::Error::from(command.args(std::env::args_os().skip(1)).exec())
}

fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

fn torture_network(seeds: u64, first: u64) -> Result<()> {
    let work = match Path::new(MEMORY).is_dir() {
        true => tempfile::tempdir_in(MEMORY)?,
        false => tempfile::tempdir()?,
    };
    println!("{seeds} networks; repeat one with --seeds 1 --seed {first} and so on");
    let began = Instant::now();
    let played = play_all(first, seeds, Spools::Survive, work.path())?;
    let home = come_home(first, seeds.div_ceil(NETWORKS_PER_HOMECOMING), work.path())?;
    let controls = play_all(first, CONTROL_SEEDS, Spools::Vanish, work.path());
    if controls.is_ok() {
        bail!("agents whose spools vanished lost nothing: these networks prove nothing");
    }
    if network::come_home(first, Lanes::ChainAlone, work.path()).is_ok() {
        bail!("with a collector that takes nothing ahead no record waited: these homecomings prove nothing");
    }
    println!(
        "{seeds} networks in {:.1} s: {} troubles, {} restarts, {} records, {} of them ahead of a backlog, {} given up by \
         full spools and told, {} new epochs; none lost, none double; with spools that vanish it fails, as it must",
        began.elapsed().as_secs_f64(),
        played.events.len(),
        played.crashes,
        played.records,
        played.ahead,
        played.dropped,
        played.epochs
    );
    println!("{home}; where nothing may go ahead it fails, as it must");
    Ok(())
}

/// Plays homecomings; gives what to tell of them, or the first that failed.
fn come_home(first: u64, count: u64, work: &Path) -> Result<String> {
    let played: Vec<Homecoming> = (0..count)
        .map(|number| network::come_home(first.wrapping_add(number), Lanes::Both, work))
        .collect::<Result<_>>()?;
    let least = played.iter().map(|one| one.times_the_pace).fold(f64::INFINITY, f64::min);
    let waited = played.iter().map(|one| one.longest_wait.div_duration_f64(one.slowest));
    let longest = waited.fold(0.0, f64::max);
    let backlog: u64 = played.iter().map(|one| one.backlog).sum();
    Ok(format!(
        "{count} homecomings with {backlog} records in all: a backlog went at {least:.0} times the pace of measuring at \
         least, and no fresh record waited for longer than {longest:.1} of the line's slowest messages"
    ))
}

fn print_catch_up(records: u64, pace: Duration, line: Line) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(catch_up::run(records, pace, line));
    runtime.shutdown_background();
    println!("{}", report?);
    Ok(())
}

/// Plays seeds side by side; gives the sum of their tales, or the first that failed.
fn play_all(first: u64, seeds: u64, spools: Spools, work: &Path) -> Result<Tale> {
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(NETWORKS_AT_ONCE);
    let play_some = || -> Result<Tale> {
        let mut sum = Tale::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                return Ok(sum);
            }
            match network::play(first.wrapping_add(number), spools, work) {
                Ok(tale) => sum.add(tale),
                Err(error) => {
                    next.store(seeds, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let playing: Vec<_> = (0..workers).map(|_| scope.spawn(play_some)).collect();
        let played = playing.into_iter().map(|playing| playing.join().expect("a play does not panic"));
        played.reduce(|sum, more| {
            let (mut sum, more) = (sum?, more?);
            sum.add(more);
            Ok(sum)
        })
    })
    .expect("there is a worker")
}

fn torture_failures(store: Store, runs: u64, seed: u64) -> Result<()> {
    let work = tempfile::tempdir()?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(work.path()))?;
    println!("{store:?}: {runs} runs on a failing disk; repeat with --seed {seed}");
    let (began, mut failed, mut owed) = (Instant::now(), 0, 0);
    for number in 0..runs {
        let (failures, promises) = power::fail_writes(store, seed.wrapping_add(number), work.path())?;
        (failed, owed) = (failed + failures, owed + promises);
    }
    if failed == 0 {
        bail!("no write failed: this proves nothing");
    }
    println!(
        "{store:?}: {failed} failed writes in {:.1} s, {owed} promises, all kept",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn torture_power(store: Store, cuts: u64, seed: u64) -> Result<()> {
    let work = tempfile::tempdir()?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(work.path()))?;
    println!("{store:?}: {cuts} power cuts; repeat with --seed {seed}");
    let (began, mut left, mut run_seed, mut owed) = (Instant::now(), cuts, seed, 0);
    while left > 0 {
        let found = power::cut_power(store, left.min(CUTS_PER_RUN), run_seed, false, work.path())?;
        tell(&found);
        if !found.faults.is_empty() {
            bail!("{} of {} cuts lost, doubled or refused something", found.faults.len(), found.cuts);
        }
        (left, run_seed, owed) = (left - found.cuts, run_seed.wrapping_add(1), owed + found.owed);
    }
    let control = power::cut_power(store, CONTROL_CUTS.min(cuts), seed, true, work.path())?;
    tell(&control);
    if control.faults.is_empty() {
        bail!("without a single sync nothing was lost: these cuts prove nothing");
    }
    println!(
        "{store:?}: {cuts} cuts in {:.1} s: {owed} promises looked after, none missing, none double, none refused; \
         with syncs that lie {} of {} cuts failed, as they must",
        began.elapsed().as_secs_f64(),
        control.faults.len(),
        control.cuts
    );
    std::io::stdout().flush()?;
    Ok(())
}

fn tell(found: &power::Found) {
    println!(
        "{} cuts ({} with a cache lost or scattered), {} promises owed, {} faults",
        found.cuts,
        found.dirty,
        found.owed,
        found.faults.len()
    );
    for (place, cache, fault) in found.faults.iter().take(FAULTS_TOLD_MAX) {
        println!("  before step {place}, cache {cache:?}: {fault:?}");
    }
}
