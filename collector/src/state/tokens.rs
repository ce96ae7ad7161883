//! Enrolment tokens, each under what names it.

use std::sync::PoisonError;

use zerkalo_core::identity::TokenMacKey;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::{Batch, Table};

use super::{State, StateError, json};
use crate::token::Token;

pub(super) const TOKENS: Table = Table("token");
/// How long a token is remembered after its time: its box hears that it has expired, not that nobody knows it.
const REMEMBERED_SECS: u64 = 30 * 86_400;
/// How long a count of them is good for.
const COUNTED_SECS: u64 = 3_600;

impl State {
    /// What is known of the token of this id.
    pub fn token(&self, id: &Sha256) -> Result<Option<Token>, StateError> {
        let found = self.with(|store| store.read(TOKENS, &id.0))?;
        found.map(|bytes| self.parse("a token", &bytes)).transpose()
    }

    /// Keeps a token: a new one, a used one, or one given back.
    pub fn put_token(&self, id: &Sha256, token: &Token) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.put(TOKENS, &id.0, &json(token));
        self.commit(batch)
    }

    /// Whether one more token may be kept, of so many at most; it is counted. Reading them all takes long where there are
    /// thousands, so it is done now and then, and where they seem too many.
    pub fn has_room_for_token(&self, now: UnixMillis, max: usize) -> Result<bool, StateError> {
        let mut counted = self.tokens_counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted.filter(|(at, kept)| *kept < max && now < at.plus_secs(COUNTED_SECS));
        let (at, kept) = match known {
            Some(known) => known,
            None => (now, self.prune_tokens(now)?),
        };
        let has_room = kept < max;
        *counted = Some((at, if has_room { kept + 1 } else { kept }));
        Ok(has_room)
    }

    /// Forgets the tokens whose time was over long ago; gives how many are left.
    pub fn prune_tokens(&self, now: UnixMillis) -> Result<usize, StateError> {
        let (mut batch, mut left, mut gone) = (Batch::default(), 0, 0);
        for (key, token) in self.tokens()? {
            if token.expires_at.plus_secs(REMEMBERED_SECS) <= now {
                batch.delete(TOKENS, &key);
                gone += 1;
            } else {
                left += 1;
            }
        }
        if gone > 0 {
            self.commit(batch)?;
            tracing::info!(gone, left, "forgot tokens whose time was over long ago");
        }
        Ok(left)
    }

    /// Older collectors kept a token under the digest of its secret.
    pub(super) fn rename_tokens(&self) -> Result<(), StateError> {
        let (mut batch, mut is_changed) = (Batch::default(), false);
        for (key, token) in self.tokens()? {
            let Some(digest) = token.mac_key.is_none().then(|| key.as_slice().try_into().ok()).flatten()
            else {
                continue;
            };
            let mac_key = TokenMacKey(Sha256(digest));
            let id = mac_key.token_id();
            batch.delete(TOKENS, &key);
            batch.put(TOKENS, &id.0, &json(&Token { mac_key: Some(mac_key.0), ..token }));
            is_changed = true;
        }
        if is_changed { self.commit(batch) } else { Ok(()) }
    }

    fn tokens(&self) -> Result<Vec<(Vec<u8>, Token)>, StateError> {
        let found = self.with(|store| store.scan(TOKENS, &[]).collect::<Result<Vec<_>, _>>())?;
        found.into_iter().map(|(key, bytes)| Ok((key.to_vec(), self.parse("a token", &bytes)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenSecret;
    use zerkalo_core::words::{OwnerId, Station};

    #[test]
    fn old_tokens_get_their_new_name_and_dead_ones_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secret = TokenSecret::generate();
        let owner = OwnerId::parse("anna").unwrap();
        let token = Token::new(&secret, owner, Station::Control, None, UnixMillis(1_000));
        let id = secret.id();
        {
            let state = State::open(dir.path()).unwrap();
            let old = Token { mac_key: None, prover: None, ..token.clone() };
            state.put_token(&secret.mac_key().0, &old).unwrap();
            assert_eq!(state.token(&id).unwrap(), None);
        }
        let state = State::open(dir.path()).unwrap();
        let renamed = state.token(&id).unwrap().unwrap();
        assert_eq!((renamed.mac_key, renamed.prover), (Some(secret.mac_key().0), None));
        assert_eq!(state.token(&secret.mac_key().0).unwrap(), None);
        let end = token.expires_at.plus_secs(REMEMBERED_SECS);
        assert_eq!(state.prune_tokens(end.minus_millis(1)).unwrap(), 1);
        // Counted once, a token is made room for as long as there is some; beyond that the dead ones go first.
        let room = |now, max| state.has_room_for_token(now, max).unwrap();
        assert!(room(UnixMillis(0), 3) && room(UnixMillis(0), 3) && !room(UnixMillis(0), 1));
        assert!(!room(end.minus_millis(1), 1) && room(end, 1));
        assert_eq!(state.prune_tokens(end).unwrap(), 0);
        assert_eq!(state.token(&id).unwrap(), None);
    }
}
