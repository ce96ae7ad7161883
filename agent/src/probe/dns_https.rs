//! DNS over HTTPS (RFC 8484): each question a POST, all over one connection of our own, HTTP/2 where the resolver speaks
//! it. Whoever cannot prove to be that resolver is asked nothing.

use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::Message;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{DnsExchange, DnsTransport};
use zerkalo_core::target::TargetUrl;

use super::chain::Trust;
use super::clock::StepClock;
use super::dns::{Question, exchange_of};
use super::dns_answer::{Answer, Extension, encode, query};
use super::dns_tls;
use super::http::{Body, Tasks};
use super::late::answers;
use super::resolvers::DohServer;
use super::tap::Duplex;

/// The media type of a message.
const DNS_MESSAGE: &str = "application/dns-message";
/// Largest answer read: the largest message there is.
const ANSWER_LEN_MAX: usize = 65_535;
/// Bytes of an answer's head that hyper may hold.
const HEAD_LEN_MAX: u32 = 16 * 1024;

/// Asks all questions over one connection.
pub async fn ask_all(
    server: &DohServer,
    questions: Vec<Question>,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> Vec<DnsExchange> {
    let (since, until) = (Instant::now(), clock.until(cap));
    let tasks = Tasks::default();
    let connected = match timeout_at(until, connect(server, trust, &tasks)).await {
        Ok(Ok(sender)) => Ok(sender),
        Ok(Err(why)) => Err(Answer::failed(why)),
        Err(_) => Err(Answer::timeout()),
    };
    let end = |question, answer| exchange_of(question, DnsTransport::Doh, since, answer, Vec::new(), clock);
    let exchanges = match connected {
        Err(answer) => questions.into_iter().map(|question| end(question, answer.clone())).collect(),
        Ok(Sender::H2(sender)) => {
            let asked = questions.into_iter().map(|question| {
                let mut sender = sender.clone();
                async move {
                    let asked = timeout_at(until, ask_h2(&mut sender, &server.url, &question)).await;
                    end(question, answer_of(asked))
                }
            });
            futures::future::join_all(asked).await
        }
        Ok(Sender::H1(mut sender)) => {
            let mut exchanges = Vec::with_capacity(questions.len());
            for question in questions {
                let asked = timeout_at(until, ask_h1(&mut sender, &server.url, &question)).await;
                exchanges.push(end(question, answer_of(asked)));
            }
            exchanges
        }
    };
    tasks.abort_all();
    exchanges
}

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

fn answer_of(asked: Result<Result<Message, String>, tokio::time::error::Elapsed>) -> Answer {
    match asked {
        Ok(Ok(message)) => Answer::read(&message),
        Ok(Err(why)) => Answer::failed(why),
        Err(_) => Answer::timeout(),
    }
}

async fn connect(server: &DohServer, trust: &Trust, tasks: &Tasks) -> Result<Sender, String> {
    let stream = dns_tls::open(&server.named(), &[b"h2", b"http/1.1"], trust).await?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    shake_hands(Box::new(stream), is_h2, tasks).await.map_err(|error| format!("HTTP: {error}"))
}

async fn shake_hands(stream: Box<dyn Duplex>, is_h2: bool, tasks: &Tasks) -> hyper::Result<Sender> {
    let io = TokioIo::new(stream);
    // Errors of the connection reach the request that waits for the answer.
    if is_h2 {
        let mut builder = http2::Builder::new(tasks.clone());
        builder.max_header_list_size(HEAD_LEN_MAX);
        let (sender, connection) = builder.handshake(io).await?;
        tasks.spawn(async { drop(connection.await) });
        Ok(Sender::H2(sender))
    } else {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_LEN_MAX as usize);
        let (sender, connection) = builder.handshake(io).await?;
        tasks.spawn(async { drop(connection.await) });
        Ok(Sender::H1(sender))
    }
}

async fn ask_h2(
    sender: &mut http2::SendRequest<Body>,
    url: &TargetUrl,
    question: &Question,
) -> Result<Message, String> {
    let (query, body) = query_of(question)?;
    let request = Request::post(url.as_str())
        .header(CONTENT_TYPE, DNS_MESSAGE)
        .header(ACCEPT, DNS_MESSAGE)
        .body(body)
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| format!("HTTP: {error}"))?;
    read(response, &query).await
}

async fn ask_h1(
    sender: &mut http1::SendRequest<Body>,
    url: &TargetUrl,
    question: &Question,
) -> Result<Message, String> {
    let (query, body) = query_of(question)?;
    let request = Request::post(url.path_and_query())
        .header(HOST, url.authority())
        .header(CONTENT_TYPE, DNS_MESSAGE)
        .header(ACCEPT, DNS_MESSAGE)
        .body(body)
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| format!("HTTP: {error}"))?;
    let response = sender.send_request(request).await.map_err(|error| format!("HTTP: {error}"))?;
    read(response, &query).await
}

/// The id is 0, so that caches on the way know equal questions (RFC 8484, 4.1).
fn query_of(question: &Question) -> Result<(Message, Body), String> {
    let (mut query, _) = query(&question.name, question.query, Extension::Edns)?;
    query.metadata.id = 0;
    let body = Body::new(Full::new(Bytes::from(encode(&query)?)));
    Ok((query, body))
}

async fn read(response: Response<Incoming>, query: &Message) -> Result<Message, String> {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("HTTP status {}", status.as_u16()));
    }
    let is_message =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == DNS_MESSAGE.as_bytes());
    if !is_message {
        return Err(format!("HTTP status {} without a DNS message", status.as_u16()));
    }
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
    let bytes = body.map_err(|error| format!("HTTP: {error}"))?.to_bytes();
    let message = Message::from_vec(&bytes).map_err(|error| format!("the answer cannot be read: {error}"))?;
    if answers(&message, query) { Ok(message) } else { Err("an answer to another question".to_owned()) }
}
