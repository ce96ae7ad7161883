//! Canonical signed bytes: how an agent vouches for a record, so that anyone can check it for ever.
//!
//! An agent's statements form a chain: each carries the hash of the one before it in the same epoch. The record itself
//! is a body of opaque bytes here; encoding it is the wall's job (zerkalo-proto). Layout of the signed bytes, integers
//! big-endian: domain, agent length (u8), agent, epoch (u64), sequence (u64), previous hash (32), body length (u32), body.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

use crate::operator_keys::{OPERATOR_KEYS_MAX, OperatorKeys};
use crate::target::Sha256;
use crate::words::AgentId;

/// Separates these signatures from every other use of the key.
const RECORD_DOMAIN: &[u8] = b"zerkalo.record.v1\0";
/// See [`RECORD_DOMAIN`]: the operator's signature on a mirror list.
const LIST_DOMAIN: &[u8] = b"zerkalo.mirror-list.v1\0";

/// Largest record body, in bytes: a whole bad chain and ten hops fit; a hostile agent's flood does not.
pub const BODY_LEN_MAX: usize = 64 * 1024;

/// A place in an agent's chain. An epoch begins at sequence 1 with [`ChainLink::start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainLink {
    pub epoch: u64,
    /// Of the last statement; 0 before the first.
    pub sequence: u64,
    /// Hash of the last statement; zeros before the first.
    pub hash: Sha256,
}

impl ChainLink {
    /// Before the first statement of an epoch.
    pub fn start(epoch: u64) -> Self {
        Self { epoch, sequence: 0, hash: Sha256::default() }
    }
}

/// A record body in its place in the chain, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    pub agent: AgentId,
    pub epoch: u64,
    /// From 1. What stands for several has the last one's.
    pub sequence: u64,
    /// Hash of the statement before; zeros at sequence 1.
    pub previous: Sha256,
    pub body: Vec<u8>,
    pub signature: [u8; 64],
}

/// A signature that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold for these bytes and this key")]
pub struct BadSignature;

/// A public key that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a usable Ed25519 public key (32 bytes, of full order)")]
pub struct BadKey;

/// An Ed25519 public key, checked to be no weak point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Parses 32 bytes; refuses weak keys, under which forged signatures verify.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKey> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| BadKey)?;
        if key.is_weak() { Err(BadKey) } else { Ok(Self(key)) }
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, BadKey> {
        Self::from_bytes(&hex::decode(text.trim()).map_err(|_| BadKey)?)
    }

    /// The 32 bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.to_bytes())
    }

    /// Checks a signature over bytes that begin with a domain of their own.
    pub(crate) fn verify(&self, bytes: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        self.verify_strict(bytes, signature)
    }

    fn verify_strict(&self, bytes: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        self.0.verify_strict(bytes, &Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

/// An Ed25519 secret key; never prints.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From 32 random bytes of the caller's.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// The 32 bytes, to be kept in a file only its owner reads.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Signs bytes that begin with a domain of their own.
    pub(crate) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl SignedRecord {
    /// Signs `body` as the statement after `last`.
    pub fn sign(agent: &AgentId, last: ChainLink, body: Vec<u8>, key: &SecretKey) -> Self {
        Self::sign_over(agent, last, 1, body, key)
    }

    /// Signs `body` as what stands for the `count` statements after `last`: see `gap.rs`.
    pub fn sign_over(agent: &AgentId, last: ChainLink, count: u64, body: Vec<u8>, key: &SecretKey) -> Self {
        let mut record = Self {
            agent: agent.clone(),
            epoch: last.epoch,
            sequence: last.sequence.saturating_add(count),
            previous: last.hash,
            body,
            signature: [0; 64],
        };
        record.signature = key.0.sign(&record.signing_bytes()).to_bytes();
        record
    }

    /// The exact bytes under the signature.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let agent = self.agent.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(RECORD_DOMAIN.len() + 1 + agent.len() + 52 + self.body.len());
        bytes.extend_from_slice(RECORD_DOMAIN);
        // Identifiers are at most 63 bytes and bodies at most 64 KiB: neither length can be cut.
        bytes.push(agent.len() as u8);
        bytes.extend_from_slice(agent);
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.previous.0);
        bytes.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Hash of the signed bytes: the record's id, and the `previous` of the next one.
    pub fn hash(&self) -> Sha256 {
        Sha256::of(&self.signing_bytes())
    }

    /// The place in the chain after this statement.
    pub fn link(&self) -> ChainLink {
        ChainLink { epoch: self.epoch, sequence: self.sequence, hash: self.hash() }
    }

    /// Checks the signature, strictly (RFC 8032 with cofactorless equation and no weak keys).
    pub fn verify(&self, key: &PublicKey) -> Result<(), BadSignature> {
        key.verify_strict(&self.signing_bytes(), &self.signature)
    }
}

/// A record with its hash and the answer of its signature: computed once, wherever there is a core to spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRecord {
    record: SignedRecord,
    hash: Sha256,
    signature: Result<(), BadSignature>,
}

impl CheckedRecord {
    /// Checks the signature under the agent's key.
    pub fn new(record: SignedRecord, key: &PublicKey) -> Self {
        let bytes = record.signing_bytes();
        let signature = key.verify_strict(&bytes, &record.signature);
        Self { hash: Sha256::of(&bytes), signature, record }
    }

    /// The record, whether its signature holds or not.
    pub fn record(&self) -> &SignedRecord {
        &self.record
    }

    /// Gives the record back.
    pub fn into_record(self) -> SignedRecord {
        self.record
    }

    /// Its hash.
    pub fn hash(&self) -> Sha256 {
        self.hash
    }

    /// The place in the chain after it.
    pub fn link(&self) -> ChainLink {
        ChainLink { epoch: self.record.epoch, sequence: self.record.sequence, hash: self.hash }
    }

    /// Whether the signature holds.
    pub fn signature(&self) -> Result<(), BadSignature> {
        self.signature
    }
}

/// A mirror list as the operator signed it: exact bytes, never re-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedList {
    /// The list as JSON.
    pub bytes: Vec<u8>,
    pub signature: [u8; 64],
    /// Of the operator's other keys, where more than one must sign.
    pub cosignatures: Vec<[u8; 64]>,
}

/// Why a signed list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the list is not signed by the operator's key {key}")]
    Signature { key: String },
    #[error(
        "the list bears {found} of the {needed} signatures that the operator's keys ({keys}) must give; add one with \
         `zerkalo mirrors cosign FILE`"
    )]
    TooFew { found: usize, needed: usize, keys: String },
    #[error(
        "the list names other keys of the operator ({keys}) and bears {found} of the {needed} signatures these must give \
         too; add one with `zerkalo mirrors cosign FILE`"
    )]
    NewKeys { found: usize, needed: usize, keys: String },
    #[error("the list cannot be read")]
    Malformed(#[source] serde_json::Error),
    #[error("the list is refused")]
    Target(#[source] crate::target::TargetError),
}

impl SignedList {
    /// Signs a list.
    pub fn sign(list: &crate::target::MirrorList, key: &SecretKey) -> Self {
        let bytes = serde_json::to_vec(list).expect("a mirror list has only text keys");
        let signature = key.0.sign(&list_bytes(&bytes)).to_bytes();
        Self { bytes, signature, cosignatures: Vec::new() }
    }

    /// Adds another key's signature; `false` where that key has signed already.
    pub fn cosign(&mut self, key: &SecretKey) -> bool {
        let is_new = self.signed_by(&key.public().into()) == 0;
        if is_new {
            self.cosignatures.push(key.0.sign(&list_bytes(&self.bytes)).to_bytes());
        }
        is_new
    }

    /// How many of these keys have signed.
    pub fn signed_by(&self, keys: &OperatorKeys) -> usize {
        let bytes = list_bytes(&self.bytes);
        let signatures = || {
            let cosignatures = self.cosignatures.iter().take(OPERATOR_KEYS_MAX);
            std::iter::once(&self.signature).chain(cosignatures).map(Signature::from_bytes)
        };
        let has_signed = |key: &&PublicKey| signatures().any(|one| key.0.verify(&bytes, &one).is_ok());
        keys.keys().iter().filter(has_signed).count()
    }

    /// Verifies, parses and validates; the only way to a list. One that names the operator's keys must bear enough of
    /// their signatures too, so that nobody is locked out by a key that does not exist.
    pub fn open(&self, keys: impl Into<OperatorKeys>) -> Result<crate::target::MirrorList, ListError> {
        let keys = keys.into();
        let (found, needed) = (self.signed_by(&keys), keys.threshold());
        if found < needed {
            return Err(match keys.keys() {
                [key] => ListError::Signature { key: key.to_hex() },
                _ => ListError::TooFew { found, needed, keys: keys.to_string() },
            });
        }
        let list: crate::target::MirrorList =
            serde_json::from_slice(&self.bytes).map_err(ListError::Malformed)?;
        if let Some(named) = list.keys.as_ref().filter(|named| **named != keys) {
            let (found, needed) = (self.signed_by(named), named.threshold());
            if found < needed {
                return Err(ListError::NewKeys { found, needed, keys: named.to_string() });
            }
        }
        list.validate().map_err(ListError::Target)?;
        Ok(list)
    }
}

fn list_bytes(bytes: &[u8]) -> Vec<u8> {
    [LIST_DOMAIN, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent() -> AgentId {
        AgentId::parse("a1").unwrap()
    }

    #[test]
    fn any_changed_bit_breaks_the_signature() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let good = SignedRecord::sign(&agent(), ChainLink::start(1), b"facts".to_vec(), &key);
        assert_eq!(good.verify(&key.public()), Ok(()));
        let check = |change: &dyn Fn(&mut SignedRecord)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(bad.verify(&key.public()), Err(BadSignature));
        };
        check(&|r| r.body[0] ^= 1);
        check(&|r| r.epoch += 1);
        check(&|r| r.sequence += 1);
        check(&|r| r.previous.0[31] ^= 1);
        check(&|r| r.signature[0] ^= 1);
        check(&|r| r.agent = AgentId::parse("a2").unwrap());
        assert_eq!(good.verify(&SecretKey::from_bytes(&[8; 32]).public()), Err(BadSignature));
    }

    #[test]
    fn a_list_needs_as_many_keys_as_the_operator_said_and_changes_them_by_the_old_ones() {
        use crate::target::MirrorList;
        use crate::words::UnixMillis;
        let secret = |number| SecretKey::from_bytes(&[number; 32]);
        let keys = |numbers: &[u8], threshold| {
            OperatorKeys::new(numbers.iter().map(|number| secret(*number).public()).collect(), threshold)
                .unwrap()
        };
        let list = |keys| MirrorList { version: 1, issued_at: UnixMillis(1), keys, ..MirrorList::default() };
        let signed = |list: &MirrorList, by: &[u8]| {
            let mut signed = SignedList::sign(list, &secret(by[0]));
            assert!(by[1..].iter().all(|number| signed.cosign(&secret(*number))));
            signed
        };
        let (old, new) = (keys(&[1, 2, 3], 2), keys(&[3, 4, 5], 2));
        let plain = list(None);
        assert!(signed(&plain, &[1, 3]).open(&old).is_ok());
        assert!(matches!(
            signed(&plain, &[1]).open(&old),
            Err(ListError::TooFew { found: 1, needed: 2, .. })
        ));
        // The same key twice is one; a stranger's is none.
        assert!(!signed(&plain, &[1]).cosign(&secret(1)));
        assert!(matches!(signed(&plain, &[1, 9]).open(&old), Err(ListError::TooFew { found: 1, .. })));
        let mut twice = signed(&plain, &[1]);
        twice.cosignatures.push(twice.signature);
        assert!(matches!(twice.open(&old), Err(ListError::TooFew { found: 1, .. })));
        // Other keys: by the old ones, and by the new ones too.
        let changing = list(Some(new.clone()));
        assert!(matches!(signed(&changing, &[1, 2]).open(&old), Err(ListError::NewKeys { found: 0, .. })));
        assert!(matches!(signed(&changing, &[4, 5]).open(&old), Err(ListError::TooFew { found: 0, .. })));
        let changed = signed(&changing, &[1, 3, 4]);
        assert!(changed.open(&old).is_ok() && changed.open(&new).is_ok());
        // And from one key to several.
        let first = signed(&list(Some(old.clone())), &[1, 2]);
        assert!(first.open(secret(1).public()).is_ok() && first.open(secret(2).public()).is_ok());
        assert!(matches!(first.open(secret(9).public()), Err(ListError::Signature { .. })));
    }

    #[test]
    fn weak_keys_are_refused() {
        assert_eq!(PublicKey::from_bytes(&[0; 32]), Err(BadKey));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(BadKey));
    }

    proptest! {
        #[test]
        fn different_statements_have_different_bytes(
            a in "[a-z][a-z0-9]{0,8}", b in "[a-z][a-z0-9]{0,8}",
            x in proptest::collection::vec(any::<u8>(), 0..40), y in proptest::collection::vec(any::<u8>(), 0..40),
            e in 0u64..3, s in 0u64..3,
        ) {
            let make = |agent: &str, body: &Vec<u8>, epoch, sequence| SignedRecord {
                agent: AgentId::parse(agent).unwrap(), epoch, sequence, previous: Sha256::default(),
                body: body.clone(), signature: [0; 64],
            };
            let (left, right) = (make(&a, &x, e, 1), make(&b, &y, 1, s));
            prop_assert_eq!(left == right, left.signing_bytes() == right.signing_bytes());
        }
    }
}
