//! A receiver of webhooks, as an operator would write one: verifies the signature, then keeps what came.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use zerkalo_core::words::UnixMillis;

use crate::fleet::now;

/// Largest body read, in bytes: a decision with its evidence stays below.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// Webhooks kept.
const RECEIVED_MAX: usize = 10_000;
/// How long one delivery may take.
const DELIVERY_MAX: Duration = Duration::from_secs(30);

/// A webhook as received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Received {
    /// The `webhook-id` header: the decision's id.
    pub id: String,
    /// Whether the signature held.
    pub verified: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    pub body: serde_json::Value,
    /// The body's own bytes.
    #[serde(skip)]
    pub text: String,
    /// When its last byte had come.
    #[serde(skip)]
    pub at: UnixMillis,
}

/// A running receiver; stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    url: String,
    secret: String,
    received: Arc<Shelf>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shelf {
    kept: Mutex<Vec<Received>>,
    count: watch::Sender<usize>,
}

impl Receiver {
    /// Listens on a port of the system's choice, for signatures under `key`.
    pub async fn start(key: &[u8]) -> anyhow::Result<Self> {
        let secret = format!("whsec_{}", STANDARD.encode(key));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/zerkalo", listener.local_addr()?);
        let received = Arc::new(Shelf { kept: Mutex::default(), count: watch::Sender::new(0) });
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::new(Webhook::from_bytes(key.to_vec())?), Arc::clone(&received)));
        Ok(Self { url, secret, received, _task: task })
    }

    /// Where to send.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The secret as Standard Webhooks writes it, for the sender's file.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Everything received so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.received.kept.lock().map(|kept| kept.clone()).unwrap_or_default()
    }

    /// Counts arrivals.
    pub fn arrivals(&self) -> watch::Receiver<usize> {
        self.received.count.subscribe()
    }
}

async fn serve(listener: TcpListener, webhook: Arc<Webhook>, shelf: Arc<Shelf>) {
    let mut deliveries = JoinSet::new();
    loop {
        while deliveries.try_join_next().is_some() {}
        let Ok((stream, _peer)): io::Result<(TcpStream, SocketAddr)> = listener.accept().await else {
            continue;
        };
        let (webhook, shelf) = (Arc::clone(&webhook), Arc::clone(&shelf));
        deliveries.spawn(async move {
            let service = service_fn(move |request| {
                let (webhook, shelf) = (Arc::clone(&webhook), Arc::clone(&shelf));
                async move { Ok::<_, Infallible>(deliver(request, &webhook, &shelf).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _late_or_gone = tokio::time::timeout(DELIVERY_MAX, connection).await;
        });
    }
}

async fn deliver(request: Request<Incoming>, webhook: &Webhook, shelf: &Shelf) -> Response<Empty<Bytes>> {
    let answer = |status| {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        response
    };
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LEN_MAX).collect().await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let (body, at) = (body.to_bytes(), now());
    let verdict = webhook.verify(&body, &head.headers);
    let id = head.headers.get(HEADER_WEBHOOK_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    let received = Received {
        id: id.to_owned(),
        verified: verdict.is_ok(),
        fault: verdict.err().map(|error| error.to_string()),
        body: serde_json::from_str(&text).unwrap_or_else(|_| serde_json::Value::String(text.clone())),
        text,
        at,
    };
    let status = if received.verified { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED };
    if let Ok(mut kept) = shelf.kept.lock()
        && kept.len() < RECEIVED_MAX
    {
        kept.push(received);
    }
    shelf.count.send_modify(|count| *count += 1);
    answer(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const KEY: &[u8] = &[7; 32];

    async fn post(receiver: &Receiver, signature: &str, timestamp: i64, body: &str) -> String {
        let address = receiver.url().trim_start_matches("http://").trim_end_matches("/zerkalo").to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /zerkalo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\nwebhook-id: d1\r\n\
             webhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_signed_webhook_is_kept_as_verified_and_a_forged_one_as_forged() {
        let receiver = Receiver::start(KEY).await.unwrap();
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let body = r#"{"type":"zerkalo.decision"}"#;
        let signature = Webhook::new(receiver.secret()).unwrap().sign("d1", now, body.as_bytes()).unwrap();
        assert_eq!(post(&receiver, &signature, now, body).await, "HTTP/1.1 204 No Content");
        let changed = r#"{"type":"zerkalo.derision"}"#;
        assert_eq!(post(&receiver, &signature, now, changed).await, "HTTP/1.1 401 Unauthorized");
        let received = receiver.received();
        assert_eq!(received.iter().map(|r| r.verified).collect::<Vec<_>>(), [true, false]);
        assert_eq!((received[0].id.as_str(), &received[0].body["type"]), ("d1", &"zerkalo.decision".into()));
        assert_eq!(*receiver.arrivals().borrow(), 2);
    }
}
