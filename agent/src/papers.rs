//! This box's certificate over its life: renewed at half of it, and had anew by the record key where its time is over. And
//! what the collector says of this box's say: a box that is locked waits and measures nothing, one that is revoked stops.
//!
//! When to renew is told by the collector's clock: this box's own may be wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use x509_parser::pem::parse_x509_pem;
use zerkalo_core::evidence::SecretKey;
use zerkalo_core::identity::{Asked, Binding, Purpose};
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_proto::agent_v1::enrollment_service_client::EnrollmentServiceClient;
use zerkalo_proto::agent_v1::{RejoinRequest, RenewRequest};
use zerkalo_proto::code::code_of;

use crate::bound::{AskError, Ways};
use crate::channel::{self, Trust, TrustError};
use crate::state::{StateDir, StateError};
use crate::uplink::chain;

/// The next TLS key, until it has its certificate: asked for again, the same key gets the same.
const NEXT_KEY: &str = "tls.key.next";
/// Why this box has no say, as the collector told it last.
const STANDING: &str = "standing.json";
/// After a certificate could not be renewed, none is asked for within this time: the one in force serves on.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// The same where this box has none in force, and says nothing until it has.
const REJOIN_AGAIN: Duration = Duration::from_secs(60);
/// Looked at no later, however far off the time is.
const WAIT_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Before the generation, in a certificate's organisational unit.
const GENERATION_PREFIX: &str = "generation ";
/// Longest wait for an answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether this box may measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The collector has locked this box: it waits.
    Closed,
}

/// This box must stop for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the collector takes nothing from this box any more, which measures nothing: {code}: {detail}")]
pub struct Expelled {
    pub code: String,
    pub detail: String,
}

/// Why no certificate was had.
#[derive(Debug, thiserror::Error)]
pub enum PapersError {
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    #[error("no certificate request can be made")]
    Request(#[from] rcgen::Error),
    #[error("this box's certificates cannot be used")]
    Trust(#[from] TrustError),
    #[error("{code}: {detail}")]
    Refused { code: String, detail: String },
    #[error("the collector cannot be reached, or failed to answer")]
    Unreached(#[source] AskError),
}

/// What the end of a stream, or of a request, asks of this box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// Connect again as ever.
    Retry,
    /// There is a new certificate: connect at once.
    AtOnce,
    Stop(Expelled),
}

/// The keeper of the certificate.
#[derive(Debug)]
pub struct Papers {
    state: StateDir,
    agent: AgentId,
    record_key: SecretKey,
    gate: watch::Sender<Gate>,
    rest: Mutex<Rest>,
}

/// Before when nothing is asked for, after it could not be had.
#[derive(Debug, Default, Clone, Copy)]
struct Rest {
    renewal: Option<Instant>,
    rejoin: Option<Instant>,
}

/// The collector's last word on this box's say, over a restart.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    code: String,
    detail: String,
}

impl Papers {
    /// Takes care of the certificate in `state`. Fails where this box was revoked.
    pub fn open(
        state: StateDir,
        agent: AgentId,
        record_key: SecretKey,
    ) -> Result<(Self, watch::Receiver<Gate>), Expelled> {
        let told = state.read(STANDING).ok().and_then(|text| serde_json::from_str::<Told>(&text).ok());
        let gate = match told {
            Some(Told { code, detail }) if code == "agent_revoked" => return Err(Expelled { code, detail }),
            Some(Told { code, detail }) => {
                tracing::warn!(code, detail, "nothing is measured until the collector lets this box in");
                Gate::Closed
            }
            None => Gate::Open,
        };
        let (gate, seen) = watch::channel(gate);
        Ok((Self { state, agent, record_key, gate, rest: Mutex::default() }, seen))
    }

    /// Notes that the collector let this box in.
    pub fn let_in(&self) {
        if *self.gate.borrow() == Gate::Closed {
            tracing::info!("the collector lets this box in again: measuring goes on");
        }
        if self.state.path(STANDING).exists()
            && let Err(error) = self.state.remove(STANDING)
        {
            tracing::warn!(error = chain(&error), "the collector's last word cannot be forgotten");
        }
        self.gate.send_replace(Gate::Open);
    }

    /// Waits until the certificate is to be renewed, where the collector's clock said `server_now` a moment ago.
    pub async fn due(&self, server_now: UnixMillis) {
        let life = self.state.credentials().ok().and_then(|own| Life::of(&own.certificate_pem));
        let half = life.map_or(WAIT_MAX, |life| Duration::from_millis(life.half().since_millis(server_now)));
        let rest =
            self.rest().renewal.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        tokio::time::sleep(half.max(rest).min(WAIT_MAX)).await;
    }

    /// Gets the next certificate by the one in force.
    pub async fn renew(&self, ways: &Ways) -> Consequence {
        let renewed = self.next(ways, Purpose::Renew).await;
        if renewed.is_err() {
            self.rest().renewal = Some(Instant::now() + RENEW_AGAIN);
        }
        self.follow(renewed)
    }

    /// Obeys what a stream ended with.
    pub async fn heed(&self, ways: &Ways, code: &str, detail: &str) -> Consequence {
        let is_resting = self.rest().rejoin.is_some_and(|until| Instant::now() < until);
        if code == "certificate_expired" && !is_resting {
            let rejoined = self.next(ways, Purpose::Rejoin).await;
            if rejoined.is_err() {
                self.rest().rejoin = Some(Instant::now() + REJOIN_AGAIN);
            }
            return self.follow(rejoined);
        }
        self.obey(code, detail)
    }

    fn follow(&self, had: Result<u64, PapersError>) -> Consequence {
        match had {
            Ok(generation) => {
                tracing::info!(generation, "this box has its next certificate");
                Consequence::AtOnce
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "no new certificate; tried again later");
                match error {
                    PapersError::Refused { code, detail } => self.obey(&code, &detail),
                    _ => Consequence::Retry,
                }
            }
        }
    }

    fn obey(&self, code: &str, detail: &str) -> Consequence {
        if !matches!(code, "agent_revoked" | "agent_locked") {
            return Consequence::Retry;
        }
        let told = Told { code: code.to_owned(), detail: detail.to_owned() };
        let json = serde_json::to_vec(&told).expect("two texts are always JSON");
        if let Err(error) = self.state.write(STANDING, &json) {
            tracing::warn!(error = chain(&error), "the collector's word is not kept over a restart");
        }
        let Told { code, detail } = told;
        if code == "agent_revoked" {
            return Consequence::Stop(Expelled { code, detail });
        }
        if self.gate.send_replace(Gate::Closed) == Gate::Open {
            tracing::error!(code, detail, "nothing is measured until the collector lets this box in again");
        }
        Consequence::Retry
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the next certificate, by whatever way works; on the disk when this returns its generation.
    async fn next(&self, ways: &Ways, purpose: Purpose) -> Result<u64, PapersError> {
        let own = self.state.credentials()?;
        let generation = Life::of(&own.certificate_pem).map_or(0, |life| life.generation);
        let key = self.next_key()?;
        let request_pem = request(&key)?;
        let trust = match purpose {
            Purpose::Renew => channel::trust(&own, ways.addresses())?,
            _ => Trust::anonymous(&own.ca_pem, &ways.names())?,
        };
        let call = |channel, binding: Binding| {
            let (agent, certificate_request_pem) = (self.agent.to_string(), request_pem.clone());
            let record_signature = self.sign(purpose, &binding, generation, &request_pem);
            async move {
                let mut client = EnrollmentServiceClient::new(channel);
                if purpose == Purpose::Renew {
                    let request =
                        RenewRequest { agent, generation, certificate_request_pem, record_signature };
                    let answer = client.renew(request).await?.into_inner();
                    return Ok((answer.certificate_pem, answer.generation));
                }
                let request = RejoinRequest { agent, generation, certificate_request_pem, record_signature };
                let answer = client.rejoin(request).await?.into_inner();
                Ok((answer.certificate_pem, answer.generation))
            }
        };
        let answer = ways.ask(&trust, ANSWER_TIMEOUT, call).await;
        let (certificate_pem, generation) = answer.map_err(|error| match &error {
            AskError::Status(status) => match code_of(status) {
                Some(code) => {
                    PapersError::Refused { code: code.to_owned(), detail: status.message().to_owned() }
                }
                None => PapersError::Unreached(error),
            },
            _ => PapersError::Unreached(error),
        })?;
        self.state.put_credentials(&certificate_pem, &key.serialize_pem())?;
        self.state.remove(NEXT_KEY)?;
        Ok(generation)
    }

    fn sign(&self, purpose: Purpose, binding: &Binding, generation: u64, request_pem: &str) -> Vec<u8> {
        let asked = Asked {
            purpose,
            binding,
            agent: self.agent.as_str(),
            generation,
            request_pem,
            record_key: &self.record_key.public(),
            carrier: "",
            access: "",
        };
        asked.sign(&self.record_key).to_vec()
    }

    /// The key for the next certificate: the one that was asked for last, if its certificate never came.
    fn next_key(&self) -> Result<KeyPair, PapersError> {
        let kept = self.state.read(NEXT_KEY).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        if let Some(key) = kept {
            return Ok(key);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        self.state.write(NEXT_KEY, key.serialize_pem().as_bytes())?;
        Ok(key)
    }
}

/// Forgets what was told of this box, and the key of a certificate that never came: it is another box now.
pub fn forget(state: &StateDir) -> Result<(), StateError> {
    state.remove(STANDING)?;
    state.remove(NEXT_KEY)
}

/// What the collector said of this box last, in words; `None` where it lets it in.
pub fn told(state: &StateDir) -> Option<String> {
    let told: Told = serde_json::from_str(&state.read(STANDING).ok()?).ok()?;
    Some(format!("{}: {}", told.code, told.detail))
}

/// A request for a certificate over `key`.
pub fn request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    // The collector replaces it: only it knows the name.
    params.distinguished_name.push(DnType::CommonName, "zerkalo-agent");
    params.serialize_request(key)?.pem()
}

/// What a certificate says of its own life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// 0 for those of collectors that knew no generations.
    pub generation: u64,
    pub from: UnixMillis,
    pub until: UnixMillis,
}

impl Life {
    /// Reads a certificate.
    pub fn of(certificate_pem: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let units = certificate.subject().iter_organizational_unit();
        let generation =
            units.filter_map(|unit| unit.as_str().ok()?.strip_prefix(GENERATION_PREFIX)?.parse().ok()).next();
        let millis = |secs: i64| u64::try_from(secs).ok().map(|secs| UnixMillis(secs.saturating_mul(1_000)));
        let validity = certificate.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Some(Self { generation: generation.unwrap_or_default(), from: millis(from)?, until: millis(until)? })
    }

    /// When to renew it.
    fn half(&self) -> UnixMillis {
        self.from.plus_millis(self.until.since_millis(self.from) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn papers(dir: &std::path::Path) -> Result<(Papers, watch::Receiver<Gate>), Expelled> {
        let state = StateDir::create(dir).unwrap();
        let agent = AgentId::parse("kz-kcell-00000001").unwrap();
        Papers::open(state, agent, SecretKey::from_bytes(&[7; 32]))
    }

    #[tokio::test]
    async fn a_locked_box_waits_and_a_revoked_one_stops_and_both_know_it_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Ways::of(Vec::new());
        let (first, gate) = papers(dir.path()).unwrap();
        assert_eq!(first.heed(&nowhere, "stopping", "").await, Consequence::Retry);
        assert_eq!(*gate.borrow(), Gate::Open);
        assert_eq!(first.heed(&nowhere, "agent_locked", "two boxes").await, Consequence::Retry);
        assert_eq!(*gate.borrow(), Gate::Closed);
        let (second, gate) = papers(dir.path()).unwrap();
        assert_eq!(*gate.borrow(), Gate::Closed);
        assert_eq!(told(&second.state).unwrap(), "agent_locked: two boxes");
        second.let_in();
        assert_eq!((*gate.borrow(), told(&second.state)), (Gate::Open, None));
        let expelled = Expelled { code: "agent_revoked".into(), detail: "sold".into() };
        let revoked = second.heed(&nowhere, "agent_revoked", "sold").await;
        assert_eq!(revoked, Consequence::Stop(expelled.clone()));
        assert_eq!(papers(dir.path()).unwrap_err(), expelled);
        forget(&second.state).unwrap();
        assert!(papers(dir.path()).is_ok());
    }

    #[test]
    fn a_certificate_is_renewed_at_half_its_life_and_the_key_asked_for_stays() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "generation 12");
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2026, 11, 1), rcgen::date_time_ymd(2026, 11, 9));
        let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let life = Life::of(&pem).unwrap();
        assert_eq!((life.generation, life.half().since_millis(life.from)), (12, 4 * 86_400_000));
        assert_eq!(Life::of("no certificate"), None);
        let dir = tempfile::tempdir().unwrap();
        let (papers, _) = papers(dir.path()).unwrap();
        let key = papers.next_key().unwrap().serialize_pem();
        assert_eq!(papers.next_key().unwrap().serialize_pem(), key);
    }
}
