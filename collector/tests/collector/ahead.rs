//! Records ahead of their chain: evidence at once, the chain goes on over them, and nothing is there twice.

use std::collections::BTreeSet;

use tokio::process::Command;
use zerkalo_core::admission::{AHEAD_RECORDS_MAX, AHEAD_RUNS_MAX};
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedRecord};
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{AheadHeld, AheadRun, RecordBatch, RecordPart};
use zerkalo_proto::evidence::{record_to_bytes, record_to_wire};

use crate::world::{Agent, COLLECTOR, Collector, Link, Site};

async fn world() -> (Site, Collector, Agent) {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    (site, collector, agent)
}

async fn send_ahead(link: &mut Link, records: &[SignedRecord]) {
    let records = records.iter().map(record_to_wire).collect();
    link.send(Up::Ahead(RecordBatch { records })).await;
}

/// The answer to what was sent ahead, past acks and wishes.
async fn held(link: &mut Link) -> AheadHeld {
    loop {
        match link.next().await {
            Some(Down::Ahead(held)) => return held,
            Some(Down::Ack(_) | Down::ProbeNow(_)) => {}
            other => panic!("instead of what is held ahead: {other:?}"),
        }
    }
}

/// The run of these records.
fn run(records: &[SignedRecord]) -> AheadRun {
    let (first, last) = (records.first().unwrap(), records.last().unwrap());
    AheadRun { first: first.sequence, last: last.sequence, hash: last.hash().0.to_vec() }
}

fn keys(records: &[SignedRecord]) -> BTreeSet<u64> {
    records.iter().map(|record| record.sequence).collect()
}

async fn verify(dir: &std::path::Path) -> (bool, String) {
    let ended = Command::new(COLLECTOR).arg("verify").arg(dir).output().await.unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn what_comes_ahead_is_in_the_journal_at_once_and_the_chain_goes_on_over_it_after_a_kill() {
    let (site, collector, mut agent) = world().await;
    let records: Vec<_> = (0..14).map(|_| agent.measure("m1")).collect();
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert!(welcome.takes_ahead && welcome.ahead.is_empty());
    link.send_records(&records[..2]).await;
    link.acked_past_wishes(2).await;
    send_ahead(&mut link, &records[8..10]).await;
    let told = held(&mut link).await;
    assert_eq!((told.epoch, told.sequence, told.runs), (1, 10, vec![run(&records[8..10])]));
    assert_eq!(keys(&site.records()), keys(&[&records[..2], &records[8..10]].concat()));
    collector.kill().await;
    // A collector started anew knows them from its journal.
    let collector = site.serve().await;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.sequence, &welcome.ahead), (2, &vec![run(&records[8..10])]));
    send_ahead(&mut link, &records[9..11]).await;
    assert_eq!(held(&mut link).await.runs, [run(&records[8..11])]);
    assert_eq!(collector.metric("zerkalo_records_duplicate_total").await, 1);
    assert_eq!(collector.metric("zerkalo_records_ahead_total").await, 1);
    // In their turn, by an agent that did not hear of it: known.
    link.send_records(&records[2..9]).await;
    link.acked_past_wishes(11).await;
    link.send_records(&records[9..12]).await;
    link.acked_past_wishes(12).await;
    // Ahead, though it is its turn.
    send_ahead(&mut link, &records[12..]).await;
    let told = held(&mut link).await;
    assert!(told.runs.is_empty());
    let (_link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.sequence, welcome.hash), (14, agent.last.hash.0.to_vec()));
    assert_eq!(site.records().len(), 14);
    assert_eq!(keys(&site.records()), keys(&records));
    collector.stop().await;
    let (is_sound, said) = verify(&site.dir).await;
    assert!(is_sound && said.contains("; 3 records came ahead of those they follow"), "{said}");
}

#[tokio::test]
async fn a_forged_record_ahead_ends_the_stream_and_a_second_one_in_its_place_locks_the_agent() {
    let (site, collector, mut agent) = world().await;
    let records: Vec<_> = (0..9).map(|_| agent.measure("m1")).collect();
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&records[..1]).await;
    send_ahead(&mut link, &records[5..6]).await;
    assert_eq!(held(&mut link).await.runs.len(), 1);
    let before = site.records();
    let thief = SecretKey::from_bytes(&[9; 32]);
    let sign =
        |last: ChainLink, key: &SecretKey| SignedRecord::sign(&agent.id, last, records[7].body.clone(), key);
    let old = ChainLink { epoch: 0, ..records[6].link() };
    let cases = [
        ("bad_signature", sign(records[6].link(), &thief)),
        ("wrong_chain", sign(old, &agent.key)),
        // Last: it locks the agent.
        ("conflicting_key", sign(ChainLink { sequence: 5, ..records[6].link() }, &agent.key)),
    ];
    for (code, bad) in cases {
        let (mut link, _) = collector.connect(&site, &agent).await;
        send_ahead(&mut link, std::slice::from_ref(&bad)).await;
        let rejection = loop {
            match link.next().await {
                Some(Down::Rejection(rejection)) => break rejection,
                Some(Down::ProbeNow(_)) => {}
                other => panic!("instead of a rejection: {other:?}"),
            }
        };
        assert_eq!((rejection.code.as_str(), rejection.stops_stream), (code, true), "{rejection:?}");
        assert_eq!((rejection.epoch, rejection.sequence), (bad.epoch, bad.sequence));
    }
    assert_eq!(site.records(), before);
    collector.metric_becomes("zerkalo_agents_locked", 1).await;
    collector.stop().await;
}

#[tokio::test]
async fn what_has_no_room_or_says_nonsense_waits_for_its_turn_unrefused() {
    let (site, collector, mut agent) = world().await;
    let stranger = 3;
    let count = AHEAD_RECORDS_MAX + 40;
    let records: Vec<_> =
        (0..count).map(|n| agent.measure(if n == stranger { "m2" } else { "m1" })).collect();
    let (mut link, _) = collector.connect(&site, &agent).await;
    send_ahead(&mut link, &records[5..6]).await;
    assert!(held(&mut link).await.runs.is_empty(), "nothing is known of the epoch");
    link.send_records(&records[..1]).await;
    // A mirror that nobody listed; every other one, until there are too many runs; then all.
    send_ahead(&mut link, &records[stranger..stranger + 1]).await;
    assert!(held(&mut link).await.runs.is_empty());
    for record in records[5..].iter().step_by(2).take(AHEAD_RUNS_MAX + 3) {
        send_ahead(&mut link, std::slice::from_ref(record)).await;
        held(&mut link).await;
    }
    send_ahead(&mut link, &records[5..]).await;
    let told = held(&mut link).await;
    let taken: u64 = told.runs.iter().map(|run| run.last - run.first + 1).sum();
    assert_eq!(taken, AHEAD_RECORDS_MAX as u64);
    assert_eq!(site.records().len(), AHEAD_RECORDS_MAX + 1);
    for batch in records[1..].chunks(64) {
        link.send_records(batch).await;
    }
    let mut refused = 0;
    loop {
        match link.next().await {
            Some(Down::Ack(ack)) if ack.sequence == count as u64 => break,
            Some(Down::Rejection(rejection)) => {
                assert_eq!((rejection.code.as_str(), rejection.stops_stream), ("unknown_mirror", false));
                refused += 1;
            }
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
    assert_eq!((refused, site.records().len()), (1, count - 1));
    collector.stop().await;
    let (is_sound, said) = verify(&site.dir).await;
    assert!(is_sound, "{said}");
}

#[tokio::test]
async fn a_record_ahead_may_come_in_parts() {
    let (site, collector, mut agent) = world().await;
    let records: Vec<_> = (0..5).map(|_| agent.measure("m1")).collect();
    let bytes = record_to_bytes(&records[4]);
    let part = |from: usize, to: usize| {
        let (offset, total_len) = (u32::try_from(from).unwrap(), u32::try_from(bytes.len()).unwrap());
        let content = bytes[from..to].to_vec();
        Up::PartAhead(RecordPart { epoch: 1, sequence: 5, offset, total_len, content })
    };
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&records[..1]).await;
    link.acked_past_wishes(1).await;
    link.send(part(0, 40)).await;
    assert!(matches!(link.next().await, Some(Down::Part(held)) if held.held_len == 40));
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send(part(40, bytes.len())).await;
    assert_eq!(held(&mut link).await.runs, [run(&records[4..])]);
    link.send_records(&records[1..4]).await;
    link.acked_past_wishes(5).await;
    collector.stop().await;
}
