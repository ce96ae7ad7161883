//! The audit log and the API tokens, which nothing else could make again: a change and its line are one commit.

use serde::{Deserialize, Serialize};
use zerkalo_core::audit::{Act, AuditHead, BrokenChain};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::{Batch, Store, Table};

use super::{State, StateError, json};
use crate::clock;
use crate::people::Scope;
use crate::token::Token;

/// Number (u64, big-endian) to the line.
const LINES: Table = Table("audit");
/// [`HEAD`] to the chain's head; [`CONFIGURED`] to a digest.
const MARKS: Table = Table("audit-mark");
const HEAD: &[u8] = b"head";
/// Digest of the operators that stood in the directory when a line was last written of them.
const CONFIGURED: &[u8] = b"configured";
/// Digest of the secret to [`ApiToken`].
const API_TOKENS: Table = Table("api-token");
/// Digests of tokens that stand in the collector's directory and count no more, to when.
const REVOKED: Table = Table("api-token-revoked");

/// A person's token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    pub name: String,
    pub scope: Scope,
    pub made_at: UnixMillis,
    pub made_by: String,
    pub expires_at: UnixMillis,
}

/// Whose tokens there are, at the start.
#[derive(Debug, Clone, Default)]
pub struct KnownTokens {
    pub made: Vec<(Sha256, ApiToken)>,
    /// Of those in the collector's directory.
    pub revoked: Vec<Sha256>,
}

impl State {
    /// Writes a line down; gives its number. On the disk when this returns.
    pub fn audit(&self, act: &Act) -> Result<u64, StateError> {
        self.audit_with(act, |_| {})
    }

    /// Keeps an enrolment token that was made.
    pub fn put_new_token(&self, digest: &Sha256, token: &Token, act: &Act) -> Result<u64, StateError> {
        self.audit_with(act, |batch| batch.put(super::tokens::TOKENS, &digest.0, &json(token)))
    }

    /// Keeps an API token.
    pub fn put_api_token(&self, digest: &Sha256, token: &ApiToken, act: &Act) -> Result<u64, StateError> {
        self.audit_with(act, |batch| batch.put(API_TOKENS, &digest.0, &json(token)))
    }

    /// Revokes one, wherever it stands.
    pub fn revoke_api_token(&self, digest: &Sha256, act: &Act) -> Result<u64, StateError> {
        self.audit_with(act, |batch| {
            batch.delete(API_TOKENS, &digest.0);
            batch.put(REVOKED, &digest.0, &json(&clock::now()));
        })
    }

    /// Writes a line if who stands in the collector's directory is not who stood there at the last start.
    pub fn audit_configured(&self, people: &Sha256, act: &Act) -> Result<(), StateError> {
        let known = self.with(|store| store.read(MARKS, CONFIGURED))?;
        if known.as_deref() == Some(&people.0[..]) {
            return Ok(());
        }
        self.audit_with(act, |batch| batch.put(MARKS, CONFIGURED, &people.0)).map(drop)
    }

    /// Every API token.
    pub fn api_tokens(&self) -> Result<KnownTokens, StateError> {
        let (made, revoked) = self.with(|store| {
            let made = store.scan(API_TOKENS, &[]).collect::<Result<Vec<_>, _>>()?;
            Ok((made, store.scan(REVOKED, &[]).collect::<Result<Vec<_>, _>>()?))
        })?;
        let digest = |key: &[u8]| key.try_into().map(Sha256).map_err(|_| self.malformed("an API token"));
        let made = made.iter().map(|(key, value)| Ok((digest(key)?, self.parse("an API token", value)?)));
        Ok(KnownTokens {
            made: made.collect::<Result<_, StateError>>()?,
            revoked: revoked.iter().map(|(key, _)| digest(key)).collect::<Result<_, _>>()?,
        })
    }

    /// Lines after a number, at most so many bytes and lines, and the head of the whole chain.
    pub fn audit_lines(
        &self,
        after: u64,
        count_max: usize,
        len_max: usize,
    ) -> Result<(Vec<String>, AuditHead), StateError> {
        let start = after.saturating_add(1).to_be_bytes();
        let (found, head) = self.with(|store| {
            let (mut found, mut len) = (Vec::new(), 0);
            for line in store.scan(LINES, &start).take(count_max) {
                let (_, line) = line?;
                len += line.len();
                if len > len_max && !found.is_empty() {
                    break;
                }
                found.push(line);
            }
            Ok((found, store.read(MARKS, HEAD)?))
        })?;
        let lines = found.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned());
        Ok((lines.collect(), self.head(head)?))
    }

    /// Follows the whole chain to its head.
    pub fn check_audit(&self) -> Result<Result<AuditHead, BrokenChain>, StateError> {
        let (mut at, mut broken) = (AuditHead::default(), None);
        let head = self.with(|store| {
            for line in store.scan(LINES, &[]) {
                match at.follow(&String::from_utf8_lossy(&line?.1)) {
                    Ok((_, next)) => at = next,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            store.read(MARKS, HEAD)
        })?;
        let head = self.head(head)?;
        Ok(broken.map_or_else(|| at.require(&head).map(|()| at), Err))
    }

    /// One commit: the line, and what it speaks of.
    pub(super) fn audit_with(&self, act: &Act, change: impl FnOnce(&mut Batch)) -> Result<u64, StateError> {
        self.change(|store: &Store| {
            let head = self.head(store.read(MARKS, HEAD)?)?;
            let (line, next) = head.append(clock::now(), act);
            let mut batch = Batch::default();
            batch.put(LINES, &next.number.to_be_bytes(), line.as_bytes());
            batch.put(MARKS, HEAD, &json(&next));
            change(&mut batch);
            Ok((next.number, batch))
        })
    }

    fn head(&self, bytes: Option<Vec<u8>>) -> Result<AuditHead, StateError> {
        bytes.map_or(Ok(AuditHead::default()), |bytes| self.parse("the audit log's head", &bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(by: &str) -> Act {
        Act { by: by.to_owned(), token: String::new(), act: "order.freeze", about: vec![] }
    }

    #[test]
    fn lines_and_what_they_speak_of_survive_and_a_changed_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let token = ApiToken {
            name: "anna".to_owned(),
            scope: Scope::Viewer,
            made_at: UnixMillis(1),
            made_by: "operator".to_owned(),
            expires_at: UnixMillis(2),
        };
        let digest = Sha256::of(b"secret");
        {
            let state = State::open(dir.path()).unwrap();
            assert_eq!(state.audit(&act("anna")).unwrap(), 1);
            assert_eq!(state.put_api_token(&digest, &token, &act("boris")).unwrap(), 2);
        }
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.api_tokens().unwrap().made, [(digest, token)]);
        let (lines, head) = state.audit_lines(0, 10, usize::MAX).unwrap();
        assert_eq!((lines.len(), head.number), (2, 2));
        assert_eq!(state.audit_lines(1, 10, 1).unwrap().0, lines[1..]);
        assert_eq!(state.check_audit().unwrap(), Ok(head));
        state.revoke_api_token(&digest, &act("boris")).unwrap();
        let known = state.api_tokens().unwrap();
        assert_eq!((known.made.len(), known.revoked), (0, vec![digest]));
        let mut batch = Batch::default();
        batch.put(LINES, &1u64.to_be_bytes(), lines[0].replace("anna", "carl").as_bytes());
        state.commit(batch).unwrap();
        assert_eq!(state.check_audit().unwrap().unwrap_err().number(), 2);
        let mut batch = Batch::default();
        batch.put(LINES, &1u64.to_be_bytes(), lines[0].as_bytes());
        batch.delete(LINES, &3u64.to_be_bytes());
        state.commit(batch).unwrap();
        assert_eq!(state.check_audit().unwrap(), Err(BrokenChain::Head { number: 2, noted: 3 }));
    }

    #[test]
    fn who_stands_in_the_directory_is_written_down_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        for (people, expected) in [(b"one", 1), (b"one", 1), (b"two", 2)] {
            state.audit_configured(&Sha256::of(people), &act("directory")).unwrap();
            assert_eq!(state.audit_lines(0, 9, 9_999).unwrap().1.number, expected);
        }
    }
}
