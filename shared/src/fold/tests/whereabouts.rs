//! Agents that stand elsewhere than they said, and agents whose clocks are off.

use super::*;
use crate::cell::CellState;
use crate::record::NetworkCheck;
use crate::words::Vicinity;

const KAZAKHTELECOM: u32 = 9_198;
const KCELL: u32 = 29_355;

fn observe(journal: &mut Journal, agent: &str, asn: Option<u32>) {
    let agent = AgentId::parse(agent).unwrap();
    journal.push(Event::Observed { agent, whereabouts: Whereabouts { asn, vicinity: None } });
}

fn state_of(journal: &Journal, carrier: &str) -> CellState {
    let (state, _) = fold(&journal.entries);
    let matrix = state.matrix(state.at());
    let row = matrix.rows.iter().find(|row| row.market.as_str() == "kz").unwrap();
    row.carriers.iter().find(|view| view.carrier.as_str() == carrier).unwrap().state
}

#[test]
fn an_agent_elsewhere_has_no_say_until_it_is_back() {
    let asns = [None, Some(KCELL), Some(KAZAKHTELECOM)];
    let expected = [CellState::Red, CellState::Red, CellState::Insufficient];
    for (asn, expected) in asns.into_iter().zip(expected) {
        let mut journal = Journal::new();
        (0..OWNERS).for_each(|owner| observe(&mut journal, &format!("kz-kcell-{owner}"), asn));
        (0..6).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
        assert_eq!(state_of(&journal, "kz-kcell"), expected, "{asn:?}");
        (0..OWNERS).for_each(|owner| observe(&mut journal, &format!("kz-kcell-{owner}"), Some(KCELL)));
        (0..6).for_each(|_| journal.round([Fine, Fine, HelloDropped, Fine], Fine));
        assert_eq!(state_of(&journal, "kz-kcell"), CellState::Red, "back from {asn:?}");
    }
}

#[test]
fn what_an_agent_elsewhere_says_names_its_rule() {
    let mut journal = Journal::new();
    observe(&mut journal, "kz-kcell-0", Some(KAZAKHTELECOM));
    journal.round([Fine, Fine, HelloDropped, Fine], Fine);
    let (state, _) = fold(&journal.entries);
    let kcell = AgentId::parse("kz-kcell-0").unwrap();
    assert_eq!(state.elsewhere(&kcell), Some(KAZAKHTELECOM));
    assert_eq!(state.elsewhere(&AgentId::parse("kz-kcell-1").unwrap()), None);
    let cell = &state.cells[&mirror().id][&("kz-kcell".parse().unwrap(), Access::Mobile)];
    let policy = &state.settings.policies()[1].cell;
    let words: Vec<_> = cell.fresh(state.at(), policy).map(|(_, word)| &word.last).collect();
    let said = words.iter().find(|said| said.agent == kcell).unwrap();
    assert_eq!(said.verdict.rule, crate::judge::ELSEWHERE);
    assert!(said.verdict.basis[0].contains("AS9198"), "{said:?}");
}

/// A control that stands in a censored network calls a block an outage.
#[test]
fn a_control_within_a_carrier_s_network_is_none() {
    for (asn, expected) in [(None, Action::FixOrigin), (Some(KAZAKHTELECOM), Action::Hold)] {
        let mut journal = Journal::new();
        (0..3).for_each(|_| journal.round([Fine; 4], Fine));
        observe(&mut journal, "control-1", asn);
        for _ in 0..20 {
            journal.round([HelloDropped; 4], HelloDropped);
            journal.push(Event::Tick);
        }
        let last = fold(&journal.entries).1.last().unwrap().action;
        assert_eq!(last, expected, "{asn:?}");
    }
}

#[test]
fn nobody_elsewhere_is_asked_for_a_fresh_look() {
    let mut journal = Journal::new();
    observe(&mut journal, "kz-kcell-1", Some(KAZAKHTELECOM));
    journal.round([Fine, Fine, HelloDropped, Fine], Fine);
    let asked: Vec<_> = fold(&journal.entries).0.take_wishes().into_iter().map(|wish| wish.agent).collect();
    let is_asked = |agent: &str| asked.contains(&AgentId::parse(agent).unwrap());
    assert!(is_asked("kz-kcell-2") && is_asked("control-1"), "{asked:?}");
    assert!(!is_asked("kz-kcell-1"), "{asked:?}");
}

/// Its records look spooled, and a record from the past waits for no control.
#[test]
fn a_slow_clock_costs_no_evidence_where_it_is_known_to_be_slow() {
    let behind_millis = 600_000;
    for (told, expected) in [(Some(-600_000), CellState::Red), (None, CellState::Stale)] {
        let mut journal = Journal::new();
        for owner in (0..6).map(|n| n % OWNERS) {
            journal.now = journal.now.plus_secs(20);
            let mut record = facts(HelloDropped, journal.now.minus_millis(behind_millis));
            record.network = Some(NetworkCheck { clock_ahead_millis: told, ..NetworkCheck::default() });
            journal.record(&format!("kz-kcell-{owner}"), record);
            journal.now = journal.now.plus_secs(5);
            journal.record("control-1", facts(Fine, journal.now));
        }
        // Every control that is at work has had the time to speak.
        journal.now = journal.now.plus_secs(60);
        journal.push(Event::Tick);
        assert_eq!(state_of(&journal, "kz-kcell"), expected, "{told:?}");
        let (state, _) = fold(&journal.entries);
        assert_eq!(state.agents()[&AgentId::parse("kz-kcell-0").unwrap()].clock_ahead_millis, told);
    }
}

/// Three owners behind one /24: at home one person's boxes, on a phone strangers behind the carrier's own address.
#[test]
fn neighbours_are_one_voice_on_fixed_access_alone() {
    use crate::cell::CellState::{Red, Suspect};
    for (access, expected) in [(Access::Fixed, (Suspect, 1)), (Access::Mobile, (Red, 3))] {
        let mut journal = Journal::new();
        for n in 0..3 {
            let agent = AgentId::parse(&format!("box-{n}")).unwrap();
            let station = Station::Field { carrier: "kz-almatv".parse().unwrap(), access };
            journal.enrol(agent.as_str(), &format!("person-{n}"), station);
            let whereabouts = Whereabouts { asn: None, vicinity: Some(Vicinity([3; 8])) };
            journal.push(Event::Observed { agent, whereabouts });
        }
        for n in (0..6).map(|n| n % 3) {
            journal.now = journal.now.plus_secs(5);
            journal.record(&format!("box-{n}"), facts(HelloDropped, journal.now));
            journal.now = journal.now.plus_secs(1);
            journal.record("control-1", facts(Fine, journal.now));
        }
        let (state, _) = fold(&journal.entries);
        let row = &state.matrix(state.at()).rows[0];
        let cells = &row.carriers.iter().find(|one| one.carrier.as_str() == "kz-almatv").unwrap().cells;
        assert_eq!((cells[0].state, cells[0].owners), expected, "{access}");
    }
}
