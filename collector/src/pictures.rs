//! The picture store: DIR/pictures/ab/HASH.webp, each file whole or not there, all together under a cap.
//!
//! A picture is taken in only where a journaled record of the same agent names its digest. It is no part of the journal:
//! the oldest give way, and a lost one is only looked for in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use zerkalo_core::fold::NamedPicture;
use zerkalo_core::record::Screenshot;

use crate::metrics::{Metrics, count};

/// Its place in the collector's directory.
pub const DIR: &str = "pictures";
/// Bytes of all pictures if nothing else is configured, in MiB: seven thousand of the largest.
pub const STORE_MIB_DEFAULT: u32 = 1_024;
/// A store below holds no hour's worth; one above wants another kind of store.
pub const STORE_MIB_MIN: u32 = 16;
/// See [`STORE_MIB_MIN`].
pub const STORE_MIB_MAX: u32 = 1_024 * 1_024;
/// Pictures at most: bounds what is remembered of small ones.
const STORED_MAX: usize = 100_000;
/// Files not yet whole.
const DRAFT: &str = "draft";

/// Why a picture was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum PictureRefusal {
    #[error("no record of this agent that is remembered names it")]
    Unknown,
    #[error("it is not what the record says: its length, digest and kind must be those signed")]
    Malformed,
    #[error("the collector's disk is full")]
    StorageFull,
    #[error("the collector cannot write it; its log says why")]
    StorageFailed(#[source] io::Error),
}

impl PictureRefusal {
    /// Every code there is.
    pub const CODES: [&str; 4] =
        ["picture_unknown", "picture_malformed", "picture_storage_full", "picture_storage_failed"];

    /// The stable code.
    pub fn code(&self) -> &'static str {
        let [unknown, malformed, full, failed] = Self::CODES;
        match self {
            Self::Unknown => unknown,
            Self::Malformed => malformed,
            Self::StorageFull => full,
            Self::StorageFailed(_) => failed,
        }
    }
}

/// The store; one of it writes to a directory.
#[derive(Debug)]
pub struct Pictures {
    dir: PathBuf,
    bytes_max: u64,
    metrics: Arc<Metrics>,
    stored: Mutex<Stored>,
}

/// What lies in the directory.
#[derive(Debug, Default)]
struct Stored {
    /// By age.
    by_age: BTreeSet<(SystemTime, PathBuf)>,
    lens: BTreeMap<PathBuf, (SystemTime, u64)>,
    bytes: u64,
}

impl Pictures {
    /// Opens the store in `dir`, made if absent; what a crash left half-written is removed.
    pub fn open(dir: &Path, bytes_max: u64, metrics: Arc<Metrics>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut stored = Stored::default();
        for shelf in fs::read_dir(dir)? {
            let shelf = shelf?.path();
            for file in if shelf.is_dir() { Some(fs::read_dir(&shelf)?) } else { None }.into_iter().flatten()
            {
                let (path, found) = file.and_then(|file| Ok((file.path(), file.metadata()?)))?;
                if path.extension().is_some_and(|extension| extension == DRAFT) {
                    fs::remove_file(path)?;
                } else {
                    stored.insert(path, found.modified()?, found.len());
                }
            }
        }
        let store = Self { dir: dir.to_owned(), bytes_max, metrics, stored: Mutex::new(stored) };
        store.make_room(&mut store.lock());
        Ok(store)
    }

    /// Takes a picture in. `named` is what a journaled record of the same agent says of it.
    pub fn put(&self, named: Option<&NamedPicture>, content: &[u8]) -> Result<(), PictureRefusal> {
        let result = self.write(named, content);
        match &result {
            Ok(()) => drop(self.metrics.pictures_stored.inc()),
            Err(refusal) => count(&self.metrics.pictures_refused, refusal.code()),
        }
        result
    }

    /// Whether the bytes are here.
    pub fn has(&self, screenshot: &Screenshot) -> bool {
        let path = self.path(screenshot);
        screenshot.failure.is_none() && path.is_some_and(|path| self.lock().lens.contains_key(&path))
    }

    /// The bytes, if they are here and still what was signed.
    pub fn read(&self, screenshot: &Screenshot) -> io::Result<Option<Vec<u8>>> {
        if !self.has(screenshot) {
            return Ok(None);
        }
        let Some(path) = self.path(screenshot) else { return Ok(None) };
        match fs::read(path) {
            Ok(content) => Ok(Some(content).filter(|content| screenshot.is_of(content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, named: Option<&NamedPicture>, content: &[u8]) -> Result<(), PictureRefusal> {
        let shot = &named.ok_or(PictureRefusal::Unknown)?.screenshot;
        if !shot.is_of(content) {
            return Err(PictureRefusal::Malformed);
        }
        let path = self.path(shot).ok_or(PictureRefusal::Malformed)?;
        let mut stored = self.lock();
        if stored.lens.contains_key(&path) {
            return Ok(());
        }
        let modified = write_whole(&path, content).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PictureRefusal::StorageFull,
            _ => PictureRefusal::StorageFailed(error),
        })?;
        stored.insert(path, modified, content.len() as u64);
        self.make_room(&mut stored);
        Ok(())
    }

    /// Removes the oldest until all fit.
    fn make_room(&self, stored: &mut Stored) {
        while stored.bytes > self.bytes_max || stored.lens.len() > STORED_MAX {
            let Some(oldest) = stored.pop_oldest() else { break };
            match fs::remove_file(&oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %oldest.display(), %error, "an old picture cannot be removed");
                }
                _ => drop(self.metrics.pictures_removed.inc()),
            }
        }
        self.metrics.picture_store_bytes.set(i64::try_from(stored.bytes).unwrap_or(i64::MAX));
    }

    fn path(&self, screenshot: &Screenshot) -> Option<PathBuf> {
        let name = screenshot.sha256.to_string();
        Some(self.dir.join(&name[..2]).join(format!("{name}.{}", screenshot.extension()?)))
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn insert(&mut self, path: PathBuf, modified: SystemTime, len: u64) {
        self.by_age.insert((modified, path.clone()));
        self.lens.insert(path, (modified, len));
        self.bytes += len;
    }

    fn pop_oldest(&mut self) -> Option<PathBuf> {
        let (_, path) = self.by_age.pop_first()?;
        let (_, len) = self.lens.remove(&path)?;
        self.bytes -= len;
        Some(path)
    }
}

/// On the disk under its name when this returns, or not there; gives its time.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<SystemTime> {
    let draft = path.with_extension(DRAFT);
    let write = || {
        fs::create_dir_all(path.parent().expect("a picture lies on a shelf"))?;
        let mut file = File::create(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        let modified = file.metadata()?.modified()?;
        fs::rename(&draft, path)?;
        Ok(modified)
    };
    write().inspect_err(|_| {
        // What is left of it is swept at the next start.
        let _ = fs::remove_file(&draft);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::{Cause, Span};
    use zerkalo_core::target::{Sha256, TargetUrl};
    use zerkalo_core::words::{AgentId, MirrorId, UnixMillis};

    fn content(number: u8, len: usize) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP".as_slice(), &vec![number; len - 12]].concat()
    }

    fn named(content: &[u8]) -> NamedPicture {
        NamedPicture {
            agent: AgentId::parse("a").unwrap(),
            record: Sha256::default(),
            at: UnixMillis(1),
            mirror: MirrorId::parse("m").unwrap(),
            url: TargetUrl::parse("https://m.example/").unwrap(),
            cause: Cause::Requested,
            screenshot: Screenshot {
                sha256: Sha256::of(content),
                len: content.len() as u64,
                media_type: "image/webp".to_owned(),
                address: "192.0.2.1:443".parse().unwrap(),
                span: Span::default(),
                failure: None,
            },
        }
    }

    fn open(dir: &Path, bytes_max: u64) -> (Pictures, Arc<Metrics>) {
        let (metrics, _) = Metrics::new();
        (Pictures::open(dir, bytes_max, metrics.clone()).unwrap(), metrics)
    }

    #[test]
    fn only_what_a_record_names_is_kept_and_it_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, metrics) = open(dir.path(), 10_000);
        let picture = content(1, 4_000);
        let named = named(&picture);
        let code = |named, content: &[u8]| store.put(named, content).unwrap_err().code();
        assert_eq!(code(None, &picture), "picture_unknown");
        assert_eq!(code(Some(&named), &content(2, 4_000)), "picture_malformed");
        assert_eq!(code(Some(&named), &picture[..3_999]), "picture_malformed");
        assert!(!store.has(&named.screenshot));
        store.put(Some(&named), &picture).unwrap();
        store.put(Some(&named), &picture).unwrap();
        assert_eq!(metrics.picture_store_bytes.get(), 4_000);
        let hash = named.screenshot.sha256.to_string();
        let path = dir.path().join(&hash[..2]).join(format!("{hash}.webp"));
        fs::write(path.with_extension(DRAFT), b"half").unwrap();
        let (again, _) = open(dir.path(), 10_000);
        assert_eq!(again.read(&named.screenshot).unwrap(), Some(picture));
        assert!(!path.with_extension(DRAFT).exists());
        fs::write(&path, b"spoilt").unwrap();
        assert_eq!(again.read(&named.screenshot).unwrap(), None);
    }

    #[test]
    fn the_oldest_give_way_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let (store, metrics) = open(dir.path(), 10_000);
        let pictures: Vec<_> = (0..5).map(|number| content(number, 4_000)).collect();
        for picture in &pictures {
            store.put(Some(&named(picture)), picture).unwrap();
        }
        let kept: Vec<_> = pictures
            .iter()
            .map(|picture| store.read(&named(picture).screenshot).unwrap().is_some())
            .collect();
        assert_eq!(kept, [false, false, false, true, true]);
        assert_eq!((metrics.pictures_removed.get(), metrics.picture_store_bytes.get()), (3, 8_000));
        let (smaller, metrics) = open(dir.path(), 5_000);
        assert!(smaller.has(&named(&pictures[4]).screenshot));
        assert_eq!(metrics.picture_store_bytes.get(), 4_000);
    }
}
