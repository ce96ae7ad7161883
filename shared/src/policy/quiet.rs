//! Quiet hours: the time of day, in the market's own zone, in which nothing is rotated unasked.

use serde::{Deserialize, Deserializer, de::Error};

use crate::words::UnixMillis;

/// Minutes of a day.
const DAY_MINUTES: i64 = 1_440;
/// Farthest offset from UTC, in minutes: there is no zone beyond UTC+14.
const OFFSET_MAX: i64 = 14 * 60;

/// A time of day, in minutes since midnight, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay(pub i64);

/// An offset from UTC in minutes, written `+HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtcOffset(pub i64);

/// From when until when; over midnight where `until` is earlier.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    pub from: TimeOfDay,
    pub until: TimeOfDay,
    pub utc_offset: UtcOffset,
}

impl QuietHours {
    /// When the quiet hours end that hold at `now`; `None` outside them.
    pub fn end(&self, now: UnixMillis) -> Option<UnixMillis> {
        let local_minutes = (now.0 / 60_000) as i64 + self.utc_offset.0;
        let since = (local_minutes - self.from.0).rem_euclid(DAY_MINUTES);
        let length = (self.until.0 - self.from.0).rem_euclid(DAY_MINUTES);
        let begun = UnixMillis(now.0 / 60_000 * 60_000);
        (since < length).then(|| begun.plus_secs((length - since) as u64 * 60))
    }
}

impl std::fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl std::fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(f, "{sign}{}", TimeOfDay(self.0.abs()))
    }
}

fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let is_pair = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    let (hours, minutes) = (is_pair(hours).then_some(hours)?, is_pair(minutes).then_some(minutes)?);
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("{text:?} is no time of day; write it as \"23:00\""));
        minutes(&text).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for UtcOffset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let offset = match text.split_at_checked(1) {
            Some(("+", rest)) => minutes(rest),
            Some(("-", rest)) => minutes(rest).map(|minutes| -minutes),
            _ => None,
        };
        let wrong = || D::Error::custom(format!("{text:?} is no offset from UTC; write it as \"+05:00\""));
        offset.filter(|minutes| minutes.abs() <= OFFSET_MAX).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T00:00:00Z.
    const MIDNIGHT: u64 = 1_795_305_600_000;

    #[test]
    fn quiet_hours_are_the_market_s_own_and_may_pass_midnight() {
        let check = |from: &str, until: &str, offset: &str, utc: &str, ends: Option<u64>| {
            let text = format!("from = {from:?}\nuntil = {until:?}\nutc_offset = {offset:?}");
            let quiet: QuietHours = toml::from_str(&text).unwrap();
            let now = UnixMillis(MIDNIGHT + minutes(utc).unwrap() as u64 * 60_000 + 30_000);
            let in_minutes = quiet.end(now).map(|end| end.since_millis(now).div_ceil(60_000));
            assert_eq!(in_minutes, ends, "{text} at {utc}");
        };
        check("23:00", "07:00", "+05:00", "17:59", None);
        check("23:00", "07:00", "+05:00", "18:00", Some(480));
        check("23:00", "07:00", "+05:00", "01:59", Some(1));
        check("23:00", "07:00", "+05:00", "02:00", None);
        check("01:00", "02:30", "-03:30", "05:00", Some(60));
        check("01:00", "02:30", "-03:30", "04:29", None);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["from = \"7:00\"", "from = \"24:00\"", "from = \"07:60\"", "from = \"\"", "from = \"07-00\""]
        {
            let whole = format!("{text}\nuntil = \"08:00\"\nutc_offset = \"+03:00\"");
            assert!(toml::from_str::<QuietHours>(&whole).is_err(), "{text}");
        }
        for offset in ["+15:00", "03:00", "", "é3:00"] {
            let whole = format!("from = \"07:00\"\nuntil = \"08:00\"\nutc_offset = {offset:?}");
            assert!(toml::from_str::<QuietHours>(&whole).is_err(), "{offset}");
        }
    }
}
