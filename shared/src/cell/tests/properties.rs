//! What holds for a cell whatever is said in it, and in whatever order it arrives.

use super::*;
use proptest::prelude::*;

const START: UnixMillis = UnixMillis(1_000_000);

/// Who says what, and how long after the one before.
type Script = Vec<(u8, u8, u64)>;

fn script(owners: u8, letters: u8, len: usize) -> impl Strategy<Value = Script> {
    proptest::collection::vec((0..owners, 0..letters, 0u64..40), 1..len)
}

fn name(owner: u8) -> OwnerId {
    OwnerId::parse(&format!("owner{owner}")).unwrap()
}

fn items(script: &Script) -> Vec<(OwnerId, Evidence)> {
    let mut at = START;
    script
        .iter()
        .enumerate()
        .map(|(n, (owner, letter, secs))| {
            at = at.plus_secs(*secs);
            let letter = ["b", "o", "d", "r", "i"][usize::from(*letter)];
            let mut evidence = evidence(&format!("box{owner}"), at, outcome(letter));
            evidence.record = Sha256::of(&n.to_be_bytes());
            (name(*owner), evidence)
        })
        .collect()
}

/// Takes evidence in, in this order, with looks at the cell in between; shown once time has passed.
fn played(items: &[(OwnerId, Evidence)], policy: &CellPolicy) -> (Cell, UnixMillis) {
    let mut cell = Cell::default();
    let mut now = START;
    for (owner, evidence) in items {
        now = now.max(evidence.at);
        cell.observe(owner, evidence.clone(), policy);
        cell.settle(now, policy);
    }
    (cell, now)
}

proptest! {
    #[test]
    fn the_order_of_arrival_changes_nothing(
        (script, shuffled) in script(5, 5, 60).prop_flat_map(|script| {
            let order: Vec<usize> = (0..script.len()).collect();
            (Just(script), Just(order).prop_shuffle())
        }),
    ) {
        // All of it lies within one window.
        let policy = CellPolicy { window_secs: 3_600, ..policy() };
        let items = items(&script);
        let (ordered, now) = played(&items, &policy);
        let any_order: Vec<_> = shuffled.iter().map(|n| items[*n].clone()).collect();
        let (other, _) = played(&any_order, &policy);
        prop_assert_eq!(&ordered.window, &other.window);
        for secs in [0, 100, 200, 700, 2_000] {
            let at = now.plus_secs(secs);
            let (mut ordered, mut other) = (ordered.clone(), other.clone());
            prop_assert_eq!(ordered.view(Access::Fixed, at, &policy), other.view(Access::Fixed, at, &policy));
            ordered.settle(at, &policy);
            other.settle(at, &policy);
            prop_assert_eq!(&ordered, &other);
        }
    }

    #[test]
    fn evidence_behind_the_window_is_counted_and_changes_nothing(script in script(4, 2, 80), late in 0usize..80) {
        let policy = CellPolicy { window_secs: 300, ..policy() };
        let items = items(&script);
        let (cell, now) = played(&items, &policy);
        let (owner, mut evidence) = items[late % items.len()].clone();
        evidence.record = Sha256::of(b"late");
        let is_too_late = evidence.at.plus_secs(policy.window_secs) < items.last().unwrap().1.at;
        let mut after = cell.clone();
        after.observe(&owner, evidence, &policy);
        prop_assert_eq!(after.too_late, u64::from(is_too_late));
        if is_too_late {
            prop_assert_eq!(after.state(now, &policy), cell.state(now, &policy));
            prop_assert_eq!(after.present, cell.present);
        }
    }

    #[test]
    fn what_tells_nothing_never_raises_a_score(script in script(4, 5, 80)) {
        let policy = policy();
        let mut cell = Cell::default();
        for (owner, evidence) in items(&script) {
            let score = |cell: &Cell| cell.present.owners.get(&owner).map_or(0, |word| word.score);
            let before = score(&cell);
            let outcome = evidence.verdict.outcome;
            cell.observe(&owner, evidence, &policy);
            match outcome {
                Outcome::Blocked => prop_assert!(score(&cell) > 0),
                Outcome::Down | Outcome::Restricted | Outcome::Insufficient => {
                    prop_assert_eq!(score(&cell), before);
                }
                _ => prop_assert!(score(&cell) <= before),
            }
        }
    }

    #[test]
    fn ten_boxes_of_one_owner_are_one_voice(script in script(10, 1, 120)) {
        let policy = policy();
        let mut cell = Cell::default();
        cell.observe(&name(99), evidence("other", START, Outcome::Ok), &policy);
        for (_, evidence) in items(&script) {
            let now = evidence.at;
            cell.observe(&name(1), evidence, &policy);
            cell.settle(now, &policy);
            let view = cell.view(Access::Fixed, now, &policy);
            prop_assert!(view.flagged <= 1 && view.owners <= 2);
            prop_assert!(view.state != CellState::Red);
        }
    }
}

proptest! {
    // Each case is a story of a thousand verdicts.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn owners_fewer_than_k_never_turn_a_cell(
        lies in script(8, 5, 120), n in 2u32..9, honest_sees_a_block in any::<bool>(),
    ) {
        let policy = shipped();
        let k = policy.owners_red_min.max(n / 2 + 1);
        let liars = (k - 1).min(n) as u8;
        let honest = if honest_sees_a_block { Outcome::Blocked } else { Outcome::Ok };
        let mut cell = Cell::default();
        let mut now = START;
        let speak = |cell: &mut Cell, owner: u8, outcome, now: UnixMillis| {
            cell.observe(&name(owner), evidence(&format!("box{owner}"), now, outcome), &policy);
            cell.settle(now, &policy);
        };
        // All have said the truth for a while.
        for _ in 0..3 {
            (0..n as u8).for_each(|owner| speak(&mut cell, owner, honest, now));
            now = now.plus_secs(60);
        }
        let truth = cell.state(now, &policy);
        prop_assert_eq!(truth, if honest_sees_a_block { CellState::Red } else { CellState::Green });
        for (liar, letter, secs) in lies {
            let outcome = [Outcome::Blocked, Outcome::Ok, Outcome::Down, Outcome::Restricted, Outcome::Insufficient];
            speak(&mut cell, liar % liars, outcome[usize::from(letter)], now);
            let possible =
                if honest_sees_a_block { [CellState::Red, CellState::Suspect] } else { [CellState::Green, CellState::Suspect] };
            prop_assert!(possible.contains(&cell.state(now, &policy)), "{}", cell.state(now, &policy));
            now = now.plus_secs(secs + 1);
            for owner in liars..n as u8 {
                speak(&mut cell, owner, honest, now);
            }
            prop_assert!(possible.contains(&cell.state(now, &policy)), "{}", cell.state(now, &policy));
        }
    }
}
