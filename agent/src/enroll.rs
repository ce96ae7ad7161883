//! Enrolment: a one-time token becomes an identity. Keys are made here and never leave the box; the collector signs the
//! certificate and chooses the name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use tonic::Code;
use zerkalo_core::evidence::SecretKey;
use zerkalo_core::identity::{Asked, Binding, Purpose, TokenMacKey, token_key};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{Access, AgentId, CarrierId, MarketId, OwnerId, Station, WordError};
use zerkalo_proto::agent_v1::enrollment_service_client::EnrollmentServiceClient;
use zerkalo_proto::agent_v1::{EnrollRequest, EnrollResponse};
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::list_from_wire;

use crate::bound::{AskError, Ways};
use crate::channel::{Address, ChannelError, Trust, TrustError};
use crate::list::{self, ListRefusal};
use crate::state::{Identity, StateDir, StateError};
use crate::token::Token;
use crate::{clock, entropy, papers, spool, uplink};

/// Largest answer, in bytes: the longest mirror list fits.
const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;
/// Longest wait for an answer by one way: older collectors send the list with it, however long.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Keys that wait for the collector's answer.
const PENDING: &str = "enroll.pending";

/// What the host says.
#[derive(Debug, Clone)]
pub struct Application {
    /// Tried before the token's own addresses.
    pub url: Option<String>,
    pub token: Token,
    /// Refused by the collector if the token says otherwise.
    pub carrier: Option<CarrierId>,
    pub access: Option<Access>,
    /// Whether an identity already there may be replaced.
    pub existing: Existing,
}

/// What becomes of an identity already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Keep,
    Replace,
}

/// A box that is enrolled.
#[derive(Debug)]
pub struct Enrolled {
    pub identity: Identity,
    /// Why the mirror list that came with the answer was not taken: a warning, for the uplink brings lists too.
    pub list_refused: Option<ListRefusal>,
}

/// Why a box was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error(
        "this box is already enrolled as {agent} in {dir}; use --force to enrol it anew under another name"
    )]
    AlreadyEnrolled { agent: String, dir: PathBuf },
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    #[error("no keys can be made")]
    Entropy(#[from] entropy::NoEntropy),
    #[error("no certificate request can be made")]
    Request(#[source] rcgen::Error),
    #[error("the collector's URL cannot be used")]
    Url(#[source] ChannelError),
    #[error("the token cannot be used; ask the operator for a new one")]
    Trust(#[from] TrustError),
    #[error("the collector cannot be reached")]
    Unreached(#[source] AskError),
    #[error("{code}: {remedy}")]
    Refused { code: String, remedy: String },
    #[error("the collector failed to answer: {0}")]
    Call(String),
    #[error("the collector's answer makes no sense ({field})")]
    Answer {
        field: &'static str,
        #[source]
        source: WordError,
    },
    #[error(
        "the collector enrolled this box as {answer}, but the token is for {token}; nothing was kept. Ask the operator"
    )]
    NotAsToken { answer: String, token: String },
    #[error("the token names no collector; give its URL: zerkalo-agent enroll URL --token-file FILE")]
    NoUrl,
    #[error("the old spool {path} cannot be moved aside")]
    OldSpool {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Enrols; the identity is on the disk when this returns.
pub async fn enroll(application: &Application, dir: &Path) -> Result<Enrolled, EnrollError> {
    let ways = application.ways()?;
    let state = StateDir::create(dir)?;
    clock::load(&state);
    let _lock = state.lock()?;
    if state.is_enrolled() && application.existing == Existing::Keep {
        let agent =
            state.identity().map_or_else(|_| "(unreadable)".to_owned(), |known| known.agent.to_string());
        return Err(EnrollError::AlreadyEnrolled { agent, dir: dir.to_owned() });
    }
    // A token is good for one call: what can fail here fails before it.
    state.write("write-test", &[0; 4096])?;
    state.remove("write-test")?;
    let keys = Keys::of(&state, &application.token)?;
    let answer = ask(application, &keys, &ways).await?;
    let identity = identity_of(application, &answer)?;
    check_bound(application, &identity)?;
    if state.is_enrolled() {
        move_spool_aside(&state)?;
        state.remove("identity.toml")?;
        state.remove("list.json")?;
    }
    papers::forget(&state)?;
    state.write("record.key", hex::encode(keys.record.to_bytes()).as_bytes())?;
    state.write("ca.pem", application.token.ca_pem.as_bytes())?;
    state.put_credentials(&answer.certificate_pem, &keys.tls.serialize_pem())?;
    let operator_keys = &application.token.operator_keys;
    list::unpin(&state)?;
    if operator_keys.keys().len() > 1 {
        list::pin(&state, operator_keys)?;
    }
    let list_refused = match answer.list.map(list_from_wire) {
        Some(Ok(signed)) => list::take(&state, operator_keys, 0, &signed, uplink::wall_clock()).err(),
        _ => None,
    };
    // Made here, in a process that ends: opened a second time by the process that made it, a store takes megabytes more
    // memory than it uses. Where it cannot be made now, it is made and complained of when the agent runs.
    let _ = zerkalo_durable::store::Store::open(&state.path(spool::DIR));
    // Last: with this file the box is enrolled.
    let text = toml::to_string(&identity).expect("an identity has only text keys");
    state.write("identity.toml", text.as_bytes())?;
    state.remove(PENDING)?;
    Ok(Enrolled { identity, list_refused })
}

impl Application {
    fn ways(&self) -> Result<Ways, EnrollError> {
        let addresses: Result<Vec<_>, _> = self.urls().iter().map(|url| Address::parse(url)).collect();
        let addresses = addresses.map_err(|error| EnrollError::Url(error.into()))?;
        if addresses.is_empty() { Err(EnrollError::NoUrl) } else { Ok(Ways::of(addresses)) }
    }

    /// Where to ask, in this order.
    fn urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self.url.iter().cloned().collect();
        for url in &self.token.urls {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }
}

/// The keys a box enrols with. Kept until it is enrolled: asked again with the same token and keys, the collector gives the
/// same answer, which may have been lost.
struct Keys {
    record: SecretKey,
    tls: KeyPair,
}

#[derive(Serialize, Deserialize)]
struct PendingKeys {
    token_id: Sha256,
    record_key: String,
    tls_key_pem: String,
}

impl Keys {
    fn of(state: &StateDir, token: &Token) -> Result<Self, EnrollError> {
        let token_id = TokenMacKey::of(token.secret.reveal()).token_id();
        let kept = state.read(PENDING).ok().and_then(|text| serde_json::from_str::<PendingKeys>(&text).ok());
        if let Some(kept) = kept.filter(|kept| kept.token_id == token_id)
            && let Some(keys) = kept.keys()
        {
            return Ok(keys);
        }
        let record = SecretKey::from_bytes(&entropy::key_bytes()?);
        let tls = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrollError::Request)?;
        let (record_key, tls_key_pem) = (hex::encode(record.to_bytes()), tls.serialize_pem());
        let json = serde_json::to_vec(&PendingKeys { token_id, record_key, tls_key_pem });
        state.write(PENDING, &json.expect("texts are always JSON"))?;
        Ok(Self { record, tls })
    }
}

impl PendingKeys {
    fn keys(&self) -> Option<Keys> {
        let mut record = [0; 32];
        hex::decode_to_slice(&self.record_key, &mut record).ok()?;
        let tls = KeyPair::from_pem(&self.tls_key_pem).ok()?;
        Some(Keys { record: SecretKey::from_bytes(&record), tls })
    }
}

/// By the first way that brings an answer. Heard twice, the collector answers the same.
async fn ask(application: &Application, keys: &Keys, ways: &Ways) -> Result<EnrollResponse, EnrollError> {
    let trust = Trust::anonymous(&application.token.ca_pem, &ways.names())?;
    let csr_pem = papers::request(&keys.tls).map_err(EnrollError::Request)?;
    let call = |channel, binding| {
        let request = request(application, keys, csr_pem.clone(), &binding);
        async move {
            let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX);
            client.enroll(request).await.map(tonic::Response::into_inner)
        }
    };
    ways.ask(&trust, ANSWER_WAIT, call).await.map_err(|error| match error {
        AskError::Status(status) => refusal(&status),
        error => EnrollError::Unreached(error),
    })
}

fn request(application: &Application, keys: &Keys, csr_pem: String, binding: &Binding) -> EnrollRequest {
    let secret = application.token.secret.reveal();
    let (mac_key, token_key) = (TokenMacKey::of(secret), token_key(secret));
    let carrier = application.carrier.as_ref().map(ToString::to_string).unwrap_or_default();
    let access = application.access.map(|access| access.to_string()).unwrap_or_default();
    let record_key = keys.record.public();
    let asked = Asked {
        purpose: Purpose::Enrol,
        binding,
        agent: "",
        generation: 0,
        request_pem: &csr_pem,
        record_key: &record_key,
        carrier: &carrier,
        access: &access,
    };
    EnrollRequest {
        token_secret: String::new(),
        token_id: mac_key.token_id().0.to_vec(),
        token_mac: asked.mac(&mac_key).to_vec(),
        token_signature: asked.sign(&token_key).to_vec(),
        record_signature: asked.sign(&keys.record).to_vec(),
        record_key: record_key.to_bytes().to_vec(),
        certificate_request_pem: csr_pem,
        carrier,
        access,
    }
}

/// The token says who the box is to be, and the collector has no say in that.
fn check_bound(application: &Application, identity: &Identity) -> Result<(), EnrollError> {
    let Some(bound) = &application.token.bound else { return Ok(()) };
    let place = |station: &Station| match station {
        Station::Field { carrier, access } => format!("{carrier} {access}"),
        Station::Control => "a control".to_owned(),
    };
    let market = |market: &Option<MarketId>| market.as_ref().map_or("-".to_owned(), ToString::to_string);
    let own = match (&identity.carrier, identity.access) {
        (Some(carrier), Some(access)) => Station::Field { carrier: carrier.clone(), access },
        _ => Station::Control,
    };
    let is_same = own == bound.station && identity.market == bound.market && identity.owner == bound.owner;
    if is_same {
        return Ok(());
    }
    Err(EnrollError::NotAsToken {
        answer: format!("{} of {} in {}", place(&own), identity.owner, market(&identity.market)),
        token: format!("{} of {} in {}", place(&bound.station), bound.owner, market(&bound.market)),
    })
}

fn identity_of(application: &Application, answer: &EnrollResponse) -> Result<Identity, EnrollError> {
    fn word<T>(
        field: &'static str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, WordError>,
    ) -> Result<T, EnrollError> {
        parse(text).map_err(|source| EnrollError::Answer { field, source })
    }
    fn optional<T>(
        field: &'static str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, WordError>,
    ) -> Result<Option<T>, EnrollError> {
        if text.is_empty() { Ok(None) } else { word(field, text, parse).map(Some) }
    }
    Ok(Identity {
        agent: word("agent", &answer.agent, AgentId::parse)?,
        owner: word("owner", &answer.owner, OwnerId::parse)?,
        market: optional("market", &answer.market, MarketId::parse)?,
        carrier: optional("carrier", &answer.carrier, CarrierId::parse)?,
        access: optional("access", &answer.access, str::parse)?,
        collector_urls: application.urls(),
        operator_key: application.token.operator_keys.first().to_hex(),
    })
}

fn refusal(status: &tonic::Status) -> EnrollError {
    let said = status.message();
    let Some(code) = code_of(status) else {
        let hint = match status.code() {
            Code::Unavailable => " (is the URL the collector's agents address, and its CA the token's?)",
            Code::Unimplemented => " (is the URL the collector's agents address?)",
            _ => "",
        };
        let said = uplink::said(status);
        return EnrollError::Call(format!("{}: {said}{hint}", status.code().description()));
    };
    let remedy = match code {
        "token_unknown" => {
            "the collector does not know this token; copy it whole, or ask the operator for a new one; a collector older \
             than this agent knows none either"
                .to_owned()
        }
        "token_expired" => "this token has expired; ask the operator for a new one".to_owned(),
        "token_used" => {
            "this token was used before; each enrols one box once: ask the operator for a new one".to_owned()
        }
        "token_wrong_carrier" => {
            format!("{said} (or correct --carrier and --access)")
        }
        _ => said.to_owned(),
    };
    EnrollError::Refused { code: code.to_owned(), remedy }
}

/// Records signed as another agent are never sent as this one.
fn move_spool_aside(state: &StateDir) -> Result<(), EnrollError> {
    let old = state.identity().map_or_else(|_| "unknown".to_owned(), |old| old.agent.to_string());
    let path = state.path(spool::DIR);
    let aside = state.path(&format!("{}.{old}", spool::DIR));
    match std::fs::rename(&path, aside) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(EnrollError::OldSpool { path, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_code_and_a_remedy() {
        let check = |code: &str, part: &str| {
            let status = zerkalo_proto::code::status(Code::Unauthenticated, code, "detail");
            let message = refusal(&status).to_string();
            assert!(message.starts_with(code) && message.contains(part), "{message}");
        };
        check("token_unknown", "ask the operator for a new one");
        check("token_expired", "has expired");
        check("token_used", "was used before");
        check("token_wrong_carrier", "--carrier");
        check("bad_request", "detail");
        assert!(refusal(&tonic::Status::unavailable("gone")).to_string().contains("agents address"));
    }
}
