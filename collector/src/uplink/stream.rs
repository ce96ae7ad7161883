//! One agent's stream, from Hello to the end.
//!
//! Records are checked here, agents side by side; batches go to the engine as they come, a few at a time, and their
//! answers go back in the same order.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream as Incoming, StreamExt};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::{Code as Grpc, Status};
use zerkalo_core::admission::RejectionCode;
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::fold::Wish;
use zerkalo_core::journal::Whereabouts;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis, Vicinity};
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{self, StreamRequest, StreamResponse};
use zerkalo_proto::code::status;
use zerkalo_proto::evidence::{record_from_bytes, record_from_wire, runs_to_wire};

use super::parts::Took;
use super::passage;
use super::{FRAME_LEN_MAX, Ways};
use crate::clock;
use crate::engine::{Arrival, Engine, HeldAhead, ListInForce, RecordBatch, RecordsAnswer, Refusal};
use crate::metrics::{Metrics, count};
use crate::pictures::Pictures;
use crate::session;
use crate::stop::StopSignal;

/// Batches handed to the engine and not yet answered; then the stream is not read.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// How long an agent may take to say Hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// How long an agent may leave its answers unread.
const SEND_WAIT: Duration = Duration::from_secs(60);

/// How much longer than its certificate a stream may last: who shook hands in the last moment is told by a stream's end,
/// not by a closed connection.
const CERTIFICATE_SLACK_MILLIS: u64 = 1_000;
/// How often the clock is looked at for that, at least: it may be set.
const CERTIFICATE_LOOK_MILLIS: u64 = 60 * 60 * 1_000;

/// What a stream needs.
pub struct Stream {
    pub agent: AgentId,
    /// What the agent's records are signed with.
    pub key: PublicKey,
    /// When the agent's certificate is over, and its stream with it.
    pub until: UnixMillis,
    /// Where the stream comes from: told to the agent, and to nobody else.
    pub peer: Option<IpAddr>,
    pub vicinity: Option<Vicinity>,
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    pub pictures: Arc<Pictures>,
    pub ways: Arc<Ways>,
    pub responses: mpsc::Sender<Result<StreamResponse, Status>>,
    pub stopping: StopSignal,
}

/// Why a stream ended; a reason to close, not a fault of ours.
#[derive(Debug)]
enum End {
    /// The agent closed, or went away.
    Gone,
    /// A record stopped the stream; the agent was told.
    Refused,
    /// The agent is told by a status.
    Told { grpc: Grpc, code: &'static str, detail: Cow<'static, str> },
}

type Answers = FuturesOrdered<BoxFuture<'static, Option<RecordsAnswer>>>;

impl Stream {
    /// Serves the agent until one side ends it.
    pub async fn run(
        self,
        mut inbound: impl Incoming<Item = Result<StreamRequest, Status>> + Unpin,
        replaced: oneshot::Receiver<()>,
    ) {
        let agent = &self.agent;
        // Before the Welcome: who was welcomed misses no wish.
        let wishes = self.engine.wishes();
        // Before it is looked at again: who loses their say from now on is cut off.
        let expelled = self.engine.expelled();
        if let Err(end) = self.check_say() {
            return self.end(end);
        }
        self.observe().await;
        let end = match self.greet(&mut inbound).await {
            Ok((lists, bytes_max)) => {
                tracing::info!(%agent, "connected");
                self.serve(inbound, lists, bytes_max, (wishes, expelled), replaced).await
            }
            Err(end) => end,
        };
        self.end(end);
    }

    fn end(&self, end: End) {
        tracing::info!(agent = %self.agent, ?end, "disconnected");
        if let End::Told { grpc, code, detail } = end {
            if grpc != Grpc::Unavailable {
                count(&self.metrics.requests_refused, code);
            }
            // If the agent reads no more, it learns it from the closed connection.
            let _ = self.responses.try_send(Err(status(grpc, code, detail)));
        }
    }

    /// Ends a stream whose agent has no say any more.
    fn check_say(&self) -> Result<(), End> {
        match self.engine.refusal_of(&self.agent) {
            None => Ok(()),
            Some(refusal) => {
                let (code, detail) = (refusal.code(), refusal.to_string().into());
                Err(End::Told { grpc: Grpc::Unauthenticated, code, detail })
            }
        }
    }

    /// Ends, with a reason, once the agent's certificate is over by this machine's clock.
    async fn outlived(&self) -> End {
        loop {
            let left = self.until.plus_millis(CERTIFICATE_SLACK_MILLIS).since_millis(clock::now());
            if left == 0 {
                let (code, detail) = session::expired(self.until);
                return End::Told { grpc: Grpc::Unauthenticated, code, detail: detail.into() };
            }
            tokio::time::sleep(Duration::from_millis(left.min(CERTIFICATE_LOOK_MILLIS))).await;
        }
    }

    /// Notes where the stream comes from, before any of its records; the address itself goes no further.
    async fn observe(&self) {
        // By a relay: what was known before still stands.
        if self.peer.is_none() {
            return;
        }
        let (asn, before) = self.engine.read(|fold| {
            let before = fold.agents().get(&self.agent).and_then(|agent| agent.whereabouts.asn);
            (self.peer.and_then(|peer| fold.asn_of(peer)), before)
        });
        if asn != before {
            tracing::info!(agent = %self.agent, ?asn, ?before, "comes from another network than before");
        }
        // A collector that stops says so to the agent elsewhere.
        let whereabouts = Whereabouts { asn, vicinity: self.vicinity };
        let _ = self.engine.observe(self.agent.clone(), whereabouts).await;
    }

    /// Hello, then Welcome and the list if the agent's is older.
    async fn greet(
        &self,
        inbound: &mut (impl Incoming<Item = Result<StreamRequest, Status>> + Unpin),
    ) -> Result<(watch::Receiver<Option<Arc<ListInForce>>>, Option<u32>), End> {
        let told = |detail: &'static str| End::Told {
            grpc: Grpc::InvalidArgument,
            code: "bad_request",
            detail: detail.into(),
        };
        let first = tokio::time::timeout(HELLO_WAIT, inbound.next())
            .await
            .map_err(|_| told("no Hello came in time"))?
            .ok_or(End::Gone)?
            .map_err(|_| End::Gone)?;
        let Some(Up::Hello(hello)) = first.message else {
            return Err(told("the first message must be a Hello"));
        };
        let bytes_max = passage::note(hello.passage.as_ref(), &self.agent, &self.ways, &self.metrics);
        let (last, runs) = self.engine.read(|fold| {
            let head = fold.agents().get(&self.agent).map(|agent| &agent.head);
            head.map(|head| (head.last(), head.runs())).unwrap_or_default()
        });
        let welcome = agent_v1::Welcome {
            epoch: last.epoch,
            sequence: last.sequence,
            hash: last.hash.0.to_vec(),
            server_time_millis: clock::now().0,
            peer_address: self.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            takes_pictures: true,
            takes_gaps: true,
            collector_urls: self.ways.urls.clone(),
            takes_parts: true,
            part: self.ways.parts.held(&self.agent),
            takes_ahead: true,
            ahead: runs_to_wire(&runs),
        };
        self.send(Down::Welcome(welcome)).await?;
        let mut lists = self.engine.list();
        let newest = lists.borrow_and_update().clone();
        let version = newest.as_ref().map_or(0, |list| list.version);
        if hello.list_version > version {
            tracing::warn!(
                agent = %self.agent, agent_holds = hello.list_version, in_force = version,
                "the agent holds a newer list than is in force here and will take none that is not newer still: this \
                 collector's journal was lost or is older. Restore it from a copy, or sign lists with `zerkalo mirrors` \
                 until the version has passed the agent's"
            );
        }
        if let Some(list) = newest.filter(|list| list.version > hello.list_version) {
            let held = (hello.list_part_version, hello.list_part_len);
            self.send_list(&list, hello.list_version, bytes_max, Some(held)).await?;
        }
        Ok((lists, bytes_max))
    }

    /// A list, behind those since the agent's that it needs to know the operator's keys by.
    async fn send_list(
        &self,
        list: &ListInForce,
        held: u64,
        bytes_max: Option<u32>,
        parts: Option<(u64, u32)>,
    ) -> Result<(), End> {
        let changes = list.key_changes.iter();
        for (version, signed) in changes.filter(|(version, _)| *version > held && *version < list.version) {
            let (version, signed) = (*version, signed.clone());
            let change = ListInForce { version, signed, key_changes: Vec::new() };
            self.send(passage::list_message(&change, bytes_max, parts)).await?;
            if bytes_max.is_some() {
                // On a short connection one is enough: the next begins behind it.
                return Ok(());
            }
        }
        self.send(passage::list_message(list, bytes_max, parts)).await
    }

    async fn serve(
        &self,
        mut inbound: impl Incoming<Item = Result<StreamRequest, Status>> + Unpin,
        mut lists: watch::Receiver<Option<Arc<ListInForce>>>,
        bytes_max: Option<u32>,
        (mut wishes, mut expelled): (broadcast::Receiver<Wish>, broadcast::Receiver<AgentId>),
        mut replaced: oneshot::Receiver<()>,
    ) -> End {
        let stopping = &self.stopping;
        let ended = Arc::new(AtomicBool::new(false));
        let mut answers = Answers::new();
        let mut sent = lists.borrow().as_ref().map_or(0, |list| list.version);
        let (mut open, mut is_lost) = (true, false);
        let mut outlived = pin!(self.outlived());
        // Until then nothing more is read: what the agent sent too much of waits at its end of the line.
        let mut rests_until = Instant::now();
        loop {
            let rests = open && rests_until > Instant::now();
            let step = tokio::select! {
                // In this order, so that the same events have the same outcome; who is to end is never kept waiting.
                biased;
                lost = expelled.recv(), if !is_lost => {
                    is_lost = lost.is_ok_and(|agent| agent == self.agent) || self.check_say().is_err();
                    Ok(())
                },
                _ = &mut replaced => Err(End::Told {
                    grpc: Grpc::Aborted, code: "replaced", detail: "the agent opened a newer stream".into(),
                }),
                () = stopping.stopped() => Err(End::Told {
                    grpc: Grpc::Unavailable, code: "stopping", detail: "the collector is stopping".into(),
                }),
                end = &mut outlived => Err(end),
                Some(answer) = answers.next() => self.pass_on(answer).await,
                () = tokio::time::sleep_until(rests_until), if rests => Ok(()),
                message = inbound.next(), if open && !rests && !is_lost && answers.len() < BATCHES_IN_FLIGHT_MAX => match message {
                    Some(Ok(message)) => {
                        rests_until = self.pace(&message);
                        self.take(message, &ended, &mut answers).await
                    }
                    None => { open = false; Ok(()) }
                    Some(Err(error)) => { open = false; self.broken(&error, &mut answers) }
                },
                Ok(()) = lists.changed(), if open => {
                    let list = lists.borrow_and_update().clone();
                    match list {
                        Some(list) => {
                            let held = std::mem::replace(&mut sent, list.version);
                            self.send_list(&list, held, bytes_max, None).await
                        }
                        None => Ok(()),
                    }
                },
                wish = wishes.recv(), if open => match wish {
                    Ok(wish) if wish.agent == self.agent => {
                        self.send(Down::ProbeNow(probe_now(&wish))).await
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => Ok(()),
                    // The sender lives as long as the engine, of which this stream holds a handle.
                    Err(broadcast::error::RecvError::Closed) => Err(End::Gone),
                },
                else => Err(End::Gone),
            };
            match step {
                Err(end) => return end,
                // What is on its way to it says more than that it lost its say.
                Ok(()) if is_lost && answers.is_empty() => match self.check_say() {
                    Err(end) => return end,
                    Ok(()) => is_lost = false,
                },
                Ok(()) if !open && answers.is_empty() => return End::Gone,
                Ok(()) => {}
            }
        }
    }

    /// Counts a message towards what its agent may send; until when it is to rest.
    fn pace(&self, message: &StreamRequest) -> Instant {
        let records = match &message.message {
            Some(Up::Records(batch)) => batch.records.len(),
            _ => 1,
        };
        let now = Instant::now();
        let rest = self.ways.paces.take(&self.agent, records, now);
        if !rest.is_zero() {
            self.metrics.agents_slowed.inc();
            tracing::debug!(agent = %self.agent, ?rest, "sends faster than agents.records_per_sec and is read more slowly");
        }
        now + rest
    }

    /// Parses a message and hands its records to the engine.
    async fn take(
        &self,
        message: StreamRequest,
        ended: &Arc<AtomicBool>,
        answers: &mut Answers,
    ) -> Result<(), End> {
        let is_ahead = matches!(&message.message, Some(Up::Ahead(_) | Up::PartAhead(_)));
        let batch = match message.message {
            Some(Up::Records(batch) | Up::Ahead(batch)) => batch.records,
            Some(Up::Part(part) | Up::PartAhead(part)) => match self.take_part(&part, answers).await? {
                Some(record) => vec![record],
                None => return Ok(()),
            },
            Some(Up::Picture(picture)) => return self.take_picture(picture).await,
            Some(Up::Hello(_)) | None => {
                let detail = "after the Hello only records and pictures follow".into();
                return Err(End::Told { grpc: Grpc::InvalidArgument, code: "bad_request", detail });
            }
        };
        let mut records = Vec::with_capacity(batch.len());
        let mut unreadable = None;
        for record in batch {
            let (epoch, sequence) = (record.epoch, record.sequence);
            match record_from_wire(record) {
                Ok(record) => records.push(record),
                Err(error) => {
                    // It has no place in a chain, so nothing behind it has one.
                    let code = RejectionCode::Malformed.as_str();
                    let detail = error.to_string();
                    unreadable = Some(Refusal { epoch, sequence, code, detail, stops_stream: true });
                    break;
                }
            }
        }
        if !records.is_empty() {
            let key = self.key;
            let arrivals = || records.into_iter().map(|record| Arrival::new(record, &key)).collect();
            let records = aside(arrivals);
            let batch = RecordBatch { agent: self.agent.clone(), records, is_ahead, ended: ended.clone() };
            let stopping = |_| End::Told {
                grpc: Grpc::Unavailable,
                code: "stopping",
                detail: "the collector is stopping".into(),
            };
            let answer = self.engine.submit(batch).await.map_err(stopping)?;
            answers.push_back(async move { answer.await.ok() }.boxed());
        }
        if let Some(refusal) = unreadable {
            self.refuse_here(refusal, answers);
        }
        Ok(())
    }

    /// Takes a part of a record; the record, once it is whole.
    async fn take_part(
        &self,
        part: &agent_v1::RecordPart,
        answers: &mut Answers,
    ) -> Result<Option<agent_v1::SignedRecord>, End> {
        let (epoch, sequence) = (part.epoch, part.sequence);
        let mut refuse = |code: RejectionCode, detail: String| {
            let code = code.as_str();
            self.refuse_here(Refusal { epoch, sequence, code, detail, stops_stream: true }, answers);
        };
        match self.ways.parts.take(&self.agent, part) {
            Took::Held(held) => self.send(Down::Part(held)).await.map(|()| None),
            Took::Whole(bytes) => Ok(record_from_bytes(&bytes)
                .map_err(|error| refuse(RejectionCode::Malformed, error.to_string()))
                .ok()),
            Took::TooLong => {
                refuse(RejectionCode::FrameTooLarge, "a record longer than any may be".to_owned());
                Ok(None)
            }
        }
    }

    /// Keeps a picture that a record of this agent names, or says why not.
    async fn take_picture(&self, picture: agent_v1::Picture) -> Result<(), End> {
        let agent_v1::Picture { sha256, content, .. } = picture;
        let named = <[u8; 32]>::try_from(sha256.as_slice()).ok().and_then(|digest| {
            self.engine.read(|fold| fold.picture_of(&self.agent, &Sha256(digest)).cloned())
        });
        let kept = aside(|| self.pictures.put(named.as_ref(), &content));
        let (code, detail) = match kept {
            Ok(()) => Default::default(),
            Err(refusal) => {
                let error = &refusal as &dyn std::error::Error;
                tracing::warn!(agent = %self.agent, code = refusal.code(), error, "refused a picture");
                (refusal.code().to_owned(), refusal.to_string())
            }
        };
        self.send(Down::Picture(agent_v1::PictureAnswer { sha256, code, detail })).await
    }

    /// Reading failed. A frame beyond the limit is told in order behind what came before it.
    fn broken(&self, error: &Status, answers: &mut Answers) -> Result<(), End> {
        if error.code() != Grpc::OutOfRange {
            return Ok(());
        }
        let refusal = Refusal {
            epoch: 0,
            sequence: 0,
            code: RejectionCode::FrameTooLarge.as_str(),
            detail: format!("a message beyond the limit of {FRAME_LEN_MAX} bytes; send smaller batches"),
            stops_stream: true,
        };
        self.refuse_here(refusal, answers);
        Ok(())
    }

    /// A refusal the engine never sees, in its turn.
    fn refuse_here(&self, refusal: Refusal, answers: &mut Answers) {
        count(&self.metrics.records_refused, refusal.code);
        let answer = RecordsAnswer { acked: None, ahead: None, refusals: vec![refusal] };
        answers.push_back(async move { Some(answer) }.boxed());
    }

    /// Tells the agent what became of a batch.
    async fn pass_on(&self, answer: Option<RecordsAnswer>) -> Result<(), End> {
        // The engine dropped the batch: this stream was stopped by one before it.
        let Some(answer) = answer else { return Ok(()) };
        if let Some(link) = answer.acked {
            let ack = agent_v1::Ack { epoch: link.epoch, sequence: link.sequence };
            self.send(Down::Ack(ack)).await?;
        }
        if let Some(HeldAhead { epoch, sequence, runs }) = answer.ahead {
            let runs = runs_to_wire(&runs);
            self.send(Down::Ahead(agent_v1::AheadHeld { epoch, sequence, runs })).await?;
        }
        for refusal in answer.refusals {
            tracing::warn!(
                agent = %self.agent, code = refusal.code, epoch = refusal.epoch, sequence = refusal.sequence,
                detail = refusal.detail, "refused a record"
            );
            let stops = refusal.stops_stream;
            self.send(Down::Rejection(agent_v1::Rejection {
                epoch: refusal.epoch,
                sequence: refusal.sequence,
                code: refusal.code.to_owned(),
                detail: refusal.detail,
                stops_stream: stops,
            }))
            .await?;
            if stops {
                return Err(End::Refused);
            }
        }
        Ok(())
    }

    /// Waits for the agent to read, not for ever.
    async fn send(&self, message: Down) -> Result<(), End> {
        let stopping = &self.stopping;
        tokio::select! {
            biased;
            sent = self.responses.send(Ok(StreamResponse { message: Some(message) })) => {
                sent.map_err(|_| End::Gone)
            }
            () = tokio::time::sleep(SEND_WAIT) => Err(End::Gone),
            () = stopping.stopped() => Err(End::Gone),
        }
    }
}

/// Work for a core or a disk, where the runtime has other threads for the other streams.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn probe_now(wish: &Wish) -> agent_v1::ProbeNow {
    agent_v1::ProbeNow {
        mirror: wish.mirror.to_string(),
        addresses: wish.addresses.iter().map(ToString::to_string).collect(),
        picture: wish.picture,
    }
}
