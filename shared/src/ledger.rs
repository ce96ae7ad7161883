//! The ledger of intercepting certificates: who was seen breaking TLS open, where, when, and when an issuer had no valid
//! certificate to do it with. Folded from records; whether a mirror is blocked is the rules' business.
//!
//! A certificate gets in with a chain that is not the mirror's own: one of a state's authority or of a known product, or
//! one that browsers refuse. What a control is shown too is the site's own fault, and leaves again.

mod gaps;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use gaps::{Period, gaps};

use crate::fingerprint::Fingerprints;
use crate::judge::is_own_key;
use crate::record::{Arm, Certificate, ChainFault, ProbeRecord};
use crate::target::{Mirror, Sha256};
use crate::verdict::words;
use crate::words::{Access, CarrierId, MirrorId, UnixMillis};

/// Certificates kept; beyond them the least recently seen goes, and is counted. An interceptor makes a leaf for each name
/// now and then; this holds years of one.
pub const CERTIFICATES_MAX: usize = 4_096;
/// Networks and mirrors named with one certificate; it is a sight of many, not a list of all.
pub const PLACES_MAX: usize = 64;
/// Bytes kept of a distinguished name: a hostile agent must not fill the memory.
pub const NAME_LEN_MAX: usize = 512;
/// Keys remembered of what controls are shown of one mirror.
const CONTROL_KEYS_MAX: usize = 16;

words!(
    /// Who breaks TLS open.
    Interceptor {
        /// A state's authority, by its name or by a fingerprint.
        StateCa = "state_ca",
        /// A product on the agent's own host: antivirus, corporate proxy.
        HostInterceptor = "host_interceptor",
        Unknown = "unknown",
    }
);

/// A certificate's place in the chain it was seen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// What stood for the mirror itself.
    Leaf,
    /// What vouched for it.
    Authority,
}

impl Place {
    /// The word on the wire and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Authority => "authority",
        }
    }
}

/// One intercepting certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub sha256: Sha256,
    /// RFC 4514 text, as those of records; capped by [`NAME_LEN_MAX`].
    pub subject: String,
    pub issuer: String,
    pub validity: Period,
    pub interceptor: Interceptor,
    pub place: Place,
    /// Where agents were shown it; capped by [`PLACES_MAX`].
    pub networks: BTreeSet<(CarrierId, Access)>,
    /// For which mirrors; capped as the networks are.
    pub mirrors: BTreeSet<MirrorId>,
    /// By the collector's clock.
    pub first_seen: UnixMillis,
    pub last_seen: UnixMillis,
    /// Records in which it stood.
    pub records: u64,
}

/// What the ledger knows of one issuer's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerView {
    pub issuer: String,
    /// The most telling of its certificates': a state's authority first.
    pub interceptor: Interceptor,
    /// Certificates seen that bear its name as issuer.
    pub certificates: u32,
    pub first_seen: UnixMillis,
    pub last_seen: UnixMillis,
    /// When no certificate seen that it issued was valid, between the first and the last that was.
    pub gaps: Vec<Period>,
    /// The same of its own certificates: the generations of the authority itself.
    pub own_gaps: Vec<Period>,
}

/// Where and when a record was taken.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub mirror: &'a Mirror,
    pub carrier: &'a CarrierId,
    pub access: Access,
    pub at: UnixMillis,
}

/// All that was seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ledger {
    sightings: BTreeMap<Sha256, Sighting>,
    /// By when last seen: whom to evict first.
    order: BTreeSet<(UnixMillis, Sha256)>,
    evicted: u64,
    /// Keys that controls are shown, the latest last: chains of theirs that browsers refuse are the site's own.
    control_keys: BTreeMap<MirrorId, Vec<Sha256>>,
}

impl Ledger {
    /// Notes the intercepting chains of a field agent's record.
    pub fn note(&mut self, record: &ProbeRecord, scene: Scene<'_>, fingerprints: &Fingerprints) {
        let mut seen: BTreeMap<Sha256, (&Certificate, Interceptor, Place)> = BTreeMap::new();
        for (chain, fault) in own_name_chains(record) {
            let Some(interceptor) = self.interceptor(chain, fault, scene.mirror, fingerprints) else {
                continue;
            };
            for (index, certificate) in chain.iter().enumerate() {
                let place = if index == 0 { Place::Leaf } else { Place::Authority };
                seen.entry(certificate.sha256).or_insert((certificate, interceptor, place));
            }
        }
        for (certificate, interceptor, place) in seen.into_values() {
            self.see(certificate, interceptor, place, scene);
        }
    }

    /// Notes what a control is shown: a key it meets at its own address is the site's, whatever browsers say of its chain.
    pub fn note_control(&mut self, record: &ProbeRecord, mirror: &MirrorId) {
        let host = record.url.host();
        let own = record.tls.iter().filter(|tls| tls.arm == Arm::Main && tls.sni.as_ref() == Some(&host));
        for leaf in own.filter_map(|tls| tls.chain.first()) {
            let keys = self.control_keys.entry(mirror.clone()).or_default();
            keys.retain(|key| *key != leaf.spki_sha256);
            keys.push(leaf.spki_sha256);
            if keys.len() > CONTROL_KEYS_MAX {
                keys.remove(0);
            }
            let is_site_s = self.sightings.get(&leaf.sha256).is_some_and(|sighting| {
                sighting.interceptor == Interceptor::Unknown && sighting.mirrors.contains(mirror)
            });
            if is_site_s && let Some(sighting) = self.sightings.remove(&leaf.sha256) {
                self.order.remove(&(sighting.last_seen, sighting.sha256));
            }
        }
    }

    /// Forgets what controls are shown of mirrors that are listed no more. Interceptors stay: they are history.
    pub fn retain(&mut self, listed: impl Fn(&MirrorId) -> bool) {
        self.control_keys.retain(|mirror, _| listed(mirror));
    }

    /// Every certificate, by its digest.
    pub fn sightings(&self) -> impl Iterator<Item = &Sighting> {
        self.sightings.values()
    }

    /// How many were dropped for want of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Every issuer, by name.
    pub fn issuers(&self) -> Vec<IssuerView> {
        let mut issued: BTreeMap<&str, Vec<&Sighting>> = BTreeMap::new();
        let mut own: BTreeMap<&str, Vec<Period>> = BTreeMap::new();
        for sighting in self.sightings.values() {
            issued.entry(&sighting.issuer).or_default().push(sighting);
            own.entry(&sighting.subject).or_default().push(sighting.validity);
        }
        let view = |(issuer, issued): (&str, Vec<&Sighting>)| {
            let spans = issued.iter().map(|sighting| sighting.validity);
            Some(IssuerView {
                issuer: issuer.to_owned(),
                interceptor: issued.iter().map(|sighting| sighting.interceptor).min()?,
                certificates: u32::try_from(issued.len()).unwrap_or(u32::MAX),
                first_seen: issued.iter().map(|sighting| sighting.first_seen).min()?,
                last_seen: issued.iter().map(|sighting| sighting.last_seen).max()?,
                gaps: gaps(spans),
                own_gaps: gaps(own.get(issuer).into_iter().flatten().copied()),
            })
        };
        issued.into_iter().filter_map(view).collect()
    }

    /// Who made a chain, if it is no chain of the mirror's.
    fn interceptor(
        &self,
        chain: &[Certificate],
        fault: Option<&ChainFault>,
        mirror: &Mirror,
        fingerprints: &Fingerprints,
    ) -> Option<Interceptor> {
        let leaf = chain.first()?;
        if is_own_key(chain, fault, Some(mirror)) {
            return None;
        }
        if fingerprints.state_ca(chain).is_some() {
            return Some(Interceptor::StateCa);
        }
        if fingerprints.host_interceptor(chain).is_some() {
            return Some(Interceptor::HostInterceptor);
        }
        let keys = self.control_keys.get(&mirror.id);
        let is_shown_to_controls = keys.is_some_and(|keys| keys.contains(&leaf.spki_sha256));
        let is_refused = fault.is_some_and(|fault| *fault != ChainFault::Valid);
        (is_refused && !is_shown_to_controls).then_some(Interceptor::Unknown)
    }

    fn see(&mut self, certificate: &Certificate, interceptor: Interceptor, place: Place, scene: Scene<'_>) {
        let fresh = || Sighting {
            sha256: certificate.sha256,
            subject: capped(&certificate.subject),
            issuer: capped(&certificate.issuer),
            validity: Period { from: certificate.not_before, until: certificate.not_after },
            interceptor,
            place,
            networks: BTreeSet::new(),
            mirrors: BTreeSet::new(),
            first_seen: scene.at,
            last_seen: scene.at,
            records: 0,
        };
        let sighting = self.sightings.entry(certificate.sha256).or_insert_with(fresh);
        self.order.remove(&(sighting.last_seen, certificate.sha256));
        // A spooled record may be older than what is known.
        sighting.first_seen = sighting.first_seen.min(scene.at);
        sighting.last_seen = sighting.last_seen.max(scene.at);
        sighting.interceptor = sighting.interceptor.min(interceptor);
        sighting.records += 1;
        if sighting.networks.len() < PLACES_MAX {
            sighting.networks.insert((scene.carrier.clone(), scene.access));
        }
        if sighting.mirrors.len() < PLACES_MAX {
            sighting.mirrors.insert(scene.mirror.id.clone());
        }
        self.order.insert((sighting.last_seen, certificate.sha256));
        if self.sightings.len() > CERTIFICATES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.sightings.remove(&oldest);
            self.evicted += 1;
        }
    }
}

/// The chains shown for the mirror's own name on the way a visitor goes, over TCP and over QUIC. At the operator's control
/// address somebody else answers by right.
fn own_name_chains(record: &ProbeRecord) -> impl Iterator<Item = (&[Certificate], Option<&ChainFault>)> {
    let host = record.url.host();
    let quic_host = host.clone();
    let by_tcp = record
        .tls
        .iter()
        .filter(move |tls| is_visitors(tls.arm) && tls.sni.as_ref().is_none_or(|sni| *sni == host))
        .map(|tls| (tls.chain.as_slice(), tls.chain_fault.as_ref()));
    let by_quic = record
        .quic
        .iter()
        .filter(move |quic| quic.sni == quic_host)
        .map(|quic| (quic.chain.as_slice(), quic.chain_fault.as_ref()));
    by_tcp.chain(by_quic)
}

fn is_visitors(arm: Arm) -> bool {
    matches!(arm, Arm::Main | Arm::OtherResolver | Arm::OtherHello | Arm::EchGrease | Arm::FreshTuple)
}

fn capped(name: &str) -> String {
    let end = (0..=NAME_LEN_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests;
