//! Handshakes shown of late, by host name. Some censors answer more than three handshakes with one name in a minute with
//! two minutes of silence: a prober that forgets this measures itself. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Handshakes with one name in one window (net4people/bbs on the TSPU's handshake policing: about three in 60 s).
pub const HANDSHAKES_MAX: usize = 3;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts handshakes; instants are time since the agent's start.
#[derive(Debug)]
pub struct Budget {
    window: Duration,
    shown: BTreeMap<String, VecDeque<Duration>>,
}

impl Budget {
    /// A host that measures more often than the window chose to: the window shrinks to its interval.
    pub fn new(interval: Duration) -> Self {
        Self { window: WINDOW.min(interval), shown: BTreeMap::new() }
    }

    /// Notes `count` handshakes with `host`.
    pub fn note(&mut self, host: &str, count: usize, now: Duration) {
        let instants = self.shown.entry(host.to_owned()).or_default();
        // More than the limit need not be remembered: the latest decide.
        instants.extend(std::iter::repeat_n(now, count.min(HANDSHAKES_MAX)));
        while instants.len() > HANDSHAKES_MAX {
            instants.pop_front();
        }
        let window = self.window;
        self.shown.retain(|_, instants| instants.back().is_some_and(|last| *last + window > now));
    }

    /// When `count` handshakes with `host` fit; `now` or earlier if they do already.
    pub fn fits_at(&self, host: &str, count: usize, now: Duration) -> Duration {
        let Some(instants) = self.shown.get(host) else { return now };
        let must_pass = (instants.len() + count).saturating_sub(HANDSHAKES_MAX).min(instants.len());
        match must_pass.checked_sub(1).and_then(|index| instants.get(index)) {
            Some(instant) => *instant + self.window,
            None => now,
        }
    }

    /// Whether `count` handshakes with `host` fit now.
    pub fn fits(&self, host: &str, count: usize, now: Duration) -> bool {
        self.fits_at(host, count, now) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn never_more_than_three_handshakes_in_a_window() {
        let mut budget = Budget::new(secs(600));
        assert!(budget.fits("m", 3, secs(0)));
        budget.note("m", 1, secs(10));
        assert!(budget.fits("m", 2, secs(11)) && !budget.fits("m", 3, secs(11)));
        assert_eq!(budget.fits_at("m", 3, secs(11)), secs(70));
        budget.note("m", 2, secs(20));
        assert!(!budget.fits("m", 1, secs(21)));
        assert_eq!(budget.fits_at("m", 1, secs(21)), secs(70));
        assert_eq!(budget.fits_at("m", 2, secs(21)), secs(80));
        assert!(budget.fits("other", 3, secs(21)));
        budget.note("m", 9, secs(30));
        assert_eq!(budget.fits_at("m", 1, secs(31)), secs(90));
        budget.note("other", 1, secs(200));
        assert_eq!(budget.shown.len(), 1);
    }

    #[test]
    fn a_shorter_interval_of_the_host_shortens_the_window() {
        let mut budget = Budget::new(secs(2));
        budget.note("m", 3, secs(0));
        assert!(!budget.fits("m", 1, secs(1)) && budget.fits("m", 2, secs(2)));
    }
}
