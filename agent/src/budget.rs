//! Handshakes shown of late, by host name. Some censors answer more than three handshakes with one name in a minute with
//! two minutes of silence: a prober that forgets this measures itself. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Handshakes with one name in one window (net4people/bbs on the TSPU's handshake policing: about three in 60 s).
pub const HANDSHAKES_MAX: usize = 3;
/// The same for a control: abroad no censor counts. A few carriers' resolvers may give eight addresses each, and each look
/// asked for is a handshake or two of its own; the mirror's own servers set the limit.
pub const CONTROL_HANDSHAKES_MAX: usize = 48;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts handshakes; instants are time since the agent's start.
#[derive(Debug)]
pub struct Budget {
    window: Duration,
    handshakes_max: usize,
    shown: BTreeMap<String, VecDeque<Duration>>,
    /// Handshakes that probes under way may make: nobody knows yet whether they will.
    promised: BTreeMap<String, usize>,
}

impl Budget {
    /// A host that measures more often than the window chose to: the window shrinks to its interval.
    pub fn new(interval: Duration) -> Self {
        let (window, handshakes_max) = (WINDOW.min(interval), HANDSHAKES_MAX);
        Self { window, handshakes_max, shown: BTreeMap::new(), promised: BTreeMap::new() }
    }

    /// The budget of a control.
    pub fn of_control(interval: Duration) -> Self {
        Self { handshakes_max: CONTROL_HANDSHAKES_MAX, ..Self::new(interval) }
    }

    /// Whether nobody counts its handshakes but the mirror's own server.
    pub fn is_of_control(&self) -> bool {
        self.handshakes_max > HANDSHAKES_MAX
    }

    /// Notes `count` handshakes with `host`.
    pub fn note(&mut self, host: &str, count: usize, now: Duration) {
        let instants = self.shown.entry(host.to_owned()).or_default();
        // More than the limit need not be remembered: the latest decide.
        instants.extend(std::iter::repeat_n(now, count.min(self.handshakes_max)));
        while instants.len() > self.handshakes_max {
            instants.pop_front();
        }
        let window = self.window;
        self.shown.retain(|_, instants| instants.back().is_some_and(|last| *last + window > now));
    }

    /// When `count` handshakes with `host` fit; `now` or earlier if they do already.
    pub fn fits_at(&self, host: &str, count: usize, now: Duration) -> Duration {
        let Some(instants) = self.shown.get(host) else { return now };
        let must_pass = (instants.len() + count).saturating_sub(self.handshakes_max).min(instants.len());
        match must_pass.checked_sub(1).and_then(|index| instants.get(index)) {
            Some(instant) => *instant + self.window,
            None => now,
        }
    }

    /// How many handshakes with `host` fit now.
    pub fn room(&self, host: &str, now: Duration) -> usize {
        (0..=self.handshakes_max).rev().find(|count| self.fits(host, *count, now)).unwrap_or_default()
    }

    /// Whether `count` handshakes with `host` fit now.
    pub fn fits(&self, host: &str, count: usize, now: Duration) -> bool {
        self.fits_at(host, count, now) <= now
    }

    /// Whether `count` handshakes with `host` fit beside those promised. No more than [`HANDSHAKES_MAX`] are promised at
    /// once, a control's neither.
    pub fn can_promise(&self, host: &str, count: usize, now: Duration) -> bool {
        let all = self.promised.get(host).copied().unwrap_or_default() + count;
        all <= HANDSHAKES_MAX && self.fits(host, all, now)
    }

    /// Keeps room for `count` handshakes with `host`, until [`Budget::redeem`].
    pub fn promise(&mut self, host: &str, count: usize) {
        if count > 0 {
            *self.promised.entry(host.to_owned()).or_default() += count;
        }
    }

    /// Takes all promises back, where every probe was given up.
    pub fn forgive(&mut self) {
        self.promised.clear();
    }

    /// Takes a promise back: what was made of it is noted by itself.
    pub fn redeem(&mut self, host: &str, count: usize) {
        if let Some(promised) = self.promised.get_mut(host) {
            *promised = promised.saturating_sub(count);
        }
        self.promised.retain(|_, promised| *promised > 0);
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
    fn what_is_promised_is_taken_until_it_is_redeemed() {
        let mut budget = Budget::new(secs(60));
        assert!(budget.can_promise("m", 3, secs(0)) && !budget.can_promise("m", 4, secs(0)));
        budget.promise("m", 2);
        assert!(budget.can_promise("m", 1, secs(0)) && !budget.can_promise("m", 2, secs(0)));
        budget.note("m", 1, secs(1));
        assert!(!budget.can_promise("m", 1, secs(1)), "one is shown and two may be");
        budget.redeem("m", 2);
        assert!(budget.can_promise("m", 2, secs(1)) && !budget.can_promise("m", 3, secs(1)));
        assert!(budget.promised.is_empty());
        let control = Budget::of_control(secs(60));
        assert!(control.can_promise("m", 3, secs(0)) && !control.can_promise("m", 4, secs(0)));
    }

    #[test]
    fn a_shorter_interval_of_the_host_shortens_the_window() {
        let mut budget = Budget::new(secs(2));
        budget.note("m", 3, secs(0));
        assert!(!budget.fits("m", 1, secs(1)) && budget.fits("m", 2, secs(2)));
    }

    #[test]
    fn a_control_has_room_for_others_addresses_and_an_end_of_it() {
        let mut budget = Budget::of_control(secs(600));
        assert_eq!(budget.room("m", secs(0)), CONTROL_HANDSHAKES_MAX);
        budget.note("m", 10, secs(0));
        budget.note("m", 30, secs(30));
        assert_eq!(budget.room("m", secs(30)), CONTROL_HANDSHAKES_MAX - 40);
        assert_eq!(budget.room("m", secs(60)), CONTROL_HANDSHAKES_MAX - 30);
        assert_eq!(Budget::new(secs(600)).room("m", secs(0)), HANDSHAKES_MAX);
    }
}
