//! Who may have which certificate, and who has a say: planned like everything else that is journaled.

use zerkalo_core::admission::{Rejection, RejectionCode};
use zerkalo_core::fold::AgentState;
use zerkalo_core::identity::{Certified, Generations, Shown, Standing, StandingChange, Twice};
use zerkalo_core::journal::{Enrolment, Event};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;

use super::Claim;
use super::plan::Plan;
use crate::clock;
use crate::token::{Token, TokenRefusal};

/// Why an agent is not served, or an order about it not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    #[error("{agent} is not enrolled here; enrol it with a new token")]
    Unknown { agent: String },
    #[error("there is no agent {agent}; `zerkalo agents ls` names them")]
    NoSuch { agent: String },
    #[error(
        "{agent} was revoked{}: nothing it sends counts any more. Ask the operator; a new token enrols the box anew \
         (`zerkalo-agent enroll --force`)",
        because(reason)
    )]
    Revoked { agent: String, reason: String },
    #[error(
        "{agent} is locked, for two boxes use its name{}. Stop one of the two and ask the operator to unlock the other \
         (`zerkalo agents unlock {agent}`), or enrol this box anew with a new token (`zerkalo-agent enroll --force`)",
        because(reason)
    )]
    Locked { agent: String, reason: String },
    #[error("{agent} is not locked; `zerkalo agents ls` shows who is")]
    NotLocked { agent: String },
}

impl IdentityRefusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "agent_unknown",
            Self::NoSuch { .. } => "unknown_agent",
            Self::Revoked { .. } => "agent_revoked",
            Self::Locked { .. } => "agent_locked",
            Self::NotLocked { .. } => "agent_not_locked",
        }
    }

    /// Why an agent without a say is not served.
    pub fn of(agent: &AgentState) -> Option<Self> {
        let (id, reason) = (agent.enrolment.agent.to_string(), agent.standing_reason.clone());
        match agent.standing {
            Standing::Good => None,
            Standing::Locked => Some(Self::Locked { agent: id, reason }),
            Standing::Revoked => Some(Self::Revoked { agent: id, reason }),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// A certificate shown, or asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub agent: AgentId,
    /// Of the certificate that is shown, or at hand.
    pub generation: u64,
    /// Of the certificate that is shown, or asked for.
    pub key: Sha256,
}

/// Whether an enrolment changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Enrolled,
    Nothing,
}

impl Plan<'_> {
    /// Enrols a box under a token that allows it, or finds it enrolled: its answer was lost, and it asks with the same keys.
    pub fn enrol_by(&mut self, claim: &Claim, token: &Token) -> Result<(Enrolment, News), TokenRefusal> {
        let asks_again = |known: &&AgentState| {
            let Generations { current, key, shown, .. } = known.generations;
            let is_unused = (current, key, shown) == (1, Some(claim.tls_key), 0);
            known.has_say() && is_unused && known.enrolment.key == claim.record_key
        };
        let known = token.used_by.as_ref().and_then(|agent| self.agent(agent)).filter(asks_again);
        if let Some(known) = known.filter(|_| clock::now() < token.expires_at) {
            return Ok((known.enrolment.clone(), News::Nothing));
        }
        token.check(&claim.declared, clock::now())?;
        let agent = self.new_agent(&token.station);
        let (owner, station) = (token.owner.clone(), token.station.clone());
        let enrolment = Enrolment { agent: agent.clone(), owner, station, key: claim.record_key };
        self.push(Event::Enrolled(enrolment.clone()));
        self.push(Event::Certified(Certified { agent, generation: 1, key: claim.tls_key }));
        Ok((enrolment, News::Enrolled))
    }

    /// The generation of an agent's next certificate. Asked for by two boxes, it locks the agent.
    pub fn certify(&mut self, holding: &Holding) -> Result<u64, IdentityRefusal> {
        let generations = self.generations(&holding.agent)?;
        match generations.next(holding.generation, &holding.key) {
            Ok(generation) => {
                let Holding { agent, key, .. } = holding.clone();
                if generation > generations.current {
                    let mut newer = generations;
                    newer.issue(generation, key, self.at());
                    self.certified.insert(agent.clone(), newer);
                    self.push(Event::Certified(Certified { agent, generation, key }));
                }
                Ok(generation)
            }
            Err(Twice) => {
                let held = holding.generation;
                let reason = format!("certificate generation {held} was renewed by another box before");
                Err(self.lock(&holding.agent, reason))
            }
        }
    }

    /// Looks at a certificate that opens a stream. One that another box is beyond locks the agent.
    pub fn show(&mut self, holding: &Holding) -> Result<u64, IdentityRefusal> {
        let Holding { agent, generation, key } = holding.clone();
        let mut generations = self.generations(&agent)?;
        let look = generations.look(generation, &key);
        match look {
            Shown::Known => return Ok(generation),
            Shown::Twice => {
                let reason = format!(
                    "a certificate of generation {generation} was shown after one of generation {}",
                    generations.current
                );
                return Err(self.lock(&agent, reason));
            }
            Shown::Ahead => {
                generations.issue(generation, key, self.at());
                self.push(Event::Certified(Certified { agent: agent.clone(), generation, key }));
            }
            Shown::New => {}
        }
        generations.show(generation);
        self.certified.insert(agent.clone(), generations);
        self.push(Event::Shown { agent, generation });
        Ok(generation)
    }

    /// Changes an agent's standing at a person's order.
    pub fn stand(&mut self, change: &StandingChange) -> Result<(), IdentityRefusal> {
        let agent = change.agent.to_string();
        let Some(known) = self.agent(&change.agent) else { return Err(IdentityRefusal::NoSuch { agent }) };
        let standing = self.standings.get(&change.agent).copied().unwrap_or(known.standing);
        match (standing, change.standing) {
            (Standing::Revoked, Standing::Revoked) => return Ok(()),
            (Standing::Revoked, _) => {
                let reason = known.standing_reason.clone();
                return Err(IdentityRefusal::Revoked { agent, reason });
            }
            (Standing::Good, Standing::Good) => return Err(IdentityRefusal::NotLocked { agent }),
            _ => {}
        }
        self.standings.insert(change.agent.clone(), change.standing);
        self.push(Event::Standing(change.clone()));
        Ok(())
    }

    /// Locks a copied agent, by the collector itself.
    fn lock(&mut self, agent: &AgentId, reason: String) -> IdentityRefusal {
        let change = StandingChange {
            agent: agent.clone(),
            standing: Standing::Locked,
            author: String::new(),
            reason: reason.clone(),
        };
        // Known, and with a say until now: checked by who calls.
        let _ = self.stand(&change);
        IdentityRefusal::Locked { agent: agent.to_string(), reason }
    }

    /// A record under a key used before, with other bytes, is another box's: nobody knows any more who speaks.
    pub fn lock_if_cloned(&mut self, agent: &AgentId, rejection: &Rejection) {
        if rejection.code == RejectionCode::ConflictingKey {
            self.lock(agent, "a record came under a number that another record has".to_owned());
        }
    }

    /// Why an agent is not served, with the group's own changes laid over.
    pub fn refusal_of(&self, agent: &AgentId) -> Option<IdentityRefusal> {
        let Some(known) = self.agent(agent) else {
            return Some(IdentityRefusal::Unknown { agent: agent.to_string() });
        };
        let reason = String::new();
        match self.standings.get(agent) {
            None => IdentityRefusal::of(known),
            Some(Standing::Good) => None,
            Some(Standing::Locked) => Some(IdentityRefusal::Locked { agent: agent.to_string(), reason }),
            Some(Standing::Revoked) => Some(IdentityRefusal::Revoked { agent: agent.to_string(), reason }),
        }
    }

    fn generations(&self, agent: &AgentId) -> Result<Generations, IdentityRefusal> {
        if let Some(refusal) = self.refusal_of(agent) {
            return Err(refusal);
        }
        let known = self.agent(agent).map(|known| known.generations.clone());
        Ok(self.certified.get(agent).cloned().or(known).unwrap_or_default())
    }
}
