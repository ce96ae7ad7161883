//! Rows of a public fingerprint list, as the operator imported them: where to look, what for, and what a match weighs.
//!
//! The weight is one table, [`Row::weight`]; what follows from a match is the rules' business. Reads no file.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Weight;
use super::expression::Expression;
use crate::words::Country;

/// Most rows in a set: ten times the public lists.
pub const ROWS_MAX: usize = 20_000;
/// Longest pattern, in bytes: the longest of the public lists has 831.
pub const PATTERN_LEN_MAX: usize = 4_096;
/// Rows the list's own authors trust less (of 0 to 10) confirm nothing; 5 is what they give where nobody looked closer.
pub const CONFIDENCE_MIN: u8 = 5;
/// Characters of a pattern shown.
const PATTERN_SHOWN_MAX: usize = 80;

/// A row as files hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowText {
    pub name: String,
    /// `nat`, `isp`, `prod`, `inst`, `vbw`, `fp`; other words raise suspicion only.
    pub scope: String,
    /// `body`, `header.NAME` or `dns`.
    pub location: String,
    /// `full`, `prefix`, `contains` or `regexp`.
    pub pattern_type: String,
    pub pattern: String,
    /// The list's own confidence that this is no false positive, 0 to 10.
    pub confidence: u8,
    #[serde(default)]
    pub countries: Vec<Country>,
    /// The operator lets this row confirm in any country, though it names none.
    #[serde(default)]
    pub anywhere: bool,
    #[serde(default)]
    pub source: String,
}

/// Why a row cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("the name is missing")]
    Name,
    #[error("the pattern is missing; it would match everything")]
    NoPattern,
    #[error("characters of the pattern are lost (U+FFFD): it would match any page of another character set")]
    LostCharacters,
    #[error("the pattern has {len} bytes; the limit is {PATTERN_LEN_MAX}")]
    LongPattern { len: usize },
    #[error("{0:?} is no pattern type: expected full, prefix, contains or regexp")]
    PatternType(String),
    #[error("the regular expression is refused: {0}")]
    Regexp(String),
    #[error("{0:?} is no place to look: expected body, dns or header.NAME")]
    Location(String),
    #[error("{0:?} is no confidence: expected 0 to 10")]
    Confidence(String),
    #[error("{0:?} is no country: expected two letters such as KZ")]
    Country(String),
}

/// Who blocks with what the row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A whole country.
    National,
    /// One carrier.
    Isp,
    /// A filtering product.
    Product,
    /// A school, an office: the agent's host, never the carrier.
    Institution,
    /// A text that blocked pages have, and others too.
    Vague,
    /// Known not to be a block.
    FalsePositive,
    /// A word this version does not know.
    Unknown,
}

impl Scope {
    fn parse(word: &str) -> Self {
        match word {
            "nat" => Self::National,
            "isp" => Self::Isp,
            "prod" => Self::Product,
            "inst" => Self::Institution,
            "vbw" => Self::Vague,
            "fp" => Self::FalsePositive,
            _ => Self::Unknown,
        }
    }

    /// Whether a row of this scope may confirm without naming a country, where the operator asks for it.
    pub fn may_confirm_anywhere(self) -> bool {
        matches!(self, Self::National | Self::Isp | Self::Product)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    Body,
    /// Lower-case name.
    Header(String),
    Dns,
}

#[derive(Debug, Clone)]
enum Pattern {
    Full,
    Prefix,
    Contains,
    Regexp(Expression),
}

/// A checked row, its pattern compiled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RowText", into = "RowText")]
pub struct Row {
    text: RowText,
    scope: Scope,
    pub(super) location: Location,
    pattern: Pattern,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        // All else follows from the text.
        self.text == other.text
    }
}

impl Eq for Row {}

impl Row {
    /// Checks and compiles.
    pub fn new(text: RowText) -> Result<Self, RowError> {
        if text.name.is_empty() {
            return Err(RowError::Name);
        }
        if text.pattern.is_empty() {
            return Err(RowError::NoPattern);
        }
        if text.pattern.contains('\u{fffd}') {
            return Err(RowError::LostCharacters);
        }
        if text.pattern.len() > PATTERN_LEN_MAX {
            return Err(RowError::LongPattern { len: text.pattern.len() });
        }
        if text.confidence > 10 {
            return Err(RowError::Confidence(text.confidence.to_string()));
        }
        let location = match text.location.as_str() {
            "body" => Location::Body,
            "dns" => Location::Dns,
            other => match other.strip_prefix("header.") {
                Some(name) if !name.is_empty() => Location::Header(name.to_ascii_lowercase()),
                _ => return Err(RowError::Location(text.location)),
            },
        };
        let pattern = match text.pattern_type.as_str() {
            "full" => Pattern::Full,
            "prefix" => Pattern::Prefix,
            "contains" => Pattern::Contains,
            "regexp" => Pattern::Regexp(Expression::compile(&text.pattern)?),
            _ => return Err(RowError::PatternType(text.pattern_type)),
        };
        Ok(Self { scope: Scope::parse(&text.scope), text, location, pattern })
    }

    /// The row's name on its list.
    pub fn name(&self) -> &str {
        &self.text.name
    }

    /// Who blocks so.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The countries it is expected in.
    pub fn countries(&self) -> &[Country] {
        &self.text.countries
    }

    /// Whether it speaks of DNS answers, rather than of HTTP ones.
    pub fn is_dns(&self) -> bool {
        self.location == Location::Dns
    }

    /// What a match weighs where the probe stands, and why. False positives suppress everywhere. Only a whole country's,
    /// a carrier's or a product's row confirms, and only in a country it names: the public lists are full of pages that
    /// are blocks in one country and ordinary in the next, and matching on scope alone has confirmed falsely.
    pub fn weight(&self, country: Option<Country>) -> (Weight, &'static str) {
        match self.scope {
            Scope::FalsePositive => return (Weight::Suppressed, "known not to be a block"),
            Scope::Vague => return (Weight::Suspicion, "vague: other pages say so too"),
            Scope::Institution => {
                return (Weight::Suspicion, "a school's or an office's filter, not a carrier's");
            }
            Scope::Unknown => return (Weight::Suspicion, "of a scope this version does not know"),
            Scope::National | Scope::Isp | Scope::Product => {}
        }
        if self.text.confidence < CONFIDENCE_MIN {
            return (Weight::Suspicion, "its authors trust it little");
        }
        match country {
            _ if self.text.countries.is_empty() && self.text.anywhere => {
                (Weight::Confirms, "names no country; the operator lets it confirm anywhere")
            }
            _ if self.text.countries.is_empty() => (Weight::Suspicion, "names no country"),
            None => (Weight::Suspicion, "where the probe stands is not known"),
            Some(country) if self.text.countries.contains(&country) => {
                (Weight::Confirms, "expected in this country")
            }
            Some(_) => (Weight::Suspicion, "expected in other countries"),
        }
    }

    pub(super) fn matches_text(&self, seen: &str) -> bool {
        let pattern = self.text.pattern.as_str();
        match &self.pattern {
            Pattern::Full => seen == pattern,
            Pattern::Prefix => seen.starts_with(pattern),
            Pattern::Contains => seen.contains(pattern),
            Pattern::Regexp(regexp) => regexp.is_match(seen),
        }
    }

    pub(super) fn matches_address(&self, address: IpAddr) -> bool {
        // Two spellings of one address are the same address.
        matches!(self.pattern, Pattern::Full) && self.text.pattern.parse() == Ok(address)
            || self.matches_text(&address.to_string())
    }

    /// The row in words: pattern, place, scope, countries, source.
    pub fn describe(&self) -> String {
        let RowText { scope, location, pattern_type, pattern, countries, source, .. } = &self.text;
        let countries = match countries.as_slice() {
            [] => "no country".to_owned(),
            countries => countries.iter().map(Country::to_string).collect::<Vec<_>>().join(","),
        };
        let mut shown: String = pattern.chars().take(PATTERN_SHOWN_MAX).collect();
        if shown.len() < pattern.len() {
            shown.push('…');
        }
        format!(
            "{location} {pattern_type} {shown:?}, scope {scope}, {countries}, source {}",
            if source.is_empty() { "unstated" } else { source }
        )
    }
}

impl TryFrom<RowText> for Row {
    type Error = RowError;
    fn try_from(text: RowText) -> Result<Self, RowError> {
        Self::new(text)
    }
}

impl From<Row> for RowText {
    fn from(row: Row) -> Self {
        row.text
    }
}
