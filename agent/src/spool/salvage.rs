//! A store that cannot be opened: moved aside, and what is whole of it read out byte by byte into a new one. Statements and
//! marks say themselves what they are (stored.rs), wherever in the files they stand; older copies of them stand there too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerkalo_core::evidence::BODY_LEN_MAX;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::{Batch, Store};

use super::stored::{HEADER_LEN, MARK, Mark, Reader, STATEMENT, Stored, key_of};
use super::{COMMIT_RECORDS_MAX, Damage, META, RECORDS, Spool, SpoolError, move_dir, remove_dir};

/// Bytes read at a time. With the longest thing less than 128 KiB: each larger piece of memory given back makes glibc keep
/// the next ones of its size, and sled asks for twenty megabytes that it hardly touches.
const WINDOW_LEN: usize = 32 * 1024;
/// The longest thing looked for.
const THING_LEN_MAX: usize = HEADER_LEN + BODY_LEN_MAX;
/// Damaged stores kept for a person to look at; older ones give way.
const ASIDE_MAX: usize = 2;

/// The newest mark's version that stands anywhere in a store's file; 0 without one.
pub(super) fn newest_version(dir: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for_each_thing(&dir.join("db"), |_, bytes| {
        newest = newest.max(Mark::read(bytes).map_or(0, |mark| mark.version));
    })?;
    Ok(newest)
}

/// Hands every place where a statement or a mark may begin to `look`, with what follows it.
fn for_each_thing(path: &Path, mut look: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut begin = 0u64;
    let mut window = Vec::with_capacity(WINDOW_LEN + THING_LEN_MAX);
    loop {
        let room = WINDOW_LEN + THING_LEN_MAX - window.len();
        (&mut file).take(room as u64).read_to_end(&mut window)?;
        let starts = window.len().min(WINDOW_LEN);
        let mut at = 0;
        while let Some(next) = window[at..starts].iter().position(|byte| *byte == STATEMENT[0]) {
            at += next;
            let rest = &window[at..];
            if rest.starts_with(&STATEMENT) || rest.starts_with(&MARK) {
                look(begin + at as u64, rest);
            }
            at += 1;
        }
        if window.len() <= WINDOW_LEN {
            return Ok(());
        }
        window.drain(..WINDOW_LEN);
        begin += WINDOW_LEN as u64;
    }
}

/// Where a statement stands in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: usize,
    offset: u64,
    len: usize,
    first: u64,
}

/// What was found, by epoch and sequence.
#[derive(Debug, Default)]
struct Findings {
    files: Vec<PathBuf>,
    statements: BTreeMap<(u64, u64), Place>,
    mark: Option<Mark>,
}

impl Spool {
    /// Moves the store aside and begins a new one with what is whole of it.
    pub(super) fn salvage(&mut self, now: UnixMillis) -> Result<Damage, SpoolError> {
        self.store = None;
        let unreadable = |source| SpoolError::Salvage { dir: self.dir.clone(), source };
        let before = self.before();
        let source = if before.exists() { &before } else { &self.dir };
        let findings = Findings::read(source, &self.reader).map_err(unreadable)?;
        let (mark, statements) = findings.whole_chain(&self.reader).map_err(unreadable)?;
        let next = self.dir.with_extension("next");
        remove_dir(&next)?;
        let saved = statements.len() as u64;
        {
            let store = Store::open(&next)?;
            for places in statements.chunks(COMMIT_RECORDS_MAX) {
                let mut batch = Batch::default();
                for place in places {
                    let stored = findings.stored(place, &self.reader).map_err(unreadable)?;
                    let Some(stored) = stored else { continue };
                    let key = key_of(stored.signed.epoch, stored.signed.sequence);
                    batch.put(RECORDS, &key, &stored.to_bytes());
                }
                store.commit(batch)?;
            }
            let mut batch = Batch::default();
            if let Some(mark) = mark {
                batch.put(META, super::MARK, &mark.to_bytes());
            }
            store.commit(batch)?;
        }
        let aside = self.dir.with_extension(format!("damaged-{}", now.0));
        remove_dir(&aside)?;
        if before.exists() {
            move_dir(&before, &aside)?;
            remove_dir(&self.dir)?;
        } else {
            move_dir(&self.dir, &aside)?;
        }
        self.finish_renewal()?;
        self.fault = None;
        self.forget_older_asides(&aside);
        Ok(Damage { aside, saved })
    }

    /// Where a store is copied to before it is opened.
    pub(super) fn before(&self) -> PathBuf {
        self.dir.with_extension("before")
    }

    /// Copies the store's file: sled cuts off what it takes for a torn end, and may take a flipped bit for one. Where there
    /// is no room for a copy, what is left after that must do.
    pub(super) fn copy_before_opening(&self) {
        let (file, before) = (self.dir.join("db"), self.before());
        let copied = remove_dir(&before).is_ok()
            && (!file.exists()
                || std::fs::create_dir(&before)
                    .and_then(|()| std::fs::copy(&file, before.join("db")))
                    .is_ok());
        if !copied {
            tracing::warn!(dir = %before.display(), "the spool could not be copied before it is opened");
            let _ = remove_dir(&before);
        }
    }

    /// Begins anew with what is whole, while the agent runs.
    pub(super) fn salvage_in_passing(&mut self, now: UnixMillis) -> Result<(), SpoolError> {
        self.fault = Some(super::Fault::Damage);
        let Damage { aside, saved } = self.salvage(now)?;
        tracing::error!(
            aside = %aside.display(), saved,
            "the spool was damaged and is moved aside; what is whole of it goes on in a new one, gaps tell of the rest: \
             check this box's disk"
        );
        Ok(())
    }

    fn forget_older_asides(&self, newest: &Path) {
        let (Some(home), Some(name)) = (self.dir.parent(), self.dir.file_name()) else { return };
        let prefix = format!("{}.damaged-", name.to_string_lossy());
        let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
        let mut older: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .filter(|path| path != newest)
            .collect();
        older.sort();
        for path in older.iter().rev().skip(ASIDE_MAX - 1) {
            // Left behind it takes room, and no more.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

impl Findings {
    /// Looks through every file of a closed store.
    fn read(dir: &Path, reader: &Reader) -> io::Result<Self> {
        let mut findings = Self::default();
        for dir in [dir.to_owned(), dir.join("blobs")] {
            let entries = match std::fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    findings.files.push(entry.path());
                }
            }
        }
        findings.files.sort();
        for file in 0..findings.files.len() {
            findings.read_file(file, reader)?;
        }
        Ok(findings)
    }

    fn read_file(&mut self, number: usize, reader: &Reader) -> io::Result<()> {
        let path = self.files[number].clone();
        for_each_thing(&path, |offset, bytes| {
            if let Some((stored, len)) = reader.read_whole(bytes) {
                self.note(&stored, Place { file: number, offset, len, first: stored.first() });
            } else if let Some(mark) = Mark::read(bytes) {
                let newer =
                    Some(mark).filter(|mark| self.mark.is_none_or(|known| known.version < mark.version));
                self.mark = newer.or(self.mark);
            }
        })
    }

    /// Of two gaps with one end the wider is the later.
    fn note(&mut self, stored: &Stored, place: Place) {
        let key = (stored.signed.epoch, stored.signed.sequence);
        let known = self.statements.entry(key).or_insert(place);
        if place.first < known.first {
            *known = place;
        }
    }

    /// The newest epoch's chain as far as it is here: nothing that a gap stands for, nothing behind the head.
    fn whole_chain(&self, reader: &Reader) -> io::Result<(Option<Mark>, Vec<Place>)> {
        let newest = self.statements.keys().next_back().map(|(epoch, _)| *epoch);
        let Some(epoch) = newest.max(self.mark.map(|mark| mark.head.epoch)) else {
            return Ok((None, Vec::new()));
        };
        let mut chain: Vec<Place> = Vec::new();
        let mut covered_from = u64::MAX;
        for ((_, sequence), place) in self.statements.range((epoch, 0)..=(epoch, u64::MAX)).rev() {
            if *sequence < covered_from {
                covered_from = place.first;
                chain.push(*place);
            }
        }
        chain.reverse();
        let mut mark = self.mark.filter(|mark| mark.head.epoch == epoch);
        if let Some(last) = chain.last() {
            let last = self.stored(last, reader)?.map(|stored| stored.link());
            if let Some(last) = last.filter(|last| mark.is_none_or(|mark| mark.head.sequence < last.sequence))
            {
                let known = mark.or(self.mark).unwrap_or(Mark::START);
                let acked = mark.map_or(0, |mark| mark.acked);
                mark = Some(Mark { head: last, acked, ..known });
            }
        }
        // Whoever had joined had joined with this chain.
        let mark = mark.map(|mark| Mark {
            version: mark.version + 1,
            vouched: if mark.has_joined || self.mark.is_none() { mark.head.sequence } else { mark.vouched },
            has_joined: false,
            ..mark
        });
        Ok((mark, chain))
    }

    fn stored(&self, place: &Place, reader: &Reader) -> io::Result<Option<Stored>> {
        let mut bytes = vec![0; place.len];
        File::open(&self.files[place.file])?.read_exact_at(&mut bytes, place.offset)?;
        Ok(reader.read_whole(&bytes).map(|(stored, _)| stored))
    }
}
