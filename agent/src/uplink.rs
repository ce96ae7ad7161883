//! The stream to the collector: records up, acks, lists and wishes down. What waits is `spool.rs`, where to go `paths.rs`;
//! this file connects, notes how each connection ended, and goes on by another way; what is said over one is
//! `uplink/session.rs`.

mod activity;
mod end;
pub mod inbox;
mod session;
mod short;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use zerkalo_core::evidence::ChainLink;
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::MirrorList;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::retry::Retry;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{self as wire, StreamRequest, StreamResponse};
use zerkalo_proto::code::code_of;

use crate::bound::Ways;
use crate::channel::{self, Address, ChannelError, Trust};
use crate::entropy;
use crate::papers::{Consequence, Expelled, Papers};
use crate::paths::{Failure, Length, Next, Paths, SMALL_BYTES_MAX, current_network, kept};
use crate::picture::pending::Pending;
use crate::quiet::Quiet;
use crate::spool::{Spool, SpoolError};
use crate::state::{Credentials, StateDir};
use crate::wish::Wish;
use crate::witness::Witness;
use crate::worth::Worth;

pub use crate::clock::wall_clock;
pub use activity::Activity;
use end::Fault;
pub use end::{End, chain, said};
use inbox::Inbox;

/// First and longest wait before trying all addresses again, about: no storms when a collector comes back.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// See [`RETRY_FIRST`].
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest wait before the first new connection after one that served: a collector's agents do not come back as one.
const SPREAD_MAX: Duration = Duration::from_millis(500);
/// Longest wait for one address while others were not tried: so all are, within seconds.
const PATIENCE_FIRST: Duration = Duration::from_secs(5);
/// The same once all have failed: a bad line needs its time.
const PATIENCE_LATER: Duration = channel::CONNECT_TIMEOUT;
/// Wait while the collector has no room.
const STORAGE_FULL_WAIT: Duration = Duration::from_secs(30);
/// A stream that lived so long was of use, even if there was nothing to send.
const USEFUL_AFTER: Duration = Duration::from_secs(60);
/// Longest wait for the collector's first message.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message taken, in bytes: the longest mirror list fits.
const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// Issuers of refused certificates told to the collector, with the next stream that comes about.
const INTERCEPTIONS_MAX: usize = 8;

/// The spool, shared by who measures and who sends.
#[derive(Debug, Clone)]
pub struct SharedSpool {
    spool: Arc<Mutex<Spool>>,
    appended: Arc<Notify>,
    work: SpoolWork,
    turns: Arc<Turns>,
}

/// Whose turn it is where both wait: what goes ahead, or the backlog. Kept over connections, of which a short one may have
/// room for one of the two.
#[derive(Debug, Default)]
struct Turns(AtomicBool);

impl Turns {
    fn is_backlog_s(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes what went last.
    fn note(&self, went_ahead: bool) {
        self.0.store(went_ahead, Ordering::Relaxed);
    }
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
        let (spool, appended) = (Arc::new(Mutex::new(spool)), Arc::new(Notify::new()));
        Self { spool, appended, work, turns: Arc::default() }
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

    /// Whether a record of the head's epoch waits behind `sequence`.
    async fn has_after(&self, sequence: u64) -> bool {
        self.run(move |spool| spool.head().sequence > sequence).await
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
    /// As the token, the settings and the collector told them, best first.
    pub urls: Vec<String>,
    pub credentials: Credentials,
    /// Of the enrolment.
    pub operator_keys: OperatorKeys,
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
    /// When probes run.
    pub quiet: Quiet,
    /// What the records of those probes tell of the uplink.
    pub activity: Activity,
    /// A list that comes in parts.
    pub inbox: Inbox,
    /// Who takes care of the certificate; `None` where streams need none.
    pub papers: Option<Papers>,
}

/// Why the uplink ended for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Cloned(Cloned),
    #[error(transparent)]
    Expelled(Expelled),
}

/// This box must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this box looks like a copy of another: the collector holds other records under the same name ({detail}). Stop one of the two, then enrol this one anew with `zerkalo-agent enroll --force` and a new token"
)]
pub struct Cloned {
    pub detail: String,
}

/// One stream's way, and how it came to be.
struct Passage {
    address: Address,
    length: Length,
    patience: Duration,
    /// How the stream before ended, when it was last of use, and whose certificates were refused since.
    after: &'static str,
    used: Option<Instant>,
    intercepted_by: Vec<String>,
}

impl Passage {
    fn to_wire(&self) -> wire::Passage {
        let down = self.used.map_or(Duration::ZERO, |used| steady_clock().saturating_duration_since(used));
        wire::Passage {
            transport: self.address.transport.as_str().to_owned(),
            after: self.after.to_owned(),
            down_millis: u64::try_from(down.as_millis()).unwrap_or(u64::MAX),
            intercepted_by: self.intercepted_by.clone(),
            bytes_max: match self.length {
                Length::Any => 0,
                Length::Small => u32::try_from(SMALL_BYTES_MAX).unwrap_or(u32::MAX),
            },
        }
    }
}

/// What came of a session.
#[derive(Debug, Default)]
struct Outcome {
    /// Whether the collector said its welcome.
    is_welcomed: bool,
    /// Whether a record, or part of one, was acknowledged, or a list came.
    has_progress: bool,
    /// When the collector last said anything.
    used: Option<Instant>,
    /// Bytes that passed up and down.
    carried: (u64, u64),
    /// Whether the line died without a word.
    is_dead: bool,
}

/// Where a stream is to be opened.
#[derive(Debug, Clone)]
struct Way {
    address: Address,
    patience: Duration,
    /// All addresses known: the collector may show a certificate for any of them.
    known: Vec<Address>,
}

/// A stream that the collector has answered, and the connection under it, where there is one.
struct Opened<D> {
    stream: Line<D>,
    line: Option<channel::Line>,
}

/// How long to wait: between rounds, and after a connection that served.
struct Pauses {
    retry: Retry,
    spread_max: Duration,
}

/// A stream that the collector has answered.
pub struct Line<D> {
    /// When the Hello went, about.
    pub greeted: Instant,
    /// What comes down.
    pub down: D,
}

impl Uplink {
    /// Keeps a stream open for ever. Returns only where this box must stop.
    pub async fn run(self) -> Stopped {
        let pauses = Pauses { retry: Retry::new(RETRY_FIRST, RETRY_MAX), spread_max: SPREAD_MAX };
        let dialer = Dialer::new(&self);
        self.keep_open(pauses, |way, outgoing| dialer.clone().dial(way, outgoing)).await
    }

    /// The same over streams of the caller's: `open` gets a URL and what is to be sent, the Hello first.
    pub async fn run_over<D, F>(
        &self,
        retry: Retry,
        open: impl Fn(String, mpsc::Receiver<StreamRequest>) -> F,
    ) -> Stopped
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
        F: Future<Output = Result<Line<D>, End>>,
    {
        let pauses = Pauses { retry, spread_max: Duration::ZERO };
        let open = |way: Way, outgoing| {
            let opening = open(way.address.to_string(), outgoing);
            async { opening.await.map(|stream| Opened { stream, line: None }) }
        };
        self.keep_open(pauses, open).await
    }

    async fn keep_open<D, F>(
        &self,
        mut pauses: Pauses,
        open: impl Fn(Way, mpsc::Receiver<StreamRequest>) -> F,
    ) -> Stopped
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
        F: Future<Output = Result<Opened<D>, End>>,
    {
        let mut paths = kept::read(&self.state, &self.urls);
        if paths.addresses().is_empty() {
            return Stopped::Cloned(Cloned { detail: "no collector's URL is known".to_owned() });
        }
        let mut is_first_round = true;
        let (mut after, mut used, mut intercepted_by) = ("first", None, Vec::new());
        loop {
            paths.enter(current_network());
            let Next::Try(address, length) = paths.next(wall_clock()) else {
                tokio::time::sleep(pauses.retry.next_wait()).await;
                paths.begin_round();
                is_first_round = false;
                continue;
            };
            let patience = if is_first_round { PATIENCE_FIRST } else { PATIENCE_LATER };
            let passage = Passage { address, length, patience, after, used, intercepted_by };
            let (began, mut outcome) = (steady_clock(), Outcome::default());
            let end = match self.session(&passage, &open, &mut paths, &mut outcome).await {
                Err(End::Cloned(cloned)) => return Stopped::Cloned(cloned),
                Err(end) => end,
                Ok(never) => match never {},
            };
            self.activity.closed();
            let has_lived = steady_clock() >= began + USEFUL_AFTER;
            let is_useful = outcome.has_progress || (outcome.is_welcomed && has_lived);
            if is_useful {
                pauses.retry.reset();
                is_first_round = true;
                self.note_worked(&mut paths, &passage.address);
            }
            match self.see_to_papers(&paths, &passage.address, &end).await {
                Consequence::Stop(expelled) => return Stopped::Expelled(expelled),
                Consequence::AtOnce => {
                    tracing::info!(url = %passage.address, ended = chain(&end), "on by the next certificate");
                    (after, intercepted_by) = (end.word(), passage.intercepted_by);
                    used = outcome.used.or(used);
                    continue;
                }
                Consequence::Retry => {}
            }
            let wait = self.note_end(&mut paths, &passage, &end, &outcome, is_useful, &mut pauses);
            intercepted_by = if outcome.is_welcomed { Vec::new() } else { passage.intercepted_by };
            if let End::Channel(ChannelError::Intercepted { refusal, .. }) = &end {
                intercepted_by.push(refusal.issuer.clone());
                intercepted_by.truncate(INTERCEPTIONS_MAX);
            }
            // Why there is no stream is told by the first failure since the last one.
            if outcome.is_welcomed || after == "first" {
                after = end.word();
            }
            used = outcome.used.or(used).or(Some(began));
            tokio::time::sleep(wait).await;
        }
    }

    /// What the end of a session asks of the certificate, and of this box.
    async fn see_to_papers(&self, paths: &Paths, address: &Address, end: &End) -> Consequence {
        let Some(papers) = &self.papers else { return Consequence::Retry };
        let ways = || {
            let addresses = paths.in_order(Some(address), wall_clock());
            Ways::beside_probes(addresses, self.quiet.clone(), self.activity.traffic().clone())
        };
        match end {
            End::Renewal => papers.renew(&ways()).await,
            End::Status(status) => match code_of(status) {
                Some(code) => papers.heed(&ways(), code, status.message()).await,
                None => Consequence::Retry,
            },
            _ => Consequence::Retry,
        }
    }

    /// Waits until the certificate wants renewal.
    async fn renewal(&self, server_now: UnixMillis) {
        match &self.papers {
            Some(papers) => papers.due(server_now).await,
            None => std::future::pending().await,
        }
    }

    /// Notes how a session ended; how long to wait before the next.
    fn note_end(
        &self,
        paths: &mut Paths,
        passage: &Passage,
        end: &End,
        outcome: &Outcome,
        is_useful: bool,
        pauses: &mut Pauses,
    ) -> Duration {
        let address = &passage.address;
        if matches!(end, End::Recycled) && is_useful {
            let (sent, received) = outcome.carried;
            tracing::debug!(url = %address, sent, received, "connection recycled");
            return Duration::ZERO;
        }
        let is_of_path = end.fault() == Fault::Path || matches!(end, End::Recycled);
        let mut wait = Duration::ZERO;
        if is_of_path {
            let failure = match end {
                End::Frozen | End::NoWelcome => Failure::Frozen { carried: outcome.carried },
                // With nothing to send only the question whether it lives finds out: a long list froze on its way here.
                _ if outcome.is_dead => Failure::Frozen { carried: outcome.carried },
                _ if is_useful => Failure::Lost,
                _ => Failure::Broken,
            };
            if paths.failed(address, failure, wall_clock()) {
                tracing::warn!(
                    url = %address,
                    sent = outcome.carried.0,
                    received = outcome.carried.1,
                    "this path freezes connections of that length: they are kept below {SMALL_BYTES_MAX} bytes for a day"
                );
                self.remember(paths);
            }
            // Who was served together does not come back together.
            if is_useful {
                wait = pauses.spread_max.mul_f64(entropy::fraction());
            }
        } else {
            wait = wait_after(end, pauses.retry.next_wait());
        }
        tracing::warn!(
            url = %address,
            transport = address.transport.as_str(),
            wait_millis = wait.as_millis() as u64,
            sent = outcome.carried.0,
            received = outcome.carried.1,
            error = chain(end),
            "uplink lost"
        );
        wait
    }

    fn note_worked(&self, paths: &mut Paths, address: &Address) {
        if paths.worked(address, wall_clock()) {
            self.remember(paths);
        }
    }

    fn remember(&self, paths: &Paths) {
        if let Err(error) = aside(|| kept::write(&self.state, paths)) {
            tracing::warn!(error = chain(&error), "what was learned of the uplink's paths is not kept");
        }
    }
}

/// Opens streams over mTLS, for one uplink.
#[derive(Clone)]
struct Dialer(Arc<DialerParts>);

struct DialerParts {
    state: StateDir,
    credentials: Credentials,
    activity: Activity,
    quiet: Quiet,
    trust: Mutex<Option<(MadeOf, Arc<Trust>)>>,
}

/// So many addresses' names, and this certificate.
type MadeOf = (usize, String);

impl Dialer {
    fn new(uplink: &Uplink) -> Self {
        Self(Arc::new(DialerParts {
            state: uplink.state.clone(),
            credentials: uplink.credentials.clone(),
            activity: uplink.activity.clone(),
            quiet: uplink.quiet.clone(),
            trust: Mutex::default(),
        }))
    }

    /// Connects and says what waits in `outgoing`, the Hello.
    async fn dial(
        self,
        way: Way,
        outgoing: mpsc::Receiver<StreamRequest>,
    ) -> Result<Opened<tonic::Streaming<StreamResponse>>, End> {
        let trust = self.trust(&way.known)?;
        let DialerParts { activity, quiet, .. } = &*self.0;
        let line = channel::connect(&way.address, &trust, way.patience, activity.traffic(), quiet).await?;
        let mut client =
            UplinkServiceClient::new(line.channel.clone()).max_decoding_message_size(MESSAGE_LEN_MAX);
        let greeted = steady_clock();
        let answered =
            tokio::time::timeout(WELCOME_TIMEOUT, client.stream(ReceiverStream::new(outgoing))).await;
        let down = answered.map_err(|_| End::NoWelcome)??.into_inner();
        Ok(Opened { stream: Line { greeted, down }, line: Some(line) })
    }

    /// Certificates are read, and sessions to be resumed forgotten, only where a name came to be known.
    fn trust(&self, known: &[Address]) -> Result<Arc<Trust>, ChannelError> {
        // Read anew each time: it may have been renewed.
        let own = aside(|| self.0.state.credentials()).unwrap_or_else(|_| self.0.credentials.clone());
        let made_of = (known.len(), own.certificate_pem.clone());
        let mut held = self.0.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trust)) = held.as_ref().filter(|(of, _)| *of == made_of) {
            return Ok(trust.clone());
        }
        let trust = Arc::new(channel::trust(&own, known).map_err(ChannelError::Trust)?);
        *held = Some((made_of, trust.clone()));
        Ok(trust)
    }
}

/// Work for a disk, where the runtime has other threads for the rest.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// How long to wait before connecting again.
fn wait_after(end: &End, retry_wait: Duration) -> Duration {
    match end {
        End::Refused { code, .. } if code == "storage_full" => retry_wait.max(STORAGE_FULL_WAIT),
        _ => retry_wait,
    }
}

/// The host's steady clock, as the runtime tells it: a simulation has its own.
fn steady_clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

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
