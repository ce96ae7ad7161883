//! What may happen ten thousand times a second is said now and then, with how often it happened.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines about the same.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Remembers when it was said last, and how often it happened since.
#[derive(Debug, Default)]
pub struct Chatter(Mutex<(Option<Instant>, u64)>);

impl Chatter {
    /// Notes that it happened; gives how often since it was said last, where it is to be said now.
    pub fn note(&self, now: Instant) -> Option<u64> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.1 += 1;
        if held.0.is_some_and(|said| now < said + SAY_EVERY) {
            return None;
        }
        held.0 = Some(now);
        Some(std::mem::take(&mut held.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_times_are_two_lines() {
        let (chatter, begin) = (Chatter::default(), Instant::now());
        assert_eq!(chatter.note(begin), Some(1));
        let said = (1..1_000).filter_map(|_| chatter.note(begin + Duration::from_secs(1))).count();
        assert_eq!(said, 0);
        assert_eq!(chatter.note(begin + SAY_EVERY), Some(1_000));
    }
}
