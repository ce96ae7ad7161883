//! The keys of the operator, and how many of them must sign a mirror list.

use serde::{Deserialize, Serialize};

use crate::evidence::PublicKey;

/// Most keys of one operator: each list is checked against them all.
pub const OPERATOR_KEYS_MAX: usize = 8;

/// Some keys, of which `threshold` must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct OperatorKeys {
    keys: Vec<PublicKey>,
    threshold: usize,
}

/// Why keys are none an operator can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorKeysError {
    #[error("{threshold} of {keys} keys cannot sign; the threshold goes from 1 to the number of keys")]
    Threshold { threshold: usize, keys: usize },
    #[error("there are {keys} keys; 1 to {OPERATOR_KEYS_MAX} can be an operator's")]
    Count { keys: usize },
    #[error("the key {key} stands twice; each counts once")]
    Twice { key: String },
    #[error("{text:?} is no public key: 64 hexadecimal digits, of full order")]
    Key { text: String },
}

/// As lists and files hold them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    keys: Vec<String>,
    threshold: usize,
}

impl OperatorKeys {
    /// Checks keys and threshold.
    pub fn new(keys: Vec<PublicKey>, threshold: usize) -> Result<Self, OperatorKeysError> {
        let count = keys.len();
        if !(1..=OPERATOR_KEYS_MAX).contains(&count) {
            return Err(OperatorKeysError::Count { keys: count });
        }
        if !(1..=count).contains(&threshold) {
            return Err(OperatorKeysError::Threshold { threshold, keys: count });
        }
        if let Some(twice) = keys.iter().enumerate().find(|(place, key)| keys[..*place].contains(key)) {
            return Err(OperatorKeysError::Twice { key: twice.1.to_hex() });
        }
        Ok(Self { keys, threshold })
    }

    /// Reads keys written in hexadecimal digits.
    pub fn parse(keys: &[impl AsRef<str>], threshold: usize) -> Result<Self, OperatorKeysError> {
        let read = |text: &str| {
            PublicKey::from_hex(text)
                .map_err(|_| OperatorKeysError::Key { text: text.chars().take(80).collect() })
        };
        let keys = keys.iter().map(|text| read(text.as_ref())).collect::<Result<_, _>>()?;
        Self::new(keys, threshold)
    }

    /// All of them.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// How many must sign.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The first: the only one of an operator with one.
    pub fn first(&self) -> PublicKey {
        self.keys[0]
    }

    /// In hexadecimal digits.
    pub fn to_hex(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.to_hex()).collect()
    }
}

impl From<PublicKey> for OperatorKeys {
    fn from(key: PublicKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }
}

impl From<&PublicKey> for OperatorKeys {
    fn from(key: &PublicKey) -> Self {
        (*key).into()
    }
}

impl From<&Self> for OperatorKeys {
    fn from(keys: &Self) -> Self {
        keys.clone()
    }
}

impl std::fmt::Display for OperatorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.threshold, &self.keys[..]) {
            (1, [key]) => f.write_str(&key.to_hex()),
            (threshold, keys) => write!(f, "{threshold} of {}", {
                let short: Vec<_> = keys.iter().map(|key| key.to_hex()[..12].to_owned()).collect();
                short.join(", ")
            }),
        }
    }
}

impl TryFrom<Written> for OperatorKeys {
    type Error = OperatorKeysError;
    fn try_from(written: Written) -> Result<Self, OperatorKeysError> {
        Self::parse(&written.keys, written.threshold)
    }
}

impl From<OperatorKeys> for Written {
    fn from(keys: OperatorKeys) -> Self {
        Self { keys: keys.to_hex(), threshold: keys.threshold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::SecretKey;

    #[test]
    fn keys_that_cannot_be_an_operators_say_why() {
        let key = |number| SecretKey::from_bytes(&[number; 32]).public();
        let check = |keys: Vec<PublicKey>, threshold, part: &str| {
            let message = OperatorKeys::new(keys, threshold).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        check(vec![], 1, "0 keys");
        check((1..=9).map(key).collect(), 1, "9 keys");
        check(vec![key(1), key(2)], 3, "3 of 2");
        check(vec![key(1)], 0, "0 of 1");
        check(vec![key(1), key(2), key(1)], 2, "twice");
        let keys = OperatorKeys::new(vec![key(1), key(2), key(3)], 2).unwrap();
        let json = serde_json::to_string(&keys).unwrap();
        assert_eq!(serde_json::from_str::<OperatorKeys>(&json).unwrap(), keys);
        assert!(
            serde_json::from_str::<OperatorKeys>(&json.replace("\"threshold\":2", "\"threshold\":4"))
                .is_err()
        );
        assert!(keys.to_string().starts_with("2 of "));
    }
}
