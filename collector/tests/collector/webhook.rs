//! Decisions told to the operator's webhook: signed, in order, again after a failure, once more never for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::sync::mpsc;
use zerkalo_core::market::Decision;

use crate::world::{Collector, PATIENCE, Site, released};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

type Received = (HeaderMap, Bytes);

pub struct Receiver {
    pub port: u16,
    statuses: Arc<Mutex<VecDeque<StatusCode>>>,
    received: mpsc::UnboundedReceiver<Received>,
}

#[derive(Clone)]
struct Answers {
    /// What to answer next; 200 when empty.
    statuses: Arc<Mutex<VecDeque<StatusCode>>>,
    received: mpsc::UnboundedSender<Received>,
}

impl Receiver {
    pub async fn start(statuses: &[StatusCode]) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(statuses.iter().copied().collect()));
        let routes = Router::new()
            .route("/hook", post(take))
            .with_state(Answers { statuses: statuses.clone(), received: sender });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { port, statuses, received }
    }

    fn answer_next(&self, status: StatusCode) {
        self.statuses.lock().unwrap().push_back(status);
    }

    /// The next call, its signature checked: its id, and what it says.
    pub async fn next_call(&mut self) -> (String, serde_json::Value, Bytes) {
        let received = tokio::time::timeout(PATIENCE, self.received.recv()).await.expect("a call in time");
        let (headers, body) = received.unwrap();
        standardwebhooks::Webhook::new(SECRET).unwrap().verify(&body, &headers).unwrap();
        let json = serde_json::from_slice(&body).unwrap();
        (headers["webhook-id"].to_str().unwrap().to_owned(), json, body)
    }

    /// The next call, which must be a decision's.
    async fn next(&mut self) -> (String, Decision) {
        let (id, json, body) = self.next_call().await;
        assert_eq!(json["type"], "zerkalo.decision");
        let decision: Decision = serde_json::from_value(json["data"].clone()).unwrap();
        assert_eq!(json["timestamp"], decision.at.to_rfc3339());
        assert!(
            body.ends_with(format!("{}}}", decision.to_json()).as_bytes()),
            "the logged bytes themselves"
        );
        assert!(id.starts_with(&decision.id), "{id}");
        (id, decision)
    }
}

async fn take(State(answers): State<Answers>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = answers.statuses.lock().unwrap().pop_front().unwrap_or(StatusCode::OK);
    answers.received.send((headers, body)).unwrap();
    status
}

pub fn site(port: u16) -> Site {
    let site = Site::new();
    std::fs::write(site.dir.join("webhook.secret"), format!("{SECRET}\n")).unwrap();
    site.configure(&format!(
        "[webhook]\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"webhook.secret\"\n"
    ));
    site
}

async fn decide(site: &Site, collector: &Collector) {
    collector.put_list(site, 1, &["m1", "m2"]).await;
    collector.decide_to_keep(site, &["m1", "m2"]).await;
}

#[tokio::test]
async fn a_decision_is_delivered_signed_and_again_after_a_500() {
    let mut receiver = Receiver::start(&[StatusCode::INTERNAL_SERVER_ERROR]).await;
    let site = site(receiver.port);
    let collector = site.serve().await;
    decide(&site, &collector).await;
    let (first, decision) = receiver.next().await;
    assert_eq!(decision.action.as_str(), "keep");
    let (again, _) = receiver.next().await;
    assert_eq!(first, again, "the first is tried again before the second is sent");
    let (second, _) = receiver.next().await;
    assert_eq!((first.as_str(), second.as_str()), ("kz-000001", "kz-000002"));
    collector.metric_becomes("zerkalo_webhooks_total{result=\"delivered\"}", 2).await;
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    assert_eq!(collector.metric("zerkalo_webhooks_total{result=\"retried\"}").await, 1);
    collector.stop().await;
}

#[tokio::test]
async fn what_was_not_delivered_is_sent_after_a_restart_and_what_was_is_not() {
    // Nobody answers there.
    let site = site(1);
    let collector = site.serve().await;
    decide(&site, &collector).await;
    collector.metric_becomes("zerkalo_outbox_pending", 2).await;
    collector.kill().await;
    let mut receiver = Receiver::start(&[]).await;
    site.replace("http://127.0.0.1:1/", &format!("http://127.0.0.1:{}/", receiver.port));
    let collector = site.serve().await;
    assert_eq!(receiver.next().await.0, "kz-000001");
    assert_eq!(receiver.next().await.0, "kz-000002");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.kill().await;
    let collector = site.serve().await;
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.stop().await;
    assert!(receiver.received.try_recv().is_err(), "nothing was sent twice");
}

#[tokio::test]
async fn a_journal_that_fell_behind_the_log_silences_no_new_decision() {
    let mut receiver = Receiver::start(&[]).await;
    let site = site(receiver.port);
    let collector = site.serve().await;
    decide(&site, &collector).await;
    assert_eq!([receiver.next().await.0, receiver.next().await.0], ["kz-000001", "kz-000002"]);
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    let old = collector.decisions(&site).await;
    collector.stop().await;
    // As our own message about a damaged segment advises.
    let (segment, aside) = (site.dir.join("journal/00000001.zkj"), site.dir.join("aside.zkj"));
    std::fs::rename(&segment, &aside).unwrap();
    let collector = site.serve().await;
    assert!(collector.decisions(&site).await.is_empty(), "the log is what the journal says");
    decide(&site, &collector).await;
    let (first, decision) = receiver.next().await;
    assert_eq!(
        (first.as_str(), decision.id.as_str()),
        ("kz-000001-2", "kz-000001"),
        "no receiver has seen it"
    );
    assert_eq!(receiver.next().await.0, "kz-000002-2");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    assert_ne!(collector.decisions(&site).await, old);
    let log = collector.stop().await;
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("superseded")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("\"decisions\":2"), "{log:#?}");
    // What was told already is in force again, and nobody is told of it again.
    std::fs::rename(&aside, &segment).unwrap();
    let collector = site.serve().await;
    assert_eq!(collector.decisions(&site).await, old);
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.stop().await;
    assert!(receiver.received.try_recv().is_err(), "nothing was sent twice");
}

#[tokio::test]
async fn what_fails_too_often_is_given_up_on_record_and_the_next_goes_on() {
    use zerkalo_collector::state::{Delivery, State};
    // More than the beginning uses up on the slowest machine, fewer than make it step aside.
    const ATTEMPTS: u32 = 100;
    let mut receiver = Receiver::start(&[]).await;
    // Nobody listens there while the decisions are made.
    let site = site(1);
    site.configure(&format!("attempts = {ATTEMPTS}\n"));
    let collector = site.serve().await;
    decide(&site, &collector).await;
    collector.metric_becomes("zerkalo_outbox_pending", 2).await;
    collector.stop().await;
    {
        let state = State::open(&site.dir.join("state")).unwrap();
        let (key, delivery) = state.outbox().unwrap().remove(0);
        state.note_attempt(&key, &Delivery { attempts: ATTEMPTS - 1, ..delivery }).unwrap();
    }
    released(&site.dir.join("state")).await;
    receiver.answer_next(StatusCode::BAD_GATEWAY);
    site.replace("http://127.0.0.1:1/", &format!("http://127.0.0.1:{}/", receiver.port));
    let collector = site.serve().await;
    assert_eq!(receiver.next().await.0, "kz-000001");
    assert_eq!(receiver.next().await.0, "kz-000002");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    assert_eq!(collector.metric("zerkalo_webhooks_total{result=\"dead\"}").await, 1);
    assert_eq!(collector.metric("zerkalo_webhooks_total{result=\"delivered\"}").await, 1);
    collector.stop().await;
    let state = State::open(&site.dir.join("state")).unwrap();
    let dead = state.dead().unwrap();
    assert_eq!(
        dead.iter().map(|(key, delivery)| (key.number, delivery.attempts)).collect::<Vec<_>>(),
        [(1, ATTEMPTS)]
    );
    assert_eq!(dead[0].1.last_error.as_deref(), Some("the receiver answered 502 Bad Gateway"));
}

#[tokio::test]
async fn a_plain_no_is_given_up_at_its_own_limit_and_what_may_pass_is_not_counted_there() {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND];
    let mut receiver = Receiver::start(&busy).await;
    let site = site(receiver.port);
    site.configure("refusals = 1\n");
    let collector = site.serve().await;
    decide(&site, &collector).await;
    for _ in busy {
        assert_eq!(receiver.next().await.0, "kz-000001");
    }
    assert_eq!(receiver.next().await.0, "kz-000002", "the next is not held up");
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    let mut operator = collector.operator(&site).await;
    let request = zerkalo_proto::operator_v1::ListDeliveriesRequest {};
    let dead = operator.list_deliveries(request).await.unwrap().into_inner().deliveries;
    let told: Vec<_> = dead
        .iter()
        .map(|one| (one.id.as_str(), one.given_up_because.as_str(), one.attempts, one.refusals))
        .collect();
    assert_eq!(told, [("webhook/kz-000001", "refused", 3, 1)]);
    assert_eq!(dead[0].last_error, "the receiver answered 404 Not Found");
    collector.stop().await;
}

#[tokio::test]
async fn what_waits_says_when_it_is_tried_next() {
    // Nobody listens there.
    let site = site(1);
    let collector = site.serve().await;
    decide(&site, &collector).await;
    let mut operator = collector.operator(&site).await;
    let waiting = async {
        loop {
            let request = zerkalo_proto::operator_v1::ListDeliveriesRequest {};
            let found = operator.list_deliveries(request).await.unwrap().into_inner().deliveries;
            if found.len() == 2 && found[0].attempts > 0 {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let waiting = tokio::time::timeout(PATIENCE, waiting).await.expect("it is tried in time");
    let (first, behind) = (&waiting[0], &waiting[1]);
    assert!(first.next_attempt_at_millis >= first.last_attempt_at_millis, "{first:?}");
    assert!(first.last_error.contains("could not be reached") && first.refusals == 0, "{first:?}");
    assert_eq!((behind.attempts, behind.next_attempt_at_millis), (0, 0), "it waits for the one before it");
    collector.stop().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_or_answers_nonsense_is_asked_again_and_nothing_is_lost() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = site(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let mut held = Vec::new();
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4_096];
            let _ = stream.read(&mut asked).await;
            match number {
                // Never a word.
                0 => held.push(stream),
                1 => drop(stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n").await),
                2 => drop(stream),
                3 => drop(
                    stream
                        .write_all(
                            b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\nconnection: close\r\n\r\nshort",
                        )
                        .await,
                ),
                _ => {
                    let said = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(said).await;
                    // All of the request, so that closing takes nothing back.
                    let _ = stream.shutdown().await;
                    while let Ok(1..) = stream.read(&mut asked).await {}
                }
            }
        }
    });
    let collector = site.serve().await;
    decide(&site, &collector).await;
    collector.metric_becomes("zerkalo_webhooks_total{result=\"delivered\"}", 2).await;
    assert_eq!(collector.metric("zerkalo_webhooks_total{result=\"retried\"}").await, 3);
    assert_eq!(collector.metric("zerkalo_webhooks_total{result=\"dead\"}").await, 0);
    collector.metric_becomes("zerkalo_outbox_pending", 0).await;
    collector.stop().await;
}
