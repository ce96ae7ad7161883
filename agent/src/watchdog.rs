//! What systemd hears of this process: that it works, that its loop still turns, that it stops. Where no service manager
//! asked for any of it, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// Signs of life from the measuring loop itself: what hangs is started anew.
#[derive(Debug)]
pub struct Watchdog {
    /// Half of what the service manager waits; `None` where it does not.
    every: Option<Duration>,
    due: Duration,
}

impl Watchdog {
    /// Says that the agent works; signs of life follow as the service manager asks by the environment.
    pub fn start() -> Self {
        say(NotifyState::Ready);
        Self::every(sd_notify::watchdog_enabled().map(|limit| limit / 2))
    }

    fn every(every: Option<Duration>) -> Self {
        Self { every, due: Duration::ZERO }
    }

    /// Says that the loop turns, where it is time to; `now` is since the agent's start.
    pub fn turn(&mut self, now: Duration) {
        if self.is_due(now) {
            say(NotifyState::Watchdog);
        }
    }

    /// When the loop must have turned again.
    pub fn wake(&self) -> Option<Duration> {
        self.every.map(|_| self.due)
    }

    fn is_due(&mut self, now: Duration) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.due) else { return false };
        self.due = now + every;
        true
    }
}

/// It is about to end.
pub fn stopping() {
    say(NotifyState::Stopping);
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_is_signed_twice_in_the_time_allowed() {
        let secs = Duration::from_secs;
        let mut watchdog = Watchdog::every(Some(secs(60)));
        let signs: Vec<u64> = (0..=180).filter(|now| watchdog.is_due(secs(*now))).collect();
        assert_eq!((signs, watchdog.wake()), (vec![0, 60, 120, 180], Some(secs(240))));
        let mut unasked = Watchdog::every(None);
        assert!(!unasked.is_due(secs(1_000)) && unasked.wake().is_none());
    }
}
