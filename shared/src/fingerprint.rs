//! What known blocking looks like: stub hosts, stub addresses, page texts, interception authorities. Data; matching
//! only: what a match means is the rules' business.

use std::net::IpAddr;

use serde::Deserialize;

use crate::record::{Certificate, HttpExchange};
use crate::target::{Sha256, TargetUrl};

/// The fingerprints compiled in; `[data] fingerprints` of the collector overrides them.
pub const BUILT_IN: &str = include_str!("../data/fingerprints.toml");

/// Why a text is no set of fingerprints.
#[derive(Debug, thiserror::Error)]
#[error("the fingerprints cannot be read")]
pub struct FingerprintError(#[source] Box<toml::de::Error>);

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
}

impl Fingerprints {
    /// Parses a set.
    pub fn parse(text: &str) -> Result<Self, FingerprintError> {
        toml::from_str(text).map_err(|error| FingerprintError(Box::new(error)))
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

    /// Whether an address is where carriers send blocked names.
    pub fn is_stub_address(&self, address: IpAddr) -> bool {
        self.stub.addresses.contains(&crate::address::unwrap_embedded(address))
    }

    /// The stub a URL leads to.
    pub fn stub_url(&self, url: &TargetUrl) -> Option<&str> {
        matching_url(&self.stub.urls, url)
    }

    /// The carrier's captive page a URL leads to: no block.
    pub fn captive_url(&self, url: &TargetUrl) -> Option<&str> {
        matching_url(&self.captive.urls, url)
    }

    /// The stub text that stands in a page's beginning.
    pub fn stub_body(&self, exchange: &HttpExchange) -> Option<&str> {
        self.stub.body.iter().find(|text| exchange.excerpt.contains(text.as_str())).map(String::as_str)
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
mod tests {
    use super::*;
    use crate::words::UnixMillis;

    #[test]
    fn stub_urls_match_by_host_and_path_and_nothing_else() {
        let set = Fingerprints::built_in();
        let check = |url: &str, stub: bool| {
            assert_eq!(set.stub_url(&TargetUrl::parse(url).unwrap()).is_some(), stub, "{url}");
        };
        check("http://warning.rt.ru/?id=5", true);
        check("http://a.warning.rt.ru/", true);
        check("http://notwarning.rt.ru/", false);
        check("http://warning.rt.ru.example/", false);
        check("http://ufanet.ru/blocking.html?x", true);
        check("http://ufanet.ru/", false);
        check("http://unblock.mts.ru/", false);
        assert!(set.captive_url(&TargetUrl::parse("http://unblock.mts.ru/pay").unwrap()).is_some());
    }

    #[test]
    fn state_authorities_are_known_by_name_or_digest() {
        let set = Fingerprints::built_in();
        let certificate = |issuer: &str, sha256| Certificate {
            sha256,
            spki_sha256: Sha256::default(),
            subject: "CN=mirror.example".into(),
            issuer: issuer.into(),
            not_before: UnixMillis(0),
            not_after: UnixMillis(0),
            der: vec![],
        };
        let known =
            Sha256::from_hex("00309c736dd661da6f1eb24173aa849944c168a43a15bffd192eecfdb6f8dbd2").unwrap();
        let check = |issuer: &str, sha256, found: bool| {
            assert_eq!(set.state_ca(&[certificate(issuer, sha256)]).is_some(), found, "{issuer}");
        };
        check("C=KZ, O=ISCA, CN=Information Security Certification Authority", Sha256::default(), true);
        check("C=KZ,CN=Qaznet Trust Network", Sha256::default(), true);
        check("C=KZ, CN=Security Certificate", Sha256::default(), true);
        check("C=US, CN=Security Certificate", Sha256::default(), false);
        check("C=US, O=Let's Encrypt, CN=R11", Sha256::default(), false);
        check("CN=unknown", known, true);
        assert_eq!(
            set.host_interceptor(&[certificate("O=AO Kaspersky Lab", Sha256::default())]),
            Some("Kaspersky")
        );
    }
}
