//! An agent inside this process: enrols with a real token, signs real chains and streams them over mTLS.
//!
//! It measures nothing: bodies are the caller's. The load generator and the kill journey drive it.

use std::sync::Arc;
use std::time::Duration;

use crate::bound;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedRecord};
use zerkalo_core::identity::{Asked, Purpose, TokenMacKey, token_key};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;
use zerkalo_proto::agent_v1::enrollment_service_client::EnrollmentServiceClient;
use zerkalo_proto::agent_v1::stream_request;
use zerkalo_proto::agent_v1::stream_response;
use zerkalo_proto::agent_v1::uplink_service_client::UplinkServiceClient;
use zerkalo_proto::agent_v1::{EnrollRequest, Hello, RecordBatch, StreamRequest, StreamResponse};

/// How long connecting may take on a busy machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an agent waits for the welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Batches waiting for the socket.
const BATCHES_WAITING_MAX: usize = 4;

/// What stands in a token file.
#[derive(Deserialize)]
pub struct Token {
    pub ca_pem: String,
    pub secret: String,
    pub urls: Vec<String>,
}

/// Reads a token's text, `zk1.` and base64url of JSON.
pub fn read_token(text: &str) -> Option<Token> {
    let body = text.trim().strip_prefix("zk1.")?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// An enrolled agent's identity and the end of its chain.
pub struct Signer {
    agent: AgentId,
    record_key: SecretKey,
    url: String,
    tls: Arc<ClientConfig>,
    head: ChainLink,
}

/// An open uplink: the way up, the way down, and where the collector says the chain ends.
pub struct Uplink {
    pub records: Records,
    pub replies: Replies,
    pub head: ChainLink,
}

/// The way up; closing it ends the stream.
pub struct Records(mpsc::Sender<StreamRequest>);

/// The way down.
pub struct Replies(Streaming<StreamResponse>);

/// What the collector said about records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Everything of `epoch` up to `sequence` is synced.
    Ack { epoch: u64, sequence: u64 },
    /// One record was refused.
    Rejected { sequence: u64, code: String, detail: String },
}

impl Signer {
    /// Enrols with a token; `seed` makes the record key.
    pub async fn enrol(token: &str, seed: u64) -> Result<Self> {
        let token = read_token(token).context("this is no token")?;
        let url = token.urls.first().context("the token names no collector")?;
        let record_key = SecretKey::from_bytes(&Sha256::of(&seed.to_be_bytes()).0);
        let tls_key = KeyPair::generate()?;
        let request_pem = CertificateParams::default().serialize_request(&tls_key)?.pem()?;
        let (channel, binding) =
            bound::connect(url, bound::tls(&token.ca_pem, None)?, CONNECT_TIMEOUT).await?;
        let asked = Asked {
            purpose: Purpose::Enrol,
            binding: &binding,
            agent: "",
            generation: 0,
            request_pem: &request_pem,
            record_key: &record_key.public(),
            carrier: "",
            access: "",
        };
        let mac_key = TokenMacKey::of(&token.secret);
        let enrolled = EnrollmentServiceClient::new(channel)
            .enroll(EnrollRequest {
                token_id: mac_key.token_id().0.to_vec(),
                token_mac: asked.mac(&mac_key).to_vec(),
                token_signature: asked.sign(&token_key(&token.secret)).to_vec(),
                record_signature: asked.sign(&record_key).to_vec(),
                certificate_request_pem: request_pem.clone(),
                record_key: record_key.public().to_bytes().to_vec(),
                ..Default::default()
            })
            .await?
            .into_inner();
        let own = (enrolled.certificate_pem.as_str(), tls_key.serialize_pem());
        let tls = bound::tls(&token.ca_pem, Some((own.0, &own.1)))?;
        let (agent, url) = (AgentId::parse(&enrolled.agent)?, url.clone());
        Ok(Self { agent, record_key, url, tls, head: ChainLink::start(1) })
    }

    /// Its name at the collector.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// Signs the next statement of the chain.
    pub fn sign(&mut self, body: Vec<u8>) -> SignedRecord {
        let record = SignedRecord::sign(&self.agent, self.head, body, &self.record_key);
        self.head = record.link();
        record
    }

    /// Opens the uplink.
    pub async fn connect(&self) -> Result<Uplink> {
        self.connect_within(CONNECT_TIMEOUT).await
    }

    /// The same, with as long for the connection; the welcome may take as long as an agent waits.
    pub async fn connect_within(&self, patience: Duration) -> Result<Uplink> {
        let (channel, _) = bound::connect(&self.url, self.tls.clone(), patience).await?;
        let welcomed = tokio::time::timeout(WELCOME_TIMEOUT, self.greet(channel)).await;
        welcomed.context("no welcome in time")?
    }

    async fn greet(&self, channel: Channel) -> Result<Uplink> {
        let (requests, outgoing) = mpsc::channel(BATCHES_WAITING_MAX);
        let hello = Hello { agent_version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
        requests.send(StreamRequest { message: Some(stream_request::Message::Hello(hello)) }).await?;
        let outgoing = Request::new(ReceiverStream::new(outgoing));
        let mut responses = UplinkServiceClient::new(channel).stream(outgoing).await?.into_inner();
        let first = responses.message().await?.and_then(|response| response.message);
        let Some(stream_response::Message::Welcome(welcome)) = first else {
            bail!("the collector did not begin with a welcome");
        };
        let hash = Sha256(welcome.hash.as_slice().try_into().unwrap_or_default());
        let head = ChainLink { epoch: welcome.epoch, sequence: welcome.sequence, hash };
        Ok(Uplink { records: Records(requests), replies: Replies(responses), head })
    }
}

impl Records {
    /// Sends records; waits while the socket is busy.
    pub async fn send(&self, records: &[SignedRecord]) -> Result<()> {
        let records = records.iter().map(zerkalo_proto::evidence::record_to_wire).collect();
        let message = stream_request::Message::Records(RecordBatch { records });
        self.0.send(StreamRequest { message: Some(message) }).await.context("the line is closed")
    }
}

impl Replies {
    /// The next word about records; fails when the line ends.
    pub async fn next(&mut self) -> Result<Reply> {
        loop {
            let response = self.0.message().await?.context("the collector closed the line")?;
            match response.message {
                Some(stream_response::Message::Ack(ack)) => {
                    return Ok(Reply::Ack { epoch: ack.epoch, sequence: ack.sequence });
                }
                Some(stream_response::Message::Rejection(refusal)) => {
                    return Ok(Reply::Rejected {
                        sequence: refusal.sequence,
                        code: refusal.code,
                        detail: refusal.detail,
                    });
                }
                _ => {}
            }
        }
    }
}
