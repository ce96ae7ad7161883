//! The journal on disk: append-only segment files, synced before anything is acknowledged.
//!
//! Segments are `00000001.zkj`, `00000002.zkj` and so on; their content is described in zerkalo-core, journal.rs, and
//! encoded by zerkalo-proto. Only whole, synced entries are ever reported as written. Entries written together are a group;
//! its mark says that all before it was synced. What is not whole of the last group is what a crash leaves: it is saved
//! beside the segment as `00000001.torn-OFFSET` and cut off. Damage anywhere else is refused, for it would be silent loss.
//!
//! A disk that failed to write or sync a segment is never asked again about that file: the group goes into a new segment,
//! whose first mark says how much of the old one counts.

mod archive;
pub mod mend;

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerkalo_core::journal::{
    Found, JournalEntry, MAGIC, MARK_LEN, PAYLOAD_LEN_MAX, frame, heir_of, mark_group, mark_heir, read_frame,
};

pub use archive::{Archive, Span};

/// A segment that has reached this length gets no more entries: small enough to read whole, and to prune by.
pub const SEGMENT_LEN_MAX: u64 = 64 * 1024 * 1024;
const EXTENSION: &str = "zkj";
/// Bytes before the first group of a segment.
const BEGIN_LEN: u64 = (MAGIC.len() + MARK_LEN) as u64;

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
        "{path} is damaged at byte {offset} ({what}); nothing was changed. Run `zerkalo-collector mend` on the collector's \
         directory to go on with what is whole, agents send the rest again; or restore this file from a copy"
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
        "{path} could not be synced, nor could a new segment after it: the disk is failing. Nothing unsynced was \
         acknowledged. Check the disk, then start again"
    )]
    Sync {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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
    /// The disk failed this segment: the next group begins another.
    is_dead: bool,
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
        let mut numbers = segments(dir)?;
        // A segment whose beginning never reached the disk holds nothing.
        while numbers.len() > 1 && remove_unbegun(dir, numbers[numbers.len() - 1])? {
            numbers.pop();
        }
        let Some((last, before)) = numbers.split_last() else {
            let file = create_segment(dir, 1, 0)?;
            let synced_len = BEGIN_LEN;
            return Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
                file,
                number: 1,
                synced_len,
                segment_len_max,
                is_dead: false,
            });
        };
        for number in before {
            let path = segment_path(dir, *number);
            let counts = heir_of(&begin_of(&segment_path(dir, number + 1))?);
            let segment = read_segment(&path, counts, &mut visit)?;
            if segment.end < segment.bytes.len() {
                let what = "a frame cut short".to_owned();
                return Err(JournalError::Corrupt { path, offset: segment.end, what });
            }
        }
        let path = segment_path(dir, *last);
        let (file, synced_len) = open_last(&path, &mut visit)?;
        // Without its first mark a segment is of an older version, or its beginning was torn: no group goes into it.
        let is_dead = heir_of(&begin_of(&path)?).is_none();
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
            file,
            number: *last,
            synced_len,
            segment_len_max,
            is_dead,
        })
    }

    /// Writes entries as a group and syncs it; when this returns, it is on the disk. Gives the bytes written. On a full
    /// disk none of them is in the journal and it can be tried again. On a failing one a new segment is tried, once.
    pub fn append(&mut self, entries: &[JournalEntry]) -> Result<u64, JournalError> {
        let mut frames = Vec::new();
        for entry in entries {
            let payload = zerkalo_proto::journal::encode(entry);
            if payload.len() > PAYLOAD_LEN_MAX {
                return Err(JournalError::TooLarge { len: payload.len() });
            }
            frame(&payload, &mut frames);
        }
        if frames.is_empty() {
            return Ok(0);
        }
        if self.is_dead || self.synced_len >= self.segment_len_max {
            self.rotate()?;
        }
        match self.write(&frames) {
            Err(JournalError::Sync { path, source }) => {
                tracing::error!(
                    file = %path.display(), %source, counts = self.synced_len,
                    "the disk failed to keep a group; it goes into a new segment: check the disk"
                );
                self.rotate()?;
                self.write(&frames)
            }
            written => written,
        }
    }

    /// Writes a group behind what is synced, and syncs it.
    fn write(&mut self, frames: &[u8]) -> Result<u64, JournalError> {
        let mut group = Vec::with_capacity(MARK_LEN + frames.len());
        mark_group(self.synced_len, &mut group);
        group.extend_from_slice(frames);
        let failed = |source| JournalError::Sync { path: segment_path(&self.dir, self.number), source };
        match self.file.write_all_at(&group, self.synced_len) {
            Ok(()) => {}
            Err(source) if is_full(&source) && self.file.set_len(self.synced_len).is_ok() => {
                return Err(JournalError::Full { path: self.path(), source });
            }
            Err(source) => {
                self.is_dead = true;
                return Err(failed(source));
            }
        }
        if let Err(source) = self.file.sync_data() {
            // The kernel may have dropped the pages and forgotten the failure: trying again would prove nothing.
            self.is_dead = true;
            return Err(failed(source));
        }
        self.synced_len += group.len() as u64;
        Ok(group.len() as u64)
    }

    fn rotate(&mut self) -> Result<(), JournalError> {
        self.file = create_segment(&self.dir, self.number + 1, self.synced_len)?;
        self.number += 1;
        self.synced_len = BEGIN_LEN;
        self.is_dead = false;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.number)
    }
}

impl Drop for Journal {
    /// Marks the last group as synced, so that damage to it is told from a torn end.
    fn drop(&mut self) {
        let mut mark = Vec::new();
        mark_group(self.synced_len, &mut mark);
        if !self.is_dead {
            // Without it the last group is believed less, and nothing else.
            let _ = self.file.write_all_at(&mark, self.synced_len);
        }
    }
}

/// Hands every entry in `dir` to `visit` and every segment's length to `passed`; takes no lock and changes nothing, so
/// that a collector may serve from it meanwhile. Gives the bytes of a torn end.
pub fn read(
    dir: &Path,
    mut visit: impl FnMut(JournalEntry),
    mut passed: impl FnMut(u64),
) -> Result<u64, JournalError> {
    let numbers = segments(dir)?;
    let mut torn = 0;
    for number in &numbers {
        let path = segment_path(dir, *number);
        let is_last = numbers.last() == Some(number);
        let counts = if is_last { None } else { heir_of(&begin_of(&segment_path(dir, number + 1))?) };
        let Segment { bytes, end, .. } = read_segment(&path, counts, &mut visit)?;
        torn = (bytes.len() - end) as u64;
        if torn > 0 && !is_last {
            return Err(JournalError::Corrupt { path, offset: end, what: "a frame cut short".to_owned() });
        }
        passed(bytes.len() as u64);
    }
    Ok(torn)
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

/// How a segment begins.
fn begin_of(path: &Path) -> Result<Vec<u8>, JournalError> {
    let mut begin = Vec::new();
    let file = File::open(path).map_err(io_error("open", path))?;
    file.take(BEGIN_LEN).read_to_end(&mut begin).map_err(io_error("read", path))?;
    Ok(begin)
}

/// Removes a segment that is no more than a beginning, and not a whole one: nothing was ever written behind it.
fn remove_unbegun(dir: &Path, number: u64) -> Result<bool, JournalError> {
    let path = segment_path(dir, number);
    let len = std::fs::metadata(&path).map_err(io_error("read", &path))?.len();
    let begin = begin_of(&path)?;
    // Eight bytes alone are an empty segment of an older version.
    if len > BEGIN_LEN || begin == MAGIC || heir_of(&begin).is_some() {
        return Ok(false);
    }
    std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))?;
    Ok(true)
}

/// Makes an empty segment that survives a power cut, or leaves nothing behind. Of the one before, `counts` bytes count.
fn create_segment(dir: &Path, number: u64, counts: u64) -> Result<File, JournalError> {
    let path = segment_path(dir, number);
    let mut begin = MAGIC.to_vec();
    mark_heir(counts, &mut begin);
    let create = || {
        let file = File::options().create(true).truncate(true).write(true).open(&path)?;
        file.write_all_at(&begin, 0)?;
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
    let Segment { bytes, end, last_group } = read_segment(path, None, visit)?;
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
    // The last group may be in the kernel's memory alone, after a sync that failed: it is built upon from here on, so it
    // is written anew.
    file.write_all_at(&bytes[last_group.min(end)..end], last_group as u64)
        .map_err(io_error("write", path))?;
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

/// A segment read.
struct Segment {
    bytes: Vec<u8>,
    /// Behind the last whole frame.
    end: usize,
    /// Where the last group begins; where there are no groups, the end.
    last_group: usize,
}

/// Hands every entry of a segment to `visit`. Only the first `counts` bytes count, where the next segment says so.
fn read_segment(
    path: &Path,
    counts: Option<u64>,
    visit: &mut impl FnMut(JournalEntry),
) -> Result<Segment, JournalError> {
    let mut bytes = std::fs::read(path).map_err(io_error("read", path))?;
    let corrupt = |offset, what: String| JournalError::Corrupt { path: path.to_owned(), offset, what };
    if let Some(counts) = counts.and_then(|counts| usize::try_from(counts).ok()) {
        if bytes.len() < counts {
            return Err(corrupt(bytes.len(), format!("{counts} bytes of it were synced")));
        }
        bytes.truncate(counts);
    }
    if bytes.len() < MAGIC.len() && (MAGIC.starts_with(&bytes) || bytes.iter().all(|byte| *byte == 0)) {
        return Ok(Segment { bytes, end: 0, last_group: 0 });
    }
    if !bytes.starts_with(MAGIC) {
        return Err(corrupt(0, "it does not begin as a journal segment of this version".to_owned()));
    }
    let (mut offset, mut last_group) = (MAGIC.len(), None);
    loop {
        match read_frame(&bytes, offset) {
            Found::Frame { payload, next } => {
                let entry = zerkalo_proto::journal::decode(payload)
                    .map_err(|error| corrupt(offset, format!("the entry cannot be read: {error}")))?;
                visit(entry);
                offset = next;
            }
            Found::Mark { next } => {
                last_group = Some(offset);
                offset = next;
            }
            Found::End | Found::Torn => {
                return Ok(Segment { bytes, end: offset, last_group: last_group.unwrap_or(offset) });
            }
            Found::Corrupt => {
                return Err(corrupt(offset, "a frame's length or checksum is wrong".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
