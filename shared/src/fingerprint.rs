//! What known blocking looks like: stub hosts, stub addresses, page texts, interception authorities, and rows imported
//! from public lists. Data; matching only: what a match means is the rules' business.

mod expression;
mod imported;

use std::net::IpAddr;

use serde::Deserialize;

pub use imported::{CONFIDENCE_MIN, PATTERN_LEN_MAX, ROWS_MAX, Row, RowError, RowText, Scope};

use crate::record::Certificate;
use crate::target::{Sha256, TargetUrl};
use crate::words::Country;

/// The fingerprints compiled in; `[data] fingerprints` of the collector overrides them.
pub const BUILT_IN: &str = include_str!("../data/fingerprints.toml");

/// Why a text is no set of fingerprints.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    #[error("the fingerprints cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    #[error("the fingerprints hold {count} imported rows; the limit is {ROWS_MAX}: import fewer countries")]
    Rows { count: usize },
}

/// Something a probe saw that may be a fingerprint.
#[derive(Debug, Clone, Copy)]
pub enum Sighting<'a> {
    /// In a DNS answer.
    Address(IpAddr),
    /// Asked, or led to.
    Url(&'a TargetUrl),
    Header {
        /// In any case.
        name: &'a str,
        value: &'a str,
    },
    /// A page, from its beginning.
    Body(&'a str),
}

/// What a match weighs. The order is that of strength: the strongest speaks for a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// A known non-block: no fingerprint may confirm on this sighting.
    Suppressed,
    /// A block, without more.
    Confirms,
    /// A hint for people; never a block by itself.
    Suspicion,
}

/// A row that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub weight: Weight,
    /// The row's name on its list; `built-in` for what is compiled in.
    pub row: String,
    /// The row in words: pattern, place, scope, countries, source.
    pub what: String,
    /// Why it weighs what it weighs.
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateCa {
    country: String,
    /// Parts that all stand in one distinguished name.
    name_has: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stub {
    urls: Vec<String>,
    addresses: Vec<IpAddr>,
    body: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Captive {
    urls: Vec<String>,
    /// Those that want a bill paid.
    #[serde(default)]
    unpaid: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostInterceptor {
    issuer_has: Vec<String>,
}

/// A set of fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprints {
    state_ca: Vec<StateCa>,
    state_ca_sha256: std::collections::BTreeMap<String, Vec<Sha256>>,
    stub: Stub,
    captive: Captive,
    host_interceptor: HostInterceptor,
    /// Rows of public lists.
    #[serde(default)]
    imported: Vec<Row>,
}

impl Fingerprints {
    /// Parses a set.
    pub fn parse(text: &str) -> Result<Self, FingerprintError> {
        let set: Self = toml::from_str(text).map_err(|error| FingerprintError::Toml(Box::new(error)))?;
        match set.imported.len() {
            count if count > ROWS_MAX => Err(FingerprintError::Rows { count }),
            _ => Ok(set),
        }
    }

    /// The set compiled in.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in fingerprints are tested")
    }

    /// What in a chain is a state's interception authority, in words: by name first, then by digest.
    pub fn state_ca(&self, chain: &[Certificate]) -> Option<String> {
        let named = chain.iter().find_map(|certificate| {
            self.state_ca.iter().find_map(|ca| {
                [&certificate.issuer, &certificate.subject]
                    .into_iter()
                    .find(|name| ca.name_has.iter().all(|part| squeezed(name).contains(&squeezed(part))))
                    .map(|name| format!("{name:?} is a state authority of {}", ca.country))
            })
        });
        named.or_else(|| {
            chain.iter().find_map(|certificate| {
                self.state_ca_sha256
                    .iter()
                    .find(|(_, digests)| digests.contains(&certificate.sha256))
                    .map(|(country, _)| format!("{} is a state authority of {country}", certificate.sha256))
            })
        })
    }

    /// The interceptor on the agent's own host that issued a chain.
    pub fn host_interceptor(&self, chain: &[Certificate]) -> Option<&str> {
        let parts = &self.host_interceptor.issuer_has;
        parts
            .iter()
            .find(|part| chain.iter().any(|certificate| certificate.issuer.contains(part.as_str())))
            .map(String::as_str)
    }

    /// Rows of public lists, in the file's order.
    pub fn imported(&self) -> &[Row] {
        &self.imported
    }

    /// The strongest match of a sighting: the one that speaks for it.
    pub fn weigh(&self, seen: Sighting<'_>, country: Option<Country>) -> Option<Match> {
        self.matches(seen, country).into_iter().next()
    }

    /// Every match of a sighting by a probe in that country, the strongest first.
    pub fn matches(&self, seen: Sighting<'_>, country: Option<Country>) -> Vec<Match> {
        let mut found: Vec<Match> = self.built_in_match(seen).into_iter().collect();
        found.extend(self.imported.iter().filter(|row| is_seen(row, seen)).map(|row| {
            let (weight, reason) = row.weight(country);
            Match { weight, row: row.name().to_owned(), what: row.describe(), reason }
        }));
        found.sort_by_key(|found| found.weight);
        found
    }

    /// What is compiled in confirms wherever the probe stands: each entry is of one carrier or register.
    fn built_in_match(&self, seen: Sighting<'_>) -> Option<Match> {
        let built_in = |weight, what, reason| {
            let row = "built-in".to_owned();
            Some(Match { weight, row, what, reason })
        };
        let stub = "a stub of a carrier or register";
        match seen {
            Sighting::Address(address) => {
                let address = crate::address::unwrap_embedded(address);
                let listed = self.stub.addresses.contains(&address);
                listed.then(|| built_in(Weight::Confirms, format!("dns {address}"), stub)).flatten()
            }
            Sighting::Url(url) => match (self.captive_url(url), matching_url(&self.stub.urls, url)) {
                (Some(page), _) => {
                    built_in(Weight::Suppressed, format!("url {page}"), "a carrier's captive page: no block")
                }
                (None, stub_url) => built_in(Weight::Confirms, format!("url {}", stub_url?), stub),
            },
            Sighting::Header { .. } => None,
            Sighting::Body(text) => {
                let marker = self.stub.body.iter().find(|marker| text.contains(marker.as_str()))?;
                built_in(Weight::Confirms, format!("body contains {marker:?}"), stub)
            }
        }
    }

    /// The carrier's captive page a URL leads to: no block.
    pub fn captive_url(&self, url: &TargetUrl) -> Option<&str> {
        matching_url(&self.captive.urls, url).or_else(|| self.unpaid_url(url))
    }

    /// The carrier's page for who has not paid, where a URL leads to one.
    pub fn unpaid_url(&self, url: &TargetUrl) -> Option<&str> {
        matching_url(&self.captive.unpaid, url)
    }
}

fn is_seen(row: &Row, seen: Sighting<'_>) -> bool {
    use imported::Location;
    match (&row.location, seen) {
        (Location::Dns, Sighting::Address(address)) => {
            row.matches_address(crate::address::unwrap_embedded(address))
        }
        // A visit that led to a URL was sent there.
        (Location::Header(name), Sighting::Url(url)) => name == "location" && row.matches_text(url.as_str()),
        (Location::Header(name), Sighting::Header { name: seen_name, value }) => {
            name.eq_ignore_ascii_case(seen_name) && row.matches_text(value)
        }
        (Location::Body, Sighting::Body(text)) => row.matches_text(text),
        _ => false,
    }
}

/// Distinguished names are printed with and without blanks after commas and around `=`.
fn squeezed(name: &str) -> String {
    name.chars().filter(|c| *c != ' ').collect()
}

fn matching_url<'a>(patterns: &'a [String], url: &TargetUrl) -> Option<&'a str> {
    let host = url.host();
    let matches = |pattern: &&String| {
        let (wanted, path) =
            pattern.split_once('/').map_or((pattern.as_str(), ""), |(host, path)| (host, path));
        let same_host = host == wanted || host.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('.'));
        same_host && url.path_and_query()[1..].starts_with(path)
    };
    patterns.iter().find(matches).map(String::as_str)
}

#[cfg(test)]
pub(crate) mod tests;
