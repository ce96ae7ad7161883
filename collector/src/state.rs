//! Keyed state beside the journal: tokens, the log of decisions, the outbox.
//!
//! Every change is on the disk when its call returns. Decisions and outbox could be made again from the journal; tokens
//! could not. After a failed write the store is opened anew before the next, for sled stays failed until then.

mod log;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::MarketId;
use zerkalo_durable::store::{Batch, Store, StoreError, Table};

use crate::token::Token;

pub use log::{Logged, Send};

const TOKENS: Table = Table("token");
/// Number of the decision (u64, big-endian) to its exact JSON bytes.
const DECISIONS: Table = Table("decision");
/// Id of the decision to its number.
const DECISION_IDS: Table = Table("decision-id");
/// Number of the decision to its [`Delivery`]: what is to be sent yet.
const OUTBOX: Table = Table("outbox");
/// The same for what was given up.
const DEAD: Table = Table("outbox-dead");

/// How often, and after what wait, a store just closed is tried again: half a second in all.
const REOPEN_TRIES_MAX: u32 = 50;
/// See [`REOPEN_TRIES_MAX`].
const REOPEN_WAIT: Duration = Duration::from_millis(10);

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state cannot be kept")]
    Store(#[from] StoreError),
    #[error(
        "the state holds {what} that cannot be read; move the directory {dir} aside to rebuild it from the journal"
    )]
    Malformed { what: &'static str, dir: PathBuf },
}

impl StateError {
    /// Whether the disk had no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}

/// A decision on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The decision's; with `-2` and so on behind it if others bore its number before.
    pub id: String,
    pub market: MarketId,
    /// Attempts made so far.
    pub attempts: u32,
}

/// The state of one collector.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    /// `None` only while it is opened anew.
    store: Mutex<Option<Store>>,
}

impl State {
    /// Opens the state in `dir`, made if absent.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let store = Store::open(dir)?;
        Ok(Self { dir: dir.to_owned(), store: Mutex::new(Some(store)) })
    }

    /// What is known of the token with this digest.
    pub fn token(&self, digest: &Sha256) -> Result<Option<Token>, StateError> {
        let found = self.with(|store| store.read(TOKENS, &digest.0))?;
        found.map(|bytes| self.parse("a token", &bytes)).transpose()
    }

    /// Keeps a token: a new one, a used one, or one given back.
    pub fn put_token(&self, digest: &Sha256, token: &Token) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.put(TOKENS, &digest.0, &json(token));
        self.commit(batch)
    }

    /// Calls `visit` with the bytes of each decision from number `start` on, in order, until it says `false`.
    pub fn decisions(&self, start: u64, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), StateError> {
        self.with(|store| {
            for found in store.scan(DECISIONS, &start.to_be_bytes()) {
                if !visit(&found?.1) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Number of the newest decision; 0 without any.
    pub fn last_decision(&self) -> Result<u64, StateError> {
        let last = self.with(|store| store.last(DECISIONS))?;
        last.map_or(Ok(0), |(key, _)| self.number(&key))
    }

    /// The logged bytes of a decision.
    pub fn decision(&self, id: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|store| match store.read(DECISION_IDS, id.as_bytes())? {
            Some(key) => store.read(DECISIONS, &key),
            None => Ok(None),
        })
    }

    /// The logged bytes of the decision with this number.
    pub fn decision_numbered(&self, number: u64) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|store| store.read(DECISIONS, &number.to_be_bytes()))
    }

    /// Everything to be sent yet, oldest first.
    pub fn outbox(&self) -> Result<Vec<(u64, Delivery)>, StateError> {
        self.deliveries(OUTBOX)
    }

    /// Everything given up, oldest first.
    pub fn dead(&self) -> Result<Vec<(u64, Delivery)>, StateError> {
        self.deliveries(DEAD)
    }

    /// Notes another attempt at a delivery.
    pub fn note_attempt(&self, number: u64, delivery: &Delivery) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.put(OUTBOX, &number.to_be_bytes(), &json(delivery));
        self.commit(batch)
    }

    /// Takes a delivered decision out of the outbox.
    pub fn note_delivered(&self, number: u64) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.delete(OUTBOX, &number.to_be_bytes());
        self.commit(batch)
    }

    /// Gives a delivery up; it stays on record.
    pub fn note_dead(&self, number: u64, delivery: &Delivery) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.delete(OUTBOX, &number.to_be_bytes());
        batch.put(DEAD, &number.to_be_bytes(), &json(delivery));
        self.commit(batch)
    }

    fn deliveries(&self, table: Table) -> Result<Vec<(u64, Delivery)>, StateError> {
        let found = self.with(|store| store.scan(table, &[]).collect::<Result<Vec<_>, _>>())?;
        let entries = found.iter();
        entries.map(|(key, value)| Ok((self.number(key)?, self.parse("an outbox entry", value)?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Store>> {
        // Nothing is left half done under this lock: the store's own commits are atomic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, work: impl FnOnce(&Store) -> Result<R, StoreError>) -> Result<R, StateError> {
        let mut guard = self.lock();
        let store = match &mut *guard {
            Some(store) => store,
            closed => closed.insert(reopen(&self.dir)?),
        };
        Ok(work(store)?)
    }

    fn commit(&self, batch: Batch) -> Result<(), StateError> {
        let result = self.with(|store| store.commit(batch));
        if result.is_err() {
            *self.lock() = None;
        }
        result
    }

    fn number(&self, key: &[u8]) -> Result<u64, StateError> {
        let bytes = key.try_into().map_err(|_| self.malformed("a number"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn parse<T: DeserializeOwned>(&self, what: &'static str, bytes: &[u8]) -> Result<T, StateError> {
        serde_json::from_slice(bytes).map_err(|_| self.malformed(what))
    }

    fn malformed(&self, what: &'static str) -> StateError {
        StateError::Malformed { what, dir: self.dir.clone() }
    }
}

/// Opens a store this process closed a moment ago: sled's own threads may hold its lock a little longer.
fn reopen(dir: &Path) -> Result<Store, StoreError> {
    let mut tries = 0;
    loop {
        match Store::open(dir) {
            Err(StoreError::InUse { .. }) if tries < REOPEN_TRIES_MAX => {
                tries += 1;
                std::thread::sleep(REOPEN_WAIT);
            }
            opened => return opened,
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("state values are structs of texts and numbers")
}
