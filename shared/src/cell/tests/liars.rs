//! Liars, boxes that are ill, and majorities that are bare: by the policy as shipped.

use super::*;
use proptest::prelude::*;

const START: UnixMillis = UnixMillis(1_000_000);

/// Owners of one carrier, each with a letter a round; a round is a minute.
struct Story {
    cell: Cell,
    policy: CellPolicy,
    now: UnixMillis,
}

impl Story {
    fn new() -> Self {
        Self { cell: Cell::default(), policy: shipped(), now: START }
    }

    /// So many rounds of what each owner says, in turn; `.` says nothing.
    fn rounds(&mut self, count: usize, said: &str) -> &mut Self {
        for _ in 0..count {
            for (number, letter) in said.chars().enumerate().filter(|(_, letter)| *letter != '.') {
                let name = format!("owner{number}");
                let at = self.now.plus_secs(number as u64);
                let evidence = evidence(&name, at, outcome(&letter.to_string()));
                self.cell.observe(&OwnerId::parse(&name).unwrap(), evidence, &self.policy);
            }
            self.now = self.now.plus_secs(60);
            self.cell.settle(self.now, &self.policy);
        }
        self
    }

    fn view(&self) -> CellView {
        self.cell.view(Access::Fixed, self.now, &self.policy)
    }

    #[track_caller]
    fn is(&mut self, state: CellState) -> &mut Self {
        assert_eq!(self.view().state, state, "{:?}", self.view());
        self
    }
}

use CellState::{Green, Red, Restricted, Suspect};

#[test]
fn what_more_than_a_bare_majority_sees_turns_a_cell_at_once() {
    Story::new().rounds(2, "bb").is(Suspect).rounds(1, "bb").is(Red);
    Story::new().rounds(2, "bbb").is(Red);
    Story::new().rounds(2, "bbbbb").is(Red);
    Story::new().rounds(3, "bbbbo").is(Red);
    Story::new().rounds(3, "bbbo").is(Suspect);
    Story::new().rounds(3, "bbboo").is(Suspect);
    Story::new().rounds(3, "bbbbbboo").is(Suspect);
    Story::new().rounds(3, "bbbbbbbo").is(Red);
}

#[test]
fn a_bare_majority_turns_a_cell_once_it_has_stood() {
    // Flagged in the second round, and again fifteen minutes after.
    Story::new().rounds(16, "bbboo").is(Suspect).rounds(1, "bbboo").is(Red);
    Story::new().rounds(60, "bbooo").is(Suspect);
    // The last to join has to stand as well.
    Story::new().rounds(40, "bbooo").rounds(16, "bbboo").is(Suspect).rounds(1, "bbboo").is(Red);
    // What has turned it holds it, as long as it is a majority.
    Story::new().rounds(3, "bbbbb").is(Red).rounds(60, "bbboo").is(Red).rounds(60, "bbooo").is(Suspect);
}

#[test]
fn a_burst_of_ten_minutes_makes_no_majority_of_liars() {
    let mut story = Story::new();
    story.rounds(5, "ooooo").rounds(120, "bbooo").rounds(10, "bbboo").is(Suspect);
    story.rounds(10, "bbooo").is(Green);
    assert_eq!((story.view().flagged, story.view().apart), (0, 2));
}

#[test]
fn liars_are_no_majority_where_the_others_are_cut_off() {
    let mut story = Story::new();
    story.rounds(5, "bbooo").rounds(30, "bbrrr").is(Restricted).rounds(30, "bbddd").is(CellState::Down);
    // All of them tell of the mirror itself, in the end.
    story.rounds(3, "bbbbb").is(Red);
}

#[test]
fn an_owner_alone_with_what_it_sees_has_no_voice_until_others_join_it() {
    let mut story = Story::new();
    story.rounds(60, "boooo").is(Suspect).rounds(2, "boooo").is(Green);
    let view = story.view();
    assert_eq!((view.owners, view.flagged, view.apart), (5, 0, 1));
    assert!(view.mechanisms.is_empty() && story.cell.flagged(story.now, &story.policy).is_empty());
    // One more is a suspicion; with a majority all are heard.
    story.rounds(2, "bbooo").is(Suspect);
    assert_eq!((story.view().flagged, story.view().apart), (1, 1));
    story.rounds(2, "bbbbo").rounds(1, "bbbbo").is(Red);
    assert_eq!((story.view().flagged, story.view().apart), (4, 0));
    // What was shared once is a story of its own afterwards.
    story.rounds(20, "boooo").is(Suspect).rounds(59, "boooo").is(Green);
}

#[test]
fn an_owner_that_fails_a_third_of_the_time_loses_its_weight() {
    let mut story = Story::new();
    let mut flagged = |rounds: usize| {
        let mut flagged = 0;
        for round in 0..rounds {
            story.rounds(1, if round % 3 == 0 { "boooo" } else { "ooooo" });
            let owner = OwnerId::parse("owner0").unwrap();
            flagged += usize::from(story.cell.present.owners[&owner].is_flagged(&story.policy));
        }
        flagged * 100 / rounds
    };
    assert!(flagged(60) > 80, "it is flagged at first");
    flagged(240);
    assert_eq!(flagged(600), 0);
}

#[test]
fn a_majority_of_those_heard_confirms() {
    let check = |said: &str, expected: Option<u64>| {
        let mut story = Story::new();
        story.rounds(3, "bbbbb").rounds(1, said);
        let confirmed = story.cell.confirmed_at(story.now, &story.policy);
        assert_eq!(confirmed, expected.map(|secs| START.plus_secs(180 + secs)), "{said}");
    };
    check("bbbbb", Some(2));
    check("bbboo", Some(0));
    check("bbooo", None);
    // Who was heard before still counts, from then on: the market knows how old a word may be.
    let mut story = Story::new();
    story.rounds(3, "bbbbb").rounds(1, "bb...");
    assert_eq!(story.cell.confirmed_at(story.now, &story.policy), Some(START.plus_secs(124)));
    let mut story = Story::new();
    story.policy.confirm_by_majority = false;
    story.rounds(3, "bbbbb").rounds(1, "bbooo");
    assert_eq!(story.cell.confirmed_at(story.now, &story.policy), Some(START.plus_secs(180)));
}

proptest! {
    // Each case is a story of a thousand verdicts.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One owner fewer than the majority says whatever it likes, whenever it likes, and one honest owner's line is ill for a
    /// quarter of an hour: no cell of three or more turns.
    #[test]
    fn liars_and_one_mistaken_owner_never_turn_a_cell(
        n in 3u32..9,
        lies in proptest::collection::vec((0usize..8, "[bodri]", 0u64..60), 1..240),
        ill_from in 0u64..120,
    ) {
        let policy = shipped();
        let liars = policy.needed(n) as usize - 1;
        let (mut cell, mut now, mut last_round) = (Cell::default(), START, 0);
        let say = |cell: &mut Cell, number: usize, letter: &str, now: UnixMillis| {
            let name = format!("owner{number}");
            cell.observe(&OwnerId::parse(&name).unwrap(), evidence(&name, now, outcome(letter)), &policy);
            cell.settle(now, &policy);
        };
        for (liar, letter, secs) in lies {
            now = now.plus_secs(secs);
            say(&mut cell, liar % liars, &letter, now);
            let rounds = now.since_millis(START) / 60_000;
            for round in last_round..rounds {
                for honest in liars..n as usize {
                    let is_ill = honest == liars && (ill_from..ill_from + 15).contains(&round);
                    say(&mut cell, honest, if is_ill { "b" } else { "o" }, now);
                }
            }
            last_round = rounds;
            prop_assert!(cell.state(now, &policy) != CellState::Red, "{:?}", cell.view(Access::Fixed, now, &policy));
        }
    }
}
