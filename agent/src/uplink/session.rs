//! What is said over one connection, from the greeting to its end. What goes up when: session/sending.rs.

mod sending;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use zerkalo_core::evidence::{ChainLink, SignedList};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::stream_response::Message as Down;
use zerkalo_proto::agent_v1::{self as wire, Hello, StreamRequest, StreamResponse};
use zerkalo_proto::evidence::{list_from_bytes, list_from_wire, runs_from_wire};

use super::end::{End, Response, respond};
use super::short::Short;
use super::{
    Cloned, Line, Opened, Outcome, Passage, Uplink, WELCOME_TIMEOUT, Way, chain, steady_clock, wall_clock,
};
use crate::channel::{self, Meter, Transport};
use crate::paths::{Length, Paths};
use crate::picture::courier::Courier;
use crate::quiet::Turn;
use crate::spool::{Resumed, Spool};
use crate::window::{FROZEN_AFTER, Window};
use crate::wish::Wish;
use crate::witness::Witness;
use crate::{clock, list};

/// Batches handed to the stream and not yet taken by it.
const OUTGOING_MAX: usize = 4;
/// A clock off by more makes records useless: said in the log.
const CLOCK_OFF_MAX_MILLIS: u64 = 60_000;
/// So long a probe may keep QUIC silent while something waits; then the uplink asks for its turn.
const HELD_MAX: Duration = Duration::from_secs(5);
/// Longest turn.
const TURN_MAX: Duration = Duration::from_secs(5);
/// QUIC is not called frozen before it could speak for so long, whatever a probe held back before that.
const HEARD_MIN: Duration = Duration::from_secs(3);
/// Longest wait for the turn in which a connection by QUIC is made.
const TURN_WAIT_MAX: Duration = Duration::from_secs(20);

/// One stream under way.
struct Session<'a> {
    uplink: &'a Uplink,
    passage: &'a Passage,
    up: mpsc::Sender<StreamRequest>,
    meter: Option<Arc<Meter>>,
    window: Window,
    courier: Courier<'a>,
    /// Where the connection must stay short.
    short: Option<Short>,
    /// What the collector holds of the next record, where it comes in parts.
    held: Option<wire::PartHeld>,
    /// Since when the last part waits for its answer.
    part_since: Option<Instant>,
    /// Whether parts of a list came, and more are to be fetched.
    is_list_awaited: bool,
    takes_parts: bool,
    takes_gaps: bool,
    turn: Option<(Turn, Instant)>,
    /// Since when something waits that a probe held back, sent by now or not.
    held_since: Option<Instant>,
}

impl Uplink {
    /// One stream, from connecting to its end.
    pub(super) async fn session<D, F>(
        &self,
        passage: &Passage,
        open: &impl Fn(Way, mpsc::Receiver<StreamRequest>) -> F,
        paths: &mut Paths,
        outcome: &mut Outcome,
    ) -> Result<Infallible, End>
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
        F: Future<Output = Result<Opened<D>, End>>,
    {
        let Passage { address, patience, .. } = passage;
        let turn = match address.transport {
            Transport::Tcp => None,
            Transport::Quic => {
                let turn = tokio::time::timeout(TURN_WAIT_MAX, self.quiet.turn()).await;
                Some(turn.map_err(|_| End::NoTurn)?)
            }
        };
        let (up, outgoing) = mpsc::channel(OUTGOING_MAX);
        // The channel is empty: there is room.
        let _ = up.try_send(StreamRequest { message: Some(Up::Hello(self.hello(passage))) });
        let known = paths.addresses().to_vec();
        let way = Way { address: address.clone(), patience: *patience, known };
        let Opened { mut stream, line } = open(way, outgoing).await?;
        let carried = || line.as_ref().map_or((0, 0), channel::Line::carried);
        let welcome = match tokio::time::timeout(WELCOME_TIMEOUT, self.greet(&mut stream)).await {
            Ok(Ok(welcome)) => welcome,
            refused => {
                outcome.carried = carried();
                return Err(refused.map_or(End::NoWelcome, |greeted| greeted.err().unwrap_or(End::Closed)));
            }
        };
        drop(turn);
        (outcome.is_welcomed, outcome.used) = (true, Some(steady_clock()));
        self.activity.opened(address);
        self.learn(paths, &welcome.collector_urls);
        if let Some(papers) = &self.papers {
            papers.let_in();
        }
        let server_now = UnixMillis(welcome.server_time_millis);
        let meter = line.as_ref().map(|line| line.meter.clone());
        let window = self.resume(&welcome, passage, meter.as_deref()).await?;
        let short = meter.as_ref().filter(|_| passage.length == Length::Small);
        let short = short.map(|meter| {
            meter.limit(Short::LIMIT_BYTES);
            Short::new(meter.sent())
        });
        let mut session = Session {
            uplink: self,
            passage,
            up,
            window,
            courier: Courier::new(self.pictures.as_ref(), welcome.takes_pictures && short.is_none()),
            meter,
            short,
            held: welcome.part,
            part_since: None,
            is_list_awaited: false,
            takes_parts: welcome.takes_parts,
            takes_gaps: welcome.takes_gaps,
            turn: None,
            held_since: None,
        };
        let end = tokio::select! {
            biased;
            end = session.serve(&mut stream.down, paths, outcome) => end,
            () = self.renewal(server_now) => Err(End::Renewal),
        };
        outcome.is_dead = line.as_ref().is_some_and(channel::Line::is_dead);
        outcome.carried = match (&end, &session.meter) {
            (Err(End::Recycled), Some(meter)) => (meter.sent(), meter.received()),
            _ => carried(),
        };
        end
    }

    /// Where the records of this stream begin.
    async fn resume(
        &self,
        welcome: &wire::Welcome,
        passage: &Passage,
        meter: Option<&Meter>,
    ) -> Result<Window, End> {
        let at = ChainLink {
            epoch: welcome.epoch,
            sequence: welcome.sequence,
            hash: Sha256(welcome.hash.as_slice().try_into().unwrap_or_default()),
        };
        let now = wall_clock();
        warn_of_clock(now, welcome.server_time_millis);
        let runs = runs_from_wire(&welcome.ahead).map_err(|error| End::Held(chain(&error)))?;
        let held = runs.clone();
        let resume = move |spool: &mut Spool| {
            spool.resume_beside(at, &held, now).map(|resumed| (resumed, spool.head()))
        };
        let (resumed, head) = self.spool.run(resume).await?;
        let sequence = self.check_resumed(resumed, at)?;
        tracing::info!(
            url = %passage.address,
            transport = passage.address.transport.as_str(),
            after = passage.after,
            waiting = head.sequence - sequence,
            epoch = head.epoch,
            sent = meter.map_or(0, Meter::sent),
            received = meter.map_or(0, Meter::received),
            "uplink open"
        );
        if !welcome.takes_ahead {
            return Ok(Window::new(head.epoch, sequence));
        }
        // Of an epoch that ended nothing is sent any more.
        let held = if head.epoch == at.epoch { runs } else { Vec::new() };
        Ok(Window::with_ahead(head.epoch, sequence, held))
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

    fn hello(&self, passage: &Passage) -> Hello {
        let (list_part_version, list_part_len) = self.inbox.held();
        Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            list_version: self.list_version(),
            passage: Some(passage.to_wire()),
            list_part_version,
            list_part_len,
        }
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
                    clock::learn(&self.state, UnixMillis(welcome.server_time_millis), took);
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

    fn list_version(&self) -> u64 {
        self.list.borrow().as_ref().map_or(0, |list| list.version)
    }

    /// Takes further addresses from the collector, as the operator wrote them there.
    fn learn(&self, paths: &mut Paths, urls: &[String]) {
        if paths.learn_urls(urls) {
            tracing::info!(addresses = paths.addresses().len(), "the collector named further addresses");
            self.remember(paths);
        }
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
        match list_from_wire(list) {
            Ok(signed) => self.take_signed_list(signed).await,
            Err(error) => tracing::warn!(error = chain(&error), "a mirror list cannot be read"),
        }
    }

    /// A list that came in parts, whole.
    async fn take_list_bytes(&self, bytes: &[u8]) {
        match list_from_bytes(bytes) {
            Ok(signed) => self.take_signed_list(signed).await,
            Err(error) => tracing::warn!(error = chain(&error), "a mirror list cannot be read"),
        }
    }

    async fn take_signed_list(&self, signed: SignedList) {
        let held = self.list_version();
        let (state, keys) = (self.state.clone(), self.operator_keys.clone());
        let take = move || list::take(&state, &keys, held, &signed, wall_clock());
        let taken = tokio::task::spawn_blocking(take).await;
        match taken.expect("taking a list does not panic and is never aborted") {
            Ok(list) => {
                tracing::info!(version = list.version, mirrors = list.mirrors.len(), "new mirror list");
                self.list.send_replace(Some(Arc::new(list)));
            }
            // The collector sends what it has; what we have already is no fault.
            Err(list::ListRefusal::NotNewer { offered, held }) if offered <= held => {}
            Err(error) => tracing::warn!(error = chain(&error), "a mirror list is refused"),
        }
    }
}

impl Session<'_> {
    async fn serve<D>(
        &mut self,
        down: &mut D,
        paths: &mut Paths,
        outcome: &mut Outcome,
    ) -> Result<Infallible, End>
    where
        D: Stream<Item = Result<StreamResponse, tonic::Status>> + Unpin,
    {
        let uplink = self.uplink;
        loop {
            let is_quiet = uplink.quiet.is_quiet();
            let is_held = self.send(is_quiet).await?;
            if self.is_idle() {
                if self.is_list_awaited && self.short.is_some() {
                    return Err(End::Recycled);
                }
                if is_quiet {
                    self.courier.send(&self.up).await;
                }
            }
            if is_held {
                self.held_since.get_or_insert_with(steady_clock);
            }
            self.end_turn(is_held);
            let frozen_at = self.frozen_at(is_quiet);
            let turn_until = self.turn.as_ref().map(|(_, until)| *until);
            let is_turn_wanted = self.is_quic() && self.turn.is_none() && !is_quiet && is_held;
            // Counted from when it was first held: whatever happens meanwhile begins no new wait.
            let turn_at = self.held_since.map(|since| since + HELD_MAX);
            let turn = pin!(async {
                sleep_until(turn_at).await;
                uplink.quiet.turn().await
            });
            tokio::select! {
                // In this order, so that the same events have the same outcome; whatever came, all may be sent again.
                biased;
                // A message that is nothing is one of a newer collector's, which we do not know.
                message = down.next() => if let Some(message) = message.ok_or(End::Closed)??.message {
                    outcome.used = Some(steady_clock());
                    self.hear(message, paths, outcome).await?;
                },
                () = self.courier.released() => {}
                () = uplink.spool.appended.notified() => {}
                // Before the quiet: a turn that is had keeps the next probe waiting.
                turn = turn, if is_turn_wanted => self.turn = Some((turn, steady_clock() + TURN_MAX)),
                () = uplink.quiet.quiet(), if !is_quiet => {}
                () = sleep_until(turn_until) => self.turn = None,
                () = reached(self.meter.as_deref()) => return Err(End::Recycled),
                () = sleep_until(frozen_at) => return Err(End::Frozen),
            }
        }
    }

    fn is_quic(&self) -> bool {
        self.passage.address.transport == Transport::Quic
    }

    fn is_idle(&self) -> bool {
        self.window.is_idle() && self.part_since.is_none()
    }

    fn end_turn(&mut self, is_held: bool) {
        if self.is_idle() && !is_held {
            (self.turn, self.held_since) = (None, None);
        }
    }

    /// When the line is to be called frozen. What a probe keeps QUIC from sending is not the line's fault.
    fn frozen_at(&self, is_quiet: bool) -> Option<Instant> {
        let sent = self.window.waiting_since().into_iter().chain(self.part_since).min()?;
        if !self.is_quic() {
            return Some(sent + FROZEN_AFTER);
        }
        let begun = self.held_since.map_or(sent, |held| held.min(sent));
        let spoke = self.uplink.quiet.quiet_since().map_or(sent, |since| since.into_std().max(sent));
        is_quiet.then(|| (begun + FROZEN_AFTER).max(spoke + HEARD_MIN))
    }

    async fn hear(&mut self, message: Down, paths: &mut Paths, outcome: &mut Outcome) -> Result<(), End> {
        let uplink = self.uplink;
        match message {
            Down::Ack(ack) => {
                if self.window.acked(ack.epoch, ack.sequence, steady_clock())? {
                    tracing::debug!(epoch = ack.epoch, sequence = ack.sequence, "acknowledged");
                    self.progress(paths, outcome);
                    (self.part_since, self.held_since) = (None, None);
                    let now = wall_clock();
                    uplink.spool.run(move |spool| spool.ack(ack.epoch, ack.sequence, now)).await?;
                }
            }
            Down::Part(held) => {
                self.progress(paths, outcome);
                self.held = Some(held);
                (self.part_since, self.held_since) = (None, None);
            }
            Down::Rejection(rejection) => uplink.refused(rejection).await?,
            Down::List(list) => uplink.take_list(list).await,
            Down::ListPart(part) => {
                self.progress(paths, outcome);
                match uplink.inbox.take(&part) {
                    Some(bytes) => {
                        self.is_list_awaited = false;
                        uplink.take_list_bytes(&bytes).await;
                    }
                    None => self.is_list_awaited = true,
                }
            }
            Down::ProbeNow(message) => match Wish::parse(&message) {
                Ok(wish) => drop(uplink.wishes.try_send(wish)),
                Err(error) => tracing::warn!(%error, "the collector asks for a mirror that cannot be"),
            },
            Down::Picture(answer) => self.courier.answered(&answer),
            Down::Ahead(held) => {
                let runs = runs_from_wire(&held.runs).map_err(|error| End::Held(chain(&error)))?;
                if self.window.held(held.epoch, held.sequence, runs, steady_clock()) {
                    tracing::debug!(sequence = held.sequence, runs = ?held.runs.len(), "held ahead");
                    self.progress(paths, outcome);
                    (self.part_since, self.held_since) = (None, None);
                }
            }
            // A second welcome changes nothing.
            Down::Welcome(_) => {}
        }
        Ok(())
    }

    fn progress(&self, paths: &mut Paths, outcome: &mut Outcome) {
        if !outcome.has_progress {
            outcome.has_progress = true;
            self.uplink.note_worked(paths, &self.passage.address);
        }
    }
}

/// Ends once a connection is as long as it may be.
async fn reached(meter: Option<&Meter>) {
    match meter {
        Some(meter) => meter.reached().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
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
