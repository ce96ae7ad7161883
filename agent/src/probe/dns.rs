//! DNS steps: one question to one resolver at a time, with the whole answer as a fact. No cache, no search list, no
//! hosts file: a visitor's resolver is what is measured. Reading the system's resolver list is `resolvers.rs`, listening
//! on for further answers `late.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{
    DNS_OTHERS_MAX, DNS_RESEND_AFTER_MICROS, DnsDetail, DnsExchange, DnsOtherAnswer, DnsOutcome,
    DnsTransport, QueryType, ResolverKind,
};

use super::StepCaps;
use super::clock::StepClock;
use super::late::{Heard, Listener, answers, heard};

/// When an unanswered question is sent again, after its beginning: one lost datagram is no silence.
const RESEND_AFTER: [Duration; 2] =
    [Duration::from_micros(DNS_RESEND_AFTER_MICROS), Duration::from_millis(2_500)];
/// Largest datagram read: more than any resolver sends without EDNS.
pub(super) const DATAGRAM_LEN_MAX: usize = 4_096;
/// Addresses kept of one answer: hostile answers carry thousands.
const ADDRESSES_MAX: usize = 32;
/// Aliases kept of one answer.
const CNAMES_MAX: usize = 16;

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

/// Asks all questions at once, by UDP; answers stand in the order of the questions.
pub async fn ask_all(questions: Vec<Question>, caps: StepCaps, clock: StepClock) -> Vec<Asked> {
    futures::future::join_all(questions.into_iter().map(|question| ask(question, caps, clock))).await
}

/// Asks all questions at once, by TCP: who answers UDP in another's name seldom answers this.
pub async fn ask_all_by_tcp(questions: Vec<Question>, cap: Duration, clock: StepClock) -> Vec<DnsExchange> {
    let asked = questions.into_iter().map(|question| async move {
        let (since, until) = (Instant::now(), clock.until(cap));
        let outcome = match timeout_at(until, exchange_by_tcp(&question)).await {
            Ok(Ok(answer)) => read_answer(&answer),
            Ok(Err(failure)) => DnsOutcome::Failed(failure),
            Err(_) => DnsOutcome::Timeout,
        };
        exchange_of(question, DnsTransport::Tcp, since, outcome, Vec::new(), clock)
    });
    futures::future::join_all(asked).await
}

/// What became of a datagram's question.
struct Answered {
    socket: UdpSocket,
    query: Message,
    outcome: DnsOutcome,
}

async fn ask(question: Question, caps: StepCaps, clock: StepClock) -> Asked {
    let (since, until) = (Instant::now(), clock.until(caps.dns));
    let mut strays = Vec::new();
    let answered = timeout_at(until, exchange(&question, since, clock, &mut strays)).await;
    let (outcome, listener) = match answered {
        Ok(Ok(Answered { socket, query, outcome })) => {
            (outcome, Some(Listener::start(question.clone(), socket, query, caps.late, clock)))
        }
        Ok(Err(failure)) => (DnsOutcome::Failed(failure), None),
        Err(_) => (DnsOutcome::Timeout, None),
    };
    let exchange = exchange_of(question, DnsTransport::Udp, since, outcome, strays, clock);
    Asked { exchange, listener }
}

fn exchange_of(
    question: Question,
    transport: DnsTransport,
    since: Instant,
    outcome: DnsOutcome,
    others: Vec<DnsOtherAnswer>,
    clock: StepClock,
) -> DnsExchange {
    let Question { resolver, server, name, query } = question;
    DnsExchange {
        detail: DnsDetail::default(),
        resolver,
        server,
        transport,
        name,
        query,
        span: clock.span(since),
        outcome,
        others,
    }
}

/// Sends the question until an answer to it comes; never gives up by itself.
async fn exchange(
    question: &Question,
    since: Instant,
    clock: StepClock,
    strays: &mut Vec<DnsOtherAnswer>,
) -> Result<Answered, String> {
    let (query, bytes) = query_of(question)?;
    let socket = ask_socket(question.server).await.map_err(|error| format!("cannot be sent: {error}"))?;
    socket.send(&bytes).await.map_err(|error| format!("cannot be sent: {error}"))?;
    let received = tokio::select! {
        received = receive(&socket, &query, clock, strays) => received.map_err(|error| error.to_string())?,
        never = resend(&socket, &bytes, since) => match never {},
    };
    let outcome = match received {
        Err(unreadable) => DnsOutcome::Failed(format!("the answer cannot be read: {unreadable}")),
        // A truncated answer is still an answer, where TCP is closed.
        Ok(answer) if answer.metadata.truncation => {
            let whole = ask_by_tcp(question.server, &query, &bytes).await;
            read_answer(&whole.unwrap_or(answer))
        }
        Ok(answer) => read_answer(&answer),
    };
    Ok(Answered { socket, query, outcome })
}

async fn exchange_by_tcp(question: &Question) -> Result<Message, String> {
    let (query, bytes) = query_of(question)?;
    ask_by_tcp(question.server, &query, &bytes).await.map_err(|error| error.to_string())
}

/// The question as a message, and as the bytes of it.
fn query_of(question: &Question) -> Result<(Message, Vec<u8>), String> {
    let mut name = Name::from_ascii(&question.name).map_err(|error| format!("no DNS name: {error}"))?;
    name.set_fqdn(true);
    let record_type = match question.query {
        QueryType::A => RecordType::A,
        QueryType::Aaaa => RecordType::AAAA,
        QueryType::Https => RecordType::HTTPS,
    };
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    let bytes = message.to_vec().map_err(|error| format!("the question cannot be encoded: {error}"))?;
    Ok((message, bytes))
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

async fn ask_by_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if answers(&answer, query) { Ok(answer) } else { Err(io::Error::other("an answer to another question")) }
}

/// An answer beside the one taken, that came just now.
pub(super) fn other_answer(message: &Message, query: &Message, clock: StepClock) -> DnsOtherAnswer {
    let (rcode, addresses, _, ttl_min_secs) = content(message);
    let arrived_micros = clock.elapsed_micros();
    let matches_question = answers(message, query);
    DnsOtherAnswer { arrived_micros, matches_question, rcode, addresses, ttl_min_secs }
}

fn read_answer(message: &Message) -> DnsOutcome {
    let (rcode, addresses, cnames, ttl_min_secs) = content(message);
    DnsOutcome::Answer { rcode, addresses, cnames, ttl_min_secs }
}

/// Response code, addresses, aliases and lowest TTL.
fn content(message: &Message) -> (u16, Vec<IpAddr>, Vec<String>, u32) {
    let (mut addresses, mut cnames, mut ttl_min_secs) = (Vec::new(), Vec::new(), u32::MAX);
    for record in &message.answers {
        match &record.data {
            RData::A(a) => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => addresses.push(IpAddr::V6(aaaa.0)),
            RData::CNAME(cname) => cnames.push(cname.0.to_ascii().trim_end_matches('.').to_owned()),
            _ => continue,
        }
        ttl_min_secs = ttl_min_secs.min(record.ttl);
    }
    if addresses.is_empty() && cnames.is_empty() {
        ttl_min_secs = 0;
    }
    addresses.truncate(ADDRESSES_MAX);
    cnames.truncate(CNAMES_MAX);
    (u16::from(message.metadata.response_code), addresses, cnames, ttl_min_secs)
}
