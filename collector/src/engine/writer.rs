//! The writer's thread: takes groups, syncs them, applies them, answers.
//!
//! The order within a group is the ack rule itself: append, sync, apply, answer. Decisions are logged last; should
//! that fail, they are kept and tried again, and the next start finds them in the journal anyway.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use zerkalo_core::audit::Act;
use zerkalo_core::fold::Fold;
use zerkalo_core::identity::Standing;
use zerkalo_core::journal::{Enrolment, Event, JournalEntry, PAYLOAD_LEN_MAX, SettingsText};
use zerkalo_core::market::{Decision, Order};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use super::identity::News;
use super::plan::{Plan, Tally};
use super::relog::{Relog, notices};
use super::{
    ChangeRefusal, Claim, EXPELLED_QUEUED_MAX, Engine, EngineError, FutureJournal, IdentityAsked,
    REQUESTS_QUEUED_MAX, RecordBatch, RecordsAnswer, Refusal, Request, View, WISHES_QUEUED_MAX,
};
use crate::access::DIRECTORY;
use crate::clock;
use crate::executor::{Notice, Route};
use crate::journal::{Journal, JournalError};
use crate::metrics::{AlertLabels, DecisionLabels, Metrics, count};
use crate::outbox::Bell;
use crate::state::{Logged, Send, State, StateError};
use crate::token::{Token, TokenRefusal};

/// How long a group stays open for others: lone syncs of many paced streams cost most.
const GROUP_WINDOW: Duration = Duration::from_millis(2);
/// Bytes of records at which a group closes early.
const GROUP_LEN_MAX: usize = 8 * 1024 * 1024;
/// Ticks come no closer together, whatever deadlines the fold names.
const TICK_WAIT_MIN: Duration = Duration::from_millis(50);
/// What failed for want of room, or in the state, is tried again after this.
const FAILURE_WAIT: Duration = Duration::from_secs(1);
/// Decisions and alerts that wait for a state that takes none; with more the writer ends, and the next start logs them
/// from the journal.
const UNLOGGED_MAX: usize = 10_000;
/// Entries applied before readers get a turn.
const APPLIED_AT_ONCE: usize = 256;
/// How far the clock may stand behind the journal's last entry at the start: what time servers correct by steps.
const CLOCK_BEHIND_START_MAX_SECS: u64 = 120;
/// How far it may do so while serving, before that is called an error: entries bear the last entry's time until then.
const CLOCK_BEHIND_SECS_MAX: u64 = 60;
/// The clock is looked at no more rarely than this.
const CLOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the writer is made of.
pub struct Parts {
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
    pub settings: SettingsText,
    pub future_journal: FutureJournal,
    /// Which executors are to have what, and who hands it to them.
    pub routes: Arc<[Route]>,
    pub outbox: Arc<Bell>,
}

/// Folds the journal in `dir` and starts the writer, on a thread of its own. The second value tells how it ended.
pub fn start(
    dir: &Path,
    parts: Parts,
) -> Result<(Engine, oneshot::Receiver<Result<(), EngineError>>), EngineError> {
    let (engine, writing) = assemble(dir, parts)?;
    let (done, ended) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("writer".to_owned())
        // Nobody waits for the end while the process is going down.
        .spawn(move || drop(done.send(runtime.block_on(writing))))
        .map_err(EngineError::Thread)?;
    Ok((engine, ended))
}

/// Folds the journal in `dir`. The second value is the writer's work: nothing is done until it is driven, on whatever
/// thread may wait for the disk.
pub fn assemble(
    dir: &Path,
    parts: Parts,
) -> Result<(Engine, impl Future<Output = Result<(), EngineError>> + std::marker::Send + 'static), EngineError>
{
    let mut fold = Fold::new();
    let mut relog = Relog::new(&parts.state, &parts.routes);
    let mut entries = 0u64;
    let mut journal = Journal::open(dir, |entry| {
        entries += 1;
        relog.hear(fold.apply(&entry));
    })?;
    check_clock(fold.at(), parts.future_journal)?;
    if entries == 0 || *fold.settings() != parts.settings {
        let at = clock::now().max(fold.at());
        let entry = JournalEntry { at, event: Event::Settings(parts.settings.clone()) };
        parts.state.audit(&settings_act(&parts.settings))?;
        journal.append(std::slice::from_ref(&entry))?;
        relog.hear(fold.apply(&entry));
    }
    relog.finish()?;
    // What the past asked for is not wanted now.
    fold.take_wishes();
    tracing::info!(entries, agents = fold.agents().len(), "folded the journal");
    count_elsewhere(&fold, &parts.metrics);
    let deadline = fold.next_deadline();
    let view = Arc::new(View {
        fold: RwLock::new(fold),
        changes: watch::Sender::new(0),
        list: watch::Sender::new(None),
        wishes: broadcast::Sender::new(WISHES_QUEUED_MAX),
        expelled: broadcast::Sender::new(EXPELLED_QUEUED_MAX),
    });
    view.publish();
    let (sender, requests) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let now = Instant::now();
    let writer = Writer {
        requests,
        view: view.clone(),
        journal,
        parts,
        unlogged: Vec::new(),
        deadline,
        tick_not_before: now,
        relog_not_before: now,
        clock_is_behind: false,
    };
    Ok((Engine { requests: sender, view }, writer.run()))
}

/// What the audit log says of other rules of the house: their digests, for the texts stand in the journal.
fn settings_act(settings: &SettingsText) -> Act {
    let digest = |text: &str| Sha256::of(text.as_bytes()).to_string();
    let policies: Vec<String> = settings.policies.iter().map(|text| digest(text)).collect();
    let about = vec![
        ("catalogue", digest(&settings.catalogue)),
        ("policies", policies.join(" ")),
        ("fingerprints", digest(&settings.fingerprints)),
        ("networks", digest(&settings.networks)),
    ];
    Act { by: DIRECTORY.to_owned(), token: String::new(), act: "settings.change", about }
}

/// Refuses to serve from a journal that was written by a clock far ahead of this one.
fn check_clock(last: UnixMillis, future: FutureJournal) -> Result<(), EngineError> {
    let now = clock::now();
    if future == FutureJournal::Accept || last <= now.plus_secs(CLOCK_BEHIND_START_MAX_SECS) {
        return Ok(());
    }
    Err(EngineError::ClockBehind { last: last.to_rfc3339(), now: now.to_rfc3339() })
}

struct Writer {
    requests: mpsc::Receiver<Request>,
    view: Arc<View>,
    journal: Journal,
    parts: Parts,
    unlogged: Vec<(Notice, Send)>,
    /// The fold's, as of the last group applied.
    deadline: Option<UnixMillis>,
    tick_not_before: Instant,
    relog_not_before: Instant,
    /// Whether that was said already.
    clock_is_behind: bool,
}

/// An answer that must wait for the sync.
enum Reply {
    Records {
        /// Emptied by the plan.
        batch: RecordBatch,
        /// Epoch and sequence of its first record.
        first: (u64, u64),
        answer: RecordsAnswer,
        to: oneshot::Sender<RecordsAnswer>,
    },
    Enrolled {
        enrolment: Box<Enrolment>,
        /// The token as it was, for a disk that turns out full.
        given_back: Box<(Sha256, Token)>,
        to: oneshot::Sender<Result<Enrolment, ChangeRefusal>>,
    },
    List {
        version: u64,
        to: oneshot::Sender<Result<u64, ChangeRefusal>>,
    },
    Identity {
        /// A refusal may have locked an agent, which must be on the disk too.
        outcome: Result<u64, ChangeRefusal>,
        to: oneshot::Sender<Result<u64, ChangeRefusal>>,
    },
    /// The only order of its group, so what followed from one followed from this.
    Ordered {
        order: Box<Order>,
        to: oneshot::Sender<Result<Vec<Decision>, ChangeRefusal>>,
    },
}

impl Writer {
    async fn run(mut self) -> Result<(), EngineError> {
        loop {
            let wait = self.wait();
            let Some(mut group) = next_group(&mut self.requests, wait).await else {
                return Ok(());
            };
            self.watch_clock();
            let stop = group.iter().any(|request| matches!(request, Request::Stop));
            if stop {
                self.requests.close();
                while let Ok(request) = self.requests.try_recv() {
                    group.push(request);
                }
            }
            self.commit(group)?;
            self.log_news()?;
            if stop {
                return Ok(());
            }
        }
    }

    /// How long nothing needs doing.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let tick = self.deadline.map(|deadline| {
            let until = Duration::from_millis(deadline.since_millis(clock::now()));
            until.max(self.tick_not_before.saturating_duration_since(now))
        });
        let relog = (!self.unlogged.is_empty()).then(|| self.relog_not_before.saturating_duration_since(now));
        tick.into_iter().chain(relog).fold(CLOCK_WAIT_MAX, Duration::min)
    }

    /// While the clock is behind the journal, no time passes for the fold: that must not go unnoticed.
    fn watch_clock(&mut self) {
        let last = self.view.fold.read().unwrap_or_else(PoisonError::into_inner).at();
        let now = clock::now();
        let behind_secs = last.since_millis(now) / 1000;
        self.parts.metrics.clock_behind_secs.set(i64::try_from(behind_secs).unwrap_or(i64::MAX));
        let is_behind = behind_secs > CLOCK_BEHIND_SECS_MAX;
        if is_behind && !self.clock_is_behind {
            tracing::error!(
                %now, %last,
                "this machine's clock is behind the journal's last entry; time stands still for all decisions until \
                 it has caught up: set the clock"
            );
        }
        self.clock_is_behind = is_behind;
    }

    fn commit(&mut self, group: Vec<Request>) -> Result<(), EngineError> {
        let view = self.view.clone();
        let fold = view.fold.read().unwrap_or_else(PoisonError::into_inner);
        let at = clock::now().max(fold.at());
        let mut plan = Plan::new(&fold, at);
        let due = self.deadline.is_some_and(|deadline| deadline <= at);
        if due && self.tick_not_before <= Instant::now() {
            plan.tick();
            self.tick_not_before = Instant::now() + TICK_WAIT_MIN;
        }
        let replies: Vec<Reply> =
            group.into_iter().filter_map(|request| self.plan(&mut plan, request)).collect();
        let (entries, tally) = plan.finish();
        drop(fold);
        let mut followed = Vec::new();
        if !entries.is_empty() {
            match self.journal.append(&entries) {
                Ok(bytes) => {
                    self.parts.metrics.journal_syncs.inc();
                    self.parts.metrics.journal_bytes.inc_by(bytes);
                }
                Err(error) => return self.give_up(replies, error),
            }
            followed = self.apply(&entries);
        }
        self.count(&tally);
        replies.into_iter().for_each(|reply| self.answer(reply, &mut followed));
        Ok(())
    }

    fn plan(&self, plan: &mut Plan<'_>, request: Request) -> Option<Reply> {
        match request {
            Request::Records { batch, .. } if batch.has_ended() => None,
            Request::Records { mut batch, reply } => {
                let first = batch.first();
                let answer = plan.records(&mut batch);
                if answer.refusals.iter().any(|refusal| refusal.stops_stream) {
                    batch.ended.store(true, Ordering::Relaxed);
                }
                Some(Reply::Records { batch, first, answer, to: reply })
            }
            Request::Enrol { claim, reply } => match self.plan_enrolment(plan, &claim) {
                Ok((enrolment, token)) => Some(Reply::Enrolled {
                    enrolment: Box::new(enrolment),
                    given_back: Box::new((claim.token, token)),
                    to: reply,
                }),
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                    None
                }
            },
            Request::Identity { asked, reply } => {
                let outcome = match &asked {
                    IdentityAsked::Certify(holding) => plan.certify(holding),
                    IdentityAsked::Show(holding) => plan.show(holding),
                    IdentityAsked::Stand(change) => plan.stand(change).map(|()| 0),
                };
                Some(Reply::Identity { outcome: outcome.map_err(ChangeRefusal::from), to: reply })
            }
            Request::Observe { agent, whereabouts } => {
                plan.observe(agent, whereabouts);
                None
            }
            Request::PutList { opened, reply } => match plan.put_list(*opened) {
                Ok(version) => Some(Reply::List { version, to: reply }),
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                    None
                }
            },
            Request::Order { order, reply } => match plan.order(&order) {
                Ok(()) => Some(Reply::Ordered { order, to: reply }),
                Err(error) => {
                    let _ = reply.send(Err(error.into()));
                    None
                }
            },
            Request::Ping { reply } => {
                // Whoever asked may be gone.
                let _ = reply.send(());
                None
            }
            Request::Stop => None,
        }
    }

    /// Uses the token up on the disk before the enrolment is journaled: a crash between the two costs a token, never
    /// admits two boxes with one. Gives the token as it was, for a disk that turns out full.
    fn plan_enrolment(
        &self,
        plan: &mut Plan<'_>,
        claim: &Claim,
    ) -> Result<(Enrolment, Token), ChangeRefusal> {
        let state = &self.parts.state;
        let failed = |error: StateError| {
            tracing::error!(error = &error as &dyn std::error::Error, "an enrolment failed in the state");
            if error.is_full() { ChangeRefusal::StorageFull } else { ChangeRefusal::State }
        };
        let token = state.token(&claim.token).map_err(failed)?.ok_or(TokenRefusal::Unknown)?;
        let (enrolment, news) = plan.enrol_by(claim, &token)?;
        if news == News::Enrolled {
            let used = Token { used_by: Some(enrolment.agent.clone()), ..token.clone() };
            state.put_token(&claim.token, &used).map_err(failed)?;
        }
        Ok((enrolment, token))
    }

    /// Gives the decisions that followed from an order among the entries.
    fn apply(&mut self, entries: &[JournalEntry]) -> Vec<Decision> {
        let (mut news, mut ordered, mut expelled) = (Vec::new(), Vec::new(), Vec::new());
        for part in entries.chunks(APPLIED_AT_ONCE) {
            let mut fold = self.view.fold.write().unwrap_or_else(PoisonError::into_inner);
            for entry in part {
                let outcome = fold.apply(entry);
                if let Event::Standing(change) = &entry.event
                    && change.standing != Standing::Good
                {
                    expelled.push(change.agent.clone());
                }
                if matches!(entry.event, Event::Ordered(_)) {
                    ordered.extend(outcome.decisions.iter().cloned());
                }
                news.extend(notices(outcome));
            }
            // Without a stream open nobody hears a wish, and nothing is lost.
            fold.take_wishes().into_iter().for_each(|wish| drop(self.view.wishes.send(wish)));
        }
        let fold = self.view.fold.read().unwrap_or_else(PoisonError::into_inner);
        self.deadline = fold.next_deadline();
        if entries.iter().any(|entry| moves_agents(&entry.event)) {
            count_elsewhere(&fold, &self.parts.metrics);
        }
        drop(fold);
        self.view.publish();
        entries.iter().for_each(|entry| tell_gap(&entry.event));
        // Without a stream open nobody hears it.
        expelled.into_iter().for_each(|agent| drop(self.view.expelled.send(agent)));
        for notice in news {
            say(&notice);
            self.unlogged.push((notice, Send::Yes));
        }
        ordered
    }

    fn log_news(&mut self) -> Result<(), EngineError> {
        if self.unlogged.is_empty() || self.relog_not_before > Instant::now() {
            return Ok(());
        }
        let outcomes = match self.parts.state.log(&self.unlogged, &self.parts.routes) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    waiting = self.unlogged.len(),
                    "decisions and alerts cannot be logged; trying again"
                );
                if self.unlogged.len() > UNLOGGED_MAX {
                    return Err(error.into());
                }
                self.relog_not_before = Instant::now() + FAILURE_WAIT;
                return Ok(());
            }
        };
        for ((notice, _), outcome) in self.unlogged.drain(..).zip(outcomes) {
            if outcome == Logged::Replaced {
                let id = notice.id();
                tracing::error!(
                    id,
                    "another line of the log bore this number; it was moved aside, this one stands"
                );
            }
            let market = notice.market().to_string();
            match &notice {
                Notice::Decision(decision) => {
                    let labels = DecisionLabels { market, action: decision.action.as_str() };
                    self.parts.metrics.decisions.get_or_create(&labels).inc();
                }
                Notice::Alert(alert) => {
                    let labels = AlertLabels { market, kind: alert.kind.as_str() };
                    self.parts.metrics.alerts.get_or_create(&labels).inc();
                }
            }
        }
        self.parts.outbox.ring();
        Ok(())
    }

    fn count(&self, tally: &Tally) {
        let metrics = &self.parts.metrics;
        metrics.records_admitted.inc_by(tally.admitted);
        metrics.records_ahead.inc_by(tally.ahead);
        metrics.records_duplicate.inc_by(tally.duplicates);
        metrics.records_dropped.inc_by(tally.dropped);
        tally.refused.iter().for_each(|code| count(&metrics.records_refused, code));
    }

    /// Nothing of the group was kept. Ends the writer unless the journal goes on working.
    fn give_up(&mut self, replies: Vec<Reply>, error: JournalError) -> Result<(), EngineError> {
        let refusal: fn() -> ChangeRefusal = match error {
            JournalError::Full { .. } => || ChangeRefusal::StorageFull,
            JournalError::TooLarge { .. } => || ChangeRefusal::TooLarge { limit: PAYLOAD_LEN_MAX },
            error => {
                count(&self.parts.metrics.journal_append_failures, "storage_failed");
                return Err(error.into());
            }
        };
        count(&self.parts.metrics.journal_append_failures, refusal().code());
        tracing::error!(error = &error as &dyn std::error::Error, "a group was not written");
        self.tick_not_before = Instant::now() + FAILURE_WAIT;
        replies.into_iter().for_each(|reply| self.refuse(reply, refusal()));
        Ok(())
    }

    fn refuse(&self, reply: Reply, refusal: ChangeRefusal) {
        match reply {
            Reply::Records { batch, first: (epoch, sequence), to, .. } => {
                batch.ended.store(true, Ordering::Relaxed);
                count(&self.parts.metrics.records_refused, refusal.code());
                let refusal = Refusal {
                    epoch,
                    sequence,
                    code: refusal.code(),
                    detail: format!("{refusal}; keep the records and try again later"),
                    stops_stream: true,
                };
                let _ = to.send(RecordsAnswer { acked: None, ahead: None, refusals: vec![refusal] });
            }
            Reply::Enrolled { given_back, to, .. } => {
                let (digest, token) = *given_back;
                if let Err(error) = self.parts.state.put_token(&digest, &token) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a token could not be given back"
                    );
                }
                let _ = to.send(Err(refusal));
            }
            Reply::Identity { to, .. } => drop(to.send(Err(refusal))),
            Reply::List { to, .. } => drop(to.send(Err(refusal))),
            Reply::Ordered { to, .. } => drop(to.send(Err(refusal))),
        }
    }

    /// Whoever went away while waiting needs no answer.
    fn answer(&self, reply: Reply, followed: &mut Vec<Decision>) {
        match reply {
            Reply::Records { answer, to, .. } => drop(to.send(answer)),
            Reply::Enrolled { enrolment, to, .. } => drop(to.send(Ok(*enrolment))),
            Reply::Identity { outcome, to } => drop(to.send(outcome)),
            Reply::List { version, to } => drop(to.send(Ok(version))),
            Reply::Ordered { order, to } => {
                let kind = order.kind.word();
                count(&self.parts.metrics.orders, kind);
                tracing::info!(author = order.author, reason = order.reason, kind, ?order.kind, "ordered");
                drop(to.send(Ok(std::mem::take(followed))));
            }
        }
    }
}

fn tell_gap(event: &Event) {
    let Event::Gap { signed, gap } = event else { return };
    tracing::warn!(
        agent = %signed.agent, epoch = signed.epoch, first = gap.first, last = signed.sequence,
        since = %gap.since, until = %gap.until, what = ?gap.counts,
        "an agent could not keep records: its store was full, or its disk damaged them"
    );
}

fn say(notice: &Notice) {
    match notice {
        Notice::Decision(decision) => tracing::info!(
            id = decision.id, market = %decision.market, mirror = %decision.mirror,
            action = decision.action.as_str(), effect = decision.effect.as_str(), reasons = ?decision.reasons,
            "decided"
        ),
        Notice::Alert(alert) => tracing::warn!(
            id = alert.id, market = %alert.market, kind = alert.kind.as_str(), text = ?alert.texts.en, "alert"
        ),
    }
}

/// Whether an entry may change where an agent stands, or ought to.
fn moves_agents(event: &Event) -> bool {
    matches!(
        event,
        Event::Observed { .. }
            | Event::Enrolled(_)
            | Event::Revoked(_)
            | Event::Standing(_)
            | Event::Settings(_)
    )
}

fn count_elsewhere(fold: &Fold, metrics: &Metrics) {
    metrics.agents_elsewhere.set(i64::try_from(fold.count_elsewhere()).unwrap_or(i64::MAX));
    let count = |standing| {
        let standing = fold.agents().values().filter(|agent| agent.standing == standing);
        i64::try_from(standing.count()).unwrap_or(i64::MAX)
    };
    metrics.agents_locked.set(count(Standing::Locked));
    metrics.agents_revoked.set(count(Standing::Revoked));
}

/// The next group: what comes within the window after the first request. Empty when only time passed; `None` when
/// nobody can ask any more.
async fn next_group(requests: &mut mpsc::Receiver<Request>, wait: Duration) -> Option<Vec<Request>> {
    let first = match tokio::time::timeout(wait, requests.recv()).await {
        Ok(first) => first?,
        Err(_) => return Some(Vec::new()),
    };
    let close_at = Instant::now() + GROUP_WINDOW;
    let mut len = weight(&first);
    let mut group = vec![first];
    // An order is checked against the fold: what it rests on must be in there, so nothing may come behind it.
    while len < GROUP_LEN_MAX && !group.last().is_some_and(Request::is_order) {
        match tokio::time::timeout_at(close_at, requests.recv()).await {
            Ok(Some(request)) => {
                len += weight(&request);
                group.push(request);
            }
            Ok(None) | Err(_) => break,
        }
    }
    Some(group)
}

fn weight(request: &Request) -> usize {
    match request {
        Request::Records { batch, .. } => batch.body_len(),
        _ => 0,
    }
}
