//! What of the spool is on its way to the collector. Pure: time is an argument; sending is `uplink.rs`.

use std::time::{Duration, Instant};

use zerkalo_core::admission::RESEND_WINDOW;

/// Records in one batch.
pub const BATCH_RECORDS_MAX: usize = 64;
/// Bytes of bodies in one batch: small batches slip under the censor's freeze of long transfers.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// A missing ack for so long is a freeze: connections abroad die in silence.
pub const FROZEN_AFTER: Duration = Duration::from_secs(10);

/// The records in flight on one stream, by sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    epoch: u64,
    sent: u64,
    acked: u64,
    /// Since when nothing in flight has been acknowledged; `None` with nothing in flight.
    waiting_since: Option<Instant>,
}

/// An ack that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged record {acked}, but {sent} is the last sent")]
pub struct AckAhead {
    pub acked: u64,
    pub sent: u64,
}

impl Window {
    /// Nothing in flight; the collector has everything of `epoch` up to `sequence`.
    pub fn new(epoch: u64, sequence: u64) -> Self {
        Self { epoch, sent: sequence, acked: sequence, waiting_since: None }
    }

    /// The sequence after which to send, and how many records may go now.
    pub fn room(&self) -> (u64, usize) {
        let in_flight = usize::try_from(self.sent - self.acked).unwrap_or(RESEND_WINDOW);
        (self.sent, RESEND_WINDOW.saturating_sub(in_flight).min(BATCH_RECORDS_MAX))
    }

    /// Notes that everything up to `sequence` was sent.
    pub fn sent(&mut self, sequence: u64, now: Instant) {
        if sequence > self.sent {
            self.sent = sequence;
            self.waiting_since.get_or_insert(now);
        }
    }

    /// Notes a cumulative ack; whether it brought news.
    pub fn acked(&mut self, epoch: u64, sequence: u64, now: Instant) -> Result<bool, AckAhead> {
        if epoch != self.epoch || sequence <= self.acked {
            return Ok(false);
        }
        if sequence > self.sent {
            return Err(AckAhead { acked: sequence, sent: self.sent });
        }
        self.acked = sequence;
        self.waiting_since = (self.sent > sequence).then_some(now);
        Ok(true)
    }

    /// Whether everything sent was acknowledged.
    pub fn is_idle(&self) -> bool {
        self.sent == self.acked
    }

    /// When the stream is to be called frozen, if nothing comes before.
    pub fn frozen_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + FROZEN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_in_flight_than_the_collector_remembers() {
        let now = Instant::now();
        let mut window = Window::new(1, 10);
        assert_eq!(window.room(), (10, BATCH_RECORDS_MAX));
        window.sent(10 + RESEND_WINDOW as u64 - 1, now);
        assert_eq!(window.room().1, 1);
        window.sent(10 + RESEND_WINDOW as u64, now);
        assert_eq!(window.room().1, 0);
        assert_eq!(window.acked(1, 15, now), Ok(true));
        assert_eq!(window.room().1, 5);
    }

    #[test]
    fn acks_are_cumulative_and_never_ahead() {
        let now = Instant::now();
        let mut window = Window::new(2, 0);
        window.sent(5, now);
        assert_eq!(window.acked(2, 5, now), Ok(true));
        assert_eq!(window.acked(2, 3, now), Ok(false));
        assert_eq!(window.acked(1, 9, now), Ok(false));
        assert_eq!(window.acked(2, 6, now), Err(AckAhead { acked: 6, sent: 5 }));
    }

    #[test]
    fn a_stream_freezes_only_while_something_is_in_flight() {
        let now = Instant::now();
        let later = now + Duration::from_secs(4);
        let mut window = Window::new(1, 0);
        assert_eq!(window.frozen_at(), None);
        window.sent(2, now);
        window.sent(3, later);
        assert_eq!(window.frozen_at(), Some(now + FROZEN_AFTER));
        window.acked(1, 2, later).unwrap();
        assert_eq!(window.frozen_at(), Some(later + FROZEN_AFTER));
        window.acked(1, 3, later).unwrap();
        assert_eq!(window.frozen_at(), None);
    }
}
