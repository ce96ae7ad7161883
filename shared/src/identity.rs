//! How a box proves who it is, before it has a certificate and whenever it wants another: what the proofs are made over,
//! and what a one-time token's secret turns into. A secret itself never leaves the box.
//!
//! Every proof covers the session it is made in (RFC 5705), so that on another connection it is worth nothing.

use crate::evidence::{BadSignature, PublicKey, SecretKey};
use crate::target::Sha256;

/// Names the value that both ends of a TLS session derive for proofs.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-zerkalo-identity";
/// Separates proofs from every other use of the keys.
const PROOF_DOMAIN: &[u8] = b"zerkalo.identity-proof.v1\0";
/// What names a token to the collector.
const TOKEN_ID_DOMAIN: &[u8] = b"zerkalo.token-id.v1\0";
/// What a token signs with.
const TOKEN_KEY_DOMAIN: &[u8] = b"zerkalo.token-key.v1\0";

/// What only the two ends of one TLS session know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Binding(pub [u8; 32]);

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Binding(..)")
    }
}

/// What a box asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A name, with a token.
    Enrol,
    /// The next certificate, while the one at hand is in force.
    Renew,
    /// The next certificate, when the last one's time is over.
    Rejoin,
}

/// What is asked, in the words that are proved.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub purpose: Purpose,
    /// Of the session it is asked in.
    pub binding: &'a Binding,
    /// Empty where it has no name yet.
    pub agent: &'a str,
    /// Of the certificate at hand; 0 for none.
    pub generation: u64,
    /// PKCS#10, PEM: names the TLS key, and is signed by it.
    pub request_pem: &'a str,
    /// Checks the box's records.
    pub record_key: &'a PublicKey,
    /// What the host declares of its line; empty: nothing.
    pub carrier: &'a str,
    pub access: &'a str,
}

impl Asked<'_> {
    /// Shows that the asker holds a key.
    pub fn sign(&self, key: &SecretKey) -> [u8; 64] {
        key.sign(&self.bytes())
    }

    /// Checks that the asker holds a key.
    pub fn verify(&self, key: &PublicKey, signature: &[u8; 64]) -> Result<(), BadSignature> {
        key.verify(&self.bytes(), signature)
    }

    /// Shows that the asker holds a token.
    pub fn mac(&self, key: &TokenMacKey) -> [u8; 32] {
        hmac_sha256::HMAC::mac(self.bytes(), key.0.0)
    }

    /// Checks that the asker holds a token, in a time that tells nothing.
    pub fn verify_mac(&self, key: &TokenMacKey, mac: &[u8; 32]) -> Result<(), BadSignature> {
        let own = self.mac(key);
        let differences = own.iter().zip(mac).fold(0, |differences, (a, b)| differences | (a ^ b));
        if differences == 0 { Ok(()) } else { Err(BadSignature) }
    }

    /// Domain, then each part behind its length: no two askings have the same bytes.
    fn bytes(&self) -> Vec<u8> {
        let purpose: &[u8] = match self.purpose {
            Purpose::Enrol => b"enrol",
            Purpose::Renew => b"renew",
            Purpose::Rejoin => b"rejoin",
        };
        let generation = self.generation.to_be_bytes();
        let record_key = self.record_key.to_bytes();
        let parts: [&[u8]; 8] = [
            purpose,
            &self.binding.0,
            self.agent.as_bytes(),
            &generation,
            self.request_pem.as_bytes(),
            &record_key,
            self.carrier.as_bytes(),
            self.access.as_bytes(),
        ];
        let mut bytes = PROOF_DOMAIN.to_vec();
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// Under which proofs of a token are made: the digest of its secret. The collector keeps it; alone it enrols nobody, for
/// a token signs as well.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenMacKey(pub Sha256);

impl std::fmt::Debug for TokenMacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenMacKey(..)")
    }
}

impl TokenMacKey {
    /// Of the secret as it stands in the token.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::of(secret.as_bytes()))
    }

    /// What names the token, and tells nothing of it.
    pub fn token_id(&self) -> Sha256 {
        Sha256::of(&[TOKEN_ID_DOMAIN, &self.0.0].concat())
    }
}

/// What a token signs with; its public half is what the collector keeps.
pub fn token_key(secret: &str) -> SecretKey {
    SecretKey::from_bytes(&Sha256::of(&[TOKEN_KEY_DOMAIN, secret.as_bytes()].concat()).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_nothing_else() {
        let (record, token) = (SecretKey::from_bytes(&[7; 32]), token_key("secret"));
        let (binding, key) = (Binding([1; 32]), record.public());
        let asked = Asked {
            purpose: Purpose::Enrol,
            binding: &binding,
            agent: "",
            generation: 0,
            request_pem: "PEM",
            record_key: &key,
            carrier: "kz-kcell",
            access: "mobile",
        };
        let mac_key = TokenMacKey::of("secret");
        let (signature, mac) = (asked.sign(&token), asked.mac(&mac_key));
        assert_eq!(asked.verify(&token.public(), &signature), Ok(()));
        assert_eq!(asked.verify_mac(&mac_key, &mac), Ok(()));
        let (elsewhere, other) = (Binding([2; 32]), SecretKey::from_bytes(&[8; 32]).public());
        for changed in [
            Asked { purpose: Purpose::Rejoin, ..asked },
            Asked { binding: &elsewhere, ..asked },
            Asked { agent: "a1", ..asked },
            Asked { generation: 1, ..asked },
            Asked { request_pem: "REQUEST", ..asked },
            Asked { record_key: &other, ..asked },
            Asked { carrier: "kz-kcellmobile", access: "", ..asked },
        ] {
            assert_eq!(changed.verify(&token.public(), &signature), Err(BadSignature), "{changed:?}");
            assert_eq!(changed.verify_mac(&mac_key, &mac), Err(BadSignature), "{changed:?}");
        }
        assert_eq!(asked.verify_mac(&TokenMacKey::of("other"), &mac), Err(BadSignature));
        assert_eq!(asked.verify(&token_key("other").public(), &signature), Err(BadSignature));
    }

    #[test]
    fn what_the_collector_keeps_of_a_token_neither_names_nor_signs_for_it() {
        let mac_key = TokenMacKey::of("secret");
        assert_ne!(mac_key.token_id(), mac_key.0);
        assert_ne!(token_key("secret").to_bytes(), mac_key.0.0);
        assert!(!format!("{mac_key:?}{:?}", Binding([9; 32])).contains('9'));
    }
}
