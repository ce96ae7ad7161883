//! Records judged, kept while their evidence can still be re-opened: a control's record that arrives late, and speaks for one
//! of them, judges it again. So a verdict is a function of the record and of the set of its controls, in whatever order they
//! came.

use std::collections::{BTreeMap, VecDeque};

use super::Fold;
use super::judging::Waiting;
use crate::verdict::Verdict;
use crate::words::{AgentId, MirrorId, OwnerId, Station, UnixMillis, Vicinity};

/// Records kept for one mirror: as many as a cell's window holds. The oldest goes with the verdict it has.
const SHELF_LEN_MAX: usize = 1_024;

/// Records judged, by mirror, with their verdicts.
#[derive(Debug, Default)]
pub(super) struct Shelf(BTreeMap<MirrorId, VecDeque<Shelved>>);

#[derive(Debug)]
struct Shelved {
    waiting: Waiting,
    verdict: Verdict,
    /// As its evidence has it.
    vicinity: Option<Vicinity>,
}

impl Shelf {
    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.0.retain(|mirror, _| keep(mirror));
    }

    pub(super) fn forget(&mut self, agent: &AgentId) {
        for records in self.0.values_mut() {
            records.retain(|shelved| shelved.waiting.measured.agent != *agent);
        }
    }
}

impl Fold {
    /// Keeps a record for controls that are still on their way.
    pub(super) fn shelve(&mut self, waiting: Waiting, mirror: &MirrorId, verdict: Verdict) {
        let Some((_, vicinity)) = self.voice_of(&waiting) else { return };
        let now = self.at;
        let records = self.docket.shelf.0.entry(mirror.clone()).or_default();
        records.push_back(Shelved { waiting, verdict, vicinity });
        if records.len() > SHELF_LEN_MAX {
            records.pop_front();
        }
        // Those that arrived late may leave late.
        let window_end = |shelved: &Shelved| {
            let measured = &shelved.waiting.measured;
            let agent = self.agents.get(&measured.agent)?;
            let Station::Field { carrier, .. } = &agent.enrolment.station else { return None };
            Some(measured.ended_at.plus_secs(self.settings.policy_of_carrier(carrier)?.cell.window_secs))
        };
        while records.front().is_some_and(|oldest| window_end(oldest).is_none_or(|end| end < now)) {
            records.pop_front();
        }
    }

    /// Judges again what a control's record, which began at `began_at`, speaks for.
    pub(super) fn judge_again(&mut self, mirror: &MirrorId, began_at: UnixMillis) {
        let mut records = self.docket.shelf.0.remove(mirror).unwrap_or_default();
        for shelved in &mut records {
            let waiting = &shelved.waiting;
            if began_at < waiting.measured.began_at || began_at > waiting.spoken_for_until {
                continue;
            }
            let verdict = self.best_verdict(waiting, mirror);
            if verdict == shelved.verdict {
                continue;
            }
            shelved.verdict = verdict.clone();
            let evidence = self.evidence(waiting, mirror, verdict, shelved.vicinity);
            let Some((owner, _)) = self.voice_of(waiting) else { continue };
            self.amend(waiting, mirror, &owner, evidence);
        }
        self.docket.shelf.0.insert(mirror.clone(), records);
    }

    fn amend(
        &mut self,
        waiting: &Waiting,
        mirror: &MirrorId,
        owner: &OwnerId,
        evidence: crate::cell::Evidence,
    ) {
        let Some(agent) = self.agents.get(&waiting.measured.agent) else { return };
        let Station::Field { carrier, access } = &agent.enrolment.station else { return };
        let Some(policy) = self.settings.policy_of_carrier(carrier) else { return };
        let cells = self.cells.get_mut(mirror).into_iter();
        cells
            .flat_map(|cells| cells.get_mut(&(carrier.clone(), *access)))
            .for_each(|cell| cell.amend(owner, evidence.clone(), &policy.cell));
    }

    /// Who speaks in a field record, and with whom as one.
    fn voice_of(&self, waiting: &Waiting) -> Option<(OwnerId, Option<Vicinity>)> {
        let agent = self.agents.get(&waiting.measured.agent).filter(|agent| agent.has_say())?;
        let Station::Field { carrier, access } = &agent.enrolment.station else { return None };
        let policy = self.settings.policy_of_carrier(carrier)?;
        let vicinity = agent.whereabouts.vicinity.filter(|_| policy.cell.joins_vicinities(*access));
        Some((agent.enrolment.owner.clone(), vicinity))
    }
}
