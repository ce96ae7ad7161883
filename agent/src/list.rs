//! The mirror list this box holds: only what the operator's pinned key signed, only ever newer. Fetching it is the
//! uplink's business.

use serde::{Deserialize, Serialize};
use zerkalo_core::evidence::{ListError, PublicKey, SignedList};
use zerkalo_core::target::MirrorList;

use crate::state::{StateDir, StateError};

/// The file in the state directory.
const FILE: &str = "list.json";

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
}

/// The list stored, checked again: the disk is not trusted with what a box may touch. `None` without one.
pub fn load(state: &StateDir, key: &PublicKey) -> Result<Option<MirrorList>, StateError> {
    let path = state.path(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let malformed = |detail: String| StateError::Malformed { path: path.clone(), detail };
    let stored: Stored =
        serde_json::from_str(&state.read(FILE)?).map_err(|error| malformed(error.to_string()))?;
    let mut signature = [0; 64];
    hex::decode_to_slice(&stored.signature, &mut signature).map_err(|error| malformed(error.to_string()))?;
    let signed = SignedList { bytes: stored.list.into_bytes(), signature };
    signed.open(key).map(Some).map_err(|error| malformed(error.to_string()))
}

/// Takes a newer list: verified, then stored, then returned for use.
pub fn take(
    state: &StateDir,
    key: &PublicKey,
    held_version: u64,
    signed: &SignedList,
) -> Result<MirrorList, ListRefusal> {
    let list = signed.open(key).map_err(ListRefusal::NotOperators)?;
    if list.version <= held_version {
        return Err(ListRefusal::NotNewer { offered: list.version, held: held_version });
    }
    let stored = Stored {
        list: String::from_utf8_lossy(&signed.bytes).into_owned(),
        signature: hex::encode(signed.signature),
    };
    let json = serde_json::to_vec(&stored).expect("two texts are always JSON");
    state.write(FILE, &json).map_err(ListRefusal::Store)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::SecretKey;
    use zerkalo_core::words::UnixMillis;

    #[test]
    fn only_newer_lists_of_the_operator_are_taken_and_they_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        let (operator, thief) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let key = operator.public();
        let list = |version| MirrorList::issued(version, UnixMillis(5));
        assert_eq!(load(&state, &key).unwrap(), None);
        take(&state, &key, 0, &SignedList::sign(&list(3), &operator)).unwrap();
        assert_eq!(load(&state, &key).unwrap(), Some(list(3)));
        let refused = |version, signer: &SecretKey| {
            take(&state, &key, 3, &SignedList::sign(&list(version), signer)).unwrap_err()
        };
        assert!(matches!(refused(3, &operator), ListRefusal::NotNewer { .. }));
        assert!(matches!(refused(9, &thief), ListRefusal::NotOperators(_)));
        assert!(load(&state, &thief.public()).is_err());
    }
}
