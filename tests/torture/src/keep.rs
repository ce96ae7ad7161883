//! Who keeps records on the disk under test: the agent's spool, the collector's journal and state. Each writes and tells
//! every promise it made ([`Promise`]), and afterwards looks whether it was kept.

mod collector;
mod spool;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use zerkalo_core::evidence::SecretKey;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;

use crate::dice::Dice;
use crate::disk::monotonic_nanos;

/// What is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    Spool,
    Collector,
}

/// What was said of one thing, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub at_nanos: u64,
    pub what: What,
    /// Names a record or token: a digest of its content.
    pub thing: String,
}

/// See [`Promise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is kept.
    Kept,
    /// It may be gone from now on.
    MayGo,
}

/// What must be there after a cut, and what may.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owed {
    pub required: Vec<String>,
}

/// What a look found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Refused(String),
    Missing(String),
    Double(String),
    Malformed(String),
}

impl Owed {
    /// What was promised before `at_nanos`.
    pub fn at(promises: &[Promise], at_nanos: u64) -> Self {
        let mut known = BTreeMap::new();
        for promise in promises.iter().filter(|promise| promise.at_nanos < at_nanos) {
            known.insert(&promise.thing, promise.what);
        }
        let required = known.into_iter().filter(|(_, what)| *what == What::Kept);
        Self { required: required.map(|(thing, _)| thing.clone()).collect() }
    }

    /// Holds what was found against what is owed.
    fn check(&self, found: Vec<String>) -> Result<(), Fault> {
        let mut counts = BTreeMap::new();
        for thing in found {
            *counts.entry(thing).or_insert(0) += 1;
        }
        if let Some((thing, _)) = counts.iter().find(|(_, count)| **count > 1) {
            return Err(Fault::Double(thing.clone()));
        }
        match self.required.iter().find(|thing| !counts.contains_key(*thing)) {
            Some(missing) => Err(Fault::Missing(missing.clone())),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Bytes that stand in what it writes of records, and in nothing that the file system writes for itself.
    pub fn needle(self) -> &'static [u8] {
        match self {
            Self::Spool => spool::NEEDLE,
            Self::Collector => b"ZKJG",
        }
    }
}

/// Writes `records` records into the store in `dir`, and a line for each promise. What fails is no promise.
pub fn keep(store: Store, dir: &Path, records: u64, seed: u64, out: &mut impl Write) -> Result<()> {
    let mut say = |what: What, thing: &str| {
        let word = if what == What::Kept { "kept" } else { "may-go" };
        writeln!(out, "{} {word} {thing}", monotonic_nanos()).and_then(|()| out.flush())?;
        Ok(())
    };
    match store {
        Store::Spool => spool::keep(dir, records, &mut Dice(seed), &mut say),
        Store::Collector => collector::keep(dir, records, &mut Dice(seed), &mut say),
    }
}

/// Opens the store in `dir` and looks whether it holds what is owed; gives how many things it holds.
pub fn look(store: Store, dir: &Path, owed: &Owed) -> Result<usize, Fault> {
    let found = match store {
        Store::Spool => spool::found(dir),
        Store::Collector => collector::found(dir),
    }?;
    let count = found.len();
    owed.check(found)?;
    Ok(count)
}

/// Reads what [`keep`] wrote.
pub fn promises(lines: impl BufRead) -> Result<Vec<Promise>> {
    let mut promises = Vec::new();
    for line in lines.lines() {
        let line = line?;
        let parts: Vec<&str> = line.split(' ').collect();
        let [at, word, thing] = parts[..] else { bail!("no promise: {line}") };
        let what = match word {
            "kept" => What::Kept,
            "may-go" => What::MayGo,
            _ => bail!("no promise: {line}"),
        };
        let at_nanos = at.parse().with_context(|| line.clone())?;
        promises.push(Promise { at_nanos, what, thing: thing.to_owned() });
    }
    Ok(promises)
}

/// Says a promise.
type Say<'a> = &'a mut dyn FnMut(What, &str) -> Result<()>;

pub(crate) fn agent(number: u64) -> AgentId {
    AgentId::parse(&format!("a{number}")).expect("a letter and digits are an identifier")
}

pub(crate) fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn name_of(bytes: &[u8]) -> String {
    Sha256::of(bytes).to_string()
}
