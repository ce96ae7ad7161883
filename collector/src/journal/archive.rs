//! Single records out of the journal, by hash, while the writer goes on appending.
//!
//! No index is kept: entries bear rising instants, so that the segments in which a record can stand are few. They are
//! read backwards from the newest of them, one reader at a time. It takes no lock, changes nothing and verifies nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_core::journal::{FRAME_HEADER_LEN, Found, MAGIC, MARK_LEN, PAYLOAD_LEN_MAX, heir_of, read_frame};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::journal::{decode_instant, decode_record};

use super::{BEGIN_LEN, JournalError, begin_of, io_error, segment_path, segments};

/// Segments read for one question: a gigabyte, some seconds.
const SEGMENTS_READ_MAX: usize = 16;
/// Bytes of a segment in which its first entry usually ends.
const FIRST_LEN: u64 = 64 * 1024;
/// And in which it ends at the latest.
const FIRST_LEN_MAX: u64 = BEGIN_LEN + (MARK_LEN + FRAME_HEADER_LEN + PAYLOAD_LEN_MAX) as u64;

/// When entries were written, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub from: UnixMillis,
    pub until: UnixMillis,
}

/// A journal's past.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    turn: Semaphore,
}

impl Archive {
    /// Of the journal in `dir`; nothing is read yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, turn: Semaphore::new(1) }
    }

    /// The records of these hashes that were written within the span; one that is not there is not among them.
    pub async fn find(
        &self,
        wanted: BTreeSet<Sha256>,
        span: Span,
    ) -> Result<BTreeMap<Sha256, SignedRecord>, JournalError> {
        let _turn = self.turn.acquire().await.expect("nobody closes the turn");
        block_in_place(|| find(&self.dir, wanted, span))
    }
}

fn find(
    dir: &Path,
    mut wanted: BTreeSet<Sha256>,
    span: Span,
) -> Result<BTreeMap<Sha256, SignedRecord>, JournalError> {
    let (mut found, mut read) = (BTreeMap::new(), 0);
    let numbers = segments(dir)?;
    for number in numbers.iter().rev() {
        let path = segment_path(dir, *number);
        // Nothing of interest stands in a segment that began later, or in one without an entry.
        let Some(began) = first_instant(&path)?.filter(|began| *began <= span.until) else { continue };
        let is_last = numbers.last() == Some(number);
        let counts = if is_last { None } else { heir_of(&begin_of(&segment_path(dir, number + 1))?) };
        read_records(&path, counts, &mut |record| {
            let hash = record.hash();
            if wanted.remove(&hash) {
                found.insert(hash, record);
            }
            !wanted.is_empty()
        })?;
        read += 1;
        if wanted.is_empty() || began < span.from || read == SEGMENTS_READ_MAX {
            break;
        }
    }
    Ok(found)
}

/// When a segment's first entry was written.
fn first_instant(path: &Path) -> Result<Option<UnixMillis>, JournalError> {
    for limit in [FIRST_LEN, FIRST_LEN_MAX] {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io_error("open", path))?;
        file.take(limit).read_to_end(&mut bytes).map_err(io_error("read", path))?;
        let mut offset = MAGIC.len();
        while let Found::Mark { next } = read_frame(&bytes, offset) {
            offset = next;
        }
        if let Found::Frame { payload, .. } = read_frame(&bytes, offset) {
            return decode_instant(payload).map(Some).map_err(|error| unreadable(path, offset, &error));
        }
        if (bytes.len() as u64) < limit {
            break;
        }
    }
    Ok(None)
}

/// Hands the records of a segment to `visit` until it says `false`, or what is not whole begins.
fn read_records(
    path: &Path,
    counts: Option<u64>,
    visit: &mut impl FnMut(SignedRecord) -> bool,
) -> Result<(), JournalError> {
    let mut bytes = std::fs::read(path).map_err(io_error("read", path))?;
    if let Some(counts) = counts.and_then(|counts| usize::try_from(counts).ok()) {
        bytes.truncate(counts);
    }
    let mut offset = MAGIC.len();
    loop {
        match read_frame(&bytes, offset) {
            Found::Frame { payload, next } => {
                let record = decode_record(payload).map_err(|error| unreadable(path, offset, &error))?;
                if record.is_some_and(|record| !visit(record)) {
                    return Ok(());
                }
                offset = next;
            }
            Found::Mark { next } => offset = next,
            // The writer may be at it just now.
            Found::End | Found::Torn => return Ok(()),
            Found::Corrupt => {
                return Err(unreadable(path, offset, &"a frame's length or checksum is wrong"));
            }
        }
    }
}

fn unreadable(path: &Path, offset: usize, what: &dyn std::fmt::Display) -> JournalError {
    JournalError::Corrupt { path: path.to_owned(), offset, what: what.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::journal::Journal;
    use zerkalo_core::evidence::{ChainLink, SecretKey};
    use zerkalo_core::journal::{Event, JournalEntry};
    use zerkalo_core::record::{Cause, ProbeRecord};
    use zerkalo_core::target::TargetUrl;
    use zerkalo_core::words::AgentId;

    /// A journal of many small segments; a record a minute.
    fn journal(dir: &Path, records: u64) -> (Journal, Vec<SignedRecord>) {
        let key = SecretKey::from_bytes(&[7; 32]);
        let agent = AgentId::parse("a1").unwrap();
        let mut journal = Journal::open_with(dir, 1_000, |_| ()).unwrap();
        let (mut last, mut signed) = (ChainLink::start(1), Vec::new());
        for minute in 0..records {
            let record = SignedRecord::sign(&agent, last, vec![minute as u8; 300], &key);
            last = record.link();
            // Its body is no probe's: this reader does not look into it, nor does the journal.
            let event = Event::Record { signed: record.clone(), facts: Box::new(facts()), is_ahead: false };
            let tick = JournalEntry { at: at(minute), event: Event::Tick };
            journal.append(&[tick, JournalEntry { at: at(minute), event }]).unwrap();
            signed.push(record);
        }
        (journal, signed)
    }

    pub fn facts() -> ProbeRecord {
        ProbeRecord {
            clock: None,
            network: None,
            hops: vec![],
            screenshot: None,
            uplink: None,
            mirror: None,
            url: TargetUrl::parse("https://mirror.example/").unwrap(),
            list_version: 1,
            cause: Cause::Scheduled,
            started_at: UnixMillis(1),
            duration_micros: 0,
            agent_version: String::new(),
            dns: vec![],
            tcp: vec![],
            tls: vec![],
            http: vec![],
            quic: vec![],
            references: vec![],
        }
    }

    fn at(minute: u64) -> UnixMillis {
        UnixMillis((minute + 1) * 60_000)
    }

    fn numbers(found: &BTreeMap<Sha256, SignedRecord>) -> BTreeSet<u64> {
        found.values().map(|record| record.sequence - 1).collect()
    }

    #[test]
    fn records_are_found_in_their_span_while_the_journal_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, signed) = journal(dir.path(), 40);
        assert!(segments(dir.path()).unwrap().len() > 10);
        let check = |asked: &[usize], from: u64, until: u64, expected: &[u64]| {
            let wanted = asked.iter().map(|n| signed[*n].hash()).collect();
            let found = find(dir.path(), wanted, Span { from: at(from), until: at(until) }).unwrap();
            assert_eq!(numbers(&found), expected.iter().copied().collect(), "{asked:?} in {from}..={until}");
            assert!(found.iter().all(|(hash, record)| *hash == record.hash()));
        };
        check(&[39], 39, 39, &[39]);
        check(&[20, 22, 25], 20, 25, &[20, 22, 25]);
        check(&[0], 0, 1, &[0]);
        // Neither what was written long before the span nor what came long after it is looked for.
        check(&[1, 30], 28, 32, &[30]);
        check(&[30, 39], 28, 32, &[30]);
        let strange = [Sha256::of(b"nothing")].into();
        assert!(
            find(dir.path(), strange, Span { from: at(0), until: at(39) }).unwrap().is_empty(),
            "what is not there is not found"
        );
    }

    #[test]
    fn a_question_reads_no_more_than_its_share_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, signed) = journal(dir.path(), 100);
        assert!(segments(dir.path()).unwrap().len() > SEGMENTS_READ_MAX + 4);
        let wanted = [signed[0].hash(), signed[99].hash()].into();
        let found = find(dir.path(), wanted, Span { from: at(0), until: at(99) }).unwrap();
        assert_eq!(numbers(&found), [99].into());
    }

    #[test]
    fn a_group_in_the_writing_hides_nothing_before_it_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, signed) = journal(dir.path(), 3);
        drop(journal);
        let last = *segments(dir.path()).unwrap().last().unwrap();
        let path = segment_path(dir.path(), last);
        let mut bytes = std::fs::read(&path).unwrap();
        let whole = bytes.clone();
        zerkalo_core::journal::mark_group(bytes.len() as u64, &mut bytes);
        bytes.extend_from_slice(&[0, 0, 1, 0, 9, 9]);
        std::fs::write(&path, &bytes).unwrap();
        let span = Span { from: at(0), until: at(9) };
        let find = || find(dir.path(), [signed[2].hash()].into(), span);
        assert_eq!(numbers(&find().unwrap()), [2].into());
        let mut damaged = whole;
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = find().unwrap_err().to_string();
        assert!(error.contains("is damaged at byte"), "{error}");
    }
}
