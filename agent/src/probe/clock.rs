//! The time of one probe: when it began, when it must be over. Decides nothing about what a step means.

use std::time::Duration;

use tokio::time::Instant;
use zerkalo_core::record::Span;

/// Measures steps against the probe's beginning and bounds them by the arm's deadline.
#[derive(Debug, Clone, Copy)]
pub struct StepClock {
    began: Instant,
    deadline: Instant,
}

impl StepClock {
    /// Begins now; the first arm is over `timeout` from now.
    pub fn start(timeout: Duration) -> Self {
        let began = Instant::now();
        Self { began, deadline: began + timeout }
    }

    /// The same beginning, with a deadline `timeout` from now: for another arm.
    pub fn renewed(self, timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, ..self }
    }

    /// When a step that begins now and may take `cap` must end.
    pub fn until(self, cap: Duration) -> Instant {
        self.deadline.min(Instant::now() + cap)
    }

    /// Whether the arm has no time left.
    pub fn is_over(self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The span of a step that began at `since` and ends now.
    pub fn span(self, since: Instant) -> Span {
        Span {
            start_micros: micros(since.saturating_duration_since(self.began)),
            duration_micros: micros(since.elapsed()),
        }
    }

    /// Microseconds since the beginning.
    pub fn elapsed_micros(self) -> u64 {
        micros(self.began.elapsed())
    }
}

/// A duration in microseconds; a probe never lasts the 584,000 years that would not fit.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
