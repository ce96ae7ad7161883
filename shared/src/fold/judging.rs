//! From records to evidence in cells: failed records wait on the docket for a control measured after them.
//!
//! A control that answered before the failure proves nothing: the site may have gone down in between. So a failed
//! record is judged with a control that *began* after it began; without one in time it is `insufficient`. Once a control
//! has spoken, the record still waits a little for the other controls at work, and for a control's visit to the very
//! addresses the agent got.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::Fold;
use super::shelf::Shelf;
use crate::admission;
use crate::cell::{Evidence, News};
use crate::judge::{
    Case, Home, Standing, addresses_tried, elsewhere, field_addresses, has_read_large_page, judge, standing,
    unvisited, wants_control,
};
use crate::ledger::Scene;
use crate::record::{Cause, ProbeRecord};
use crate::target::{Mirror, Sha256};
use crate::verdict::{Outcome, Verdict};
use crate::words::{
    Access, AgentId, CarrierId, Country, MarketId, MirrorId, OwnerId, Station, UnixMillis, Vicinity,
};

/// Control records kept for each mirror: a window's of several controls.
const CONTROLS_MAX: usize = 128;
/// Those that began this long before the newest speak for no record that may still be judged again, in seconds.
const CONTROLS_SECS: u64 = 3_600;
/// Failed records that may wait for one mirror; the oldest goes without a control.
const WAITING_MAX: usize = 4_096;
/// How long a record waits on after a control has spoken: a visit that fails lasts up to 40 s.
const SECOND_WORD_WAIT_SECS: u64 = 45;
/// A control silent for longer is not waited for: three intervals of 60 s.
const CONTROL_SILENT_SECS: u64 = 180;

/// An agent's record with its hash and its place in time, by the collector's clock.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) agent: AgentId,
    hash: Sha256,
    pub(super) began_at: UnixMillis,
    pub(super) ended_at: UnixMillis,
    facts: ProbeRecord,
}

#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) measured: Measured,
    /// When it is judged with what there is.
    until: UnixMillis,
    /// A control that began later says nothing about it.
    pub(super) spoken_for_until: UnixMillis,
}

/// What became of one visit, for who watches verdicts go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedVisit {
    pub agent: AgentId,
    pub market: MarketId,
    pub carrier: CarrierId,
    pub mirror: MirrorId,
    /// When it ended.
    pub at: UnixMillis,
    pub outcome: Outcome,
    pub duration_millis: u64,
}

/// Records that wait, and the controls they wait for.
#[derive(Debug, Default)]
pub(super) struct Docket {
    waiting: BTreeMap<MirrorId, VecDeque<Waiting>>,
    /// In the order of their beginnings.
    controls: BTreeMap<MirrorId, VecDeque<Measured>>,
    pub(super) shelf: Shelf,
}

impl Docket {
    pub(super) fn next_deadline(&self) -> Option<UnixMillis> {
        self.waiting.values().flatten().map(|waiting| waiting.until).min()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&MirrorId) -> bool) {
        self.waiting.retain(|mirror, _| keep(mirror));
        self.controls.retain(|mirror, _| keep(mirror));
        self.shelf.retain(keep);
    }

    /// Drops what an agent said, for itself or as a control.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        for queue in self.waiting.values_mut() {
            queue.retain(|waiting| waiting.measured.agent != *agent);
        }
        for queue in self.controls.values_mut() {
            queue.retain(|control| control.agent != *agent);
        }
        self.shelf.forget(agent);
    }

    /// Puts a control's record in its place.
    fn put_control(&mut self, mirror: &MirrorId, control: Measured) {
        let controls = self.controls.entry(mirror.clone()).or_default();
        let key = |control: &Measured| (control.began_at, control.hash);
        let place = controls.partition_point(|other| key(other) <= key(&control));
        controls.insert(place, control);
        let newest = controls.back().map_or(UnixMillis::default(), |newest| newest.began_at);
        while controls.len() > CONTROLS_MAX
            || controls.front().is_some_and(|oldest| oldest.began_at.plus_secs(CONTROLS_SECS) < newest)
        {
            controls.pop_front();
        }
    }

    /// What each control recorded of the mirror since the agent's visit began: its best record, the best control first.
    /// Best is who reached the mirror: one that failed where another did not may speak of itself; then who read the large page,
    /// where the agent did; then who visited more of its addresses; then who spoke first.
    fn controls_for(&self, id: &MirrorId, mirror: Option<&Mirror>, waiting: &Waiting) -> Vec<&Measured> {
        let record = &waiting.measured;
        let mut best: BTreeMap<&AgentId, (Rank, &Measured)> = BTreeMap::new();
        for control in self.controls.get(id).into_iter().flatten() {
            if control.began_at < record.began_at || control.began_at > waiting.spoken_for_until {
                continue;
            }
            let left_out = unvisited(&record.facts, &control.facts).len();
            let lacks_large = has_read_large_page(&record.facts) && !has_read_large_page(&control.facts);
            let rank = (standing(&control.facts, mirror), lacks_large, left_out, control.began_at);
            if best.get(&control.agent).is_none_or(|(other, _)| rank < *other) {
                best.insert(&control.agent, (rank, control));
            }
        }
        let mut ranked: Vec<_> = best.into_values().collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, control)| control).collect()
    }
}

/// The lower, the better.
type Rank = (Standing, bool, usize, UnixMillis);

impl Fold {
    /// Keeps what becomes of each visit from now on, until it is taken.
    pub fn keep_verdicts(&mut self) {
        self.judged.get_or_insert_default();
    }

    /// The visits judged since the last call, where they are kept.
    pub fn take_verdicts(&mut self) -> Vec<JudgedVisit> {
        self.judged.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes an admitted record in.
    pub(super) fn judge_record(&mut self, agent: &AgentId, hash: Sha256, facts: &ProbeRecord) {
        let Some(mirror) = facts.mirror.clone() else { return };
        // A record spooled before the list gave the mirror another URL says nothing about the new one.
        if self.list().and_then(|list| list.mirror(&mirror)).is_none_or(|listed| listed.url != facts.url) {
            return;
        }
        let measured = self.place_in_time(agent, hash, facts);
        // Who was revoked may still have a stream open; its records count for nothing.
        let known = self.agents.get(agent).filter(|agent| agent.has_say());
        match known.map(|agent| agent.enrolment.station.clone()) {
            // A control within a carrier's network is none.
            Some(Station::Control) if self.elsewhere(agent).is_some() => {}
            Some(Station::Control) => {
                self.ledger.note_control(&measured.facts, &mirror);
                let began_at = measured.began_at;
                self.docket.put_control(&mirror, measured);
                self.judge_waiting(&mirror);
                self.judge_again(&mirror, began_at);
            }
            Some(Station::Field { carrier, access }) => {
                if let Some(asn) = self.elsewhere(agent) {
                    let (until, spoken_for_until) = (measured.began_at, measured.began_at);
                    let waiting = Waiting { measured, until, spoken_for_until };
                    return self.observe(&waiting, &mirror, elsewhere(asn, &carrier));
                }
                self.note_interception(&measured, &carrier, access);
                let alone = self.verdict(&measured, &mirror, &[]);
                let wait = self
                    .settings
                    .policy_of_carrier(&carrier)
                    .map_or(0, |policy| policy.cell.control_wait_secs);
                let until = measured.began_at.plus_secs(wait);
                self.file(Waiting { measured, until, spoken_for_until: until }, &mirror, alone);
            }
            None => {}
        }
    }

    fn note_interception(&mut self, measured: &Measured, carrier: &CarrierId, access: Access) {
        let id = measured.facts.mirror.as_ref();
        // Borrowed apart: the ledger changes, the list and the settings do not.
        let Self { list, ledger, settings, .. } = self;
        let Some(mirror) = list.as_ref().zip(id).and_then(|((_, list), id)| list.mirror(id)) else { return };
        let scene = Scene { mirror, carrier, access, at: measured.ended_at };
        ledger.note(&measured.facts, scene, settings.fingerprints());
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
            self.close(waiting, &mirror, verdict);
        }
    }

    /// Judges a field record at once where its facts or a control suffice, else lets it wait. What restricts the network
    /// waits for no control, but hears one that has spoken.
    fn file(&mut self, mut waiting: Waiting, mirror: &MirrorId, alone: Verdict) {
        let helps = wants_control(&alone) || matches!(alone.outcome, Outcome::Ok | Outcome::Restricted);
        let heard = if helps { self.controls_for(&waiting, mirror) } else { Vec::new() };
        let verdict = if helps { self.verdict(&waiting.measured, mirror, &heard) } else { alone };
        let Some(until) = self.waits_until(&waiting, &verdict, &heard) else {
            // What needs no control hears none that comes later either.
            return if helps {
                self.close(waiting, mirror, verdict)
            } else {
                self.observe(&waiting, mirror, verdict)
            };
        };
        waiting.until = until;
        let addresses = field_addresses(&waiting.measured.facts);
        let first_failure = self.carrier_of_first_failure(&waiting, mirror);
        let began_at = waiting.measured.began_at;
        let agent = waiting.measured.agent.clone();
        let queue = self.docket.waiting.entry(mirror.clone()).or_default();
        queue.push_back(waiting);
        if queue.len() > WAITING_MAX
            && let Some(oldest) = queue.pop_front()
        {
            let verdict = self.best_verdict(&oldest, mirror);
            self.close(oldest, mirror, verdict);
        }
        self.ask_controls(mirror, &addresses, began_at);
        if let Some(carrier) = first_failure {
            self.ask_around(mirror, &carrier, &agent);
        }
    }

    /// The carrier of a field agent whose visit failed just now, where its owner's last word was none of a failure.
    fn carrier_of_first_failure(&self, waiting: &Waiting, mirror: &MirrorId) -> Option<CarrierId> {
        let enrolment = &self.agents.get(&waiting.measured.agent)?.enrolment;
        let Station::Field { carrier, access } = &enrolment.station else { return None };
        let policy = self.settings.policy_of_carrier(carrier)?;
        let is_recent = waiting.measured.ended_at.plus_secs(policy.cell.stale_after_secs) > self.at;
        let cell = self.cells.get(mirror).and_then(|cells| cells.get(&(carrier.clone(), *access)));
        let last = cell.and_then(|cell| cell.last_outcome(&enrolment.owner));
        let was_well =
            last.is_none_or(|last| matches!(last, Outcome::Ok | Outcome::Impaired | Outcome::Refused));
        (is_recent && was_well).then(|| carrier.clone())
    }

    /// Judges those who waited for a control that has come; where its own network is in doubt, another may still speak.
    fn judge_waiting(&mut self, mirror: &MirrorId) {
        let queue = self.docket.waiting.get_mut(mirror).map(std::mem::take).unwrap_or_default();
        let mut left_out = Vec::new();
        for mut waiting in queue {
            let heard = self.controls_for(&waiting, mirror);
            let verdict = self.verdict(&waiting.measured, mirror, &heard);
            if let Some(until) = self.waits_until(&waiting, &verdict, &heard) {
                left_out.extend(left_out_of(&waiting, &heard));
                waiting.until = until;
                self.docket.waiting.entry(mirror.clone()).or_default().push_back(waiting);
            } else {
                self.close(waiting, mirror, verdict);
            }
        }
        if !left_out.is_empty() {
            self.ask_controls(mirror, &left_out, UnixMillis::default());
        }
    }

    /// Until when a record waits on, with a verdict by these controls in hand; `None`: it is judged now.
    fn waits_until(&self, waiting: &Waiting, verdict: &Verdict, heard: &[&Measured]) -> Option<UnixMillis> {
        let may_change = matches!(verdict.outcome, Outcome::Blocked | Outcome::Down | Outcome::Insufficient);
        let until = if wants_control(verdict) {
            waiting.until
        } else if verdict.control.is_some() && may_change && self.is_word_missing(waiting, heard) {
            waiting.until.min(self.at.plus_secs(SECOND_WORD_WAIT_SECS))
        } else {
            return None;
        };
        (until > self.at).then_some(until)
    }

    /// Whether a control at work has not spoken yet, or none has gone to the agent's addresses.
    fn is_word_missing(&self, waiting: &Waiting, heard: &[&Measured]) -> bool {
        let is_at_work = |agent: &super::AgentState| {
            let last = agent.last_record_at.unwrap_or_default();
            agent.has_say()
                && agent.enrolment.station == Station::Control
                && agent.elsewhere(self.settings.catalogue()).is_none()
                && self.at.since_millis(last) <= CONTROL_SILENT_SECS * 1_000
        };
        let is_heard = |id: &AgentId| heard.iter().any(|control| control.agent == *id);
        self.agents.iter().any(|(id, agent)| is_at_work(agent) && !is_heard(id))
            || !left_out_of(waiting, heard).is_empty()
    }

    fn controls_for(&self, waiting: &Waiting, mirror: &MirrorId) -> Vec<&Measured> {
        let listed = self.list().and_then(|list| list.mirror(mirror));
        self.docket.controls_for(mirror, listed, waiting)
    }

    pub(super) fn best_verdict(&self, waiting: &Waiting, mirror: &MirrorId) -> Verdict {
        self.verdict(&waiting.measured, mirror, &self.controls_for(waiting, mirror))
    }

    /// The verdict with these controls, the best first.
    fn verdict(&self, measured: &Measured, mirror: &MirrorId, controls: &[&Measured]) -> Verdict {
        let words: Vec<_> = controls.iter().map(|control| (control.hash, &control.facts)).collect();
        judge(&Case {
            record: &measured.facts,
            control: words.first().copied(),
            others: words.get(1..).unwrap_or_default(),
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

    /// Judges a record, for now: it goes on the shelf for controls that are still on their way.
    fn close(&mut self, waiting: Waiting, mirror: &MirrorId, verdict: Verdict) {
        self.observe(&waiting, mirror, verdict.clone());
        self.shelve(waiting, mirror, verdict);
    }

    fn observe(&mut self, waiting: &Waiting, mirror: &MirrorId, verdict: Verdict) {
        let Some(agent) = self.agents.get(&waiting.measured.agent).filter(|agent| agent.has_say()) else {
            return;
        };
        let Station::Field { carrier, access } = &agent.enrolment.station else { return };
        let Some(policy) = self.settings.policy_of_carrier(carrier) else { return };
        let vicinity = agent.whereabouts.vicinity.filter(|_| policy.cell.joins_vicinities(*access));
        let evidence = self.evidence(waiting, mirror, verdict, vicinity);
        if let Some(judged) = &mut self.judged {
            judged.push(JudgedVisit {
                agent: evidence.agent.clone(),
                market: policy.market.clone(),
                carrier: carrier.clone(),
                mirror: mirror.clone(),
                at: evidence.at,
                outcome: evidence.verdict.outcome,
                duration_millis: waiting.measured.facts.duration_micros / 1_000,
            });
        }
        let owner: &OwnerId = &agent.enrolment.owner;
        let cells = self.cells.entry(mirror.clone()).or_default();
        let cell = cells.entry((carrier.clone(), *access)).or_default();
        let is_recent = evidence.at.plus_secs(policy.cell.stale_after_secs) > self.at;
        if cell.observe(owner, evidence, &policy.cell) != News::Nothing && is_recent {
            let carrier = carrier.clone();
            self.ask_around(mirror, &carrier, &waiting.measured.agent);
        }
    }

    pub(super) fn evidence(
        &self,
        waiting: &Waiting,
        mirror: &MirrorId,
        verdict: Verdict,
        vicinity: Option<Vicinity>,
    ) -> Evidence {
        let Measured { agent, hash, ended_at, facts, .. } = &waiting.measured;
        let listed = self.list().and_then(|list| list.mirror(mirror));
        let addresses = addresses_tried(facts, listed, &verdict);
        Evidence { agent: agent.clone(), record: *hash, at: *ended_at, verdict, vicinity, addresses }
    }

    fn place_in_time(&self, agent: &AgentId, hash: Sha256, facts: &ProbeRecord) -> Measured {
        let by_steady = self.agents.get(agent).and_then(|agent| agent.boot.ended_at());
        let ended_at = admission::ended_at(facts, by_steady, self.at);
        let began_at = ended_at.minus_millis(facts.duration_micros.div_ceil(1000));
        Measured { agent: agent.clone(), hash, began_at, ended_at, facts: facts.clone() }
    }
}

/// The agent's addresses that the best control has not gone to. One that was asked after the visit and did not go there
/// will not.
fn left_out_of(waiting: &Waiting, heard: &[&Measured]) -> Vec<IpAddr> {
    let record = &waiting.measured;
    let was_asked =
        |control: &Measured| control.facts.cause == Cause::Requested && control.began_at >= record.ended_at;
    match heard.first() {
        Some(best) if !was_asked(best) => unvisited(&record.facts, &best.facts),
        _ => Vec::new(),
    }
}
