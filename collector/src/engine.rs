//! The one writer: everything that changes goes through here, one group after the other.
//!
//! A thread of its own owns the journal and the fold (writer.rs). It takes requests from a bounded queue, plans a whole
//! group against what is known (plan.rs), appends and syncs it, and only then applies it and answers. Readers look at
//! the fold through a lock held for one group's applying at a time. No request is parsed here, no socket is touched.

mod identity;
mod plan;
mod relog;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use zerkalo_core::admission::Run;
use zerkalo_core::evidence::{ChainLink, CheckedRecord, PublicKey, SignedList, SignedRecord};
use zerkalo_core::fold::{Fold, Wish};
use zerkalo_core::gap::Statement;
use zerkalo_core::identity::{Shown, StandingChange};
use zerkalo_core::journal::{Enrolment, Whereabouts};
use zerkalo_core::market::{Decision, Order, OrderError};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_proto::record::DecodeError;

use crate::clock;
use crate::journal::JournalError;
use crate::state::StateError;
use crate::token::{Declared, TokenRefusal};

pub use identity::{Holding, IdentityRefusal};
pub use writer::{Parts, assemble, start};

/// Stable code: the disk had no room, nothing of the request was kept, try again later.
pub const STORAGE_FULL: &str = "storage_full";
/// Stable code: it does not fit the journal and never will.
pub const TOO_LARGE: &str = "too_large";
/// Requests waiting for the writer; with the largest batch each, a quarter of a gigabyte.
const REQUESTS_QUEUED_MAX: usize = 256;
/// Agents that lost their say, and a stream that may lag behind in hearing of them; then it looks for itself.
const EXPELLED_QUEUED_MAX: usize = 64;
/// Wishes for a fresh look that a stream may lag behind; older ones it never sees, the schedule asks its agent anyway.
const WISHES_QUEUED_MAX: usize = 1_024;

/// What to do with a journal whose last entry lies in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FutureJournal {
    Refuse,
    /// Time stands still until the clock has passed the last entry.
    Accept,
}

/// Why the writer stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the journal failed")]
    Journal(#[from] JournalError),
    #[error("the state failed")]
    State(#[from] StateError),
    #[error(
        "the journal's last entry is of {last}, but this machine's clock says {now}: nothing would be judged in time \
         until then. Set the clock; if it is right and was wrong before, serve with --accept-future-journal and wait"
    )]
    ClockBehind { last: String, now: String },
    #[error("the writer's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The writer is gone: the collector is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector is stopping; try again in a moment")]
pub struct Stopping;

/// A record as it came: what needs no knowledge of the others is checked before the one writer sees it.
#[derive(Debug)]
pub struct Arrival {
    pub checked: CheckedRecord,
    pub said: Result<Statement, DecodeError>,
}

impl Arrival {
    /// Checks the signature and reads the body.
    pub fn new(record: SignedRecord, key: &PublicKey) -> Self {
        let said = zerkalo_proto::gap::decode_statement(&record.body);
        Self { checked: CheckedRecord::new(record, key), said }
    }
}

/// A batch of one agent's stream, in the order sent.
#[derive(Debug)]
pub struct RecordBatch {
    pub agent: AgentId,
    pub records: Vec<Arrival>,
    /// They are not to wait for those before them in their chain.
    pub is_ahead: bool,
    /// Set once a record of this stream stopped it: what it still has in the queue is dropped unseen.
    pub ended: Arc<AtomicBool>,
}

/// What became of a batch, after its records were synced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordsAnswer {
    /// Everything up to here is in the journal.
    pub acked: Option<ChainLink>,
    /// What is held ahead of it, where the batch was.
    pub ahead: Option<HeldAhead>,
    pub refusals: Vec<Refusal>,
}

/// What is held ahead of an agent's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAhead {
    pub epoch: u64,
    /// The last of the batch that is answered.
    pub sequence: u64,
    pub runs: Vec<Run>,
}

/// One record refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub epoch: u64,
    pub sequence: u64,
    /// Stable.
    pub code: &'static str,
    pub detail: String,
    pub stops_stream: bool,
}

/// A box that asks to be enrolled.
#[derive(Debug)]
pub struct Claim {
    /// What names the token, of which the box has shown that it holds it.
    pub token: Sha256,
    pub declared: Declared,
    pub record_key: PublicKey,
    /// Digest of the key that the certificate is to be over.
    pub tls_key: Sha256,
}

/// Why a claim or a list was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ChangeRefusal {
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error(
        "version {offered} does not follow version {in_force}, which is in force; sign it with a higher one"
    )]
    VersionNotRising { offered: u64, in_force: u64 },
    #[error("the operator's keys were changed by another list just now; sign by the new ones")]
    KeysChanged,
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Identity(#[from] IdentityRefusal),
    #[error("the collector's disk is full and nothing was changed; free some space there")]
    StorageFull,
    #[error("what was sent does not fit into {limit} bytes and nothing was changed; make it smaller")]
    TooLarge { limit: usize },
    #[error("the collector's state cannot be used; its log says why")]
    State,
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

impl ChangeRefusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(refusal) => refusal.code(),
            Self::Order(error) => error.code(),
            Self::Identity(refusal) => refusal.code(),
            Self::VersionNotRising { .. } => "version_not_rising",
            Self::KeysChanged => "keys_changed",
            Self::StorageFull => STORAGE_FULL,
            Self::TooLarge { .. } => TOO_LARGE,
            Self::State => "storage_failed",
            Self::Stopping(_) => "stopping",
        }
    }
}

/// A list opened with the operator's key, and the exact bytes signed.
#[derive(Debug)]
pub struct OpenedList {
    pub signed: SignedList,
    pub list: MirrorList,
    /// Whose it is.
    pub operator: OperatorKeys,
}

/// The list in force, for those who pass it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListInForce {
    pub version: u64,
    pub signed: SignedList,
    /// The lists that changed the operator's keys, by version: who holds an older one needs each of them first.
    pub key_changes: Vec<(u64, SignedList)>,
}

/// What the writer is asked.
#[derive(Debug)]
enum Request {
    Records {
        batch: RecordBatch,
        reply: oneshot::Sender<RecordsAnswer>,
    },
    Enrol {
        claim: Box<Claim>,
        reply: oneshot::Sender<Result<Enrolment, ChangeRefusal>>,
    },
    Identity {
        asked: IdentityAsked,
        reply: oneshot::Sender<Result<u64, ChangeRefusal>>,
    },
    Observe {
        agent: AgentId,
        whereabouts: Whereabouts,
    },
    PutList {
        opened: Box<OpenedList>,
        reply: oneshot::Sender<Result<u64, ChangeRefusal>>,
    },
    Order {
        order: Box<Order>,
        reply: oneshot::Sender<Result<Vec<Decision>, ChangeRefusal>>,
    },
    /// Whether the writer lives.
    Ping {
        reply: oneshot::Sender<()>,
    },
    /// Everything queued before it is still done.
    Stop,
}

/// What may be asked of an agent's identity; each is answered with a generation.
#[derive(Debug)]
enum IdentityAsked {
    Certify(Holding),
    Show(Holding),
    Stand(StandingChange),
}

impl Request {
    fn is_order(&self) -> bool {
        matches!(self, Self::Order { .. })
    }
}

/// What readers see.
#[derive(Debug)]
struct View {
    fold: RwLock<Fold>,
    /// Rises with each group applied.
    changes: watch::Sender<u64>,
    list: watch::Sender<Option<Arc<ListInForce>>>,
    wishes: broadcast::Sender<Wish>,
    expelled: broadcast::Sender<AgentId>,
}

/// A handle on the writer; clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    view: Arc<View>,
}

impl Engine {
    /// Hands a batch in; waits while the queue is full. The answer comes when the batch is synced or refused.
    pub async fn submit(&self, batch: RecordBatch) -> Result<oneshot::Receiver<RecordsAnswer>, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Records { batch, reply }).await.map_err(|_| Stopping)?;
        Ok(answer)
    }

    /// Uses a token up and enrols a box; when this returns, both are on the disk.
    pub async fn enrol(&self, claim: Claim) -> Result<Enrolment, ChangeRefusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Enrol { claim: Box::new(claim), reply }).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)?
    }

    /// The generation of an agent's next certificate, journaled. Two boxes that ask lock the agent.
    pub async fn certify(&self, holding: Holding) -> Result<u64, ChangeRefusal> {
        self.identity(IdentityAsked::Certify(holding)).await
    }

    /// Lets an agent in by the certificate it shows, unless it has no say, or loses it thereby.
    pub async fn let_in(&self, holding: Holding) -> Result<PublicKey, ChangeRefusal> {
        let (key, is_news) = self.read(|fold| {
            let unknown = || IdentityRefusal::Unknown { agent: holding.agent.to_string() };
            let known = fold.agents().get(&holding.agent).ok_or_else(unknown)?;
            let look = known.generations.look(holding.generation, &holding.key);
            IdentityRefusal::of(known).map_or(Ok((known.enrolment.key, look != Shown::Known)), Err)
        })?;
        if is_news {
            self.identity(IdentityAsked::Show(holding)).await?;
        }
        Ok(key)
    }

    /// Changes an agent's standing at a person's order; when this returns, it holds.
    pub async fn stand(&self, change: StandingChange) -> Result<(), ChangeRefusal> {
        self.identity(IdentityAsked::Stand(change)).await.map(drop)
    }

    async fn identity(&self, asked: IdentityAsked) -> Result<u64, ChangeRefusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Identity { asked, reply }).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)?
    }

    /// Why an agent is not served now.
    pub fn refusal_of(&self, agent: &AgentId) -> Option<IdentityRefusal> {
        self.read(|fold| fold.agents().get(agent).and_then(IdentityRefusal::of))
    }

    /// Agents that lose their say from now on.
    pub fn expelled(&self) -> broadcast::Receiver<AgentId> {
        self.view.expelled.subscribe()
    }

    /// Notes where an agent's stream comes from, before whatever is handed in after it. Where that cannot be
    /// written the next stream tells again.
    pub async fn observe(&self, agent: AgentId, whereabouts: Whereabouts) -> Result<(), Stopping> {
        let is_known =
            self.read(|fold| fold.agents().get(&agent).is_some_and(|known| known.whereabouts == whereabouts));
        if is_known {
            return Ok(());
        }
        self.requests.send(Request::Observe { agent, whereabouts }).await.map_err(|_| Stopping)
    }

    /// Puts a list in force; gives its version.
    pub async fn put_list(&self, opened: OpenedList) -> Result<u64, ChangeRefusal> {
        let (reply, answer) = oneshot::channel();
        let request = Request::PutList { opened: Box::new(opened), reply };
        self.requests.send(request).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)?
    }

    /// Journals an operator's order, if it can be obeyed; gives the decisions that follow at once.
    pub async fn order(&self, order: Order) -> Result<Vec<Decision>, ChangeRefusal> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Order { order: Box::new(order), reply }).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)?
    }

    /// Ends once the writer has come so far.
    pub async fn ping(&self) -> Result<(), Stopping> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Ping { reply }).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Lets the writer finish what is queued and end.
    pub async fn stop(&self) {
        // A writer that is gone has nothing to finish.
        let _ = self.requests.send(Request::Stop).await;
    }

    /// Looks at the fold; keep it short, the writer waits.
    pub fn read<R>(&self, look: impl FnOnce(&Fold) -> R) -> R {
        look(&self.view.fold.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The instant to judge the present by: never before the last entry.
    pub fn now(&self, fold: &Fold) -> UnixMillis {
        clock::now().max(fold.at())
    }

    /// Wakes after each group applied.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.view.changes.subscribe()
    }

    /// Wishes for a fresh look at a mirror, made from now on, for all agents.
    pub fn wishes(&self) -> broadcast::Receiver<Wish> {
        self.view.wishes.subscribe()
    }

    /// Asks an agent for a fresh look, at an operator's wish. Without a stream open nobody hears it.
    pub fn ask(&self, wish: Wish) {
        let _ = self.view.wishes.send(wish);
    }

    /// The list in force, and each one after it.
    pub fn list(&self) -> watch::Receiver<Option<Arc<ListInForce>>> {
        self.view.list.subscribe()
    }
}

impl RecordBatch {
    /// Epoch and sequence of the first record; zeros if there is none.
    fn first(&self) -> (u64, u64) {
        let first = self.records.first().map(|arrival| arrival.checked.record());
        first.map_or((0, 0), |record| (record.epoch, record.sequence))
    }

    fn body_len(&self) -> usize {
        self.records.iter().map(|arrival| arrival.checked.record().body.len()).sum()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl View {
    fn publish(&self) {
        let list = {
            let fold = self.fold.read().unwrap_or_else(PoisonError::into_inner);
            let signed = fold.signed_list().cloned();
            let key_changes = fold.key_changes().to_vec();
            fold.list().zip(signed).map(|(list, signed)| ListInForce {
                version: list.version,
                signed,
                key_changes,
            })
        };
        self.list.send_if_modified(|current| {
            let changed = current.as_deref() != list.as_ref();
            if changed {
                *current = list.map(Arc::new);
            }
            changed
        });
        self.changes.send_modify(|count| *count += 1);
    }
}
