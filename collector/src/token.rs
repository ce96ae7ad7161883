//! Enrolment tokens: the text a host of an agent is given, and what the collector remembers of it.
//!
//! A token works once and not for ever. The collector keeps only the digest of its secret, so that a copy of the
//! collector's disk enrols nobody.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, OwnerId, Station, UnixMillis};

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

    /// What the collector stores instead of the secret.
    pub fn digest(&self) -> Sha256 {
        digest(&self.0)
    }

    /// The whole text of a token file.
    pub fn token_text(&self, ca_pem: &str, operator_key_hex: &str, urls: &[String]) -> String {
        #[derive(Serialize)]
        struct Text<'a> {
            ca_pem: &'a str,
            operator_key: &'a str,
            secret: &'a str,
            urls: &'a [String],
        }
        let text = Text { ca_pem, operator_key: operator_key_hex, secret: &self.0, urls };
        let json = serde_json::to_vec(&text).expect("a token is texts only");
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

/// Digest of a secret as a peer sent it.
pub fn digest(secret: &str) -> Sha256 {
    Sha256::of(secret.as_bytes())
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
