//! What a record is worth when the spool is full. Pure: time is an argument. That a mirror still works is what is missed
//! least; how it failed, and what was seen shortly after, is what all of it is for.

use std::collections::BTreeMap;
use std::time::Duration;

use zerkalo_core::gap::Shape;
use zerkalo_core::words::MirrorId;

/// How long a mirror must have gone without a failed visit to be calm: an evening's block comes and goes.
const CALM_AFTER: Duration = Duration::from_secs(60 * 60);

/// The worth of a kept statement, the least first; its number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// A visit that went through, of a mirror that has been well for a while.
    Calm = 1,
    /// Another visit that went through.
    Ok = 2,
    /// A picture alone.
    Picture = 3,
    /// Kept by an older version of this program.
    Unknown = 4,
    Failed = 5,
    /// Stands for others and is never given up.
    Gap = 6,
}

impl Worth {
    /// What may be given up, the least first.
    pub const TIERS: [Self; 5] = [Self::Calm, Self::Ok, Self::Picture, Self::Unknown, Self::Failed];

    /// Of a stored number.
    pub fn of_byte(byte: u8) -> Option<Self> {
        Self::TIERS.into_iter().chain([Self::Gap]).find(|worth| *worth as u8 == byte)
    }

    /// What a gap says of such a record.
    pub fn shape(self) -> Shape {
        match self {
            Self::Calm | Self::Ok => Shape::Ok,
            Self::Picture => Shape::Picture,
            Self::Failed => Shape::Failed,
            Self::Unknown | Self::Gap => Shape::Unknown,
        }
    }
}

/// Which mirrors are calm; instants are time since the agent's start. Lost at a restart: then nothing is for an hour.
#[derive(Debug, Default)]
pub struct Calm {
    /// When each mirror last failed, or was first heard of.
    stirred: BTreeMap<MirrorId, Duration>,
}

impl Calm {
    /// Notes a visit and tells what its record is worth.
    pub fn note(&mut self, mirror: &MirrorId, is_reached: bool, now: Duration) -> Worth {
        if !is_reached {
            self.stirred.insert(mirror.clone(), now);
            return Worth::Failed;
        }
        let stirred = self.stirred.entry(mirror.clone()).or_insert(now);
        if now.saturating_sub(*stirred) >= CALM_AFTER { Worth::Calm } else { Worth::Ok }
    }

    /// Forgets the mirrors that are on no list.
    pub fn retain(&mut self, stays: impl Fn(&MirrorId) -> bool) {
        self.stirred.retain(|mirror, _| stays(mirror));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_calm_once_it_has_been_well_for_a_while() {
        let mirror = MirrorId::parse("m1").unwrap();
        let mut calm = Calm::default();
        let mut check = |minutes: u64, is_reached: bool, expected: Worth| {
            assert_eq!(calm.note(&mirror, is_reached, Duration::from_secs(minutes * 60)), expected);
        };
        check(0, true, Worth::Ok);
        check(59, true, Worth::Ok);
        check(60, true, Worth::Calm);
        check(61, false, Worth::Failed);
        check(62, true, Worth::Ok);
        check(120, true, Worth::Ok);
        check(121, true, Worth::Calm);
    }

    #[test]
    fn stored_numbers_are_read_back() {
        for worth in Worth::TIERS.into_iter().chain([Worth::Gap]) {
            assert_eq!(Worth::of_byte(worth as u8), Some(worth));
        }
        assert_eq!((Worth::of_byte(0), Worth::of_byte(99)), (None, None));
    }
}
