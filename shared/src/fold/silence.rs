//! Silence speaks: where several owners of a carrier fall silent at once while others are heard, its network may be shut down.
//! That is said to people; it is never a block, and no cell knows of it.

use std::collections::{BTreeMap, BTreeSet};

use super::Fold;
use crate::market::{Alert, AlertKind, Line};
use crate::words::{CarrierId, OwnerId, Station, UnixMillis};

/// Owners heard in this time are those who could have spoken.
const ACTIVE_SECS: u64 = 3_600;
/// Fewer owners than this fall silent by chance.
const OWNERS_MIN: usize = 2;

/// Carriers that may be shut down, and when to look again.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Since when.
    pub(super) carriers: BTreeMap<CarrierId, UnixMillis>,
    /// The last record of anybody.
    heard_at: UnixMillis,
    /// The first record after nobody was heard: then it was the collector that could not hear.
    resumed_at: UnixMillis,
    /// No owner falls silent before.
    pub(super) deadline: Option<UnixMillis>,
}

/// The owners of a carrier who could have spoken: when each was last heard.
type Heard = BTreeMap<OwnerId, UnixMillis>;

impl Fold {
    /// Notes that an agent was heard.
    pub(super) fn note_heard(&mut self, agent: &crate::words::AgentId) {
        let now = self.at;
        let (carrier, policy) = match self.agents.get(agent).map(|agent| &agent.enrolment.station) {
            Some(Station::Field { carrier, .. }) => (Some(carrier), self.settings.policy_of_carrier(carrier)),
            _ => (None, self.settings.policies().first()),
        };
        let Some(policy) = policy else { return };
        let (silent_secs, pause_secs) = (policy.cell.stale_after_secs, policy.cell.stale_after_secs / 2);
        if now > self.silence.heard_at.plus_secs(pause_secs) {
            self.silence.resumed_at = now;
        }
        self.silence.heard_at = now;
        // Looked at well before anybody can have fallen silent, so that time alone need not be journaled.
        let is_near = self.silence.deadline.is_none_or(|at| now.plus_secs(silent_secs / 2) >= at);
        if is_near || carrier.is_some_and(|carrier| self.silence.carriers.contains_key(carrier)) {
            self.silence.deadline = Some(now);
        }
    }

    /// Looks who has fallen silent, where it is time; tells what changed.
    pub(super) fn hear_silence(&mut self) -> Vec<Alert> {
        if self.is_stopped() {
            // Whoever was told to stop is not heard, and that says nothing.
            self.silence.deadline = None;
        }
        if self.silence.deadline.is_none_or(|at| at > self.at) {
            return Vec::new();
        }
        let heard = self.heard_of_late();
        self.silence.deadline = heard
            .iter()
            .flat_map(|(carrier, owners)| {
                owners.values().map(|last| last.plus_secs(self.silent_secs(carrier)))
            })
            .filter(|at| *at > self.at)
            .min();
        // Who came back first after the collector's own absence is not alone.
        let carriers: BTreeSet<&CarrierId> = heard.keys().chain(self.silence.carriers.keys()).collect();
        let changes: Vec<(CarrierId, bool)> = carriers
            .into_iter()
            .filter_map(|carrier| {
                let was_silent = self.silence.carriers.contains_key(carrier);
                let is_silent = self.is_shut_down(carrier, &heard)?;
                (was_silent != is_silent).then(|| (carrier.clone(), is_silent))
            })
            .collect();
        changes
            .into_iter()
            .filter_map(|(carrier, is_silent)| self.tell_silence(carrier, is_silent, &heard))
            .collect()
    }

    /// Whether a carrier looks shut down; `None`: too little is known, and what was said stands.
    fn is_shut_down(&self, carrier: &CarrierId, heard: &BTreeMap<CarrierId, Heard>) -> Option<bool> {
        let silent_secs = self.silent_secs(carrier);
        let (silent, active) = self.silent_of(carrier, heard);
        if active == 0 {
            return None;
        }
        if silent.len() * 2 < active {
            return Some(false);
        }
        let latest = silent.iter().max().copied().unwrap_or_default();
        let at_once = silent.iter().filter(|last| last.plus_secs(silent_secs) >= latest).count();
        // Others must have spoken well after these fell silent: else it is the collector that hears nobody.
        let since = latest.plus_secs(silent_secs / 2);
        let is_heard = |(other, owners): (&CarrierId, &Heard)| {
            let speak = owners.values().filter(|last| **last >= since).count();
            other != carrier && speak * 2 >= owners.len()
        };
        let hears_others = heard.iter().any(is_heard) || self.hears_a_control(since);
        let is_settled = self.at >= self.silence.resumed_at.plus_secs(silent_secs);
        let is_shut_down = at_once >= OWNERS_MIN && at_once * 2 >= active && hears_others && is_settled;
        is_shut_down.then_some(true)
    }

    fn tell_silence(
        &mut self,
        carrier: CarrierId,
        is_silent: bool,
        heard: &BTreeMap<CarrierId, Heard>,
    ) -> Option<Alert> {
        let known = self.settings.catalogue().carrier(&carrier)?;
        let (market, name) = (known.market.clone(), known.name.clone());
        let (silent, active) = self.silent_of(&carrier, heard);
        let (kind, line) = if is_silent {
            self.silence.carriers.insert(carrier.clone(), self.at);
            (AlertKind::ShutdownSuspected, fallen_silent(&name, silent.len(), active))
        } else {
            self.silence.carriers.remove(&carrier);
            (AlertKind::ShutdownOver, heard_again(&name, active - silent.len(), active))
        };
        Some(self.alert(kind, &market, None, vec![carrier], [line]))
    }

    /// Owners heard in the last hour, by carrier.
    fn heard_of_late(&self) -> BTreeMap<CarrierId, Heard> {
        let mut heard: BTreeMap<CarrierId, Heard> = BTreeMap::new();
        for agent in self.agents.values().filter(|agent| agent.has_say()) {
            let Station::Field { carrier, .. } = &agent.enrolment.station else { continue };
            let last = agent.last_record_at.filter(|last| last.plus_secs(ACTIVE_SECS) > self.at);
            let is_elsewhere = agent.elsewhere(self.settings.catalogue()).is_some();
            let Some(last) = last.filter(|_| !is_elsewhere) else { continue };
            let owners = heard.entry(carrier.clone()).or_default();
            let latest = owners.entry(agent.enrolment.owner.clone()).or_insert(last);
            *latest = last.max(*latest);
        }
        heard
    }

    /// When those who fell silent were last heard, and how many could have spoken.
    fn silent_of(&self, carrier: &CarrierId, heard: &BTreeMap<CarrierId, Heard>) -> (Vec<UnixMillis>, usize) {
        let silent_secs = self.silent_secs(carrier);
        let Some(owners) = heard.get(carrier) else { return (Vec::new(), 0) };
        let silent = owners.values().filter(|last| last.plus_secs(silent_secs) <= self.at);
        (silent.copied().collect(), owners.len())
    }

    fn hears_a_control(&self, since: UnixMillis) -> bool {
        let controls = self.agents.values().filter(|agent| agent.enrolment.station == Station::Control);
        controls
            .filter(|agent| agent.has_say())
            .any(|agent| agent.last_record_at.is_some_and(|last| last >= since))
    }

    fn silent_secs(&self, carrier: &CarrierId) -> u64 {
        self.settings.policy_of_carrier(carrier).map_or(ACTIVE_SECS, |policy| policy.cell.stale_after_secs)
    }
}

fn fallen_silent(name: &str, silent: usize, active: usize) -> Line {
    Line {
        en: format!(
            "{silent} of {active} owners on {name} fell silent at once while others are heard: its network may be shut \
             down. This is no block: burn no mirrors"
        ),
        ru: format!(
            "{silent} из {active} участников в сети {name} замолчали одновременно, остальных слышно: возможно, сеть \
             отключена. Это не блокировка: зеркала менять не нужно"
        ),
        kk: format!(
            "{name} желісіндегі {active} қатысушының {silent} бір мезгілде үнсіз қалды, басқалары естіліп тұр: желі \
             өшірілген болуы мүмкін. Бұл бұғаттау емес: айналарды ауыстырудың қажеті жоқ"
        ),
    }
}

fn heard_again(name: &str, heard: usize, active: usize) -> Line {
    Line {
        en: format!("{heard} of {active} owners on {name} are heard again: its network is back"),
        ru: format!("{heard} из {active} участников в сети {name} снова слышно: сеть работает"),
        kk: format!("{name} желісіндегі {active} қатысушының {heard} қайта естілді: желі жұмыс істеп тұр"),
    }
}
