//! What an operator sees at one moment: agents, matrix, decisions, webhooks; and whether an awaited state is reached.
//!
//! Asked through the public API alone; draws no conclusion of its own.

use std::collections::BTreeMap;

use anyhow::Result;
use zerkalo_core::market::Decision;
use zerkalo_proto::operator_v1::{Agent, CarrierColumn, Matrix};

use crate::fleet::AGENTS;
use crate::internet::{BYSTANDER, MIRROR, PLACES};
use crate::operator::Operator;
use crate::scenario::Until;
use crate::webhook::{Received, Receiver};

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub agents: Vec<Agent>,
    pub matrix: Matrix,
    /// The oldest first.
    pub decisions: Vec<Decision>,
    pub webhooks: Vec<Received>,
}

impl Observation {
    /// Looks.
    pub async fn take(operator: &Operator, receiver: &Receiver) -> Result<Self> {
        let decisions = operator.decisions().await?.into_iter().map(|(decision, _)| decision).collect();
        Ok(Self {
            agents: operator.agents().await?,
            matrix: operator.matrix().await?,
            decisions,
            webhooks: receiver.received(),
        })
    }

    /// Whether `until` holds; `before` is the look taken when the wait began. `Err` says what is missing.
    pub fn reached(&self, until: &Until, before: &Self) -> Result<(), String> {
        match until {
            Until::AllGreen => self.all_green(),
            Until::Decided { market, action } => match self.actions(market, MIRROR).last() {
                Some(last) if last == action => Ok(()),
                Some(last) => Err(format!("{market} says {last}, not {action}")),
                None => Err(format!("{market} has decided nothing yet")),
            },
            Until::Replaced { market, by } => match self.replacements().get(&(*market, MIRROR)) {
                Some(found) if found == by => Ok(()),
                Some(found) => Err(format!("{market} put {found} in its place, not {by}")),
                None => Err(format!("{market} has put nothing in its place yet")),
            },
            Until::Carriers { carriers, state } => carriers.iter().try_for_each(|carrier| {
                let found = self.carrier(carrier, MIRROR).map_or("absent", |column| column.state.as_str());
                if found == *state { Ok(()) } else { Err(format!("{carrier} is {found}, not {state}")) }
            }),
            Until::MoreRecords { carriers, count } => self.more_records(carriers, *count, before),
            Until::All(all) => all.iter().try_for_each(|until| self.reached(until, before)),
        }
    }

    /// Every action a market took about a mirror, in order.
    pub fn actions(&self, market: &str, mirror: &str) -> Vec<&'static str> {
        let about =
            |decision: &&Decision| decision.market.as_str() == market && decision.mirror.as_str() == mirror;
        self.decisions.iter().filter(about).map(|decision| decision.action.as_str()).collect()
    }

    /// What was put in a mirror's place, by market and mirror: by the last decision that did so.
    pub fn replacements(&self) -> BTreeMap<(&str, &str), &str> {
        let replaced = self.decisions.iter().filter_map(|decision| {
            let by = decision.replacement.as_ref()?.mirror.as_str();
            Some(((decision.market.as_str(), decision.mirror.as_str()), by))
        });
        replaced.collect()
    }

    /// How a carrier stands with a mirror.
    pub fn carrier(&self, carrier: &str, mirror: &str) -> Option<&CarrierColumn> {
        let rows = self.matrix.rows.iter().filter(|row| row.mirror == mirror);
        rows.flat_map(|row| &row.carriers).find(|column| column.carrier == carrier)
    }

    fn all_green(&self) -> Result<(), String> {
        let connected = self.agents.iter().filter(|agent| agent.connected).count();
        if connected < AGENTS {
            return Err(format!("{connected} of {AGENTS} agents are connected"));
        }
        for mirror in [MIRROR, BYSTANDER] {
            for place in PLACES {
                let Some(column) = self.carrier(place.carrier, mirror) else {
                    return Err(format!("{} is not in the matrix", place.carrier));
                };
                if column.state != "green" {
                    return Err(format!("{} is {} for {mirror}", place.carrier, column.state));
                }
                let owners: u32 = column.cells.iter().map(|cell| cell.owners).sum();
                if (owners as usize) < crate::fleet::OWNERS_PER_CARRIER {
                    return Err(format!("{} hears {owners} owners for {mirror}", place.carrier));
                }
            }
        }
        Ok(())
    }

    fn more_records(&self, carriers: &[&str], count: u64, before: &Self) -> Result<(), String> {
        let earlier: BTreeMap<&str, u64> =
            before.agents.iter().map(|agent| (agent.agent.as_str(), agent.records)).collect();
        let asked = |agent: &&Agent| carriers.is_empty() || carriers.contains(&agent.carrier.as_str());
        for agent in self.agents.iter().filter(asked) {
            let new = agent.records - earlier.get(agent.agent.as_str()).copied().unwrap_or_default();
            // Each mirror is probed in its turn: a record of each counts as one.
            let rounds = new / 2;
            if rounds < count {
                return Err(format!("{} delivered {rounds} of {count} rounds of records", agent.agent));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, carrier: &str, records: u64) -> Agent {
        Agent { agent: name.to_owned(), carrier: carrier.to_owned(), records, ..Default::default() }
    }

    #[test]
    fn records_count_from_the_beginning_of_the_wait_and_for_the_carriers_asked() {
        let before =
            Observation { agents: vec![agent("a", "x", 10), agent("b", "y", 10)], ..Default::default() };
        let now =
            Observation { agents: vec![agent("a", "x", 14), agent("b", "y", 10)], ..Default::default() };
        let check = |carriers, count, expected: bool| {
            let reached = now.reached(&Until::MoreRecords { carriers, count }, &before);
            assert_eq!(reached.is_ok(), expected, "{carriers:?} {count}: {reached:?}");
        };
        check(&["x"], 2, true);
        check(&["x"], 3, false);
        check(&[], 1, false);
    }

    #[test]
    fn nothing_is_reached_at_the_beginning() {
        let nothing = Observation::default();
        for until in [
            Until::AllGreen,
            Until::Decided { market: "kz", action: "keep" },
            Until::Replaced { market: "kz", by: "spare-kz" },
            Until::Carriers { carriers: &["kz-kcell"], state: "green" },
        ] {
            assert!(nothing.reached(&until, &nothing).is_err(), "{until:?}");
        }
    }
}
