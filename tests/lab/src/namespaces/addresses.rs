//! Who lives where: the same addresses in every topology, for each has namespaces of its own.
//!
//! Nothing here is routed beyond the namespaces. Most addresses are of the ranges for documentation and benchmarks
//! (RFC 5737, RFC 2544, RFC 3849); a false DNS answer must look public, so the stubs have what real ones have, or one of
//! AMPRNet's own test range (44.128.0.0/16).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host the censor goes after.
pub const MIRROR: &str = "mirror.lab.test";
/// A host like it that no censor knows: the healthy twin of nearly every scenario.
pub const NEIGHBOUR: &str = "neighbour.lab.test";
/// The mirror's address under a name that publishes ECH.
pub const WITH_ECH: &str = "ech.lab.test";
/// The public name of its ECH: that of the largest front, which a censor goes after.
pub const ECH_PUBLIC_NAME: &str = "cloudflare-ech.com";
/// What only the real pages hold.
pub const CANARY: &str = "zerkalo-netlab-canary-51c9";

/// The mirror's address.
pub const ORIGIN: &str = "203.0.113.10";
/// The same by IPv6.
pub const ORIGIN_V6: &str = "2001:db8:113::10";
/// A second one by IPv6.
pub const SECOND_V6: &str = "2001:db8:113::11";
/// The mirror's second address, for names that have two.
pub const SECOND: &str = "203.0.113.11";
/// The neighbour's address.
pub const NEIGHBOUR_ADDRESS: &str = "203.0.113.12";
/// Where the operator's landing page stands.
pub const LANDING: &str = "203.0.113.13";
/// A reference host abroad.
pub const FOREIGN: &str = "203.0.113.20";
/// The same by IPv6.
pub const FOREIGN_V6: &str = "2001:db8:113::20";
/// A reference host, and a mirror, in the subscriber's own country.
pub const DOMESTIC: &str = "198.51.100.30";
/// Where the carriers' stub pages stand.
pub const STUB_HOST: &str = "198.51.100.99";
/// An address that nobody holds.
pub const NOBODY: &str = "203.0.113.66";

/// A stub address of the fingerprints.
pub const KNOWN_STUB: Ipv4Addr = Ipv4Addr::new(95, 167, 13, 50);
/// A host with a page that says nothing known.
pub const UNKNOWN_STUB: Ipv4Addr = Ipv4Addr::new(44, 128, 0, 10);
/// A host at an unknown address with a page that says it all.
pub const TELLING_STUB: Ipv4Addr = Ipv4Addr::new(44, 128, 0, 11);
/// What a censor answers who wants silence.
pub const BOGON: Ipv4Addr = Ipv4Addr::new(10, 10, 34, 36);
/// The same by IPv6.
pub const BOGON_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x36);

/// The resolver abroad that tells the truth.
pub const PUBLIC_RESOLVER: &str = "192.0.2.53";
/// The name under which it speaks TLS and HTTPS.
pub const PUBLIC_RESOLVER_NAME: &str = "dns.lab.test";
/// The subscriber as the world sees it.
pub const SUBSCRIBER: &str = "198.18.0.2";
/// The control as the world sees it.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);

/// The collector's name, where its agents are attacked.
pub const COLLECTOR: &str = "collector.lab.test";
/// Its address.
pub const COLLECTOR_ADDRESS: &str = "203.0.113.40";

/// Addresses the world holds.
pub const WORLD: &[&str] = &[
    ORIGIN,
    SECOND,
    NEIGHBOUR_ADDRESS,
    LANDING,
    FOREIGN,
    DOMESTIC,
    STUB_HOST,
    PUBLIC_RESOLVER,
    COLLECTOR_ADDRESS,
    "95.167.13.50",
    "44.128.0.10",
    "44.128.0.11",
    ORIGIN_V6,
    SECOND_V6,
    FOREIGN_V6,
];

/// What is truly known of a name: its addresses, or where it points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    Addresses(&'static [&'static str]),
    /// A CNAME whose own name has no address.
    AliasOnly(&'static str),
}

/// Every name of the lab's internet.
pub const ZONE: &[(&str, Truth)] = &[
    (MIRROR, Truth::Addresses(&[ORIGIN])),
    (NEIGHBOUR, Truth::Addresses(&[NEIGHBOUR_ADDRESS])),
    (WITH_ECH, Truth::Addresses(&[ORIGIN])),
    ("two.lab.test", Truth::Addresses(&[SECOND, ORIGIN])),
    ("six.lab.test", Truth::Addresses(&[ORIGIN_V6])),
    ("two-six.lab.test", Truth::Addresses(&[ORIGIN_V6, SECOND_V6])),
    ("half.lab.test", Truth::Addresses(&[SECOND, NOBODY])),
    ("dual.lab.test", Truth::Addresses(&[ORIGIN, ORIGIN_V6])),
    ("landing.lab.test", Truth::Addresses(&[LANDING])),
    ("expired.lab.test", Truth::Addresses(&[ORIGIN])),
    ("wrong-name.lab.test", Truth::Addresses(&[ORIGIN])),
    ("self-signed.lab.test", Truth::Addresses(&[ORIGIN])),
    ("alias.lab.test", Truth::AliasOnly("nowhere.lab.test")),
    ("dead.lab.test", Truth::Addresses(&[NOBODY])),
    (COLLECTOR, Truth::Addresses(&[COLLECTOR_ADDRESS])),
    (PUBLIC_RESOLVER_NAME, Truth::Addresses(&[PUBLIC_RESOLVER])),
    ("foreign.lab.test", Truth::Addresses(&[FOREIGN, FOREIGN_V6])),
    ("domestic.lab.test", Truth::Addresses(&[DOMESTIC])),
    // зеркало.lab.test
    ("xn--80ajfngsk.lab.test", Truth::Addresses(&[ORIGIN])),
    ("warning.rt.ru", Truth::Addresses(&[STUB_HOST])),
    ("unblock.mts.ru", Truth::Addresses(&[STUB_HOST])),
    ("login.portal.test", Truth::Addresses(&[STUB_HOST])),
];

/// What is truly known of `name`.
pub fn truth(name: &str) -> Option<Truth> {
    ZONE.iter().find(|(known, _)| *known == name).map(|(_, truth)| *truth)
}

/// The true addresses of `name`.
pub fn addresses(name: &str) -> Vec<IpAddr> {
    match truth(name) {
        Some(Truth::Addresses(texts)) => texts.iter().filter_map(|text| text.parse().ok()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::address::require_public;

    #[test]
    fn every_address_can_be_read_and_false_answers_look_as_they_should() {
        for (name, truth) in ZONE {
            if let Truth::Addresses(texts) = truth {
                assert_eq!(addresses(name).len(), texts.len(), "{name}");
            }
        }
        assert!(WORLD.iter().all(|text| text.parse::<IpAddr>().is_ok()));
        assert!(
            [KNOWN_STUB, UNKNOWN_STUB, TELLING_STUB]
                .iter()
                .all(|stub| require_public((*stub).into()).is_ok())
        );
        assert!(require_public(BOGON.into()).is_err() && require_public(BOGON_V6.into()).is_err());
    }
}
