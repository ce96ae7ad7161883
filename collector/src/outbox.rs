//! Sends decisions to the operator's webhook, from what the state says is still to be sent.
//!
//! At least once: a delivery is noted after the receiver said yes, so a crash sends it again under the same
//! `webhook-id`, which is the decision's (see [`Delivery`]). In order within a market: the next waits for the one before it. It decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio::time::Instant;
use zerkalo_core::market::Decision;
use zerkalo_core::words::MarketId;
use zerkalo_durable::retry::Retry;

use crate::clock;
use crate::config::WebhookConfig;
use crate::metrics::{Metrics, WebhookLabels};
use crate::state::{Delivery, State};
use crate::stop::StopSignal;

/// Attempts before a decision is given up: with the waits below about an hour, after which a person must look anyway.
pub const ATTEMPTS_MAX: u32 = 125;
/// Wait after the first failure, about.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait, about: a receiver that came back must not wait long for `pause`.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// When the state cannot be read, it is tried again after this.
const STATE_WAIT: Duration = Duration::from_secs(5);

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The sender.
pub struct Outbox {
    state: Arc<State>,
    metrics: Arc<Metrics>,
    webhook: WebhookConfig,
    http: Http,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the receiver answered {0}")]
    Status(http::StatusCode),
    #[error("the receiver could not be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the request could not be built")]
    Request(#[source] http::Error),
    #[error("the request could not be signed")]
    Sign(#[source] standardwebhooks::WebhookError),
    #[error("the decision is not in the log")]
    Missing,
    #[error("the state failed")]
    State(#[from] crate::state::StateError),
    #[error("the logged decision cannot be read")]
    Malformed(#[source] serde_json::Error),
}

/// A market's turn.
struct Lane {
    retry: Retry,
    not_before: Instant,
    busy: bool,
    /// Number of the newest decision seen.
    newest: u64,
}

impl Lane {
    fn new(now: Instant) -> Self {
        Self { retry: Retry::new(WAIT_FIRST, WAIT_MAX), not_before: now, busy: false, newest: 0 }
    }

    /// A newer decision must not wait for a patience that older ones used up: the next attempt is made at once.
    fn hear_of(&mut self, number: u64, now: Instant) {
        if number > self.newest {
            self.newest = number;
            self.retry.reset();
            self.not_before = now;
        }
    }
}

impl Outbox {
    /// A sender to one webhook; nothing is sent yet.
    pub fn new(state: Arc<State>, metrics: Arc<Metrics>, webhook: WebhookConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Self { state, metrics, webhook, http }
    }

    /// Sends until told to stop. `wake` is rung when the state has something new.
    pub async fn run(self, wake: Arc<Notify>, stopping: StopSignal) {
        let mut lanes: BTreeMap<MarketId, Lane> = BTreeMap::new();
        let mut attempts = FuturesUnordered::new();
        loop {
            let mut wake_at = None::<Instant>;
            match block_in_place(|| self.due(&mut lanes, &mut wake_at)) {
                Ok(due) => attempts.extend(due.into_iter().map(|(number, delivery)| {
                    let this = &self;
                    async move {
                        let result = this.attempt(number, &delivery).await;
                        (number, delivery, result)
                    }
                })),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                    wake_at = Some(Instant::now() + STATE_WAIT);
                }
            }
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((number, delivery, result)) = attempts.next() => {
                    block_in_place(|| self.settle(&mut lanes, number, delivery, result));
                }
                () = wake.notified() => {}
                () = sleep => {}
                () = stopping.stopped() => return,
            }
        }
    }

    /// The oldest entry of each market whose turn it is. Sets when to look again.
    fn due(
        &self,
        lanes: &mut BTreeMap<MarketId, Lane>,
        wake_at: &mut Option<Instant>,
    ) -> Result<Vec<(u64, Delivery)>, crate::state::StateError> {
        let pending = self.state.outbox()?;
        self.metrics.outbox_pending.set(pending.len() as i64);
        let now = Instant::now();
        for (number, delivery) in &pending {
            let lane = lanes.entry(delivery.market.clone()).or_insert_with(|| Lane::new(now));
            lane.hear_of(*number, now);
        }
        let mut seen = BTreeSet::new();
        let mut due = Vec::new();
        for (number, delivery) in pending {
            if !seen.insert(delivery.market.clone()) {
                continue;
            }
            let lane = lanes.entry(delivery.market.clone()).or_insert_with(|| Lane::new(now));
            if lane.busy {
                continue;
            }
            if lane.not_before > now {
                *wake_at = Some(wake_at.map_or(lane.not_before, |at| at.min(lane.not_before)));
                continue;
            }
            lane.busy = true;
            due.push((number, delivery));
        }
        Ok(due)
    }

    async fn attempt(&self, number: u64, delivery: &Delivery) -> Result<(), AttemptError> {
        let logged = block_in_place(|| self.state.decision_numbered(number))?.ok_or(AttemptError::Missing)?;
        let decision: Decision = serde_json::from_slice(&logged).map_err(AttemptError::Malformed)?;
        let body = body(&decision, &logged);
        let timestamp = i64::try_from(clock::now().0 / 1000).unwrap_or(i64::MAX);
        let signature = standardwebhooks::Webhook::new(self.webhook.secret.reveal())
            .and_then(|webhook| webhook.sign(&delivery.id, timestamp, &body))
            .map_err(AttemptError::Sign)?;
        let request = http::Request::post(self.webhook.url.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::USER_AGENT, concat!("zerkalo-collector/", env!("CARGO_PKG_VERSION")))
            .header(standardwebhooks::HEADER_WEBHOOK_ID, &delivery.id)
            .header(standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(standardwebhooks::HEADER_WEBHOOK_SIGNATURE, signature)
            .body(Full::new(Bytes::from(body)))
            .map_err(AttemptError::Request)?;
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| AttemptError::Timeout)?
            .map_err(AttemptError::Unreachable)?;
        if answer.status().is_success() { Ok(()) } else { Err(AttemptError::Status(answer.status())) }
    }

    /// Notes what became of an attempt.
    fn settle(
        &self,
        lanes: &mut BTreeMap<MarketId, Lane>,
        number: u64,
        mut delivery: Delivery,
        result: Result<(), AttemptError>,
    ) {
        let Some(lane) = lanes.get_mut(&delivery.market) else { return };
        lane.busy = false;
        let (noted, result) = match result {
            Ok(()) => {
                lane.retry.reset();
                tracing::info!(id = delivery.id, "told the webhook");
                (self.state.note_delivered(number), "delivered")
            }
            Err(error) => {
                delivery.attempts += 1;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    id = delivery.id,
                    attempt = delivery.attempts,
                    "a webhook attempt failed"
                );
                if delivery.attempts >= ATTEMPTS_MAX {
                    lane.retry.reset();
                    tracing::error!(id = delivery.id, "gave a webhook up; it stays on record in the state");
                    (self.state.note_dead(number, &delivery), "dead")
                } else {
                    lane.not_before = Instant::now() + lane.retry.next_wait();
                    (self.state.note_attempt(number, &delivery), "retried")
                }
            }
        };
        self.metrics.webhooks.get_or_create(&WebhookLabels { result }).inc();
        if let Err(error) = noted {
            tracing::error!(error = &error as &dyn std::error::Error, "a webhook's result cannot be noted");
            lane.not_before = Instant::now() + STATE_WAIT;
        }
    }
}

/// The same bytes at every attempt: the logged decision itself stands inside.
fn body(decision: &Decision, logged: &[u8]) -> Vec<u8> {
    let head = format!(r#"{{"type":"zerkalo.decision","timestamp":"{}","data":"#, decision.at.to_rfc3339());
    [head.as_bytes(), logged, b"}"].concat()
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
