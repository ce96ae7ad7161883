//! Agents that lose their say, and get it back.

use super::*;
use crate::cell::CellState;
use crate::identity::{Certified, Standing, StandingChange};
use crate::market::AlertKind;
use crate::target::Sha256;

fn stands(agent: &str, standing: Standing) -> Event {
    let agent = AgentId::parse(agent).unwrap();
    Event::Standing(StandingChange { agent, standing, author: "anna".into(), reason: "a test".into() })
}

fn kcell(state: &Fold) -> crate::cell::CarrierView {
    state.matrix(state.at()).rows[0].carriers[2].clone()
}

#[test]
fn whoever_loses_their_say_leaves_nothing_behind_and_alone_the_revoked_never_get_it_back() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    (0..4).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
    assert_eq!(kcell(&fold(&journal.entries).0).state, CellState::Red);
    for standing in [Standing::Locked, Standing::Revoked] {
        let mut journal =
            Journal { entries: journal.entries.clone(), heads: journal.heads.clone(), now: journal.now };
        (0..OWNERS).for_each(|owner| journal.push(stands(&format!("kz-kcell-{owner}"), standing)));
        let mut state = Fold::new();
        let outcomes: Vec<_> = journal.entries.iter().map(|entry| state.apply(entry)).collect();
        assert_eq!(kcell(&state).state, CellState::Insufficient, "{standing}");
        let told = outcomes.iter().flat_map(|outcome| &outcome.alerts);
        // A first word of the block came before.
        let told: Vec<_> = told.filter(|alert| alert.kind != AlertKind::BlockSuspected).collect();
        let locked = if standing == Standing::Locked { OWNERS } else { 0 };
        assert_eq!(told.len(), locked, "{told:?}");
        assert!(told.iter().all(|alert| alert.kind == AlertKind::AgentLocked
            && alert.market.as_str() == "kz"
            && alert.texts.en[0].contains("zerkalo agents unlock kz-kcell-")));
        // What they say on counts for nothing, until a person believes them again.
        (0..3).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
        assert_eq!(kcell(&fold(&journal.entries).0).state, CellState::Insufficient, "{standing}");
        (0..OWNERS).for_each(|owner| journal.push(stands(&format!("kz-kcell-{owner}"), Standing::Good)));
        (0..4).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
        let expected = if standing == Standing::Locked { CellState::Red } else { CellState::Insufficient };
        assert_eq!(kcell(&fold(&journal.entries).0).state, expected, "{standing}");
    }
}

#[test]
fn a_carrier_whose_owners_are_all_revoked_is_not_said_to_be_shut_down() {
    let mut journal = Journal::new();
    (0..10).for_each(|_| journal.round([Fine; 4], Fine));
    // Kcell's fall silent at once.
    for _ in 0..6 {
        for owner in 0..OWNERS {
            for carrier in CARRIERS.iter().filter(|carrier| **carrier != "kz-kcell") {
                journal.now = journal.now.plus_secs(INTERVAL_SECS / 15);
                journal.record(&format!("{carrier}-{owner}"), facts(Fine, journal.now));
            }
            journal.now = journal.now.plus_secs(INTERVAL_SECS / 15);
            journal.record("control-1", facts(Fine, journal.now));
        }
    }
    let is_marked = |journal: &Journal| kcell(&fold(&journal.entries).0).shutdown_suspected_since.is_some();
    assert!(is_marked(&journal));
    journal.push(stands("kz-kcell-0", Standing::Revoked));
    journal.push(stands("kz-kcell-1", Standing::Revoked));
    assert!(is_marked(&journal), "one is left that may come back");
    journal.push(stands("kz-kcell-2", Standing::Revoked));
    assert!(!is_marked(&journal));
}

#[test]
fn certificates_are_remembered() {
    let mut journal = Journal::new();
    let agent = AgentId::parse("kz-kcell-0").unwrap();
    for (generation, key) in [(1, 1), (2, 2)] {
        journal.now = journal.now.plus_secs(60);
        let key = Sha256([key; 32]);
        journal.push(Event::Certified(Certified { agent: agent.clone(), generation, key }));
        journal.push(Event::Shown { agent: agent.clone(), generation });
    }
    let state = fold(&journal.entries).0;
    let known = &state.agents()[&agent];
    assert_eq!((known.generations.current, known.generations.shown), (2, 2));
    assert_eq!(known.generations.key, Some(Sha256([2; 32])));
    assert_eq!((known.enrolled_at, known.last_known_at()), (UnixMillis(1_800_000_000_000), journal.now));
}
