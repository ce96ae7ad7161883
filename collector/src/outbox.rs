//! Has decisions and alerts carried out by the executors, from what the state says is still to be done.
//!
//! At least once: a delivery is noted after its executor said yes, so a crash does it again under the same id. One lane
//! an executor and market, in order: the next waits for the one before it. One that failed for an hour steps aside and is
//! tried on its own, so that it holds nobody up; the state refuses it where a newer decision was carried out meanwhile.
//! It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio::time::Instant;
use zerkalo_core::words::MarketId;
use zerkalo_durable::retry::Retry;

use crate::clock;
use crate::config::{ExecutorConfig, chain};
use crate::executor::{AttemptError, Errand, Executor, Notice, Outlook};
use crate::metrics::{DeliveryLabels, Metrics, WebhookLabels};
use crate::state::{Delivery, DeliveryKey, GivenUp, State, StateError, Topic, Waiting};
use crate::stop::StopSignal;

/// Wait after the first failure, about.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait, about: a receiver that came back must not wait long for `pause`.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// After so many attempts, about an hour, a delivery no longer holds up those behind it.
const ASIDE_AFTER: u32 = 120;
/// Waits are so many times longer once it stepped aside, and after a plain no: haste mends neither.
const SLOW_FACTOR: u32 = 10;
/// When the state cannot be read, it is tried again after this.
const STATE_WAIT: Duration = Duration::from_secs(5);
/// How long attempts under way may still take when the collector stops; then they are cut off and made again later.
const STOP_WAIT: Duration = Duration::from_secs(4);
/// Longest error kept, in characters: it stands in a table.
const ERROR_LEN_MAX: usize = 500;

/// Wakes the outbox.
#[derive(Debug, Default)]
pub struct Bell {
    news: Notify,
    hurry: AtomicBool,
}

impl Bell {
    /// The state has something new.
    pub fn ring(&self) {
        self.news.notify_one();
    }

    /// A person wants what waits tried at once.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.ring();
    }
}

/// The sender.
pub struct Outbox {
    state: Arc<State>,
    metrics: Arc<Metrics>,
    executors: BTreeMap<String, Executor>,
}

/// Why a delivery failed.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("it is not in the log")]
    Missing,
    #[error("the state failed")]
    State(#[from] StateError),
    #[error("what was logged cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("superseded: its executor has carried out decision number {newer} since")]
    Superseded { newer: u64 },
    #[error(transparent)]
    Attempt(#[from] AttemptError),
}

impl DeliveryError {
    /// What another attempt may bring.
    fn outlook(&self) -> Outlook {
        match self {
            Self::Attempt(error) => error.outlook(),
            Self::State(_) => Outlook::Passing,
            // A start from the journal may yet mend the log.
            Self::Missing | Self::Malformed(_) => Outlook::Refused,
            Self::Superseded { .. } => Outlook::Hopeless,
        }
    }

    /// Why the delivery is given up now; `None`: it is not.
    fn gives_up(&self, delivery: &Delivery, executor: Option<&Executor>) -> Option<GivenUp> {
        let (attempts_max, refusals_max) =
            executor.map_or((0, 0), |executor| (executor.attempts, executor.refusals));
        match self {
            Self::Superseded { .. } => Some(GivenUp::Superseded),
            error if error.outlook() == Outlook::Hopeless => Some(GivenUp::Hopeless),
            _ if delivery.refusals >= refusals_max => Some(GivenUp::Refused),
            _ if delivery.attempts >= attempts_max => Some(GivenUp::TooLong),
            _ => None,
        }
    }
}

/// One executor's turn in one market.
struct Lane {
    retry: Retry,
    not_before: Instant,
    busy: bool,
    /// Number of the newest notice seen.
    newest: u64,
}

/// Whose turn it is, and the number of the one that stepped aside into a lane of its own.
type LaneKey = ((String, Topic, MarketId), Option<u64>);

impl Lane {
    fn new(now: Instant) -> Self {
        Self { retry: Retry::new(WAIT_FIRST, WAIT_MAX), not_before: now, busy: false, newest: 0 }
    }

    /// A newer notice must not wait for a patience that older ones used up: the next attempt is made at once.
    fn hear_of(&mut self, number: u64, now: Instant) {
        if number > self.newest {
            self.newest = number;
            self.hurry(now);
        }
    }

    fn hurry(&mut self, now: Instant) {
        self.retry.reset();
        self.not_before = now;
    }

    /// How long to wait after a failure.
    fn next_wait(&mut self, outlook: Outlook, attempts: u32) -> Duration {
        let wait = self.retry.next_wait();
        let is_slow = outlook == Outlook::Refused || attempts >= ASIDE_AFTER;
        if is_slow { wait * SLOW_FACTOR } else { wait }
    }
}

impl Outbox {
    /// Nothing is attempted yet.
    pub fn new(state: Arc<State>, metrics: Arc<Metrics>, executors: &[ExecutorConfig]) -> Self {
        let executors = executors.iter().map(|config| (config.name.clone(), Executor::new(config))).collect();
        Self { state, metrics, executors }
    }

    /// Works until told to stop, and a little longer for what is under way.
    pub async fn run(self, bell: Arc<Bell>, stopping: StopSignal) {
        let mut lanes: BTreeMap<LaneKey, Lane> = BTreeMap::new();
        let mut attempts = FuturesUnordered::new();
        let mut stop_at = None::<Instant>;
        loop {
            let mut wake_at = stop_at;
            if bell.hurry.swap(false, Ordering::Relaxed) {
                lanes.values_mut().for_each(|lane| lane.hurry(Instant::now()));
            }
            let due = match stop_at {
                Some(_) => Ok(Vec::new()),
                None => block_in_place(|| self.due(&mut lanes, &mut wake_at)),
            };
            match due {
                Ok(due) => attempts.extend(due.into_iter().map(|waiting| {
                    let this = &self;
                    async move {
                        let result = this.attempt(&waiting).await;
                        (waiting, result)
                    }
                })),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                    wake_at = Some(Instant::now() + STATE_WAIT);
                }
            }
            if stop_at.is_some_and(|at| at <= Instant::now() || attempts.is_empty()) {
                return;
            }
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((waiting, result)) = attempts.next() => {
                    block_in_place(|| self.settle(&mut lanes, waiting, result));
                }
                () = bell.news.notified() => {}
                () = sleep => {}
                () = stopping.stopped(), if stop_at.is_none() => stop_at = Some(Instant::now() + STOP_WAIT),
            }
        }
    }

    /// The oldest entry of each lane whose turn it is. Sets when to look again.
    fn due(
        &self,
        lanes: &mut BTreeMap<LaneKey, Lane>,
        wake_at: &mut Option<Instant>,
    ) -> Result<Vec<Waiting>, StateError> {
        let pending = self.state.outbox()?;
        self.metrics.outbox_pending.set(pending.len() as i64);
        let now = Instant::now();
        let mut seen: BTreeSet<LaneKey> = BTreeSet::new();
        for (key, delivery) in &pending {
            let lane_key = lane_of(key, delivery);
            lanes.entry(lane_key.clone()).or_insert_with(|| Lane::new(now)).hear_of(key.number, now);
            seen.insert(lane_key);
        }
        // Who stepped aside and is done with needs no lane any more.
        lanes.retain(|key, lane| key.1.is_none() || lane.busy || seen.contains(key));
        seen.clear();
        // Of those that stepped aside one at a time is tried.
        let busy = lanes.iter().filter(|((_, aside), lane)| aside.is_some() && lane.busy);
        let mut aside: BTreeSet<_> = busy.map(|((turn, _), _)| turn.clone()).collect();
        let mut due = Vec::new();
        for (key, delivery) in pending {
            let lane_key = lane_of(&key, &delivery);
            // Of an executor that is configured no more: it waits until it is again, or is dropped by hand.
            if !self.executors.contains_key(&key.executor) || !seen.insert(lane_key.clone()) {
                continue;
            }
            let lane = lanes.entry(lane_key.clone()).or_insert_with(|| Lane::new(now));
            if lane.busy {
                continue;
            }
            if lane.not_before > now {
                *wake_at = Some(wake_at.map_or(lane.not_before, |at| at.min(lane.not_before)));
                continue;
            }
            if lane_key.1.is_some() && !aside.insert(lane_key.0) {
                continue;
            }
            lane.busy = true;
            due.push((key, delivery));
        }
        Ok(due)
    }

    async fn attempt(&self, (key, delivery): &Waiting) -> Result<String, DeliveryError> {
        let logged = block_in_place(|| {
            if let Some(newer) = self.state.newer_carried_out(key, delivery)? {
                return Err(DeliveryError::Superseded { newer });
            }
            self.state.line_numbered(key.topic, key.number)?.ok_or(DeliveryError::Missing)
        })?;
        let notice = Notice::parse(key.topic, &logged).map_err(DeliveryError::Malformed)?;
        let executor = self.executors.get(&key.executor).ok_or(DeliveryError::Missing)?;
        let errand = Errand { id: &delivery.id, notice: &notice, logged: &logged };
        Ok(executor.attempt(&errand).await?)
    }

    /// Notes what became of an attempt.
    fn settle(
        &self,
        lanes: &mut BTreeMap<LaneKey, Lane>,
        (key, mut delivery): Waiting,
        result: Result<String, DeliveryError>,
    ) {
        let lane_key = lane_of(&key, &delivery);
        let Some(lane) = lanes.get_mut(&lane_key) else { return };
        lane.busy = false;
        let (executor, id) = (key.executor.as_str(), delivery.id.clone());
        let (noted, result) = match result {
            Ok(done) => {
                lane.retry.reset();
                tracing::info!(executor, id, "{done}");
                (self.state.note_done(&key), "delivered")
            }
            Err(error) => self.note_failure(lane, &key, &mut delivery, &error),
        };
        self.count(&key, result);
        if let Err(error) = noted {
            tracing::error!(error = &error as &dyn std::error::Error, "a delivery's result cannot be noted");
            lane.not_before = Instant::now() + STATE_WAIT;
        }
        let aside = lane_of(&key, &delivery);
        if aside != lane_key {
            let not_before = std::mem::replace(&mut lane.not_before, Instant::now());
            lane.retry.reset();
            lanes.insert(aside, Lane { not_before, newest: key.number, ..Lane::new(not_before) });
        }
    }

    /// Notes why an attempt failed, and when the next is made or that there is none.
    fn note_failure(
        &self,
        lane: &mut Lane,
        key: &DeliveryKey,
        delivery: &mut Delivery,
        error: &DeliveryError,
    ) -> (Result<(), StateError>, &'static str) {
        let (executor, id, outlook) = (key.executor.as_str(), delivery.id.as_str(), error.outlook());
        delivery.attempts += 1;
        delivery.refusals += u32::from(outlook == Outlook::Refused);
        delivery.last_attempt_at = Some(clock::now());
        delivery.last_error = Some(chain(error).chars().take(ERROR_LEN_MAX).collect());
        let attempt = delivery.attempts;
        let error_shown = error as &dyn std::error::Error;
        tracing::warn!(error = error_shown, executor, id, attempt, ?outlook, "an executor's attempt failed");
        delivery.given_up_because = error.gives_up(delivery, self.executors.get(executor));
        if let Some(why) = delivery.given_up_because {
            lane.retry.reset();
            delivery.next_attempt_at = None;
            tracing::error!(executor, id, why = why.as_str(), "gave a delivery up; see `zerkalo outbox ls`");
            return (self.state.note_dead(key, delivery), "dead");
        }
        let wait = lane.next_wait(outlook, attempt);
        lane.not_before = Instant::now() + wait;
        let wait_millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        delivery.next_attempt_at = Some(clock::now().plus_millis(wait_millis));
        (self.state.note_attempt(key, delivery), "retried")
    }

    fn count(&self, key: &DeliveryKey, result: &'static str) {
        let labels = DeliveryLabels { executor: key.executor.clone(), result };
        self.metrics.deliveries.get_or_create(&labels).inc();
        if self.executors.get(&key.executor).is_some_and(Executor::is_webhook) {
            self.metrics.webhooks.get_or_create(&WebhookLabels { result }).inc();
        }
    }
}

fn lane_of(key: &DeliveryKey, delivery: &Delivery) -> LaneKey {
    let aside = (delivery.attempts >= ASIDE_AFTER).then_some(key.number);
    ((key.executor.clone(), key.topic, delivery.market.clone()), aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_decision_ends_the_wait_of_its_lane_and_an_old_one_does_not() {
        let now = Instant::now();
        let mut lane = Lane::new(now);
        lane.hear_of(7, now);
        for _ in 0..20 {
            let wait = lane.retry.next_wait();
            assert!(wait <= WAIT_MAX * 3 / 2, "{wait:?}");
            lane.not_before = now + wait;
        }
        let waiting = lane.not_before;
        assert!(waiting > now + WAIT_FIRST * 2);
        lane.hear_of(7, now);
        assert_eq!(lane.not_before, waiting);
        lane.hear_of(8, now);
        assert_eq!(lane.not_before, now);
        assert!(lane.retry.next_wait() <= WAIT_FIRST * 3 / 2);
    }

    #[test]
    fn a_plain_no_is_not_tried_again_in_haste() {
        let mut lane = Lane::new(Instant::now());
        let slow = lane.next_wait(Outlook::Refused, 1);
        assert!(slow >= WAIT_FIRST * SLOW_FACTOR / 2, "{slow:?}");
        let mut lane = Lane::new(Instant::now());
        assert!(lane.next_wait(Outlook::Passing, 1) <= WAIT_FIRST * 3 / 2);
        let mut lane = Lane::new(Instant::now());
        assert!(lane.next_wait(Outlook::Passing, ASIDE_AFTER) >= WAIT_FIRST * SLOW_FACTOR / 2);
    }

    fn notice(number: u64, mirror: &str) -> Notice {
        let decision = serde_json::json!({
            "id": format!("kz-{number:06}"), "number": number, "at": 1, "market": "kz", "mirror": mirror,
            "url": "https://m1.example/", "action": "pause", "effect": "act", "reasons": [], "carriers": [],
            "evidence": [], "rules_version": "", "policy_version": "", "journal_position": 1,
        });
        Notice::Decision(Box::new(serde_json::from_value(decision).unwrap()))
    }

    #[test]
    fn one_that_failed_for_an_hour_holds_up_nobody() {
        use crate::config::{ExecutorKind, ProgramConfig};
        use crate::state::Send;
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&dir.path().join("state")).unwrap());
        let kind = ExecutorKind::Program(ProgramConfig {
            program: "/bin/false".into(),
            arguments: vec![],
            dir: dir.path().to_owned(),
            timeout_secs: 1,
        });
        let config = ExecutorConfig {
            name: "switch".to_owned(),
            markets: vec![],
            actions: vec![],
            attempts: 400,
            refusals: 3,
            kind,
        };
        let routes = crate::executor::routes(std::slice::from_ref(&config));
        let notices =
            [(notice(1, "m1"), Send::Yes), (notice(2, "m2"), Send::Yes), (notice(3, "m3"), Send::Yes)];
        state.log(&notices, &routes).unwrap();
        let outbox = Outbox::new(state.clone(), Metrics::new().0, &[config]);
        let due = |lanes: &mut BTreeMap<LaneKey, Lane>| -> Vec<u64> {
            outbox.due(lanes, &mut None).unwrap().iter().map(|(key, _)| key.number).collect()
        };
        assert_eq!(due(&mut BTreeMap::new()), [1], "in order");
        let mut waiting = state.outbox().unwrap();
        for (key, delivery) in &mut waiting[..2] {
            delivery.attempts = ASIDE_AFTER;
            state.note_attempt(key, delivery).unwrap();
        }
        let mut lanes = BTreeMap::new();
        assert_eq!(due(&mut lanes), [1, 3], "of those aside one at a time, and the one that holds its lane");
        assert_eq!(due(&mut lanes), [] as [u64; 0], "all are under way");
        // What is dropped leaves no lane behind.
        state.drop_delivery(&waiting[1].0).unwrap();
        due(&mut lanes);
        assert_eq!(lanes.len(), 2);
    }
}
