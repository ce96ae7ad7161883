//! The one-time token as the operator hands it to a host: `zk1.` and base64url of JSON. Whether it is still good, only
//! the collector knows.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zerkalo_core::evidence::PublicKey;
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::words::{MarketId, OwnerId, Station};

/// First characters of a token: name and version of the format.
const PREFIX: &str = "zk1.";
/// Longest token, in bytes: a CA certificate and a few URLs fit many times.
const LEN_MAX: usize = 64 * 1024;

/// Why a text is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("it does not begin with {PREFIX:?}; copy the whole token, on one line")]
    Prefix,
    #[error("it is {len} bytes long; the limit is {LEN_MAX}")]
    TooLong { len: usize },
    #[error("it is damaged; copy the whole token, on one line")]
    Encoding(#[source] base64::DecodeError),
    #[error("it is damaged; ask the operator for a new one")]
    Json(#[source] serde_json::Error),
    #[error("its operator key cannot be used; ask the operator for a new token")]
    OperatorKey(#[source] zerkalo_core::evidence::BadKey),
}

/// A secret text; never prints.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for proofs: it goes over no wire.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a token says.
#[derive(Debug, Clone)]
pub struct Token {
    /// The collector's own CA: the only one trusted.
    pub ca_pem: String,
    pub operator_keys: OperatorKeys,
    pub secret: Secret,
    /// Where collectors answer, as the operator wrote them.
    pub urls: Vec<String>,
    /// Who and where the box is to be; absent in tokens of older collectors.
    pub bound: Option<BoundTo>,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundTo {
    pub owner: OwnerId,
    /// Absent for a control.
    pub market: Option<MarketId>,
    pub station: Station,
}

#[derive(Deserialize)]
struct Content {
    ca_pem: String,
    operator_key: String,
    /// Where there is more than one.
    #[serde(default)]
    operator_keys: Option<OperatorKeys>,
    secret: Secret,
    #[serde(default)]
    urls: Vec<String>,
    owner: Option<OwnerId>,
    market: Option<MarketId>,
    station: Option<Station>,
}

impl Token {
    /// Reads a token's text; white space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > LEN_MAX {
            return Err(TokenError::TooLong { len: text.len() });
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(TokenError::Encoding)?;
        let content: Content = serde_json::from_slice(&json).map_err(TokenError::Json)?;
        let operator_key = PublicKey::from_hex(&content.operator_key).map_err(TokenError::OperatorKey)?;
        let Content { ca_pem, operator_keys, secret, urls, owner, market, station, .. } = content;
        let operator_keys = operator_keys.unwrap_or_else(|| operator_key.into());
        let bound = owner.zip(station).map(|(owner, station)| BoundTo { owner, market, station });
        Ok(Self { ca_pem, operator_keys, secret, urls, bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_whole_or_says_what_is_wrong() {
        let key = zerkalo_core::evidence::SecretKey::from_bytes(&[7; 32]).public().to_hex();
        let json =
            format!(r#"{{"ca_pem":"PEM","operator_key":"{key}","secret":"s3","urls":["https://c:1"]}}"#);
        let good = format!(" zk1.{}\n", URL_SAFE_NO_PAD.encode(&json));
        let token = Token::parse(&good).unwrap();
        assert_eq!((token.secret.reveal(), token.urls.len()), ("s3", 1));
        assert!(!format!("{token:?}").contains("s3"));
        let check = |text: &str, part: &str| {
            let message = Token::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("", "does not begin");
        check("zk1.###", "damaged");
        check(&format!("zk1.{}", URL_SAFE_NO_PAD.encode("{}")), "damaged");
        check(
            &format!("zk1.{}", URL_SAFE_NO_PAD.encode(json.replace(&key, &"0".repeat(64)))),
            "operator key",
        );
        check(&format!("zk1.{}", "a".repeat(LEN_MAX)), "limit");
    }
}
