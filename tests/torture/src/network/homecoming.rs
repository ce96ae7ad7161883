//! An agent that was away for long is back, over a slow line: its backlog is drained at many times the rate at which it
//! measures, and nothing that it measures meanwhile waits for that.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::agent::Seat;
use super::collector::{self, House, Lanes};
use super::{COLLECTOR, RECOVERY, TICK, step, wire};
use crate::dice::Dice;

/// Records that wait, at least and at most.
const BACKLOG: (u64, u64) = (2_000, 2_500);
/// Between two that it makes while it is back.
const PACE: Duration = Duration::from_millis(1_000);
/// So many it makes.
const FRESH: u64 = 60;
/// How long one message takes, at most, in ms: between these.
const SLOWEST_MILLIS: (u64, u64) = (1_000, 2_000);
/// So many messages one way a fresh record waits for at most, beside its own: the answer to those sent ahead before it.
const MESSAGES_WAITED_FOR: u32 = 3;
/// And what both ends take beside, in simulated time.
const BESIDE: Duration = Duration::from_millis(1_000);
/// A backlog goes at so many times the rate of what is measured, at least.
const TIMES_THE_PACE: f64 = 10.0;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Homecoming {
    pub backlog: u64,
    /// How long the backlog took.
    pub drained_in: Duration,
    /// Of it, how many records for each that was measured in the same time.
    pub times_the_pace: f64,
    /// The longest that a record waited which was measured meanwhile.
    pub longest_wait: Duration,
    /// How long one message took at most.
    pub slowest: Duration,
}

/// Plays one homecoming in `work`, which is made and removed.
pub fn come_home(seed: u64, lanes: Lanes, work: &Path) -> Result<Homecoming> {
    let home = work.join(format!("home-{seed}"));
    std::fs::create_dir_all(&home)?;
    let played = play(&mut Dice(seed), seed, lanes, &home).with_context(|| format!("homecoming {seed}"));
    // What is left behind is gone with `work`.
    let _ = std::fs::remove_dir_all(&home);
    played
}

fn play(dice: &mut Dice, seed: u64, lanes: Lanes, home: &Path) -> Result<Homecoming> {
    let backlog = BACKLOG.0 + dice.below(BACKLOG.1 - BACKLOG.0);
    let slowest = SLOWEST_MILLIS.0 + dice.below(SLOWEST_MILLIS.1 - SLOWEST_MILLIS.0);
    let slowest = Duration::from_millis(slowest);
    let seat = Rc::new(Seat::back_with(backlog, FRESH, PACE, home));
    let house = Rc::new(House::new(home.join(COLLECTOR), std::slice::from_ref(&seat.name), lanes)?);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(RECOVERY * 2)
        .min_message_latency(slowest / 2)
        .max_message_latency(slowest)
        .tcp_capacity(wire::SEGMENTS_MAX)
        .build();
    let serving = house.clone();
    sim.host(COLLECTOR, move || serving.clone().serve());
    let living = seat.clone();
    sim.host(seat.name.to_string(), move || living.clone().live());
    let (mut welcomed, mut drained, mut longest) = (None, None, Duration::ZERO);
    let mut heard = 0;
    while drained.is_none() || heard < FRESH as usize {
        step(&mut sim)?;
        let now = sim.elapsed();
        ensure!(now < RECOVERY, "{} s after it came home not all has arrived", RECOVERY.as_secs());
        welcomed = welcomed.or(house.has(&seat.name, 1).then_some(now));
        drained = drained.or(house.has_up_to(&seat.name, backlog).then_some(now));
        let fresh = seat.fresh();
        while let Some((sequence, made)) = fresh.get(heard).filter(|(one, _)| house.has(&seat.name, *one)) {
            // What it made before it was heard at all went with the rest of its newest.
            if welcomed.is_some_and(|welcomed| *made >= welcomed) {
                longest = longest.max(now.saturating_sub(*made));
            }
            ensure!(*sequence > backlog, "a record of the backlog is called fresh");
            heard += 1;
        }
    }
    drop(sim);
    let (welcomed, drained) = welcomed.zip(drained).context("it was never heard")?;
    let drained_in = drained.saturating_sub(welcomed).max(TICK);
    let times_the_pace = backlog as f64 / drained_in.as_secs_f64() * PACE.as_secs_f64();
    let told = Homecoming { backlog, drained_in, times_the_pace, longest_wait: longest, slowest };
    check(&seat, &house, backlog)?;
    let bound = slowest * (MESSAGES_WAITED_FOR + 1) + BESIDE;
    ensure!(longest <= bound, "a fresh record waited for {longest:?}, longer than {bound:?}: {told:?}");
    ensure!(times_the_pace >= TIMES_THE_PACE, "the backlog took too long: {told:?}");
    Ok(told)
}

/// Everything is there once, in one epoch, and every chain holds.
fn check(seat: &Seat, house: &House, backlog: u64) -> Result<()> {
    let found = collector::found(house.journal())?;
    let known = found.get(&seat.name).context("the agent is not in the journal")?;
    let mut bodies = known.bodies.clone();
    bodies.sort_unstable();
    bodies.dedup();
    ensure!(bodies.len() == known.bodies.len(), "a record is there twice");
    ensure!(bodies.len() as u64 == backlog + FRESH, "{} of {} records", bodies.len(), backlog + FRESH);
    ensure!((known.dropped, known.epochs) == (0, 0), "{} gone, {} epochs", known.dropped, known.epochs);
    Ok(())
}
