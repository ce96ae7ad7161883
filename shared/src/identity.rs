//! How a box proves who it is, before it has a certificate and whenever it wants another: what the proofs are made over,
//! and what a one-time token's secret turns into. A secret itself never leaves the box.
//!
//! Every proof covers the session it is made in (RFC 5705), so that on another connection it is worth nothing.

use serde::{Deserialize, Serialize};

use crate::evidence::{BadSignature, PublicKey, SecretKey};
use crate::target::Sha256;
use crate::verdict::words;
use crate::words::{AgentId, UnixMillis};

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

words!(
    /// What an agent's word is worth.
    Standing {
        Good = "good",
        /// Two boxes seem to use its name: nobody knows which of them speaks, until a person unlocks it.
        Locked = "locked",
        /// For ever.
        Revoked = "revoked",
    }
);

impl Standing {
    /// The standing of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|standing| standing.as_str() == text)
    }
}

/// An agent's standing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingChange {
    pub agent: AgentId,
    pub standing: Standing,
    /// Who ordered it; empty: the collector by itself.
    pub author: String,
    pub reason: String,
}

/// An agent gets a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    pub agent: AgentId,
    pub generation: u64,
    /// Digest of the certificate's public key.
    pub key: Sha256,
}

/// An agent's certificates so far: each has a generation, and each generation one key. A box that shows an older one
/// after a newer one was shown is a copy, or one was made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generations {
    /// Of the last certificate made; 0: none since there are generations.
    pub current: u64,
    /// Of that certificate, where known.
    pub key: Option<Sha256>,
    pub issued_at: UnixMillis,
    /// The highest that was shown.
    pub shown: u64,
}

/// What a certificate shown tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Known,
    /// It is shown for the first time.
    New,
    /// It is newer than any known: this collector forgot some.
    Ahead,
    /// Another box had this generation, or was beyond it.
    Twice,
}

/// A generation was asked for by two boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twice;

impl Generations {
    /// Looks at a certificate that a box shows.
    pub fn look(&self, generation: u64, key: &Sha256) -> Shown {
        if generation > self.current {
            return Shown::Ahead;
        }
        if generation == self.current {
            return match self.key {
                Some(known) if known != *key => Shown::Twice,
                _ if self.shown < generation => Shown::New,
                _ => Shown::Known,
            };
        }
        // The answer with the newer one may have been lost.
        let may_lack_newer = self.shown < self.current && generation + 1 == self.current;
        if may_lack_newer { Shown::Known } else { Shown::Twice }
    }

    /// The generation of a certificate over `key`, for a box that holds generation `held`. Asked again for the same key it
    /// is the same: the answer may have been lost.
    pub fn next(&self, held: u64, key: &Sha256) -> Result<u64, Twice> {
        if held >= self.current {
            return Ok(held.saturating_add(1));
        }
        let is_same = held + 1 == self.current && self.key == Some(*key);
        if is_same { Ok(self.current) } else { Err(Twice) }
    }

    /// Notes a certificate made.
    pub fn issue(&mut self, generation: u64, key: Sha256, at: UnixMillis) {
        if generation >= self.current {
            (self.current, self.key, self.issued_at) = (generation, Some(key), at);
        }
    }

    /// Notes a certificate shown.
    pub fn show(&mut self, generation: u64) {
        self.shown = self.shown.max(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_has_one_key_and_none_comes_back() {
        let key = |n: u8| Sha256([n; 32]);
        let mut made = Generations::default();
        // Enrolled before there were generations: whatever it holds is its own.
        assert_eq!(made.look(0, &key(1)), Shown::Known);
        assert_eq!(made.next(0, &key(2)), Ok(1));
        made.issue(1, key(2), UnixMillis(5));
        // The answer was lost: the same key gets the same, another box's does not.
        assert_eq!((made.next(0, &key(2)), made.next(0, &key(3))), (Ok(1), Err(Twice)));
        assert_eq!(made.look(0, &key(1)), Shown::Known);
        assert_eq!((made.look(1, &key(2)), made.look(1, &key(3))), (Shown::New, Shown::Twice));
        made.show(1);
        assert_eq!((made.look(1, &key(2)), made.look(0, &key(1))), (Shown::Known, Shown::Twice));
        assert_eq!(made.next(1, &key(4)), Ok(2));
        made.issue(2, key(4), UnixMillis(6));
        assert_eq!((made.look(1, &key(2)), made.look(0, &key(1))), (Shown::Known, Shown::Twice));
        assert_eq!(made.next(0, &key(9)), Err(Twice));
        // A collector that was restored from an older backup takes what its own CA signed since.
        assert_eq!((made.look(7, &key(5)), made.next(7, &key(6))), (Shown::Ahead, Ok(8)));
        made.issue(1, key(9), UnixMillis(7));
        assert_eq!((made.current, made.key), (2, Some(key(4))), "time does not run backwards");
    }

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
