//! The data files in force, parsed: catalogue, policies, fingerprints.

use crate::catalogue::{Catalogue, CatalogueError};
use crate::fingerprint::{FingerprintError, Fingerprints};
use crate::journal::SettingsText;
use crate::networks::{Networks, NetworksError};
use crate::policy::{Policy, PolicyFaults};
use crate::words::{CarrierId, MarketId};

/// Why data files cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the catalogue is refused")]
    Catalogue(#[source] CatalogueError),
    #[error("a policy is refused")]
    Policy(#[source] PolicyFaults),
    #[error("the fingerprints are refused")]
    Fingerprints(#[source] FingerprintError),
    #[error("the networks are refused")]
    Networks(#[source] NetworksError),
}

/// The data files compiled in.
pub fn default_settings() -> SettingsText {
    SettingsText {
        catalogue: crate::catalogue::BUILT_IN.to_owned(),
        policies: crate::policy::BUILT_IN.map(str::to_owned).to_vec(),
        fingerprints: crate::fingerprint::BUILT_IN.to_owned(),
        // Two hundred kilobytes that every journal would hold, of what every build holds.
        networks: String::new(),
    }
}

/// Checks data files before they are journaled.
pub fn check_settings(text: &SettingsText) -> Result<(), SettingsError> {
    Settings::parse(text).map(|_| ())
}

/// The data files, parsed.
#[derive(Debug)]
pub(super) struct Settings {
    text: SettingsText,
    catalogue: Catalogue,
    policies: Vec<Policy>,
    fingerprints: Fingerprints,
    networks: Networks,
}

impl Settings {
    pub(super) fn built_in() -> Self {
        Self::parse(&default_settings()).expect("the built-in data files are tested")
    }

    fn parse(text: &SettingsText) -> Result<Self, SettingsError> {
        let catalogue = Catalogue::parse(&text.catalogue).map_err(SettingsError::Catalogue)?;
        let policies = crate::policy::parse_all(&text.policies, &catalogue).map_err(SettingsError::Policy)?;
        let fingerprints = Fingerprints::parse(&text.fingerprints).map_err(SettingsError::Fingerprints)?;
        let networks = match text.networks.as_str() {
            "" => Networks::built_in(),
            table => Networks::parse([table]).map_err(SettingsError::Networks)?,
        };
        Ok(Self { text: text.clone(), catalogue, policies, fingerprints, networks })
    }

    /// Checked data files to put in force. Files this version cannot read (a newer one wrote them) leave the old in force.
    pub(super) fn replaced(text: &SettingsText) -> Option<Self> {
        Self::parse(text).ok()
    }

    pub(super) fn text(&self) -> &SettingsText {
        &self.text
    }

    pub(super) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(super) fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    pub(super) fn networks(&self) -> &Networks {
        &self.networks
    }

    pub(super) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(super) fn policy(&self, market: &MarketId) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.market == *market)
    }

    pub(super) fn policy_of_carrier(&self, carrier: &CarrierId) -> Option<&Policy> {
        self.policy(&self.catalogue.carrier(carrier)?.market)
    }
}
