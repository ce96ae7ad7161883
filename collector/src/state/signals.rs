//! Tokens of the signal endpoints: who may read a market's active mirror. Kept under the digest of their secret.

use serde::{Deserialize, Serialize};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{MarketId, UnixMillis};
use zerkalo_durable::store::{Batch, Table};

use super::{State, StateError, json};

const SIGNAL_TOKENS: Table = Table("signal-token");

/// What a signal token allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalToken {
    /// The markets that may be read with it.
    pub markets: Vec<MarketId>,
    pub made_at: UnixMillis,
    /// The operator who made it.
    pub made_by: String,
}

impl State {
    /// All of them, by digest.
    pub fn signal_tokens(&self) -> Result<Vec<(Sha256, SignalToken)>, StateError> {
        let found = self.with(|store| store.scan(SIGNAL_TOKENS, &[]).collect::<Result<Vec<_>, _>>())?;
        let entries = found.iter().map(|(key, value)| {
            let digest = key.as_slice().try_into().map_err(|_| self.malformed("a signal token"))?;
            Ok((Sha256(digest), self.parse("a signal token", value)?))
        });
        entries.collect()
    }

    /// Keeps one.
    pub fn put_signal_token(&self, digest: &Sha256, token: &SignalToken) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.put(SIGNAL_TOKENS, &digest.0, &json(token));
        self.commit(batch)
    }

    /// Removes one.
    pub fn remove_signal_token(&self, digest: &Sha256) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.delete(SIGNAL_TOKENS, &digest.0);
        self.commit(batch)
    }
}
