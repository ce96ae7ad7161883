//! Who has a say: agents join, get certificates, are locked where two boxes use one name, and are revoked. Whoever has no
//! say leaves nothing behind in any cell.

use super::{AgentState, Fold, Outcome};
use crate::admission::ChainHead;
use crate::identity::{Certified, Generations, Standing, StandingChange};
use crate::journal::{Enrolment, Whereabouts};
use crate::market::{Alert, AlertKind, Line};
use crate::record::ProbeRecord;
use crate::words::{AgentId, Station, UnixMillis};

impl AgentState {
    /// Whether what it says counts.
    pub fn has_say(&self) -> bool {
        self.standing == Standing::Good
    }

    /// Notes what a record tells of its box's clock, unless a later one told before.
    pub(super) fn note_clock(&mut self, facts: &ProbeRecord, place: (u64, u64)) {
        let told = facts.network.as_ref().and_then(|network| network.clock_ahead_millis);
        if told.is_some() && place > self.clock_told_by {
            (self.clock_ahead_millis, self.clock_told_by) = (told, place);
        }
    }

    /// When it was last known to be one box that works: a record of it came, or a certificate was made for it.
    pub fn last_known_at(&self) -> UnixMillis {
        let record = self.last_record_at.unwrap_or_default();
        self.enrolled_at.max(self.generations.issued_at).max(record)
    }
}

impl Fold {
    pub(super) fn enrol(&mut self, enrolment: &Enrolment) {
        let state = AgentState {
            enrolment: enrolment.clone(),
            standing: Standing::Good,
            standing_since: UnixMillis::default(),
            standing_reason: String::new(),
            generations: Generations::default(),
            enrolled_at: self.at,
            head: ChainHead::default(),
            records: 0,
            dropped: 0,
            last_record_at: None,
            whereabouts: Whereabouts::default(),
            clock_ahead_millis: None,
            clock_told_by: (0, 0),
            boot: super::Boot::default(),
        };
        self.agents.insert(enrolment.agent.clone(), state);
    }

    /// As collectors wrote it that knew no reasons.
    pub(super) fn revoke(&mut self, agent: &AgentId) {
        self.stand(agent, Standing::Revoked, "");
    }

    /// Locks, unlocks or revokes; whoever loses their say is decided about without them at once.
    pub(super) fn change_standing(&mut self, change: &StandingChange) -> Outcome {
        let is_news = self.agents.get(&change.agent).is_some_and(|agent| agent.standing != change.standing);
        self.stand(&change.agent, change.standing, &change.reason);
        let alert = (is_news && change.standing == Standing::Locked).then(|| self.tell_locked(&change.agent));
        let mut outcome = self.decide(None);
        outcome.alerts.extend(alert.flatten());
        outcome
    }

    pub(super) fn note_certified(&mut self, certified: &Certified) {
        if let Some(agent) = self.agents.get_mut(&certified.agent) {
            agent.generations.issue(certified.generation, certified.key, self.at);
        }
    }

    pub(super) fn note_shown(&mut self, agent: &AgentId, generation: u64) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.generations.show(generation);
        }
    }

    fn stand(&mut self, agent: &AgentId, standing: Standing, reason: &str) {
        let Some(state) = self.agents.get_mut(agent) else { return };
        // For ever.
        if state.standing == Standing::Revoked {
            return;
        }
        state.standing = standing;
        state.standing_since = self.at;
        state.standing_reason = reason.to_owned();
        if standing == Standing::Good {
            return;
        }
        self.with_cells(|cell, policy| cell.forget(agent, policy));
        self.docket.forget(agent);
        self.forget_silence();
    }

    /// A carrier on which nobody is left to be heard is not shut down: nobody knows.
    fn forget_silence(&mut self) {
        let agents = &self.agents;
        self.silence.carriers.retain(|carrier, _| {
            let stands_there = |agent: &AgentState| match &agent.enrolment.station {
                Station::Field { carrier: own, .. } => own == carrier,
                Station::Control => false,
            };
            agents.values().any(|agent| agent.has_say() && stands_there(agent))
        });
        self.silence.deadline = Some(self.at);
    }

    fn tell_locked(&mut self, id: &AgentId) -> Option<Alert> {
        let agent = self.agents.get(id)?;
        let (owner, reason) = (agent.enrolment.owner.clone(), agent.standing_reason.clone());
        let carrier = match &agent.enrolment.station {
            Station::Field { carrier, .. } => Some(carrier.clone()),
            Station::Control => None,
        };
        let catalogue = self.settings.catalogue();
        let own = carrier.as_ref().and_then(|carrier| catalogue.carrier(carrier));
        // A control works for all markets: people of the first are told.
        let market =
            own.map(|carrier| &carrier.market).or(catalogue.markets().first().map(|market| &market.id));
        let market = market?.clone();
        let line = locked(id, owner.as_str(), &reason);
        Some(self.alert(AlertKind::AgentLocked, &market, None, carrier.into_iter().collect(), [line]))
    }
}

fn locked(id: &AgentId, owner: &str, reason: &str) -> Line {
    Line {
        en: format!(
            "agent {id} of {owner} is locked, for two boxes use its name ({reason}): nothing it says counts. Stop one of \
             the two, then `zerkalo agents unlock {id}`, or revoke it and enrol a box anew"
        ),
        ru: format!(
            "агент {id} (участник {owner}) заперт: под его именем работают две машины ({reason}), его данные не \
             учитываются. Остановите одну из них, затем `zerkalo agents unlock {id}`, либо отзовите агента и \
             зарегистрируйте машину заново"
        ),
        kk: format!(
            "{id} агенті ({owner} қатысушысы) құлыпталды: оның атымен екі машина жұмыс істейді ({reason}), деректері \
             есепке алынбайды. Бірін тоқтатыңыз, содан кейін `zerkalo agents unlock {id}`, немесе агентті кері қайтарып, \
             машинаны қайта тіркеңіз"
        ),
    }
}
