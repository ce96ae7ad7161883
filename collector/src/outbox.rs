//! Has decisions and alerts carried out by the executors, from what the state says is still to be done.
//!
//! At least once: a delivery is noted after its executor said yes, so a crash does it again under the same id. One lane
//! an executor and market, in order: the next waits for the one before it. It decides nothing.

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
use crate::executor::{AttemptError, Errand, Executor, Notice};
use crate::metrics::{DeliveryLabels, Metrics, WebhookLabels};
use crate::state::{DeliveryKey, State, StateError, Topic, Waiting};
use crate::stop::StopSignal;

/// Wait after the first failure, about.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait, about: a receiver that came back must not wait long for `pause`.
const WAIT_MAX: Duration = Duration::from_secs(30);
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
    /// Whether no further attempt can help.
    fn is_final(&self) -> bool {
        match self {
            Self::Superseded { .. } => true,
            Self::Attempt(error) => error.is_final(),
            Self::Missing | Self::State(_) | Self::Malformed(_) => false,
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

type LaneKey = (String, Topic, MarketId);

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
        for (key, delivery) in &pending {
            lanes
                .entry(lane_of(key, &delivery.market))
                .or_insert_with(|| Lane::new(now))
                .hear_of(key.number, now);
        }
        let mut seen = BTreeSet::new();
        let mut due = Vec::new();
        for (key, delivery) in pending {
            let lane_key = lane_of(&key, &delivery.market);
            // Of an executor that is configured no more: it waits until it is again, or is dropped by hand.
            if !self.executors.contains_key(&key.executor) || !seen.insert(lane_key.clone()) {
                continue;
            }
            let lane = lanes.entry(lane_key).or_insert_with(|| Lane::new(now));
            if lane.busy {
                continue;
            }
            if lane.not_before > now {
                *wake_at = Some(wake_at.map_or(lane.not_before, |at| at.min(lane.not_before)));
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
        let Some(lane) = lanes.get_mut(&lane_of(&key, &delivery.market)) else { return };
        lane.busy = false;
        let (executor, id) = (key.executor.as_str(), delivery.id.clone());
        let (noted, result) = match result {
            Ok(done) => {
                lane.retry.reset();
                tracing::info!(executor, id, "{done}");
                (self.state.note_done(&key), "delivered")
            }
            Err(error) => {
                delivery.attempts += 1;
                delivery.last_attempt_at = Some(clock::now());
                delivery.last_error = Some(chain(&error).chars().take(ERROR_LEN_MAX).collect());
                let attempt = delivery.attempts;
                let attempts_max = self.executors.get(executor).map_or(0, |executor| executor.attempts);
                let error_shown = &error as &dyn std::error::Error;
                tracing::warn!(error = error_shown, executor, id, attempt, "an executor's attempt failed");
                if attempt >= attempts_max || error.is_final() {
                    lane.retry.reset();
                    tracing::error!(executor, id, "gave a delivery up; see `zerkalo outbox ls`");
                    (self.state.note_dead(&key, &delivery), "dead")
                } else {
                    lane.not_before = Instant::now() + lane.retry.next_wait();
                    (self.state.note_attempt(&key, &delivery), "retried")
                }
            }
        };
        self.count(&key, result);
        if let Err(error) = noted {
            tracing::error!(error = &error as &dyn std::error::Error, "a delivery's result cannot be noted");
            lane.not_before = Instant::now() + STATE_WAIT;
        }
    }

    fn count(&self, key: &DeliveryKey, result: &'static str) {
        let labels = DeliveryLabels { executor: key.executor.clone(), result };
        self.metrics.deliveries.get_or_create(&labels).inc();
        if self.executors.get(&key.executor).is_some_and(Executor::is_webhook) {
            self.metrics.webhooks.get_or_create(&WebhookLabels { result }).inc();
        }
    }
}

fn lane_of(key: &DeliveryKey, market: &MarketId) -> LaneKey {
    (key.executor.clone(), key.topic, market.clone())
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
}
