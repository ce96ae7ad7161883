//! The journal's bytes: frames of a segment, their payloads, a whole directory.

use std::path::Path;
use std::sync::OnceLock;

use zerkalo_collector::journal::{Journal, mend::mend_journal};
use zerkalo_core::journal::{
    Event, Found, JournalEntry, MAGIC, PAYLOAD_LEN_MAX, frame, heir_of, next_whole, read_frame,
};
use zerkalo_core::words::UnixMillis;

use crate::{Read, refused};

/// Frames read of one segment: as many as fit into any corpus file.
const FRAMES_MAX: usize = 100_000;

/// Reads a segment as the collector does, and what a mend would find behind damage.
pub fn frames(bytes: &[u8]) -> Read {
    let (mut offset, mut payloads) = (MAGIC.len().min(bytes.len()), Vec::new());
    let end = loop {
        assert!(payloads.len() <= FRAMES_MAX, "frames without end");
        match read_frame(bytes, offset) {
            Found::Frame { payload, next } => {
                assert!((1..=PAYLOAD_LEN_MAX).contains(&payload.len()));
                assert!(next > offset && next <= bytes.len(), "{next} follows {offset}");
                payloads.push(payload);
                offset = next;
            }
            Found::Mark { next } => {
                assert!(next > offset && next <= bytes.len(), "{next} follows {offset}");
                offset = next;
            }
            end => break end,
        }
    };
    assert_eq!(end == Found::End, offset >= bytes.len(), "{end:?} at {offset}");
    let _ = heir_of(bytes);
    if let Some(next) = next_whole(bytes, offset + 1) {
        assert!(next > offset);
        let found = read_frame(bytes, next);
        assert!(matches!(found, Found::Frame { .. } | Found::Mark { .. }), "{found:?} at {next}");
    }
    // What was read, written again, is read the same.
    let mut again = MAGIC.to_vec();
    payloads.iter().for_each(|payload| frame(payload, &mut again));
    let mut offset = MAGIC.len();
    for expected in &payloads {
        let Found::Frame { payload, next } = read_frame(&again, offset) else { panic!("a frame is lost") };
        assert_eq!(payload, *expected);
        offset = next;
    }
    assert_eq!(read_frame(&again, offset), Found::End);
    if end == Found::End && bytes.len() > MAGIC.len() { Read::Whole } else { Read::Refused }
}

/// Opens a journal of one segment, and where it is damaged mends it: then it opens, with entries that it held before.
pub fn journal(bytes: &[u8]) -> Read {
    let home = tempfile::tempdir_in(scratch()).expect("room for a segment");
    let dir = home.path().join("journal");
    std::fs::create_dir(&dir).expect("room for a directory");
    std::fs::write(dir.join("00000001.zkj"), bytes).expect("room for a segment");
    let mut entries = Vec::new();
    let opened = Journal::open(&dir, |entry| entries.push(entry)).map(drop);
    let read = match opened {
        Ok(()) => Read::Whole,
        Err(error) => {
            refused(&error, bytes);
            let mended = mend_journal(&dir, UnixMillis(1_800_000_000_000));
            mended.unwrap_or_else(|error| panic!("not mended: {error:?}"));
            entries.clear();
            Read::Refused
        }
    };
    // A second start finds the same, and goes on.
    let before = reopened(&dir);
    if read == Read::Whole {
        assert_eq!(before, entries);
    }
    let tick = JournalEntry { at: UnixMillis(1_900_000_000_000), event: Event::Tick };
    let mut journal = Journal::open(&dir, |_| {}).expect("it opened the line before");
    journal.append(std::slice::from_ref(&tick)).expect("a journal that opens goes on");
    drop(journal);
    let after = reopened(&dir);
    assert_eq!((&after[..before.len()], &after[before.len()..]), (&before[..], &[tick][..]));
    read
}

fn reopened(dir: &Path) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    let opened = Journal::open(dir, |entry| entries.push(entry)).map(drop);
    opened.unwrap_or_else(|error| panic!("it does not open a second time: {error:?}"));
    entries
}

/// Where files are tried out: memory, where the system has such a place.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<std::path::PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
    })
}

/// Reads a payload.
pub fn entry(bytes: &[u8]) -> Read {
    use zerkalo_proto::journal::{decode, decode_instant, decode_record, encode};
    let entry = match decode(bytes) {
        Ok(entry) => entry,
        Err(error) => return refused(&error, bytes),
    };
    assert_eq!(decode(&encode(&entry)).expect("what was read is written"), entry);
    assert_eq!(decode_instant(bytes).expect("as the entry"), entry.at);
    let record = decode_record(bytes).expect("as the entry");
    match &entry.event {
        Event::Record { signed, .. } => assert_eq!(record.as_ref(), Some(signed)),
        _ => assert_eq!(record, None),
    }
    Read::Whole
}
