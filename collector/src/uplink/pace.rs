//! How fast each agent may send, and open streams: so much at once, and so much a second from then on.
//!
//! An agent that sends faster is not refused anything: its stream is left unread for a while, and what it sends waits at
//! its own end. So one that catches up after days is slowed down and loses nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use zerkalo_core::words::AgentId;

/// Records a second in the long run: thirty times what an agent measures of the longest list there may be, so that even
/// such a one catches up far faster than it falls behind.
pub const RECORDS_PER_SEC_DEFAULT: u32 = 500;
/// Less, and the acknowledgement of what an agent may have in flight would come after it took its line for frozen.
pub const RECORDS_PER_SEC_MIN: u32 = 50;
/// More than a collector on two cores admits of all agents together.
pub const RECORDS_PER_SEC_MAX: u32 = 100_000;
/// Records at once, in seconds of the above: days of an agent with ten mirrors.
const AT_ONCE_SECS: u32 = 100;
/// Streams a second in the long run: over a path that freezes, an agent that catches up opens several.
const STREAMS_PER_SEC: u32 = 20;
/// Streams at once.
const STREAMS_AT_ONCE_MAX: u32 = 400;

/// What each agent has sent of late. As many are remembered as are enrolled.
#[derive(Debug)]
pub struct Paces {
    records_per_sec: u32,
    by_agent: Mutex<BTreeMap<AgentId, Pace>>,
}

#[derive(Debug)]
struct Pace {
    records: Bucket,
    streams: Bucket,
}

/// Runs full with time and empty with use; it may be overdrawn.
#[derive(Debug)]
struct Bucket {
    per_sec: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Default for Paces {
    fn default() -> Self {
        Self::new(RECORDS_PER_SEC_DEFAULT)
    }
}

impl Paces {
    /// Nobody sent anything yet.
    pub fn new(records_per_sec: u32) -> Self {
        Self { records_per_sec, by_agent: Mutex::default() }
    }

    /// Notes what an agent sent; how long it is to be left unread.
    pub fn take(&self, agent: &AgentId, records: usize, now: Instant) -> Duration {
        self.with(agent, now, |pace| {
            pace.records.fill(now);
            // A message without records costs as much as one with one.
            pace.records.left -= records.max(1) as f64;
            pace.records.debt()
        })
    }

    /// Notes that an agent opens a stream; whether it may.
    pub fn may_open(&self, agent: &AgentId, now: Instant) -> bool {
        self.with(agent, now, |pace| {
            pace.streams.fill(now);
            let may = pace.streams.left >= 1.0;
            if may {
                pace.streams.left -= 1.0;
            }
            may
        })
    }

    fn with<T>(&self, agent: &AgentId, now: Instant, work: impl FnOnce(&mut Pace) -> T) -> T {
        let mut by_agent = self.by_agent.lock().unwrap_or_else(PoisonError::into_inner);
        if !by_agent.contains_key(agent) {
            let records = Bucket::full(self.records_per_sec, self.records_per_sec * AT_ONCE_SECS, now);
            let streams = Bucket::full(STREAMS_PER_SEC, STREAMS_AT_ONCE_MAX, now);
            by_agent.insert(agent.clone(), Pace { records, streams });
        }
        work(by_agent.get_mut(agent).expect("it was known, or inserted above"))
    }
}

impl Bucket {
    fn full(per_sec: u32, most: u32, at: Instant) -> Self {
        let most = f64::from(most);
        Self { per_sec: f64::from(per_sec), most, left: most, at }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_sec).min(self.most);
        self.at = now;
    }

    /// How long until nothing is overdrawn.
    fn debt(&self) -> Duration {
        Duration::from_secs_f64((-self.left / self.per_sec).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use zerkalo_core::admission::RESEND_WINDOW;

    use super::*;

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    #[test]
    fn a_backlog_passes_at_once_and_what_is_beyond_at_the_rate() {
        let (paces, begin) = (Paces::new(100), Instant::now());
        for _ in 0..100 {
            assert_eq!(paces.take(&agent("a-1"), 100, begin), Duration::ZERO);
        }
        assert_eq!(paces.take(&agent("a-1"), 50, begin), Duration::from_millis(500));
        // Another agent's is its own.
        assert_eq!(paces.take(&agent("a-2"), 64, begin), Duration::ZERO);
        let later = begin + Duration::from_millis(500);
        assert_eq!(paces.take(&agent("a-1"), 100, later), Duration::from_secs(1));
        // A message of nothing is not free.
        assert!(paces.take(&agent("a-1"), 0, later) > Duration::from_secs(1));
        // An hour fills it up, and no further.
        let hour = begin + Duration::from_secs(3_600);
        assert_eq!(paces.take(&agent("a-1"), 10_000, hour), Duration::ZERO);
        assert!(paces.take(&agent("a-1"), 1, hour) > Duration::ZERO);
    }

    #[test]
    fn what_an_agent_has_in_flight_is_acknowledged_before_it_calls_its_line_frozen() {
        let (paces, now) = (Paces::new(RECORDS_PER_SEC_MIN), Instant::now());
        paces.take(&agent("a-1"), (RECORDS_PER_SEC_MIN * AT_ONCE_SECS) as usize, now);
        let rest = paces.take(&agent("a-1"), RESEND_WINDOW, now);
        assert!(rest < Duration::from_secs(6), "{rest:?}");
    }

    #[test]
    fn streams_are_bounded_apart_and_come_back_with_time() {
        let (paces, now) = (Paces::default(), Instant::now());
        let opened = (0..2 * STREAMS_AT_ONCE_MAX).filter(|_| paces.may_open(&agent("a-1"), now)).count();
        assert_eq!(opened, STREAMS_AT_ONCE_MAX as usize);
        assert!(paces.may_open(&agent("a-2"), now));
        assert!(paces.may_open(&agent("a-1"), now + Duration::from_secs(1)));
    }
}
