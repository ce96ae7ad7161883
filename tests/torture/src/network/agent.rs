//! One agent of the played network: the real spool and the real uplink; records of no site's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use turmoil::net::TcpStream;
use zerkalo_agent::spool::{Limits, Spool, SpoolError};
use zerkalo_agent::state::{Credentials, StateDir};
use zerkalo_agent::uplink::{End, Line, SharedSpool, SpoolWork, Uplink, wall_clock};
use zerkalo_agent::worth::Worth;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_durable::retry::Retry;
use zerkalo_durable::store::StoreError;
use zerkalo_lab::sample;
use zerkalo_proto::agent_v1::{StreamRequest, StreamResponse};

use super::{COLLECTOR, dir_of, patiently, wire};
use crate::dice::Dice;
use crate::keep::{agent, key};

/// Records that an agent makes, at most.
const RECORDS_MAX: u64 = 80;
/// Longest time between two of them.
const PAUSE_MAX_MILLIS: u64 = 500;
/// One agent in so many was away before: so many records wait, at least and at most.
const AWAY: u64 = 6;
/// See [`AWAY`].
const STOCK: (u64, u64) = (80, 200);
/// One agent in so many has a spool that holds few.
const SMALL_SPOOLS: u64 = 3;
const SMALL: Limits = Limits { records: 12, bytes: 60_000 };
/// First and longest wait of the uplink: shorter than in life, so that a run sees many connections.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Where simulated records begin: long past, so that nothing is asked for at once.
const BEGAN: UnixMillis = UnixMillis(1_700_000_000_000);
/// The collector's port in the play.
pub const PORT: u16 = 443;

/// One agent over all its lives.
pub struct Seat {
    pub name: AgentId,
    number: u64,
    dir: PathBuf,
    limits: Limits,
    dice: RefCell<Dice>,
    left: Cell<u64>,
    made: Cell<u64>,
    /// Records that wait before it connects for the first time.
    stock: Cell<u64>,
    /// Longest time between two records; `None`: always that.
    pause: Option<Duration>,
    /// Sequence and instant of what it measured since.
    fresh: RefCell<Vec<(u64, Duration)>>,
    bodies: RefCell<BTreeSet<Sha256>>,
    /// Whether its messages are doubled and swapped on their way.
    is_confused: Cell<bool>,
}

impl Seat {
    pub fn new(number: u64, home: &Path, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let left = 10 + dice.below(RECORDS_MAX - 10);
        let limits = if dice.below(SMALL_SPOOLS) == 0 { SMALL } else { Limits::default() };
        let stock = if dice.below(AWAY) == 0 { STOCK.0 + dice.below(STOCK.1 - STOCK.0) } else { 0 };
        let name = agent(number);
        Self {
            dir: dir_of(home, name.as_str()),
            name,
            number,
            limits,
            dice: RefCell::new(dice),
            left: Cell::new(left),
            made: Cell::new(0),
            stock: Cell::new(stock),
            pause: None,
            fresh: RefCell::default(),
            bodies: RefCell::default(),
            is_confused: Cell::new(false),
        }
    }

    /// One that comes back with so many records, and makes `left` more, one each `pause`.
    pub fn back_with(stock: u64, left: u64, pause: Duration, home: &Path) -> Self {
        let seat = Self::new(1, home, 0);
        seat.stock.set(stock);
        seat.left.set(left);
        Self { limits: Limits::default(), pause: Some(pause), ..seat }
    }

    /// Sequence and instant of each record measured since it connected.
    pub fn fresh(&self) -> Vec<(u64, Duration)> {
        self.fresh.borrow().clone()
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub fn confuse(&self) {
        self.is_confused.set(true);
    }

    pub fn be_plain(&self) {
        self.is_confused.set(false);
    }

    /// Whether it makes no more records.
    pub fn is_done(&self) -> bool {
        self.left.get() == 0
    }

    /// Records kept so far: their call has returned.
    pub fn kept(&self) -> u64 {
        self.bodies.borrow().len() as u64
    }

    pub fn bodies(&self) -> BTreeSet<Sha256> {
        self.bodies.borrow().clone()
    }

    /// One life, from a start to a crash.
    pub async fn live(self: Rc<Self>) -> turmoil::Result {
        let (spool, damage) = patiently(
            || Spool::open(&self.spool_dir(), &self.name, key(), self.limits, wall_clock()),
            |error| matches!(error, SpoolError::Store(StoreError::InUse { .. })),
        )?;
        if let Some(damage) = damage {
            return Err(format!("{}: the spool was called damaged: {damage:?}", self.name).into());
        }
        let spool = SharedSpool::new(spool, SpoolWork::Here);
        for _ in 0..self.stock.take() {
            self.keep(&spool, Worth::Failed).await?;
        }
        let uplink = self.uplink(spool.clone());
        let retry = Retry::even(RETRY_FIRST, RETRY_MAX);
        let open = |_, outgoing| self.clone().dial(outgoing);
        tokio::select! {
            biased;
            stopped = uplink.run_over(retry, open) => Err(format!("{}: {stopped}", self.name).into()),
            failed = self.measure(&spool) => Err(failed),
        }
    }

    fn uplink(&self, spool: SharedSpool) -> Uplink {
        let list = sample::one_mirror(UnixMillis(0)).expect("a constant list");
        Uplink {
            state: StateDir::existing(&self.dir),
            urls: vec![format!("https://{COLLECTOR}")],
            credentials: Credentials {
                ca_pem: String::new(),
                certificate_pem: String::new(),
                key_pem: String::new(),
            },
            operator_keys: key().public().into(),
            spool,
            list: watch::Sender::new(Some(Arc::new(list))),
            wishes: mpsc::channel(1).0,
            was_behind: AtomicBool::new(false),
            witness: watch::Sender::new(None),
            pictures: None,
            quiet: Default::default(),
            activity: Default::default(),
            inbox: Default::default(),
            papers: None,
        }
    }

    /// Makes records; returns only where one could not be kept.
    async fn measure(&self, spool: &SharedSpool) -> Box<dyn std::error::Error> {
        while self.left.get() > 0 {
            let (pause, worth) = {
                let mut dice = self.dice.borrow_mut();
                let worth = Worth::TIERS[dice.below(Worth::TIERS.len() as u64) as usize];
                (Duration::from_millis(dice.below(PAUSE_MAX_MILLIS)), worth)
            };
            tokio::time::sleep(self.pause.unwrap_or(pause)).await;
            let sequence = match self.keep(spool, worth).await {
                Ok(sequence) => sequence,
                Err(error) => return error.into(),
            };
            self.fresh.borrow_mut().push((sequence, turmoil::sim_elapsed().unwrap_or_default()));
            self.left.set(self.left.get() - 1);
        }
        std::future::pending().await
    }

    /// Makes a record; gives its sequence.
    async fn keep(&self, spool: &SharedSpool, worth: Worth) -> Result<u64, SpoolError> {
        let number = self.made.get();
        let body = sample::body(BEGAN.plus_millis(self.number * 1_000_000 + number));
        let digest = Sha256::of(&body);
        // Nothing comes between the two: who is crashed is crashed where it waits.
        let link = spool.append(body, worth, wall_clock()).await?;
        self.bodies.borrow_mut().insert(digest);
        self.made.set(number + 1);
        Ok(link.sequence)
    }

    /// A stream over turmoil's TCP. Who speaks is said by its first line, where life has certificates.
    async fn dial(
        self: Rc<Self>,
        mut outgoing: mpsc::Receiver<StreamRequest>,
    ) -> Result<Line<BoxStream<'static, Result<StreamResponse, Status>>>, End> {
        let gone = |_| End::Closed;
        let stream = TcpStream::connect((COLLECTOR, PORT)).await.map_err(gone)?;
        let (reader, mut writer) = stream.into_split();
        wire::send(&mut writer, &self.name.to_string()).await.map_err(gone)?;
        let greeted = tokio::time::Instant::now().into_std();
        tokio::task::spawn_local(async move {
            let mut held = None;
            let mut is_first = true;
            while let Some(message) = outgoing.recv().await {
                let turn = self.dice.borrow_mut().below(6);
                let plain = is_first || !self.is_confused.get();
                is_first = false;
                let sent = match (plain, turn) {
                    (false, 0) => [Some(message.clone()), held.take(), Some(message)],
                    // It goes behind the next, or never.
                    (false, 1) if held.is_none() => {
                        held = Some(message);
                        continue;
                    }
                    _ => [Some(message), held.take(), None],
                };
                for message in sent.into_iter().flatten() {
                    if wire::send(&mut writer, &message).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Line { greeted, down: wire::receive(reader) })
    }
}
