//! The uplink: one stream an agent, records up, acks and lists down.
//!
//! Who speaks is said by the client certificate alone. A stream parses, checks signatures and hands over; whether a record
//! is admitted is the engine's business. Each stream has its own small bounds, so one slow agent slows no other.

mod pace;
mod parts;
mod passage;
pub mod quic;
mod stream;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream as Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code as Grpc, Request, Response, Status, Streaming};
use zerkalo_core::address::unwrap_embedded;
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::identity::{Standing, StandingChange};
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_proto::agent_v1::uplink_service_server::UplinkService;
use zerkalo_proto::agent_v1::{LeaveRequest, LeaveResponse, StreamRequest, StreamResponse};
use zerkalo_proto::code::status;

use crate::authority::Papers;
use crate::clock;
use crate::engine::{Engine, Holding};
use crate::metrics::{Metrics, count};
use crate::pictures::Pictures;
use crate::session::Session;
use crate::stop::StopSignal;
use crate::vicinity::VicinityKey;
pub use pace::{Paces, RECORDS_PER_SEC_DEFAULT, RECORDS_PER_SEC_MAX, RECORDS_PER_SEC_MIN};
pub use parts::{Parts, Took};
use stream::Stream;

/// Largest message from an agent, in bytes: 15 records of the largest size, far more of the usual.
pub const FRAME_LEN_MAX: usize = 1024 * 1024;
/// Answers an agent has not read yet; then its stream waits.
const RESPONSES_QUEUED_MAX: usize = 16;

/// Stable code: an agent opens streams faster than any honest one.
pub const TOO_MANY_STREAMS: &str = "too_many_streams";

/// In whose name an agent is revoked whose host withdraws, and why.
const HOST_AUTHOR: &str = "(its host)";
/// See [`HOST_AUTHOR`].
const LEAVE_REASON: &str = "its host has withdrawn consent";

/// What all streams share of the ways agents come by.
#[derive(Debug)]
pub struct Ways {
    /// Where else this collector answers; told to agents.
    pub urls: Vec<String>,
    /// Tells a state's interception authority from others.
    pub fingerprints: Fingerprints,
    /// Addresses of relays: a stream from there tells nothing of where its agent is.
    pub relays: Vec<IpAddr>,
    /// Records that come in parts.
    pub parts: Parts,
    /// How fast each agent sends.
    pub paces: Paces,
}

impl Default for Ways {
    /// One way, and what is built in.
    fn default() -> Self {
        let fingerprints = Fingerprints::built_in();
        Self {
            urls: Vec::new(),
            fingerprints,
            relays: Vec::new(),
            parts: Parts::default(),
            paces: Paces::default(),
        }
    }
}

/// An agent that has shown who it is.
#[derive(Debug, Clone)]
pub struct Caller {
    pub agent: AgentId,
    /// Of its records.
    pub key: PublicKey,
    /// When its certificate's time is over: its stream ends with it.
    pub until: UnixMillis,
}

/// The uplink service.
pub struct Uplink {
    pub engine: Engine,
    pub connected: Connected,
    pub metrics: Arc<Metrics>,
    pub pictures: Arc<Pictures>,
    pub vicinities: VicinityKey,
    pub ways: Arc<Ways>,
    /// Turns true when the collector stops.
    pub stopping: StopSignal,
}

#[tonic::async_trait]
impl UplinkService for Uplink {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let session = request.extensions().get::<Session>().cloned().unwrap_or_default();
        let caller = self.caller(&session).await.map_err(|(code, detail)| {
            count(&self.metrics.requests_refused, code);
            tracing::warn!(code, detail, "refused a stream");
            status(Grpc::Unauthenticated, code, detail)
        })?;
        if !self.ways.paces.may_open(&caller.agent, Instant::now()) {
            count(&self.metrics.requests_refused, TOO_MANY_STREAMS);
            tracing::debug!(agent = %caller.agent, code = TOO_MANY_STREAMS, "refused a stream");
            let detail =
                "this agent opens streams faster than any needs; it waits, or whoever made it mends it";
            return Err(status(Grpc::ResourceExhausted, TOO_MANY_STREAMS, detail));
        }
        // Behind NAT the carrier's own.
        let peer = session.peer.map(|address| unwrap_embedded(address.ip()));
        Ok(Response::new(self.attend(caller, peer, request.into_inner())))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let session = request.extensions().get::<Session>().cloned().unwrap_or_default();
        let refuse = |(code, detail): (&'static str, String)| {
            count(&self.metrics.requests_refused, code);
            tracing::warn!(code, detail, "a host's leave was refused");
            status(Grpc::Unauthenticated, code, detail)
        };
        let Caller { agent, .. } = match self.caller(&session).await {
            // It was revoked before: there is nothing left to forget.
            Err(("agent_revoked", _)) => return Ok(Response::new(LeaveResponse {})),
            known => known.map_err(refuse)?,
        };
        let (author, reason) = (HOST_AUTHOR.to_owned(), LEAVE_REASON.to_owned());
        let change = StandingChange { agent: agent.clone(), standing: Standing::Revoked, author, reason };
        self.engine.stand(change).await.map_err(|refusal| {
            count(&self.metrics.requests_refused, refusal.code());
            status(Grpc::Unavailable, refusal.code(), refusal.to_string())
        })?;
        tracing::warn!(%agent, "its host has withdrawn consent: the agent is revoked");
        Ok(Response::new(LeaveResponse {}))
    }
}

impl Uplink {
    /// Serves a stream of `caller`; gives what goes down.
    pub fn attend(
        &self,
        caller: Caller,
        peer: Option<IpAddr>,
        inbound: impl Incoming<Item = Result<StreamRequest, Status>> + Unpin + Send + 'static,
    ) -> ReceiverStream<Result<StreamResponse, Status>> {
        let (responses, outbound) = mpsc::channel(RESPONSES_QUEUED_MAX);
        let peer = peer.filter(|peer| !self.ways.relays.contains(peer));
        let agent = caller.agent.clone();
        let stream = Stream {
            agent: caller.agent,
            key: caller.key,
            until: caller.until,
            peer,
            vicinity: peer.and_then(|peer| self.vicinities.vicinity(peer)),
            engine: self.engine.clone(),
            metrics: self.metrics.clone(),
            pictures: self.pictures.clone(),
            ways: self.ways.clone(),
            responses,
            stopping: self.stopping.clone(),
        };
        let (guard, replaced) = self.connected.enter(agent);
        tokio::spawn(async move {
            stream.run(inbound, replaced).await;
            drop(guard);
        });
        ReceiverStream::new(outbound)
    }

    /// The agent behind the client certificate, if it has a say.
    async fn caller(&self, session: &Session) -> Result<Caller, (&'static str, String)> {
        let Papers { agent, generation, key, until } = session.papers(clock::now())?;
        let holding = Holding { agent: agent.clone(), generation, key };
        let let_in = self.engine.let_in(holding).await;
        let_in
            .map(|key| Caller { agent, key, until })
            .map_err(|refusal| (refusal.code(), refusal.to_string()))
    }
}

/// Who is on the uplink now. An agent has one stream: a newer one ends the older, which may be dead without knowing.
#[derive(Debug, Clone)]
pub struct Connected {
    streams: Arc<Mutex<Streams>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    /// Number of the agent's stream, and what tells it that it was replaced, by being dropped.
    open: BTreeMap<AgentId, (u64, oneshot::Sender<()>)>,
}

/// Holds an agent's place; leaves when dropped.
struct Guard {
    connected: Connected,
    agent: AgentId,
    number: u64,
}

impl Connected {
    /// Nobody yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { streams: Arc::default(), metrics }
    }

    /// Whether the agent is on the uplink.
    pub fn has(&self, agent: &AgentId) -> bool {
        self.lock().open.contains_key(agent)
    }

    /// Takes the agent's place. The receiver ends when a newer stream does the same.
    fn enter(&self, agent: AgentId) -> (Guard, oneshot::Receiver<()>) {
        let (replace, replaced) = oneshot::channel();
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        streams.open.insert(agent.clone(), (number, replace));
        self.metrics.agents_connected.set(streams.open.len() as i64);
        drop(streams);
        (Guard { connected: self.clone(), agent, number }, replaced)
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut streams = self.connected.lock();
        if streams.open.get(&self.agent).is_some_and(|(number, _)| *number == self.number) {
            streams.open.remove(&self.agent);
        }
        self.connected.metrics.agents_connected.set(streams.open.len() as i64);
    }
}
