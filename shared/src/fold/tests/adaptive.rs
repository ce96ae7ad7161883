//! Who is asked when: at a first failure, while in doubt, and about standbys.

use super::*;
use crate::market::PoolState;
use std::collections::BTreeSet;

fn asked(state: &mut Fold) -> BTreeSet<String> {
    state.take_wishes().iter().map(|wish| wish.agent.to_string()).collect()
}

/// Plays what is new since `known` entries.
fn go_on(state: &mut Fold, journal: &Journal, known: usize) -> usize {
    journal.entries[known..].iter().for_each(|entry| drop(state.apply(entry)));
    journal.entries.len()
}

#[test]
fn a_first_failure_asks_the_carrier_one_of_each_other_and_the_control_at_once() {
    let mut journal = Journal::new();
    (0..2).for_each(|_| journal.round([Fine; 4], Fine));
    let (mut state, _) = fold(&journal.entries);
    assert!(asked(&mut state).is_empty(), "calm mirrors are nobody's hurry");
    let known = journal.entries.len();
    journal.now = journal.now.plus_secs(60);
    journal.record("kz-kcell-1", facts(HelloDropped, journal.now));
    // No control has spoken yet.
    let known = go_on(&mut state, &journal, known);
    let now_asked = asked(&mut state);
    for agent in ["control-1", "kz-kcell-0", "kz-kcell-2"] {
        assert!(now_asked.contains(agent), "{agent}: {now_asked:?}");
    }
    for carrier in ["kz-kazakhtelecom", "kz-beeline", "kz-tele2-altel"] {
        assert_eq!(now_asked.iter().filter(|agent| agent.starts_with(carrier)).count(), 1, "{now_asked:?}");
    }
    assert!(!now_asked.contains("kz-kcell-1") && now_asked.len() == 6, "{now_asked:?}");
    // The control's word makes it a block: nobody is asked twice in 30 s; who saw it may look again.
    journal.now = journal.now.plus_secs(2);
    journal.record("control-1", facts(Fine, journal.now));
    go_on(&mut state, &journal, known);
    assert!(asked(&mut state).is_subset(&["kz-kcell-1".to_owned()].into()));
}

#[test]
fn a_mirror_in_doubt_is_asked_about_again_until_it_is_settled_or_stays_so() {
    let mut journal = Journal::new();
    (0..2).for_each(|_| journal.round([Fine; 4], Fine));
    let (mut state, _) = fold(&journal.entries);
    let mut known = journal.entries.len();
    let mut waves = Vec::new();
    // One owner who always sees a block: a doubt that never ends.
    for step in 0..120 {
        journal.now = journal.now.plus_secs(10);
        let sees = if step % 6 == 0 { HelloDropped } else { Fine };
        journal.record(if step % 6 == 0 { "kz-kcell-1" } else { "kz-kcell-2" }, facts(sees, journal.now));
        journal.record("control-1", facts(Fine, journal.now));
        known = go_on(&mut state, &journal, known);
        let asked = asked(&mut state);
        if asked.contains("kz-kcell-0") {
            waves.push(step * 10);
        }
    }
    let gaps: Vec<_> = waves.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap == 30), "every 30 s: {waves:?}");
    assert!((840..=960).contains(waves.last().unwrap()), "a doubt that lasts is how things are: {waves:?}");
}

/// The mirror as a standby beside the one that serves.
fn with_standby() -> Journal {
    let mut journal = Journal::new();
    let standby = crate::target::Mirror {
        id: MirrorId::parse("standby").unwrap(),
        url: crate::target::TargetUrl::parse("https://standby.example/").unwrap(),
        standby: true,
        category: None,
        ..mirror()
    };
    let list = MirrorList { mirrors: vec![mirror(), standby], ..MirrorList::issued(2, journal.now) };
    journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
    journal
}

fn asked_about_standby(state: &mut Fold) -> Vec<String> {
    let wishes = state.take_wishes().into_iter();
    wishes.filter(|wish| wish.mirror.as_str() == "standby").map(|wish| wish.agent.to_string()).collect()
}

#[test]
fn standbys_are_visited_seldom_and_by_few() {
    let mut journal = with_standby();
    let mut state = fold(&journal.entries).0;
    let (mut known, mut visits, mut visitors) = (journal.entries.len(), 0, BTreeSet::new());
    for _ in 0..20 {
        journal.round([Fine; 4], Fine);
        known = go_on(&mut state, &journal, known);
        let asked = asked_about_standby(&mut state);
        visits += asked.len();
        visitors.extend(asked);
    }
    let policy = &state.settings.policies()[1].standby;
    let of_kcell = visitors.iter().filter(|agent| agent.starts_with("kz-kcell")).count();
    assert_eq!(of_kcell, policy.owners_max as usize, "{visitors:?}");
    // Twenty minutes, one look in two minutes, four carriers of two owners.
    assert!((64..=80).contains(&visits), "{visits}");
    // In use it is asked about like any other, by all.
    let market: crate::words::MarketId = "kz".parse().unwrap();
    let place = state.markets.places.get_mut(&(market, MirrorId::parse("standby").unwrap())).unwrap();
    place.set(PoolState::Live, journal.now, None);
    let mut visitors = BTreeSet::new();
    for _ in 0..3 {
        journal.round([Fine; 4], Fine);
        known = go_on(&mut state, &journal, known);
        visitors.extend(asked_about_standby(&mut state));
    }
    assert_eq!(visitors.len(), CARRIERS.len() * OWNERS, "{visitors:?}");
}

#[test]
fn a_failure_of_a_standby_sends_no_more_owners_there() {
    let mut journal = with_standby();
    (0..2).for_each(|_| journal.round([Fine; 4], Fine));
    let mut state = fold(&journal.entries).0;
    let visitor =
        asked_about_standby(&mut state).into_iter().find(|agent| agent.starts_with("kz-kcell")).unwrap();
    let known = journal.entries.len();
    journal.now = journal.now.plus_secs(40);
    let mut record = facts(HelloDropped, journal.now);
    record.mirror = Some(MirrorId::parse("standby").unwrap());
    record.url = crate::target::TargetUrl::parse("https://standby.example/").unwrap();
    journal.record(&visitor, record);
    go_on(&mut state, &journal, known);
    let asked = asked_about_standby(&mut state);
    assert!(asked.contains(&"control-1".to_owned()), "{asked:?}");
    assert!(asked.iter().filter(|agent| agent.starts_with("kz-kcell")).count() <= 1, "{asked:?}");
}
