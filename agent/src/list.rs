//! The mirror list this box holds: only what enough of the operator's keys signed, only ever newer, and only until it ends.
//! Fetching it is the uplink's business.
//!
//! The keys are those of the enrolment until a list that they signed names others; from then on those are pinned in a
//! file of their own. A list of an older signer, without an end, runs for the longest life from when it was first held.

use serde::{Deserialize, Serialize};
use zerkalo_core::evidence::{ListError, SignedList};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::MirrorList;
use zerkalo_core::words::UnixMillis;

use crate::state::{StateDir, StateError};

/// The file in the state directory.
const FILE: &str = "list.json";
/// The operator's keys, where they are not the one key of the enrolment.
const KEYS_FILE: &str = "operator-keys.json";

/// Why a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ListRefusal {
    #[error("list version {offered} is not newer than version {held}, which this box holds")]
    NotNewer { offered: u64, held: u64 },
    #[error("the list is not the operator's")]
    NotOperators(#[source] ListError),
    #[error("the list cannot be stored")]
    Store(#[source] StateError),
}

/// The signed bytes as stored: text, for a list is JSON.
#[derive(Serialize, Deserialize)]
struct Stored {
    list: String,
    signature: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cosignatures: Vec<String>,
    /// Since when it is held; absent in files of before lists ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<UnixMillis>,
}

/// The list stored, checked again: the disk is not trusted with what a box may touch. Its end is always set. `None`
/// without one.
pub fn load(
    state: &StateDir,
    enrolled: &OperatorKeys,
    now: UnixMillis,
) -> Result<Option<MirrorList>, StateError> {
    let path = state.path(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let malformed = |detail: String| StateError::Malformed { path: path.clone(), detail };
    let stored: Stored =
        serde_json::from_str(&state.read(FILE)?).map_err(|error| malformed(error.to_string()))?;
    let read = |text: &String| {
        let mut signature = [0; 64];
        hex::decode_to_slice(text, &mut signature)
            .map(|()| signature)
            .map_err(|error| malformed(error.to_string()))
    };
    let signed = SignedList {
        signature: read(&stored.signature)?,
        cosignatures: stored.cosignatures.iter().map(read).collect::<Result<_, _>>()?,
        bytes: stored.list.into_bytes(),
    };
    let list = signed.open(&keys(state, enrolled)?).map_err(|error| malformed(error.to_string()))?;
    if stored.since.is_none() {
        store(state, &signed, now)?;
    }
    // A crash may have come between a list with other keys and the keys.
    list.keys.as_ref().map_or(Ok(()), |named| pin(state, named))?;
    Ok(Some(with_end(list, stored.since.unwrap_or(now))))
}

/// Takes a newer list: verified, then stored, then returned for use, with its end.
pub fn take(
    state: &StateDir,
    enrolled: &OperatorKeys,
    held_version: u64,
    signed: &SignedList,
    now: UnixMillis,
) -> Result<MirrorList, ListRefusal> {
    let keys = keys(state, enrolled).map_err(ListRefusal::Store)?;
    let list = signed.open(&keys).map_err(ListRefusal::NotOperators)?;
    if list.version <= held_version {
        return Err(ListRefusal::NotNewer { offered: list.version, held: held_version });
    }
    store(state, signed, now).map_err(ListRefusal::Store)?;
    if let Some(named) = list.keys.as_ref().filter(|named| **named != keys) {
        pin(state, named).map_err(ListRefusal::Store)?;
        tracing::warn!(keys = %named, "the operator's keys changed, by a list that the old ones signed");
    }
    Ok(with_end(list, now))
}

/// Pins the operator's keys of an enrolment.
pub fn pin(state: &StateDir, keys: &OperatorKeys) -> Result<(), StateError> {
    let json = serde_json::to_vec(keys).expect("keys are texts and a number");
    state.write(KEYS_FILE, &json)
}

/// Forgets keys that lists named: those of an enrolment are new.
pub fn unpin(state: &StateDir) -> Result<(), StateError> {
    state.remove(KEYS_FILE)
}

fn keys(state: &StateDir, enrolled: &OperatorKeys) -> Result<OperatorKeys, StateError> {
    let path = state.path(KEYS_FILE);
    if !path.exists() {
        return Ok(enrolled.clone());
    }
    serde_json::from_str(&state.read(KEYS_FILE)?)
        .map_err(|error| StateError::Malformed { path, detail: error.to_string() })
}

fn store(state: &StateDir, signed: &SignedList, since: UnixMillis) -> Result<(), StateError> {
    let stored = Stored {
        list: String::from_utf8_lossy(&signed.bytes).into_owned(),
        signature: hex::encode(signed.signature),
        cosignatures: signed.cosignatures.iter().map(hex::encode).collect(),
        since: Some(since),
    };
    let json = serde_json::to_vec(&stored).expect("texts and a number are always JSON");
    state.write(FILE, &json)
}

/// The list with the end that holds on this box.
fn with_end(list: MirrorList, since: UnixMillis) -> MirrorList {
    let expires_at = Some(list.ends_at(since));
    MirrorList { expires_at, ..list }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::SecretKey;
    use zerkalo_core::target::LIST_LIFE_SECS_MAX;

    fn secret(number: u8) -> SecretKey {
        SecretKey::from_bytes(&[number; 32])
    }

    fn list(version: u64) -> MirrorList {
        MirrorList { version, issued_at: UnixMillis(5), ..MirrorList::default() }
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        (dir, state)
    }

    #[test]
    fn only_newer_lists_of_the_operator_are_taken_and_they_survive_a_restart() {
        let (_dir, state) = state();
        let (operator, thief) = (secret(1), secret(2));
        let (key, now) = (operator.public().into(), UnixMillis(7));
        assert_eq!(load(&state, &key, now).unwrap(), None);
        take(&state, &key, 0, &SignedList::sign(&list(3), &operator), now).unwrap();
        let expected = MirrorList { expires_at: Some(now.plus_secs(LIST_LIFE_SECS_MAX)), ..list(3) };
        assert_eq!(load(&state, &key, UnixMillis(99)).unwrap(), Some(expected));
        let refused = |version, signer: &SecretKey| {
            take(&state, &key, 3, &SignedList::sign(&list(version), signer), now).unwrap_err()
        };
        assert!(matches!(refused(3, &operator), ListRefusal::NotNewer { .. }));
        assert!(matches!(refused(9, &thief), ListRefusal::NotOperators(_)));
        assert!(load(&state, &thief.public().into(), now).is_err());
    }

    #[test]
    fn a_stored_list_of_before_ends_two_weeks_after_it_is_first_read() {
        let (_dir, state) = state();
        let signed = SignedList::sign(&list(1), &secret(1));
        let old = format!(
            r#"{{"list":{},"signature":"{}"}}"#,
            serde_json::to_string(&String::from_utf8(signed.bytes.clone()).unwrap()).unwrap(),
            hex::encode(signed.signature)
        );
        state.write(FILE, old.as_bytes()).unwrap();
        let key = secret(1).public().into();
        let end = UnixMillis(1_000).plus_secs(LIST_LIFE_SECS_MAX);
        for now in [1_000, 5_000] {
            assert_eq!(load(&state, &key, UnixMillis(now)).unwrap().unwrap().expires_at, Some(end));
        }
    }

    #[test]
    fn keys_change_by_a_list_of_the_old_ones_and_survive_a_restart_and_a_crash_between() {
        let (_dir, state) = state();
        let keys = |numbers: &[u8], threshold| {
            let keys = numbers.iter().map(|number| secret(*number).public()).collect();
            OperatorKeys::new(keys, threshold).unwrap()
        };
        let (old, new) = (keys(&[1], 1), keys(&[1, 2, 3], 2));
        let now = UnixMillis(7);
        let mut changing = SignedList::sign(&MirrorList { keys: Some(new.clone()), ..list(1) }, &secret(1));
        let offer = |version, signed: &SignedList| take(&state, &old, version, signed, now);
        assert!(matches!(offer(0, &changing), Err(ListRefusal::NotOperators(_))));
        changing.cosign(&secret(3));
        offer(0, &changing).unwrap();
        // As a crash leaves it.
        unpin(&state).unwrap();
        assert!(load(&state, &old, now).unwrap().is_some());
        // One key is not enough any more, and lists need not name the keys again.
        let mut next = SignedList::sign(&list(2), &secret(1));
        assert!(matches!(offer(1, &next), Err(ListRefusal::NotOperators(ListError::TooFew { .. }))));
        next.cosign(&secret(2));
        offer(1, &next).unwrap();
        assert_eq!(load(&state, &old, now).unwrap().unwrap().version, 2);
        let mut third = SignedList::sign(&list(3), &secret(2));
        third.cosign(&secret(3));
        assert_eq!(offer(2, &third).unwrap().version, 3);
    }
}
