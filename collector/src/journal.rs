//! The journal on disk: append-only segment files, synced before anything is acknowledged.
//!
//! Segments are `00000001.zkj`, `00000002.zkj` and so on; their content is described in zerkalo-core, journal.rs, and
//! encoded by zerkalo-proto. Only whole, synced entries are ever reported as written. A torn end of the last segment is
//! what a crash leaves: it is saved beside the segment as `00000001.torn-OFFSET` and cut off. Damage anywhere else is
//! refused, for it would be silent loss.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerkalo_core::journal::{Found, JournalEntry, MAGIC, PAYLOAD_LEN_MAX, frame, read_frame};

/// A segment that has reached this length gets no more entries: small enough to read whole, and to prune by.
pub const SEGMENT_LEN_MAX: u64 = 64 * 1024 * 1024;
const EXTENSION: &str = "zkj";

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal in {dir} is in use by another collector; stop that one first")]
    InUse { dir: PathBuf },
    #[error("the journal cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is damaged at byte {offset} ({what}); nothing was changed. Restore this file from a copy, or move it and \
         all later segments out of the directory to go on without what they hold"
    )]
    Corrupt { path: PathBuf, offset: usize, what: String },
    #[error("{path} is missing between two other segments; restore it from a copy")]
    Missing { path: PathBuf },
    #[error("the disk of {path} is full; nothing was lost, free some space")]
    Full {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("an entry of {len} bytes is beyond the journal's limit of {PAYLOAD_LEN_MAX}")]
    TooLarge { len: usize },
    #[error(
        "{path} could not be synced, so the disk may have dropped what was written; nothing unsynced was acknowledged. \
         Check the disk, then start again"
    )]
    Sync {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the journal failed before and takes no more entries; start again")]
    Broken,
}

/// The journal of one collector, open for appending.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    /// Held, never read: the lock lives as long as the handle.
    _lock: File,
    file: File,
    number: u64,
    /// Length of the last segment up to which everything is synced.
    synced_len: u64,
    segment_len_max: u64,
    broken: bool,
}

impl Journal {
    /// Opens the journal in `dir`, made if absent, and hands every entry to `visit` in order.
    pub fn open(dir: &Path, visit: impl FnMut(JournalEntry)) -> Result<Self, JournalError> {
        Self::open_with(dir, SEGMENT_LEN_MAX, visit)
    }

    /// The same, with segments of another length.
    pub fn open_with(
        dir: &Path,
        segment_len_max: u64,
        mut visit: impl FnMut(JournalEntry),
    ) -> Result<Self, JournalError> {
        std::fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        let lock = lock(dir)?;
        let numbers = segments(dir)?;
        for (number, last) in numbers.iter().zip((0..numbers.len()).rev()) {
            let path = segment_path(dir, *number);
            if last == 0 {
                let (file, synced_len) = open_last(&path, &mut visit)?;
                return Ok(Self {
                    dir: dir.to_owned(),
                    _lock: lock,
                    file,
                    number: *number,
                    synced_len,
                    segment_len_max,
                    broken: false,
                });
            }
            let (bytes, end) = read_segment(&path, &mut visit)?;
            if end < bytes.len() {
                return Err(JournalError::Corrupt {
                    path,
                    offset: end,
                    what: "a frame cut short".to_owned(),
                });
            }
        }
        let file = create_segment(dir, 1)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
            file,
            number: 1,
            synced_len: MAGIC.len() as u64,
            segment_len_max,
            broken: false,
        })
    }

    /// Writes entries and syncs them; when this returns, they are on the disk. Gives the bytes written. On a full disk
    /// none of them is in the journal and it can be tried again.
    pub fn append(&mut self, entries: &[JournalEntry]) -> Result<u64, JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        let mut bytes = Vec::new();
        for entry in entries {
            let payload = zerkalo_proto::journal::encode(entry);
            if payload.len() > PAYLOAD_LEN_MAX {
                return Err(JournalError::TooLarge { len: payload.len() });
            }
            frame(&payload, &mut bytes);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.synced_len >= self.segment_len_max {
            self.rotate()?;
        }
        if let Err(source) = self.file.write_all_at(&bytes, self.synced_len) {
            return Err(self.undo_write(source));
        }
        if let Err(source) = self.file.sync_data() {
            // The kernel may have dropped the pages and forgotten the failure: trying again would prove nothing.
            self.broken = true;
            return Err(JournalError::Sync { path: self.path(), source });
        }
        self.synced_len += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }

    fn rotate(&mut self) -> Result<(), JournalError> {
        self.file = create_segment(&self.dir, self.number + 1)?;
        self.number += 1;
        self.synced_len = MAGIC.len() as u64;
        Ok(())
    }

    /// Takes back a write that failed half-way.
    fn undo_write(&mut self, source: io::Error) -> JournalError {
        let path = self.path();
        if let Err(source) = self.file.set_len(self.synced_len) {
            self.broken = true;
            return JournalError::Io { what: "truncate", path, source };
        }
        if is_full(&source) {
            return JournalError::Full { path, source };
        }
        self.broken = true;
        JournalError::Io { what: "write", path, source }
    }

    fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.number)
    }
}

/// Whether a write failed for want of room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { what, path, source }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(JournalError::Io { what: "lock", path, source }),
    }
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.{EXTENSION}"))
}

/// Numbers of the segments in `dir`, without a gap. Files of other names are not ours.
fn segments(dir: &Path) -> Result<Vec<u64>, JournalError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
    }
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(JournalError::Missing { path: segment_path(dir, pair[0] + 1) }),
        None => Ok(numbers),
    }
}

/// Makes an empty segment that survives a power cut, or leaves nothing behind.
fn create_segment(dir: &Path, number: u64) -> Result<File, JournalError> {
    let path = segment_path(dir, number);
    let create = || {
        let file = File::options().create(true).truncate(true).write(true).open(&path)?;
        file.write_all_at(MAGIC, 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    create().map_err(|source: io::Error| {
        // An empty segment left over is read as a torn one and made whole at the next start.
        let _ = std::fs::remove_file(&path);
        if is_full(&source) {
            JournalError::Full { path: path.clone(), source }
        } else {
            JournalError::Io { what: "make", path: path.clone(), source }
        }
    })
}

/// Reads the last segment, cuts off what a crash left, and gives its length.
fn open_last(path: &Path, visit: &mut impl FnMut(JournalEntry)) -> Result<(File, u64), JournalError> {
    let (bytes, end) = read_segment(path, visit)?;
    let file = File::options().write(true).open(path).map_err(io_error("open", path))?;
    if end < bytes.len() || bytes.len() < MAGIC.len() {
        let saved = save_torn(path, end, &bytes[end..])?;
        tracing::warn!(
            file = %path.display(), offset = end, cut_bytes = bytes.len() - end,
            saved = saved.map(|saved| saved.display().to_string()),
            "cut off a torn end that was never acknowledged"
        );
        file.set_len(end as u64).map_err(io_error("truncate", path))?;
    }
    if end < MAGIC.len() {
        file.write_all_at(MAGIC, 0).map_err(io_error("write", path))?;
    }
    // What is read back may never have been synced; it is built upon from here on, so it must stay.
    file.sync_all().map_err(|source| JournalError::Sync { path: path.to_owned(), source })?;
    Ok((file, end.max(MAGIC.len()) as u64))
}

/// Keeps what is about to be cut off in a synced file of its own; zeros hold nothing and are not kept. Another end torn
/// at the same place before is left alone.
fn save_torn(segment: &Path, offset: usize, torn: &[u8]) -> Result<Option<PathBuf>, JournalError> {
    if torn.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let first = segment.with_extension(format!("torn-{offset}"));
    let others = (2..).map(|count: u64| segment.with_extension(format!("torn-{offset}-{count}")));
    for path in std::iter::once(first).chain(others) {
        let save = || {
            let mut file = File::options().create_new(true).write(true).open(&path)?;
            file.write_all(torn)?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        let source = match save() {
            Ok(()) => return Ok(Some(path)),
            // A crash came between saving it and cutting it off.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match std::fs::read(&path) {
                Ok(known) if known == torn => return Ok(Some(path)),
                _ => continue,
            },
            Err(source) => source,
        };
        // Half a copy is none; the segment is still whole.
        let _ = std::fs::remove_file(&path);
        return Err(if is_full(&source) {
            JournalError::Full { path, source }
        } else {
            JournalError::Io { what: "make", path, source }
        });
    }
    Ok(None)
}

/// Hands every entry of a segment to `visit`; gives the bytes and the offset behind the last whole frame.
fn read_segment(path: &Path, visit: &mut impl FnMut(JournalEntry)) -> Result<(Vec<u8>, usize), JournalError> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(io_error("open", path))?;
    file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
    let corrupt = |offset, what: String| JournalError::Corrupt { path: path.to_owned(), offset, what };
    if bytes.len() < MAGIC.len() && (MAGIC.starts_with(&bytes) || bytes.iter().all(|byte| *byte == 0)) {
        return Ok((bytes, 0));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(corrupt(0, "it does not begin as a journal segment of this version".to_owned()));
    }
    let mut offset = MAGIC.len();
    loop {
        match read_frame(&bytes, offset) {
            Found::Frame { payload, next } => {
                let entry = zerkalo_proto::journal::decode(payload)
                    .map_err(|error| corrupt(offset, format!("the entry cannot be read: {error}")))?;
                visit(entry);
                offset = next;
            }
            Found::End | Found::Torn => return Ok((bytes, offset)),
            Found::Corrupt => {
                return Err(corrupt(offset, "a frame's length or checksum is wrong".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::journal::Event;
    use zerkalo_core::words::UnixMillis;

    fn tick(at: u64) -> JournalEntry {
        JournalEntry { at: UnixMillis(at), event: Event::Tick }
    }

    fn open(dir: &Path, segment_len_max: u64) -> (Journal, Vec<u64>) {
        let mut seen = Vec::new();
        let journal = Journal::open_with(dir, segment_len_max, |entry| seen.push(entry.at.0)).unwrap();
        (journal, seen)
    }

    #[test]
    fn entries_come_back_in_order_over_many_segments() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, seen) = open(dir.path(), 40);
        assert!(seen.is_empty());
        for at in 1..=20 {
            journal.append(&[tick(at)]).unwrap();
        }
        drop(journal);
        assert!(segments(dir.path()).unwrap().len() > 3);
        let (_journal, seen) = open(dir.path(), 40);
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_collector_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path(), SEGMENT_LEN_MAX);
        let error = Journal::open(dir.path(), |_| {}).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    }

    #[test]
    fn every_cut_of_the_last_segment_leaves_a_journal_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), SEGMENT_LEN_MAX);
        journal.append(&[tick(1), tick(2)]).unwrap();
        drop(journal);
        let path = segment_path(dir.path(), 1);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, seen) = open(dir.path(), SEGMENT_LEN_MAX);
            assert!([&[][..], &[1], &[1, 2]].contains(&&seen[..]), "{seen:?}");
            journal.append(&[tick(9)]).unwrap();
            drop(journal);
            assert_eq!(open(dir.path(), SEGMENT_LEN_MAX).1, [&seen[..], &[9]].concat());
        }
    }

    #[test]
    fn a_flipped_length_in_the_last_segment_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), SEGMENT_LEN_MAX);
        journal.append(&[tick(1), tick(2), tick(3)]).unwrap();
        drop(journal);
        let path = segment_path(dir.path(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len() + 2] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open(dir.path(), |_| {}).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { offset: 8, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_torn_end_is_saved_beside_its_segment_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), SEGMENT_LEN_MAX));
        let path = segment_path(dir.path(), 1);
        let tear = |torn: &[u8]| {
            std::fs::write(&path, [&MAGIC[..], torn].concat()).unwrap();
            drop(open(dir.path(), SEGMENT_LEN_MAX));
            assert_eq!(std::fs::read(&path).unwrap(), MAGIC);
        };
        let saved = |name: &str| std::fs::read(dir.path().join(name)).ok();
        tear(&[0, 0, 0, 9, 1]);
        tear(&[0, 0, 0, 9, 1]);
        assert_eq!(saved("00000001.torn-8"), Some(vec![0, 0, 0, 9, 1]));
        assert_eq!(saved("00000001.torn-8-2"), None);
        tear(&[0, 0, 0, 9, 2]);
        assert_eq!(saved("00000001.torn-8"), Some(vec![0, 0, 0, 9, 1]));
        assert_eq!(saved("00000001.torn-8-2"), Some(vec![0, 0, 0, 9, 2]));
        tear(&[0; 16]);
        assert_eq!(saved("00000001.torn-8-3"), None);
    }

    #[test]
    fn damage_in_the_middle_is_refused_with_file_and_offset_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path(), 40);
        for at in 1..=9 {
            journal.append(&[tick(at)]).unwrap();
        }
        drop(journal);
        let check = |number: u64, change: &dyn Fn(&mut Vec<u8>), part: &str| {
            let path = segment_path(dir.path(), number);
            let whole = std::fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            change(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            let error = Journal::open_with(dir.path(), 40, |_| {}).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            std::fs::write(&path, whole).unwrap();
        };
        check(1, &|bytes| bytes[17] ^= 1, "byte 8");
        check(1, &|bytes| bytes.truncate(21), "cut short");
        check(2, &|bytes| bytes[0] ^= 1, "byte 0");
        std::fs::remove_file(segment_path(dir.path(), 2)).unwrap();
        let error = Journal::open(dir.path(), |_| {}).unwrap_err().to_string();
        assert!(error.contains("00000002.zkj is missing"), "{error}");
    }
}
