//! Records in: what is admitted, what is refused, and what each looks like on the wire, in the metrics, in the journal.

use zerkalo_core::evidence::{BODY_LEN_MAX, ChainLink, SecretKey, SignedRecord};
use zerkalo_core::journal::Event;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{Hello, RecordBatch};
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::record_to_wire;
use zerkalo_proto::operator_v1::UnlockAgentRequest;

use crate::world::{Agent, Collector, Link, Site, body, facts};

async fn world() -> (Site, Collector, Agent) {
    let site = Site::new();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let agent = collector.enrol(&site, "anna", "kz-kcell").await;
    (site, collector, agent)
}

fn refused(code: &str) -> String {
    format!("zerkalo_records_refused_total{{code=\"{code}\"}}")
}

#[tokio::test]
async fn an_acked_record_is_in_the_journal_file_and_a_resent_one_only_once() {
    let (site, collector, mut agent) = world().await;
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.epoch, welcome.sequence), (0, 0));
    let records: Vec<_> = (0..3).map(|_| agent.measure("m1")).collect();
    link.send_records(&records).await;
    link.acked(3).await;
    assert_eq!(site.records(), records);
    link.send_records(&records).await;
    link.acked(3).await;
    let (mut again, welcome) = collector.connect(&site, &agent).await;
    assert_eq!((welcome.sequence, welcome.hash), (3, agent.last.hash.0.to_vec()));
    again.send_records(&records[1..]).await;
    again.acked(3).await;
    assert_eq!(site.records(), records);
    assert_eq!(collector.metric("zerkalo_records_admitted_total").await, 3);
    assert_eq!(collector.metric("zerkalo_records_duplicate_total").await, 5);
    assert!(collector.metric("zerkalo_journal_syncs_total").await >= 3);
    let status = link.next_or_status().await.unwrap_err();
    assert_eq!(code_of(&status), Some("replaced"), "the newer stream ends the older: {status}");
    collector.metric_becomes("zerkalo_agents_connected", 1).await;
    drop(again);
    collector.metric_becomes("zerkalo_agents_connected", 0).await;
    collector.stop().await;
}

#[tokio::test]
async fn what_breaks_the_chain_stops_the_stream_and_leaves_the_journal_whole() {
    let (site, collector, mut agent) = world().await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let good: Vec<_> = (0..2).map(|_| agent.measure("m1")).collect();
    link.send_records(&good).await;
    link.acked(2).await;
    let next = agent.last;
    let sign = |last, body: &[u8]| SignedRecord::sign(&agent.id, last, body.to_vec(), &agent.key);
    let sound = body(&facts("m1"));
    let thief = SecretKey::from_bytes(&[9; 32]);
    let other = zerkalo_core::words::AgentId::parse("kz-kcell-00000000").unwrap();
    let cases = [
        ("bad_signature", SignedRecord::sign(&agent.id, next, sound.clone(), &thief)),
        ("wrong_chain", sign(ChainLink { sequence: 7, ..next }, &sound)),
        ("wrong_chain", sign(ChainLink { hash: good[0].hash(), ..next }, &sound)),
        ("wrong_agent", SignedRecord::sign(&other, next, sound.clone(), &agent.key)),
        ("frame_too_large", sign(next, &vec![0; BODY_LEN_MAX + 1])),
        // Last: it locks the agent.
        ("conflicting_key", sign(good[0].link(), b"another second statement")),
    ];
    for (code, bad) in cases {
        let before = collector.metric(&refused(code)).await;
        let (mut link, _) = collector.connect(&site, &agent).await;
        link.send_records(std::slice::from_ref(&bad)).await;
        let rejection = link.rejected().await;
        assert_eq!((rejection.code.as_str(), rejection.stops_stream), (code, true), "{rejection:?}");
        assert_eq!((rejection.epoch, rejection.sequence), (bad.epoch, bad.sequence));
        assert!(link.next().await.is_none(), "the stream ends behind {code}");
        assert_eq!(collector.metric(&refused(code)).await, before + 1, "{code}");
        assert_eq!(site.records(), good, "{code}");
    }
    let (agent_id, reason) = (agent.id.to_string(), "a test".to_owned());
    let unlock = UnlockAgentRequest { agent: agent_id, reason };
    collector.operator(&site).await.unlock_agent(unlock).await.unwrap();
    let (mut link, _) = collector.connect(&site, &agent).await;
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(3).await;
    collector.stop().await;
}

#[tokio::test]
async fn refused_facts_are_journaled_as_refused_and_the_chain_goes_on() {
    let (site, collector, mut agent) = world().await;
    let mut future = facts("m1");
    future.started_at = future.started_at.plus_secs(3_600);
    let bad = [
        ("malformed", agent.sign(b"\xff\xff\xff no record".to_vec())),
        ("future_time", agent.sign(body(&future))),
        ("unknown_mirror", agent.measure("m2")),
    ];
    let good = agent.measure("m1");
    let (mut link, _) = collector.connect(&site, &agent).await;
    let mut batch: Vec<_> = bad.iter().map(|(_, record)| record.clone()).collect();
    batch.push(good.clone());
    link.send_records(&batch).await;
    link.acked(4).await;
    for (code, record) in &bad {
        let rejection = link.rejected().await;
        assert_eq!((rejection.code.as_str(), rejection.stops_stream), (*code, false), "{rejection:?}");
        assert_eq!(rejection.sequence, record.sequence);
        assert_eq!(collector.metric(&refused(code)).await, 1, "{code}");
    }
    assert_eq!(site.records(), [good]);
    let journaled: Vec<_> = site
        .journal()
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Refused { signed, code } => Some((code.as_str(), signed)),
            _ => None,
        })
        .collect();
    assert_eq!(journaled, bad);
    collector.stop().await;
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_told_and_counted() {
    let (site, collector, mut agent) = world().await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let good = agent.measure("m1");
    link.send_records(std::slice::from_ref(&good)).await;
    link.acked(1).await;
    let mut huge = record_to_wire(&good);
    huge.body = vec![0; zerkalo_collector::uplink::FRAME_LEN_MAX];
    link.send(Up::Records(RecordBatch { records: vec![huge] })).await;
    let rejection = link.rejected().await;
    assert_eq!((rejection.code.as_str(), rejection.stops_stream), ("frame_too_large", true), "{rejection:?}");
    assert_eq!(collector.metric(&refused("frame_too_large")).await, 1);
    let (mut link, welcome) = collector.connect(&site, &agent).await;
    assert_eq!(welcome.sequence, 1);
    link.send_records(&[agent.measure("m1")]).await;
    link.acked(2).await;
    collector.stop().await;
}

#[tokio::test]
async fn an_envelope_that_cannot_be_read_stops_the_stream_behind_what_came_before() {
    let (site, collector, mut agent) = world().await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let (first, second) = (agent.measure("m1"), agent.measure("m1"));
    let mut broken = record_to_wire(&second);
    broken.signature.pop();
    let records = vec![record_to_wire(&first), broken];
    link.send(Up::Records(RecordBatch { records })).await;
    link.acked(1).await;
    let rejection = link.rejected().await;
    assert_eq!((rejection.code.as_str(), rejection.stops_stream), ("malformed", true), "{rejection:?}");
    assert_eq!(site.records(), [first]);
    collector.stop().await;
}

#[tokio::test]
async fn a_stream_begins_with_a_hello_and_gets_newer_lists_at_once() {
    let (site, collector, agent) = world().await;
    let mut rude = Link::open(collector.uplink(&site, Some(&agent.identity)).await).await.unwrap();
    rude.send_records(&[]).await;
    let status = rude.next_or_status().await.unwrap_err();
    assert_eq!(code_of(&status), Some("bad_request"), "{status}");
    let mut link = Link::open(collector.uplink(&site, Some(&agent.identity)).await).await.unwrap();
    link.send(Up::Hello(Hello { agent_version: "test".to_owned(), ..Default::default() })).await;
    assert!(matches!(link.next().await, Some(Down::Welcome(_))));
    let mut version = async || match link.next().await {
        Some(Down::List(list)) => {
            let signed = zerkalo_proto::evidence::list_from_wire(list).unwrap();
            signed.open(site.signing_key.public()).unwrap().version
        }
        other => panic!("instead of a list: {other:?}"),
    };
    assert_eq!(version().await, 1);
    collector.put_list(&site, 5, &["m1", "m2"]).await;
    assert_eq!(version().await, 5);
    collector.stop().await;
}

#[tokio::test]
async fn many_agents_at_once_lose_nothing() {
    const AGENTS: usize = 12;
    const BATCHES: usize = 10;
    const BATCH: usize = 8;
    let (site, collector, _) = world().await;
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        agents.push(collector.enrol(&site, &format!("owner-{n}"), "ru-mts").await);
    }
    let (site_ref, collector_ref) = (&site, &collector);
    let streams = agents.iter_mut().map(|agent| async move {
        let (mut link, _) = collector_ref.connect(site_ref, agent).await;
        for _ in 0..BATCHES {
            let batch: Vec<_> = (0..BATCH).map(|_| agent.measure("m1")).collect();
            link.send_records(&batch).await;
        }
        link.acked((BATCHES * BATCH) as u64).await;
    });
    futures::future::join_all(streams).await;
    let records = site.records();
    assert_eq!(records.len(), AGENTS * BATCHES * BATCH);
    for agent in &agents {
        let of_agent: Vec<_> = records.iter().filter(|record| record.agent == agent.id).collect();
        assert!(of_agent.iter().zip(1..).all(|(record, sequence)| record.sequence == sequence));
    }
    let instants: Vec<_> = site.journal().iter().map(|entry| entry.at).collect();
    assert!(instants.is_sorted());
    collector.stop().await;
}

#[tokio::test]
async fn a_failed_record_makes_the_collector_ask_the_control_at_once() {
    let (site, collector, mut agent) = world().await;
    let control = collector.enrol(&site, "house", "").await;
    let (mut asked, _) = collector.connect(&site, &control).await;
    let (mut link, _) = collector.connect(&site, &agent).await;
    let mut failed = facts("m1");
    failed.http.clear();
    link.send_records(&[agent.sign(body(&failed))]).await;
    link.acked(1).await;
    loop {
        match asked.next().await.expect("the control's stream stays open") {
            Down::ProbeNow(wish) => break assert_eq!(wish.mirror, "m1"),
            // The list comes first.
            _ => continue,
        }
    }
    collector.stop().await;
}
