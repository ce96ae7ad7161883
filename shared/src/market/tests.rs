//! The state machine, played as scripts over four carriers.

use super::*;
use crate::catalogue::Catalogue;
use crate::cell::{CarrierView, CellState, CellView};
use crate::policy::{BUILT_IN, Policy};
use crate::verdict::{Mechanism, Trigger};
use crate::words::UnixMillis;
use proptest::prelude::*;

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

/// Steps a mirror with these carriers, `secs` after the beginning; gives the action if it changed.
fn step(
    mirror: &mut MarketMirror,
    policy: &Policy,
    role: PoolState,
    secs: u64,
    carriers: &[CarrierInput],
) -> Option<Change> {
    mirror.step(&MarketInput { now: UnixMillis(secs * 1_000), role, policy, carriers })
}

/// Red on all carriers, by these votes, confirmed at this second.
fn red(
    policy: &Policy,
    votes: &[(Mechanism, Option<Trigger>, u32)],
    confirmed_secs: u64,
) -> Vec<CarrierInput> {
    let mut carriers = carriers("RRRR", Some(UnixMillis(confirmed_secs * 1_000)), policy);
    let vote = |(mechanism, trigger, owners): &(Mechanism, Option<Trigger>, u32)| CauseVotes {
        mechanism: *mechanism,
        trigger: *trigger,
        owners: *owners,
    };
    carriers.iter_mut().for_each(|carrier| carrier.causes = votes.iter().map(vote).collect());
    carriers
}

/// All carriers green, four of five owners of the first `count` degraded.
fn impaired(
    policy: &Policy,
    mechanism: Mechanism,
    trigger: Option<Trigger>,
    count: usize,
) -> Vec<CarrierInput> {
    let mut carriers = carriers("gggg", None, policy);
    for carrier in carriers.iter_mut() {
        let access = crate::words::Access::Mobile;
        carrier.view.cells = vec![CellView {
            access,
            state: CellState::Green,
            red_since: None,
            owners: 5,
            flagged: 0,
            apart: 0,
            mechanisms: vec![],
            shares: crate::cell::Shares::default(),
            too_late: 0,
        }];
    }
    let votes = vec![CauseVotes { mechanism, trigger, owners: 4 }];
    carriers.iter_mut().take(count).for_each(|carrier| carrier.impaired = votes.clone());
    carriers
}

#[test]
fn the_remedy_follows_the_cause() {
    let policy = policy();
    let check = |votes: &[(Mechanism, Option<Trigger>, u32)], expected: Action| {
        let mut mirror = MarketMirror::default();
        let live = PoolState::Live;
        assert_eq!(
            step(&mut mirror, &policy, live, 0, &red(&policy, votes, 0)).unwrap().action,
            Action::Pause
        );
        let change = step(&mut mirror, &policy, live, 240, &red(&policy, votes, 239)).unwrap();
        assert_eq!(change.action, expected, "{votes:?}");
        assert_eq!(change.cause.is_some(), !votes.is_empty());
        assert_eq!((change.possible_at, change.texts.en.len()), (UnixMillis(240_000), change.texts.kk.len()));
    };
    use Mechanism as M;
    use Trigger as T;
    check(&[(M::TlsTimeout, Some(T::Sni), 3)], Action::Rotate);
    check(&[(M::TcpTimeout, Some(T::Ip), 3)], Action::MoveHosting);
    check(&[(M::TcpTimeout, Some(T::Ip), 3), (M::DnsNxdomain, Some(T::Name), 4)], Action::Rotate);
    check(&[(M::TransferFreeze, Some(T::Ip), 3)], Action::MoveHosting);
    check(&[], Action::Rotate);
}

#[test]
fn hosting_that_moved_in_vain_ends_in_a_rotation() {
    let (policy, mut mirror, live) = (policy(), MarketMirror::default(), PoolState::Live);
    let by_ip = [(Mechanism::TcpTimeout, Some(Trigger::Ip), 3)];
    let by_name = [(Mechanism::TlsReset, Some(Trigger::Sni), 3)];
    step(&mut mirror, &policy, live, 0, &red(&policy, &by_ip, 0));
    assert_eq!(
        step(&mut mirror, &policy, live, 240, &red(&policy, &by_ip, 239)).unwrap().action,
        Action::MoveHosting
    );
    assert_eq!(step(&mut mirror, &policy, live, 300, &red(&policy, &by_ip, 299)), None);
    assert_eq!(
        step(&mut mirror, &policy, live, 400, &red(&policy, &by_name, 399)).unwrap().action,
        Action::Rotate
    );
}

#[test]
fn degraded_visits_lead_to_advice_and_never_to_a_rotation() {
    use Mechanism as M;
    let policy = policy();
    let check = |mechanism, count, expected: Option<Action>| {
        let (mut mirror, mut taken) = (MarketMirror::default(), None);
        for secs in (0..3_600).step_by(30) {
            let change =
                step(&mut mirror, &policy, PoolState::Live, secs, &impaired(&policy, mechanism, None, count));
            taken = change.map(|change| change.action).or(taken);
        }
        assert_eq!(taken, Some(expected.unwrap_or(Action::Keep)), "{mechanism} on {count}");
        for secs in (3_600..6_000).step_by(30) {
            let change = step(&mut mirror, &policy, PoolState::Live, secs, &carriers("gggg", None, &policy));
            taken = change.map(|change| change.action).or(taken);
        }
        assert_eq!(taken, Some(Action::Keep), "{mechanism}: it ends with its cause");
    };
    check(M::QuicTimeout, 1, Some(Action::DisableH3));
    check(M::EchTimeout, 4, Some(Action::DisableEch));
    check(M::TransferThrottle, 2, Some(Action::MoveHosting));
    check(M::TransferThrottle, 1, None);
    check(M::HttpReset, 4, None);
}

#[test]
fn an_outage_of_three_minutes_rotates_nothing() {
    // Blocked from 0 to 180 s; the colour stays for its dwell, and owners see the mirror again one after another.
    for noticed in [5, 20, 60, 100] {
        let (policy, mut mirror) = (policy(), MarketMirror::default());
        for secs in (noticed..1_500).step_by(5) {
            let confirmed = Some(UnixMillis(secs.min(180) * 1_000)).filter(|_| secs < 180 + 60);
            let states = if secs < 180 + 600 { "RRRR" } else { "gggg" };
            let change =
                step(&mut mirror, &policy, PoolState::Live, secs, &carriers(states, confirmed, &policy));
            assert!(change.is_none_or(|change| change.action != Action::Rotate), "noticed after {noticed} s");
        }
    }
}

#[test]
fn a_block_in_part_is_not_lost_in_the_hold() {
    let (policy, mut mirror, mut rotated) = (policy(), MarketMirror::default(), None);
    for secs in (0..1_200).step_by(10) {
        // Enough owners are blocked at the same time in one of five moments only; a carrier flickers.
        let confirmed = (secs % 50 == 0).then_some(UnixMillis(secs * 1_000));
        let states = if secs % 70 == 0 { "RggR" } else { "RRgR" };
        let change = step(&mut mirror, &policy, PoolState::Live, secs, &carriers(states, confirmed, &policy));
        rotated = rotated.or(change.filter(|change| change.action == Action::Rotate).map(|_| secs));
    }
    assert!(rotated.is_some_and(|secs| secs <= 300), "{rotated:?}");
}

#[test]
fn a_name_that_is_gone_at_the_control_too_is_lost() {
    let (policy, mut mirror) = (policy(), MarketMirror::default());
    let mut gone = carriers("dddd", None, &policy);
    step(&mut mirror, &policy, PoolState::Live, 0, &carriers("gggg", None, &policy));
    gone.iter_mut().for_each(|carrier| (carrier.down, carrier.lost) = (5, 1));
    assert_eq!(step(&mut mirror, &policy, PoolState::Live, 10, &gone).unwrap().action, Action::FixOrigin);
    gone.iter_mut().for_each(|carrier| carrier.lost = 3);
    assert_eq!(step(&mut mirror, &policy, PoolState::Live, 20, &gone).unwrap().action, Action::DomainLost);
}

#[test]
fn a_heavy_carrier_counts_more_and_never_alone() {
    let text = BUILT_IN[1]
        .replace("[cell]", "[weights]\nkz-kazakhtelecom = 3\n[cell]")
        .replace("pause_red_carriers = 2", "pause_red_carriers = 4");
    let policy = Policy::parse(&text, &Catalogue::built_in()).unwrap();
    let first = |states: &str| {
        let mut mirror = MarketMirror::default();
        step(&mut mirror, &policy, PoolState::Live, 0, &carriers(states, None, &policy)).unwrap().action
    };
    assert_eq!(first("Rggg"), Action::Prepare);
    assert_eq!(first("RRgg"), Action::Pause);
    assert_eq!(first("gRRR"), Action::Prepare, "three light ones weigh less than four");
    let heavier = text.replace("kazakhtelecom = 3", "kazakhtelecom = 9");
    let policy = Policy::parse(&heavier, &Catalogue::built_in()).unwrap();
    let mut mirror = MarketMirror::default();
    let change = step(&mut mirror, &policy, PoolState::Live, 0, &carriers("Rggg", None, &policy));
    assert_eq!(change.unwrap().action, Action::Prepare);
}

#[test]
fn the_input_s_hash_names_everything_it_was_made_of() {
    let policy = policy();
    let of = |secs, states: &str, confirmed| {
        let carriers = carriers(states, confirmed, &policy);
        MarketInput { now: UnixMillis(secs), role: PoolState::Live, policy: &policy, carriers: &carriers }
            .sha256()
    };
    assert_eq!(of(1, "gggg", None), of(1, "gggg", None));
    for other in [of(2, "gggg", None), of(1, "gggR", None), of(1, "gggg", Some(UnixMillis(1)))] {
        assert_ne!(of(1, "gggg", None), other);
    }
}

proptest! {
    #[test]
    fn fewer_red_carriers_than_the_threshold_never_move_traffic(
        steps in proptest::collection::vec(("[gRsrdft-]", 0usize..4, "[gsrdft-]{4}", any::<bool>()), 1..60),
    ) {
        let (policy, mut mirror) = (policy(), MarketMirror::default());
        for (number, (one, place, others, is_confirmed)) in steps.iter().enumerate() {
            // One carrier is whatever it likes; the others are anything but red.
            let mut states: Vec<char> = others.chars().collect();
            states[*place] = one.chars().next().unwrap();
            let secs = number as u64 * 120;
            let confirmed = is_confirmed.then_some(UnixMillis(secs * 1_000));
            let carriers = carriers(&states.into_iter().collect::<String>(), confirmed, &policy);
            let change = step(&mut mirror, &policy, PoolState::Live, secs, &carriers);
            let moves = |change: Change| matches!(change.action, Action::Pause | Action::Rotate | Action::Retire);
            prop_assert!(!change.is_some_and(moves));
        }
    }

    #[test]
    fn a_rotation_is_always_held_and_confirmed(
        steps in proptest::collection::vec(("[gRsrdft-]{4}", 1u64..200, any::<bool>()), 1..60),
    ) {
        let (policy, mut mirror, mut secs, mut paused) = (policy(), MarketMirror::default(), 0, None);
        for (states, wait, is_confirmed) in steps {
            secs += wait;
            let confirmed = is_confirmed.then_some(UnixMillis(secs * 1_000));
            let carriers = carriers(&states, confirmed, &policy);
            let Some(change) = step(&mut mirror, &policy, PoolState::Live, secs, &carriers) else { continue };
            match change.action {
                Action::Pause => paused = Some(secs),
                Action::Rotate => {
                    prop_assert!(is_confirmed && states.matches('R').count() >= 2);
                    prop_assert!(paused.is_some_and(|at| secs >= at + policy.rotate_hold_secs));
                }
                _ => {}
            }
        }
    }
}
