//! What the collector's welcome tells of this box: its clock, and the address it is seen under. Held for the network
//! check; neither reaches a record or a log as it is.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use zerkalo_core::words::UnixMillis;

/// How far wall clock and steady clock may part before the word is stale: then the clock was set, or the box slept.
const PARTED_MAX_MILLIS: u64 = 1_000;

/// One welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// When it came, by both clocks of this box.
    came: (UnixMillis, Instant),
    /// This box's wall clock minus the collector's, in ms.
    ahead_millis: i64,
    /// The address the stream comes from, as the collector sees it.
    pub seen_as: Option<IpAddr>,
}

impl Witness {
    /// A welcome that came at `came`, `took` after the greeting, and bears the collector's time (0: it told none).
    pub fn new(
        came: (UnixMillis, Instant),
        took: Duration,
        server_time_millis: u64,
        seen_as: Option<IpAddr>,
    ) -> Option<Self> {
        // It was written about halfway.
        let ours = i128::from(came.0.0) - i128::try_from(took.as_millis() / 2).ok()?;
        let ahead_millis = i64::try_from(ours - i128::from(server_time_millis)).ok()?;
        (server_time_millis > 0).then_some(Self { came, ahead_millis, seen_as })
    }

    /// This box's clock minus the collector's at `now`, in ms, unless the clock was set since.
    pub fn ahead_millis(&self, now: (UnixMillis, Instant)) -> Option<i64> {
        let steady = u64::try_from(now.1.saturating_duration_since(self.came.1).as_millis()).ok()?;
        let wall = self.came.0.plus_millis(steady);
        (wall.0.abs_diff(now.0.0) <= PARTED_MAX_MILLIS).then_some(self.ahead_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_welcome_tells_how_the_clock_goes_until_it_is_set() {
        let began = Instant::now();
        let at = |wall_millis: u64, steady_millis: u64| {
            (UnixMillis(wall_millis), began + Duration::from_millis(steady_millis))
        };
        let came = at(1_000_000, 0);
        let witness = Witness::new(came, Duration::from_millis(200), 990_000, None).unwrap();
        assert_eq!(witness.ahead_millis(at(1_060_000, 60_000)), Some(9_900));
        // Set by an hour, either way; or the box slept and the steady clock with it.
        assert_eq!(witness.ahead_millis(at(4_660_000, 60_000)), None);
        assert_eq!(witness.ahead_millis(at(500_000, 60_000)), None);
        let behind = Witness::new(came, Duration::ZERO, 1_090_000, None).unwrap();
        assert_eq!(behind.ahead_millis(came), Some(-90_000));
        // A collector that tells no time.
        assert_eq!(Witness::new(came, Duration::ZERO, 0, None), None);
    }
}
