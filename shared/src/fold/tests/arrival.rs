//! Records arrive late and out of order; what is shown in the end does not tell.

use super::*;
use crate::admission::{Place, place_ahead};
use crate::evidence::CheckedRecord;
use crate::record::NetworkCheck;
use crate::target::Mirror;

/// One visit: who, when, and what it found.
#[derive(Debug, Clone)]
struct Visit {
    agent: String,
    ended_at: UnixMillis,
    sees: Sees,
    mirror: usize,
}

const START: UnixMillis = UnixMillis(1_800_000_100_000);
const CONTROLS: [&str; 2] = ["control-1", "control-2"];
/// Boxes that measure, two carriers of them, and two controls.
const BOXES: usize = 2 * OWNERS + CONTROLS.len();

fn name_of(number: usize) -> String {
    match number.checked_sub(2 * OWNERS) {
        Some(control) => CONTROLS[control].to_owned(),
        None => format!("{}-{}", CARRIERS[number / OWNERS], number % OWNERS),
    }
}

/// Each box's visits in its own order: who comes next, how long after the one before, what it finds.
fn any_visits() -> impl Strategy<Value = Vec<Visit>> {
    let step = (0..BOXES, 1u64..25, any_sees(), 0usize..2);
    proptest::collection::vec(step, 1..50).prop_map(|steps| {
        let mut ended_at = START;
        let visit = |(number, secs, sees, mirror): (usize, u64, Sees, usize)| {
            ended_at = ended_at.plus_secs(secs);
            Visit { agent: name_of(number), ended_at, sees, mirror }
        };
        steps.into_iter().map(visit).collect()
    })
}

/// How an agent's visits come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// One behind the other.
    Chain,
    /// Each when it does, ahead of those before it.
    Ahead,
}

/// A collector that takes visits in as they arrive, and writes down where time passes.
struct Arrivals {
    journal: Journal,
    state: Fold,
    folded: usize,
    mirrors: Vec<Mirror>,
}

impl Arrivals {
    fn new() -> Self {
        let mut mirrors = vec![mirror(), mirror()];
        mirrors[1].id = MirrorId::parse("m-second").unwrap();
        let mut journal = Journal::new();
        // Parsed once: they are the built-in ones.
        journal.entries.retain(|entry| !matches!(entry.event, Event::Settings(_)));
        let list = MirrorList { mirrors: mirrors.clone(), ..MirrorList::issued(2, journal.now) };
        journal.push(Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() });
        journal.enrol("control-2", "house", Station::Control);
        let mut arrivals = Self { journal, state: Fold::new(), folded: 0, mirrors };
        arrivals.fold();
        arrivals
    }

    /// These visits, each so many milliseconds after it ended, but in its chain's order; then time until `end`.
    fn of(visits: &[Visit], delays: &[u64], end: UnixMillis) -> Self {
        Self::by(visits, delays, end, Lane::Chain)
    }

    fn by(visits: &[Visit], delays: &[u64], end: UnixMillis, lane: Lane) -> Self {
        let arrives = |number: usize| visits[number].ended_at.plus_millis(delays[number % delays.len()]);
        let mut last: BTreeMap<&str, UnixMillis> = BTreeMap::new();
        let mut order: Vec<(UnixMillis, usize)> = Vec::new();
        for (number, visit) in visits.iter().enumerate() {
            let before = last.get(visit.agent.as_str()).copied();
            let is_same = |other: &usize| visits[*other].agent == visit.agent;
            let at = match (lane, before) {
                (Lane::Chain, before) => arrives(number).max(before.unwrap_or_default()),
                (Lane::Ahead, Some(_)) => arrives(number),
                // Nothing comes ahead of an epoch's first.
                (Lane::Ahead, None) => {
                    let others = (number..visits.len()).filter(is_same).map(arrives);
                    others.min().unwrap_or(visit.ended_at)
                }
            };
            last.insert(&visit.agent, at);
            order.push((at, number));
        }
        order.sort_unstable();
        let mut arrivals = Self::new();
        let signed: Vec<_> = visits.iter().map(|visit| arrivals.sign(visit)).collect();
        for (at, number) in order.into_iter().filter(|(at, _)| *at <= end) {
            arrivals.take_in(&visits[number], &signed[number], at);
        }
        arrivals.pass_to(end);
        arrivals
    }

    fn facts(&self, visit: &Visit) -> ProbeRecord {
        let mut record = facts(visit.sees, visit.ended_at);
        record.mirror = Some(self.mirrors[visit.mirror].id.clone());
        record.network = Some(NetworkCheck { clock_ahead_millis: Some(0), ..NetworkCheck::default() });
        record
    }

    fn sign(&mut self, visit: &Visit) -> SignedRecord {
        let agent = AgentId::parse(&visit.agent).unwrap();
        let started_at = self.facts(visit).started_at;
        let head = self.journal.heads.get_mut(&agent).unwrap();
        let signed = SignedRecord::sign(&agent, *head, started_at.0.to_be_bytes().to_vec(), &key());
        *head = signed.link();
        signed
    }

    fn take_in(&mut self, visit: &Visit, signed: &SignedRecord, at: UnixMillis) {
        self.pass_to(at);
        let head = &self.state.agents[&signed.agent].head;
        let checked = CheckedRecord::new(signed.clone(), &key().public());
        let is_ahead = match place_ahead(&checked, head).unwrap() {
            Some(Place::Ahead) => true,
            Some(Place::Next) => false,
            placed => panic!("{placed:?}"),
        };
        let facts = Box::new(self.facts(visit));
        self.journal.push(Event::Record { signed: signed.clone(), facts, is_ahead });
        self.fold();
    }

    /// Time passes, as the collector writes it down: at each deadline of the fold.
    fn pass_to(&mut self, at: UnixMillis) {
        while let Some(deadline) = self.state.next_deadline().filter(|deadline| *deadline <= at) {
            self.journal.now = deadline;
            self.journal.push(Event::Tick);
            self.fold();
        }
        self.journal.now = at;
    }

    fn fold(&mut self) {
        for entry in &self.journal.entries[self.folded..] {
            self.state.apply(entry);
        }
        self.folded = self.journal.entries.len();
    }

    /// The cells as shown at some instants, and the evidence behind them.
    fn shown(&mut self) -> Vec<String> {
        self.journal.push(Event::Tick);
        self.fold();
        let end = self.journal.now;
        let mut shown: Vec<String> = Vec::new();
        for secs in [0, 60, 700] {
            for mut row in self.state.matrix(end.plus_secs(secs)).rows {
                // Silence is of what arrives, not of what was measured.
                row.carriers.iter_mut().for_each(|carrier| carrier.shutdown_suspected_since = None);
                shown.push(format!("{} {} {:?}", row.market, row.mirror, row.carriers));
            }
        }
        for (mirror, cells) in &self.state.cells {
            for (place, cell) in cells {
                shown.push(format!("{mirror} {place:?} {cell:?}"));
            }
        }
        shown
    }
}

#[test]
fn a_control_that_arrives_late_re_opens_what_it_speaks_for() {
    let visits: Vec<Visit> = (0..3)
        .flat_map(|round| (0..OWNERS).map(move |owner| (round * 20 + owner as u64, name_of(owner))))
        .chain([(61, "control-1".to_owned())])
        .map(|(secs, agent)| {
            let sees = if agent.starts_with("control") { Fine } else { HelloDropped };
            Visit { agent, ended_at: START.plus_secs(secs), sees, mirror: 0 }
        })
        .collect();
    let mut delays = vec![0; visits.len()];
    let end = START.plus_secs(170);
    let state_of = |delays: &[u64], end| {
        let state = Arrivals::of(&visits, delays, end).state;
        let row = &state.matrix(end).rows[0];
        row.carriers.iter().find(|one| one.carrier.as_str() == CARRIERS[0]).unwrap().state
    };
    assert_eq!(state_of(&delays, end), crate::cell::CellState::Red);
    // Beyond the time that records wait for it: until it comes they tell nothing.
    *delays.last_mut().unwrap() = 105_000;
    assert_eq!(state_of(&delays, START.plus_secs(165)), crate::cell::CellState::Insufficient);
    assert_eq!(state_of(&delays, end), crate::cell::CellState::Red);
}

proptest! {
    // Each case is two stories, folded again and again.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_arrival_changes_nothing_that_is_shown_in_the_end(
        visits in any_visits(), delays in proptest::collection::vec(0u64..300_000, 1..50),
    ) {
        let end = visits.iter().map(|visit| visit.ended_at).max().unwrap().plus_secs(301 + 91);
        let ordered = Arrivals::of(&visits, &[0], end).shown();
        let other = Arrivals::of(&visits, &delays, end).shown();
        prop_assert_eq!(&ordered, &other);
        let mut ahead = Arrivals::by(&visits, &delays, end, Lane::Ahead);
        prop_assert_eq!(ordered, ahead.shown());
        for (agent, head) in &ahead.journal.heads {
            let known = &ahead.state.agents[agent].head;
            prop_assert!(known.runs().is_empty() && (known.last() == *head || head.sequence == 0));
        }
    }
}
