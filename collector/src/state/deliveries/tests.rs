use super::*;

fn key(number: u64, executor: &str) -> DeliveryKey {
    DeliveryKey { topic: Topic::Decision, number, executor: executor.to_owned() }
}

fn delivery(number: u64, mirror: &str, replaces: bool) -> Delivery {
    Delivery {
        id: format!("kz-{number:06}"),
        market: MarketId::parse("kz").unwrap(),
        attempts: 0,
        mirror: Some(MirrorId::parse(mirror).unwrap()),
        word: "rotate".to_owned(),
        replaces,
        last_error: None,
        last_attempt_at: None,
        refusals: 0,
        next_attempt_at: None,
        given_up_because: None,
    }
}

fn state(dir: &std::path::Path, waiting: &[(DeliveryKey, Delivery)]) -> State {
    let state = State::open(dir).unwrap();
    let mut batch = Batch::default();
    waiting.iter().for_each(|(key, delivery)| put(key, delivery, &mut batch));
    state.commit(batch).unwrap();
    state
}

#[test]
fn an_older_decision_never_undoes_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let all = [
        (key(1, "dns"), delivery(1, "m1", true)),
        (key(2, "dns"), delivery(2, "m2", true)),
        (key(3, "dns"), delivery(3, "m3", false)),
    ];
    let state = state(dir.path(), &all);
    state.note_dead(&all[0].0, &all[0].1).unwrap();
    assert_eq!(state.retry(&all[0].0).unwrap(), Ok(()), "nothing newer was carried out yet");
    assert_eq!(state.outbox().unwrap(), all);
    state.note_dead(&all[0].0, &all[0].1).unwrap();
    state.note_done(&all[2].0).unwrap();
    assert_eq!(
        state.newer_carried_out(&all[0].0, &all[0].1).unwrap(),
        None,
        "another mirror, nothing replaced"
    );
    state.note_done(&all[1].0).unwrap();
    assert_eq!(state.retry(&all[0].0).unwrap(), Err(RetryRefusal::Superseded { newer: 2 }));
    assert_eq!(state.newer_carried_out(&all[0].0, &all[0].1).unwrap(), Some(2));
    // Another executor's way is its own.
    assert_eq!(state.newer_carried_out(&key(1, "webhook"), &all[0].1).unwrap(), None);
    assert_eq!(state.dead().unwrap().len(), 1);
}

#[test]
fn what_was_dropped_stays_dropped_whatever_its_attempt_comes_to() {
    let dir = tempfile::tempdir().unwrap();
    let (key, delivery) = (key(1, "program"), delivery(1, "m1", false));
    let state = state(dir.path(), &[(key.clone(), delivery.clone())]);
    assert_eq!(state.drop_delivery(&key).unwrap(), DropOutcome::Dropped);
    state.note_attempt(&key, &delivery).unwrap();
    state.note_dead(&key, &delivery).unwrap();
    assert_eq!((state.outbox().unwrap(), state.dead().unwrap()), (vec![], vec![]));
    assert_eq!(state.drop_delivery(&key).unwrap(), DropOutcome::Unknown);
    assert_eq!(state.retry(&key).unwrap(), Err(RetryRefusal::Unknown));
}

#[test]
fn dead_letters_survive_a_restart_with_their_last_error() {
    let dir = tempfile::tempdir().unwrap();
    let delivery = Delivery { attempts: 3, last_error: Some("no".to_owned()), ..delivery(1, "m1", true) };
    {
        let state = state(dir.path(), &[(key(1, "program"), delivery.clone())]);
        state.note_dead(&key(1, "program"), &delivery).unwrap();
    }
    let state = State::open(dir.path()).unwrap();
    assert_eq!(state.dead().unwrap(), [(key(1, "program"), delivery)]);
    assert_eq!(state.retry(&key(1, "program")).unwrap(), Ok(()));
    assert_eq!(state.outbox().unwrap()[0].1.attempts, 0);
}

#[test]
fn an_entry_without_an_executors_name_is_the_webhooks() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path()).unwrap();
    let mut batch = Batch::default();
    let old = br#"{"id":"kz-000001","market":"kz","attempts":2}"#;
    batch.put(Topic::Decision.outbox(), &1u64.to_be_bytes(), old);
    state.commit(batch).unwrap();
    let waiting = state.outbox().unwrap();
    assert_eq!((&waiting[0].0, waiting[0].1.attempts), (&key(1, WEBHOOK_NAME), 2));
    state.note_done(&waiting[0].0).unwrap();
    assert!(state.outbox().unwrap().is_empty());
}
