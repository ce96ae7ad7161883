//! Enrolment: a one-time token becomes an identity. Keys are made here and never leave the box; the collector signs the
//! certificate and chooses the name.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::Code;
use zerkalo_core::evidence::{PublicKey, SecretKey};
use zerkalo_core::words::{Access, AgentId, CarrierId, MarketId, OwnerId, WordError};
use zerkalo_proto::agent_v1::enrollment_service_client::EnrollmentServiceClient;
use zerkalo_proto::agent_v1::{EnrollRequest, EnrollResponse};
use zerkalo_proto::code::code_of;
use zerkalo_proto::evidence::list_from_wire;

use crate::channel::{self, ChannelError};
use crate::list::{self, ListRefusal};
use crate::state::{Identity, StateDir, StateError};
use crate::token::Token;
use crate::{entropy, spool, uplink};

/// Largest answer, in bytes: the longest mirror list fits.
const ANSWER_LEN_MAX: usize = 4 * 1024 * 1024;

/// What the host says.
#[derive(Debug, Clone)]
pub struct Application {
    pub url: String,
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
    #[error("the collector cannot be reached")]
    Channel(#[from] ChannelError),
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
    #[error("the old spool {path} cannot be moved aside")]
    OldSpool {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Enrols; the identity is on the disk when this returns.
pub async fn enroll(application: &Application, dir: &Path) -> Result<Enrolled, EnrollError> {
    channel::check_url(&application.url)?;
    let state = StateDir::create(dir)?;
    let _lock = state.lock()?;
    if state.is_enrolled() && application.existing == Existing::Keep {
        let agent =
            state.identity().map_or_else(|_| "(unreadable)".to_owned(), |known| known.agent.to_string());
        return Err(EnrollError::AlreadyEnrolled { agent, dir: dir.to_owned() });
    }
    // A token is good for one call: what can fail here fails before it.
    state.write("write-test", &[0; 4096])?;
    state.remove("write-test")?;
    let record_key = SecretKey::from_bytes(&entropy::key_bytes()?);
    let tls_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrollError::Request)?;
    let request = request(application, &tls_key, record_key.public())?;

    let channel = channel::connect_anonymous(&application.url, &application.token.ca_pem).await?;
    let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX);
    let answer = client.enroll(request).await.map_err(|status| refusal(&status))?.into_inner();

    let identity = identity_of(application, &answer)?;
    if state.is_enrolled() {
        move_spool_aside(&state)?;
        state.remove("identity.toml")?;
        state.remove("list.json")?;
    }
    state.write("tls.key", tls_key.serialize_pem().as_bytes())?;
    state.write("record.key", hex::encode(record_key.to_bytes()).as_bytes())?;
    state.write("ca.pem", application.token.ca_pem.as_bytes())?;
    state.write("tls.pem", answer.certificate_pem.as_bytes())?;
    let list_refused = match answer.list.map(list_from_wire) {
        Some(Ok(signed)) => list::take(&state, &application.token.operator_key, 0, &signed).err(),
        _ => None,
    };
    // Last: with this file the box is enrolled.
    let text = toml::to_string(&identity).expect("an identity has only text keys");
    state.write("identity.toml", text.as_bytes())?;
    Ok(Enrolled { identity, list_refused })
}

fn request(
    application: &Application,
    tls_key: &KeyPair,
    record_key: PublicKey,
) -> Result<EnrollRequest, EnrollError> {
    let mut params = CertificateParams::default();
    // The collector replaces it: only it knows the name.
    params.distinguished_name.push(DnType::CommonName, "zerkalo-agent");
    let csr = params.serialize_request(tls_key).and_then(|csr| csr.pem()).map_err(EnrollError::Request)?;
    Ok(EnrollRequest {
        token_secret: application.token.secret.reveal().to_owned(),
        certificate_request_pem: csr,
        record_key: record_key.to_bytes().to_vec(),
        carrier: application.carrier.as_ref().map(ToString::to_string).unwrap_or_default(),
        access: application.access.map(|access| access.to_string()).unwrap_or_default(),
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
    let mut collector_urls = vec![application.url.clone()];
    for url in &application.token.urls {
        if !collector_urls.contains(url) {
            collector_urls.push(url.clone());
        }
    }
    Ok(Identity {
        agent: word("agent", &answer.agent, AgentId::parse)?,
        owner: word("owner", &answer.owner, OwnerId::parse)?,
        market: optional("market", &answer.market, MarketId::parse)?,
        carrier: optional("carrier", &answer.carrier, CarrierId::parse)?,
        access: optional("access", &answer.access, str::parse)?,
        collector_urls,
        operator_key: application.token.operator_key.to_hex(),
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
            "the collector does not know this token; copy it whole, or ask the operator for a new one"
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
