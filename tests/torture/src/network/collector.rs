//! The collector of the played network: the real streams, the real writer with journal, state and fold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use turmoil::net::TcpListener;
use zerkalo_collector::engine::{self, Engine, FutureJournal, Parts};
use zerkalo_collector::journal::Journal;
use zerkalo_collector::metrics::Metrics;
use zerkalo_collector::outbox::Bell;
use zerkalo_collector::pictures::Pictures;
use zerkalo_collector::state::{State, StateError};
use zerkalo_collector::stop;
use zerkalo_collector::uplink::{Caller, Connected, Uplink};
use zerkalo_collector::vicinity::VicinityKey;
use zerkalo_core::admission::{ChainHead, Place, place, place_ahead, place_gap};
use zerkalo_core::evidence::{CheckedRecord, SignedList, SignedRecord};
use zerkalo_core::fold::default_settings;
use zerkalo_core::gap::Gap;
use zerkalo_core::journal::{Enrolment, Event, JournalEntry};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, OwnerId, Station, UnixMillis};
use zerkalo_durable::store::StoreError;
use zerkalo_lab::sample;
use zerkalo_proto::agent_v1::StreamRequest;
use zerkalo_proto::agent_v1::stream_response::Message as Down;

use super::{Shared, agent, patiently, wire};
use crate::keep::key;

/// Room for pictures, of which there are none.
const PICTURES_BYTES_MAX: u64 = 1_000_000;

/// The collector over all its lives.
pub struct House {
    dir: PathBuf,
    /// Of this life, for those who look.
    engine: Shared<Option<Engine>>,
    lanes: Lanes,
}

/// What a collector takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Records ahead of their chain, too.
    Both,
    /// As those before it: the negative control.
    ChainAlone,
}

/// What the journal holds of one agent.
#[derive(Debug, Default)]
pub struct Known {
    head: ChainHead,
    pub bodies: Vec<Sha256>,
    pub dropped: u64,
    pub epochs: u64,
    /// Admitted before what they follow.
    pub ahead: u64,
    /// Every statement, in order.
    pub trace: String,
}

impl House {
    /// A directory with the agents enrolled and a list in force.
    pub fn new(dir: PathBuf, agents: &[AgentId], lanes: Lanes) -> Result<Self> {
        let house = Self { dir, engine: Shared::default(), lanes };
        let mut journal = Journal::open(&house.journal(), |_| {})?;
        let at = UnixMillis(1);
        let enrolled = agents.iter().map(|agent| {
            let owner = OwnerId::parse(agent.as_str()).expect("an agent's name is an owner's too");
            Event::Enrolled(Enrolment {
                agent: agent.clone(),
                owner,
                station: Station::Control,
                key: key().public(),
            })
        });
        let list = SignedList::sign(&sample::one_mirror(UnixMillis(0))?, &key());
        let events = enrolled.chain([Event::List { list, operator: key().public().into() }]);
        journal.append(&events.map(|event| JournalEntry { at, event }).collect::<Vec<_>>())?;
        Ok(house)
    }

    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Records admitted and records told to be gone, of one agent.
    pub fn known(&self, agent: &AgentId) -> (u64, u64) {
        let engine = self.engine.borrow();
        let Some(engine) = &*engine else { return (0, 0) };
        engine.read(|fold| fold.agents().get(agent).map_or((0, 0), |known| (known.records, known.dropped)))
    }

    /// Whether an agent's record is admitted, in its turn or ahead of it.
    pub fn has(&self, agent: &AgentId, sequence: u64) -> bool {
        let is_held = |head: &ChainHead| {
            let runs = head.runs();
            sequence <= head.last().sequence
                || runs.iter().any(|run| (run.first..=run.last).contains(&sequence))
        };
        let engine = self.engine.borrow();
        engine.as_ref().is_some_and(|engine| {
            engine.read(|fold| fold.agents().get(agent).is_some_and(|known| is_held(&known.head)))
        })
    }

    /// Whether an agent's chain has come so far.
    pub fn has_up_to(&self, agent: &AgentId, sequence: u64) -> bool {
        let engine = self.engine.borrow();
        let last = |engine: &Engine| {
            engine.read(|fold| fold.agents().get(agent).map_or(0, |known| known.head.last().sequence))
        };
        engine.as_ref().is_some_and(|engine| last(engine) >= sequence)
    }

    /// One life, from a start to a crash.
    pub async fn serve(self: Rc<Self>) -> turmoil::Result {
        // The crash has dropped everything of the life before but this.
        self.engine.borrow_mut().take();
        let (metrics, _) = Metrics::new();
        let parts = Parts {
            state: Arc::new(patiently(
                || State::open(&self.dir.join("state")),
                |error| matches!(error, StateError::Store(StoreError::InUse { .. })),
            )?),
            metrics: metrics.clone(),
            settings: default_settings(),
            future_journal: FutureJournal::Refuse,
            routes: Arc::from([]),
            outbox: Arc::new(Bell::default()),
        };
        let (engine, writing) = engine::assemble(&self.journal(), parts)?;
        *self.engine.borrow_mut() = Some(engine.clone());
        let (_stop, stopping) = stop::channel();
        let uplink = Rc::new(Uplink {
            engine: engine.clone(),
            connected: Connected::new(metrics.clone()),
            metrics: metrics.clone(),
            pictures: Arc::new(Pictures::open(&self.dir.join("pictures"), PICTURES_BYTES_MAX, metrics)?),
            ways: Default::default(),
            vicinities: VicinityKey::open(&self.dir)?,
            stopping,
        });
        let listener = TcpListener::bind(("0.0.0.0", agent::PORT)).await?;
        let accepting = async {
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::task::spawn_local(attend(uplink.clone(), engine.clone(), self.lanes, stream));
            }
        };
        tokio::select! {
            biased;
            ended = writing => Err(format!("the writer ended: {ended:?}").into()),
            failed = accepting => failed,
        }
    }
}

async fn attend(uplink: Rc<Uplink>, engine: Engine, lanes: Lanes, stream: turmoil::net::TcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let Some(name) = name_of(&mut reader).await else { return };
    let Some(key) = engine.read(|fold| fold.agents().get(&name).map(|known| known.enrolment.key)) else {
        return;
    };
    let caller = Caller { agent: name, key, until: UnixMillis(u64::MAX) };
    let mut down = uplink.attend(caller, None, wire::receive::<StreamRequest>(reader));
    while let Some(Ok(mut message)) = down.next().await {
        if let (Lanes::ChainAlone, Some(Down::Welcome(welcome))) = (lanes, &mut message.message) {
            welcome.takes_ahead = false;
        }
        if wire::send(&mut writer, &message).await.is_err() {
            return;
        }
    }
}

async fn name_of(reader: &mut turmoil::net::tcp::OwnedReadHalf) -> Option<AgentId> {
    AgentId::parse(&wire::read::<String>(reader).await.ok()?).ok()
}

/// Reads the journal: every chain must hold.
pub fn found(dir: PathBuf) -> Result<BTreeMap<AgentId, Known>> {
    let (mut found, mut fault) = (BTreeMap::new(), None);
    let visit = |entry: JournalEntry| {
        let noted = note(&mut found, &entry.event);
        fault = fault.take().or(noted.err());
    };
    zerkalo_collector::journal::read(Path::new(&dir), visit, |_| {})?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(found),
    }
}

fn note(found: &mut BTreeMap<AgentId, Known>, event: &Event) -> Result<()> {
    match event {
        Event::Enrolled(enrolment) => drop(found.insert(enrolment.agent.clone(), Known::default())),
        Event::Record { signed, is_ahead, .. } => take(found, signed, None, *is_ahead)?,
        Event::Gap { signed, gap } => take(found, signed, Some(gap), false)?,
        Event::Refused { signed, code } => ensure!(false, "{} {}: {code:?}", signed.agent, signed.sequence),
        _ => {}
    }
    Ok(())
}

fn take(
    found: &mut BTreeMap<AgentId, Known>,
    signed: &SignedRecord,
    gap: Option<&Gap>,
    is_ahead: bool,
) -> Result<()> {
    let known = found.get_mut(&signed.agent).context("a record of nobody")?;
    let checked = CheckedRecord::new(signed.clone(), &key().public());
    let (placed, link) = match gap {
        None if is_ahead => (place_ahead(&checked, &known.head), signed.link()),
        None => (place(&checked, &known.head).map(Some), signed.link()),
        Some(gap) => (place_gap(&checked, gap, &known.head).map(Some), gap.link(signed)),
    };
    let expected = if is_ahead { Place::Ahead } else { Place::Next };
    let name = format!("{} {} {}", signed.agent, signed.epoch, signed.sequence);
    ensure!(placed == Ok(Some(expected)), "{name}: {placed:?}");
    let last = known.head.last();
    known.epochs += u64::from(last.epoch > 0 && last.epoch != signed.epoch);
    known.dropped += gap.map_or(0, |gap| known.head.lacks(gap, signed));
    match is_ahead {
        true => known.head.advance_ahead(link, signed.previous),
        false => known.head.advance(link),
    }
    known.ahead += u64::from(is_ahead);
    if gap.is_none() {
        known.bodies.push(Sha256::of(&signed.body));
    }
    known.trace += &format!("{name} {}\n", signed.hash());
    Ok(())
}
