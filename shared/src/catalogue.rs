//! Carriers and markets: a carrier is an operator's network, a group of ASNs. Data, parsed here; no lookup by address.

use serde::Deserialize;

use crate::words::{CarrierId, MarketId};

/// The catalogue compiled in; `[data] catalogue` of the collector overrides it.
pub const BUILT_IN: &str = include_str!("../data/catalogue.toml");

/// An operator's network in one market.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carrier {
    pub id: CarrierId,
    /// As people call it.
    pub name: String,
    pub market: MarketId,
    pub asns: Vec<u32>,
}

/// A country with its own pool and policy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Market {
    pub id: MarketId,
    pub name: String,
}

/// All carriers and markets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    markets: Vec<Market>,
    carriers: Vec<Carrier>,
}

/// Why a text is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    #[error(
        "carrier {carrier} belongs to market {market}, which is not in the catalogue; add a [[market]] or mend the name"
    )]
    UnknownMarket { carrier: CarrierId, market: MarketId },
    #[error("{what} stands twice in the catalogue")]
    Twice { what: String },
    #[error("AS{asn} belongs to {first} and to {second}; an ASN has one carrier")]
    SharedAsn { asn: u32, first: CarrierId, second: CarrierId },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    market: Vec<Market>,
    carrier: Vec<Carrier>,
}

impl Catalogue {
    /// Parses and checks a catalogue.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: File = toml::from_str(text).map_err(|error| CatalogueError::Toml(Box::new(error)))?;
        let mut seen = std::collections::BTreeSet::new();
        for id in file.market.iter().map(|m| m.id.as_str()).chain(file.carrier.iter().map(|c| c.id.as_str()))
        {
            if !seen.insert(id) {
                return Err(CatalogueError::Twice { what: id.to_owned() });
            }
        }
        let mut owners = std::collections::BTreeMap::new();
        for carrier in &file.carrier {
            if !file.market.iter().any(|market| market.id == carrier.market) {
                return Err(CatalogueError::UnknownMarket {
                    carrier: carrier.id.clone(),
                    market: carrier.market.clone(),
                });
            }
            for asn in &carrier.asns {
                if let Some(first) = owners.insert(*asn, &carrier.id) {
                    return Err(CatalogueError::SharedAsn {
                        asn: *asn,
                        first: first.clone(),
                        second: carrier.id.clone(),
                    });
                }
            }
        }
        Ok(Self { markets: file.market, carriers: file.carrier })
    }

    /// The catalogue compiled in.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in catalogue is tested")
    }

    /// The carrier of that name.
    pub fn carrier(&self, id: &CarrierId) -> Option<&Carrier> {
        self.carriers.iter().find(|carrier| carrier.id == *id)
    }

    /// Every carrier, in the file's order.
    pub fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    /// Every market, in the file's order.
    pub fn markets(&self) -> &[Market] {
        &self.markets
    }

    /// Whether the market is known.
    pub fn has_market(&self, id: &MarketId) -> bool {
        self.markets.iter().any(|market| market.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_follows_the_registry() {
        let catalogue = Catalogue::built_in();
        let check = |id: &str, asn: u32| {
            let carrier = catalogue.carrier(&CarrierId::parse(id).unwrap()).unwrap();
            assert!(carrier.asns.contains(&asn), "{id} without AS{asn}");
        };
        check("kz-beeline", 21_299);
        check("kz-kcell", 29_355);
        check("kz-tele2-altel", 48_503);
        check("kz-tele2-altel", 29_555);
        check("kz-kazakhtelecom", 9_198);
        check("ru-mts", 8_359);
        check("ru-rostelecom", 12_389);
        check("ru-beeline", 3_216);
        check("ru-megafon", 31_133);
    }

    #[test]
    fn a_contradictory_catalogue_is_refused() {
        let market = "[[market]]\nid = \"kz\"\nname = \"K\"\n";
        let carrier = |id: &str, market: &str, asn: u32| {
            format!("[[carrier]]\nid = \"{id}\"\nname = \"x\"\nmarket = \"{market}\"\nasns = [{asn}]\n")
        };
        let check = |text: String, part: &str| {
            let error = Catalogue::parse(&text).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        check(format!("{market}{}", carrier("a", "ru", 1)), "market ru");
        check(format!("{market}{}{}", carrier("a", "kz", 1), carrier("a", "kz", 2)), "twice");
        check(format!("{market}{}{}", carrier("a", "kz", 1), carrier("b", "kz", 1)), "AS1");
        check("nonsense = 1".into(), "cannot be read");
    }
}
