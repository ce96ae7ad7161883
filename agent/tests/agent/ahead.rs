//! What went up ahead of its turn: the collector holds it, so it is neither sent nor signed again, and nobody counts it as
//! gone.

use std::path::Path;

use zerkalo_agent::spool::{Limits, Resumed, Spool};
use zerkalo_agent::worth::Worth;
use zerkalo_core::admission::{ChainHead, Place, Run, place, place_ahead, place_gap};
use zerkalo_core::evidence::{ChainLink, CheckedRecord, SecretKey, SignedRecord};
use zerkalo_core::gap::Statement;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_proto::gap::decode_statement;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn open(dir: &Path, records: u64) -> Spool {
    let limits = Limits { records, bytes: 1_000_000 };
    Spool::open(dir, &AgentId::parse("a1").unwrap(), key(), limits, NOW).unwrap().0
}

fn append(spool: &mut Spool, texts: &[&str]) {
    for text in texts {
        spool.append(text.as_bytes().to_vec(), Worth::Ok, NOW).unwrap();
    }
}

/// A collector's chain of one agent: what was admitted, in order, and how many are gone by the agent's word.
#[derive(Default)]
struct Side {
    head: ChainHead,
    texts: Vec<String>,
    dropped: u64,
}

impl Side {
    fn take(&mut self, statements: &[SignedRecord]) {
        for signed in statements {
            let checked = CheckedRecord::new(signed.clone(), &key().public());
            match decode_statement(&signed.body) {
                Ok(Statement::Gap(gap)) => {
                    assert_eq!(place_gap(&checked, &gap, &self.head), Ok(Place::Next));
                    self.dropped += self.head.lacks(&gap, signed);
                    self.head.advance(gap.link(signed));
                }
                _ => {
                    assert_eq!(place(&checked, &self.head), Ok(Place::Next));
                    self.head.advance(signed.link());
                    self.texts.push(String::from_utf8(signed.body.clone()).unwrap());
                }
            }
        }
    }

    fn take_ahead(&mut self, records: &[SignedRecord]) {
        for signed in records {
            let checked = CheckedRecord::new(signed.clone(), &key().public());
            assert_eq!(place_ahead(&checked, &self.head), Ok(Some(Place::Ahead)));
            self.head.advance_ahead(checked.link(), signed.previous);
            self.texts.push(String::from_utf8(signed.body.clone()).unwrap());
        }
    }

    fn resume(&self, spool: &mut Spool) -> Resumed {
        spool.resume_beside(self.head.last(), &self.head.runs(), NOW).unwrap()
    }

    fn sorted(&self) -> Vec<&str> {
        let mut texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        texts.sort_unstable();
        texts
    }
}

const TEN: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[test]
fn the_chain_goes_on_over_what_is_held_and_records_alone_go_ahead() {
    let home = tempfile::tempdir().unwrap();
    let mut spool = open(home.path(), 100);
    append(&mut spool, &TEN);
    let mut side = Side::default();
    side.resume(&mut spool);
    side.take(&spool.between(0, 2, 10, 1_000).unwrap());
    side.take_ahead(&spool.ahead(5, 2, 1_000).unwrap());
    assert_eq!(spool.ahead(5, 10, 1).unwrap().len(), 1, "at least one");
    assert!(spool.ahead(10, 10, 1_000).unwrap().is_empty());
    assert_eq!(side.resume(&mut spool), Resumed::After(2));
    side.take(&spool.between(2, 5, 10, 1_000).unwrap());
    assert_eq!(side.head.last().sequence, 7);
    spool.ack(1, 7, NOW).unwrap();
    side.take(&spool.between(7, u64::MAX, 10, 1_000).unwrap());
    assert_eq!((side.sorted(), side.dropped), (TEN.to_vec(), 0));
}

#[test]
fn what_is_held_is_not_signed_anew_and_is_kept_for_its_day() {
    let home = tempfile::tempdir().unwrap();
    let mut spool = open(home.path(), 100);
    append(&mut spool, &TEN);
    let mut side = Side::default();
    side.resume(&mut spool);
    side.take(&spool.after(0, 2, 1_000).unwrap());
    side.take_ahead(&spool.ahead(5, 2, 1_000).unwrap());
    spool.begin_epoch_at_next_welcome(1);
    assert_eq!(side.resume(&mut spool), Resumed::After(0));
    // Told once more before it heard anything of the new epoch.
    drop(spool);
    let mut spool = open(home.path(), 100);
    assert_eq!(side.resume(&mut spool), Resumed::After(0));
    assert_eq!(spool.head().epoch, 2);
    side.take(&spool.after(0, 100, 10_000).unwrap());
    assert_eq!((side.sorted(), side.dropped, side.head.last().sequence), (TEN.to_vec(), 0, 6));
    spool.ack(2, 6, NOW).unwrap();
    assert_eq!(side.resume(&mut spool), Resumed::After(6));
    // The collector's disk is lost: everything comes again, what was held among it.
    let mut fresh = Side::default();
    assert_eq!(fresh.resume(&mut spool), Resumed::CollectorBehind);
    fresh.take(&spool.after(0, 100, 10_000).unwrap());
    assert_eq!((fresh.sorted(), fresh.dropped), (TEN.to_vec(), 0));
}

#[test]
fn a_collector_set_back_lacks_what_it_held_and_gets_it_again() {
    let home = tempfile::tempdir().unwrap();
    let mut spool = open(home.path(), 100);
    append(&mut spool, &TEN);
    let mut side = Side::default();
    side.resume(&mut spool);
    side.take(&spool.after(0, 2, 1_000).unwrap());
    let older = side.head.clone();
    side.take_ahead(&spool.ahead(5, 2, 1_000).unwrap());
    side.take(&spool.between(2, 5, 10, 1_000).unwrap());
    spool.ack(1, 7, NOW).unwrap();
    let mut back = Side { head: older, texts: vec!["0".to_owned(), "1".to_owned()], dropped: 0 };
    assert_eq!(back.resume(&mut spool), Resumed::After(2));
    back.take(&spool.after(2, 100, 10_000).unwrap());
    assert_eq!(back.sorted(), TEN);
}

#[test]
fn a_spool_that_lost_its_end_or_holds_another_chain_begins_a_new_epoch() {
    let link_of = |spool: &mut Spool, sequence: u64| spool.after(sequence - 1, 1, 1_000).unwrap()[0].link();
    let begin = |run: fn(ChainLink) -> Run| {
        let home = tempfile::tempdir().unwrap();
        let mut spool = open(home.path(), 100);
        append(&mut spool, &TEN);
        let mut side = Side::default();
        side.resume(&mut spool);
        side.take(&spool.after(0, 2, 1_000).unwrap());
        let run = run(link_of(&mut spool, 6));
        let resumed = spool.resume_beside(side.head.last(), &[run], NOW).unwrap();
        let waiting = spool.after(0, 100, 1_000).unwrap().len();
        (resumed, spool.head().epoch, waiting)
    };
    // All but the two in the chain wait, under new numbers.
    let lost = |link: ChainLink| Run { first: 14, last: 15, hash: link.hash };
    assert_eq!(begin(lost), (Resumed::CollectorAhead, 2, 8));
    let other = |link: ChainLink| Run { first: 5, last: link.sequence, hash: Sha256([9; 32]) };
    assert_eq!(begin(other), (Resumed::CollectorAhead, 2, 8));
    let ours = |link: ChainLink| Run { first: 5, last: link.sequence, hash: link.hash };
    assert_eq!(begin(ours), (Resumed::After(2), 1, 10));
}

#[test]
fn what_a_gap_stands_for_and_is_held_is_not_told_to_be_gone() {
    for begins_anew in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let mut spool = open(home.path(), 6);
        append(&mut spool, &TEN[..6]);
        let mut side = Side::default();
        side.resume(&mut spool);
        side.take(&spool.after(0, 1, 1_000).unwrap());
        side.take_ahead(&spool.ahead(2, 2, 1_000).unwrap());
        // Six stay: the oldest four behind what was sent in its turn give way, of which two are held.
        append(&mut spool, &TEN[6..]);
        assert_eq!(spool.ahead(1, 1, 1_000).unwrap()[0].sequence, 6, "no gap goes ahead");
        if begins_anew {
            spool.begin_epoch_at_next_welcome(1);
            assert_eq!(side.resume(&mut spool), Resumed::After(0));
            side.take(&spool.after(0, 100, 1_000).unwrap());
        } else {
            assert_eq!(side.resume(&mut spool), Resumed::After(1));
            side.take(&spool.after(1, 100, 1_000).unwrap());
        }
        let kept: Vec<&str> = TEN.into_iter().filter(|text| !["1", "4"].contains(text)).collect();
        assert_eq!((side.sorted(), side.dropped), (kept, 2), "{begins_anew}");
    }
}
