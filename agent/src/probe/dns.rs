//! DNS steps: one question to one resolver at a time, with the whole answer as a fact. No cache, no search list, no
//! hosts file: a visitor's resolver is what is measured. Reading the system's resolver list is `resolvers.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{DnsExchange, DnsOutcome, QueryType, ResolverKind};

use super::clock::StepClock;

/// When an unanswered question is sent again, after its beginning: one lost datagram is no silence.
const RESEND_AFTER: [Duration; 2] = [Duration::from_millis(1_000), Duration::from_millis(2_500)];
/// Largest datagram read: more than any resolver sends without EDNS.
const DATAGRAM_LEN_MAX: usize = 4_096;
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

/// Asks both address questions of `name`.
pub fn questions(resolver: ResolverKind, server: SocketAddr, name: &str) -> [Question; 2] {
    [QueryType::A, QueryType::Aaaa].map(|query| Question { resolver, server, name: name.to_owned(), query })
}

/// Asks all questions at once; answers stand in the order of the questions.
pub async fn ask_all(questions: Vec<Question>, cap: Duration, clock: StepClock) -> Vec<DnsExchange> {
    futures::future::join_all(questions.into_iter().map(|question| ask(question, cap, clock))).await
}

async fn ask(question: Question, cap: Duration, clock: StepClock) -> DnsExchange {
    let (since, until) = (Instant::now(), clock.until(cap));
    let outcome = match timeout_at(until, exchange(&question, since)).await {
        Ok(Ok(answer)) => read_answer(&answer),
        Ok(Err(failure)) => DnsOutcome::Failed(failure),
        Err(_) => DnsOutcome::Timeout,
    };
    let Question { resolver, server, name, query } = question;
    DnsExchange { resolver, server, name, query, span: clock.span(since), outcome }
}

/// Sends the question until an answer to it comes; never gives up by itself.
async fn exchange(question: &Question, since: Instant) -> Result<Message, String> {
    let query = query_of(question)?;
    let bytes = query.to_vec().map_err(|error| format!("the question cannot be encoded: {error}"))?;
    let socket = ask_socket(question.server).await.map_err(|error| format!("cannot be sent: {error}"))?;
    socket.send(&bytes).await.map_err(|error| format!("cannot be sent: {error}"))?;
    let answer = tokio::select! {
        answer = receive(&socket, &query) => answer?,
        never = resend(&socket, &bytes, since) => match never {},
    };
    if answer.metadata.truncation {
        // A truncated answer is still an answer, where TCP is closed.
        return Ok(ask_by_tcp(question.server, &query, &bytes).await.unwrap_or(answer));
    }
    Ok(answer)
}

fn query_of(question: &Question) -> Result<Message, String> {
    let mut name = Name::from_ascii(&question.name).map_err(|error| format!("no DNS name: {error}"))?;
    name.set_fqdn(true);
    let record_type = match question.query {
        QueryType::A => RecordType::A,
        QueryType::Aaaa => RecordType::AAAA,
    };
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    Ok(message)
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

async fn receive(socket: &UdpSocket, query: &Message) -> Result<Message, String> {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(|error| error.to_string())?;
        match Message::from_vec(&buffer[..len]) {
            Ok(answer) if answers(&answer, query) => return Ok(answer),
            Ok(_) => {}
            // Garbage under our id ends the wait; other garbage is not for us.
            Err(error) if buffer[..len].starts_with(&query.metadata.id.to_be_bytes()) => {
                return Err(format!("the answer cannot be read: {error}"));
            }
            Err(_) => {}
        }
    }
}

fn answers(answer: &Message, query: &Message) -> bool {
    let same_question = answer.queries.is_empty() || answer.queries == query.queries;
    answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && same_question
}

async fn ask_by_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let len = u16::try_from(bytes.len()).ok()?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await.ok()?;
    let len = stream.read_u16().await.ok()?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await.ok()?;
    Message::from_vec(&buffer).ok().filter(|answer| answers(answer, query))
}

fn read_answer(message: &Message) -> DnsOutcome {
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
    DnsOutcome::Answer { rcode: u16::from(message.metadata.response_code), addresses, cnames, ttl_min_secs }
}
