//! The stream to the collector: records up, acks, lists and wishes down. What is in flight is `window.rs`, what waits is
//! `spool.rs`; this file connects, sends, obeys, and connects again. What stands under a stream is told by whoever opens
//! it: over sockets `dial`, and the simulation's own.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use zerkalo_core::admission::RejectionCode;
use zerkalo_core::evidence::{ChainLink, PublicKey};
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::retry::Retry;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{self as wire, Hello, RecordBatch, StreamRequest, StreamResponse};
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::{list_from_wire, record_to_wire};
use zerkalo_proto::gap::is_gap;

use crate::channel::{self, ChannelError};
use crate::list;
use crate::picture::courier::Courier;
use crate::picture::pending::Pending;
use crate::spool::{Resumed, Spool, SpoolError};
use crate::state::{Credentials, StateDir};
use crate::window::{AckAhead, BATCH_BYTES_MAX, FROZEN_AFTER, Window};
use crate::wish::Wish;
use crate::witness::Witness;
use crate::worth::Worth;

/// First and longest wait before connecting again, about: no storms when a collector comes back.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// See [`RETRY_FIRST`].
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Wait while the collector has no room.
const STORAGE_FULL_WAIT: Duration = Duration::from_secs(30);
/// A stream that lived so long was of use, even if there was nothing to send.
const USEFUL_AFTER: Duration = Duration::from_secs(60);
/// Longest wait for the collector's first message.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// Batches handed to the stream and not yet taken by it.
const OUTGOING_MAX: usize = 4;
/// Largest message taken, in bytes: the longest mirror list fits.
const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// What rustls says of a certificate where this machine's clock may be to blame.
const CLOCK_FAULTS: [&str; 2] = ["certificate not valid yet", "certificate expired"];
/// See [`CLOCK_FAULTS`].
const CLOCK_REMEDY: &str = "; check this machine's clock, and if it is right, the collector's certificate";
/// What tonic says of every fault below it; the causes say which.
const TRANSPORT_ERROR: &str = "transport error";
/// A clock off by more makes records useless: said in the log.
const CLOCK_OFF_MAX_MILLIS: u64 = 60_000;

/// The spool, shared by who measures and who sends.
#[derive(Debug, Clone)]
pub struct SharedSpool {
    spool: Arc<Mutex<Spool>>,
    appended: Arc<Notify>,
    work: SpoolWork,
}

/// Where the spool's disk work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolWork {
    /// On threads that may block.
    Threads,
    /// At once, on the caller's: where the same steps must come in the same order each time.
    Here,
}

impl SharedSpool {
    /// Shares `spool`.
    pub fn new(spool: Spool, work: SpoolWork) -> Self {
        Self { spool: Arc::new(Mutex::new(spool)), appended: Arc::new(Notify::new()), work }
    }

    /// Appends a record's body and wakes the uplink.
    pub async fn append(
        &self,
        body: Vec<u8>,
        worth: Worth,
        now: UnixMillis,
    ) -> Result<ChainLink, SpoolError> {
        let link = self.run(move |spool| spool.append(body, worth, now).map(|record| record.link())).await?;
        self.appended.notify_one();
        Ok(link)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Spool) -> T + Send + 'static) -> T {
        let spool = self.spool.clone();
        let work = move || work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner));
        if self.work == SpoolWork::Here {
            return work();
        }
        tokio::task::spawn_blocking(work).await.expect("spool work does not panic and is never aborted")
    }
}

/// What the uplink needs.
pub struct Uplink {
    pub state: StateDir,
    pub urls: Vec<String>,
    pub credentials: Credentials,
    pub operator_key: PublicKey,
    pub spool: SharedSpool,
    /// The list in force; the uplink puts newer ones here.
    pub list: watch::Sender<Option<Arc<MirrorList>>>,
    /// Wishes for a fresh look; dropped when full.
    pub wishes: mpsc::Sender<Wish>,
    /// Whether the collector once had records under this name which are not here.
    pub was_behind: AtomicBool,
    /// What the last welcome told of this box.
    pub witness: watch::Sender<Option<Witness>>,
    /// Pictures to send while no record waits; `None` where none can be kept.
    pub pictures: Option<Pending>,
}

/// This box must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this box looks like a copy of another: the collector holds other records under the same name ({detail}). Stop one of the two, then enrol this one anew with `zerkalo-agent enroll --force` and a new token"
)]
pub struct Cloned {
    pub detail: String,
}

/// A stream that the collector has answered.
pub struct Line<D> {
    /// When the Hello went, about.
    pub greeted: Instant,
    /// What comes down.
    pub down: D,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("no stream")]
    Channel(#[from] ChannelError),
    #[error("the collector ended the stream: {}", status_text(.0))]
    Status(Box<tonic::Status>),
    #[error("the collector closed the stream")]
    Closed,
    #[error("no welcome within {} s", WELCOME_TIMEOUT.as_secs())]
    NoWelcome,
    #[error("no ack for {} s with records in flight: the connection is frozen", FROZEN_AFTER.as_secs())]
    Frozen,
    #[error("the collector broke the protocol")]
    Protocol(#[from] AckAhead),
    #[error("the collector refused the stream of records: {code}: {detail}")]
    Refused { code: String, detail: String },
    #[error(
        "records were given up here, and this collector is too old to be told so; install the agent's version there"
    )]
    TakesNoGaps,
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Cloned(#[from] Cloned),
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Uplink {
    /// Keeps a stream open for ever. Returns only where this box must stop.
    pub async fn run(self) -> Cloned {
        let credentials = self.credentials.clone();
        let retry = Retry::new(RETRY_FIRST, RETRY_MAX);
        self.run_over(retry, |url, outgoing| dial(url, credentials.clone(), outgoing)).await
    }

    /// The same over streams of the caller's: `open` gets a URL and what is to be sent, the Hello first.
    pub async fn run_over<D, F>(
        &self,
        mut retry: Retry,
        open: impl Fn(String, mpsc::Receiver<StreamRequest>) -> F,
    ) -> Cloned
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
        F: Future<Output = Result<Line<D>, End>>,
    {
        for url in self.urls.iter().cycle() {
            let (began, mut progress) = (steady_clock(), false);
            let end = match self.session(url, &open, &mut progress).await {
                Err(End::Cloned(cloned)) => return cloned,
                Err(end) => end,
                Ok(never) => match never {},
            };
            if progress || steady_clock() >= began + USEFUL_AFTER {
                retry.reset();
            }
            let wait = wait_after(&end, retry.next_wait());
            tracing::warn!(url, wait_millis = wait.as_millis() as u64, error = chain(&end), "uplink lost");
            tokio::time::sleep(wait).await;
        }
        Cloned { detail: "no collector's URL is known".to_owned() }
    }

    /// One stream, from connecting to its end. `progress` is set once a record was acknowledged.
    async fn session<D, F>(
        &self,
        url: &str,
        open: &impl Fn(String, mpsc::Receiver<StreamRequest>) -> F,
        progress: &mut bool,
    ) -> Result<std::convert::Infallible, End>
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
        F: Future<Output = Result<Line<D>, End>>,
    {
        let (up, outgoing) = mpsc::channel(OUTGOING_MAX);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            list_version: self.list.borrow().as_ref().map_or(0, |list| list.version),
        };
        // The channel is empty: there is room.
        let _ = up.try_send(StreamRequest { message: Some(Up::Hello(hello)) });
        let mut line = open(url.to_owned(), outgoing).await?;
        let welcome = tokio::time::timeout(WELCOME_TIMEOUT, self.greet(&mut line))
            .await
            .map_err(|_| End::NoWelcome)??;
        let mut down = line.down;
        let at = ChainLink {
            epoch: welcome.epoch,
            sequence: welcome.sequence,
            hash: Sha256(welcome.hash.try_into().unwrap_or_default()),
        };
        let now = wall_clock();
        warn_of_clock(now, welcome.server_time_millis);
        let (resumed, head) =
            self.spool.run(move |spool| spool.resume(at, now).map(|resumed| (resumed, spool.head()))).await?;
        let sequence = self.check_resumed(resumed, at)?;
        tracing::info!(url, waiting = head.sequence - sequence, epoch = head.epoch, "uplink open");
        let mut window = Window::new(head.epoch, sequence);
        let mut courier = Courier::new(self.pictures.as_ref(), welcome.takes_pictures);
        loop {
            self.send(&up, &mut window, welcome.takes_gaps).await?;
            if window.is_idle() {
                courier.send(&up).await;
            }
            let frozen_at = window.frozen_at();
            tokio::select! {
                // In this order, so that the same events have the same outcome; whatever came, all may be sent again.
                biased;
                // A message that is nothing is one of a newer collector's, which we do not know.
                message = down.next() => if let Some(message) = message.ok_or(End::Closed)??.message {
                    match message {
                        Down::Picture(answer) => courier.answered(&answer),
                        message => self.obey(message, &mut window, progress).await?,
                    }
                },
                () = courier.released() => {}
                () = self.spool.appended.notified() => {}
                () = sleep_until(frozen_at) => return Err(End::Frozen),
            }
        }
    }

    /// The sequence after which to send, unless another box writes under this name.
    fn check_resumed(&self, resumed: Resumed, at: ChainLink) -> Result<u64, Cloned> {
        let ChainLink { epoch, sequence, .. } = at;
        match resumed {
            Resumed::After(sequence) => return Ok(sequence),
            Resumed::CollectorBehind => {
                tracing::warn!(epoch, sequence, "the collector has lost records; going on in a new epoch");
            }
            Resumed::CollectorAhead if !self.was_behind.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    epoch,
                    sequence,
                    "the collector has records that are not here; going on in a new epoch"
                );
            }
            Resumed::CollectorAhead => {
                let detail =
                    format!("again it has records up to epoch {epoch} sequence {sequence} that are not here");
                return Err(Cloned { detail });
            }
        }
        Ok(0)
    }

    /// Waits for the Welcome.
    async fn greet<D>(&self, line: &mut Line<D>) -> Result<wire::Welcome, End>
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
    {
        loop {
            match line.down.next().await.ok_or(End::Closed)??.message {
                Some(Down::Welcome(welcome)) => {
                    let came = (wall_clock(), steady_clock());
                    let seen_as = welcome.peer_address.parse().ok();
                    let took = came.1.saturating_duration_since(line.greeted);
                    self.witness.send_replace(Witness::new(came, took, welcome.server_time_millis, seen_as));
                    return Ok(welcome);
                }
                Some(Down::Rejection(rejection)) => {
                    return Err(End::Refused { code: rejection.code, detail: rejection.detail });
                }
                Some(Down::List(list)) => self.take_list(list).await,
                _ => {}
            }
        }
    }

    /// Sends what the window, and the stream's own queue, have room for.
    async fn send(
        &self,
        up: &mpsc::Sender<StreamRequest>,
        window: &mut Window,
        takes_gaps: bool,
    ) -> Result<(), End> {
        loop {
            let (after, count) = window.room();
            // A full queue empties before the acks for it come, and acks bring us back here.
            let Ok(permit) = up.try_reserve() else { return Ok(()) };
            if count == 0 {
                return Ok(());
            }
            let batch = self.spool.run(move |spool| spool.after(after, count, BATCH_BYTES_MAX)).await?;
            let Some(last) = batch.last().map(|record| record.sequence) else { return Ok(()) };
            if !takes_gaps && batch.iter().any(|statement| is_gap(&statement.body)) {
                return Err(End::TakesNoGaps);
            }
            let records = batch.iter().map(record_to_wire).collect();
            permit.send(StreamRequest { message: Some(Up::Records(RecordBatch { records })) });
            window.sent(last, steady_clock());
        }
    }

    async fn obey(&self, message: Down, window: &mut Window, progress: &mut bool) -> Result<(), End> {
        match message {
            Down::Ack(ack) => {
                if window.acked(ack.epoch, ack.sequence, steady_clock())? {
                    *progress = true;
                    let now = wall_clock();
                    self.spool.run(move |spool| spool.ack(ack.epoch, ack.sequence, now)).await?;
                }
            }
            Down::Rejection(rejection) => self.refused(rejection).await?,
            Down::List(list) => self.take_list(list).await,
            Down::ProbeNow(message) => match Wish::parse(&message) {
                Ok(wish) => drop(self.wishes.try_send(wish)),
                Err(error) => tracing::warn!(%error, "the collector asks for a mirror that cannot be"),
            },
            // A second welcome changes nothing; a picture's answer is the courier's.
            Down::Welcome(_) | Down::Picture(_) => {}
        }
        Ok(())
    }

    async fn refused(&self, rejection: wire::Rejection) -> Result<(), End> {
        let response = respond(&rejection);
        let wire::Rejection { epoch, sequence, code, detail, .. } = rejection;
        tracing::warn!(epoch, sequence, code, detail, ?response, "the collector refused a record");
        match response {
            Response::GoOn => return Ok(()),
            Response::Stop => return Err(Cloned { detail }.into()),
            Response::BeginEpoch => {
                // What of it was admitted before is known with the next welcome alone.
                self.spool.run(move |spool| spool.begin_epoch_at_next_welcome(epoch)).await;
            }
            Response::Reconnect => {}
        }
        Err(End::Refused { code, detail })
    }

    async fn take_list(&self, list: wire::SignedList) {
        let signed = match list_from_wire(list) {
            Ok(signed) => signed,
            Err(error) => return tracing::warn!(error = chain(&error), "a mirror list cannot be read"),
        };
        let held = self.list.borrow().as_ref().map_or(0, |list| list.version);
        let (state, key) = (self.state.clone(), self.operator_key);
        let taken = tokio::task::spawn_blocking(move || list::take(&state, &key, held, &signed)).await;
        match taken.expect("taking a list does not panic and is never aborted") {
            Ok(list) => {
                tracing::info!(version = list.version, mirrors = list.mirrors.len(), "new mirror list");
                self.list.send_replace(Some(Arc::new(list)));
            }
            // The collector sends what it has; what we have already is no fault.
            Err(list::ListRefusal::NotNewer { offered, held }) if offered == held => {}
            Err(error) => tracing::warn!(error = chain(&error), "a mirror list is refused"),
        }
    }
}

/// A stream over mTLS.
async fn dial(
    url: String,
    credentials: Credentials,
    outgoing: mpsc::Receiver<StreamRequest>,
) -> Result<Line<tonic::Streaming<StreamResponse>>, End> {
    let channel = channel::connect(&url, &credentials).await?;
    let mut client = UplinkServiceClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
    let greeted = steady_clock();
    let answered = tokio::time::timeout(WELCOME_TIMEOUT, client.stream(ReceiverStream::new(outgoing))).await;
    Ok(Line { greeted, down: answered.map_err(|_| End::NoWelcome)??.into_inner() })
}

/// What a refused record asks of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    /// The record is journaled as refused, its ack follows: nothing is lost.
    GoOn,
    /// Another box has this box's name and key.
    Stop,
    /// The chain broke: sign anew what waits.
    BeginEpoch,
    /// The stream ends; a new one may fare better.
    Reconnect,
}

fn respond(rejection: &wire::Rejection) -> Response {
    match RejectionCode::parse(&rejection.code) {
        Some(RejectionCode::ConflictingKey) => Response::Stop,
        Some(RejectionCode::WrongChain | RejectionCode::BadSignature) => Response::BeginEpoch,
        _ if rejection.stops_stream => Response::Reconnect,
        // Codes of a newer collector too.
        _ => Response::GoOn,
    }
}

/// How long to wait before connecting again.
fn wait_after(end: &End, retry_wait: Duration) -> Duration {
    match end {
        End::Refused { code, .. } if code == "storage_full" => retry_wait.max(STORAGE_FULL_WAIT),
        _ => retry_wait,
    }
}

/// The host's wall clock.
pub fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The host's steady clock, as the runtime tells it: a simulation has its own.
fn steady_clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// An error and its causes, on one line, nothing twice; with the remedy where the clock may be to blame.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut parts, mut next) = (Vec::<String>::new(), Some(error));
    while let Some(cause) = next {
        let text = cause.downcast_ref::<tonic::Status>().map_or_else(|| cause.to_string(), status_text);
        // A cause may say all that its effect said, and more.
        parts.pop_if(|last| *last == TRANSPORT_ERROR || text.contains(last.as_str()));
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    let text = parts.join(": ");
    let is_clock_suspect = CLOCK_FAULTS.iter().any(|fault| text.contains(fault));
    if is_clock_suspect && !text.contains(CLOCK_REMEDY) { text + CLOCK_REMEDY } else { text }
}

/// What a status says: the collector's words, or what broke the line.
pub fn said(status: &tonic::Status) -> String {
    match status.source() {
        // Its message is the first of its causes.
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn status_text(status: &tonic::Status) -> String {
    match code_of(status) {
        Some(code) => format!("{code}: {}", status.message()),
        None => format!("{:?}: {}", status.code(), said(status)),
    }
}

fn warn_of_clock(here: UnixMillis, there: u64) {
    let off = here.0.abs_diff(there);
    if there > 0 && off > CLOCK_OFF_MAX_MILLIS {
        tracing::warn!(
            off_secs = off / 1000,
            "this clock differs from the collector's: set it, or records are refused"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(code: &str, stops_stream: bool) -> wire::Rejection {
        wire::Rejection { epoch: 1, sequence: 2, code: code.to_owned(), detail: String::new(), stops_stream }
    }

    #[test]
    fn each_refusal_has_its_response() {
        let check = |code, stops, response| assert_eq!(respond(&rejection(code, stops)), response, "{code}");
        check("conflicting_key", true, Response::Stop);
        check("wrong_chain", true, Response::BeginEpoch);
        check("bad_signature", true, Response::BeginEpoch);
        check("wrong_agent", true, Response::Reconnect);
        check("storage_full", true, Response::Reconnect);
        check("future_time", false, Response::GoOn);
        check("unknown_mirror", false, Response::GoOn);
        check("malformed", false, Response::GoOn);
        check("code_of_tomorrow", false, Response::GoOn);
        check("code_of_tomorrow", true, Response::Reconnect);
    }

    #[test]
    fn a_chain_of_causes_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            source: Option<Box<dyn Error + Send + Sync>>,
        }
        fn linked(texts: &[&'static str]) -> Link {
            let (text, rest) = texts.split_first().unwrap();
            let source = (!rest.is_empty()).then(|| Box::new(linked(rest)) as Box<dyn Error + Send + Sync>);
            Link { text, source }
        }
        let check = |texts: &[&'static str], expected: &str| {
            assert_eq!(chain(&linked(texts)), expected);
            // A status of the line's own end says what ended it.
            let mut status = tonic::Status::unavailable("transport error");
            status.set_source(Arc::new(linked(texts)));
            let end = End::from(status);
            assert_eq!(chain(&end), format!("the collector ended the stream: Unavailable: {expected}"));
        };
        check(&["tcp: refused (os 111)", "refused (os 111)", "refused"], "tcp: refused (os 111)");
        check(
            &["no connection", "transport error", "refused", "refused (os 111)"],
            "no connection: refused (os 111)",
        );
        check(&["transport error"], "transport error");
        let early = "invalid peer certificate: certificate not valid yet";
        check(&["transport error", early, early], &format!("{early}{CLOCK_REMEDY}"));
        let refused = zerkalo_proto::code::status(tonic::Code::PermissionDenied, "agent_unknown", "enrol it");
        assert_eq!(chain(&refused), "agent_unknown: enrol it");
        assert_eq!(chain(&End::from(refused)), "the collector ended the stream: agent_unknown: enrol it");
    }

    #[test]
    fn a_full_collector_is_left_alone_for_a_while() {
        let refused = |code: &str| End::Refused { code: code.to_owned(), detail: String::new() };
        let short = Duration::from_secs(1);
        assert_eq!(wait_after(&refused("storage_full"), short), STORAGE_FULL_WAIT);
        assert_eq!(wait_after(&refused("storage_full"), STORAGE_FULL_WAIT * 2), STORAGE_FULL_WAIT * 2);
        assert_eq!(wait_after(&refused("wrong_chain"), short), short);
        assert_eq!(wait_after(&End::Frozen, short), short);
    }
}
