//! Keyed state beside the journal: tokens, the logs of decisions and alerts, the outbox.
//!
//! Every change is on the disk when its call returns. Logs and outbox could be made again from the journal; tokens
//! could not. After a failed write the store is opened anew before the next, for sled stays failed until then.

mod audit;
mod deliveries;
mod log;
mod signals;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::{Batch, Store, StoreError};

pub use audit::{ApiToken, KnownTokens};
pub use deliveries::{Delivery, DeliveryKey, DropOutcome, GivenUp, Place, RetryRefusal, Waiting};
pub use log::{Logged, Send, Topic};
pub use signals::SignalToken;

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

/// The state of one collector.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    /// `None` only while it is opened anew.
    store: Mutex<Option<Store>>,
    /// When enrolment tokens were counted last, and how many there are since.
    tokens_counted: Mutex<Option<(UnixMillis, usize)>>,
}

impl State {
    /// Opens the state in `dir`, made if absent.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let store = Store::reopen(dir)?;
        let store = Mutex::new(Some(store));
        let state = Self { dir: dir.to_owned(), store, tokens_counted: Mutex::default() };
        state.rename_tokens()?;
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Store>> {
        // Nothing is left half done under this lock: the store's own commits are atomic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, work: impl FnOnce(&Store) -> Result<R, StoreError>) -> Result<R, StateError> {
        let mut guard = self.lock();
        let store = match &mut *guard {
            Some(store) => store,
            closed => closed.insert(Store::reopen(&self.dir)?),
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

    /// Plans a change by what is there, and makes it before anything else can change.
    fn change<R>(
        &self,
        plan: impl FnOnce(&Store) -> Result<(R, Batch), StateError>,
    ) -> Result<R, StateError> {
        let mut guard = self.lock();
        let store = match &mut *guard {
            Some(store) => store,
            closed => closed.insert(Store::reopen(&self.dir)?),
        };
        let (planned, batch) = plan(store)?;
        let result = store.commit(batch);
        if result.is_err() {
            *guard = None;
        }
        Ok(result.map(|()| planned)?)
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

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("state values are structs of texts and numbers")
}
