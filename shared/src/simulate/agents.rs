//! One market's boxes: whose turn it is, what the handshake budget leaves, and how calm boxes sleep through turns that
//! would change nothing. The rules are the agent's own (its schedule and budget), for one mirror.

use super::chance::Chance;
use crate::words::{AgentId, OwnerId, UnixMillis};

/// How far a turn may stray, as a part of the interval: the agent's own.
const JITTER: f64 = 0.1;
/// Handshakes with one name in one window, and those that must fit before a visit begins: the agent's own.
const HANDSHAKES_MAX: usize = 3;
const OWN_NAME_HANDSHAKES_MAX: usize = 2;
/// A mirror whose visits have just begun to go ill is visited again after this part of the interval, so many times.
const DOUBT_PART: u64 = 2;
const DOUBT_VISITS_MAX: u32 = 4;
/// The window, in ms.
const WINDOW_MILLIS: u64 = 60_000;

/// A box in the field, or the control.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) owner: OwnerId,
    interval: u64,
    due: u64,
    is_requested: bool,
    is_under_way: bool,
    /// Visits in a row that failed.
    ill_visits: u32,
    /// Handshakes that the visit under way may show.
    handshakes_max: u32,
    /// The last handshakes shown, oldest first; nothing for a control, whose handshakes nobody counts.
    shown: Option<[u64; HANDSHAKES_MAX]>,
    sleeps_from: Option<u64>,
    /// Rises with every change of plan: a beginning planned before it is void.
    pub(super) plan: u32,
}

impl Agent {
    /// A box whose first turn is at `due`.
    pub(super) fn new(id: AgentId, owner: OwnerId, interval: u64, due: UnixMillis, is_control: bool) -> Self {
        Self {
            id,
            owner,
            interval,
            due: due.0,
            is_requested: false,
            is_under_way: false,
            ill_visits: 0,
            handshakes_max: OWN_NAME_HANDSHAKES_MAX as u32,
            shown: (!is_control).then_some([0; HANDSHAKES_MAX]),
            sleeps_from: None,
            plan: 0,
        }
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.sleeps_from.is_some()
    }

    /// Notes a wish for a fresh look.
    pub(super) fn request(&mut self) {
        self.is_requested = true;
    }

    /// When its next visit may begin; nothing while one is under way.
    pub(super) fn next_begin(&self, now: UnixMillis) -> Option<UnixMillis> {
        if self.is_under_way {
            return None;
        }
        // A wish for a second look at what is ill goes with room for one.
        let is_second = self.is_requested && self.ill_visits > 0;
        let must_pass = if is_second { 0 } else { 1 };
        let free = self.shown.map_or(0, |shown| shown[must_pass] + self.window());
        let wanted = if self.is_requested { now.0 } else { self.due };
        Some(UnixMillis(wanted.max(free).max(now.0)))
    }

    /// A visit begins: the next turn is an interval after this one's.
    pub(super) fn begin(&mut self, now: UnixMillis, chance: &mut Chance) {
        let room = self.shown.map_or(HANDSHAKES_MAX, |shown| {
            shown.into_iter().filter(|at| at + self.window() <= now.0).count()
        });
        // A look asked for shows the name in no other shape.
        let most = if self.is_requested { 1 } else { OWN_NAME_HANDSHAKES_MAX };
        self.handshakes_max = room.clamp(1, most) as u32;
        let stray = 1.0 + JITTER * (2.0 * chance.unit() - 1.0);
        let missed = self.due + self.interval < now.0 || self.due > now.0;
        let from = if missed { now.0 } else { self.due };
        self.due = from + libm::round(self.interval as f64 * stray) as u64;
        (self.is_requested, self.is_under_way) = (false, true);
    }

    /// A visit ended, with so many handshakes.
    pub(super) fn end(&mut self, now: UnixMillis, is_well: bool, handshakes: u32) {
        self.is_under_way = false;
        self.ill_visits = if is_well { 0 } else { self.ill_visits + 1 };
        if !is_well {
            let part = if self.ill_visits <= DOUBT_VISITS_MAX { DOUBT_PART } else { 1 };
            self.due = self.due.min(now.0 + self.interval / part);
        }
        self.show(now.0, handshakes.min(self.handshakes_max));
    }

    /// Sleeps through its turns, from the next one on.
    pub(super) fn sleep(&mut self) {
        self.sleeps_from = Some(self.due);
    }

    /// The turn after so many that are slept through.
    pub(super) fn turn_after(&self, turns: u64) -> UnixMillis {
        UnixMillis(self.due.saturating_add(turns.saturating_mul(self.interval)))
    }

    /// The first turn at or after an instant.
    pub(super) fn turn_from(&self, at: UnixMillis) -> UnixMillis {
        self.turn_after(at.0.saturating_sub(self.due).div_ceil(self.interval))
    }

    /// Its last turn slept through, at or before `now`, and how many there were before and with it.
    pub(super) fn slept_until(&self, now: UnixMillis) -> Option<(UnixMillis, u64)> {
        let from = self.sleeps_from?;
        let turns = now.0.checked_sub(from)? / self.interval;
        Some((UnixMillis(from + turns * self.interval), turns + 1))
    }

    /// Sleeps no more: the turns slept through are behind it. A turn at `now` itself is still to come.
    pub(super) fn wake(&mut self, now: UnixMillis, handshakes: u32) -> u64 {
        let slept = self.slept_until(UnixMillis(now.0.saturating_sub(1)));
        self.sleeps_from = None;
        let Some((last, turns)) = slept else { return 0 };
        self.due = last.0 + self.interval;
        self.show(last.0, handshakes);
        turns
    }

    fn window(&self) -> u64 {
        WINDOW_MILLIS.min(self.interval)
    }

    fn show(&mut self, at: u64, handshakes: u32) {
        if let Some(shown) = &mut self.shown {
            for _ in 0..handshakes {
                shown.rotate_left(1);
                shown[HANDSHAKES_MAX - 1] = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(due: u64) -> Agent {
        let (id, owner) = (AgentId::parse("a").unwrap(), OwnerId::parse("o").unwrap());
        Agent::new(id, owner, 60_000, UnixMillis(due), false)
    }

    #[test]
    fn a_request_goes_at_once_and_waits_for_the_budget() {
        let (mut agent, mut chance) = (agent(1_000_000), Chance::new(1, 0, 0));
        let begins = |agent: &Agent, now| agent.next_begin(UnixMillis(now)).map(|at| at.0);
        assert_eq!(begins(&agent, 990_000), Some(1_000_000));
        agent.request();
        assert_eq!(begins(&agent, 990_000), Some(990_000));
        agent.begin(UnixMillis(990_000), &mut chance);
        assert_eq!(begins(&agent, 990_000), None);
        agent.end(UnixMillis(1_004_000), false, 2);
        agent.request();
        // Asked for, it showed its name once: there is room for more, and then none.
        for (begun, ended) in [(1_005_000, 1_020_000), (1_021_000, 1_030_000)] {
            assert_eq!(begins(&agent, begun), Some(begun));
            agent.begin(UnixMillis(begun), &mut chance);
            agent.end(UnixMillis(ended), false, 2);
            agent.request();
        }
        assert_eq!(begins(&agent, 1_031_000), Some(1_064_000));
        agent.begin(UnixMillis(1_064_000), &mut chance);
        agent.end(UnixMillis(1_065_000), true, 1);
        agent.request();
        assert_eq!(
            begins(&agent, 1_066_000),
            Some(1_090_000),
            "what is well again is looked at with room for two"
        );
        // Of its own turn it shows two where there is room, and leaves one for a second look.
        agent.begin(UnixMillis(1_090_000), &mut chance);
        agent.end(UnixMillis(1_091_000), true, 1);
        agent.begin(UnixMillis(1_151_000), &mut chance);
        agent.end(UnixMillis(1_160_000), false, 2);
        agent.request();
        assert_eq!(begins(&agent, 1_160_000), Some(1_160_000));
        agent.begin(UnixMillis(1_160_000), &mut chance);
        agent.end(UnixMillis(1_170_000), false, 2);
        agent.request();
        assert_eq!(begins(&agent, 1_171_000), Some(1_220_000));
    }

    #[test]
    fn who_sleeps_knows_its_turns() {
        let mut agent = agent(1_000_000);
        agent.sleep();
        assert_eq!(agent.turn_after(2), UnixMillis(1_120_000));
        assert_eq!(agent.turn_from(UnixMillis(1_060_001)), UnixMillis(1_120_000));
        assert_eq!(agent.slept_until(UnixMillis(999_999)), None);
        assert_eq!(agent.slept_until(UnixMillis(1_130_000)), Some((UnixMillis(1_120_000), 3)));
        assert_eq!(agent.wake(UnixMillis(1_120_000), 1), 2);
        assert_eq!(agent.next_begin(UnixMillis(1_120_000)), Some(UnixMillis(1_120_000)));
        assert!(!agent.is_asleep());
    }
}
