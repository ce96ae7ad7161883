//! Where agents stand, by the network their streams come from: one that is not where it was enrolled has no say there.
//!
//! An address that the tables do not know tells nothing: carriers' NAT, laboratories, ranges announced since the tables
//! were cut. Nothing follows from it.

use std::net::IpAddr;

use super::{AgentState, Fold};
use crate::catalogue::Catalogue;
use crate::words::{AgentId, Station};

impl Fold {
    /// The network that announces an address, where the tables know it.
    pub fn asn_of(&self, address: IpAddr) -> Option<u32> {
        self.settings.networks().announcer(address).map(|announcer| announcer.asn)
    }

    /// When the tables of networks in force were made.
    pub fn networks_date(&self) -> &str {
        self.settings.networks().date()
    }

    /// Agents with a say that stand elsewhere.
    pub fn count_elsewhere(&self) -> usize {
        let catalogue = self.settings.catalogue();
        let heard = self.agents.values().filter(|agent| agent.has_say());
        heard.filter(|agent| agent.elsewhere(catalogue).is_some()).count()
    }

    /// See [`AgentState::elsewhere`].
    pub(super) fn elsewhere(&self, agent: &AgentId) -> Option<u32> {
        self.agents.get(agent)?.elsewhere(self.settings.catalogue())
    }
}

impl AgentState {
    /// The network the agent's stream comes from, where it is not one the agent was enrolled for. A control belongs
    /// outside all carriers' networks.
    pub fn elsewhere(&self, catalogue: &Catalogue) -> Option<u32> {
        let asn = self.whereabouts.asn?;
        let is_elsewhere = match &self.enrolment.station {
            Station::Field { carrier, .. } => {
                catalogue.carrier(carrier).is_some_and(|carrier| !carrier.asns.contains(&asn))
            }
            Station::Control => catalogue.carriers().iter().any(|carrier| carrier.asns.contains(&asn)),
        };
        is_elsewhere.then_some(asn)
    }
}
