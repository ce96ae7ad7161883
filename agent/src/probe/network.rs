//! The network gate, once a cycle: the state of the agent's own line, so that it is not taken for a block. All reference
//! hosts are asked at once, and what they say together is written down; nothing here says "blocked" either, and nothing
//! is measured less for it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use zerkalo_core::record::{ChainFault, Ipv6Health, NetworkCheck, ReferenceCheck, issuer_words};
use zerkalo_core::target::Reference;
use zerkalo_core::words::UnixMillis;

use super::ProbeSettings;
use super::connect::source_towards;
use super::reference::{self, REFERENCES_MAX, Sighting};
use super::resolvers::PUBLIC_DEFAULT;
use super::whoami::{self, Own};

/// Somewhere abroad by IPv6 (Quad9): only the way there is looked up, nothing is sent.
const ABROAD_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)), 53);
/// Bytes kept of a signer's name.
const ISSUER_LEN_MAX: usize = 256;

/// What others told, for comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The operator's name whose authoritative server answers with who asked.
    pub whoami_name: Option<String>,
    /// This host's clock minus the collector's, in ms.
    pub clock_ahead_millis: Option<i64>,
    /// The address the collector sees this host under: it must not be taken for the resolver's.
    pub seen_as: Option<IpAddr>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub references: Vec<ReferenceCheck>,
    pub network: NetworkCheck,
}

/// Checks the agent's own network. Ends within the cap of one reference's check, for every [`REFERENCES_MAX`] of them.
pub async fn check(
    settings: &ProbeSettings,
    references: &[Reference],
    told: &Told,
    checked_at: UnixMillis,
) -> Checked {
    let looks = async {
        let (began, mut sightings) = (std::time::Instant::now(), Vec::with_capacity(references.len()));
        for some in references.chunks(REFERENCES_MAX) {
            let since = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            sightings.extend(reference::look_at_all(settings, some, checked_at.plus_millis(since)).await);
        }
        sightings
    };
    let outside = [settings.resolvers.public.unwrap_or(PUBLIC_DEFAULT), PUBLIC_DEFAULT, ABROAD_V6];
    let identity = async {
        match &told.whoami_name {
            Some(name) => {
                let own = Own::of_host(&outside, told.seen_as);
                whoami::ask(&settings.resolvers.system, name, &own).await
            }
            None => Vec::new(),
        }
    };
    let (sightings, resolver_identity) = tokio::join!(looks, identity);
    let is_reached = sightings.iter().any(|sighting| sighting.check.reached);
    let has_route = outside.iter().any(|address| source_towards(*address).is_some());
    let network = NetworkCheck {
        checked_at,
        captive_host: sightings.iter().find_map(|sighting| sighting.portal_host.clone()),
        ipv6: ipv6_health(&sightings),
        resolver_identity,
        clock_ahead_millis: median(
            sightings
                .iter()
                .filter_map(|sighting| sighting.clock_ahead_millis)
                .chain(told.clock_ahead_millis),
        ),
        host_interference: common_signer(&sightings),
        is_offline: !is_reached && !has_route,
    };
    Checked { references: sightings.into_iter().map(|sighting| sighting.check).collect(), network }
}

/// What the references' IPv6 addresses showed, or the lack of a way to them.
fn ipv6_health(sightings: &[Sighting]) -> Ipv6Health {
    let tried: Vec<(SocketAddr, bool)> = sightings.iter().filter_map(|sighting| sighting.ipv6).collect();
    let towards = tried.first().map_or(ABROAD_V6, |(address, _)| *address);
    let has_route = source_towards(towards).is_some_and(|own| !is_link_local(own));
    health(has_route, &tried.iter().map(|(_, answered)| *answered).collect::<Vec<_>>())
}

fn health(has_route: bool, answered: &[bool]) -> Ipv6Health {
    if answered.contains(&true) {
        Ipv6Health::Works
    } else if !has_route {
        Ipv6Health::Absent
    } else if answered.is_empty() {
        Ipv6Health::Unknown
    } else {
        Ipv6Health::Broken
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Who vouches for every https reference that showed a chain, and is known to no browser.
fn common_signer(sightings: &[Sighting]) -> Option<String> {
    let mut signers =
        sightings.iter().filter_map(|sighting| sighting.chain.as_ref()).map(|(chain, fault)| {
            let leaf = chain.first().filter(|_| *fault == ChainFault::UnknownIssuer)?;
            // Who vouches for himself alone is a server's own makeshift, not a product.
            (leaf.issuer != leaf.subject).then(|| issuer_words(&leaf.issuer))
        });
    let first = signers.next()??;
    let is_common = signers.all(|signer| signer.as_ref() == Some(&first));
    is_common.then(|| {
        let mut signer = first;
        super::text::cut(&mut signer, ISSUER_LEN_MAX);
        signer
    })
}

/// The middle one; between the two middle ones, their mean.
fn median(values: impl Iterator<Item = i64>) -> Option<i64> {
    let mut sorted: Vec<i64> = values.collect();
    sorted.sort_unstable();
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::record::Certificate;
    use zerkalo_core::target::{ReferenceSide, Sha256, TargetUrl};

    #[test]
    fn the_middle_of_the_clocks_is_believed() {
        let check =
            |values: &[i64], expected| assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        check(&[], None);
        check(&[7], Some(7));
        check(&[-3_600_000, 40, 60], Some(40));
        check(&[100, -100], Some(0));
        check(&[4, 3, 1, 2], Some(2));
    }

    #[test]
    fn ipv6_is_what_answers_by_it() {
        let check =
            |has_route, answered: &[bool], expected| assert_eq!(health(has_route, answered), expected);
        check(true, &[false, true], Ipv6Health::Works);
        check(true, &[false], Ipv6Health::Broken);
        check(false, &[false], Ipv6Health::Absent);
        check(false, &[], Ipv6Health::Absent);
        check(true, &[], Ipv6Health::Unknown);
    }

    #[test]
    fn only_a_signer_of_every_reference_sits_on_the_host() {
        let sighting = |chain: Option<(&str, ChainFault)>| Sighting {
            check: ReferenceCheck {
                side: ReferenceSide::Foreign,
                url: TargetUrl::parse("https://ref.example/").unwrap(),
                checked_at: UnixMillis(0),
                reached: false,
                failure: None,
            },
            chain: chain.map(|(issuer, fault)| {
                let leaf = Certificate {
                    sha256: Sha256::default(),
                    spki_sha256: Sha256::default(),
                    subject: "CN=ref.example".into(),
                    issuer: issuer.into(),
                    not_before: UnixMillis(0),
                    not_after: UnixMillis(0),
                    der: vec![],
                };
                (vec![leaf], fault)
            }),
            portal_host: None,
            clock_ahead_millis: None,
            ipv6: None,
        };
        let check = |chains: &[Option<(&str, ChainFault)>], expected: Option<&str>| {
            let sightings: Vec<_> = chains.iter().map(|chain| sighting(chain.clone())).collect();
            assert_eq!(common_signer(&sightings).as_deref(), expected, "{chains:?}");
        };
        let by = |issuer| Some((issuer, ChainFault::UnknownIssuer));
        let fine = || Some(("CN=Public CA", ChainFault::Valid));
        check(&[by("OU=1, CN=Shield"), None, by("OU=2, CN=Shield")], Some("CN=Shield"));
        check(&[by("CN=Shield"), fine()], None);
        check(&[fine(), by("CN=Shield")], None);
        check(&[by("CN=Shield"), by("CN=Another")], None);
        check(&[by("CN=ref.example")], None);
        check(&[Some(("CN=Shield", ChainFault::Expired))], None);
        check(&[None], None);
    }
}
