//! One question to one server and its signed answer: by UDP, and by TCP where that brings none.
//!
//! What bears no signature of the key's is no answer; it only helps to say why there was none.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{DnsResponse, Message, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{TSigVerifier, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{Outlook, outlook_of};
use crate::clock;

/// How long an answer by UDP is waited for.
const UDP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long connecting, asking and answering by TCP may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers by UDP looked at before that road is given up: more is a flood.
const UDP_ANSWERS_MAX: u32 = 64;
/// Largest datagram.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// The way to one server.
pub struct Line {
    server: SocketAddr,
    signer: TSigner,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("the message cannot be signed")]
    Sign(#[source] hickory_proto::ProtoError),
    #[error("{server} gave no answer within {} s by UDP and {} s by TCP", UDP_TIMEOUT.as_secs(), TCP_TIMEOUT.as_secs())]
    Timeout { server: SocketAddr },
    #[error("{server} cannot be reached by TCP")]
    Unreachable {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{server} refused the key: {why}")]
    Key { server: SocketAddr, why: &'static str, outlook: Outlook },
    #[error("{server} answered {code} without a signature, which proves nothing")]
    Unsigned { server: SocketAddr, code: ResponseCode },
    #[error("{server} answered what is no DNS message")]
    Nonsense { server: SocketAddr },
}

impl ExchangeError {
    /// What another question may bring. An unsigned no proves nothing, yet who sends it sends it again.
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::Sign(_) => Outlook::Hopeless,
            Self::Key { outlook, .. } => *outlook,
            Self::Unsigned { code, .. } => outlook_of(*code),
            Self::Timeout { .. } | Self::Unreachable { .. } | Self::Nonsense { .. } => Outlook::Passing,
        }
    }
}

/// What an answer without a valid signature is good for: saying why.
enum Hint {
    Silence,
    Unreachable(io::Error),
    Answer(Vec<u8>),
}

impl Line {
    /// Nothing is sent yet.
    pub fn new(server: SocketAddr, signer: TSigner) -> Self {
        Self { server, signer }
    }

    /// Asks, and checks the answer's signature.
    pub async fn exchange(&self, message: Message) -> Result<DnsResponse, ExchangeError> {
        let (bytes, mut verifier) = self.sign(message.clone())?;
        let by_udp = tokio::time::timeout(UDP_TIMEOUT, self.by_udp(&bytes, &mut verifier)).await;
        let hint = match by_udp {
            Ok(Ok(answer)) if !answer.truncation => return Ok(answer),
            Ok(Err(Hint::Answer(bytes))) => Some(bytes),
            _ => None,
        };
        // Signed anew: a verifier follows one conversation.
        let (bytes, mut verifier) = self.sign(message)?;
        let by_tcp = tokio::time::timeout(TCP_TIMEOUT, self.by_tcp(&bytes, &mut verifier)).await;
        match (by_tcp.unwrap_or(Err(Hint::Silence)), hint) {
            (Ok(answer), _) => Ok(answer),
            (Err(Hint::Answer(bytes)), _) | (Err(_), Some(bytes)) => Err(self.explain(&bytes)),
            (Err(Hint::Silence), None) => Err(ExchangeError::Timeout { server: self.server }),
            (Err(Hint::Unreachable(source)), None) => {
                Err(ExchangeError::Unreachable { server: self.server, source })
            }
        }
    }

    fn sign(&self, mut message: Message) -> Result<(Vec<u8>, TSigVerifier), ExchangeError> {
        let verifier = message.finalize(&self.signer, clock::now().0 / 1000).map_err(ExchangeError::Sign)?;
        let verifier = verifier.expect("signing gives what verifies the answer");
        Ok((message.to_vec().map_err(ExchangeError::Sign)?, verifier))
    }

    /// Listens until a signed answer comes: others may send anything to the port.
    async fn by_udp(&self, bytes: &[u8], verifier: &mut TSigVerifier) -> Result<DnsResponse, Hint> {
        let any: SocketAddr = match self.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await.map_err(Hint::Unreachable)?;
        socket.connect(self.server).await.map_err(Hint::Unreachable)?;
        socket.send(bytes).await.map_err(Hint::Unreachable)?;
        let mut datagram = vec![0; DATAGRAM_LEN_MAX];
        let mut last = Vec::new();
        for _ in 0..UDP_ANSWERS_MAX {
            let len = socket.recv(&mut datagram).await.map_err(Hint::Unreachable)?;
            match verified(&datagram[..len], verifier) {
                Some(answer) => return Ok(answer),
                None => last = datagram[..len].to_vec(),
            }
            // The server's own refusal of the key cannot bear its signature.
            if key_refusal(&last).is_some() {
                break;
            }
        }
        Err(Hint::Answer(last))
    }

    async fn by_tcp(&self, bytes: &[u8], verifier: &mut TSigVerifier) -> Result<DnsResponse, Hint> {
        let mut stream = TcpStream::connect(self.server).await.map_err(Hint::Unreachable)?;
        let len = u16::try_from(bytes.len()).expect("an update of a few records fits into a message");
        stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await.map_err(Hint::Unreachable)?;
        let len = stream.read_u16().await.map_err(Hint::Unreachable)?;
        let mut answer = vec![0; len.into()];
        stream.read_exact(&mut answer).await.map_err(Hint::Unreachable)?;
        verified(&answer, verifier).ok_or(Hint::Answer(answer))
    }

    /// Why an answer without a valid signature is what it is.
    fn explain(&self, bytes: &[u8]) -> ExchangeError {
        let server = self.server;
        if let Some((why, outlook)) = key_refusal(bytes) {
            return ExchangeError::Key { server, why, outlook };
        }
        match Message::from_vec(bytes) {
            Ok(message) => ExchangeError::Unsigned { server, code: message.response_code },
            Err(_) => ExchangeError::Nonsense { server },
        }
    }
}

/// An answer under the key's signature.
fn verified(bytes: &[u8], verifier: &mut TSigVerifier) -> Option<DnsResponse> {
    verifier.verify(bytes).ok()
}

/// Why the server refused the key, and what another question may bring.
fn key_refusal(bytes: &[u8]) -> Option<(&'static str, Outlook)> {
    let message = Message::from_vec(bytes).ok()?;
    match message.signature()?.data.error? {
        TsigError::BadKey => Some(("it knows no key of this name (BADKEY)", Outlook::Refused)),
        TsigError::BadSig => Some(("it has another secret under this name (BADSIG)", Outlook::Refused)),
        // Clocks are set without anybody touching the key.
        TsigError::BadTime => {
            Some(("the clocks are more than five minutes apart (BADTIME)", Outlook::Passing))
        }
        TsigError::BadTrunc | TsigError::Unknown(_) => {
            Some(("for a reason it did not explain", Outlook::Refused))
        }
    }
}
