//! When which mirror is probed. Pure: time (since the agent's start) and randomness are arguments; carrying out is
//! `run.rs`.
//!
//! A few probes at a time, never two of one host name. Every mirror has its turn once an interval, jittered, the mirrors
//! spread over it. A requested probe goes first. Neither goes before its host name's handshake budget has room.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use zerkalo_core::record::Cause;
use zerkalo_core::words::MirrorId;

use crate::budget::{Budget, HANDSHAKES_MAX};
use crate::probe::road::OWN_NAME_HANDSHAKES_MAX;
use crate::wish::Post;

/// How far a turn may stray, as a part of the interval: agents must not march in step.
const JITTER: f64 = 0.1;
/// Probes under way at once. A blocked mirror costs up to 40 s: one after the other, five of them outlast the 180 s after
/// which evidence is stale; four at once keep 18 fresh, and a guest on somebody's line stays small.
pub const PROBES_MAX: usize = 4;
/// A mirror whose visits have just begun to go ill is visited again after this part of the interval, so many times: what is
/// in doubt cannot wait, what has been ill for long can.
const DOUBT_PART: u32 = 2;
const DOUBT_VISITS_MAX: u32 = 4;
/// A mirror that was ill so often in a row has been told of twice: now what is left of a minute's handshakes may go into how it
/// is blocked. Before, one is kept for a second look within seconds.
const TOLD_VISITS: u32 = 2;
/// Requests that wait; each mirror at most once, so this bounds only hostile lists of requests.
const REQUESTS_MAX: usize = 64;

/// Handshakes that a probe may make beside those with its mirror's own name, by name.
pub type Promises = Vec<(String, usize)>;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Probe {
        mirror: MirrorId,
        cause: Cause,
    },
    /// Nothing before then; `None`: nothing at all.
    Wait {
        until: Option<Duration>,
    },
}

/// Whose turns a mirror has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Once an interval, and sooner while in doubt.
    Usual,
    /// A standby: only when asked for. Visibility shortens its life, so the collector sends few, and seldom.
    OnRequest,
}

/// The turns of all mirrors.
#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
    /// Factor on the interval of mirrors that are well.
    stretch: u32,
    turns: BTreeMap<MirrorId, Turn>,
    requested: VecDeque<MirrorId>,
    /// Probes begun and not ended, with their host names.
    under_way: BTreeMap<MirrorId, String>,
    budget: Budget,
}

#[derive(Debug)]
struct Turn {
    host: String,
    pace: Pace,
    due: Duration,
    /// Whether its last visit went well.
    is_well: bool,
    /// Visits in a row that did not.
    ill_visits: u32,
}

impl Schedule {
    /// An empty schedule.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            stretch: 1,
            turns: BTreeMap::new(),
            requested: VecDeque::new(),
            under_way: BTreeMap::new(),
            budget: Budget::new(interval),
        }
    }

    /// The same with the budget of the box's post: no censor counts a control's handshakes.
    pub fn at(post: Post, interval: Duration) -> Self {
        let budget = match post {
            Post::Field => Budget::new(interval),
            Post::Control => Budget::of_control(interval),
        };
        Self { budget, ..Self::new(interval) }
    }

    /// Takes over a list of mirrors with their host names and paces. Mirrors known keep their turns; new ones are spread over one
    /// interval, the first at once.
    pub fn take(&mut self, mirrors: impl IntoIterator<Item = (MirrorId, String, Pace)>, now: Duration) {
        let mut known = std::mem::take(&mut self.turns);
        let mut fresh = Vec::new();
        for (mirror, host, pace) in mirrors {
            match known.remove(&mirror) {
                Some(turn) if turn.host == host => drop(self.turns.insert(mirror, Turn { pace, ..turn })),
                _ => fresh.push((mirror, host, pace)),
            }
        }
        let count = u32::try_from(fresh.len().max(1)).unwrap_or(u32::MAX);
        for (index, (mirror, host, pace)) in (0u32..).zip(fresh) {
            let due = now + self.interval / count * index;
            self.turns.insert(mirror, Turn { host, pace, due, is_well: false, ill_visits: 0 });
        }
        self.requested.retain(|mirror| self.turns.contains_key(mirror));
    }

    /// Notes a wish for a fresh look. Unknown mirrors and doubles are dropped.
    pub fn request(&mut self, mirror: MirrorId) {
        let is_new = !self.requested.contains(&mirror);
        if is_new && self.turns.contains_key(&mirror) && self.requested.len() < REQUESTS_MAX {
            self.requested.push_back(mirror);
        }
    }

    /// Notes handshakes made with a host name.
    pub fn note_handshakes(&mut self, host: &str, count: usize, now: Duration) {
        self.budget.note(host, count, now);
    }

    /// Whether `count` handshakes with a host name fit its budget now.
    pub fn has_room(&self, host: &str, count: usize, now: Duration) -> bool {
        self.budget.fits(host, count, now)
    }

    /// Whether `count` handshakes with a host name fit its budget beside those promised to probes under way.
    pub fn can_promise(&self, host: &str, count: usize, now: Duration) -> bool {
        self.budget.can_promise(host, count, now)
    }

    /// Promises handshakes to a probe that begins.
    pub fn promise(&mut self, promises: &Promises) {
        promises.iter().for_each(|(host, count)| self.budget.promise(host, *count));
    }

    /// Takes the promises to a probe that ended back.
    pub fn redeem(&mut self, promises: &Promises) {
        promises.iter().for_each(|(host, count)| self.budget.redeem(host, *count));
    }

    /// Takes all promises back, where every probe was given up.
    pub fn forgive(&mut self) {
        self.budget.forgive();
    }

    /// How many handshakes with a host name fit its budget now.
    pub fn room(&self, host: &str, now: Duration) -> usize {
        self.budget.room(host, now)
    }

    /// How often a probe of the mirror that begins now may show its name, all arms together.
    pub fn own_handshakes_max(&self, mirror: &MirrorId, cause: Cause, now: Duration) -> usize {
        let Some(turn) = self.turns.get(mirror) else { return OWN_NAME_HANDSHAKES_MAX };
        let is_first_word = turn.ill_visits < TOLD_VISITS && !self.budget.is_of_control();
        let most = match cause {
            Cause::Scheduled if !is_first_word => HANDSHAKES_MAX,
            _ => OWN_NAME_HANDSHAKES_MAX,
        };
        self.budget.room(&turn.host, now).clamp(1, most)
    }

    /// Mirrors that are well have their turn once in `stretch` intervals.
    pub fn stretch(&mut self, stretch: u32, now: Duration) {
        if stretch < self.stretch {
            let latest = now + self.interval * stretch;
            self.turns.values_mut().for_each(|turn| turn.due = turn.due.min(latest));
        }
        self.stretch = stretch;
    }

    /// Notes how a visit went. Who has just begun to be ill has its turn sooner, who is ill for long in the usual time.
    pub fn note_visit(&mut self, mirror: &MirrorId, is_well: bool, now: Duration) {
        if let Some(turn) = self.turns.get_mut(mirror) {
            turn.is_well = is_well;
            turn.ill_visits = if is_well { 0 } else { turn.ill_visits.saturating_add(1) };
            if !is_well {
                // Where bytes are scarce, nothing is hurried.
                let is_hurried = turn.ill_visits <= DOUBT_VISITS_MAX && self.stretch == 1;
                let part = if is_hurried { DOUBT_PART } else { 1 };
                turn.due = turn.due.min(now + self.interval / part);
            }
        }
    }

    /// Drops all requests.
    pub fn drop_requests(&mut self) {
        self.requested.clear();
    }

    /// Whether no probe of the host name is under way: one's handshakes are noted at its end.
    pub fn is_idle(&self, host: &str) -> bool {
        !self.under_way.values().any(|shown| shown == host)
    }

    /// Notes the end of a probe: its host name is free again, its handshakes noted.
    pub fn end(&mut self, mirror: &MirrorId) {
        self.under_way.remove(mirror);
    }

    /// Puts a mirror's next turn off until then, where it would come earlier. Requested probes do not wait for it.
    pub fn postpone(&mut self, mirror: &MirrorId, until: Duration) {
        if let Some(turn) = self.turns.get_mut(mirror) {
            turn.due = turn.due.max(until);
        }
    }

    /// What to do at `now`. A probe returned is taken for begun, until [`Schedule::end`]: its mirror's next turn is set,
    /// with `random` (0 to below 1) as the jitter. What waits for the end of another probe does not set the time to wake.
    pub fn next(&mut self, now: Duration, random: f64) -> Step {
        if self.under_way.len() >= PROBES_MAX {
            return Step::Wait { until: None };
        }
        let is_free = |mirror: &MirrorId, host: &String| {
            !self.under_way.iter().any(|(probed, shown)| probed == mirror || shown == host)
        };
        // When it may be probed, as far as its host name goes; `None` while that is being probed.
        let ready = |mirror: &MirrorId, turn: &Turn, handshakes: usize| {
            is_free(mirror, &turn.host).then(|| self.budget.fits_at(&turn.host, handshakes, now))
        };
        // A second look at what was ill a moment ago asks whether it still is: that takes one handshake.
        let turn_of = |mirror: &MirrorId| {
            let turn = self.turns.get(mirror)?;
            ready(mirror, turn, if turn.ill_visits > 0 { 1 } else { OWN_NAME_HANDSHAKES_MAX })
        };
        if let Some(index) =
            self.requested.iter().position(|mirror| turn_of(mirror).is_some_and(|at| at <= now))
            && let Some(mirror) = self.requested.remove(index)
        {
            return self.begin(mirror, Cause::Requested, now, random);
        }
        let waiting_requests = self.requested.iter().filter_map(turn_of);
        let turns =
            self.turns.iter().filter(|(_, turn)| turn.pace == Pace::Usual).filter_map(|(mirror, turn)| {
                let ready = ready(mirror, turn, OWN_NAME_HANDSHAKES_MAX)?;
                Some((turn.due.max(ready), turn.due, mirror))
            });
        match turns.min() {
            Some((at, _, mirror)) if at <= now => self.begin(mirror.clone(), Cause::Scheduled, now, random),
            earliest => {
                let until = earliest.map(|(at, ..)| at).into_iter().chain(waiting_requests).min();
                Step::Wait { until }
            }
        }
    }

    fn begin(&mut self, mirror: MirrorId, cause: Cause, now: Duration, random: f64) -> Step {
        if let Some(turn) = self.turns.get_mut(&mirror) {
            let stray = 1.0 + JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0);
            // From the turn, not from now, so that turns stay spread; but a turn long missed is not made up for.
            let from = if turn.due + self.interval < now || turn.due > now { now } else { turn.due };
            let stretch = if turn.is_well { self.stretch } else { 1 };
            turn.due = from + (self.interval * stretch).mul_f64(stray);
            self.under_way.insert(mirror.clone(), turn.host.clone());
        }
        self.requested.retain(|waiting| *waiting != mirror);
        Step::Probe { mirror, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn id(name: &str) -> MirrorId {
        MirrorId::parse(name).unwrap()
    }

    fn schedule(names: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.take(names.iter().map(|name| (id(name), format!("{name}.example"), Pace::Usual)), secs(0));
        schedule
    }

    fn probe(name: &str, cause: Cause) -> Step {
        Step::Probe { mirror: id(name), cause }
    }

    /// What is to be done; a probe ends at once.
    fn step(schedule: &mut Schedule, now: u64, random: f64) -> Step {
        let step = schedule.next(secs(now), random);
        if let Step::Probe { mirror, .. } = &step {
            schedule.end(mirror);
        }
        step
    }

    #[test]
    fn a_few_mirrors_are_probed_at_once_and_no_host_twice() {
        let mut schedule = Schedule::new(INTERVAL);
        let hosts = [("a", "x"), ("b", "x"), ("c", "c"), ("d", "d"), ("e", "e"), ("f", "f")];
        schedule.take(hosts.map(|(name, host)| (id(name), host.to_owned(), Pace::Usual)), secs(0));
        let at = |schedule: &mut Schedule, expected| {
            assert_eq!(schedule.next(secs(59), 0.5), expected);
        };
        at(&mut schedule, probe("a", Cause::Scheduled));
        schedule.request(id("b"));
        for name in ["c", "d", "e"] {
            at(&mut schedule, probe(name, Cause::Scheduled));
        }
        at(&mut schedule, Step::Wait { until: None });
        schedule.end(&id("c"));
        at(&mut schedule, probe("f", Cause::Scheduled));
        schedule.end(&id("f"));
        // Only b is due, and its host is being probed under another name.
        at(&mut schedule, Step::Wait { until: Some(secs(80)) });
        schedule.end(&id("a"));
        at(&mut schedule, probe("b", Cause::Requested));
    }

    #[test]
    fn mirrors_are_spread_over_the_interval_and_come_again() {
        let mut schedule = schedule(&["a", "b", "c"]);
        let mut at = |now, expected| assert_eq!(step(&mut schedule, now, 0.5), expected, "at {now} s");
        at(0, probe("a", Cause::Scheduled));
        at(0, Step::Wait { until: Some(secs(20)) });
        at(20, probe("b", Cause::Scheduled));
        at(41, probe("c", Cause::Scheduled));
        at(41, Step::Wait { until: Some(secs(60)) });
        at(60, probe("a", Cause::Scheduled));
        at(100, probe("b", Cause::Scheduled));
        at(100, probe("c", Cause::Scheduled));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let check = |random, expected_millis| {
            let mut schedule = schedule(&["a"]);
            step(&mut schedule, 0, random);
            let Step::Wait { until: Some(until) } = step(&mut schedule, 0, 0.5) else { panic!() };
            assert_eq!(until.as_millis(), expected_millis);
        };
        check(0.0, 54_000);
        check(0.5, 60_000);
        check(1.0, 66_000);
    }

    #[test]
    fn a_request_goes_first_and_once() {
        let mut schedule = schedule(&["a", "b"]);
        schedule.request(id("b"));
        schedule.request(id("b"));
        schedule.request(id("unknown"));
        assert_eq!(step(&mut schedule, 0, 0.5), probe("b", Cause::Requested));
        assert_eq!(step(&mut schedule, 0, 0.5), probe("a", Cause::Scheduled));
        assert_eq!(step(&mut schedule, 0, 0.5), Step::Wait { until: Some(secs(60)) });
    }

    #[test]
    fn a_request_waits_for_the_handshake_budget() {
        let mut schedule = schedule(&["a"]);
        assert_eq!(step(&mut schedule, 0, 0.5), probe("a", Cause::Scheduled));
        schedule.note_handshakes("a.example", 2, secs(1));
        schedule.request(id("a"));
        assert_eq!(step(&mut schedule, 2, 0.5), Step::Wait { until: Some(secs(61)) });
        assert_eq!(step(&mut schedule, 61, 0.5), probe("a", Cause::Requested));
        assert_eq!(step(&mut schedule, 61, 0.5), Step::Wait { until: Some(secs(120)) });
    }

    #[test]
    fn a_second_look_at_what_is_ill_goes_at_once_with_room_for_one() {
        let mut schedule = schedule(&["a"]);
        let most = |schedule: &Schedule, cause, now| schedule.own_handshakes_max(&id("a"), cause, secs(now));
        assert_eq!(most(&schedule, Cause::Scheduled, 0), 2, "one is kept for the second look");
        assert_eq!(step(&mut schedule, 0, 0.5), probe("a", Cause::Scheduled));
        schedule.note_handshakes("a.example", 2, secs(13));
        schedule.note_visit(&id("a"), false, secs(13));
        schedule.request(id("a"));
        assert_eq!(most(&schedule, Cause::Requested, 14), 1);
        assert_eq!(step(&mut schedule, 14, 0.5), probe("a", Cause::Requested));
        schedule.note_handshakes("a.example", 1, secs(20));
        schedule.note_visit(&id("a"), false, secs(20));
        // Three in a minute: the third look waits for the first two to pass, like anybody's.
        schedule.request(id("a"));
        assert_eq!(step(&mut schedule, 21, 0.5), Step::Wait { until: Some(secs(73)) });
        assert_eq!(step(&mut schedule, 73, 0.5), probe("a", Cause::Requested));
        assert_eq!(most(&schedule, Cause::Requested, 73), 2);
        assert_eq!(most(&schedule, Cause::Scheduled, 200), 3, "told twice: now the cause is looked for");
        schedule.note_visit(&id("a"), true, secs(200));
        schedule.note_handshakes("a.example", 2, secs(200));
        // Well again: a look asked for is a whole one, and waits for its room.
        schedule.request(id("a"));
        assert_eq!(most(&schedule, Cause::Scheduled, 300), 2);
        assert!(matches!(step(&mut schedule, 201, 0.5), Step::Wait { until: Some(at) } if at <= secs(260)));
    }

    #[test]
    fn a_control_may_look_for_the_cause_at_once() {
        let mut schedule = Schedule::at(Post::Control, INTERVAL);
        schedule.take([(id("a"), "a.example".to_owned(), Pace::Usual)], secs(0));
        assert_eq!(schedule.own_handshakes_max(&id("a"), Cause::Scheduled, secs(0)), 3);
        assert_eq!(schedule.own_handshakes_max(&id("a"), Cause::Requested, secs(0)), 2);
    }

    #[test]
    fn a_turn_put_off_waits_and_a_request_does_not() {
        let mut schedule = schedule(&["a"]);
        assert_eq!(step(&mut schedule, 0, 0.5), probe("a", Cause::Scheduled));
        schedule.postpone(&id("a"), secs(150));
        schedule.postpone(&id("a"), secs(30));
        schedule.postpone(&id("unknown"), secs(30));
        assert_eq!(step(&mut schedule, 61, 0.5), Step::Wait { until: Some(secs(150)) });
        schedule.request(id("a"));
        assert_eq!(step(&mut schedule, 70, 0.5), probe("a", Cause::Requested));
        schedule.postpone(&id("a"), secs(220));
        assert_eq!(step(&mut schedule, 219, 0.5), Step::Wait { until: Some(secs(220)) });
        assert_eq!(step(&mut schedule, 220, 0.5), probe("a", Cause::Scheduled));
    }

    #[test]
    fn mirrors_that_are_well_are_probed_less_often_where_bytes_are_scarce() {
        let mut schedule = schedule(&["a", "b"]);
        schedule.stretch(4, secs(0));
        assert_eq!(step(&mut schedule, 0, 0.5), probe("a", Cause::Scheduled));
        schedule.note_visit(&id("a"), true, secs(1));
        assert_eq!(step(&mut schedule, 30, 0.5), probe("b", Cause::Scheduled));
        schedule.note_visit(&id("b"), false, secs(31));
        // The first turn was set before anybody knew how it is.
        assert_eq!(step(&mut schedule, 60, 0.5), probe("a", Cause::Scheduled));
        assert_eq!(step(&mut schedule, 90, 0.5), probe("b", Cause::Scheduled));
        assert_eq!(step(&mut schedule, 91, 0.5), Step::Wait { until: Some(secs(150)) });
        assert_eq!(step(&mut schedule, 150, 0.5), probe("b", Cause::Scheduled));
        // Not well any more: back to the usual time. And so with bytes to spare.
        schedule.note_visit(&id("a"), false, secs(160));
        assert_eq!(step(&mut schedule, 209, 0.5), Step::Wait { until: Some(secs(210)) });
        schedule.note_visit(&id("b"), true, secs(209));
        assert_eq!(step(&mut schedule, 210, 0.5), probe("b", Cause::Scheduled));
        schedule.stretch(1, secs(211));
        assert_eq!(step(&mut schedule, 220, 0.5), probe("a", Cause::Scheduled));
        assert_eq!(step(&mut schedule, 220, 0.5), Step::Wait { until: Some(secs(271)) });
    }

    #[test]
    fn a_mirror_that_begins_to_be_ill_is_visited_sooner_for_a_while() {
        let mut schedule = schedule(&["a"]);
        let mut visits = Vec::new();
        for now in 0..400 {
            if step(&mut schedule, now, 0.5) == probe("a", Cause::Scheduled) {
                visits.push(now);
                schedule.note_handshakes("a.example", 1, secs(now));
                schedule.note_visit(&id("a"), now < 60, secs(now));
            }
        }
        // Well at 0; ill from 60 on: four turns of half an interval, then whole ones.
        assert_eq!(visits, [0, 60, 90, 120, 150, 180, 240, 300, 360]);
    }

    #[test]
    fn a_standby_is_visited_when_asked_for_alone() {
        let mut schedule = Schedule::new(INTERVAL);
        schedule.take([(id("s"), "s.example".to_owned(), Pace::OnRequest)], secs(0));
        assert_eq!(step(&mut schedule, 0, 0.5), Step::Wait { until: None });
        schedule.request(id("s"));
        assert_eq!(step(&mut schedule, 1, 0.5), probe("s", Cause::Requested));
        assert_eq!(step(&mut schedule, 500, 0.5), Step::Wait { until: None });
        // The list makes it a mirror like any other: its turn comes.
        schedule.take([(id("s"), "s.example".to_owned(), Pace::Usual)], secs(501));
        assert_eq!(step(&mut schedule, 501, 0.5), probe("s", Cause::Scheduled));
    }

    #[test]
    fn a_new_list_keeps_turns_and_drops_what_is_gone() {
        let mut schedule = schedule(&["a", "b"]);
        step(&mut schedule, 0, 0.5);
        schedule.request(id("a"));
        schedule.take(["b", "c"].map(|name| (id(name), format!("{name}.example"), Pace::Usual)), secs(5));
        assert_eq!(step(&mut schedule, 5, 0.5), probe("c", Cause::Scheduled));
        assert_eq!(step(&mut schedule, 5, 0.5), Step::Wait { until: Some(secs(30)) });
        schedule.take([], secs(6));
        assert_eq!(step(&mut schedule, 6, 0.5), Step::Wait { until: None });
    }
}
