//! What of the spool is on its way to the collector. Pure: time is an argument; sending is `uplink.rs`.
//!
//! What waits goes in the chain's order, a bounded number of bytes at a time. Where much waits the newest records go
//! ahead of it, so that what is measured now never waits for what was measured while the box was away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use zerkalo_core::admission::{AHEAD_RECORDS_MAX, AHEAD_RUNS_MAX, RESEND_WINDOW, Run};

/// Records in one batch.
pub const BATCH_RECORDS_MAX: usize = 64;
/// Bytes of bodies in one batch: small batches slip under the censor's freeze of long transfers.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Bytes of bodies on their way in the chain's order: so much a record that goes ahead waits for, at most.
pub const BACKLOG_BYTES_MAX: usize = 256 * 1024;
/// With no more records unsent than these nothing goes ahead: they are all about to go.
pub const BACKLOG_RECORDS_MIN: u64 = 64;
/// So many of the newest go ahead: about a round of a long list.
pub const FRESH_RECORDS_MAX: u64 = 32;
/// A missing ack for so long is a freeze: connections abroad die in silence.
pub const FROZEN_AFTER: Duration = Duration::from_secs(10);

/// The records in flight on one stream, by sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    epoch: u64,
    /// Everything up to here was sent, or is held by the collector.
    sent: u64,
    acked: u64,
    /// Batches sent in the chain's order and not yet acknowledged: the last sequence of each, and its bytes.
    batches: VecDeque<(u64, usize)>,
    ahead: Ahead,
    /// Since when nothing in flight has been acknowledged; `None` with nothing in flight.
    waiting_since: Option<Instant>,
}

/// What goes ahead of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ahead {
    /// Whether the collector takes any.
    is_taken: bool,
    /// What it holds.
    held: Vec<Run>,
    /// First and last of the one batch on its way.
    in_flight: Option<(u64, u64)>,
    /// Up to here every record had its chance.
    tried: u64,
}

/// An ack that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged record {acked}, but {sent} is the last sent")]
pub struct AckAhead {
    pub acked: u64,
    pub sent: u64,
}

/// What may go in the chain's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub after: u64,
    /// The last that may begin a statement.
    pub until: u64,
    pub records: usize,
    pub bytes: usize,
}

impl Window {
    /// Nothing in flight; the collector has everything of `epoch` up to `sequence`.
    pub fn new(epoch: u64, sequence: u64) -> Self {
        Self {
            epoch,
            sent: sequence,
            acked: sequence,
            batches: VecDeque::new(),
            ahead: Ahead::default(),
            waiting_since: None,
        }
    }

    /// The same, at a collector that takes records ahead of their chain and holds these.
    pub fn with_ahead(epoch: u64, sequence: u64, held: Vec<Run>) -> Self {
        let mut window = Self::new(epoch, sequence);
        window.ahead = Ahead { is_taken: true, held, ..Ahead::default() };
        window.pass_held();
        window
    }

    /// What may go now in the chain's order; nothing is sent that the collector holds, or may be about to.
    pub fn room(&self) -> Room {
        let on_its_way = self.ahead.in_flight.map(|(first, _)| first);
        let held = self.ahead.held.iter().map(|run| run.first);
        let next = held.chain(on_its_way).filter(|first| *first > self.sent).min();
        let in_flight = usize::try_from(self.sent - self.acked).unwrap_or(RESEND_WINDOW);
        let bytes = BACKLOG_BYTES_MAX - self.batches.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let has_room = bytes >= BATCH_BYTES_MAX;
        let records = RESEND_WINDOW.saturating_sub(in_flight).min(BATCH_RECORDS_MAX);
        Room {
            after: self.sent,
            until: next.map_or(u64::MAX, |next| next - 1),
            records: if has_room { records } else { 0 },
            bytes: BATCH_BYTES_MAX,
        }
    }

    /// After which record, and how many, may go now ahead of the others that wait in a spool that ends with `head`.
    pub fn room_ahead(&self, head: u64) -> Option<(u64, usize)> {
        let Ahead { is_taken, held, in_flight, tried } = &self.ahead;
        // Nothing comes ahead of an epoch's first; and one batch at a time.
        if !is_taken || self.sent == 0 || in_flight.is_some() || self.unsent(head) <= BACKLOG_RECORDS_MIN {
            return None;
        }
        let fresh = head.saturating_sub(FRESH_RECORDS_MAX).max(*tried);
        let after = held.last().map_or(fresh, |run| fresh.max(run.last));
        let count: u64 = held.iter().map(|run| run.last - run.first + 1).sum();
        let left = (AHEAD_RECORDS_MAX as u64).saturating_sub(count).min(FRESH_RECORDS_MAX);
        let lengthens = held.last().is_some_and(|run| run.last == after);
        let has_room = left > 0 && (lengthens || held.len() < AHEAD_RUNS_MAX);
        (has_room && after < head).then_some((after, usize::try_from(left).unwrap_or_default()))
    }

    /// Notes that everything up to `sequence` was sent, the last of it in a batch of so many bytes.
    pub fn sent(&mut self, sequence: u64, bytes: usize, now: Instant) {
        if sequence > self.sent {
            self.sent = sequence;
            self.batches.push_back((sequence, bytes.min(BATCH_BYTES_MAX)));
            self.waiting_since.get_or_insert(now);
            self.pass_held();
        }
    }

    /// Notes that the records from `first` to `last` were sent ahead.
    pub fn sent_ahead(&mut self, first: u64, last: u64, now: Instant) {
        self.ahead.in_flight = Some((first, last));
        self.ahead.tried = self.ahead.tried.max(last);
        self.waiting_since.get_or_insert(now);
    }

    /// Notes that the collector has dealt with what was sent ahead up to `sequence`, and holds `held` now; whether that
    /// is news.
    pub fn held(&mut self, epoch: u64, sequence: u64, held: Vec<Run>, now: Instant) -> bool {
        if epoch != self.epoch {
            return false;
        }
        let is_news = self.ahead.in_flight.is_some_and(|(_, last)| last <= sequence);
        if is_news {
            self.ahead.in_flight = None;
            self.waiting_since = (!self.is_idle()).then_some(now);
        }
        self.ahead.held = held;
        self.pass_held();
        is_news
    }

    /// Notes a cumulative ack; whether it brought news.
    pub fn acked(&mut self, epoch: u64, sequence: u64, now: Instant) -> Result<bool, AckAhead> {
        if epoch != self.epoch || sequence <= self.acked {
            return Ok(false);
        }
        let reach = self.reach();
        if sequence > reach {
            return Err(AckAhead { acked: sequence, sent: reach });
        }
        self.acked = sequence;
        self.sent = self.sent.max(sequence);
        while self.batches.front().is_some_and(|(last, _)| *last <= sequence) {
            self.batches.pop_front();
        }
        self.ahead.held.retain(|run| run.last > sequence);
        self.pass_held();
        self.waiting_since = (!self.is_idle()).then_some(now);
        Ok(true)
    }

    /// Whether everything sent was answered.
    pub fn is_idle(&self) -> bool {
        self.sent == self.acked && self.ahead.in_flight.is_none()
    }

    /// Since when nothing in flight has been answered; `None` with nothing in flight.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Whether a record of this epoch is on its way ahead, or held there.
    pub fn is_ahead(&self, sequence: u64) -> bool {
        let held = self.ahead.held.iter().map(|run| (run.first, run.last));
        held.chain(self.ahead.in_flight).any(|(first, last)| (first..=last).contains(&sequence))
    }

    /// Whether the collector takes records of this epoch ahead of their chain.
    pub fn takes_ahead(&self, epoch: u64) -> bool {
        self.ahead.is_taken && epoch == self.epoch && self.sent > 0
    }

    /// Records up to `head` that were neither sent nor are held.
    fn unsent(&self, head: u64) -> u64 {
        let beyond = |run: &Run| (run.last.min(head) + 1).saturating_sub(run.first.max(self.sent + 1));
        let held: u64 = self.ahead.held.iter().map(beyond).sum();
        head.saturating_sub(self.sent).saturating_sub(held)
    }

    /// Goes on behind what the collector holds.
    fn pass_held(&mut self) {
        for run in &self.ahead.held {
            if run.first <= self.sent + 1 {
                self.sent = self.sent.max(run.last);
            }
        }
    }

    /// The last record that the collector may have everything up to.
    fn reach(&self) -> u64 {
        let mut runs: Vec<(u64, u64)> = self.ahead.held.iter().map(|run| (run.first, run.last)).collect();
        runs.extend(self.ahead.in_flight);
        runs.sort_unstable();
        runs.iter().fold(self.sent, |reach, (first, last)| match *first <= reach + 1 {
            true => reach.max(*last),
            false => reach,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::target::Sha256;

    fn run(first: u64, last: u64) -> Run {
        Run { first, last, hash: Sha256([1; 32]) }
    }

    #[test]
    fn no_more_is_in_flight_than_the_collector_remembers() {
        let now = Instant::now();
        let mut window = Window::new(1, 10);
        assert_eq!((window.room().after, window.room().records), (10, BATCH_RECORDS_MAX));
        window.sent(10 + RESEND_WINDOW as u64 - 1, 9, now);
        assert_eq!(window.room().records, 1);
        window.sent(10 + RESEND_WINDOW as u64, 9, now);
        assert_eq!(window.room().records, 0);
        assert_eq!(window.acked(1, 15, now), Ok(true));
        assert_eq!(window.room().records, 5);
    }

    #[test]
    fn no_more_bytes_of_the_backlog_are_in_flight_than_a_live_record_may_wait_for() {
        let now = Instant::now();
        let mut window = Window::new(1, 0);
        let batches = (BACKLOG_BYTES_MAX / BATCH_BYTES_MAX) as u64;
        for batch in 1..=batches {
            assert!(window.room().records > 0);
            window.sent(batch * 5, BATCH_BYTES_MAX, now);
        }
        assert_eq!(window.room().records, 0);
        assert_eq!(window.acked(1, 5, now), Ok(true));
        assert!(window.room().records > 0);
    }

    #[test]
    fn acks_are_cumulative_and_never_ahead() {
        let now = Instant::now();
        let mut window = Window::new(2, 0);
        window.sent(5, 9, now);
        assert_eq!(window.acked(2, 5, now), Ok(true));
        assert_eq!(window.acked(2, 3, now), Ok(false));
        assert_eq!(window.acked(1, 9, now), Ok(false));
        assert_eq!(window.acked(2, 6, now), Err(AckAhead { acked: 6, sent: 5 }));
    }

    #[test]
    fn the_newest_go_ahead_once_and_the_chain_goes_on_behind_them() {
        let now = Instant::now();
        let mut window = Window::with_ahead(1, 10, vec![]);
        // All of a little is about to go anyway.
        assert_eq!(window.room_ahead(10 + BACKLOG_RECORDS_MIN), None);
        let head = 500;
        assert_eq!(window.room_ahead(head), Some((head - FRESH_RECORDS_MAX, FRESH_RECORDS_MAX as usize)));
        window.sent_ahead(469, 480, now);
        assert_eq!((window.room_ahead(head), window.room().until), (None, 468), "one batch at a time");
        assert!(window.held(1, 480, vec![run(469, 478)], now), "two had no room");
        assert_eq!((window.is_idle(), window.waiting_since()), (true, None));
        // What had its chance waits for its turn; what came since goes.
        assert_eq!(window.room_ahead(501), Some((480, FRESH_RECORDS_MAX as usize)));
        assert_eq!(window.room_ahead(900), Some((900 - FRESH_RECORDS_MAX, FRESH_RECORDS_MAX as usize)));
        window.sent(100, 9, now);
        window.sent(468, 9, now);
        assert_eq!((window.room().after, window.room().until), (478, u64::MAX));
        assert_eq!(window.acked(1, 479, now), Err(AckAhead { acked: 479, sent: 478 }));
        assert_eq!(window.acked(1, 478, now), Ok(true));
        assert!(window.is_idle());
        // The chain may come to what is still on its way.
        window.sent_ahead(480, 481, now);
        window.sent(479, 9, now);
        assert_eq!((window.room().until, window.acked(1, 481, now)), (479, Ok(true)));
        assert!(!window.is_idle(), "its answer is still to come");
        assert!(window.held(1, 481, vec![], now) && window.is_idle());
        assert_eq!(window.room().after, 481);
    }

    #[test]
    fn an_older_collector_gets_nothing_ahead_nor_one_that_holds_as_much_as_it_may() {
        let now = Instant::now();
        assert_eq!(Window::new(1, 10).room_ahead(10_000), None);
        // Nor one that knows nothing of the epoch.
        let mut window = Window::with_ahead(1, 0, vec![]);
        assert_eq!(window.room_ahead(10_000), None);
        window.sent(64, 9, now);
        assert!(window.room_ahead(10_000).is_some());
        let full = vec![run(100, 99 + AHEAD_RECORDS_MAX as u64)];
        assert_eq!(Window::with_ahead(1, 10, full).room_ahead(10_000), None);
        let runs: Vec<_> = (1..=AHEAD_RUNS_MAX as u64).map(|n| run(n * 100, n * 100 + 1)).collect();
        let window = Window::with_ahead(1, 10, runs);
        let last = AHEAD_RUNS_MAX as u64 * 100 + 1;
        assert_eq!(window.room_ahead(10_000), None);
        assert_eq!(
            window.room_ahead(last + 9),
            Some((last, FRESH_RECORDS_MAX as usize)),
            "it lengthens a run"
        );
    }

    #[test]
    fn a_stream_freezes_only_while_something_is_in_flight() {
        let now = Instant::now();
        let later = now + Duration::from_secs(4);
        let mut window = Window::with_ahead(1, 1, vec![]);
        assert_eq!(window.waiting_since(), None);
        window.sent(2, 9, now);
        window.sent(3, 9, later);
        assert_eq!(window.waiting_since(), Some(now));
        window.acked(1, 2, later).unwrap();
        assert_eq!(window.waiting_since(), Some(later));
        window.acked(1, 3, later).unwrap();
        assert_eq!(window.waiting_since(), None);
        window.sent_ahead(90, 91, now);
        assert_eq!(window.waiting_since(), Some(now));
    }
}
