//! Owners of a carrier who fall silent at once.

use super::*;
use crate::market::{Alert, AlertKind};

/// Plays a journal with the ticks a collector would write; gives the alerts and the actions.
fn alerts(entries: &[JournalEntry]) -> (Fold, Vec<Alert>, Vec<Action>) {
    let mut state = Fold::new();
    let (mut alerts, mut actions) = (Vec::new(), Vec::new());
    let mut take = |state: &mut Fold, entry: &JournalEntry| {
        let outcome = state.apply(entry);
        alerts.extend(outcome.alerts);
        actions.extend(outcome.decisions.iter().map(|decision| decision.action));
    };
    for entry in entries {
        while let Some(at) = state.next_deadline().filter(|at| *at <= entry.at) {
            take(&mut state, &JournalEntry { at, event: Event::Tick });
        }
        take(&mut state, entry);
    }
    (state, alerts, actions)
}

/// One interval in which some carriers say nothing at all.
fn round(journal: &mut Journal, speaks: impl Fn(&str, usize) -> bool) {
    for owner in 0..OWNERS {
        for carrier in CARRIERS {
            journal.now = journal.now.plus_secs(INTERVAL_SECS / 15);
            if speaks(carrier, owner) {
                journal.record(&format!("{carrier}-{owner}"), facts(Fine, journal.now));
            }
        }
        journal.now = journal.now.plus_secs(INTERVAL_SECS / 15);
        journal.record("control-1", facts(Fine, journal.now));
    }
}

fn kinds(alerts: &[Alert]) -> Vec<(AlertKind, String)> {
    alerts.iter().map(|alert| (alert.kind, alert.carriers[0].to_string())).collect()
}

#[test]
fn a_carrier_that_falls_silent_at_once_is_told_and_its_return_too() {
    let mut journal = Journal::new();
    (0..10).for_each(|_| round(&mut journal, |_, _| true));
    (0..6).for_each(|_| round(&mut journal, |carrier, _| carrier != "kz-kcell"));
    let (state, told, actions) = alerts(&journal.entries);
    let kcell = "kz-kcell".to_owned();
    assert_eq!(kinds(&told), [(AlertKind::ShutdownSuspected, kcell.clone())]);
    assert_eq!((told[0].market.as_str(), told[0].id.as_str()), ("kz", "kz-alert-000001"));
    assert!(told[0].texts.en[0].starts_with("2 of 3 owners on Kcell"), "{:?}", told[0].texts);
    // Never a block: nothing is decided about the mirror, the carrier is stale.
    assert_eq!(actions, [Action::Keep]);
    let view = &state.matrix(state.at()).rows[0].carriers[2];
    assert_eq!(
        (view.state, view.shutdown_suspected_since),
        (crate::cell::CellState::Stale, Some(told[0].at))
    );
    (0..3).for_each(|_| round(&mut journal, |_, _| true));
    let (state, told, _) = alerts(&journal.entries);
    let back = (AlertKind::ShutdownOver, kcell.clone());
    assert_eq!(kinds(&told), [(AlertKind::ShutdownSuspected, kcell), back]);
    assert_eq!(state.matrix(state.at()).rows[0].carriers[2].shutdown_suspected_since, None);
}

#[test]
fn what_is_no_shutdown_raises_no_alarm() {
    let check = |speaks: fn(usize, &str, usize) -> bool, what: &str| {
        let mut journal = Journal::new();
        (0..10).for_each(|_| round(&mut journal, |_, _| true));
        (0..30).for_each(|n| round(&mut journal, |carrier, owner| speaks(n, carrier, owner)));
        assert_eq!(kinds(&alerts(&journal.entries).1), [], "{what}");
    };
    check(|_, carrier, owner| carrier != "kz-kcell" || owner != 0, "one owner of three went away");
    check(|n, carrier, owner| carrier != "kz-kcell" || n < 8 * owner, "one after the other");
}

#[test]
fn whoever_the_operator_stopped_is_neither_suspected_nor_asked() {
    let mut journal = Journal::new();
    (0..10).for_each(|_| round(&mut journal, |_, _| true));
    let list = MirrorList {
        mirrors: vec![mirror()],
        stop: Some("a law suit".to_owned()),
        ..MirrorList::issued(2, journal.now)
    };
    journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
    // Some hear of it later than others.
    (0..6).for_each(|_| round(&mut journal, |carrier, _| carrier == "kz-beeline"));
    let (mut state, told, _) = alerts(&journal.entries);
    assert_eq!(kinds(&told), []);
    state.take_wishes();
    let known = journal.entries.len();
    journal.record("kz-beeline-0", facts(HelloDropped, journal.now));
    journal.entries[known..].iter().for_each(|entry| drop(state.apply(entry)));
    assert_eq!(state.take_wishes().len(), 0);
}

#[test]
fn a_collector_that_was_away_suspects_nobody() {
    let mut journal = Journal::new();
    (0..10).for_each(|_| round(&mut journal, |_, _| true));
    // Ten minutes without a word from anybody; Kcell's agents find back last.
    journal.now = journal.now.plus_secs(600);
    (0..2).for_each(|_| round(&mut journal, |carrier, _| carrier != "kz-kcell"));
    (0..5).for_each(|_| round(&mut journal, |_, _| true));
    assert_eq!(kinds(&alerts(&journal.entries).1), []);
}

#[test]
fn time_is_not_journaled_while_all_speak() {
    let mut journal = Journal::new();
    let mut state = Fold::new();
    (0..10).for_each(|_| round(&mut journal, |_, _| true));
    for entry in &journal.entries {
        assert!(state.silence.deadline.is_none_or(|at| at > entry.at), "a tick would have been written");
        state.apply(entry);
    }
    assert!(state.silence.deadline.is_some());
}
