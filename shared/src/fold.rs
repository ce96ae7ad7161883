//! The fold: journal entries in, decisions out. The same journal gives the same decisions, byte for byte.
//!
//! Everything here can be thrown away and rebuilt. No clock: time is the entries' own, and a `Tick` entry where time
//! alone must move a decision.

mod adaptive;
mod boots;
mod doubt;
mod expiry;
mod identities;
mod judging;
mod markets;
mod orders;
mod pictures;
mod pools;
mod rotations;
mod settings;
mod shelf;
mod silence;
mod suspicion;
mod view;
mod whereabouts;
mod wishes;

pub(crate) use doubt::{Doubt, sees_block, tells_of_block, warning};
pub use judging::JudgedVisit;
pub use pictures::{NamedPicture, PICTURES_AN_HOUR_MAX};
pub use settings::{SettingsError, check_settings, default_settings};
pub use view::{Matrix, MatrixRow};
pub(crate) use wishes::ASK_AGAIN_SECS;
pub use wishes::Wish;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::admission::ChainHead;
use crate::cell::{Cell, CellPolicy};
use crate::evidence::SignedList;
use crate::identity::{Generations, Standing};
use crate::journal::{Enrolment, Event, JournalEntry, SettingsText, Whereabouts};
use crate::ledger::Ledger;
use crate::market::{Alert, Decision};
use crate::target::MirrorList;
use crate::words::{Access, AgentId, CarrierId, MirrorId, UnixMillis};
use adaptive::Doubts;
pub use boots::Boot;
use expiry::Lists;
use judging::Docket;
use markets::Markets;
use pictures::Pictures;
use settings::Settings;
use silence::Silence;
use wishes::Wishes;

/// Most evidence items written into one decision: enough for eight carriers of eight owners.
const EVIDENCE_MAX: usize = 64;

/// What is known of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    pub enrolment: Enrolment,
    pub standing: Standing,
    /// When its standing changed last, and why; empty while it never did.
    pub standing_since: UnixMillis,
    pub standing_reason: String,
    /// Its certificates.
    pub generations: Generations,
    pub enrolled_at: UnixMillis,
    pub head: ChainHead,
    /// Records admitted.
    pub records: u64,
    /// Records it signed and could not keep, by its own word.
    pub dropped: u64,
    /// When the last was admitted.
    pub last_record_at: Option<UnixMillis>,
    /// Where its stream comes from.
    pub whereabouts: Whereabouts,
    /// Its clock minus the others', in ms, by the last record of its chain that tells.
    pub clock_ahead_millis: Option<i64>,
    /// Epoch and sequence of that record.
    pub clock_told_by: (u64, u64),
    /// What its steady clock tells.
    pub boot: Boot,
}

/// What one entry made possible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub decisions: Vec<Decision>,
    pub alerts: Vec<Alert>,
}

/// The cells of one mirror.
pub(crate) type MirrorCells = BTreeMap<(CarrierId, Access), Cell>;

/// Everything that follows from the journal so far.
#[derive(Debug)]
pub struct Fold {
    settings: Arc<Settings>,
    at: UnixMillis,
    entries: u64,
    list: Option<(SignedList, MirrorList)>,
    lists: Lists,
    agents: BTreeMap<AgentId, AgentState>,
    docket: Docket,
    cells: BTreeMap<MirrorId, MirrorCells>,
    /// When time alone may next change a mirror's cells.
    cell_deadlines: BTreeMap<MirrorId, UnixMillis>,
    silence: Silence,
    doubts: Doubts,
    markets: Markets,
    wishes: Wishes,
    ledger: Ledger,
    pictures: Pictures,
    /// What became of visits, where somebody watches.
    judged: Option<Vec<JudgedVisit>>,
}

impl Default for Fold {
    fn default() -> Self {
        Self::new()
    }
}

impl Fold {
    /// Before the first entry, with the built-in settings.
    pub fn new() -> Self {
        Self::with(Arc::new(Settings::built_in()))
    }

    fn with(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            at: UnixMillis::default(),
            entries: 0,
            list: None,
            lists: Lists::default(),
            agents: BTreeMap::new(),
            docket: Docket::default(),
            cells: BTreeMap::new(),
            cell_deadlines: BTreeMap::new(),
            silence: Silence::default(),
            doubts: Doubts::default(),
            markets: Markets::default(),
            wishes: Wishes::default(),
            ledger: Ledger::default(),
            pictures: Pictures::default(),
            judged: None,
        }
    }

    /// Folds one entry in; returns the decisions and alerts it made possible.
    pub fn apply(&mut self, entry: &JournalEntry) -> Outcome {
        self.at = self.at.max(entry.at);
        self.entries += 1;
        let mut outcome = self.take_in(&entry.event);
        outcome.alerts.extend(self.hear_silence());
        outcome.alerts.extend(self.hear_expiry());
        self.visit_standbys();
        outcome
    }

    fn take_in(&mut self, event: &Event) -> Outcome {
        match event {
            Event::Settings(text) => {
                if let Some(settings) = Settings::replaced(text) {
                    self.settings = Arc::new(settings);
                    self.with_cells(Cell::replay);
                }
            }
            Event::Enrolled(enrolment) => self.enrol(enrolment),
            Event::Revoked(agent) => self.revoke(agent),
            Event::Standing(change) => return self.change_standing(change),
            Event::Certified(certified) => {
                self.note_certified(certified);
                return Outcome::default();
            }
            Event::Shown { agent, generation } => {
                self.note_shown(agent, *generation);
                return Outcome::default();
            }
            Event::List { list, operator } => {
                if let Ok(opened) = list.open(operator) {
                    self.put_list(list.clone(), opened);
                }
            }
            Event::Record { signed, facts, is_ahead } => {
                let Some(agent) = self.agents.get_mut(&signed.agent) else { return Outcome::default() };
                let link = signed.link();
                match is_ahead {
                    true => agent.head.advance_ahead(link, signed.previous),
                    false => agent.head.advance(link),
                }
                agent.records += 1;
                agent.last_record_at = Some(self.at);
                agent.boot.note(facts, self.at);
                agent.note_clock(facts, (link.epoch, link.sequence));
                let mirror = facts.mirror.clone();
                self.note_heard(&signed.agent);
                self.note_picture(&signed.agent, link.hash, facts);
                if facts.is_picture_alone() {
                    return Outcome::default();
                }
                self.judge_record(&signed.agent, link.hash, facts);
                return mirror.map(|mirror| self.decide(Some(&mirror))).unwrap_or_default();
            }
            Event::Refused { signed, .. } => {
                if let Some(agent) = self.agents.get_mut(&signed.agent) {
                    agent.head.advance(signed.link());
                }
                return Outcome::default();
            }
            Event::Gap { signed, gap } => {
                if let Some(agent) = self.agents.get_mut(&signed.agent) {
                    agent.dropped = agent.dropped.saturating_add(agent.head.lacks(gap, signed));
                    agent.head.advance(gap.link(signed));
                }
                return Outcome::default();
            }
            Event::Observed { agent, whereabouts } => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.whereabouts = *whereabouts;
                }
                return Outcome::default();
            }
            Event::Ordered(order) => self.obey(order),
            Event::Tick => self.judge_overdue(),
        }
        self.decide(None)
    }

    /// The next instant after [`Fold::at`] at which time alone may change something.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        let cells = self.cell_deadlines.values().copied();
        let markets = self.markets.next_deadline(self.at, &self.settings);
        let lists = self.lists.deadline();
        cells
            .chain(markets)
            .chain(self.docket.next_deadline())
            .chain(self.silence.deadline)
            .chain(lists)
            .min()
    }

    /// The instant of the last entry.
    pub fn at(&self) -> UnixMillis {
        self.at
    }

    /// How many entries were folded.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether the operator has every agent stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.list().is_some_and(|list| list.stop.is_some())
    }

    /// The mirror list in force.
    pub fn list(&self) -> Option<&MirrorList> {
        self.list.as_ref().map(|(_, list)| list)
    }

    /// The same, as the operator signed it.
    pub fn signed_list(&self) -> Option<&SignedList> {
        self.list.as_ref().map(|(signed, _)| signed)
    }

    /// Every agent ever enrolled.
    pub fn agents(&self) -> &BTreeMap<AgentId, AgentState> {
        &self.agents
    }

    /// Who was seen breaking TLS open.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The data files in force.
    pub fn settings(&self) -> &SettingsText {
        self.settings.text()
    }

    /// Carriers and markets in force.
    pub fn catalogue(&self) -> &crate::catalogue::Catalogue {
        self.settings.catalogue()
    }

    /// What is known of a mirror ends when the list drops it or gives it another URL.
    fn put_list(&mut self, signed: SignedList, list: MirrorList) {
        let old = self.list.take().map(|(_, list)| list);
        let stays = |id: &MirrorId| {
            let url = |list: &MirrorList| list.mirror(id).map(|mirror| mirror.url.clone());
            url(&list).is_some_and(|new| old.as_ref().and_then(url) == Some(new))
        };
        self.cells.retain(|mirror, _| stays(mirror));
        self.cell_deadlines.retain(|mirror, _| stays(mirror));
        self.doubts.retain(stays);
        self.markets.put_list(&list, stays, self.at);
        self.docket.retain(stays);
        self.wishes.retain(stays);
        self.ledger.retain(stays);
        self.lists.put(&signed, &list, self.at);
        self.list = Some((signed, list));
    }

    fn with_cells(&mut self, change: impl Fn(&mut Cell, &CellPolicy)) {
        for ((carrier, _), cell) in self.cells.values_mut().flatten() {
            if let Some(policy) = self.settings.policy_of_carrier(carrier) {
                change(cell, &policy.cell);
            }
        }
    }
}

#[cfg(test)]
mod tests;
