//! A bad network between agents and their collector, played by turmoil: partitions, delays, lost and doubled and swapped
//! messages, restarts of either end, in simulated time and by a seed.
//!
//! What is played with is the real code: the agent's uplink, window and spool, the collector's streams, plans, journal and
//! fold. An agent that was away for long comes home with a backlog in homecoming.rs. Only what lies under a stream of messages is not: TLS and HTTP/2 give way to length-delimited messages over
//! turmoil's TCP, and clocks to its own. Afterwards the network is whole for a while, and then each record must be in the
//! journal once or be told of by a gap, and every chain must hold.

mod agent;
mod collector;
mod homecoming;
mod tale;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;

use crate::dice::Dice;
use agent::Seat;
use collector::House;
pub use collector::Lanes;
pub use homecoming::{Homecoming, come_home};
pub use tale::Tale;

/// Simulated time between two looks of turmoil's at each host.
const TICK: Duration = Duration::from_millis(50);
/// How long the network is bad, at least and at most.
const TROUBLE_SECS: (u64, u64) = (8, 30);
/// How long it may take then until everything has arrived; a frozen stream alone takes ten seconds to be noticed.
const RECOVERY: Duration = Duration::from_secs(180);
/// A calm while after that: nothing may arrive twice.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// One trouble in so many ticks.
const TICKS_PER_TROUBLE: u64 = 40;
/// Most agents of one run.
const AGENTS_MAX: u64 = 3;
/// How often, and after what wait, a store is tried that another life had open: a minute in all.
const OPENING_TRIES_MAX: u32 = 3_000;
/// See [`OPENING_TRIES_MAX`].
const OPENING_WAIT: Duration = Duration::from_millis(20);
/// The collector's host.
const COLLECTOR: &str = "collector";

/// What an agent's crash does to its spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spools {
    Survive,
    /// The negative control: records are lost, and the run must find it.
    Vanish,
}

/// Plays one seed in `work`, which is made and removed.
pub fn play(seed: u64, spools: Spools, work: &Path) -> Result<Tale> {
    let home = work.join(format!("seed-{seed}"));
    std::fs::create_dir_all(&home)?;
    let played = Play::new(seed, spools, &home).and_then(Play::run);
    // What is left behind is gone with `work`.
    let _ = std::fs::remove_dir_all(&home);
    played
}

struct Play {
    seed: u64,
    spools: Spools,
    dice: Dice,
    house: Rc<House>,
    seats: Vec<Rc<Seat>>,
    trouble: Duration,
    tale: Tale,
}

impl Play {
    fn new(seed: u64, spools: Spools, home: &Path) -> Result<Self> {
        let mut dice = Dice(seed);
        let trouble = TROUBLE_SECS.0 + dice.below(TROUBLE_SECS.1 - TROUBLE_SECS.0);
        let trouble = Duration::from_secs(trouble);
        let count = 1 + dice.below(AGENTS_MAX);
        let seats: Vec<_> =
            (1..=count).map(|number| Rc::new(Seat::new(number, home, dice.below(u64::MAX)))).collect();
        let agents: Vec<AgentId> = seats.iter().map(|seat| seat.name.clone()).collect();
        let house = Rc::new(House::new(home.join(COLLECTOR), &agents, Lanes::Both)?);
        Ok(Self { seed, spools, dice, house, seats, trouble, tale: Tale::default() })
    }

    fn run(mut self) -> Result<Tale> {
        let slowest = Duration::from_millis(20 + self.dice.below(2_000));
        let mut sim = turmoil::Builder::new()
            .rng_seed(self.seed)
            .tick_duration(TICK)
            .simulation_duration(self.trouble + RECOVERY + AFTERWARDS * 2)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(slowest)
            .tcp_capacity(wire::SEGMENTS_MAX)
            .enable_random_order()
            .build();
        let house = self.house.clone();
        sim.host(COLLECTOR, move || house.clone().serve());
        for seat in self.seats.clone() {
            let name = seat.name.to_string();
            sim.host(name, move || seat.clone().live());
        }
        let told = self.cause_trouble(&mut sim).and_then(|()| self.recover(&mut sim));
        drop(sim);
        told.with_context(|| format!("seed {}: {}", self.seed, self.tale.events.join("; ")))?;
        self.check().with_context(|| format!("seed {}: {}", self.seed, self.tale.events.join("; ")))?;
        Ok(self.tale)
    }

    fn cause_trouble(&mut self, sim: &mut turmoil::Sim<'_>) -> Result<()> {
        while sim.elapsed() < self.trouble {
            step(sim)?;
            if self.dice.below(TICKS_PER_TROUBLE) != 0 {
                continue;
            }
            let seat = self.seats[self.dice.below(self.seats.len() as u64) as usize].clone();
            let name = seat.name.as_str();
            let what = match self.dice.below(8) {
                0 => {
                    sim.partition(name, COLLECTOR);
                    "cut off"
                }
                1 => {
                    sim.partition_oneway(name, COLLECTOR);
                    "unheard"
                }
                2 => {
                    sim.partition_oneway(COLLECTOR, name);
                    "told nothing"
                }
                3 => {
                    sim.hold(name, COLLECTOR);
                    "held up"
                }
                4 => {
                    sim.release(name, COLLECTOR);
                    sim.repair(name, COLLECTOR);
                    "repaired"
                }
                5 => {
                    seat.confuse();
                    "doubled or swapped"
                }
                6 => {
                    self.tale.crashes += 1;
                    sim.crash(name);
                    if self.spools == Spools::Vanish {
                        std::fs::remove_dir_all(seat.spool_dir())?;
                    }
                    sim.bounce(name);
                    "restarted"
                }
                _ => {
                    self.tale.crashes += 1;
                    sim.crash(COLLECTOR);
                    sim.bounce(COLLECTOR);
                    "collector restarted"
                }
            };
            self.tale.events.push(format!("{:.1} s: {name} {what}", sim.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    /// Makes the network whole and waits until everything has arrived.
    fn recover(&mut self, sim: &mut turmoil::Sim<'_>) -> Result<()> {
        for seat in &self.seats {
            sim.release(seat.name.as_str(), COLLECTOR);
            sim.repair(seat.name.as_str(), COLLECTOR);
            seat.be_plain();
        }
        let until = sim.elapsed() + RECOVERY;
        while !self.has_arrived() {
            step(sim)?;
            if sim.elapsed() > until {
                let lack: Vec<_> =
                    self.seats.iter().map(|seat| (seat.kept(), self.house.known(&seat.name))).collect();
                bail!("{} s after the trouble not all had arrived: {lack:?}", RECOVERY.as_secs());
            }
        }
        let until = sim.elapsed() + AFTERWARDS;
        while sim.elapsed() < until {
            step(sim)?;
        }
        Ok(())
    }

    fn has_arrived(&self) -> bool {
        self.seats.iter().all(|seat| {
            let (records, dropped) = self.house.known(&seat.name);
            seat.is_done() && records + dropped >= seat.kept()
        })
    }

    /// Holds the journal against what the agents kept.
    fn check(&mut self) -> Result<()> {
        let found = collector::found(self.house.journal())?;
        let mut names = String::new();
        for seat in &self.seats {
            let known = found.get(&seat.name).context("an agent is not in the journal")?;
            let kept = seat.bodies();
            let mut counts: BTreeMap<Sha256, u64> = BTreeMap::new();
            known.bodies.iter().for_each(|body| *counts.entry(*body).or_default() += 1);
            ensure!(counts.values().all(|count| *count == 1), "{}: a record is there twice", seat.name);
            ensure!(counts.keys().all(|body| kept.contains(body)), "{}: a record nobody made", seat.name);
            let missing = kept.len() as u64 - counts.len() as u64;
            ensure!(
                missing == known.dropped,
                "{}: {missing} records are missing, {} are told of",
                seat.name,
                known.dropped
            );
            self.tale.records += counts.len() as u64;
            self.tale.ahead += known.ahead;
            self.tale.dropped += known.dropped;
            self.tale.epochs += known.epochs;
            names.push_str(&known.trace);
        }
        self.tale.digest = Sha256::of(names.as_bytes());
        Ok(())
    }
}

fn step(sim: &mut turmoil::Sim<'_>) -> Result<()> {
    sim.step().map(drop).map_err(|error| anyhow!("{error}"))
}

/// What both ends share without a network between them: for looking, never for deciding.
type Shared<T> = RefCell<T>;

/// Opens a store that a life just ended had open: sled's own threads let go of it a little later.
fn patiently<T, E: std::error::Error + 'static>(
    open: impl Fn() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut tries = 0;
    loop {
        match open() {
            Err(error) if is_in_use(&error) && tries < OPENING_TRIES_MAX => {
                tries += 1;
                std::thread::sleep(OPENING_WAIT);
            }
            opened => return opened,
        }
    }
}

fn dir_of(home: &Path, name: &str) -> PathBuf {
    home.join(name)
}
