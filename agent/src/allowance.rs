//! The bytes of a day: how many a host allows, how many are spent, and what is dropped first as they run out. Pure: the
//! wall clock is an argument. A day is one of UTC.

use serde::{Deserialize, Serialize};
use zerkalo_core::words::UnixMillis;

/// What a fixed line gives by default: a few dozen mirrors, looked at every few minutes.
pub const BYTES_PER_DAY_DEFAULT: u64 = 2_000_000_000;
/// What a metered line gives by default: below 1.5 GB a month.
pub const BYTES_PER_DAY_METERED: u64 = 40_000_000;
/// Longest stretch of the interval: a mirror is still looked at a few times a day.
pub const STRETCH_MAX: u32 = 10;
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// What may still be done today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Ample,
    /// Half is spent: no large pages.
    Pages,
    /// Three quarters are spent: mirrors that are well are looked at less often, by this factor.
    Slower(u32),
    /// All is spent: nothing is measured until tomorrow.
    Spent,
}

impl Stage {
    /// For logs and status lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ample => "everything is measured",
            Self::Pages => "large pages are no longer read today",
            Self::Slower(_) => {
                "large pages are no longer read, and mirrors that are well are probed less often"
            }
            Self::Spent => "nothing is measured until tomorrow (UTC)",
        }
    }
}

/// One day's count; kept across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Days since 1970.
    pub day: u64,
    pub bytes: u64,
}

/// The allowance of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    bytes_per_day: u64,
    spent: Spent,
}

impl Allowance {
    /// Goes on with what was spent before.
    pub fn new(bytes_per_day: u64, spent: Spent) -> Self {
        Self { bytes_per_day, spent }
    }

    /// Today's count.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// How many a day there are.
    pub fn bytes_per_day(&self) -> u64 {
        self.bytes_per_day
    }

    /// Counts bytes.
    pub fn note(&mut self, bytes: u64, now: UnixMillis) {
        self.turn_to(now);
        self.spent.bytes = self.spent.bytes.saturating_add(bytes);
    }

    /// What may still be done at `now`.
    pub fn stage(&mut self, now: UnixMillis) -> Stage {
        self.turn_to(now);
        let (spent, limit) = (u128::from(self.spent.bytes), u128::from(self.bytes_per_day));
        if spent >= limit {
            Stage::Spent
        } else if spent * 4 >= limit * 3 {
            // At the day's pace so far, the rest must last for the rest of the day.
            let gone = u128::from(now.0 % DAY_MILLIS).max(1);
            let stretch = spent * (u128::from(DAY_MILLIS) - gone) / gone / (limit - spent);
            Stage::Slower(u32::try_from(stretch + 1).unwrap_or(STRETCH_MAX).clamp(2, STRETCH_MAX))
        } else if spent * 2 >= limit {
            Stage::Pages
        } else {
            Stage::Ample
        }
    }

    /// Milliseconds until the next day.
    pub fn renewed_in_millis(now: UnixMillis) -> u64 {
        DAY_MILLIS - now.0 % DAY_MILLIS
    }

    fn turn_to(&mut self, now: UnixMillis) {
        let day = now.0 / DAY_MILLIS;
        // A clock put back over midnight gives no second allowance; one that was far ahead takes none away.
        if day != self.spent.day && day + 1 != self.spent.day {
            self.spent = Spent { day, bytes: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MILLIS: u64 = 60 * 60 * 1_000;

    fn at(day: u64, hour: u64) -> UnixMillis {
        UnixMillis(day * DAY_MILLIS + hour * HOUR_MILLIS)
    }

    #[test]
    fn large_pages_go_first_then_the_pace_then_everything() {
        let check = |bytes, hour, expected| {
            let mut allowance = Allowance::new(1_000, Spent::default());
            allowance.note(bytes, at(7, hour));
            assert_eq!(allowance.stage(at(7, hour)), expected, "{bytes} bytes at {hour} h");
        };
        check(0, 0, Stage::Ample);
        check(499, 6, Stage::Ample);
        check(500, 6, Stage::Pages);
        check(749, 6, Stage::Pages);
        // Three quarters at noon: as much again is left for as long, if it is three times slower; and a little.
        check(750, 12, Stage::Slower(4));
        check(750, 23, Stage::Slower(2));
        check(900, 12, Stage::Slower(STRETCH_MAX));
        check(750, 0, Stage::Slower(STRETCH_MAX));
        check(1_000, 23, Stage::Spent);
        check(u64::MAX, 1, Stage::Spent);
    }

    #[test]
    fn a_new_day_begins_anew_and_a_restart_does_not() {
        let mut allowance = Allowance::new(1_000, Spent::default());
        allowance.note(800, at(7, 22));
        let mut again = Allowance::new(1_000, allowance.spent());
        assert_eq!(again.spent(), Spent { day: 7, bytes: 800 });
        again.note(300, at(7, 23));
        assert_eq!(again.stage(at(7, 23)), Stage::Spent);
        assert_eq!(Allowance::renewed_in_millis(at(7, 23)), HOUR_MILLIS);
        assert_eq!(again.stage(at(8, 0)), Stage::Ample);
        assert_eq!(again.spent(), Spent { day: 8, bytes: 0 });
    }

    #[test]
    fn a_clock_put_right_neither_gives_a_second_day_nor_takes_one() {
        let spent = Spent { day: 8, bytes: 900 };
        let check = |now, expected| {
            let mut allowance = Allowance::new(1_000, spent);
            allowance.note(0, now);
            assert_eq!(allowance.spent().bytes, expected, "{now}");
        };
        check(at(8, 1), 900);
        check(at(7, 23), 900);
        check(at(6, 23), 0);
        check(at(9, 0), 0);
    }

    #[test]
    fn a_day_of_virtual_time_stays_within_its_bytes() {
        // One mirror a minute at 1,000 bytes is 1.44 MB a day; 1 MB is allowed.
        let (mut allowance, mut now, mut probes) =
            (Allowance::new(1_000_000, Spent::default()), at(3, 0), 0u64);
        let mut stages = vec![Stage::Ample];
        while now < at(4, 0) {
            let stage = allowance.stage(now);
            if std::mem::discriminant(stages.last().unwrap()) != std::mem::discriminant(&stage) {
                stages.push(stage);
            }
            let stretch = match stage {
                Stage::Spent => panic!("the day's bytes ran out at {now}"),
                Stage::Slower(stretch) => u64::from(stretch),
                _ => 1,
            };
            allowance.note(1_000, now);
            probes += 1;
            now = now.plus_secs(60 * stretch);
        }
        assert!(probes > 850 && allowance.spent().bytes <= 1_000_000, "{probes} {allowance:?}");
        assert!(matches!(stages[..], [Stage::Ample, Stage::Pages, Stage::Slower(_)]), "{stages:?}");
    }
}
