//! One journal, folded again and again.

use super::*;
use crate::target::Sha256;
use std::sync::Arc;

#[test]
fn a_thousand_folds_of_one_journal_give_one_hash() {
    let mut journal = Journal::new();
    journal.entries.retain(|entry| !matches!(entry.event, Event::Settings(_)));
    // Two owners of a carrier see a block, three times; the rest is heard once.
    for (agent, sees) in [
        ("kz-tele2-altel-0", Fine),
        ("kz-beeline-0", Fine),
        ("kz-kcell-0", HelloDropped),
        ("kz-kcell-1", HelloDropped),
        ("control-1", Fine),
        ("kz-kcell-0", HelloDropped),
        ("kz-kcell-1", Nxdomain),
        ("kz-kcell-0", HelloDropped),
        ("kz-kcell-1", HelloDropped),
        ("control-1", Fine),
    ] {
        journal.now = journal.now.plus_secs(5);
        journal.record(agent, facts(sees, journal.now));
    }
    journal.push(Event::Tick);
    let first = Fold::new();
    let hash = |entries: &[JournalEntry]| {
        let mut state = Fold::with(Arc::clone(&first.settings));
        let outcomes = entries.iter().map(|entry| state.apply(entry)).collect::<Vec<_>>();
        let logged = outcomes.iter().flat_map(|outcome| &outcome.decisions).map(Decision::to_json);
        let mut text: String = logged.collect();
        text += &serde_json::to_string(&state.matrix(state.at().plus_secs(60))).unwrap();
        text += &format!("{:?}", state.next_deadline());
        Sha256::of(text.as_bytes())
    };
    assert!(fold(&journal.entries).1.len() >= 2, "there is something to decide");
    let expected = hash(&journal.entries);
    assert!((1..1_000).all(|_| hash(&journal.entries) == expected));
    // Another journal has another.
    journal.entries.pop();
    journal.entries.pop();
    assert_ne!(hash(&journal.entries), expected);
}
