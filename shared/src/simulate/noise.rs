//! What goes wrong without a censor, and how long things take: the noise file (TOML). Data, parsed and checked here.

use serde::{Deserialize, Serialize};

use super::chance::Chance;

/// The sample, compiled in: the noise that the goals are measured against.
pub const BUILT_IN: &str = include_str!("../../data/noise/default.toml");

/// Longest mean time between two spells, in hours (a hundred years).
const HOURS_MAX: f64 = 876_600.0;
/// Longest spell, in seconds (30 days).
const SPELL_SECS_MAX: u64 = 30 * 86_400;
/// Longest duration of one step, in ms.
const STEP_MILLIS_MAX: u64 = 600_000;

/// What goes wrong in a market without a censor, what a block looks like, and what takes how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    pub verdict: VerdictNoise,
    /// One agent's line or box is ill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<Spell>,
    /// One carrier does not reach the mirror, for no censor's sake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier_outage: Option<Spell>,
    /// No carrier of the market does, though the control does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market_outage: Option<Spell>,
    /// A carrier's network lets nothing foreign through: whitelist mode, shutdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restriction: Option<Spell>,
    pub control: ControlNoise,
    pub probe: ProbeTimes,
    pub road: RoadTimes,
    pub block: BlockShape,
}

/// What single verdicts get wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictNoise {
    /// Part of visits judged `blocked` where nothing blocks.
    pub false_blocked: f64,
}

/// Something that comes at random and stays for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spell {
    /// Mean time from the end of one to the beginning of the next, in hours.
    pub every_hours: f64,
    pub secs: u64,
    /// Part of the visits judged `blocked` meanwhile.
    pub blocked: f64,
}

/// The control's own faults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlNoise {
    /// Part of its visits that fail.
    pub fails: f64,
    /// All of them fail; `blocked` stands for the part that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Spell>,
}

/// What visits cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeTimes {
    pub ok_millis: Spread,
    pub blocked_millis: Spread,
    /// Handshakes that show the mirror's name in a visit that works.
    pub ok_handshakes: u32,
    /// And in one that does not.
    pub blocked_handshakes: u32,
}

/// What the way to the collector and back costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoadTimes {
    /// From a visit's end to its record's admission.
    pub record_millis: Spread,
    /// From a wish to the visit's beginning.
    pub wish_millis: Spread,
}

/// What a visit meets where a mirror is blocked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockShape {
    /// Part of the visits judged `blocked`, where the block is whole.
    pub whole: f64,
    /// The same, where it is partial.
    pub partial: f64,
}

/// A distribution by its least, its median, its 95th percentile and its most; straight lines between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "[u64; 4]")]
pub struct Spread {
    pub least: u64,
    pub median: u64,
    pub p95: u64,
    pub most: u64,
}

// Not of an array: a TOML row longer than that would pass, its end unread.
impl TryFrom<Vec<u64>> for Spread {
    type Error = String;
    fn try_from(row: Vec<u64>) -> Result<Self, String> {
        match row[..] {
            [least, median, p95, most] => Ok(Self { least, median, p95, most }),
            _ => Err(format!("{} numbers; a spread has four: [least, median, p95, most]", row.len())),
        }
    }
}

impl From<Spread> for [u64; 4] {
    fn from(spread: Spread) -> Self {
        [spread.least, spread.median, spread.p95, spread.most]
    }
}

impl Spread {
    /// One draw.
    pub fn draw(&self, chance: &mut Chance) -> u64 {
        let at = chance.unit();
        let line = |from: u64, to: u64, part: f64| from + libm::round((to - from) as f64 * part) as u64;
        if at < 0.5 {
            line(self.least, self.median, at / 0.5)
        } else if at < 0.95 {
            line(self.median, self.p95, (at - 0.5) / 0.45)
        } else {
            line(self.p95, self.most, (at - 0.95) / 0.05)
        }
    }
}

/// Why a text is no noise file.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    #[error("the noise cannot be read: {}", .0.to_string().trim_end().replace('\n', " "))]
    Toml(Box<toml::de::Error>),
    #[error("{}", .0.join("; "))]
    OutOfRange(Vec<String>),
}

impl Noise {
    /// Parses and checks a noise file; all faults are told at once.
    pub fn parse(text: &str) -> Result<Self, NoiseError> {
        let noise: Self = toml::from_str(text).map_err(|error| NoiseError::Toml(Box::new(error)))?;
        let mut faults = Vec::new();
        noise.check_shares(&mut faults);
        noise.check_spells(&mut faults);
        noise.check_times(&mut faults);
        if faults.is_empty() { Ok(noise) } else { Err(NoiseError::OutOfRange(faults)) }
    }

    /// The sample.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in noise is tested")
    }

    /// The noise as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("noise is tables of numbers")
    }

    fn check_shares(&self, faults: &mut Vec<String>) {
        let shares = [
            ("verdict.false_blocked", self.verdict.false_blocked),
            ("control.fails", self.control.fails),
            ("block.whole", self.block.whole),
            ("block.partial", self.block.partial),
        ];
        for (key, share) in shares.into_iter().chain(self.spells().map(|(key, spell)| (key, spell.blocked))) {
            if !(0.0..=1.0).contains(&share) {
                faults.push(format!("the share in {key} is {share}; it must be from 0 to 1"));
            }
        }
    }

    fn check_spells(&self, faults: &mut Vec<String>) {
        for (key, spell) in self.spells() {
            if !(spell.every_hours > 0.0 && spell.every_hours <= HOURS_MAX) {
                let rule = format!("it must be above 0 and at most {HOURS_MAX}");
                faults.push(format!("{key}.every_hours is {}; {rule}", spell.every_hours));
            }
            if !(1..=SPELL_SECS_MAX).contains(&spell.secs) {
                faults.push(format!("{key}.secs is {}; it must be from 1 to {SPELL_SECS_MAX}", spell.secs));
            }
        }
    }

    fn check_times(&self, faults: &mut Vec<String>) {
        for (key, spread) in [
            ("probe.ok_millis", &self.probe.ok_millis),
            ("probe.blocked_millis", &self.probe.blocked_millis),
            ("road.record_millis", &self.road.record_millis),
            ("road.wish_millis", &self.road.wish_millis),
        ] {
            let rising = [spread.least, spread.median, spread.p95, spread.most].is_sorted();
            if !rising || spread.most > STEP_MILLIS_MAX {
                let rule =
                    format!("it must be [least, median, p95, most], rising, at most {STEP_MILLIS_MAX}");
                faults.push(format!("{key} is {:?}; {rule}", <[u64; 4]>::from(*spread)));
            }
        }
        for (key, count) in [
            ("probe.ok_handshakes", self.probe.ok_handshakes),
            ("probe.blocked_handshakes", self.probe.blocked_handshakes),
        ] {
            if !(1..=3).contains(&count) {
                faults.push(format!("{key} is {count}; it must be from 1 to 3"));
            }
        }
    }

    fn spells(&self) -> impl Iterator<Item = (&'static str, &Spell)> {
        [
            ("burst", &self.burst),
            ("carrier_outage", &self.carrier_outage),
            ("market_outage", &self.market_outage),
            ("restriction", &self.restriction),
            ("control.outage", &self.control.outage),
        ]
        .into_iter()
        .filter_map(|(key, spell)| Some((key, spell.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_holds_and_comes_back_from_its_own_text() {
        let noise = Noise::built_in();
        assert_eq!(noise.verdict.false_blocked, 0.02);
        assert_eq!(Noise::parse(&noise.to_toml()).unwrap(), noise);
    }

    #[test]
    fn what_cannot_be_is_refused_by_key_and_all_at_once() {
        let check = |from: &str, to: &str, part: &str| {
            assert!(BUILT_IN.contains(from), "{from}");
            let error = Noise::parse(&BUILT_IN.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        check("false_blocked = 0.02", "false_blocked = 2", "verdict.false_blocked");
        check("every_hours = 168", "every_hours = 0", "burst.every_hours");
        check("secs = 600", "secs = 0", "burst.secs");
        check("ok_handshakes = 1", "ok_handshakes = 9", "probe.ok_handshakes");
        check("ok_millis = [", "ok_millis = [200, ", "a spread has four");
        check("ok_millis = [300, ", "ok_millis = [30_000, ", "probe.ok_millis");
        check("[burst]", "[bursts]", "bursts");
        let text = BUILT_IN.replace("every_hours = 168", "every_hours = 0").replace("whole = ", "whole = 7");
        let NoiseError::OutOfRange(faults) = Noise::parse(&text).unwrap_err() else { panic!() };
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_spread_keeps_its_percentiles() {
        let spread = Spread { least: 100, median: 200, p95: 1_000, most: 5_000 };
        let mut chance = Chance::new(3, 0, 0);
        let mut draws: Vec<u64> = (0..20_000).map(|_| spread.draw(&mut chance)).collect();
        draws.sort_unstable();
        assert!(draws[0] >= 100 && draws[19_999] <= 5_000);
        assert!((190..=210).contains(&draws[10_000]), "{}", draws[10_000]);
        assert!((950..=1_100).contains(&draws[19_000]), "{}", draws[19_000]);
    }
}
