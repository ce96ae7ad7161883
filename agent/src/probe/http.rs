//! The HTTP step: requests over a connection we made ourselves, so that every byte and instant is known. One request at
//! a time; which redirect to follow is the road's business.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use zerkalo_core::page;
use zerkalo_core::record::{
    Arm, BODY_LEN_MAX, HEADER_VALUE_LEN_MAX, HEADERS_MAX, HttpExchange, HttpOutcome, Span,
};
use zerkalo_core::target::{Sha256, TargetUrl};

use super::clock::{StepClock, micros};
use super::tap::{Duplex, End, Tap, Tapped};
use super::text::cut;
use super::tls::TlsConnection;

/// What most visitors' browsers call themselves: a probe must not be treated otherwise than they.
const USER_AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
const ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
/// Headers kept of an answer: what rules, known stubs and people who doubt a verdict look at. None by which a site knows
/// its visitor again, or tells him his address.
const HEADERS_KEPT: [&str; 20] = [
    "alt-svc",
    "cache-control",
    "cf-mitigated",
    "cf-ray",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "date",
    "location",
    "proxy-agent",
    "refresh",
    "retry-after",
    "server",
    "strict-transport-security",
    "transfer-encoding",
    "via",
    "x-cache",
    "x-powered-by",
    "x-squid-error",
];
/// Bytes hyper may hold of an answer's head.
pub(super) const HEAD_LEN_MAX: usize = 64 * 1024;
/// Body bytes after which a sparing visit looks whether it has seen enough: beyond the 14-34 KB at which the known
/// freeze strikes.
pub const SPARING_LEN: u64 = 40 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    pub arm: Arm,
    pub url: &'a TargetUrl,
    pub canary: Option<&'a str>,
    pub reading: Reading,
}

/// How much of a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of it, up to [`BODY_LEN_MAX`].
    Whole,
    /// No more than [`SPARING_LEN`], or as far as the canary stands: on a metered line every byte is paid for.
    Sparing,
}

impl Reading {
    /// Bytes a peer may send unasked.
    fn window_len(self) -> u32 {
        match self {
            Self::Whole => BODY_LEN_MAX as u32,
            Self::Sparing => SPARING_LEN as u32,
        }
    }

    /// Whether these bytes of a body will do.
    fn is_enough(self, body: &[u8], canary: Option<&str>) -> bool {
        let len = body.len() as u64;
        len >= BODY_LEN_MAX
            || self == Self::Sparing
                && len >= SPARING_LEN
                && canary.is_none_or(|canary| page::holds(body, canary))
    }
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub headers: Vec<(String, String)>,
    /// From the request to the head's arrival.
    pub span: Span,
}

/// A connection that speaks HTTP. Its tasks end with it.
pub struct HttpConnection {
    sender: Sender,
    tasks: Tasks,
    tap: Arc<Tap>,
    address: SocketAddr,
    /// Scheme, host and port, to know what may be asked over it.
    origin: (bool, String, u16),
    /// Whether the last answer was read to its end.
    is_idle: bool,
    /// Where the last answer sent the visitor, uncut.
    location: Option<String>,
    /// How the connection ends, beside what requests hear of it.
    end: Option<Ending>,
}

/// What requests carry: one type for all of this box's HTTP, the uplink's too, which is big.
pub(crate) type Body = tonic::body::Body;

type Ending = oneshot::Receiver<hyper::Result<()>>;

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

/// What an answer brought, as far as it came.
#[derive(Default)]
pub(super) struct Answer {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    location: Option<String>,
    body: Vec<u8>,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    is_whole: bool,
}

impl HttpConnection {
    /// Speaks HTTP/1.1 in the clear. A failure comes as the exchange that never began.
    pub async fn over_tcp(
        stream: TcpStream,
        address: SocketAddr,
        ask: Ask<'_>,
        clock: StepClock,
    ) -> Result<Self, Box<HttpExchange>> {
        let (stream, tap) = Tapped::new(stream);
        Self::start(Box::new(stream), tap, false, address, ask, clock).await
    }

    /// Speaks what the handshake agreed on. A failure comes as the exchange that never began.
    pub async fn over_tls(
        tls: TlsConnection,
        address: SocketAddr,
        ask: Ask<'_>,
        clock: StepClock,
    ) -> Result<Self, Box<HttpExchange>> {
        Self::start(Box::new(tls.stream), tls.tap, tls.is_h2, address, ask, clock).await
    }

    async fn start(
        stream: Box<dyn Duplex>,
        tap: Arc<Tap>,
        is_h2: bool,
        address: SocketAddr,
        ask: Ask<'_>,
        clock: StepClock,
    ) -> Result<Self, Box<HttpExchange>> {
        let since = Instant::now();
        let tasks = Tasks::default();
        match Sender::start(stream, is_h2, ask.reading, &tasks).await {
            Ok((sender, end)) => {
                let (origin, end) = (origin_of(ask.url), Some(end));
                Ok(Self { sender, tasks, tap, address, origin, is_idle: true, location: None, end })
            }
            Err(error) => {
                let protocol = if is_h2 { "h2" } else { "h1" };
                let outcome = outcome_of(&error, &tap);
                let step = exchange_of(ask, address, protocol, Answer::default(), outcome, since, clock);
                Err(Box::new(HttpExchange { transport: tap.transport(), ..step }))
            }
        }
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the last answer sent the visitor: whole, while the record's header is cut.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Whether `url` can be asked for over it.
    pub async fn can_ask(&mut self, url: &TargetUrl, until: Instant) -> bool {
        if !self.is_idle || self.origin != origin_of(url) {
            return false;
        }
        let ready = async {
            match &mut self.sender {
                Sender::H1(sender) => sender.ready().await.is_ok(),
                Sender::H2(sender) => sender.ready().await.is_ok(),
            }
        };
        timeout_at(until, ready).await.unwrap_or(false)
    }

    /// Asks and reads the answer, up to the body cap.
    pub async fn exchange(&mut self, ask: Ask<'_>, cap: Duration, clock: StepClock) -> HttpExchange {
        let (since, until) = (Instant::now(), clock.until(cap));
        let mut answer = Answer::default();
        let outcome = match self.request(ask.url) {
            Err(error) => HttpOutcome::Failed(error.to_string()),
            Ok(request) => match timeout_at(until, self.converse(request, &ask, &mut answer)).await {
                Ok(Ok(())) => HttpOutcome::Complete,
                Ok(Err(error)) if error.is_canceled() => self.canceled(until).await,
                Ok(Err(error)) => outcome_of(&error, &self.tap),
                Err(_) => HttpOutcome::Timeout,
            },
        };
        self.is_idle = answer.is_whole;
        self.location = answer.location.take();
        let step = exchange_of(ask, self.address, self.protocol(), answer, outcome, since, clock);
        HttpExchange { transport: self.tap.transport(), ..step }
    }

    /// Asks for the head of an answer alone, and when it came. `None` where none came in time: nothing rests on it.
    pub async fn head(&mut self, url: &TargetUrl, cap: Duration, clock: StepClock) -> Option<Head> {
        let (since, until) = (Instant::now(), clock.until(cap));
        let mut request = self.request(url).ok()?;
        *request.method_mut() = http::Method::HEAD;
        let response = timeout_at(until, self.sender.send(request)).await.ok()?.ok()?;
        Some(Head { headers: kept_headers(response.headers()), span: clock.span(since) })
    }

    /// Why hyper gave a request up: the connection was over before the request was out.
    async fn canceled(&mut self, until: Instant) -> HttpOutcome {
        let Some(end) = self.end.take() else { return HttpOutcome::Eof };
        match timeout_at(until, end).await {
            // Bytes came unasked, or broke the rules.
            Ok(Ok(Err(cause))) => outcome_of(&cause, &self.tap),
            Ok(_) => HttpOutcome::Eof,
            Err(_) => HttpOutcome::Timeout,
        }
    }

    fn protocol(&self) -> &'static str {
        match self.sender {
            Sender::H1(_) => "h1",
            Sender::H2(_) => "h2",
        }
    }

    fn request(&self, url: &TargetUrl) -> Result<Request<Body>, http::Error> {
        let builder = match self.sender {
            Sender::H1(_) => Request::get(url.path_and_query()).header("host", url.authority()),
            Sender::H2(_) => Request::get(without_fragment(url.as_str())),
        };
        as_browsers_ask(builder).body(Body::default())
    }

    async fn converse(
        &mut self,
        request: Request<Body>,
        ask: &Ask<'_>,
        answer: &mut Answer,
    ) -> Result<(), hyper::Error> {
        let response = self.sender.send(request).await?;
        answer.note_head(response.status(), response.headers());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            answer.last_byte = Some(Instant::now());
            let Ok(data) = frame?.into_data() else { continue };
            if answer.is_enough_after(&data, ask) {
                return Ok(());
            }
        }
        answer.is_whole = true;
        Ok(())
    }
}

impl Answer {
    pub(super) fn note_head(&mut self, status: http::StatusCode, headers: &http::HeaderMap) {
        self.last_byte = Some(Instant::now());
        self.status = Some(status.as_u16());
        self.headers = kept_headers(headers);
        self.location =
            headers.get("location").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    }

    /// Keeps a part of the body. Whether that is all we read of one.
    pub(super) fn is_enough_after(&mut self, data: &[u8], ask: &Ask<'_>) -> bool {
        let now = Instant::now();
        self.last_byte = Some(now);
        self.first_byte.get_or_insert(now);
        let room = (BODY_LEN_MAX as usize).saturating_sub(self.body.len());
        self.body.extend_from_slice(&data[..data.len().min(room)]);
        ask.reading.is_enough(&self.body, ask.canary)
    }
}

impl Sender {
    async fn start(
        stream: Box<dyn Duplex>,
        is_h2: bool,
        reading: Reading,
        tasks: &Tasks,
    ) -> hyper::Result<(Self, Ending)> {
        let io = TokioIo::new(stream);
        // Errors of the connection reach the request that waits for the answer; what comes before it, the ending alone.
        let (ended, end) = oneshot::channel();
        if is_h2 {
            let mut builder = http2::Builder::new(tasks.clone());
            builder.max_header_list_size(HEAD_LEN_MAX as u32);
            builder.initial_stream_window_size(reading.window_len());
            builder.initial_connection_window_size(reading.window_len());
            let (sender, connection) = builder.handshake(io).await?;
            tasks.spawn(async { drop(ended.send(connection.await)) });
            Ok((Self::H2(sender), end))
        } else {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEAD_LEN_MAX);
            let (sender, connection) = builder.handshake(io).await?;
            tasks.spawn(async { drop(ended.send(connection.await)) });
            Ok((Self::H1(sender), end))
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => sender.send_request(request).await,
            Self::H2(sender) => sender.send_request(request).await,
        }
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// The value of a kept header.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

/// The headers a browser sends first; no compression, so that offsets are those of the wire.
pub(super) fn as_browsers_ask(request: http::request::Builder) -> http::request::Builder {
    request
        .header("user-agent", USER_AGENT)
        .header("accept", ACCEPT)
        .header("accept-language", "ru,en;q=0.8")
        .header("accept-encoding", "identity")
}

pub(super) fn exchange_of(
    ask: Ask<'_>,
    address: SocketAddr,
    protocol: &str,
    answer: Answer,
    outcome: HttpOutcome,
    since: Instant,
    clock: StepClock,
) -> HttpExchange {
    let content_type = header(&answer.headers, "content-type");
    let canary_found =
        ask.canary.filter(|_| !answer.body.is_empty()).map(|canary| page::holds(&answer.body, canary));
    let excerpt = match canary_found {
        Some(true) => String::new(),
        _ => page::excerpt(&answer.body, content_type),
    };
    HttpExchange {
        first_byte_micros: answer.first_byte.map(|at| micros(at.duration_since(since))),
        arm: ask.arm,
        url: ask.url.clone(),
        address,
        protocol: protocol.to_owned(),
        span: clock.span(since),
        last_byte_micros: answer.last_byte.map(|at| micros(at.duration_since(since))),
        status: answer.status,
        body_len: answer.body.len() as u64,
        body_sha256: Sha256::of(&answer.body),
        title: page::title(&answer.body, content_type),
        canary_found,
        excerpt,
        headers: answer.headers,
        outcome,
        transport: None,
    }
}

fn origin_of(url: &TargetUrl) -> (bool, String, u16) {
    (url.is_https(), url.host(), url.port())
}

fn without_fragment(url: &str) -> &str {
    url.split('#').next().unwrap_or(url)
}

fn kept_headers(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter(|(name, _)| HEADERS_KEPT.contains(&name.as_str()))
        .take(HEADERS_MAX)
        .map(|(name, value)| {
            let mut value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            cut(&mut value, HEADER_VALUE_LEN_MAX);
            (name.as_str().to_owned(), value)
        })
        .collect()
}

fn outcome_of(error: &hyper::Error, tap: &Tap) -> HttpOutcome {
    if error.is_parse() {
        return HttpOutcome::Protocol(chain_text(error));
    }
    match tap.end() {
        Some(End::Reset) => HttpOutcome::Reset,
        Some(End::Eof) => HttpOutcome::Eof,
        // A TLS close_notify ends the answer while the socket is still open.
        None if error.is_incomplete_message() => HttpOutcome::Eof,
        None => HttpOutcome::Protocol(chain_text(error)),
    }
}

pub(super) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    cut(&mut text, HEADER_VALUE_LEN_MAX);
    text
}

/// The tasks of one connection, ended together: a silent peer leaves nothing behind.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    pub(super) fn abort_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
