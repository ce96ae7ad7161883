//! The journal on a real disk: many segments, torn ends, damage, a dead segment.

use super::*;
use zerkalo_core::journal::Event;
use zerkalo_core::words::UnixMillis;

/// Where the first frame of a segment stands.
const FIRST_FRAME: usize = MAGIC.len() + 2 * MARK_LEN;

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
        // Where the beginning was torn, the one before began another.
        let _ = std::fs::remove_file(segment_path(dir.path(), 2));
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
    bytes[FIRST_FRAME + 2] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(dir.path(), |_| {}).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { offset: FIRST_FRAME, .. }), "{error}");
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
    check(1, &|bytes| bytes[FIRST_FRAME + 9] ^= 1, "byte 40");
    check(1, &|bytes| bytes.truncate(45), "were synced");
    check(2, &|bytes| bytes[0] ^= 1, "byte 0");
    std::fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    let error = Journal::open(dir.path(), |_| {}).unwrap_err().to_string();
    assert!(error.contains("00000002.zkj is missing"), "{error}");
}

#[test]
fn early_pages_lost_from_a_group_that_was_never_acknowledged_are_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), SEGMENT_LEN_MAX);
    journal.append(&[tick(1)]).unwrap();
    let begin = journal.synced_len as usize;
    journal.append(&(2..900).map(tick).collect::<Vec<_>>()).unwrap();
    let end = journal.synced_len;
    drop(journal);
    let path = segment_path(dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    for lost in [begin..begin + 512, begin + 100..begin + 612, begin + MARK_LEN + 8..begin + MARK_LEN + 9] {
        let mut bytes = whole[..end as usize].to_vec();
        bytes[lost].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        let (mut journal, seen) = open(dir.path(), SEGMENT_LEN_MAX);
        assert!(seen.len() < 10 && seen[0] == 1, "{seen:?}");
        journal.append(&[tick(1_000)]).unwrap();
        drop(journal);
        assert_eq!(open(dir.path(), SEGMENT_LEN_MAX).1, [&seen[..], &[1_000]].concat());
    }
    // The same once it was acknowledged, as the mark of a clean end says.
    let mut bytes = whole.clone();
    bytes[begin + 100..begin + 612].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Journal::open(dir.path(), |_| {}).unwrap_err(), JournalError::Corrupt { .. }));
}

#[test]
fn what_a_failing_disk_left_behind_the_synced_part_of_a_dead_segment_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path(), SEGMENT_LEN_MAX);
    journal.append(&[tick(1)]).unwrap();
    // As after a sync that failed: the group is in the file all the same.
    let mut group = Vec::new();
    mark_group(journal.synced_len, &mut group);
    frame(&zerkalo_proto::journal::encode(&tick(2)), &mut group);
    journal.file.write_all_at(&group, journal.synced_len).unwrap();
    journal.is_dead = true;
    journal.append(&[tick(2), tick(3)]).unwrap();
    drop(journal);
    assert_eq!(segments(dir.path()).unwrap(), [1, 2]);
    let (journal, seen) = open(dir.path(), SEGMENT_LEN_MAX);
    assert_eq!(seen, [1, 2, 3]);
    drop(journal);
    // Should the new segment be lost before it began, the old one goes on.
    std::fs::write(segment_path(dir.path(), 3), [0; 20]).unwrap();
    assert_eq!(open(dir.path(), SEGMENT_LEN_MAX).1, [1, 2, 3]);
}

#[test]
fn a_segment_of_an_older_version_is_read_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = MAGIC.to_vec();
    frame(&zerkalo_proto::journal::encode(&tick(1)), &mut old);
    std::fs::write(segment_path(dir.path(), 1), &old).unwrap();
    let (mut journal, seen) = open(dir.path(), SEGMENT_LEN_MAX);
    assert_eq!(seen, [1]);
    journal.append(&[tick(2)]).unwrap();
    drop(journal);
    assert_eq!(std::fs::read(segment_path(dir.path(), 1)).unwrap(), old);
    assert_eq!(open(dir.path(), SEGMENT_LEN_MAX).1, [1, 2]);
}
