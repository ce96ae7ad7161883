//! What a group of requests would put into the journal, decided before anything is written.
//!
//! A plan sees the fold with the group's own earlier entries laid over it: chain heads, the list, where agents stand, who
//! has a say. It writes nothing and applies nothing, so a group that cannot be synced leaves no trace.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use zerkalo_core::admission::{self, ChainHead, Place, Rejection, RejectionCode};
use zerkalo_core::fold::{AgentState, Fold};
use zerkalo_core::gap::Statement;
use zerkalo_core::identity::{Generations, Standing};
use zerkalo_core::journal::{Event, JournalEntry, Whereabouts};
use zerkalo_core::market::{Order, OrderError};
use zerkalo_core::target::MirrorList;
use zerkalo_core::words::{AgentId, CarrierId, Station, UnixMillis};

use super::{Arrival, ChangeRefusal, HeldAhead, OpenedList, RecordBatch, RecordsAnswer, Refusal};
use crate::clock;

/// Room for the digits behind the carrier in an agent's name.
const AGENT_PREFIX_LEN_MAX: usize = 54;

/// A group in the making.
pub struct Plan<'a> {
    fold: &'a Fold,
    at: UnixMillis,
    heads: BTreeMap<AgentId, ChainHead>,
    list: Option<MirrorList>,
    observed: BTreeMap<AgentId, Whereabouts>,
    pub(super) standings: BTreeMap<AgentId, Standing>,
    pub(super) certified: BTreeMap<AgentId, Generations>,
    entries: Vec<JournalEntry>,
    tally: Tally,
}

/// What to count once the group is synced.
#[derive(Debug, Default)]
pub struct Tally {
    pub admitted: u64,
    /// Of those, before what they follow.
    pub ahead: u64,
    pub duplicates: u64,
    /// Records that agents say they could not keep.
    pub dropped: u64,
    pub refused: Vec<&'static str>,
}

impl<'a> Plan<'a> {
    /// An empty plan whose entries will bear `at`.
    pub fn new(fold: &'a Fold, at: UnixMillis) -> Self {
        Self {
            fold,
            at,
            heads: BTreeMap::new(),
            list: None,
            observed: BTreeMap::new(),
            standings: BTreeMap::new(),
            certified: BTreeMap::new(),
            entries: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The entries to append, and what to count afterwards.
    pub fn finish(self) -> (Vec<JournalEntry>, Tally) {
        (self.entries, self.tally)
    }

    /// Notes that time passed.
    pub fn tick(&mut self) {
        self.push(Event::Tick);
    }

    /// Places a batch, emptying it; its answer holds only if the plan is carried out.
    pub fn records(&mut self, batch: &mut RecordBatch) -> RecordsAnswer {
        let mut answer = RecordsAnswer::default();
        if let Some(refusal) = self.refusal_of(&batch.agent) {
            let (epoch, sequence) = batch.first();
            self.tally.refused.push(refusal.code());
            let (code, detail) = (refusal.code(), refusal.to_string());
            answer.refusals.push(Refusal { epoch, sequence, code, detail, stops_stream: true });
            return answer;
        }
        for arrival in std::mem::take(&mut batch.records) {
            let (epoch, sequence) = (arrival.checked.record().epoch, arrival.checked.record().sequence);
            let refusal = match self.record(&batch.agent, arrival, batch.is_ahead) {
                Ok(()) => None,
                Err(rejection) => {
                    self.lock_if_cloned(&batch.agent, &rejection);
                    Some(self.refuse(epoch, sequence, rejection))
                }
            };
            let stops = refusal.as_ref().is_some_and(|refusal| refusal.stops_stream);
            answer.refusals.extend(refusal);
            if stops {
                break;
            }
            let head = self.heads.get(&batch.agent);
            answer.acked = head.map(ChainHead::last);
            let held = |head: &ChainHead| HeldAhead { epoch, sequence, runs: head.runs() };
            answer.ahead = head.filter(|_| batch.is_ahead).map(held);
        }
        answer
    }

    /// Notes where an agent's stream comes from, if that is news.
    pub fn observe(&mut self, agent: AgentId, whereabouts: Whereabouts) {
        let known = self.fold.agents().get(&agent).map(|known| known.whereabouts);
        let known = known.map(|known| self.observed.insert(agent.clone(), whereabouts).unwrap_or(known));
        if known.is_some_and(|known| known != whereabouts) {
            self.push(Event::Observed { agent, whereabouts });
        }
    }

    /// Puts an opened list in force.
    pub fn put_list(&mut self, opened: OpenedList) -> Result<u64, ChangeRefusal> {
        let in_force = self.list().map_or(0, |list| list.version);
        let offered = opened.list.version;
        if offered <= in_force {
            return Err(ChangeRefusal::VersionNotRising { offered, in_force });
        }
        // Another list of the same moment may have changed them since the signatures were counted.
        let keys = self.list.as_ref().and_then(|list| list.keys.as_ref()).or(self.fold.operator_keys());
        if keys.is_some_and(|keys| *keys != opened.operator) {
            return Err(ChangeRefusal::KeysChanged);
        }
        self.list = Some(opened.list);
        self.push(Event::List { list: opened.signed, operator: opened.operator });
        Ok(offered)
    }

    /// Journals an order that the fold can obey. It is the last of its group: see `next_group`.
    pub fn order(&mut self, order: &Order) -> Result<(), OrderError> {
        self.fold.check_order(order)?;
        self.push(Event::Ordered(order.clone()));
        Ok(())
    }

    /// What the fold knows of an agent.
    pub(super) fn agent(&self, agent: &AgentId) -> Option<&AgentState> {
        self.fold.agents().get(agent)
    }

    /// The instant of the group.
    pub(super) fn at(&self) -> UnixMillis {
        self.at
    }

    /// A name no agent has: where it stands, and digits.
    pub fn new_agent(&self, station: &Station) -> AgentId {
        let prefix = match station {
            Station::Field { carrier, .. } => short(carrier),
            Station::Control => "control",
        };
        loop {
            let digits = hex::encode(clock::random::<4>());
            let agent = AgentId::parse(&format!("{prefix}-{digits}"))
                .expect("a carrier's first characters and hexadecimal digits are an identifier");
            if !self.fold.agents().contains_key(&agent) {
                return agent;
            }
        }
    }

    fn record(&mut self, agent: &AgentId, arrival: Arrival, is_ahead: bool) -> Result<(), Rejection> {
        let Arrival { checked, said } = arrival;
        if checked.record().agent != *agent {
            let detail = format!("the record is of {}, the certificate of {agent}", checked.record().agent);
            return Err(Rejection::new(RejectionCode::WrongAgent, detail));
        }
        let head = match self.heads.entry(agent.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let known = self.fold.agents().get(agent).map(|agent| agent.head.clone());
                entry.insert(known.unwrap_or_default())
            }
        };
        let gap = said.as_ref().ok().and_then(Statement::gap);
        let placed = match gap {
            None if is_ahead => admission::place_ahead(&checked, head)?,
            None => Some(admission::place(&checked, head)?),
            // What stands for others goes in its turn.
            Some(_) if is_ahead => None,
            Some(gap) => Some(admission::place_gap(&checked, gap, head)?),
        };
        let Some(placed) = placed else { return Ok(()) };
        if placed == Place::Ahead {
            // What is refused for what it says has its place in the chain: it comes again there.
            let list = self.list.as_ref().or_else(|| self.fold.list());
            if let Ok(Statement::Record(facts)) = said
                && admission::accept(&facts, list, self.at).is_ok()
            {
                head.advance_ahead(checked.link(), checked.record().previous);
                (self.tally.admitted, self.tally.ahead) = (self.tally.admitted + 1, self.tally.ahead + 1);
                self.push(Event::Record { signed: checked.into_record(), facts, is_ahead: true });
            }
            return Ok(());
        }
        if placed == Place::Duplicate {
            self.tally.duplicates += 1;
            return Ok(());
        }
        let gone = gap.map_or(0, |gap| head.lacks(gap, checked.record()));
        head.advance(gap.map_or_else(|| checked.link(), |gap| gap.link(checked.record())));
        let facts = match said {
            Ok(Statement::Gap(gap)) => {
                self.tally.dropped += gone;
                self.push(Event::Gap { signed: checked.into_record(), gap });
                return Ok(());
            }
            Ok(Statement::Record(facts)) => Ok(facts),
            Err(error) => Err(Rejection::new(RejectionCode::Malformed, error.to_string())),
        };
        let facts = facts.and_then(|facts| admission::accept(&facts, self.list(), self.at).map(|()| facts));
        let signed = checked.into_record();
        match facts {
            Ok(facts) => {
                self.tally.admitted += 1;
                self.push(Event::Record { signed, facts, is_ahead: false });
                Ok(())
            }
            Err(rejection) => {
                self.push(Event::Refused { signed, code: rejection.code });
                Err(rejection)
            }
        }
    }

    fn refuse(&mut self, epoch: u64, sequence: u64, rejection: Rejection) -> Refusal {
        self.tally.refused.push(rejection.code.as_str());
        Refusal {
            epoch,
            sequence,
            code: rejection.code.as_str(),
            detail: rejection.detail,
            stops_stream: rejection.code.stops_stream(),
        }
    }

    fn list(&self) -> Option<&MirrorList> {
        self.list.as_ref().or_else(|| self.fold.list())
    }

    pub(super) fn push(&mut self, event: Event) {
        self.entries.push(JournalEntry { at: self.at, event });
    }
}

fn short(carrier: &CarrierId) -> &str {
    // Identifiers are ASCII: any byte is a border.
    &carrier.as_str()[..carrier.as_str().len().min(AGENT_PREFIX_LEN_MAX)]
}
