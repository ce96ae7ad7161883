//! Whole stories through the fold: four Kazakh carriers of three owners, a control, one mirror.

mod adaptive;
mod arrival;
mod controls;
mod expiry;
mod identities;
mod pools;
mod replay;
mod silence;
mod suspicion;
mod whereabouts;

use super::*;
use crate::evidence::{ChainLink, SecretKey, SignedRecord};
use crate::judge::tests::transfer::{frozen, large};
use crate::judge::tests::{answer, cut, healthy, mirror};
use crate::market::Action;
use crate::record::{ProbeRecord, TlsOutcome};
use crate::target::MirrorList;
use crate::words::{OwnerId, Station};
use proptest::prelude::*;

const CARRIERS: [&str; 4] = ["kz-kazakhtelecom", "kz-beeline", "kz-kcell", "kz-tele2-altel"];
const OWNERS: usize = 3;
/// Every agent probes once in this time.
const INTERVAL_SECS: u64 = 60;

/// What an agent finds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sees {
    Fine,
    Nxdomain,
    HelloDropped,
    Whitelist,
}

fn facts(sees: Sees, ended_at: UnixMillis) -> ProbeRecord {
    let mut record = healthy();
    record.duration_micros = 200_000;
    record.started_at = ended_at.minus_millis(200);
    match sees {
        Sees::Fine => {}
        Sees::Nxdomain => {
            record.dns[0].outcome = answer(3, &[]);
            record.tcp.clear();
            record.tls.clear();
            record.http.clear();
        }
        Sees::HelloDropped => cut(&mut record, TlsOutcome::Timeout, None),
        Sees::Whitelist => {
            cut(&mut record, TlsOutcome::Timeout, None);
            record.references[1].reached = false;
        }
    }
    record
}

/// Writes a journal as the collector would.
struct Journal {
    entries: Vec<JournalEntry>,
    heads: BTreeMap<AgentId, ChainLink>,
    now: UnixMillis,
}

impl Journal {
    fn new() -> Self {
        let mut journal =
            Self { entries: Vec::new(), heads: BTreeMap::new(), now: UnixMillis(1_800_000_000_000) };
        journal.push(Event::Settings(default_settings()));
        let list = MirrorList { mirrors: vec![mirror()], ..MirrorList::issued(1, journal.now) };
        journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
        journal.enrol("control-1", "house", Station::Control);
        for carrier in CARRIERS {
            for owner in 0..OWNERS {
                let station = Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
                journal.enrol(&format!("{carrier}-{owner}"), &format!("{carrier}-owner{owner}"), station);
            }
        }
        journal
    }

    fn push(&mut self, event: Event) {
        self.entries.push(JournalEntry { at: self.now, event });
    }

    fn enrol(&mut self, agent: &str, owner: &str, station: Station) {
        let agent = AgentId::parse(agent).unwrap();
        let owner = OwnerId::parse(owner).unwrap();
        self.heads.insert(agent.clone(), ChainLink::start(1));
        self.push(Event::Enrolled(Enrolment { agent, owner, station, key: key().public() }));
    }

    fn record(&mut self, agent: &str, record: ProbeRecord) {
        let agent = AgentId::parse(agent).unwrap();
        let head = self.heads.get_mut(&agent).unwrap();
        let signed = SignedRecord::sign(&agent, *head, record.started_at.0.to_be_bytes().to_vec(), &key());
        *head = signed.link();
        self.push(Event::Record { signed, facts: Box::new(record), is_ahead: false });
    }

    /// One interval: the field agents one after another, the control in the middle and at the end.
    fn round(&mut self, sees: [Sees; 4], control: Sees) {
        for owner in 0..OWNERS {
            for (carrier, sees) in CARRIERS.iter().zip(sees) {
                self.now = self.now.plus_secs(INTERVAL_SECS / 15);
                self.record(&format!("{carrier}-{owner}"), facts(sees, self.now));
            }
            self.now = self.now.plus_secs(INTERVAL_SECS / 15);
            self.record("control-1", facts(control, self.now));
        }
    }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[5; 32])
}

fn fold(entries: &[JournalEntry]) -> (Fold, Vec<Decision>) {
    let mut fold = Fold::new();
    let decisions = entries.iter().flat_map(|entry| fold.apply(entry).decisions).collect();
    (fold, decisions)
}

fn actions(decisions: &[Decision]) -> Vec<Action> {
    decisions.iter().map(|decision| decision.action).collect()
}

use Sees::{Fine, HelloDropped, Nxdomain, Whitelist};

#[test]
fn the_lead_warns_and_the_market_rotates_after_the_hold() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    (0..4).for_each(|_| journal.round([Nxdomain, Fine, Fine, Fine], Fine));
    let warned = fold(&journal.entries).1;
    assert_eq!(actions(&warned), [Action::Keep, Action::Prepare]);
    assert!(warned[1].reasons.iter().any(|r| r.contains("Kazakhtelecom usually falls first")));
    assert!(warned[1].reasons.iter().any(|r| r.contains("dns.nxdomain")), "{:?}", warned[1].reasons);
    assert_eq!(warned[1].evidence.len(), OWNERS);
    (0..9).for_each(|_| journal.round([Nxdomain, HelloDropped, HelloDropped, Fine], Fine));
    let (state, decisions) = fold(&journal.entries);
    assert_eq!(actions(&decisions), [Action::Keep, Action::Prepare, Action::Pause, Action::Rotate]);
    let (pause, rotate) = (&decisions[2], &decisions[3]);
    assert!(rotate.at >= pause.at.plus_secs(180));
    assert!(rotate.evidence.iter().filter(|item| item.at > pause.at).count() >= 4);
    let matrix = state.matrix(state.at());
    let row = matrix.rows.iter().find(|row| row.market.as_str() == "kz").unwrap();
    assert_eq!(row.action, Some(Action::Rotate));
    let states: Vec<_> = row.carriers.iter().map(|carrier| carrier.state.as_str()).collect();
    assert_eq!(states, ["red", "red", "red", "green"]);
}

#[test]
fn one_whole_carrier_never_rotates_a_market() {
    let mut journal = Journal::new();
    (0..30).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
    assert_eq!(actions(&fold(&journal.entries).1), [Action::Keep, Action::Prepare]);
}

#[test]
fn whitelist_mode_burns_nothing() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    (0..20).for_each(|_| journal.round([Whitelist; 4], Fine));
    assert_eq!(actions(&fold(&journal.entries).1), [Action::Keep, Action::Hold]);
}

#[test]
fn a_site_that_goes_down_is_no_block_however_the_records_race() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    // The control answered a moment before: that proves nothing about what failed after it.
    (0..20).for_each(|_| journal.round([HelloDropped; 4], HelloDropped));
    assert_eq!(actions(&fold(&journal.entries).1), [Action::Keep, Action::FixOrigin]);
}

/// The page passes everywhere; what is longer freezes in the field. Only a control that read it can say more.
#[test]
fn a_frozen_large_page_waits_for_the_control_that_read_it() {
    use crate::cell::CellState::{Insufficient, Red};
    let with = |ended_at, page| {
        let mut record = facts(Fine, ended_at);
        record.http.push(page);
        record
    };
    for (second_reads, expected) in [(true, Red), (false, Insufficient)] {
        let mut journal = Journal::new();
        journal.enrol("control-2", "house", Station::Control);
        for owner in (0..6).map(|n| n % OWNERS) {
            journal.now = journal.now.plus_secs(30);
            journal.record(&format!("kz-kcell-{owner}"), with(journal.now, frozen(20_000, 22_000)));
            journal.now = journal.now.plus_secs(1);
            journal.record("control-1", facts(Fine, journal.now));
            journal.now = journal.now.plus_secs(1);
            let second =
                if second_reads { with(journal.now, large(9_000)) } else { facts(Fine, journal.now) };
            journal.record("control-2", second);
        }
        journal.now = journal.now.plus_secs(91);
        journal.push(Event::Tick);
        let (mut state, _) = fold(&journal.entries);
        assert!(state.take_wishes().iter().any(|wish| wish.agent.as_str() == "control-1"));
        let row = &state.matrix(state.at()).rows[0];
        let kcell = row.carriers.iter().find(|cell| cell.carrier.as_str() == "kz-kcell").unwrap();
        assert_eq!(kcell.state, expected);
    }
}

/// Two controls, of which one lost its line: it calls no site down, and the other is heard even if it speaks second.
#[test]
fn a_control_that_lost_its_line_does_not_speak_for_the_other() {
    let offline = |ended_at| {
        let mut record = facts(Nxdomain, ended_at);
        record.dns[0].outcome = crate::record::DnsOutcome::Timeout;
        record.references.clear();
        record
    };
    for (is_first_ill, is_second_ill, expected) in [
        (true, false, crate::cell::CellState::Red),
        (false, true, crate::cell::CellState::Red),
        (true, true, crate::cell::CellState::Insufficient),
    ] {
        let mut journal = Journal::new();
        journal.enrol("control-2", "house", Station::Control);
        for owner in (0..6).map(|n| n % OWNERS) {
            journal.now = journal.now.plus_secs(30);
            journal.record(&format!("kz-kcell-{owner}"), facts(HelloDropped, journal.now));
            for (control, is_ill) in [("control-1", is_first_ill), ("control-2", is_second_ill)] {
                journal.now = journal.now.plus_secs(1);
                let record = if is_ill { offline(journal.now) } else { facts(Fine, journal.now) };
                journal.record(control, record);
            }
        }
        journal.now = journal.now.plus_secs(91);
        journal.push(Event::Tick);
        let (state, _) = fold(&journal.entries);
        let row = &state.matrix(state.at()).rows[0];
        let kcell = row.carriers.iter().find(|carrier| carrier.carrier.as_str() == "kz-kcell").unwrap();
        assert_eq!(kcell.state, expected, "{kcell:?}");
    }
}

#[test]
fn without_a_control_nothing_is_called_blocked() {
    let mut journal = Journal::new();
    for _ in 0..20 {
        for owner in 0..OWNERS {
            for carrier in CARRIERS {
                journal.now = journal.now.plus_secs(5);
                journal.record(&format!("{carrier}-{owner}"), facts(HelloDropped, journal.now));
            }
        }
        journal.push(Event::Tick);
    }
    let (state, decisions) = fold(&journal.entries);
    assert_eq!(actions(&decisions), []);
    let matrix = state.matrix(state.at());
    let kz = matrix.rows.iter().find(|row| row.market.as_str() == "kz").unwrap();
    assert!(kz.carriers.iter().all(|c| c.state == crate::cell::CellState::Insufficient), "{kz:?}");
}

#[test]
fn boxes_of_one_owner_are_one_voice() {
    let mut journal = Journal::new();
    let station =
        |carrier: &str| Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
    for carrier in ["kz-beeline", "kz-kcell"] {
        for n in 0..5 {
            journal.enrol(&format!("box-{carrier}-{n}"), "one-person", station(carrier));
        }
    }
    for _ in 0..20 {
        journal.round([Fine; 4], Fine);
        for carrier in ["kz-beeline", "kz-kcell"] {
            for n in 0..5 {
                journal.now = journal.now.plus_millis(100);
                journal.record(&format!("box-{carrier}-{n}"), facts(HelloDropped, journal.now));
            }
        }
    }
    assert_eq!(actions(&fold(&journal.entries).1), [Action::Keep]);
}

#[test]
fn a_revoked_agent_has_no_say() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    (0..4).for_each(|_| journal.round([HelloDropped, Fine, Fine, Fine], Fine));
    for owner in 0..OWNERS {
        journal.push(Event::Revoked(AgentId::parse(&format!("kz-kazakhtelecom-{owner}")).unwrap()));
    }
    journal.push(Event::Tick);
    let (state, _) = fold(&journal.entries);
    let row = &state.matrix(state.at()).rows[0];
    assert_eq!(row.carriers[0].state, crate::cell::CellState::Insufficient);
}

#[test]
fn a_revoked_control_judges_nobody() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    let revoked = Event::Revoked(AgentId::parse("control-1").unwrap());
    // Its word given before it was revoked is gone too.
    let mut spoken =
        Journal { entries: journal.entries.clone(), heads: journal.heads.clone(), now: journal.now };
    for owner in (0..6).map(|n| n % OWNERS) {
        spoken.now = spoken.now.plus_secs(1);
        let record = facts(HelloDropped, spoken.now);
        spoken.now = spoken.now.plus_secs(1);
        let control = facts(Fine, spoken.now);
        spoken.record("control-1", control);
        spoken.push(revoked.clone());
        spoken.record(&format!("kz-kcell-{owner}"), record);
    }
    journal.push(revoked);
    (0..10).for_each(|_| journal.round([HelloDropped; 4], Fine));
    for mut journal in [journal, spoken] {
        journal.now = journal.now.plus_secs(91);
        journal.push(Event::Tick);
        let (state, decisions) = fold(&journal.entries);
        assert!(!actions(&decisions).iter().any(|action| matches!(action, Action::Prepare | Action::Pause)));
        let row = &state.matrix(state.at()).rows[0];
        assert!(row.carriers.iter().all(|one| one.state != crate::cell::CellState::Red), "{row:?}");
    }
}

#[test]
fn silence_makes_a_deadline_and_a_tick_moves_it() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    let mut state = fold(&journal.entries).0;
    let mut decisions = Vec::new();
    for _ in 0..100 {
        let Some(at) = state.next_deadline() else { break };
        assert!(at > state.at(), "a deadline that does not pass would tick for ever");
        decisions.extend(state.apply(&JournalEntry { at, event: Event::Tick }).decisions);
    }
    assert_eq!(state.next_deadline(), None, "all deadlines pass in the end");
    assert_eq!(actions(&decisions), [Action::Hold]);
}

#[test]
fn spooled_records_are_history_not_news() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    let hours_ago = journal.now.minus_millis(3 * 3_600_000);
    for n in 0..50 {
        for carrier in CARRIERS {
            for owner in 0..OWNERS {
                journal.record(&format!("{carrier}-{owner}"), facts(Nxdomain, hours_ago.plus_secs(n)));
            }
        }
    }
    journal.round([Fine; 4], Fine);
    assert_eq!(actions(&fold(&journal.entries).1), [Action::Keep]);
}

#[test]
fn records_of_a_url_the_list_no_longer_names_say_nothing() {
    let mut journal = Journal::new();
    (0..3).for_each(|_| journal.round([Fine; 4], Fine));
    let mut moved = mirror();
    moved.url = crate::target::TargetUrl::parse("https://new.example/").unwrap();
    let list = MirrorList { mirrors: vec![moved], ..MirrorList::issued(2, journal.now) };
    journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
    (0..5).for_each(|_| journal.round([Nxdomain; 4], Fine));
    let (state, decisions) = fold(&journal.entries);
    assert_eq!(actions(&decisions), [Action::Keep], "decided about the old URL");
    let row = &state.matrix(state.at()).rows[0];
    assert_eq!(row.action, None);
    assert!(row.carriers.iter().all(|carrier| carrier.cells.is_empty()), "{row:?}");
}

fn any_sees() -> impl Strategy<Value = Sees> {
    prop_oneof![Just(Fine), Just(Nxdomain), Just(HelloDropped), Just(Whitelist)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_same_journal_gives_the_same_bytes(
        rounds in proptest::collection::vec((proptest::array::uniform4(any_sees()), any_sees()), 1..20),
    ) {
        let mut journal = Journal::new();
        rounds.iter().for_each(|(sees, control)| journal.round(*sees, *control));
        let bytes = || -> Vec<String> { fold(&journal.entries).1.iter().map(Decision::to_json).collect() };
        let first = bytes();
        prop_assert_eq!(&first, &bytes());
        // A prefix of the journal gives a prefix of the decisions: what is logged never changes afterwards.
        let half = fold(&journal.entries[..journal.entries.len() / 2]).1;
        let half: Vec<String> = half.iter().map(Decision::to_json).collect();
        prop_assert_eq!(&first[..half.len()], &half[..]);
        for line in &first {
            let read: Decision = serde_json::from_str(line).unwrap();
            prop_assert_eq!(&read.to_json(), line);
        }
    }

    #[test]
    fn fewer_than_two_liars_on_each_carrier_never_turn_a_market(
        liars in proptest::array::uniform4(0usize..OWNERS), rounds in 5usize..25,
    ) {
        let mut journal = Journal::new();
        for _ in 0..rounds {
            for owner in 0..OWNERS {
                for (carrier, liar) in CARRIERS.iter().zip(liars) {
                    journal.now = journal.now.plus_secs(4);
                    let sees = if owner == liar { HelloDropped } else { Fine };
                    journal.record(&format!("{carrier}-{owner}"), facts(sees, journal.now));
                }
                journal.record("control-1", facts(Fine, journal.now));
            }
        }
        let taken = actions(&fold(&journal.entries).1);
        prop_assert!(taken.iter().all(|action| *action == Action::Keep), "{:?}", taken);
    }
}

#[test]
fn a_record_of_a_picture_alone_moves_no_cell_and_answers_for_its_bytes() {
    let seen = |journal: &mut Journal, is_pictured: bool| {
        for round in 0..6 {
            journal.round(if round < 3 { [Fine; 4] } else { [Nxdomain, Fine, Fine, Fine] }, Fine);
            if is_pictured {
                let mut record = healthy();
                (record.dns, record.tcp, record.tls) = (vec![], vec![], vec![]);
                (record.http, record.quic) = (vec![], vec![]);
                record.started_at = journal.now;
                record.screenshot = Some(crate::record::Screenshot {
                    sha256: crate::target::Sha256([round; 32]),
                    len: 4_000,
                    media_type: "image/webp".to_owned(),
                    address: "192.0.2.1:443".parse().unwrap(),
                    span: Default::default(),
                    failure: None,
                });
                journal.record("kz-kazakhtelecom-0", record.clone());
                record.screenshot.as_mut().unwrap().len = 1 << 40;
                journal.record("control-1", record);
            }
        }
    };
    let (mut plain, mut pictured) = (Journal::new(), Journal::new());
    seen(&mut plain, false);
    seen(&mut pictured, true);
    let ((plain, expected), (pictured, decisions)) = (fold(&plain.entries), fold(&pictured.entries));
    assert_eq!(actions(&decisions), actions(&expected));
    assert_eq!(pictured.matrix(pictured.at()).rows[0].carriers, plain.matrix(plain.at()).rows[0].carriers);
    let agent = AgentId::parse("kz-kazakhtelecom-0").unwrap();
    let newest = pictured.picture_of(&agent, &crate::target::Sha256([5; 32])).unwrap();
    assert_eq!((newest.screenshot.len, pictured.pictures().next()), (4_000, Some(newest)));
    assert_eq!(pictured.pictures().count(), 6);
    let control = AgentId::parse("control-1").unwrap();
    assert!(pictured.picture_of(&control, &crate::target::Sha256([5; 32])).is_none());
}
