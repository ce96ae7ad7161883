//! The noise read off a journal, held against the noise that was played, and given back to the simulation.

use tempfile::TempDir;
use zerkalo_core::evidence::{ChainLink, PublicKey, SecretKey, SignedList, SignedRecord};
use zerkalo_core::fold::default_settings;
use zerkalo_core::journal::{Enrolment, Event, JournalEntry};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::simulate::Noise;
use zerkalo_core::target::{Mirror, MirrorList, TargetUrl};
use zerkalo_core::words::{Access, AgentId, MirrorId, OwnerId, Station, UnixMillis};

use crate::records::{NOON, URL, reached, silenced};
use crate::replay::{put, segment};
use crate::{check, stdout, zerkalo};

const CARRIERS: [&str; 4] = ["kz-kazakhtelecom", "kz-beeline", "kz-kcell", "kz-tele2-altel"];
const OWNERS: [&str; 3] = ["aigerim", "bolat", "dana"];
/// Turns of a minute.
const ROUNDS: u64 = 100;
/// Every agent sees a block that is none at one visit of so many: further apart than what makes a burst.
const ONE_IN: u64 = 25;

/// Who signs, and where its chain stands.
struct Speaker {
    agent: AgentId,
    head: ChainLink,
}

impl Speaker {
    fn enrol(name: &str, owner: &str, station: Station, key: PublicKey) -> (Self, Event) {
        let agent = AgentId::parse(name).unwrap();
        let owner = OwnerId::parse(owner).unwrap();
        let enrolment = Enrolment { agent: agent.clone(), owner, station, key };
        (Self { agent, head: ChainLink::start(1) }, Event::Enrolled(enrolment))
    }

    fn say(&mut self, mut facts: ProbeRecord, ended_at: UnixMillis, key: &SecretKey) -> JournalEntry {
        facts.mirror = Some(MirrorId::parse("m1").unwrap());
        facts.list_version = 1;
        facts.started_at = ended_at.minus_millis(facts.duration_micros / 1_000);
        let body = zerkalo_proto::record::encode(&facts);
        let signed = SignedRecord::sign(&self.agent, self.head, body, key);
        self.head = signed.link();
        JournalEntry {
            at: ended_at,
            event: Event::Record { signed, facts: Box::new(facts), is_ahead: false },
        }
    }
}

/// Twelve owners' visits to a mirror that nobody blocks, a control's between them, and false blocks at a known rate.
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
    let began = |event| JournalEntry { at: NOON, event };
    let mut entries = vec![
        began(Event::Settings(default_settings())),
        began(Event::List { list: SignedList::sign(&list, &key), operator: key.public().into() }),
    ];
    let (mut control, enrolled) = Speaker::enrol("control-1", "host", Station::Control, key.public());
    entries.push(began(enrolled));
    let mut field = Vec::new();
    for carrier in CARRIERS {
        for owner in OWNERS {
            let station = Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
            let (speaker, enrolled) =
                Speaker::enrol(&format!("{carrier}-{owner}"), owner, station, key.public());
            entries.push(began(enrolled));
            field.push(speaker);
        }
    }
    let took = |mut facts: ProbeRecord, millis: u64| {
        facts.duration_micros = millis * 1_000;
        facts
    };
    for round in 0..ROUNDS {
        let minute = NOON.plus_secs(60 * (round + 1));
        for (number, speaker) in (0u64..).zip(&mut field) {
            let is_false = (round + 2 * number) % ONE_IN == 0;
            let facts = if is_false { took(silenced(), 10_000) } else { took(reached(), 700) };
            entries.push(speaker.say(facts, minute.plus_secs(number), &key));
        }
        // Begun behind them all, and in time for those that wait for a control.
        entries.push(control.say(took(reached(), 300), minute.plus_secs(20), &key));
    }
    entries
}

#[test]
fn a_fit_finds_the_noise_that_was_played_and_the_simulation_takes_it() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    put(&journal, "00000001.zkj", &segment(&story()));
    let fitted = stdout(&zerkalo(&dir, &["simulate", "fit", "--journal", "journal"]));
    for part in [
        "of 12 agents on 4 carriers",
        "left out as parts of a block: 0",
        "# No burst seen",
        "# No carrier outage seen",
    ] {
        assert!(fitted.contains(part), "{part:?} in\n{fitted}");
    }
    let noise = Noise::parse(&fitted).unwrap();
    let truth = 1.0 / ONE_IN as f64;
    let found = noise.verdict.false_blocked;
    assert!((found - truth).abs() < truth / 10.0, "{found} is not {truth}\n{fitted}");
    // Least, median, 95th percentile, most: of what visits took.
    assert!(fitted.contains("ok_millis = [700, 700, 700, 700]"), "{fitted}");
    std::fs::write(dir.path().join("noise.toml"), &fitted).unwrap();
    let played = ["simulate", "--noise", "noise.toml", "--runs", "1", "--months", "1"];
    let sparse = ["--owners", "1", "--interval", "3600", "-o", "json"];
    let report = stdout(&zerkalo(&dir, &[&played[..], &sparse[..]].concat()));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["noise"]["verdict"]["false_blocked"].as_f64(), Some(found));
}

#[test]
fn a_fit_of_nothing_says_so() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let tick = JournalEntry { at: NOON, event: Event::Tick };
    put(&journal, "00000001.zkj", &segment(&[tick]));
    let fit = |journal: &'static str| ["simulate", "fit", "--journal", journal];
    check(&dir, &fit("journal"), 1, &["journal holds no record of an agent in the field"]);
    check(&dir, &fit("nowhere"), 1, &["nowhere", "No such file"]);
    std::fs::write(dir.path().join("noise.toml"), "[verdict]\nfalse_blocked = 2.0\n").unwrap();
    check(&dir, &["simulate", "--noise", "noise.toml"], 1, &["noise.toml describes no noise"]);
}
