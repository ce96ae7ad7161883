//! What may be measured: the operator's mirrors and reference hosts, in a list the operator signs.
//!
//! Parsed here once; an agent runs nothing that is not on a list with the operator's signature. No network access.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::operator_keys::OperatorKeys;
use crate::words::{MarketId, MirrorId, UnixMillis};

/// Most mirrors in one list: bounds an agent's work and a list's size (about 1 MiB).
pub const LIST_MIRRORS_MAX: usize = 1_000;
/// Longest mirror URL, in bytes.
pub const URL_LEN_MAX: usize = 2_048;
/// Shortest canary, in bytes: shorter texts turn up in pages by chance.
pub const CANARY_LEN_MIN: usize = 8;

/// Longest canary, in bytes: one line of a page is enough.
pub const CANARY_LEN_MAX: usize = 1_024;
/// Most key pins of one mirror: some generations of several keys.
pub const PINS_MAX: usize = 32;
/// Most expected addresses of one mirror: those of a content network seldom are known, and then not one by one.
pub const ADDRESSES_MAX: usize = 64;
/// Longest reason for a stop, in bytes.
pub const STOP_REASON_LEN_MAX: usize = 500;
/// Most reference hosts in one list: an agent visits all of its market's in each round.
pub const LIST_REFERENCES_MAX: usize = 64;

/// Longest life of a list, in seconds: 14 days. What a thief of the collector holds back does not run for ever.
pub const LIST_LIFE_SECS_MAX: u64 = 14 * 86_400;

/// Why a target is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{text:?} is no URL ({cause}); write it whole, such as https://mirror.example/")]
    Url { text: String, cause: String },
    #[error("{text:?} has the scheme {scheme:?}; only https and http can be probed")]
    Scheme { text: String, scheme: String },
    #[error("{text:?} names no host; write it whole, such as https://mirror.example/")]
    NoHost { text: String },
    #[error("{text:?} carries a user name or password; mirrors are public pages, remove it")]
    Credentials { text: String },
    #[error("{text:?} has port 0; ports go from 1 to 65535")]
    Port { text: String },
    #[error("the URL is {len} bytes long; the limit is {URL_LEN_MAX}")]
    TooLong { len: usize },
    #[error("{address} lies in a private or special range ({range}); only public addresses can be probed")]
    SpecialRange { address: IpAddr, range: &'static str },
    #[error(
        "the canary of mirror {mirror} has {len} bytes; at least {CANARY_LEN_MIN} are needed to be unmistakable"
    )]
    Canary { mirror: MirrorId, len: usize },
    #[error(
        "the canary of mirror {mirror} has {len} bytes; the limit is {CANARY_LEN_MAX}, one line is enough"
    )]
    CanaryTooLong { mirror: MirrorId, len: usize },
    #[error("mirror {mirror} has {count} key pins; the limit is {PINS_MAX}")]
    TooManyPins { mirror: MirrorId, count: usize },
    #[error("mirror {mirror} has {count} expected addresses; the limit is {ADDRESSES_MAX}")]
    TooManyAddresses { mirror: MirrorId, count: usize },
    #[error("the list holds {count} reference hosts; the limit is {LIST_REFERENCES_MAX}")]
    TooManyReferences { count: usize },
    #[error("the list holds {count} mirrors; the limit is {LIST_MIRRORS_MAX}")]
    ListTooLong { count: usize },
    #[error("the list ends at {expires_at}, before it was issued at {issued_at}; check the signer's clock")]
    EndsBeforeIssue { issued_at: UnixMillis, expires_at: UnixMillis },
    #[error("the list is good until {expires_at}; {} days after it was issued are the most", LIST_LIFE_SECS_MAX / 86_400)]
    LivesTooLong { expires_at: UnixMillis },
    #[error("mirror {mirror} stands twice in the list")]
    Twice { mirror: MirrorId },
    #[error("the large page of mirror {mirror} is at {host}; it must be at the mirror's own host")]
    LargePageElsewhere { mirror: MirrorId, host: String },
    #[error("{text:?} is no category; write news, human_rights, commerce, culture, communication or other")]
    Category { text: String },
    #[error("{name:?} is no host name for the whoami question")]
    WhoamiName { name: String },
    #[error("the reason for the stop has {len} bytes; from 1 to {STOP_REASON_LEN_MAX} are allowed")]
    StopReason { len: usize },
    #[error("mirror {mirror} is in no market; name at least one, such as ru or kz")]
    NoMarket { mirror: MirrorId },
}

/// An address a probe can be sent to: http or https, with a host, without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetUrl(Url);

impl TargetUrl {
    /// Parses and checks a URL; never resolves it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > URL_LEN_MAX {
            return Err(TargetError::TooLong { len: text.len() });
        }
        let owned = || text.to_owned();
        let url =
            Url::parse(text).map_err(|cause| TargetError::Url { text: owned(), cause: cause.to_string() })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::Scheme { text: owned(), scheme: url.scheme().to_owned() });
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(TargetError::NoHost { text: owned() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials { text: owned() });
        }
        if url.port() == Some(0) {
            return Err(TargetError::Port { text: owned() });
        }
        Ok(Self(url))
    }

    /// Refuses a URL whose host is written as an address of a private or special range.
    pub fn require_public(&self) -> Result<(), TargetError> {
        match self.literal_address() {
            Some(address) => crate::address::require_public(address)
                .map_err(|range| TargetError::SpecialRange { address, range }),
            None => Ok(()),
        }
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Host name in ASCII (internationalised names as `xn--`), or the address without brackets.
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        }
    }

    /// The address, where the host is written as one.
    pub fn literal_address(&self) -> Option<IpAddr> {
        match self.0.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        }
    }

    /// The port written, or the scheme's own.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// Whether TLS comes before HTTP.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Path and query, as HTTP sends it.
    pub fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }

    /// Host and port as the `Host` header writes them.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The target of a `Location` header met at this URL.
    pub fn join(&self, location: &str) -> Result<Self, TargetError> {
        let joined = self
            .0
            .join(location)
            .map_err(|cause| TargetError::Url { text: location.to_owned(), cause: cause.to_string() })?;
        Self::parse(joined.as_str())
    }
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for TargetUrl {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        Self::parse(&text)
    }
}

impl From<TargetUrl> for String {
    fn from(url: TargetUrl) -> String {
        url.0.into()
    }
}

/// SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Parses 64 hexadecimal digits, colons allowed between.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).ok().map(|()| Self(bytes))
    }
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// One URL of the operator, with what identifies it exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub id: MirrorId,
    pub url: TargetUrl,
    /// The markets it serves.
    pub markets: Vec<MarketId>,
    /// A text only the real page holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// SHA-256 of the subject public key infos the site may show (RFC 7469); empty: any key a public CA vouches for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_pins: Vec<Sha256>,
    /// Addresses the operator knows the mirror under; empty: not stated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_addresses: Vec<IpAddr>,
    /// A page of at least 64 KiB at the mirror's own host, read to find freezes and throttling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_page: Option<TargetUrl>,
    /// Whether it waits in its markets' pools to take another's place.
    #[serde(default, skip_serializing_if = "is_false")]
    pub standby: bool,
    /// What it is; hosts of agents say which categories they agree to. Absent: [`Category::Other`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
}

/// What kind of site a mirror is: what the host of an agent agrees to, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Newspapers, broadcasters, blogs of journalists.
    News,
    /// Human-rights groups, legal aid, election observers.
    HumanRights,
    /// Shops and paid services.
    Commerce,
    /// Libraries, education, arts, religion.
    Culture,
    /// Forums, messengers, circumvention tools.
    Communication,
    /// Whatever else is lawful where the operator is.
    Other,
}

impl Category {
    pub const ALL: [Self; 6] =
        [Self::News, Self::HumanRights, Self::Commerce, Self::Culture, Self::Communication, Self::Other];

    /// The word in lists and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::News => "news",
            Self::HumanRights => "human_rights",
            Self::Commerce => "commerce",
            Self::Culture => "culture",
            Self::Communication => "communication",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for Category {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Category {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let known = Self::ALL.into_iter().find(|category| category.as_str() == text);
        known.ok_or_else(|| TargetError::Category { text: text.to_owned() })
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Mirror {
    fn validate(&self) -> Result<(), TargetError> {
        let mirror = || self.id.clone();
        if self.markets.is_empty() {
            return Err(TargetError::NoMarket { mirror: mirror() });
        }
        match self.canary.as_ref().map(String::len) {
            Some(len) if len < CANARY_LEN_MIN => return Err(TargetError::Canary { mirror: mirror(), len }),
            Some(len) if len > CANARY_LEN_MAX => {
                return Err(TargetError::CanaryTooLong { mirror: mirror(), len });
            }
            _ => {}
        }
        if self.key_pins.len() > PINS_MAX {
            return Err(TargetError::TooManyPins { mirror: mirror(), count: self.key_pins.len() });
        }
        let count = self.expected_addresses.len();
        if count > ADDRESSES_MAX {
            return Err(TargetError::TooManyAddresses { mirror: mirror(), count });
        }
        match &self.large_page {
            Some(page) if page.host() != self.url.host() => {
                Err(TargetError::LargePageElsewhere { mirror: mirror(), host: page.host() })
            }
            _ => Ok(()),
        }
    }
}

/// On which side of the border a reference host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceSide {
    /// In the market's own country: reachable even in whitelist mode.
    Domestic,
    /// Abroad and of no interest to a censor.
    Foreign,
}

/// A host of the operator's choice that tells the state of the agent's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    pub market: MarketId,
    pub side: ReferenceSide,
    pub url: TargetUrl,
}

/// Everything agents may touch. Versions only rise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorList {
    pub version: u64,
    pub issued_at: UnixMillis,
    /// From then on nothing on it is run. Lists of older signers have none: theirs is counted from when they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMillis>,
    /// The keys that sign lists from the next one on; absent: those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<OperatorKeys>,
    pub mirrors: Vec<Mirror>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Tools::is_empty")]
    pub tools: Tools,
    /// Why agents are to touch nothing at all, until a newer list says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// What the operator runs so that agents can compare. Nothing here is needed; each makes verdicts finer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// A TLS server at an address no censor looks for, which answers any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_address: Option<SocketAddr>,
    /// An object of about 128 KiB at a host of no interest to a censor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_object: Option<TargetUrl>,
    /// A name whose authoritative server answers TXT, A or AAAA with the address that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whoami_name: Option<String>,
}

impl Tools {
    /// Whether the operator runs none of them.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what the types alone cannot.
    pub fn validate(&self) -> Result<(), TargetError> {
        match &self.whoami_name {
            Some(name) if !is_host_name(name) => Err(TargetError::WhoamiName { name: name.clone() }),
            _ => Ok(()),
        }
    }
}

impl MirrorList {
    /// A list of nothing yet.
    pub fn issued(version: u64, issued_at: UnixMillis) -> Self {
        Self { version, issued_at, ..Self::default() }
    }

    /// Checks what the types alone cannot: limits, doubles, canaries.
    pub fn validate(&self) -> Result<(), TargetError> {
        if self.mirrors.len() > LIST_MIRRORS_MAX {
            return Err(TargetError::ListTooLong { count: self.mirrors.len() });
        }
        if self.references.len() > LIST_REFERENCES_MAX {
            return Err(TargetError::TooManyReferences { count: self.references.len() });
        }
        self.validate_life()?;
        self.tools.validate()?;
        if let Some(len) =
            self.stop.as_ref().map(String::len).filter(|len| !(1..=STOP_REASON_LEN_MAX).contains(len))
        {
            return Err(TargetError::StopReason { len });
        }
        let mut seen = std::collections::BTreeSet::new();
        for mirror in &self.mirrors {
            if !seen.insert(&mirror.id) {
                return Err(TargetError::Twice { mirror: mirror.id.clone() });
            }
            mirror.validate()?;
        }
        Ok(())
    }

    /// When nothing on it is run any more, for whoever has held it since then.
    pub fn ends_at(&self, held_since: UnixMillis) -> UnixMillis {
        let latest = held_since.plus_secs(LIST_LIFE_SECS_MAX);
        self.expires_at.map_or(latest, |expires_at| expires_at.min(latest))
    }

    fn validate_life(&self) -> Result<(), TargetError> {
        let Some(expires_at) = self.expires_at else { return Ok(()) };
        if expires_at <= self.issued_at {
            return Err(TargetError::EndsBeforeIssue { issued_at: self.issued_at, expires_at });
        }
        if expires_at > self.issued_at.plus_secs(LIST_LIFE_SECS_MAX) {
            return Err(TargetError::LivesTooLong { expires_at });
        }
        Ok(())
    }

    /// The mirror of that name.
    pub fn mirror(&self, id: &MirrorId) -> Option<&Mirror> {
        self.mirrors.iter().find(|mirror| mirror.id == *id)
    }
}

/// Labels of letters, digits and hyphens, two at least.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_probed_say_why() {
        let check = |text: &str, part: &str| {
            let message = match TargetUrl::parse(text).and_then(|url| url.require_public().map(|()| url)) {
                Ok(url) => format!("accepted {url}"),
                Err(error) => error.to_string(),
            };
            assert!(message.contains(part), "{text}: {message}");
        };
        check("not a url", "no URL");
        check("ftp://mirror.example/", "scheme \"ftp\"");
        check("https:///", "no URL");
        check("https://me:secret@mirror.example/", "password");
        check("https://mirror.example:0/", "port 0");
        check("https://mirror.example:70000/", "invalid port number");
        check("https://127.0.0.1/", "loopback");
        check("https://[::ffff:10.0.0.1]/", "private");
        check("https://mirror.example/a?b", "accepted https://mirror.example/a?b");
    }

    #[test]
    fn a_list_refuses_doubles_and_weak_canaries() {
        let mirror = |id: &str, canary: Option<&str>| Mirror {
            large_page: None,
            id: MirrorId::parse(id).unwrap(),
            url: TargetUrl::parse("https://mirror.example/").unwrap(),
            markets: vec![MarketId::parse("ru").unwrap()],
            canary: canary.map(str::to_owned),
            key_pins: vec![],
            expected_addresses: vec![],
            standby: false,
            category: None,
        };
        let list = |mirrors| MirrorList { mirrors, ..MirrorList::issued(1, UnixMillis(0)) };
        assert_eq!(list(vec![mirror("a", None), mirror("b", Some("long-enough"))]).validate(), Ok(()));
        assert!(matches!(
            list(vec![mirror("a", None), mirror("a", None)]).validate(),
            Err(TargetError::Twice { .. })
        ));
        assert!(matches!(list(vec![mirror("a", Some("short"))]).validate(), Err(TargetError::Canary { .. })));
        let check = |change: &dyn Fn(&mut Mirror), part: &str| {
            let mut changed = mirror("a", None);
            change(&mut changed);
            let error = list(vec![changed]).validate().unwrap_err().to_string();
            assert!(error.contains("mirror a") && error.contains(part), "{error}");
        };
        check(&|mirror| mirror.canary = Some("x".repeat(CANARY_LEN_MAX + 1)), "canary");
        let elsewhere = TargetUrl::parse("https://elsewhere.example/").unwrap();
        check(&|mirror| mirror.large_page = Some(elsewhere.clone()), "large page");
        check(&|mirror| mirror.key_pins = vec![Sha256::default(); PINS_MAX + 1], "pins");
        let address = IpAddr::from([192, 0, 2, 1]);
        check(&|mirror| mirror.expected_addresses = vec![address; ADDRESSES_MAX + 1], "addresses");
        let reference = Reference {
            market: MarketId::parse("ru").unwrap(),
            side: ReferenceSide::Foreign,
            url: TargetUrl::parse("https://reference.example/").unwrap(),
        };
        let mut many = list(vec![mirror("a", None)]);
        many.references = vec![reference; LIST_REFERENCES_MAX];
        assert_eq!(many.validate(), Ok(()));
        let tools = |name: &str| Tools { whoami_name: Some(name.to_owned()), ..Tools::default() };
        many.tools = tools("whoami.example");
        assert_eq!(many.validate(), Ok(()));
        many.tools = tools("no name");
        assert!(matches!(many.validate(), Err(TargetError::WhoamiName { .. })));
        many.tools = Tools::default();
        many.references.push(many.references[0].clone());
        assert_eq!(many.validate(), Err(TargetError::TooManyReferences { count: LIST_REFERENCES_MAX + 1 }));
    }

    #[test]
    fn a_list_lives_fourteen_days_at_most_whatever_it_says() {
        let list = |expires_at: Option<u64>| MirrorList {
            issued_at: UnixMillis(1_000),
            expires_at: expires_at.map(UnixMillis),
            ..MirrorList::default()
        };
        let life = LIST_LIFE_SECS_MAX * 1_000;
        let check = |expires_at, ends_at: u64| {
            assert_eq!(list(expires_at).validate(), Ok(()));
            assert_eq!(list(expires_at).ends_at(UnixMillis(500)), UnixMillis(ends_at));
        };
        check(Some(2_000), 2_000);
        // Held since before it was issued, as a signer's fast clock has it.
        check(Some(1_000 + life), 500 + life);
        check(None, 500 + life);
        assert!(matches!(list(Some(1_000)).validate(), Err(TargetError::EndsBeforeIssue { .. })));
        assert!(matches!(list(Some(1_001 + life)).validate(), Err(TargetError::LivesTooLong { .. })));
        // A list of before is written as it was.
        let text = serde_json::to_string(&list(None)).unwrap();
        assert_eq!(text, r#"{"version":0,"issued_at":1000,"mirrors":[]}"#);
    }
}
