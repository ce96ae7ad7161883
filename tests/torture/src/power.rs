//! Power cuts: one run of a keeper on a disk of ours, then cut after cut of its log, each mounted and looked at.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cut::{Cache, Replay};
use crate::dice::Dice;
use crate::disk::{self, Served, Step};
use crate::image::{Mounted, empty_ext4, run, write_sparse};
use crate::keep::{self, Fault, Owed, Promise, Store};

/// Size of the disks: room for what a run writes.
const DISK_LEN: u64 = 64 * 1024 * 1024;
/// Cuts of one run: its log is kept in memory.
pub const CUTS_PER_RUN: u64 = 50;
/// A write fails after about half so many promises.
const PROMISES_BETWEEN_FAILURES: u64 = 60;
/// Disks looked at side by side.
const LOOKS_AT_ONCE: usize = 10;
/// Records a keeper writes in one run.
const RECORDS: u64 = 400;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub cuts: u64,
    /// Things owed over all cuts.
    pub owed: u64,
    /// Cuts at which something written and not flushed was lost or scattered.
    pub dirty: u64,
    pub faults: Vec<(usize, Cache, Fault)>,
}

/// Runs a keeper, `lying` about its syncs or not, and cuts the power `cuts` times.
pub fn cut_power(store: Store, cuts: u64, seed: u64, lying: bool, work: &Path) -> Result<Found> {
    let began = Instant::now();
    let mut dice = Dice(seed);
    let empty = empty_ext4(work, DISK_LEN)?;
    let (steps, promises) = record(store, &mut dice, lying, &empty, work)?;
    let flushes = steps.iter().filter(|step| matches!(step, Step::Flush { .. })).count();
    println!(
        "{store:?}: {} promises, {} writes, {flushes} flushes in {:.1} s",
        promises.len(),
        steps.len() - flushes,
        began.elapsed().as_secs_f64()
    );
    let places = places(cuts, &steps, &promises, &mut dice);
    let mut replay = Replay::new(empty, &steps);
    let mut found = Found::default();
    for places in places.chunks(LOOKS_AT_ONCE) {
        let looks = places.iter().map(|(place, at_nanos)| {
            let (content, cache) = replay.cut(*place, &mut dice);
            (*place, cache, content, Owed::at(&promises, *at_nanos))
        });
        for (place, cache, owed, looked) in look_together(store, looks.collect(), work)? {
            found.cuts += 1;
            found.owed += owed;
            found.dirty += u64::from(cache != Cache::Kept);
            found.faults.extend(looked.err().map(|fault| (place, cache, fault)));
        }
    }
    Ok(found)
}

/// Where the power is cut, in order: before which step, and at what instant. Half are anywhere in the disk's log, half
/// follow a promise at once.
fn places(cuts: u64, steps: &[Step], promises: &[Promise], dice: &mut Dice) -> Vec<(usize, u64)> {
    let mut places: Vec<_> = (0..cuts)
        .map(|_| match dice.below(2) {
            0 => {
                let place = dice.below(steps.len() as u64 + 1) as usize;
                (place, steps.get(place).map_or(u64::MAX, Step::at_nanos))
            }
            _ => {
                let at_nanos = promises[dice.below(promises.len() as u64) as usize].at_nanos + 1;
                (steps.iter().take_while(|step| step.at_nanos() < at_nanos).count(), at_nanos)
            }
        })
        .collect();
    places.sort_unstable();
    places
}

type Look = (usize, Cache, Vec<u8>, Owed);
type Looked = (usize, Cache, u64, Result<(), Fault>);

/// Looks at several disks side by side: closing a store takes a while and no work.
fn look_together(store: Store, looks: Vec<Look>, work: &Path) -> Result<Vec<Looked>> {
    std::thread::scope(|scope| {
        let looking: Vec<_> = (0..)
            .zip(looks)
            .map(|(seat, (place, cache, content, owed)): (usize, Look)| {
                scope.spawn(move || {
                    let looked = look(store, &content, &owed, &work.join(format!("seat-{seat}")))?;
                    Ok((place, cache, owed.required.len() as u64, looked))
                })
            })
            .collect();
        looking.into_iter().map(|looking| looking.join().expect("a look does not panic")).collect()
    })
}

/// One run, from an empty disk to the keeper's end.
fn record(
    store: Store,
    dice: &mut Dice,
    lying: bool,
    empty: &[u8],
    work: &Path,
) -> Result<(Vec<Step>, Vec<Promise>)> {
    let (served, mounted, home) = serve(empty, work)?;
    let mut child = start_keeper(store, &home, dice, lying)?;
    let lines = child.stdout.take().context("its output is piped")?;
    let promises = keep::promises(BufReader::new(lines))?;
    ensure!(child.wait()?.success(), "the keeper failed");
    let steps = served.steps();
    mounted.unmount()?;
    Ok((steps, promises))
}

/// A run on a disk that fails a write now and then; then everything promised must be on the disk itself. Gives the writes
/// that failed and the promises.
pub fn fail_writes(store: Store, seed: u64, work: &Path) -> Result<(u64, u64)> {
    let mut dice = Dice(seed);
    let empty = empty_ext4(work, DISK_LEN)?;
    let (served, mounted, home) = serve(&empty, work)?;
    let mut child = start_keeper(store, &home, &mut dice, false)?;
    let (mut promises, mut next) = (Vec::new(), 0);
    for line in BufReader::new(child.stdout.take().context("its output is piped")?).lines() {
        promises.extend(keep::promises(line?.as_bytes())?);
        if promises.len() as u64 >= next {
            served.fail_next(store.needle());
            next += 1 + dice.below(PROMISES_BETWEEN_FAILURES);
        }
    }
    ensure!(child.wait()?.success(), "the keeper failed");
    mounted.unmount()?;
    let owed = Owed::at(&promises, u64::MAX);
    let looked = look(store, &served.content(), &owed, work)?;
    ensure!(looked.is_ok(), "after {} failed writes: {looked:?}", served.failed());
    Ok((served.failed(), owed.required.len() as u64))
}

/// A disk with a directory for a keeper on it.
fn serve(empty: &[u8], work: &Path) -> Result<(Served, Mounted, PathBuf)> {
    let (fuse, dir) = (work.join("fuse"), work.join("live"));
    fs::create_dir_all(&fuse)?;
    let served = Served::start(&fuse, empty.to_vec())?;
    let mounted = Mounted::new(&fuse.join(disk::NAME), &dir)?;
    // What the keeper finds is a directory that was there before.
    let home = dir.join("home");
    fs::create_dir(&home)?;
    run(Command::new("sync").arg("-f").arg(&home))?;
    Ok((served, mounted, home))
}

fn start_keeper(store: Store, home: &Path, dice: &mut Dice, lying: bool) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("keep").arg(format!("{store:?}").to_lowercase()).arg(home);
    command.args(["--records", &RECORDS.to_string(), "--seed", &dice.below(u64::MAX).to_string()]);
    command.args(lying.then_some("--lie"));
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

/// Mounts what a cut left and opens the store in it.
fn look(store: Store, content: &[u8], owed: &Owed, seat: &Path) -> Result<Result<(), Fault>> {
    fs::create_dir_all(seat)?;
    let image = seat.join("cut");
    write_sparse(&image, content)?;
    let mounted = Mounted::new(&image, &seat.join("after"))?;
    let home = mounted.dir().join("home");
    // Cut before the directory itself was on the disk.
    let looked = match home.exists() {
        true => keep::look(store, &home, owed).map(drop),
        false if owed.required.is_empty() => Ok(()),
        false => Err(Fault::Missing("everything".to_owned())),
    };
    mounted.unmount()?;
    Ok(looked)
}
