//! The whole internet of the lab: the operator's mirrors and reference hosts, the control's network and eight carriers.

use std::net::IpAddr;

use anyhow::{Context, Result};
use zerkalo_core::target::{Mirror, MirrorList, Reference, ReferenceSide, TargetUrl};
use zerkalo_core::words::{Access, MarketId, MirrorId, UnixMillis};

use crate::carrier::{Carrier, Host, Networks};
use crate::origin::{self, Origin};
use crate::pki::LabCa;

/// The mirror the censors go after.
pub const MIRROR: &str = "m1";
/// A second mirror that serves and no censor knows: nothing may ever happen to it.
pub const BYSTANDER: &str = "m2";
/// A mirror for each market that waits to take another's place.
pub const STANDBYS: [(&str, &str); 2] = [("ru", "spare-ru"), ("kz", "spare-kz")];
/// What only the real pages hold.
const CANARY: &str = "zerkalo-lab-canary-7f3a";

/// Number of the control's network: 127.40.0.0/24.
const CONTROL_NUMBER: u8 = 40;

/// A carrier of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub carrier: &'static str,
    pub market: &'static str,
    pub access: Access,
    /// `C` in 127.C.0.0/24.
    number: u8,
}

/// The eight carriers of the field survey, the state-owned fixed ones as fixed, the others as mobile.
pub const PLACES: [Place; 8] = [
    place("ru-mts", "ru", Access::Mobile, 41),
    place("ru-rostelecom", "ru", Access::Fixed, 42),
    place("ru-beeline", "ru", Access::Mobile, 43),
    place("ru-megafon", "ru", Access::Mobile, 44),
    place("kz-kazakhtelecom", "kz", Access::Fixed, 51),
    place("kz-beeline", "kz", Access::Mobile, 52),
    place("kz-kcell", "kz", Access::Mobile, 53),
    place("kz-tele2-altel", "kz", Access::Mobile, 54),
];

const fn place(carrier: &'static str, market: &'static str, access: Access, number: u8) -> Place {
    Place { carrier, market, access, number }
}

/// What a market's pool holds beside the mirrors that serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Nothing: what is blocked stays where it is.
    Bare,
    /// Those of [`STANDBYS`].
    WithStandbys,
}

/// The running lab; stops when dropped.
pub struct Internet {
    ca: LabCa,
    origin: Origin,
    _reserve: Origin,
    networks: Networks,
    mirrors: Vec<Mirror>,
    references: Vec<Reference>,
}

impl Internet {
    /// Starts origins, resolvers and fronts; nothing interferes yet.
    pub async fn start() -> Result<Self> {
        Self::start_with(Pool::Bare).await
    }

    /// The same, with other pools.
    pub async fn start_with(pool: Pool) -> Result<Self> {
        let ca = LabCa::generate()?;
        let names = [MIRROR, BYSTANDER, "spare-ru", "spare-kz", "free", "ru", "kz"]
            .map(|name| format!("{name}.lab.test"));
        let identity = ca.server(&names.each_ref().map(String::as_str))?;
        let origin = Origin::start(&identity, origin::page("Mirror one", CANARY))?;
        let reserve = Origin::start(&identity, origin::page("The rest of the lab", CANARY))?;
        let in_market = |market| PLACES.iter().filter(move |p| p.market == market).map(|p| p.number);
        let host = |name: &str, upstream, listed, domestic_in| Host {
            name: name.to_owned(),
            upstream,
            listed,
            domestic_in,
        };
        let hosts = [
            host("m1.lab.test", origin.address(), true, vec![]),
            host("m2.lab.test", reserve.address(), false, vec![]),
            host("spare-ru.lab.test", reserve.address(), false, vec![]),
            host("spare-kz.lab.test", reserve.address(), false, vec![]),
            host("free.lab.test", reserve.address(), false, vec![]),
            host("ru.lab.test", reserve.address(), false, in_market("ru").collect()),
            host("kz.lab.test", reserve.address(), false, in_market("kz").collect()),
        ];
        let numbers: Vec<u8> =
            std::iter::once(CONTROL_NUMBER).chain(PLACES.iter().map(|place| place.number)).collect();
        let networks = Networks::start(&numbers, &hosts).await.context("the lab's networks cannot start")?;
        let url = |name: &str| TargetUrl::parse(&format!("https://{name}.lab.test:{}/", networks.port()));
        let mut mirrors = Vec::new();
        let everywhere: &[&str] = &["ru", "kz"];
        let mut listed = vec![(MIRROR, everywhere), (BYSTANDER, everywhere)];
        if pool == Pool::WithStandbys {
            listed.extend(STANDBYS.iter().map(|(market, id)| (*id, std::slice::from_ref(market))));
        }
        for (index, (id, markets)) in listed.into_iter().enumerate() {
            let fronts = networks.carriers().iter().filter_map(|carrier| carrier.fronts().nth(index));
            let expected_addresses: Vec<IpAddr> = fronts.map(|front| front.ip()).collect();
            mirrors.push(Mirror {
                large_page: None,
                id: MirrorId::parse(id)?,
                url: url(id)?,
                markets: markets.iter().map(|market| MarketId::parse(market)).collect::<Result<_, _>>()?,
                canary: Some(CANARY.to_owned()),
                key_pins: vec![identity.key_pin],
                expected_addresses,
                standby: STANDBYS.iter().any(|(_, standby)| *standby == id),
                category: None,
            });
        }
        let mut references = Vec::new();
        for market in ["ru", "kz"] {
            for (side, host) in [(ReferenceSide::Domestic, market), (ReferenceSide::Foreign, "free")] {
                references.push(Reference { market: MarketId::parse(market)?, side, url: url(host)? });
            }
        }
        Ok(Self { ca, origin, _reserve: reserve, networks, mirrors, references })
    }

    /// What the operator would sign.
    pub fn list(&self, version: u64, issued_at: UnixMillis) -> MirrorList {
        MirrorList {
            mirrors: self.mirrors.clone(),
            references: self.references.clone(),
            ..MirrorList::issued(version, issued_at)
        }
    }

    /// The root an agent's `ca_file` needs.
    pub fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// The web server behind [`MIRROR`].
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The network nobody interferes with.
    pub fn control(&self) -> &Carrier {
        &self.networks.carriers()[0]
    }

    /// Has the connections of one process pass every carrier's fronts: a control abroad meets no censor, whichever of the
    /// mirror's addresses it goes to.
    pub fn exempt(&self, pid: u32) {
        self.networks.exempt(pid);
    }

    /// The network of a carrier of [`PLACES`].
    pub fn carrier(&self, carrier: &str) -> Option<&Carrier> {
        let place = PLACES.iter().find(|place| place.carrier == carrier)?;
        self.networks.carriers().iter().find(|network| network.number() == place.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_labs_can_run_side_by_side() {
        let (one, other) = (Internet::start().await.unwrap(), Internet::start().await.unwrap());
        assert_ne!(one.control().resolver(), other.control().resolver());
        let list = one.list(1, UnixMillis(0));
        assert_eq!(list.validate(), Ok(()));
        assert_eq!(list.mirrors[0].expected_addresses.len(), 1 + PLACES.len());
        assert!(list.mirrors.iter().all(|mirror| !mirror.standby));
        let list = Internet::start_with(Pool::WithStandbys).await.unwrap().list(1, UnixMillis(0));
        assert_eq!(list.validate(), Ok(()));
        for (market, id) in STANDBYS {
            let standby = list.mirrors.iter().find(|mirror| mirror.id.as_str() == id).unwrap();
            assert!(standby.standby && standby.markets.len() == 1 && standby.markets[0].as_str() == market);
            assert_eq!(standby.expected_addresses.len(), 1 + PLACES.len());
        }
        assert!(PLACES.iter().all(|place| one.carrier(place.carrier).is_some()));
    }
}
