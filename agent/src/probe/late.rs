//! Listens on after the answer that a stub resolver would take: the true answer may come second, after an injected one,
//! and an injected one after the true. Runs beside the other steps, so that no visit waits for it. Weighs nothing.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zerkalo_core::record::{DNS_OTHERS_MAX, DnsExchange, DnsOtherAnswer, DnsTransport};

use super::clock::StepClock;
use super::dns::{DATAGRAM_LEN_MAX, Question};
use super::dns_answer::other_answer;

/// Datagrams read after the answer taken, whatever they hold: noise must not keep us busy.
const DATAGRAMS_MAX: usize = 64;

/// Whether to wait for what may yet come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Take what has come by now.
    None,
    /// Until the cap, counted from the answer taken.
    ToTheEnd,
}

/// An ear on the socket of one question. It stops listening when dropped.
#[derive(Debug)]
pub struct Listener {
    question: Question,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<DnsOtherAnswer>>,
}

/// What a datagram is to a question.
#[derive(Debug)]
pub enum Heard {
    /// An answer to it.
    Answer(Message),
    /// A response with another id, or to another question.
    Stray(Message),
    /// Garbage under the question's id.
    Unreadable(String),
    /// Not for us.
    Noise,
}

/// What `datagram` is to `query`.
pub fn heard(datagram: &[u8], query: &Message) -> Heard {
    match Message::from_vec(datagram) {
        Ok(message) if message.metadata.message_type != MessageType::Response => Heard::Noise,
        Ok(message) if answers(&message, query) => Heard::Answer(message),
        Ok(message) => Heard::Stray(message),
        Err(error) if datagram.starts_with(&query.metadata.id.to_be_bytes()) => {
            Heard::Unreadable(error.to_string())
        }
        Err(_) => Heard::Noise,
    }
}

/// Whether a response answers `query`.
pub fn answers(message: &Message, query: &Message) -> bool {
    let same_question = message.queries.is_empty() || message.queries == query.queries;
    message.metadata.id == query.metadata.id
        && message.metadata.message_type == MessageType::Response
        && same_question
}

impl Listener {
    /// Listens from now on, for `cap` at most, whatever the arm's deadline.
    pub fn start(
        question: Question,
        socket: UdpSocket,
        query: Message,
        cap: Duration,
        clock: StepClock,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let until = Instant::now() + cap;
        let task = tokio::spawn(async move {
            let mut others = Vec::new();
            tokio::select! {
                // What has come is taken before the wish to stop.
                biased;
                () = listen(&socket, &query, clock, &mut others) => {}
                _ = stopped => {}
                () = tokio::time::sleep_until(until) => {}
            }
            others
        });
        Self { question, stop, task }
    }

    /// Whether `exchange` is the one listened for.
    pub fn is_of(&self, exchange: &DnsExchange) -> bool {
        exchange.transport == DnsTransport::Udp
            && exchange.resolver == self.question.resolver
            && exchange.server == self.question.server
            && exchange.name == self.question.name
            && exchange.query == self.question.query
    }

    /// What came after the answer taken.
    pub async fn hear(self, patience: Patience) -> Vec<DnsOtherAnswer> {
        let Self { stop, task, .. } = self;
        let _stop = match patience {
            Patience::None => {
                drop(stop);
                None
            }
            Patience::ToTheEnd => Some(stop),
        };
        task.await.unwrap_or_default()
    }
}

/// Until the socket fails or a limit is reached.
async fn listen(socket: &UdpSocket, query: &Message, clock: StepClock, others: &mut Vec<DnsOtherAnswer>) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    for _ in 0..DATAGRAMS_MAX {
        let Ok(len) = socket.recv(&mut buffer).await else { return };
        if let Heard::Answer(message) | Heard::Stray(message) = heard(&buffer[..len], query) {
            others.push(other_answer(&message, query, clock));
        }
        if others.len() >= DNS_OTHERS_MAX {
            return;
        }
    }
}
