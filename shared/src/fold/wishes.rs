//! Whom to ask for a fresh look, now: the control when a record failed, the carrier's other owners when one owner first
//! sees a block. A wish is no decision: it is not journaled, and whoever is asked keeps to its own budget.

use std::collections::BTreeMap;

use super::Fold;
use crate::words::{AgentId, CarrierId, MirrorId, Station, UnixMillis};

/// One agent is asked about one mirror at most once in this time: more would be the burst a censor polices.
const ASK_AGAIN_SECS: u64 = 30;
/// Wishes that wait to be taken: more than every agent of a market; the rest is dropped, the schedule asks them anyway.
const WISHES_MAX: usize = 4_096;

/// An agent that should measure a mirror at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub agent: AgentId,
    pub mirror: MirrorId,
}

/// Wishes not yet taken, and when each was last made.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    open: Vec<Wish>,
    asked: BTreeMap<(MirrorId, AgentId), UnixMillis>,
}

impl Wishes {
    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.open.retain(|wish| keep(&wish.mirror));
        self.asked.retain(|(mirror, _), _| keep(mirror));
    }
}

impl Fold {
    /// The wishes made since the last call. Who does not carry them out may drop them.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes.open)
    }

    /// Asks every control.
    pub(super) fn ask_controls(&mut self, mirror: &MirrorId) {
        self.ask(mirror, |station, _| *station == Station::Control);
    }

    /// Asks everyone on the carrier but the agent that spoke, and every control.
    pub(super) fn ask_carrier(&mut self, mirror: &MirrorId, carrier: &CarrierId, spoke: &AgentId) {
        self.ask(mirror, |station, agent| match station {
            Station::Control => true,
            Station::Field { carrier: own, .. } => own == carrier && agent != spoke,
        });
    }

    fn ask(&mut self, mirror: &MirrorId, chosen: impl Fn(&Station, &AgentId) -> bool) {
        let now = self.at;
        for (agent, state) in &self.agents {
            let wanted = !state.revoked && chosen(&state.enrolment.station, agent);
            if !wanted || self.wishes.open.len() >= WISHES_MAX {
                continue;
            }
            let last = self.wishes.asked.entry((mirror.clone(), agent.clone())).or_default();
            if *last == UnixMillis::default() || now >= last.plus_secs(ASK_AGAIN_SECS) {
                *last = now;
                self.wishes.open.push(Wish { agent: agent.clone(), mirror: mirror.clone() });
            }
        }
    }
}
