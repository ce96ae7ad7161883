//! When records were measured, by steady clocks: the time of arrival less the age that the box's own steady clock tells.
//!
//! A box whose wall clock is wrong, or was set in between, still counts seconds since it booted. What arrived soonest
//! after it was measured tells best when that was.

use crate::record::ProbeRecord;
use crate::words::UnixMillis;

/// How much a steady clock may run slow: in 10,000 ms, 1 ms. Cheap crystals stray less.
const DRIFT_PART: u64 = 10_000;
/// Boots remembered of one agent: what it measured before it restarted may come between what it measures now.
const BOOTS_MAX: usize = 4;

/// What is known of one agent's boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Boot {
    /// The one heard of last first.
    known: [Option<Known>; BOOTS_MAX],
    /// When the last record ended, by its boot.
    ended_at: Option<UnixMillis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    boot: [u8; 8],
    /// The collector's time at which the steady clock stood at zero: at the latest.
    zero_at: UnixMillis,
    noted_at: UnixMillis,
}

impl Boot {
    /// When the last record noted ended; `None` where nothing of its boot was heard before.
    pub fn ended_at(&self) -> Option<UnixMillis> {
        self.ended_at
    }

    /// Notes a record that arrived at `now`.
    pub fn note(&mut self, facts: &ProbeRecord, now: UnixMillis) {
        self.ended_at = None;
        let Some(clock) = facts.clock else { return };
        let ended_millis = clock.monotonic_millis.saturating_add(facts.duration_micros.div_ceil(1_000));
        let told = now.minus_millis(ended_millis);
        let of_boot = |known: &Option<Known>| known.is_some_and(|known| known.boot == clock.boot);
        let place = self.known.iter().position(of_boot).unwrap_or(BOOTS_MAX - 1);
        let known = self.known[place].filter(|known| known.boot == clock.boot).map(|known| {
            let slack_millis = now.since_millis(known.noted_at) / DRIFT_PART;
            // A reading behind zero would say that it boots in the future.
            known.zero_at.plus_millis(slack_millis)
        });
        self.ended_at = known.map(|zero_at| zero_at.min(told).plus_millis(ended_millis).min(now));
        let zero_at = known.map_or(told, |zero_at| zero_at.min(told));
        self.known[..=place].rotate_right(1);
        self.known[0] = Some(Known { boot: clock.boot, zero_at, noted_at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockReading;

    const NOW: u64 = 1_800_000_000_000;

    fn record(boot: u8, monotonic_millis: u64) -> ProbeRecord {
        let clock = Some(ClockReading { monotonic_millis, boot: [boot; 8], error_millis: None });
        let url = crate::target::TargetUrl::parse("https://mirror.example/").unwrap();
        let mut facts = ProbeRecord {
            clock,
            duration_micros: 500_000,
            mirror: None,
            url,
            list_version: 1,
            cause: crate::record::Cause::Scheduled,
            started_at: UnixMillis(5),
            agent_version: String::new(),
            dns: vec![],
            tcp: vec![],
            tls: vec![],
            http: vec![],
            quic: vec![],
            references: vec![],
            network: None,
            hops: vec![],
            screenshot: None,
            uplink: None,
        };
        facts.list_version = 2;
        facts
    }

    #[test]
    fn a_spooled_record_is_as_old_as_its_steady_clock_says() {
        let mut boot = Boot::default();
        let mut at = |boot_id, monotonic, now: u64, expected: Option<u64>| {
            boot.note(&record(boot_id, monotonic), UnixMillis(now));
            assert_eq!(boot.ended_at().map(|at| at.0), expected);
        };
        // The first of a boot tells nothing of itself.
        at(1, 10_000, NOW, None);
        // A minute later, at once.
        at(1, 70_000, NOW + 60_000, Some(NOW + 60_000));
        // Offline for an hour: sent together when it is back; its steady clock may have run slow since.
        let back = NOW + 3_600_000;
        let slack = 3_540_000 / DRIFT_PART;
        at(1, 130_000, back, Some(NOW + 120_000 + slack));
        at(1, 190_000, back, Some(NOW + 180_000 + slack));
        // What was measured last is the youngest.
        at(1, 3_600_000 + 5_000, back, Some(back - 5_000 + slack));
        // Another boot.
        at(2, 1_000, back, None);
        at(2, 500, back, Some(back - 500));
        // Nothing is measured after it came.
        at(2, 900_000_000, back + 1, Some(back + 1));
        // What is left of the boot before comes between.
        at(1, 250_000, back, Some(NOW + 240_000 + slack));
        // Of so many boots it is forgotten.
        (3..=6).for_each(|boot| at(boot, 10, back, None));
        at(1, 250_000, back, None);
    }

    #[test]
    fn a_slow_crystal_makes_no_old_records() {
        let mut boot = Boot::default();
        boot.note(&record(1, 0), UnixMillis(NOW));
        // 50 ppm slow over a month.
        for day in 1..=30 {
            let now = NOW + day * 86_400_000;
            boot.note(&record(1, day * 86_400_000 - day * 4_320), UnixMillis(now));
            let ended_at = boot.ended_at().unwrap();
            assert!(now - ended_at.0 < 5_000, "day {day}: {} ms", now - ended_at.0);
        }
    }

    #[test]
    fn records_of_before_tell_nothing() {
        let mut boot = Boot::default();
        boot.note(&record(1, 10), UnixMillis(NOW));
        boot.note(&ProbeRecord { clock: None, ..record(1, 10) }, UnixMillis(NOW + 1));
        assert_eq!(boot.ended_at(), None);
    }
}
