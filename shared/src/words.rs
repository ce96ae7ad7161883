//! The words every other file speaks: identities, markets, access kinds, instants.
//!
//! Parsed once at the edge into types that cannot hold nonsense. No clock is read here: an instant is an argument.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest identifier, in bytes: fits a DNS label, a metric label and a file name.
pub const IDENTIFIER_LEN_MAX: usize = 63;

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// The text has characters, a length or a first letter that identifiers do not have.
    #[error(
        "{kind} {text:?} is not an identifier: 1 to {IDENTIFIER_LEN_MAX} of a-z, 0-9, '-', '.', '_', starting with a letter or digit"
    )]
    Identifier { kind: &'static str, text: String },
    /// The text is none of the words known.
    #[error("{text:?} is no {kind}: expected {expected}")]
    Unknown { kind: &'static str, text: String, expected: &'static str },
}

fn is_identifier(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= IDENTIFIER_LEN_MAX
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_'))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses; fails with [`WordError::Identifier`].
            pub fn parse(text: &str) -> Result<Self, WordError> {
                if is_identifier(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(WordError::Identifier { kind: $kind, text: text.chars().take(80).collect() })
                }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = WordError;
            fn try_from(text: String) -> Result<Self, WordError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.0
            }
        }
    };
}

identifier!(
    /// One box; the collector chooses the name when it enrols.
    AgentId,
    "agent"
);
identifier!(
    /// The person who hosts boxes: one vote in a cell, however many boxes.
    OwnerId,
    "owner"
);
identifier!(
    /// A carrier of the catalogue, such as `kz-kcell`.
    CarrierId,
    "carrier"
);
identifier!(
    /// A country with its own pool and policy: `ru`, `kz`.
    MarketId,
    "market"
);
identifier!(
    /// One URL of the operator.
    MirrorId,
    "mirror"
);

/// A country by its two letters (ISO 3166-1), in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

impl Country {
    /// Parses two letters of either case; `ZZ`, which lists write for "nobody knows", is no country.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        match *text.trim().to_ascii_uppercase().as_bytes() {
            [a @ b'A'..=b'Z', b @ b'A'..=b'Z'] if [a, b] != *b"ZZ" => Ok(Self([a, b])),
            _ => Err(WordError::Unknown {
                kind: "country",
                text: text.chars().take(80).collect(),
                expected: "two letters such as KZ",
            }),
        }
    }

    /// The country of a market: markets are named after theirs. `None` for one that is not.
    pub fn of_market(market: &MarketId) -> Option<Self> {
        Self::parse(market.as_str()).ok()
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl FromStr for Country {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Country {
    type Error = WordError;
    fn try_from(text: String) -> Result<Self, WordError> {
        Self::parse(&text)
    }
}

impl From<Country> for String {
    fn from(country: Country) -> String {
        country.to_string()
    }
}

/// How a box reaches its carrier. Declared by the host: it cannot be read off an ASN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Fixed,
    Mobile,
}

impl Access {
    /// The word on the wire, in files and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Fixed => "fixed",
            Access::Mobile => "mobile",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Access {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "fixed" => Ok(Access::Fixed),
            "mobile" => Ok(Access::Mobile),
            _ => Err(WordError::Unknown {
                kind: "access",
                text: text.to_owned(),
                expected: "\"fixed\" or \"mobile\"",
            }),
        }
    }
}

/// A keyed digest of the neighbourhood (/24 or /48) a box's stream comes from: boxes of one are told apart from others,
/// and nobody without the collector's key learns where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vicinity(pub [u8; 8]);

/// Where an agent stands: in a carrier's network, or outside any censored one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Station {
    /// In a consumer network.
    Field { carrier: CarrierId, access: Access },
    /// Outside any censored network: the comparison every "blocked" needs.
    Control,
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The instant `millis` later, saturating at the end of time.
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The instant `secs` later, saturating at the end of time.
    pub fn plus_secs(self, secs: u64) -> Self {
        self.plus_millis(secs.saturating_mul(1000))
    }

    /// The instant `millis` earlier, saturating at 1970.
    pub fn minus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }

    /// Milliseconds from `earlier` to `self`; 0 if `earlier` is later.
    pub fn since_millis(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, such as `2026-11-21T09:30:00.250Z`.
    pub fn to_rfc3339(self) -> String {
        let (days, millis_of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let secs = millis_of_day / 1000;
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            secs / 3600,
            secs / 60 % 60,
            secs % 60,
            millis_of_day % 1000
        )
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// Days from 1970 to a proleptic Gregorian date; `None` for no date, or one before 1970 (same source as below).
pub(crate) fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Proleptic Gregorian date of a day count since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_print_as_rfc_3339() {
        let check = |millis, text| assert_eq!(UnixMillis(millis).to_rfc3339(), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_763_717_400_250, "2025-11-21T09:30:00.250Z");
        check(4_102_444_799_999, "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn dates_are_counted_both_ways() {
        for days in (0..60_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), Some(days), "{year}-{month}-{day}");
        }
        assert_eq!(days_from_civil(1969, 12, 31), None);
        assert_eq!(days_from_civil(2020, 13, 1), None);
    }

    #[test]
    fn identifiers_refuse_what_a_path_or_a_label_could_not_hold() {
        let check = |text: &str, ok| assert_eq!(CarrierId::parse(text).is_ok(), ok, "{text:?}");
        check("kz-kcell", true);
        check("a", true);
        check("", false);
        check("-kz", false);
        check("../etc", false);
        check("KZ", false);
        check(&"a".repeat(64), false);
    }
}
