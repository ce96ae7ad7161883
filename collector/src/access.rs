//! Who may ask, under which name and within which scope: tokens of the collector's directory and those made over the wire.
//!
//! A name is borne by one living token and a token bears one name, so two names of an order are two tokens. What is made
//! or revoked is on the disk with its line of the audit log before it holds. Those of the directory are read anew when
//! the collector is told to (SIGHUP).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;
use zerkalo_core::audit::Act;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use crate::clock;
use crate::people::{self, People, Person, Scope, same};
use crate::state::{ApiToken, State, StateError};
use crate::token::TokenSecret;

/// Most tokens made over the wire: each call looks at them all.
const TOKENS_MAX: usize = 100;
/// Bounds of a token's life, and what it is if nothing is asked for.
const DAYS_MIN: u32 = 1;
/// See [`DAYS_MIN`].
const DAYS_MAX: u32 = 365;
/// See [`DAYS_MIN`].
const DAYS_DEFAULT: u32 = 90;
const DAY_SECS: u64 = 86_400;
/// Digits of a token's digest that name it in the audit log.
const ID_LEN: usize = 12;
/// Stands in the audit log for whoever has the collector's directory.
pub const DIRECTORY: &str = "(collector's directory)";

/// Whose call it is; only ever made from a token that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearing {
    pub person: Person,
    pub scope: Scope,
    token: Sha256,
    expires_at: Option<UnixMillis>,
}

impl Bearing {
    /// What the person did, for the audit log.
    pub fn act(&self, act: &'static str, about: Vec<(&'static str, String)>) -> Act {
        let mut token = self.token.to_string();
        token.truncate(ID_LEN);
        Act { by: self.person.0.clone(), token, act, about }
    }
}

/// Why a token opens nothing, or is not made or revoked.
#[derive(Debug, thiserror::Error)]
pub enum AccessRefusal {
    #[error("the API token is missing or wrong; see api_token in operator.toml")]
    Unknown,
    #[error(
        "the API token of {name} expired at {at}; ask an admin for a new one: `zerkalo tokens create --name {name} \
         --scope ...`"
    )]
    Expired { name: String, at: UnixMillis },
    #[error("{name:?} is no person's name: 1 to 63 of a-z, 0-9, '-', '_', '.'")]
    Name { name: String },
    #[error("{scope:?} is no scope; it is viewer, operator or admin")]
    Scope { scope: String },
    #[error("a token lives from {DAYS_MIN} to {DAYS_MAX} days, not {days}")]
    Days { days: u32 },
    #[error(
        "{name} has a token already: revoke it first (`zerkalo tokens revoke {name}`), or choose another name"
    )]
    Taken { name: String },
    #[error("nobody called {name:?} has a token; `zerkalo tokens ls` names them")]
    Nobody { name: String },
    #[error(
        "{name} is the last admin; make another one first (`zerkalo tokens create --name NAME --scope admin`), or nobody \
         could make tokens any more"
    )]
    LastAdmin { name: String },
    #[error("{TOKENS_MAX} tokens are the most; revoke one first")]
    TooMany,
    #[error("the collector's state cannot be used; its log says why")]
    State(#[source] StateError),
}

impl AccessRefusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unauthenticated",
            Self::Expired { .. } => "api_token_expired",
            Self::Name { .. } | Self::Scope { .. } | Self::Days { .. } => "bad_request",
            Self::Taken { .. } => "name_taken",
            Self::Nobody { .. } => "unknown_person",
            Self::LastAdmin { .. } => "last_admin",
            Self::TooMany => "too_many_tokens",
            Self::State(error) if error.is_full() => crate::engine::STORAGE_FULL,
            Self::State(_) => "storage_failed",
        }
    }
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub scope: Scope,
    /// `None`: it stands in the collector's directory.
    pub made: Option<(UnixMillis, String)>,
    pub expires_at: Option<UnixMillis>,
}

/// All tokens, in memory beside the state.
#[derive(Debug)]
pub struct Access {
    state: Arc<State>,
    known: RwLock<Known>,
    /// Rises with each token revoked: what it watches must end.
    revocations: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    /// Of the collector's directory.
    configured: People,
    made: BTreeMap<Sha256, ApiToken>,
    revoked: BTreeSet<Sha256>,
}

impl Access {
    /// Reads them all; who came into or left the collector's directory since the last start goes into the audit log.
    pub fn open(state: Arc<State>, configured: People) -> Result<Self, StateError> {
        let known = state.api_tokens()?;
        audit(&state, &configured)?;
        let (made, revoked) = (known.made.into_iter().collect(), known.revoked.into_iter().collect());
        let known = Known { configured, made, revoked };
        Ok(Self { state, known: RwLock::new(known), revocations: watch::Sender::new(0) })
    }

    /// Puts the people of the collector's directory in force as they are now; who left it is let in no more. Gives how
    /// many came and left.
    pub fn configure(&self, configured: People) -> Result<(usize, usize), StateError> {
        audit(&self.state, &configured)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let lacks = |people: &People, one: &(Person, Sha256)| !people.0.contains(one);
        let came = configured.0.iter().filter(|one| lacks(&known.configured, one)).count();
        let left = known.configured.0.iter().filter(|one| lacks(&configured, one)).count();
        known.configured = configured;
        drop(known);
        if left > 0 {
            self.revocations.send_modify(|count| *count += 1);
        }
        Ok((came, left))
    }

    /// Whose token it is. All digests are compared, whichever fits, so that time tells nothing of them.
    pub fn bearer(&self, token: &str, now: UnixMillis) -> Result<Bearing, AccessRefusal> {
        let digest = Sha256::of(token.as_bytes());
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_revoked = known.revoked.iter().fold(false, |is, revoked| is | same(&digest, revoked));
        let configured = known.configured.0.iter().fold(None, |found, (person, one)| {
            let bearing =
                || Bearing { person: person.clone(), scope: Scope::Admin, token: digest, expires_at: None };
            if same(&digest, one) { Some(bearing()) } else { found }
        });
        let made = known.made.iter().fold(None, |found, (one, token)| {
            let bearing = || Bearing {
                person: Person(token.name.clone()),
                scope: token.scope,
                token: digest,
                expires_at: Some(token.expires_at),
            };
            if same(&digest, one) { Some(bearing()) } else { found }
        });
        let bearing = configured.or(made).filter(|_| !is_revoked).ok_or(AccessRefusal::Unknown)?;
        match bearing.expires_at {
            Some(at) if at <= now => Err(AccessRefusal::Expired { name: bearing.person.0, at }),
            _ => Ok(bearing),
        }
    }

    /// Whether a token that was good still is.
    pub fn is_live(&self, bearing: &Bearing, now: UnixMillis) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_configured = known.configured.0.iter().any(|(_, digest)| *digest == bearing.token);
        let is_kept = known.made.contains_key(&bearing.token) || is_configured;
        is_kept
            && !known.revoked.contains(&bearing.token)
            && bearing.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Wakes after each revocation.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Makes a token; gives its secret and its end.
    pub fn create(
        &self,
        by: &Bearing,
        name: &str,
        scope: &str,
        days: u32,
    ) -> Result<(TokenSecret, UnixMillis), AccessRefusal> {
        let short = || name.chars().take(80).collect::<String>();
        if !people::is_name(name) {
            return Err(AccessRefusal::Name { name: short() });
        }
        let scope = Scope::parse(scope)
            .ok_or_else(|| AccessRefusal::Scope { scope: scope.chars().take(80).collect() })?;
        let days = if days == 0 { DAYS_DEFAULT } else { days };
        if !(DAYS_MIN..=DAYS_MAX).contains(&days) {
            return Err(AccessRefusal::Days { days });
        }
        let now = clock::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let living = self.living(&known, now);
        if living.iter().any(|(_, one)| one.name == name) {
            return Err(AccessRefusal::Taken { name: name.to_owned() });
        }
        if known.made.values().filter(|token| now < token.expires_at).count() >= TOKENS_MAX {
            return Err(AccessRefusal::TooMany);
        }
        let secret = TokenSecret::generate();
        let expires_at = now.plus_secs(u64::from(days) * DAY_SECS);
        let made_by = by.person.0.clone();
        let token = ApiToken { name: name.to_owned(), scope, made_at: now, made_by, expires_at };
        let about = vec![
            ("name", token.name.clone()),
            ("scope", scope.word().to_owned()),
            ("expires_at", expires_at.to_string()),
        ];
        let act = by.act("api_token.create", about);
        self.state.put_api_token(&secret.digest(), &token, &act).map_err(AccessRefusal::State)?;
        // One of the name that has expired is nobody's any more.
        known.made.retain(|_, one| one.name != name);
        known.made.insert(secret.digest(), token);
        Ok((secret, expires_at))
    }

    /// Revokes a person's token.
    pub fn revoke(&self, by: &Bearing, name: &str) -> Result<(), AccessRefusal> {
        let now = clock::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let living = self.living(&known, now);
        let expired = known.made.iter().find(|(_, token)| token.name == name).map(|(digest, _)| *digest);
        let found = living.iter().find(|(_, one)| one.name == name).map(|(digest, _)| *digest);
        let nobody = || AccessRefusal::Nobody { name: name.chars().take(80).collect() };
        let digest = found.or(expired).ok_or_else(nobody)?;
        let is_admin = |(one, listed): &&(Sha256, Listed)| listed.scope == Scope::Admin && *one != digest;
        if found.is_some() && living.iter().find(is_admin).is_none() {
            return Err(AccessRefusal::LastAdmin { name: name.to_owned() });
        }
        let act = by.act("api_token.revoke", vec![("name", name.to_owned())]);
        self.state.revoke_api_token(&digest, &act).map_err(AccessRefusal::State)?;
        known.made.remove(&digest);
        known.revoked.insert(digest);
        drop(known);
        self.revocations.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Everybody: those of the directory first; who expired last.
    pub fn all(&self, now: UnixMillis) -> Vec<Listed> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Listed> = self.living(&known, now).into_iter().map(|(_, one)| one).collect();
        all.extend(known.made.values().filter(|token| token.expires_at <= now).map(listed));
        all
    }

    fn living(&self, known: &Known, now: UnixMillis) -> Vec<(Sha256, Listed)> {
        let configured = known.configured.0.iter().filter(|(_, digest)| !known.revoked.contains(digest));
        let configured = configured.map(|(person, digest)| {
            let name = person.0.clone();
            (*digest, Listed { name, scope: Scope::Admin, made: None, expires_at: None })
        });
        let made = known.made.iter().filter(|(_, token)| now < token.expires_at);
        configured.chain(made.map(|(digest, token)| (*digest, listed(token)))).collect()
    }
}

/// Who came into or left the collector's directory goes into the audit log.
fn audit(state: &State, configured: &People) -> Result<(), StateError> {
    let names: Vec<&str> = configured.0.iter().map(|(person, _)| person.0.as_str()).collect();
    let all: Vec<String> =
        configured.0.iter().map(|(person, digest)| format!("{} {digest}\n", person.0)).collect();
    let about = vec![("operators", names.join(" "))];
    let act = Act { by: DIRECTORY.to_owned(), token: String::new(), act: "operators.change", about };
    state.audit_configured(&Sha256::of(all.concat().as_bytes()), &act)
}

fn listed(token: &ApiToken) -> Listed {
    Listed {
        name: token.name.clone(),
        scope: token.scope,
        made: Some((token.made_at, token.made_by.clone())),
        expires_at: Some(token.expires_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(dir.path()).unwrap());
        (dir, Access::open(state, first_alone()).unwrap())
    }

    fn first_alone() -> People {
        People(vec![(Person("operator".to_owned()), Sha256::of(b"first"))])
    }

    fn code<T>(result: Result<T, AccessRefusal>) -> &'static str {
        result.map_or_else(|error| error.code(), |_| "ok")
    }

    #[test]
    fn the_token_of_an_old_file_is_an_admins_and_a_made_one_has_its_scope_until_it_expires() {
        let (_dir, access) = access();
        let now = clock::now();
        let first = access.bearer("first", now).unwrap();
        assert_eq!((first.person.0.as_str(), first.scope), ("operator", Scope::Admin));
        assert_eq!(code(access.bearer("guess", now)), "unauthenticated");
        assert_eq!(code(access.bearer("", now)), "unauthenticated");
        let (secret, expires_at) = access.create(&first, "anna", "viewer", 1).unwrap();
        let anna = access.bearer(secret.reveal(), now).unwrap();
        assert_eq!((anna.person.0.as_str(), anna.scope), ("anna", Scope::Viewer));
        assert!(access.is_live(&anna, now) && !access.is_live(&anna, expires_at));
        assert_eq!(code(access.bearer(secret.reveal(), expires_at)), "api_token_expired");
        for (name, scope, days, expected) in [
            ("anna", "viewer", 1, "name_taken"),
            ("operator", "viewer", 1, "name_taken"),
            ("../x", "viewer", 1, "bad_request"),
            ("boris", "root", 1, "bad_request"),
            ("boris", "viewer", 366, "bad_request"),
            ("boris", "viewer", 0, "ok"),
        ] {
            assert_eq!(code(access.create(&first, name, scope, days)), expected, "{name} {scope} {days}");
        }
    }

    #[test]
    fn the_last_admin_cannot_be_removed_and_a_removed_one_stays_out() {
        let (_dir, access) = access();
        let now = clock::now();
        let first = access.bearer("first", now).unwrap();
        access.create(&first, "viewer", "viewer", 1).unwrap();
        assert_eq!(code(access.revoke(&first, "operator")), "last_admin");
        assert_eq!(code(access.revoke(&first, "nobody")), "unknown_person");
        let (secret, _) = access.create(&first, "anna", "admin", 1).unwrap();
        let anna = access.bearer(secret.reveal(), now).unwrap();
        let revocations = access.revocations();
        assert_eq!(code(access.revoke(&anna, "operator")), "ok");
        assert!(revocations.has_changed().unwrap() && !access.is_live(&first, now));
        assert_eq!(code(access.bearer("first", now)), "unauthenticated");
        assert_eq!(code(access.revoke(&anna, "anna")), "last_admin");
        // At the next start too.
        let again = Access::open(access.state.clone(), first_alone()).unwrap();
        assert_eq!(code(again.bearer("first", now)), "unauthenticated");
        assert_eq!(again.bearer(secret.reveal(), now).unwrap(), anna);
        assert_eq!(again.all(now).len(), 2);
    }

    #[test]
    fn who_leaves_the_directory_is_let_in_no_more() {
        let (_dir, access) = access();
        let now = clock::now();
        let mut both = first_alone();
        both.0.push((Person("boris".to_owned()), Sha256::of(b"second")));
        assert_eq!(access.configure(both).unwrap(), (1, 0));
        let boris = access.bearer("second", now).unwrap();
        assert!(access.is_live(&boris, now));
        let revocations = access.revocations();
        assert_eq!(access.configure(first_alone()).unwrap(), (0, 1));
        assert!(revocations.has_changed().unwrap() && !access.is_live(&boris, now));
        assert_eq!(code(access.bearer("second", now)), "unauthenticated");
        assert!(access.is_live(&access.bearer("first", now).unwrap(), now));
    }
}
