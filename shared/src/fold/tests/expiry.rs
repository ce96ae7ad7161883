//! The list's end is told ahead, once for each distance, and by each market.

use super::*;
use crate::market::AlertKind;
use crate::target::LIST_LIFE_SECS_MAX;

const DAY: u64 = 86_400;

fn put(journal: &mut Journal, version: u64, days: Option<u64>) {
    let list = MirrorList {
        version,
        issued_at: journal.now,
        expires_at: days.map(|days| journal.now.plus_secs(days * DAY)),
        mirrors: vec![mirror()],
        ..MirrorList::default()
    };
    journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
}

/// Plays a journal and the ticks a collector would write for `secs` more; the seconds from the start at which the list's
/// end is told, with the English text.
fn told(journal: &Journal, secs: u64) -> Vec<(u64, String)> {
    let (mut state, mut told) = (Fold::new(), Vec::new());
    let start = journal.entries[0].at;
    let end = journal.now.plus_secs(secs);
    let mut take = |state: &mut Fold, entry: &JournalEntry| {
        for alert in state.apply(entry).alerts {
            if alert.kind == AlertKind::ListExpiring {
                told.push((alert.at.since_millis(start) / 1_000, alert.texts.en[0].clone()));
            }
        }
    };
    for entry in &journal.entries {
        take(&mut state, entry);
    }
    while let Some(at) = state.next_deadline().filter(|at| *at <= end) {
        take(&mut state, &JournalEntry { at, event: Event::Tick });
    }
    told
}

#[test]
fn people_hear_of_the_end_three_days_and_one_day_ahead_and_at_it() {
    let mut journal = Journal::new();
    put(&mut journal, 2, Some(14));
    let told = told(&journal, 20 * DAY);
    let at: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
    assert_eq!(at, [11 * DAY, 13 * DAY, 14 * DAY]);
    assert!(told[0].1.contains("3 d") && told[0].1.contains("zerkalo mirrors sign"), "{told:?}");
    assert!(told[2].1.contains("ended at"), "{told:?}");
}

#[test]
fn a_list_signed_in_time_is_told_of_anew_and_one_of_before_never() {
    let mut journal = Journal::new();
    assert_eq!(told(&journal, 30 * DAY), [], "the list of an older signer");
    put(&mut journal, 2, Some(2));
    assert_eq!(told(&journal, DAY / 2), [], "nothing is told that was known at the signing");
    journal.now = journal.now.plus_secs(DAY / 2);
    put(&mut journal, 3, Some(14));
    let at: Vec<u64> = told(&journal, 30 * DAY).iter().map(|(at, _)| *at - DAY / 2).collect();
    assert_eq!(at, [11 * DAY, 13 * DAY, 14 * DAY]);
    const { assert!(LIST_LIFE_SECS_MAX == 14 * DAY) };
}
