//! The cell, played as scripts: who says what, and what it looks like then.

mod liars;
mod properties;

use super::*;
use crate::catalogue::Catalogue;
use crate::policy::{BUILT_IN, Policy};

/// As shipped, but for a bare majority's wait, so that stories stay short.
pub(super) fn policy() -> CellPolicy {
    CellPolicy { bare_majority_secs: 0, ..shipped() }
}

pub(super) fn shipped() -> CellPolicy {
    Policy::parse(BUILT_IN[0], &Catalogue::built_in()).unwrap().cell
}

pub(super) fn evidence(agent: &str, at: UnixMillis, outcome: Outcome) -> Evidence {
    Evidence {
        agent: AgentId::parse(agent).unwrap(),
        record: Sha256::default(),
        at,
        verdict: Verdict {
            outcome,
            mechanism: (outcome == Outcome::Blocked).then_some(Mechanism::TlsTimeout),
            trigger: None,
            rule: "test".into(),
            rules_version: "t".into(),
            basis: vec![],
            control: None,
            dissent: None,
        },
        vicinity: None,
        addresses: None,
    }
}

fn outcome(letter: &str) -> Outcome {
    match letter {
        "b" => Outcome::Blocked,
        "o" => Outcome::Ok,
        "d" => Outcome::Down,
        "r" => Outcome::Restricted,
        "i" => Outcome::Insufficient,
        other => panic!("{other}"),
    }
}

/// Plays a script: each word is an owner's letter and a verdict's, a second apart; `.` waits a minute.
fn play(script: &str) -> (Cell, UnixMillis) {
    let (mut cell, policy, mut now) = (Cell::default(), policy(), UnixMillis(1_000_000));
    for word in script.split_whitespace() {
        if word == "." {
            now = now.plus_secs(60);
        } else {
            now = now.plus_secs(1);
            let owner = OwnerId::parse(&word[..1]).unwrap();
            cell.observe(&owner, evidence(&word[..1], now, outcome(&word[1..])), &policy);
        }
        cell.settle(now, &policy);
    }
    (cell, now)
}

#[track_caller]
fn check(script: &str, state: CellState) {
    let (cell, now) = play(script);
    assert_eq!(cell.state(now, &policy()), state, "{script}");
}

#[test]
fn owners_not_boxes_make_a_cell_red() {
    check("", CellState::Insufficient);
    check("ao bo co", CellState::Green);
    check("ab", CellState::Suspect);
    check("ab ab ab ab", CellState::Suspect);
    check("ab ab bb bb", CellState::Red);
    check("ab ab bb bb co", CellState::Red);
    check("co do ab ab bb bb", CellState::Suspect);
    check("ab ab bb bb co do", CellState::Red);
    check("ab ab bo bo co", CellState::Suspect);
    check("ab bb cb", CellState::Suspect);
    check("ab bo ab bo ab bo", CellState::Suspect);
}

#[test]
fn flagged_owners_need_enough_evidence_between_them() {
    // Flagged, each of them, at 5.0 nats: two need ten.
    check("ab ab ao ao bb bb bo bo", CellState::Red);
    let (mut cell, mut now) = play("ab ab ao ao");
    let policy = CellPolicy { red_score_per_owner: Thousandths(7_000), ..policy() };
    for _ in 0..2 {
        now = now.plus_secs(1);
        cell.observe(&OwnerId::parse("b").unwrap(), evidence("b", now, Outcome::Blocked), &policy);
    }
    assert_eq!(cell.state(now, &policy), CellState::Suspect);
}

#[test]
fn states_of_network_and_origin_never_count_as_red() {
    check("ar ar br br cr cr", CellState::Restricted);
    check("ad ad bd bd cd cd", CellState::Down);
    check("ai ai bi bi", CellState::Insufficient);
    check("ao bo co ar br cr ar br cr", CellState::Restricted);
}

#[test]
fn silence_is_stale_and_never_green() {
    check("ao bo co . .", CellState::Green);
    check("ao bo co . . .", CellState::Stale);
    check("ab ab bb bb . . .", CellState::Stale);
    // Verdicts that tell nothing are silence too, by and by.
    check("ao bo co . ai bi ci . ai bi ci", CellState::Green);
    check("ao bo co . ai bi ci . ai bi ci . ai bi ci", CellState::Stale);
}

#[test]
fn recovery_needs_the_reversed_test_and_a_dwell() {
    check("ab ab bb bb ao ao bo bo", CellState::Red);
    let keep = |rounds| ". ao bo ".repeat(rounds);
    // Two rounds until nobody is flagged any more; then ten minutes.
    check(&format!("ab ab bb bb {}", keep(12)), CellState::Red);
    check(&format!("ab ab bb bb {}", keep(13)), CellState::Green);
    check(&format!("ab ab bb bb {} bb bb . ao bo bo", keep(9)), CellState::Red);
    // One blocked visit in between sets the test back a little, no more.
    check(&format!("ab ab bb bb {} bb {}", keep(12), keep(1)), CellState::Red);
    check(&format!("ab ab bb bb {} bb {}", keep(12), keep(2)), CellState::Green);
}

#[test]
fn half_of_the_visits_passing_is_no_recovery() {
    let partial = ". ab bo co . ao bb cb ".repeat(60);
    check(&format!("ab ab bb bb cb cb {partial}"), CellState::Red);
}

#[test]
fn no_cell_is_red_for_ever() {
    // Both who saw the block went away; the one who stayed sees none.
    check(&format!("ab ab bb bb co {}", ". co ".repeat(4)), CellState::Red);
    check(&format!("ab ab bb bb co {}", ". co ".repeat(20)), CellState::Green);
    // Both who saw the block can no longer tell.
    check(&format!("ab ab bb bb {}", ". ai bi ".repeat(2)), CellState::Red);
    check(&format!("ab ab bb bb {}", ". ai bi ".repeat(4)), CellState::Stale);
    // What was said before a silence does not count behind it.
    check("ab ab bb bb . . . . ab bb", CellState::Suspect);
    // One voice alone cannot keep it red, nor can a minority.
    check(&format!("ab ab bb bb {}", ". ab ".repeat(12)), CellState::Red);
    check(&format!("ab ab bb bb {}", ". ab ".repeat(14)), CellState::Suspect);
    check(&format!("ab ab bb bb cb cb {}", ". ab bo co ".repeat(20)), CellState::Suspect);
}

#[test]
fn a_change_of_mechanism_is_one_event() {
    let (mut cell, mut now) = play("ab ab bb bb");
    let policy = policy();
    let before = cell.view(Access::Fixed, now, &policy);
    for _ in 0..3 {
        for owner in ["a", "b"] {
            now = now.plus_secs(30);
            let mut evidence = evidence(owner, now, Outcome::Blocked);
            evidence.verdict.mechanism = Some(Mechanism::DnsNxdomain);
            cell.observe(&OwnerId::parse(owner).unwrap(), evidence, &policy);
            cell.settle(now, &policy);
            assert_eq!(cell.state(now, &policy), CellState::Red);
        }
    }
    let after = cell.view(Access::Fixed, now, &policy);
    assert_eq!(
        (before.mechanisms, after.mechanisms),
        (vec![Mechanism::TlsTimeout], vec![Mechanism::DnsNxdomain])
    );
    assert_eq!(before.red_since, Some(UnixMillis(1_004_000)));
    assert_eq!(after.red_since, before.red_since);
}

#[test]
fn owners_of_one_vicinity_are_one_voice() {
    let (mut cell, policy, mut now) = (Cell::default(), policy(), UnixMillis(1_000_000));
    let mut say = |cell: &mut Cell, owner: &str, vicinity: u8, outcome| {
        now = now.plus_secs(1);
        let mut evidence = evidence(owner, now, outcome);
        evidence.vicinity = (vicinity > 0).then_some(Vicinity([vicinity; 8]));
        cell.observe(&OwnerId::parse(owner).unwrap(), evidence, &policy);
        cell.settle(now, &policy);
        cell.view(Access::Fixed, now, &policy)
    };
    for owner in ["a", "b", "c"] {
        say(&mut cell, owner, 7, Outcome::Blocked);
        let view = say(&mut cell, owner, 7, Outcome::Blocked);
        assert_eq!((view.state, view.owners, view.flagged), (CellState::Suspect, 1, 1));
    }
    assert_eq!(cell.flagged(UnixMillis(1_010_000), &policy).len(), 1);
    // One who lives elsewhere is the second voice.
    say(&mut cell, "d", 8, Outcome::Blocked);
    let view = say(&mut cell, "d", 8, Outcome::Blocked);
    assert_eq!((view.state, view.owners, view.flagged), (CellState::Red, 2, 2));
}

#[test]
fn partial_blocking_is_shown_as_a_share() {
    let (mut cell, now) = play("ab ab bo bo co do eo ab");
    let policy = policy();
    let mut visit = evidence("a", now.plus_secs(1), Outcome::Blocked);
    visit.addresses = Some(Count { blocked: 1, of: 4 });
    cell.observe(&OwnerId::parse("a").unwrap(), visit, &policy);
    let shares = cell.view(Access::Mobile, now.plus_secs(2), &policy).shares;
    let told = |share: Share| (share.blocked, share.of, share.permille);
    assert_eq!(told(shares.owners), (1, 5, 200));
    assert_eq!(told(shares.verdicts), (4, 9, 444));
    assert_eq!(shares.addresses.map(told), Some((1, 4, 250)));
    let later = cell.view(Access::Mobile, now.plus_secs(policy.stale_after_secs + 2), &policy).shares;
    assert_eq!((later.verdicts.of, later.addresses), (0, None));
}

#[test]
fn news_is_told_once() {
    let (mut cell, mut now, policy) = (Cell::default(), UnixMillis(1_000_000), policy());
    for (letter, expected) in [
        ("o", News::Nothing),
        ("b", News::FirstBlocked),
        ("b", News::FirstFlagged),
        ("b", News::Nothing),
        ("o", News::Nothing),
        ("b", News::Nothing),
    ] {
        now = now.plus_secs(60);
        let news = cell.observe(&OwnerId::parse("a").unwrap(), evidence("a", now, outcome(letter)), &policy);
        assert_eq!(news, expected, "{letter}");
    }
}
