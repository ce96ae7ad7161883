//! The spool on a real disk: what survives, what is dropped, how chains go on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use zerkalo_agent::spool::{Damage, Limits, Resumed, Spool, SpoolError};
use zerkalo_agent::worth::Worth;
use zerkalo_core::admission::{ChainHead, Place, place};
use zerkalo_core::evidence::{ChainLink, CheckedRecord, SecretKey, SignedRecord};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_durable::store::StoreError;

/// How long another test's child may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn open(dir: &Path) -> Spool {
    open_patiently(dir, Limits::default()).0
}

/// Opens it, where need be a moment later: a child process that another test starts holds this process's locks until it
/// has become its own program.
pub fn open_patiently(dir: &Path, limits: Limits) -> (Spool, Option<Damage>) {
    let began = Instant::now();
    loop {
        match Spool::open(dir, &AgentId::parse("a1").unwrap(), key(), limits, NOW) {
            Err(SpoolError::Store(StoreError::InUse { .. })) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Closes it and waits until nobody writes to its file any more: sled's own threads end a moment later.
pub fn close(spool: Spool, dir: &Path) {
    drop(spool);
    let inode = std::fs::metadata(dir.join("db")).unwrap().ino();
    let is_held = || std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(":{inode} 0 EOF"));
    let began = Instant::now();
    while is_held() {
        assert!(began.elapsed() < PATIENCE, "the store stays locked");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn append(spool: &mut Spool, texts: &[&str]) {
    for text in texts {
        spool.append(text.as_bytes().to_vec(), Worth::Ok, NOW).unwrap();
    }
}

fn texts(records: &[SignedRecord]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.body).unwrap()).collect()
}

/// Admits as a collector does; returns where its chain ends.
fn admit(head: &mut ChainHead, records: &[SignedRecord]) -> ChainLink {
    for record in records {
        assert_eq!(place(&CheckedRecord::new(record.clone(), &key().public()), head), Ok(Place::Next));
        head.advance(record.link());
    }
    head.last()
}

#[test]
fn records_and_the_chain_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two"]);
    drop(spool);
    let mut spool = open(dir.path());
    append(&mut spool, &["three"]);
    let waiting = spool.after(0, 10, 1000).unwrap();
    assert_eq!(texts(&waiting), ["one", "two", "three"]);
    let end = admit(&mut ChainHead::default(), &waiting);
    assert_eq!((end, spool.unacknowledged()), (spool.head(), 3));
}

#[test]
fn batches_are_bounded_by_count_and_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["11111", "22222", "33333"]);
    assert_eq!(spool.after(0, 2, 1000).unwrap().len(), 2);
    assert_eq!(texts(&spool.after(1, 10, 5).unwrap()), ["22222"]);
    assert_eq!(texts(&spool.after(1, 10, 1).unwrap()), ["22222"]);
    assert!(spool.after(3, 10, 1000).unwrap().is_empty());
}

#[test]
fn acknowledged_records_are_kept_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two", "three"]);
    spool.ack(1, 2, NOW.plus_millis(DAY_MILLIS)).unwrap();
    assert_eq!((spool.unacknowledged(), spool.after(0, 10, 1000).unwrap().len()), (1, 3));
    spool.ack(1, 2, NOW.plus_millis(DAY_MILLIS + 1)).unwrap();
    assert_eq!(texts(&spool.after(0, 10, 1000).unwrap()), ["three"]);
    drop(spool);
    let mut spool = open(dir.path());
    assert_eq!(spool.unacknowledged(), 1);
    append(&mut spool, &["four"]);
    assert_eq!(spool.head().sequence, 4);
}

#[test]
fn resuming_drops_what_the_collector_has_and_sends_again_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two", "three"]);
    let mut head = ChainHead::default();
    let records = spool.after(0, 10, 1000).unwrap();
    let at_two = admit(&mut head, &records[..2]);
    assert_eq!(spool.resume(at_two, NOW).unwrap(), Resumed::After(2));
    assert_eq!(spool.unacknowledged(), 1);
    // The collector was set back to the first record, which is still kept here.
    assert_eq!(spool.resume(records[0].link(), NOW).unwrap(), Resumed::After(1));
    // The collector knows nothing any more.
    assert_eq!(spool.resume(ChainLink::default(), NOW).unwrap(), Resumed::After(0));
    assert_eq!(spool.head().epoch, 1);
    // And what it lost is kept here no more.
    spool.ack(1, 2, NOW.plus_millis(DAY_MILLIS + 1)).unwrap();
    assert_eq!(spool.resume(ChainLink::default(), NOW).unwrap(), Resumed::CollectorBehind);
    assert_eq!(texts(&spool.after(0, 10, 1000).unwrap()), ["three"]);
}

#[test]
fn what_a_restored_collector_lost_waits_again_and_is_not_forgotten_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two", "three"]);
    let first = spool.after(0, 1, 1000).unwrap()[0].link();
    spool.ack(1, 3, NOW).unwrap();
    assert_eq!(spool.resume(first, NOW.plus_millis(DAY_MILLIS)).unwrap(), Resumed::After(1));
    drop(spool);
    let mut spool = open(dir.path());
    spool.ack(1, 1, NOW.plus_millis(9 * DAY_MILLIS)).unwrap();
    assert_eq!(
        (spool.unacknowledged(), texts(&spool.after(1, 10, 1000).unwrap())),
        (2, vec!["two", "three"])
    );
}

#[test]
fn a_collector_that_lost_everything_gets_all_that_is_kept_of_every_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two", "three"]);
    spool.ack(1, 2, NOW).unwrap();
    spool.begin_epoch(4, NOW).unwrap();
    append(&mut spool, &["four"]);
    spool.ack(4, 2, NOW).unwrap();
    append(&mut spool, &["five"]);
    assert_eq!(spool.resume(ChainLink::default(), NOW).unwrap(), Resumed::CollectorBehind);
    let waiting = spool.after(0, 10, 1000).unwrap();
    assert_eq!(texts(&waiting), ["one", "two", "three", "four", "five"]);
    assert_eq!(admit(&mut ChainHead::default(), &waiting), spool.head());
    drop(spool);
    assert_eq!(open(dir.path()).unacknowledged(), 5);
}

#[test]
fn a_lost_spool_goes_on_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["after the loss"]);
    let mut head = ChainHead::default();
    let other =
        SignedRecord::sign(&AgentId::parse("a1").unwrap(), ChainLink::start(1), b"lost".to_vec(), &key());
    let at = admit(&mut head, &[other]);
    assert_eq!(spool.resume(at, NOW).unwrap(), Resumed::CollectorAhead);
    let waiting = spool.after(0, 10, 1000).unwrap();
    assert_eq!((waiting[0].epoch, texts(&waiting)), (2, vec!["after the loss"]));
    assert_eq!(admit(&mut head, &waiting), spool.head());
}

#[test]
fn a_new_epoch_signs_anew_what_is_unacknowledged_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let names: Vec<String> = (0..300).map(|n| format!("r{n}")).collect();
    names.iter().for_each(|name| append(&mut spool, &[name]));
    spool.ack(1, 10, NOW).unwrap();
    spool.begin_epoch(5, NOW).unwrap();
    drop(spool);
    let mut spool = open(dir.path());
    append(&mut spool, &["new"]);
    let waiting = spool.after(0, 1000, 1_000_000).unwrap();
    assert_eq!((waiting.len(), spool.unacknowledged()), (291, 291));
    assert_eq!(texts(&waiting[..2]), ["r10", "r11"]);
    let end = admit(&mut ChainHead::default(), &waiting);
    assert_eq!((end.epoch, end), (5, spool.head()));
}

#[test]
fn a_chain_of_another_spool_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    append(&mut spool, &["one", "two"]);
    let fork = ChainLink { epoch: 1, sequence: 2, hash: Sha256([9; 32]) };
    assert_eq!(spool.resume(fork, NOW).unwrap(), Resumed::CollectorAhead);
    assert_eq!((spool.head().epoch, spool.unacknowledged()), (2, 2));
}

#[test]
fn a_damaged_spool_never_keeps_the_agent_from_measuring() {
    type Damage = fn(&mut Vec<u8>);
    let damage: [(&str, Damage); 5] = [
        ("first half", |bytes| bytes[100..].fill(0xa5)),
        ("beginning", |bytes| bytes[..4096].fill(0)),
        ("middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 5_000].fill(0xff);
        }),
        ("every thousandth byte", |bytes| bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 0x55)),
        ("end cut off", |bytes| bytes.truncate(bytes.len() / 3)),
    ];
    let mut moved_aside = 0;
    for (name, damage) in damage {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("spool");
        let mut spool = open(&dir);
        for _ in 0..200 {
            append(&mut spool, &[&"x".repeat(2_000)]);
        }
        close(spool, &dir);
        let mut bytes = std::fs::read(dir.join("db")).unwrap();
        damage(&mut bytes);
        std::fs::write(dir.join("db"), bytes).unwrap();
        let (mut spool, damage) = open_patiently(&dir, Limits::default());
        append(&mut spool, &["after"]);
        drop(spool);
        assert_eq!(open(&dir).append(b"again".to_vec(), Worth::Ok, NOW).unwrap().body, b"again", "{name}");
        moved_aside += usize::from(damage.is_some_and(|damage| damage.aside.join("db").exists()));
    }
    assert!(moved_aside > 0, "no damage was noticed");
}

#[test]
fn a_spool_in_use_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    let second = Spool::open(dir.path(), &AgentId::parse("a1").unwrap(), key(), Limits::default(), NOW);
    assert!(matches!(second, Err(SpoolError::Store(_))), "{second:?}");
}

/// Where [`append_until_the_disk_is_full`] works; set for the child of the test.
const FULL_DISK_DIR: &str = "ZERKALO_TEST_FULL_DISK_DIR";

#[test]
fn a_full_disk_loses_nothing_that_was_appended() {
    if let Some(dir) = std::env::var_os(FULL_DISK_DIR) {
        return append_until_the_disk_is_full(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let own = "spool::a_full_disk_loses_nothing_that_was_appended";
    // The test once more, as a child. A limit on file sizes stands for the full disk; the signal that comes with it is ignored.
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 4000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([own, "--exact", "--nocapture"])
        .env(FULL_DISK_DIR, dir.path())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words} {}", String::from_utf8_lossy(&output.stderr));
    let appended: usize =
        words.lines().find_map(|line| line.strip_prefix("appended ")).unwrap().parse().unwrap();
    let mut spool = open(dir.path());
    let kept = spool.after(0, usize::MAX, usize::MAX).unwrap();
    assert!(appended > 10 && kept.len() >= appended, "{} of {appended}", kept.len());
    admit(&mut ChainHead::default(), &kept);
    append(&mut spool, &["there is room again"]);
}

fn append_until_the_disk_is_full(dir: &Path) {
    let mut spool = open(dir);
    let mut random = 1u64;
    let mut body = || {
        // Bytes that do not compress.
        let next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        };
        std::iter::repeat_with(next).take(40_000).collect::<Vec<u8>>()
    };
    let mut appended = 0;
    let refusal = loop {
        match spool.append(body(), Worth::Failed, NOW) {
            Ok(_) => appended += 1,
            Err(refusal) => break refusal,
        }
    };
    println!("\nappended {appended}");
    assert!(matches!(refusal, SpoolError::DiskFull { .. }), "{refusal:?}");
    // Still full: refused again, and again without harm.
    for _ in 0..3 {
        spool.append(body(), Worth::Failed, NOW).unwrap_err();
    }
}
