//! Journals in files: what replays, what is passed over, what stops the replay.

use std::path::Path;

use tempfile::TempDir;
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedList, SignedRecord};
use zerkalo_core::fold::{Fold, default_settings};
use zerkalo_core::journal::{Enrolment, Event, JournalEntry, MAGIC, frame};
use zerkalo_core::target::{Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{Access, AgentId, MirrorId, OwnerId, Station};

use crate::records::{NOON, URL, reached};
use crate::{check, stdout, zerkalo};

const CARRIERS: [&str; 4] = ["kz-kazakhtelecom", "kz-beeline", "kz-kcell", "kz-tele2-altel"];
const OWNERS: [&str; 3] = ["aigerim", "bolat", "dana"];
const ROUNDS: u64 = 3;

#[test]
fn a_journal_replays_to_the_same_bytes_as_the_fold_logs() {
    let dir = TempDir::new().unwrap();
    let entries = story();
    let mut fold = Fold::new();
    let logged: Vec<String> = entries
        .iter()
        .flat_map(|entry| fold.apply(entry).decisions)
        .map(|decision| decision.to_json() + "\n")
        .collect();
    assert!(!logged.is_empty(), "the story makes no decision");
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let (early, late) = entries.split_at(entries.len() / 2);
    put(&journal, "00000001.zkj", &segment(early));
    put(&journal, "00000002.zkj", &segment(late));
    let replay = |format: &str| stdout(&zerkalo(&dir, &["replay", "journal", "-o", format]));
    assert_eq!(replay("jsonl"), logged.concat());
    assert_eq!(replay("jsonl"), replay("jsonl"));
    let array: Vec<serde_json::Value> = serde_json::from_str(&replay("json")).unwrap();
    assert_eq!(array.len(), logged.len());
    assert!(replay("table").contains("keep"), "{}", replay("table"));
}

#[test]
fn a_decision_is_explained_from_the_journal_down_to_the_packets() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    put(&journal, "00000001.zkj", &segment(&story()));
    let explain = |args: &[&str]| {
        let command = ["decisions", "explain", "kz-000001", "--journal", "journal"];
        stdout(&zerkalo(&dir, &[&command, args].concat()))
    };
    let text = explain(&[]);
    for part in [
        "keep (before: none)",
        "the mirror works on",
        "input sha256",
        "effect act",
        "measured (record ",
        "http https://",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(explain(&["--language", "ru"]).contains("зеркало работает у"));
    assert!(explain(&["--language", "kk"]).contains("желісінде жұмыс істейді"));
    let json: serde_json::Value = serde_json::from_str(&explain(&["-o", "json"])).unwrap();
    assert!(json["evidence"][0]["measured"].as_array().is_some_and(|steps| !steps.is_empty()), "{json}");
    let missing = ["decisions", "explain", "kz-000999", "--journal", "journal"];
    check(&dir, &missing, 1, &["kz-000999", "zerkalo replay"]);
}

#[test]
fn a_forecast_of_a_young_journal_says_that_it_knows_too_little() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    put(&journal, "00000001.zkj", &segment(&story()));
    let text = stdout(&zerkalo(&dir, &["forecast", "--journal", "journal", "--market", "kz"]));
    for part in ["1 lives seen, 0 ended", "1 serving, 0 standing by", "too few to forecast", "m1"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json = stdout(&zerkalo(&dir, &["forecast", "--journal", "journal", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[1]["market"], &json[1]["needed"]), (&"kz".into(), &serde_json::Value::Null));
    check(&dir, &["forecast", "--journal", "journal", "--market", "xx"], 1, &["market xx has no policy"]);
}

#[test]
fn a_torn_tail_is_passed_over_and_damage_is_not() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    check(&dir, &["replay", "journal"], 1, &["no segments", "DIR/journal"]);
    check(&dir, &["replay", "nowhere"], 1, &["nowhere", "No such file"]);

    let tick = |secs| JournalEntry { at: NOON.plus_secs(secs), event: Event::Tick };
    let settings = JournalEntry { at: NOON, event: Event::Settings(default_settings()) };
    let first = segment(&[settings, tick(1)]);
    let second = segment(&[tick(2), tick(3)]);

    put(&journal, "00000001.zkj", &first);
    put(&journal, "00000002.zkj", &second);
    check(&dir, &["replay", "journal"], 0, &[]);
    check(&dir, &["replay", "journal/00000001.zkj", "-o", "table"], 0, &[]);
    put(&journal, "00000002.zkj", &second[..second.len() - 3]);
    check(
        &dir,
        &["replay", "journal"],
        0,
        &["note:", "00000002.zkj", "torn at offset", "never acknowledged"],
    );
    put(&journal, "00000001.zkj", &first[..first.len() - 3]);
    check(&dir, &["replay", "journal"], 1, &["00000001.zkj is corrupt at offset"]);
    let mut flipped = first.clone();
    flipped[MAGIC.len() + 12] ^= 1;
    put(&journal, "00000001.zkj", &flipped);
    check(&dir, &["replay", "journal"], 1, &["00000001.zkj is corrupt at offset 8"]);
    put(&journal, "00000001.zkj", b"PK\x03\x04 something else");
    check(&dir, &["replay", "journal"], 1, &["00000001.zkj is no journal segment"]);
    std::fs::rename(journal.join("00000002.zkj"), journal.join("00000003.zkj")).unwrap();
    check(&dir, &["replay", "journal"], 1, &["00000003.zkj does not follow", "missing"]);
}

pub fn segment(entries: &[JournalEntry]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    entries.iter().for_each(|entry| frame(&zerkalo_proto::journal::encode(entry), &mut bytes));
    bytes
}

pub fn put(journal: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(journal.join(name), bytes).unwrap();
}

/// Four Kazakh carriers of three owners, to all of whom the mirror opens.
fn story() -> Vec<JournalEntry> {
    let key = SecretKey::from_bytes(&[5; 32]);
    let mirror = Mirror {
        large_page: None,
        id: MirrorId::parse("m1").unwrap(),
        url: TargetUrl::parse(URL).unwrap(),
        markets: vec!["kz".parse().unwrap()],
        canary: Some("the real page".to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    };
    let list = MirrorList { mirrors: vec![mirror], ..MirrorList::issued(1, NOON) };
    let mut events = vec![
        Event::Settings(default_settings()),
        Event::List { list: SignedList::sign(&list, &key), operator: key.public().into() },
    ];
    let mut heads = Vec::new();
    for carrier in CARRIERS {
        for owner in OWNERS {
            let agent = AgentId::parse(&format!("{carrier}-{owner}")).unwrap();
            let owner = OwnerId::parse(owner).unwrap();
            let station = Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
            heads.push((agent.clone(), ChainLink::start(1)));
            events.push(Event::Enrolled(Enrolment { agent, owner, station, key: key.public() }));
        }
    }
    for _ in 0..ROUNDS {
        for (agent, head) in &mut heads {
            let at = NOON.plus_secs(events.len() as u64);
            let mut facts = reached();
            facts.mirror = Some(MirrorId::parse("m1").unwrap());
            facts.list_version = 1;
            facts.duration_micros = 200_000;
            facts.started_at = at.minus_millis(200);
            let signed = SignedRecord::sign(agent, *head, zerkalo_proto::record::encode(&facts), &key);
            *head = signed.link();
            events.push(Event::Record { signed, facts: Box::new(facts), is_ahead: false });
        }
    }
    let dated = |(second, event)| JournalEntry { at: NOON.plus_secs(second), event };
    (0..).zip(events).map(dated).collect()
}
