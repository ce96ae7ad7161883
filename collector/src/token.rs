//! Enrolment tokens: the text a host of an agent is given, and what the collector remembers of it.
//!
//! A token works once and not for ever. The collector keeps only a digest of its secret and a public key made of it, and a
//! box must show that it holds what both are made of: so a copy of the collector's disk enrols nobody.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::identity::{Asked, TokenMacKey, token_key};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, MarketId, OwnerId, Station, UnixMillis};

use crate::clock;

/// Names the text's format.
const TOKEN_PREFIX: &str = "zk1.";
/// Secret bytes in a token: beyond guessing.
const SECRET_LEN: usize = 32;

/// What a token allows, as the collector stores it under the digest of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub owner: OwnerId,
    pub station: Station,
    pub expires_at: UnixMillis,
    /// The carrier's when it was made; absent for a control, and in tokens of older collectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<MarketId>,
    /// Digest of the secret: what proofs are checked with. Absent in tokens of older collectors, which stand under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_key: Option<Sha256>,
    /// Public half of what the token signs with, hexadecimal; absent in tokens of older collectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prover: Option<String>,
    /// The agent that enrolled with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<AgentId>,
}

/// Why a token admits nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    #[error("this collector made no such token; ask the operator for a new one")]
    Unknown,
    #[error("the token was used already; each enrols one box, ask the operator for a new one")]
    Used,
    #[error("the token expired at {0}; ask the operator for a new one")]
    Expired(UnixMillis),
    #[error(
        "the proof of the token does not hold on this connection; copy the token whole and try again, and if it stays \
         so ask the operator for a new one: somebody may sit on the line"
    )]
    ProofWrong,
    #[error(
        "the token was made for a carrier of market {token}, which the catalogue has in {now}; ask the operator for a \
         new one"
    )]
    WrongMarket { token: String, now: String },
    #[error("the token is for {token}, but the box declares {declared}; ask the operator for the right one")]
    WrongCarrier { token: String, declared: String },
}

impl TokenRefusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Used => "token_used",
            Self::Expired(_) => "token_expired",
            Self::WrongCarrier { .. } => "token_wrong_carrier",
            Self::WrongMarket { .. } => "token_wrong_market",
            Self::ProofWrong => "token_proof_wrong",
        }
    }
}

/// Where the box says it stands; what is empty is left to the token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    pub carrier: String,
    pub access: String,
}

impl Token {
    /// One that nobody used yet.
    pub fn new(
        secret: &TokenSecret,
        owner: OwnerId,
        station: Station,
        market: Option<MarketId>,
        expires_at: UnixMillis,
    ) -> Self {
        let (mac_key, prover) = (secret.mac_key(), token_key(secret.reveal()).public());
        let (mac_key, prover) = (Some(mac_key.0), Some(prover.to_hex()));
        Self { owner, station, expires_at, market, mac_key, prover, used_by: None }
    }

    /// Whether whoever asks holds this token.
    pub fn check_proof(&self, asked: &Asked<'_>, mac: &[u8], signature: &[u8]) -> Result<(), TokenRefusal> {
        let wrong = |_| TokenRefusal::ProofWrong;
        let mac_key = self.mac_key.map(TokenMacKey).ok_or(TokenRefusal::ProofWrong)?;
        let mac = mac.try_into().map_err(|_| TokenRefusal::ProofWrong)?;
        asked.verify_mac(&mac_key, mac).map_err(wrong)?;
        // An older collector's token knows no more.
        let Some(prover) = &self.prover else { return Ok(()) };
        let prover = PublicKey::from_hex(prover).map_err(|_| TokenRefusal::ProofWrong)?;
        let signature = signature.try_into().map_err(|_| TokenRefusal::ProofWrong)?;
        asked.verify(&prover, signature).map_err(wrong)
    }

    /// Whether the carrier still belongs where it did.
    pub fn check_market(&self, now: Option<&MarketId>) -> Result<(), TokenRefusal> {
        match (&self.market, now) {
            (Some(token), now) if now != Some(token) => {
                let now = now.map_or("no market".to_owned(), ToString::to_string);
                Err(TokenRefusal::WrongMarket { token: token.to_string(), now })
            }
            _ => Ok(()),
        }
    }

    /// Whether a box may enrol with this token now.
    pub fn check(&self, declared: &Declared, now: UnixMillis) -> Result<(), TokenRefusal> {
        if self.used_by.is_some() {
            return Err(TokenRefusal::Used);
        }
        if now >= self.expires_at {
            return Err(TokenRefusal::Expired(self.expires_at));
        }
        let (carrier, access) = match &self.station {
            Station::Field { carrier, access } => (carrier.as_str(), access.as_str()),
            Station::Control => ("", ""),
        };
        let agrees = |declared: &str, token: &str| declared.is_empty() || declared == token;
        if agrees(&declared.carrier, carrier) && agrees(&declared.access, access) {
            return Ok(());
        }
        let words = |carrier: &str, access: &str| match (carrier, access) {
            ("", "") => "a control".to_owned(),
            (carrier, "") => carrier.to_owned(),
            ("", access) => access.to_owned(),
            (carrier, access) => format!("{carrier} {access}"),
        };
        Err(TokenRefusal::WrongCarrier {
            token: words(carrier, access),
            declared: words(&declared.carrier, &declared.access),
        })
    }
}

/// A token's secret; shown once, never logged.
pub struct TokenSecret(String);

impl TokenSecret {
    /// A new one.
    pub fn generate() -> Self {
        Self(URL_SAFE_NO_PAD.encode(clock::random::<SECRET_LEN>()))
    }

    /// The text, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the collector stores of a secret that is shown and not proved: an API's, a redirector's.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(self.0.as_bytes())
    }

    /// What proofs of it are checked with.
    pub fn mac_key(&self) -> TokenMacKey {
        TokenMacKey::of(&self.0)
    }

    /// What the collector stores the token under.
    pub fn id(&self) -> Sha256 {
        self.mac_key().token_id()
    }

    /// The whole text of a token file. What it is bound to is written down for the box to compare.
    pub fn token_text(&self, token: &Token, ca_pem: &str, keys: &OperatorKeys, urls: &[String]) -> String {
        #[derive(Serialize)]
        struct Text<'a> {
            ca_pem: &'a str,
            operator_key: String,
            /// Where there is more than one.
            #[serde(skip_serializing_if = "Option::is_none")]
            operator_keys: Option<&'a OperatorKeys>,
            secret: &'a str,
            urls: &'a [String],
            owner: &'a OwnerId,
            #[serde(skip_serializing_if = "Option::is_none")]
            market: Option<&'a MarketId>,
            station: &'a Station,
            expires_at_millis: u64,
        }
        let text = Text {
            ca_pem,
            operator_key: keys.first().to_hex(),
            operator_keys: Some(keys).filter(|keys| keys.keys().len() > 1),
            secret: &self.0,
            urls,
            owner: &token.owner,
            market: token.market.as_ref(),
            station: &token.station,
            expires_at_millis: token.expires_at.0,
        };
        let json = serde_json::to_vec(&text).expect("a token is texts only");
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_admits_only_what_it_says() {
        let token = |station| Token {
            owner: OwnerId::parse("anna").unwrap(),
            station,
            expires_at: UnixMillis(100),
            market: None,
            mac_key: None,
            prover: None,
            used_by: None,
        };
        let field: Station =
            serde_json::from_str(r#"{"kind":"field","carrier":"kz-kcell","access":"mobile"}"#).unwrap();
        let check = |token: &Token, carrier: &str, access: &str, now, code: Option<&str>| {
            let declared = Declared { carrier: carrier.to_owned(), access: access.to_owned() };
            let found = token.check(&declared, UnixMillis(now)).err();
            assert_eq!(found.as_ref().map(TokenRefusal::code), code, "{found:?}");
        };
        let kcell = token(field);
        check(&kcell, "", "", 99, None);
        check(&kcell, "kz-kcell", "mobile", 99, None);
        check(&kcell, "kz-kcell", "", 99, None);
        check(&kcell, "", "", 100, Some("token_expired"));
        check(&kcell, "kz-beeline", "mobile", 99, Some("token_wrong_carrier"));
        check(&kcell, "kz-kcell", "fixed", 99, Some("token_wrong_carrier"));
        check(&token(Station::Control), "kz-kcell", "", 99, Some("token_wrong_carrier"));
        let used = Token { used_by: Some(AgentId::parse("kz-kcell-1").unwrap()), ..kcell };
        check(&used, "", "", 200, Some("token_used"));
    }
}
