//! From records to evidence in cells: failed records wait on the docket for a control measured after them.
//!
//! A control that answered before the failure proves nothing: the site may have gone down in between. So a failed
//! record is judged with the first control that *began* after it began; without one in time it is `insufficient`.

use std::collections::{BTreeMap, VecDeque};

use super::Fold;
use crate::cell::{Evidence, News};
use crate::judge::{CONTROL_MISSING, Case, Home, has_reached, judge, wants_control};
use crate::record::ProbeRecord;
use crate::target::{Mirror, Sha256};
use crate::verdict::{Outcome, Verdict};
use crate::words::{AgentId, Country, MirrorId, OwnerId, Station, UnixMillis};

/// A record that arrives this much later than it says it ended was spooled: then its own clock is believed.
const SPOOLED_AFTER_MILLIS: u64 = 60_000;
/// Control records kept for each mirror: some minutes of several controls.
const CONTROLS_MAX: usize = 16;
/// Failed records that may wait for one mirror; the oldest goes without a control.
const WAITING_MAX: usize = 4_096;

/// An agent's record with its hash and its place in time, by the collector's clock.
#[derive(Debug, Clone)]
struct Measured {
    agent: AgentId,
    hash: Sha256,
    began_at: UnixMillis,
    ended_at: UnixMillis,
    facts: ProbeRecord,
}

#[derive(Debug, Clone)]
struct Waiting {
    measured: Measured,
    until: UnixMillis,
}

/// Records that wait, and the controls they wait for.
#[derive(Debug, Default)]
pub(super) struct Docket {
    waiting: BTreeMap<MirrorId, VecDeque<Waiting>>,
    controls: BTreeMap<MirrorId, VecDeque<Measured>>,
}

impl Docket {
    pub(super) fn next_deadline(&self) -> Option<UnixMillis> {
        self.waiting.values().flatten().map(|waiting| waiting.until).min()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.waiting.retain(|mirror, _| keep(mirror));
        self.controls.retain(|mirror, _| keep(mirror));
    }

    /// Drops what an agent said, for itself or as a control.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        for queue in self.waiting.values_mut() {
            queue.retain(|waiting| waiting.measured.agent != *agent);
        }
        for queue in self.controls.values_mut() {
            queue.retain(|control| control.agent != *agent);
        }
    }

    /// The first control that began within `[began_at, until]` and reached the mirror; else the first of all. One that
    /// failed where another did not speaks of itself.
    fn control_for(
        &self,
        id: &MirrorId,
        mirror: Option<&Mirror>,
        began_at: UnixMillis,
        until: UnixMillis,
    ) -> Option<&Measured> {
        self.controls
            .get(id)?
            .iter()
            .filter(|control| control.began_at >= began_at && control.began_at <= until)
            .min_by_key(|control| (!has_reached(&control.facts, mirror), control.began_at))
    }
}

impl Fold {
    /// Takes an admitted record in.
    pub(super) fn judge_record(&mut self, agent: &AgentId, hash: Sha256, facts: &ProbeRecord) {
        let Some(mirror) = facts.mirror.clone() else { return };
        // A record spooled before the list gave the mirror another URL says nothing about the new one.
        if self.list().and_then(|list| list.mirror(&mirror)).is_none_or(|listed| listed.url != facts.url) {
            return;
        }
        let measured = self.place_in_time(agent, hash, facts);
        // Who was revoked may still have a stream open; its records count for nothing.
        let known = self.agents.get(agent).filter(|agent| !agent.revoked);
        match known.map(|agent| agent.enrolment.station.clone()) {
            Some(Station::Control) => {
                let controls = self.docket.controls.entry(mirror.clone()).or_default();
                controls.push_back(measured);
                if controls.len() > CONTROLS_MAX {
                    controls.pop_front();
                }
                self.judge_waiting(&mirror);
            }
            Some(Station::Field { carrier, .. }) => {
                let alone = self.verdict(&measured, &mirror, None);
                let wait = self
                    .settings
                    .policy_of_carrier(&carrier)
                    .map_or(0, |policy| policy.cell.control_wait_secs);
                let until = measured.began_at.plus_secs(wait);
                self.file(Waiting { measured, until }, &mirror, alone);
            }
            None => {}
        }
    }

    /// Judges what has waited long enough, with the best control there is, or without any.
    pub(super) fn judge_overdue(&mut self) {
        let now = self.at;
        let mut overdue = Vec::new();
        for (mirror, queue) in &mut self.docket.waiting {
            let (late, rest): (Vec<_>, Vec<_>) = queue.drain(..).partition(|waiting| waiting.until <= now);
            queue.extend(rest);
            overdue.extend(late.into_iter().map(|waiting| (mirror.clone(), waiting)));
        }
        for (mirror, waiting) in overdue {
            let verdict = self.best_verdict(&waiting, &mirror);
            self.observe(&waiting, &mirror, verdict);
        }
    }

    /// Judges a field record at once where its facts or a control suffice, else lets it wait. What restricts the network
    /// waits for no control, but hears one that has spoken.
    fn file(&mut self, waiting: Waiting, mirror: &MirrorId, alone: Verdict) {
        let helps =
            alone.rule == CONTROL_MISSING || matches!(alone.outcome, Outcome::Ok | Outcome::Restricted);
        let verdict = if helps { self.best_verdict(&waiting, mirror) } else { alone };
        if wants_control(&verdict) && waiting.until > self.at {
            let queue = self.docket.waiting.entry(mirror.clone()).or_default();
            queue.push_back(waiting);
            if queue.len() > WAITING_MAX
                && let Some(oldest) = queue.pop_front()
            {
                let verdict = self.best_verdict(&oldest, mirror);
                self.observe(&oldest, mirror, verdict);
            }
            self.ask_controls(mirror);
        } else {
            self.observe(&waiting, mirror, verdict);
        }
    }

    /// Judges those who waited for a control that has come; where its own network is in doubt, another may still speak.
    fn judge_waiting(&mut self, mirror: &MirrorId) {
        let queue = self.docket.waiting.get_mut(mirror).map(std::mem::take).unwrap_or_default();
        for waiting in queue {
            let verdict = self.best_verdict(&waiting, mirror);
            if wants_control(&verdict) {
                self.docket.waiting.entry(mirror.clone()).or_default().push_back(waiting);
            } else {
                self.observe(&waiting, mirror, verdict);
            }
        }
    }

    fn best_verdict(&self, waiting: &Waiting, mirror: &MirrorId) -> Verdict {
        let listed = self.list().and_then(|list| list.mirror(mirror));
        let control = self.docket.control_for(mirror, listed, waiting.measured.began_at, waiting.until);
        self.verdict(&waiting.measured, mirror, control)
    }

    fn verdict(&self, measured: &Measured, mirror: &MirrorId, control: Option<&Measured>) -> Verdict {
        judge(&Case {
            record: &measured.facts,
            control: control.map(|control| (control.hash, &control.facts)),
            mirror: self.list().and_then(|list| list.mirror(mirror)),
            fingerprints: self.settings.fingerprints(),
            country: self.country_of(&measured.agent),
            home: self.home_of(&measured.agent),
        })
    }

    /// The country of the agent's carrier.
    fn country_of(&self, agent: &AgentId) -> Option<Country> {
        match &self.agents.get(agent)?.enrolment.station {
            Station::Field { carrier, .. } => {
                Country::of_market(&self.settings.catalogue().carrier(carrier)?.market)
            }
            Station::Control => None,
        }
    }

    /// The network of the agent's carrier.
    fn home_of(&self, agent: &AgentId) -> Option<Home<'_>> {
        match &self.agents.get(agent)?.enrolment.station {
            Station::Field { carrier, .. } => {
                let carrier = self.settings.catalogue().carrier(carrier)?;
                Some(Home { carrier, networks: self.settings.networks() })
            }
            Station::Control => None,
        }
    }

    fn observe(&mut self, waiting: &Waiting, mirror: &MirrorId, verdict: Verdict) {
        let Some(agent) = self.agents.get(&waiting.measured.agent).filter(|agent| !agent.revoked) else {
            return;
        };
        let Station::Field { carrier, access } = &agent.enrolment.station else { return };
        let Some(policy) = self.settings.policy_of_carrier(carrier) else { return };
        let evidence = Evidence {
            agent: waiting.measured.agent.clone(),
            record: waiting.measured.hash,
            at: waiting.measured.ended_at,
            verdict,
        };
        let owner: &OwnerId = &agent.enrolment.owner;
        let cells = self.cells.entry(mirror.clone()).or_default();
        let cell = cells.entry((carrier.clone(), *access)).or_default();
        if cell.observe(owner, evidence, &policy.cell) == News::FirstBlocked {
            let carrier = carrier.clone();
            self.ask_carrier(mirror, &carrier, &waiting.measured.agent);
        }
    }

    fn place_in_time(&self, agent: &AgentId, hash: Sha256, facts: &ProbeRecord) -> Measured {
        let claimed = facts.ended_at();
        let spooled = self.at.since_millis(claimed) > SPOOLED_AFTER_MILLIS;
        let ended_at = if spooled { claimed } else { self.at };
        let began_at = ended_at.minus_millis(facts.duration_micros.div_ceil(1000));
        Measured { agent: agent.clone(), hash, began_at, ended_at, facts: facts.clone() }
    }
}
