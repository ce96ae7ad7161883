//! The state machine, played as scripts over four carriers.

use super::*;
use crate::catalogue::Catalogue;
use crate::cell::{CarrierView, CellState};
use crate::policy::{BUILT_IN, Policy};
use crate::words::UnixMillis;

fn policy() -> Policy {
    Policy::parse(BUILT_IN[1], &Catalogue::built_in()).unwrap()
}

fn carriers(states: &str, confirmed_at: Option<UnixMillis>, policy: &Policy) -> Vec<CarrierInput> {
    let state = |letter| match letter {
        'g' => CellState::Green,
        'R' => CellState::Red,
        's' => CellState::Suspect,
        'r' => CellState::Restricted,
        'd' => CellState::Down,
        'f' => CellState::Refused,
        't' => CellState::Stale,
        '-' => CellState::Insufficient,
        other => panic!("{other}"),
    };
    policy
        .carriers
        .iter()
        .zip(states.chars())
        .map(|(id, letter)| {
            let view = CarrierView {
                state: state(letter),
                ..CarrierView::of(id.clone(), id.to_string(), Vec::new())
            };
            CarrierInput { confirmed_at, ..CarrierInput::of_view(view) }
        })
        .collect()
}

/// Plays steps `secs:states` (a `!` at the end: freshly confirmed) and returns the actions taken.
#[track_caller]
fn check(script: &str, expected: &str) {
    let (mut mirror, policy, mut taken) = (MarketMirror::default(), policy(), Vec::new());
    for step in script.split_whitespace() {
        let (secs, states) = step.split_once(':').unwrap();
        let now = UnixMillis(secs.parse::<u64>().unwrap() * 1000);
        let confirmed_at = states.ends_with('!').then_some(now);
        let carriers = carriers(states.trim_end_matches('!'), confirmed_at, &policy);
        let input = MarketInput { now, role: PoolState::Live, policy: &policy, carriers: &carriers };
        if let Some(change) = mirror.step(&input) {
            assert!(!change.texts.en.is_empty());
            taken.push(format!("{secs}:{}", change.action));
        }
    }
    assert_eq!(taken.join(" "), expected, "{script}");
}

#[test]
fn the_playbook_is_followed() {
    check("0:---- 3:g--- 5:gg-- 9:gggg", "5:keep");
    check("0:gggg 10:Rggg 20:RRRg 270:RRRg!", "0:keep 10:prepare 20:pause 270:rotate");
    check("0:gggg 10:gRgg", "0:keep 10:prepare");
    check("0:RRRR 240:RRRR!", "0:pause 240:rotate");
}

#[test]
fn rotate_needs_the_hold_and_fresh_confirmation() {
    check("0:gggg 10:RRgg 100:RRgg!", "0:keep 10:pause");
    check("0:gggg 10:RRgg 500:RRgg", "0:keep 10:pause");
    check("0:gggg 10:RRgg 500:Rsgg!", "0:keep 10:pause");
    check("0:gggg 10:RRgg 500:RRgg 510:RRgg!", "0:keep 10:pause 510:rotate");
}

#[test]
fn recovery_has_its_own_threshold_and_dwell() {
    check("0:gggg 10:Rggg 20:gggg 100:gggg", "0:keep 10:prepare");
    check("0:gggg 10:Rggg 20:gggg 1820:gggg", "0:keep 10:prepare 1820:keep");
    check("0:gggg 10:Rggg 20:gggg 900:Rggg 901:gggg 1820:gggg", "0:keep 10:prepare");
    check("0:RRRR 240:RRRR! 250:gggg 2060:gggg", "0:pause 240:rotate 2060:keep");
    check("0:RRRR 240:RRRR! 250:Rggg 5000:Rggg", "0:pause 240:rotate");
}

#[test]
fn states_of_network_and_origin_burn_nothing() {
    check("0:gggg 10:rrrr 999:rrrr", "0:keep 10:hold");
    check("0:gggg 10:rrgg 20:gggg", "0:keep 10:hold 20:keep");
    check("0:gggg 10:dddd 20:gggg", "0:keep 10:fix_origin 20:keep");
    check("0:gggg 10:tttt 20:gggg", "0:keep 10:hold 20:keep");
    check("0:tttt", "");
    check("0:gggg 10:ffff 20:gggg", "0:keep 10:change_cdn_rule 20:keep");
    check("0:gggg 10:gttt 20:ggtt", "0:keep 10:hold 20:keep");
    check("0:d---", "");
    check("0:gggg 10:sggg", "0:keep");
}

#[test]
fn carriers_without_agents_hold_nothing_up() {
    check("0:gg-- 10:RR-- 500:RR--! 600:gg-- 2400:gg--", "0:keep 10:pause 500:rotate 2400:keep");
    check("0:gggg 10:RRgg 20:ggss 1820:ggss", "0:keep 10:pause 1820:keep");
    check("0:gggg 10:dddd 20:ggss", "0:keep 10:fix_origin 20:keep");
    check("0:gggg 10:rrrr 20:ggtt", "0:keep 10:hold 20:keep");
}

#[test]
fn a_network_that_comes_and_goes_is_told_once() {
    check("0:gg-- 10:rg-- 20:gg-- 30:rg--", "0:keep 10:hold 20:keep 30:hold");
    check("0:gggg 10:rrgg 20:rggg 30:rrgg 40:rggg", "0:keep 10:hold");
}
