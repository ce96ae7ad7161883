//! A keyed store that is on the disk when a commit returns. The only file that names `sled`.
//!
//! sled 0.34's `flush` syncs a range of its file, not the file: after it, `commit` syncs our own handle to `<dir>/db`.
//! Several small tables share one tree by key prefix, so that a commit over tables is atomic.

use std::fs::{self, File};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages sled may cache, in bytes: an idle agent must stay small, and what is read again is little.
const CACHE_CAPACITY_BYTES: u64 = 1024 * 1024;
/// sled's own flusher also collects garbage; commits do not wait for it.
const FLUSH_EVERY_MILLIS: u64 = 500;

/// How often, and after what wait, a store just closed is tried again: three seconds in all, for slow machines.
const REOPEN_TRIES_MAX: u32 = 300;
/// See [`REOPEN_TRIES_MAX`].
const REOPEN_WAIT: Duration = Duration::from_millis(10);
/// Pairs copied in one commit: bounds the memory of a batch.
const COPY_PAIRS_MAX: usize = 128;
/// Where a store is made before it is one, inside its own directory.
const MAKING: &str = "making";
/// The file whose presence says that a store is whole; the last to take its place.
const DB: &str = "db";

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store in {dir} is in use by another process; stop it first")]
    InUse { dir: PathBuf },
    #[error("the store in {dir} cannot be opened")]
    Open {
        dir: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("the store in {dir} cannot be read")]
    Read {
        dir: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("the store in {dir} cannot be written")]
    Write {
        dir: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("the store in {dir} is damaged: {detail}")]
    Damaged { dir: PathBuf, detail: String },
    #[error("the store in {dir} cannot be synced; the device may be failing or full")]
    Sync {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the disk had no room.
    pub fn is_full(&self) -> bool {
        let kind = match self {
            Self::Open { source: sled::Error::Io(io), .. }
            | Self::Read { source: sled::Error::Io(io), .. }
            | Self::Write { source: sled::Error::Io(io), .. }
            | Self::Sync { source: io, .. } => io.kind(),
            _ => return false,
        };
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// Whether what is on the disk is damaged: move the directory aside and start anew.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Open { source: sled::Error::Corruption { .. } | sled::Error::ReportableBug(_), .. }
                | Self::Read { source: sled::Error::Corruption { .. } | sled::Error::ReportableBug(_), .. }
        )
    }
}

/// A table's name: a short constant, without zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table(pub &'static str);

impl Table {
    fn key(self, key: &[u8]) -> Vec<u8> {
        [self.0.as_bytes(), &[0], key].concat()
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Batch(sled::Batch);

impl Batch {
    /// Sets a value.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.0.insert(table.key(key), value);
    }

    /// Removes a value, if it is there.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.0.remove(table.key(key));
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The store of one process.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    file: File,
    dir: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, made if absent.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let sync = |source| StoreError::Sync { dir: dir.to_owned(), source };
        let db = if dir.join(DB).try_exists().map_err(sync)? {
            open_sled(dir, dir)?
        } else {
            make(dir)?;
            retry_in_use(|| open_sled(dir, dir))?
        };
        let file = File::options().read(true).write(true).open(dir.join(DB)).map_err(sync)?;
        Ok(Self { db, file, dir: dir.to_owned() })
    }

    /// Opens a store that was closed a moment ago: sled's own threads may hold its lock a little longer, and so may a
    /// child of the process that held it, until it has become its own program.
    pub fn reopen(dir: &Path) -> Result<Self, StoreError> {
        retry_in_use(|| Self::open(dir))
    }

    /// Copies the tables into a new store in `dir`: what can be read is on the disk there when this returns.
    pub fn copy_to(&self, dir: &Path, tables: &[Table]) -> Result<(), StoreError> {
        let copy = Self::open(dir)?;
        for table in tables {
            let mut batch = Batch::default();
            for (pair, number) in self.scan(*table, &[]).zip(1..) {
                let (key, value) = pair?;
                batch.put(*table, &key, &value);
                if number % COPY_PAIRS_MAX == 0 {
                    copy.commit(std::mem::take(&mut batch))?;
                }
            }
            copy.commit(batch)?;
        }
        Ok(())
    }

    /// Reads everything once, so that damage shows now and not in the middle of work.
    pub fn check(&self) -> Result<(), StoreError> {
        let read = || self.db.iter().try_for_each(|found| found.map(drop));
        calmly(&self.dir, read)?.map_err(|source| self.read_error(source))
    }

    /// Applies a batch; when this returns, it is on the disk.
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let fail = |source| StoreError::Write { dir: self.dir.clone(), source };
        self.db.apply_batch(batch.0).map_err(fail)?;
        self.db.flush().map_err(fail)?;
        self.file.sync_all().map_err(|source| StoreError::Sync { dir: self.dir.clone(), source })
    }

    /// The value under a key.
    pub fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = calmly(&self.dir, || self.db.get(table.key(key)))?;
        Ok(value.map_err(|source| self.read_error(source))?.map(|value| value.to_vec()))
    }

    /// Keys and values of a table from `start` on, in order of keys; ends behind the first error.
    pub fn scan(&self, table: Table, start: &[u8]) -> impl Iterator<Item = Result<Pair, StoreError>> + '_ {
        let prefix_len = table.0.len() + 1;
        let end = [table.0.as_bytes(), &[1]].concat();
        let mut found = self.db.range(table.key(start)..end);
        let mut has_failed = false;
        std::iter::from_fn(move || {
            if has_failed {
                return None;
            }
            let pair = match calmly(&self.dir, || found.next()) {
                Ok(pair) => pair?.map_err(|source| self.read_error(source)),
                Err(damage) => Err(damage),
            };
            has_failed = pair.is_err();
            Some(pair.map(|(key, value)| (key[prefix_len..].to_vec(), value.to_vec())))
        })
    }

    /// The last key of a table and its value.
    pub fn last(&self, table: Table) -> Result<Option<Pair>, StoreError> {
        let prefix_len = table.0.len() + 1;
        let end = [table.0.as_bytes(), &[1]].concat();
        let found = calmly(&self.dir, || self.db.range(table.key(&[])..end).next_back())?.transpose();
        let found = found.map_err(|source| self.read_error(source))?;
        Ok(found.map(|(key, value)| (key[prefix_len..].to_vec(), value.to_vec())))
    }

    fn read_error(&self, source: sled::Error) -> StoreError {
        StoreError::Read { dir: self.dir.clone(), source }
    }
}

/// Makes an empty store aside and moves it into place when it is on the disk: sled writes its settings once, syncs them never
/// and does not open without them, and a directory whose making a power cut interrupted does not open either.
fn make(dir: &Path) -> Result<(), StoreError> {
    let sync = |source| StoreError::Sync { dir: dir.to_owned(), source };
    let making = dir.join(MAKING);
    // Left by a making that was interrupted; nothing was promised of it.
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(sync(error)),
        _ => {}
    }
    fs::create_dir_all(&making).map_err(sync)?;
    drop(open_sled(&making, dir)?);
    let settle = || {
        let mut made: Vec<_> = fs::read_dir(&making)?.collect::<io::Result<_>>()?;
        made.sort_by_key(|entry| (entry.file_name() == DB, entry.file_name()));
        made.iter().try_for_each(|entry| File::open(entry.path())?.sync_all())?;
        for entry in &made {
            if entry.file_name() == DB {
                // All else is in place on the disk before this says so.
                File::open(dir)?.sync_all()?;
            }
            replace(&entry.path(), &dir.join(entry.file_name()))?;
        }
        fs::remove_dir(&making)?;
        // The directory entry itself must survive, or the file is lost with it.
        File::open(dir)?.sync_all()
    };
    settle().map_err(sync)
}

/// Moves a file or directory; what an interrupted making left there goes.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    fs::rename(from, to)
}

/// Opens sled's files in `at`; errors name `dir`.
fn open_sled(at: &Path, dir: &Path) -> Result<sled::Db, StoreError> {
    let fail = |source: sled::Error| match &source {
        sled::Error::Io(io) if io.kind() == io::ErrorKind::WouldBlock || io.to_string().contains("lock") => {
            StoreError::InUse { dir: dir.to_owned() }
        }
        _ => StoreError::Open { dir: dir.to_owned(), source },
    };
    let config = sled::Config::new()
        .path(at)
        .cache_capacity(CACHE_CAPACITY_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MILLIS));
    calmly(dir, || config.open())?.map_err(fail)
}

/// Tries again while a store closed a moment ago is still held: sled's own threads may keep its lock a little longer.
fn retry_in_use<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut tries = 0;
    loop {
        match open() {
            Err(StoreError::InUse { .. }) if tries < REOPEN_TRIES_MAX => {
                tries += 1;
                std::thread::sleep(REOPEN_WAIT);
            }
            opened => return opened,
        }
    }
}

/// sled 0.34 panics on some damage that it should report.
fn calmly<T>(dir: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let detail = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("sled panicked").to_owned();
        StoreError::Damaged { dir: dir.to_owned(), detail }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Table = Table("a");
    const RIGHT: Table = Table("b");

    /// What a power cut may leave of a store that was being made, and of nothing else.
    #[test]
    fn a_making_cut_short_is_made_again() {
        for left in [&["making/db"][..], &["making/conf", "conf"], &["conf", "making/blobs/1", "blobs/1"]] {
            let dir = tempfile::tempdir().unwrap();
            for path in left {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, [0; 64]).unwrap();
            }
            let store = Store::open(dir.path()).unwrap();
            let mut batch = Batch::default();
            batch.put(LEFT, b"x", b"y");
            store.commit(batch).unwrap();
            drop(store);
            let store = Store::reopen(dir.path()).unwrap();
            assert_eq!(store.read(LEFT, b"x").unwrap().unwrap(), b"y");
            assert!(!dir.path().join(MAKING).exists());
        }
    }

    #[test]
    fn a_store_whose_settings_are_lost_is_named_as_corrupt_and_never_made_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        fs::write(dir.path().join("conf"), [0; 64]).unwrap();
        let error = retry_in_use(|| Store::open(dir.path())).unwrap_err();
        assert!(error.is_corrupt(), "{error:?}");
    }

    #[test]
    fn a_commit_survives_reopening_and_tables_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            let mut batch = Batch::default();
            for n in [1u64, 2, 300] {
                batch.put(LEFT, &n.to_be_bytes(), &[n as u8]);
            }
            batch.put(RIGHT, b"x", b"y");
            store.commit(batch).unwrap();
            let mut batch = Batch::default();
            batch.delete(LEFT, &1u64.to_be_bytes());
            store.commit(batch).unwrap();
        }
        let store = Store::reopen(dir.path()).unwrap();
        let keys: Vec<_> = store.scan(LEFT, &[]).map(|found| found.unwrap().0).collect();
        assert_eq!(keys, [2u64.to_be_bytes(), 300u64.to_be_bytes()]);
        assert_eq!(store.last(LEFT).unwrap().unwrap().0, 300u64.to_be_bytes());
        assert_eq!(store.read(RIGHT, b"x").unwrap().unwrap(), b"y");
        assert_eq!(store.read(LEFT, b"x").unwrap(), None);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let damage: [fn(&mut [u8]); 3] = [
            |bytes| bytes[..4_096].fill(0),
            |bytes| {
                let half = bytes.len() / 2;
                bytes[100..half].fill(0xa5);
            },
            |bytes| bytes.iter_mut().step_by(500).for_each(|byte| *byte ^= 0x55),
        ];
        let mut noticed = 0;
        for damage in damage {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            for n in 0..200u64 {
                let mut batch = Batch::default();
                batch.put(LEFT, &n.to_be_bytes(), &[7; 2_000]);
                store.commit(batch).unwrap();
            }
            drop(store);
            let mut bytes = std::fs::read(dir.path().join("db")).unwrap();
            damage(&mut bytes);
            std::fs::write(dir.path().join("db"), bytes).unwrap();
            if let Err(error) = Store::open(dir.path()).and_then(|store| store.check()) {
                assert!(error.is_corrupt(), "{error:?}");
                noticed += 1;
            }
        }
        // sled takes some damage for a torn end and goes on with less: callers whose data form a chain notice.
        assert!(noticed > 0);
    }

    #[test]
    fn a_store_in_use_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    }
}
