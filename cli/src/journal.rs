//! A journal's segments, read in order. Reads only.
//!
//! The tail a crash tore off was never acknowledged and is passed over; damage anywhere else ends the reading.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zerkalo_core::journal::{Found, JournalEntry, MAGIC, MARK_LEN, heir_of, read_frame};
use zerkalo_proto::journal::decode;

/// How the names of segments end.
const SEGMENT_EXTENSION: &str = "zkj";
/// Largest segment read, in bytes: a collector begins a new one long before.
const SEGMENT_LEN_MAX: u64 = 1024 * 1024 * 1024;

/// Hands on every entry of a collector's DIR/journal, or of one segment of it, until told to stop.
pub fn read_journal(
    journal: &Path,
    mut take: impl FnMut(JournalEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let segments = segments(journal)?;
    for (number, path) in segments.iter().enumerate() {
        let heir = segments.get(number + 1).map(|heir| begin_of(heir)).transpose()?;
        if read_segment(path, heir.as_deref(), &mut take)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The files to read, in order.
fn segments(journal: &Path) -> Result<Vec<PathBuf>> {
    let place = || format!("cannot read the journal {}", journal.display());
    if !std::fs::metadata(journal).with_context(place)?.is_dir() {
        return Ok(vec![journal.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(journal).with_context(place)? {
        let path = entry.with_context(place)?.path();
        if path.extension().is_some_and(|extension| extension == SEGMENT_EXTENSION) {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!(
            "{} holds no segments (*.{SEGMENT_EXTENSION}); a collector's is DIR/journal",
            journal.display()
        );
    }
    // Numbers are written with leading zeros: the order of names is the order of time.
    found.sort();
    for pair in found.windows(2) {
        if number_of(&pair[0]).zip(number_of(&pair[1])).is_some_and(|(before, after)| after != before + 1) {
            bail!(
                "{} does not follow {}: a segment between them is missing; restore it from a backup",
                pair[1].display(),
                pair[0].display()
            );
        }
    }
    Ok(found)
}

fn number_of(segment: &Path) -> Option<u64> {
    segment.file_stem()?.to_str()?.parse().ok()
}

/// The first bytes of a segment: what it says of the one before.
fn begin_of(path: &Path) -> Result<Vec<u8>> {
    let place = || format!("cannot read the segment {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(place)?;
    file.take((MAGIC.len() + MARK_LEN) as u64).read_to_end(&mut bytes).with_context(place)?;
    Ok(bytes)
}

/// `heir` is how the segment after this one begins.
fn read_segment(
    path: &Path,
    heir: Option<&[u8]>,
    take: &mut impl FnMut(JournalEntry) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let place = || format!("cannot read the segment {}", path.display());
    let len = std::fs::metadata(path).with_context(place)?.len();
    if len > SEGMENT_LEN_MAX {
        bail!("{} has {len} bytes; no segment is larger than {SEGMENT_LEN_MAX}", path.display());
    }
    let mut bytes = std::fs::read(path).with_context(place)?;
    let is_last = heir.is_none();
    if let Some(counts) = heir.and_then(heir_of) {
        // What lies behind was written to a failing disk and never acknowledged.
        bytes.truncate(usize::try_from(counts).unwrap_or(usize::MAX));
        if (bytes.len() as u64) < counts {
            bail!(
                "{} has {} bytes, but {counts} were synced; restore this segment from a backup",
                path.display(),
                bytes.len()
            );
        }
    }
    if !bytes.starts_with(MAGIC) {
        if is_last && MAGIC.starts_with(&bytes) {
            eprintln!("note: {} was begun and never written to", path.display());
            return Ok(ControlFlow::Continue(()));
        }
        bail!("{} is no journal segment: its first bytes are not those of the format", path.display());
    }
    let mut offset = MAGIC.len();
    loop {
        match read_frame(&bytes, offset) {
            Found::Frame { payload, next } => {
                let entry = decode(payload).with_context(|| {
                    format!("{} at offset {offset}: the entry cannot be read; was it written by a newer collector?", path.display())
                })?;
                if take(entry)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                offset = next;
            }
            Found::Mark { next } => offset = next,
            Found::End => return Ok(ControlFlow::Continue(())),
            Found::Torn if is_last => {
                eprintln!(
                    "note: {} is torn at offset {offset} ({} bytes passed over): what a crash leaves, never acknowledged",
                    path.display(),
                    bytes.len() - offset
                );
                return Ok(ControlFlow::Continue(()));
            }
            Found::Torn | Found::Corrupt => bail!(
                "{} is corrupt at offset {offset}: nothing after it can be trusted; restore this segment from a backup",
                path.display()
            ),
        }
    }
}
