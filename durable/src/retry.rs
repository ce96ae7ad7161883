//! How long to wait before trying again. The only file that names `backoff`; only its policy type is used.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// How far a wait may stray, as a part of it.
const JITTER: f64 = 0.5;

/// Doubling waits with jitter of a half either way, without an end: who must give up counts attempts.
#[derive(Debug)]
pub struct Retry {
    policy: ExponentialBackoff,
    wait_max: Duration,
}

impl Retry {
    /// Waits from about `first` up to about `wait_max`.
    pub fn new(first: Duration, wait_max: Duration) -> Self {
        Self::with(first, wait_max, JITTER)
    }

    /// The same without jitter: where a run must be repeatable.
    pub fn even(first: Duration, wait_max: Duration) -> Self {
        Self::with(first, wait_max, 0.0)
    }

    fn with(first: Duration, wait_max: Duration, jitter: f64) -> Self {
        let policy = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(wait_max)
            .with_multiplier(2.0)
            .with_randomization_factor(jitter)
            .with_max_elapsed_time(None)
            .build();
        Self { policy, wait_max }
    }

    /// The next wait; each about twice the last.
    pub fn next_wait(&mut self) -> Duration {
        self.policy.next_backoff().unwrap_or(self.wait_max)
    }

    /// Starts from the first wait again: call after a success.
    pub fn reset(&mut self) {
        self.policy.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_anew_after_success() {
        let (first, wait_max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut retry = Retry::new(first, wait_max);
        for n in 0..12u32 {
            let nominal = (first * 2u32.pow(n.min(10))).min(wait_max);
            let wait = retry.next_wait();
            assert!(wait >= nominal / 2 && wait <= nominal * 3 / 2, "wait {n}: {wait:?} around {nominal:?}");
        }
        retry.reset();
        assert!(retry.next_wait() <= first * 3 / 2);
    }
}
