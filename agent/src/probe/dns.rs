//! DNS steps: one question to one resolver at a time, with the whole answer as a fact. No cache, no search list, no
//! hosts file: a visitor's resolver is what is measured. Here UDP and TCP; over TLS it is `dns_tls.rs`, over HTTPS
//! `dns_https.rs`. Messages are read in `dns_answer.rs`, further answers listened for in `late.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{
    DNS_OTHERS_MAX, DNS_RESEND_AFTER_MICROS, DnsExchange, DnsOtherAnswer, DnsTransport, QueryType,
    ResolverKind,
};

use super::StepCaps;
use super::clock::StepClock;
use super::dns_answer::{Answer, Extension, other_answer, query};
use super::late::{Heard, Listener, answers, heard};

/// When an unanswered question is sent again, after its beginning: one lost datagram is no silence.
const RESEND_AFTER: [Duration; 2] =
    [Duration::from_micros(DNS_RESEND_AFTER_MICROS), Duration::from_millis(2_500)];
/// Largest datagram read: more than the payload we announce.
pub(super) const DATAGRAM_LEN_MAX: usize = 4_096;

/// One question and whom to ask.
#[derive(Debug, Clone)]
pub struct Question {
    pub resolver: ResolverKind,
    pub server: SocketAddr,
    pub name: String,
    pub query: QueryType,
}

/// A question's end, and the ear left on its socket.
#[derive(Debug)]
pub struct Asked {
    pub exchange: DnsExchange,
    /// `None` where nothing came that could be beaten to it.
    pub listener: Option<Listener>,
}

/// Asks both address questions of `name`.
pub fn questions(resolver: ResolverKind, server: SocketAddr, name: &str) -> [Question; 2] {
    [QueryType::A, QueryType::Aaaa].map(|query| Question { resolver, server, name: name.to_owned(), query })
}

/// Asks for the HTTPS records of `name`.
pub fn service_question(resolver: ResolverKind, server: SocketAddr, name: &str) -> Question {
    Question { resolver, server, name: name.to_owned(), query: QueryType::Https }
}

/// Asks all questions at once, by UDP; answers stand in the order of the questions.
pub async fn ask_all(questions: Vec<Question>, caps: StepCaps, clock: StepClock) -> Vec<Asked> {
    futures::future::join_all(questions.into_iter().map(|question| ask(question, caps, clock))).await
}

/// Asks all questions at once, by TCP: who answers UDP in another's name seldom answers this.
pub async fn ask_all_by_tcp(questions: Vec<Question>, cap: Duration, clock: StepClock) -> Vec<DnsExchange> {
    let asked = questions.into_iter().map(|question| async move {
        let (since, until) = (Instant::now(), clock.until(cap));
        let answer = match timeout_at(until, exchange_by_tcp(&question)).await {
            Ok(Ok(answer)) => Answer::read(&answer),
            Ok(Err(failure)) => Answer::failed(failure),
            Err(_) => Answer::timeout(),
        };
        exchange_of(question, DnsTransport::Tcp, since, answer, Vec::new(), clock)
    });
    futures::future::join_all(asked).await
}

/// What became of a datagram's question.
struct Answered {
    socket: UdpSocket,
    query: Message,
    answer: Answer,
}

/// Asks by UDP.
pub async fn ask(question: Question, caps: StepCaps, clock: StepClock) -> Asked {
    let (since, until) = (Instant::now(), clock.until(caps.dns));
    let (mut strays, mut torn) = (Vec::new(), None);
    let answered = timeout_at(until, exchange(&question, since, clock, &mut strays, &mut torn)).await;
    let (answer, ear) = match answered {
        Ok(Ok(Answered { socket, query, answer })) => (answer, Some((socket, query))),
        Ok(Err(failure)) => (Answer::failed(failure), None),
        // Whoever sent to TCP and is silent there has answered all the same.
        Err(_) => (torn.map_or_else(Answer::timeout, |answer| Answer::read(&answer)), None),
    };
    let exchange = exchange_of(question.clone(), DnsTransport::Udp, since, answer, strays, clock);
    // After the span is taken: what another thread hears must not seem to have come before the answer taken.
    let listener = ear.map(|(socket, query)| Listener::start(question, socket, query, caps.late, clock));
    Asked { exchange, listener }
}

/// The fact of a question that began at `since` and ends now.
pub(super) fn exchange_of(
    question: Question,
    transport: DnsTransport,
    since: Instant,
    answer: Answer,
    others: Vec<DnsOtherAnswer>,
    clock: StepClock,
) -> DnsExchange {
    let Question { resolver, server, name, query } = question;
    let Answer { outcome, detail } = answer;
    DnsExchange { detail, resolver, server, transport, name, query, span: clock.span(since), outcome, others }
}

/// Sends the question until an answer to it comes; never gives up by itself. A truncated answer is left in `torn` while
/// the whole one is fetched.
async fn exchange(
    question: &Question,
    since: Instant,
    clock: StepClock,
    strays: &mut Vec<DnsOtherAnswer>,
    torn: &mut Option<Message>,
) -> Result<Answered, String> {
    let socket = ask_socket(question.server).await.map_err(|error| format!("cannot be sent: {error}"))?;
    let (query, received) =
        match exchange_datagrams(&socket, question, Extension::Edns, since, clock, strays).await? {
            (_, Ok(answer)) if is_edns_refused(&answer) => {
                exchange_datagrams(&socket, question, Extension::None, since, clock, strays).await?
            }
            answered => answered,
        };
    let answer = match received {
        Err(unreadable) => Answer::failed(format!("the answer cannot be read: {unreadable}")),
        // A truncated answer is still an answer, where TCP is closed.
        Ok(answer) if answer.metadata.truncation => {
            *torn = Some(answer.clone());
            let whole = ask_by_tcp(question.server, &query).await;
            Answer::read(&whole.unwrap_or(answer))
        }
        Ok(answer) => Answer::read(&answer),
    };
    Ok(Answered { socket, query, answer })
}

/// Asks once, sending again where nothing comes: the question, and the answer or why it cannot be read.
async fn exchange_datagrams(
    socket: &UdpSocket,
    question: &Question,
    extension: Extension,
    since: Instant,
    clock: StepClock,
    strays: &mut Vec<DnsOtherAnswer>,
) -> Result<(Message, Result<Message, String>), String> {
    let (query, bytes) = query(&question.name, question.query, extension)?;
    socket.send(&bytes).await.map_err(|error| format!("cannot be sent: {error}"))?;
    let received = tokio::select! {
        received = receive(socket, &query, clock, strays) => received.map_err(|error| error.to_string())?,
        never = resend(socket, &bytes, since) => match never {},
    };
    Ok((query, received))
}

/// What servers say that never heard of EDNS (RFC 6891, 7).
fn is_edns_refused(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    answer.edns.is_none() && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}

async fn exchange_by_tcp(question: &Question) -> Result<Message, String> {
    let (query, _) = query(&question.name, question.query, Extension::Edns)?;
    ask_by_tcp(question.server, &query).await.map_err(|error| error.to_string())
}

async fn ask_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn resend(socket: &UdpSocket, bytes: &[u8], since: Instant) -> std::convert::Infallible {
    for after in RESEND_AFTER {
        tokio::time::sleep_until(since + after).await;
        // A failure to send again shows as silence; the first sending succeeded.
        let _ = socket.send(bytes).await;
    }
    std::future::pending().await
}

/// The answer, or why it cannot be read: garbage under our id ends the wait. Strays before it are kept.
async fn receive(
    socket: &UdpSocket,
    query: &Message,
    clock: StepClock,
    strays: &mut Vec<DnsOtherAnswer>,
) -> io::Result<Result<Message, String>> {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        match heard(&buffer[..len], query) {
            Heard::Answer(answer) => return Ok(Ok(answer)),
            Heard::Unreadable(why) => return Ok(Err(why)),
            Heard::Stray(stray) if strays.len() < DNS_OTHERS_MAX => {
                strays.push(other_answer(&stray, query, clock));
            }
            Heard::Stray(_) | Heard::Noise => {}
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &Message) -> io::Result<Message> {
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&prefixed(&bytes)?).await?;
    let answer = read_prefixed(&mut stream).await?;
    let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
    if answers(&answer, query) { Ok(answer) } else { Err(io::Error::other("an answer to another question")) }
}

/// A message as streams carry it (RFC 1035, 4.2.2).
pub(super) fn prefixed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&len.to_be_bytes(), bytes].concat())
}

/// The next message of a stream.
pub(super) async fn read_prefixed(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    Ok(buffer)
}
