//! The agent's directory: who it is, its keys, the lock that keeps a second process out. Files are written whole or not
//! at all. The spool inside it is `spool.rs`, the list `list.rs`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zerkalo_core::evidence::{PublicKey, SecretKey};
use zerkalo_core::words::{Access, AgentId, CarrierId, MarketId, OwnerId};
use zerkalo_durable::credentials;

/// Only the agent's own user reads its keys.
const FILE_MODE: u32 = 0o600;
/// See [`FILE_MODE`].
const DIR_MODE: u32 = 0o700;
/// See [`Pair`].
const PAIR: &str = "tls.json";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is malformed: {detail}")]
    Malformed { path: PathBuf, detail: String },
    #[error(
        "this box is not enrolled ({path} is missing): run `zerkalo-agent enroll URL --token-file FILE` first"
    )]
    NotEnrolled { path: PathBuf },
    #[error("another zerkalo-agent runs on {path}; stop it first")]
    InUse { path: PathBuf },
}

/// Who this box is; written by `enroll`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub agent: AgentId,
    pub owner: OwnerId,
    /// Absent for a control, which measures the mirrors of all markets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<MarketId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Tried in order.
    pub collector_urls: Vec<String>,
    /// Signs the mirror lists; hexadecimal.
    pub operator_key: String,
}

/// What opens the uplink.
#[derive(Clone)]
pub struct Credentials {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A certificate with its key, in one file.
#[derive(Serialize, Deserialize)]
struct Pair {
    certificate_pem: String,
    key_pem: String,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`, made if absent.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        let write = |source| StateError::Write { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(write)?;
        Ok(Self(path.to_owned()))
    }

    /// The directory at `path`, which `enroll` made.
    pub fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A file or directory in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Keeps every other agent out until dropped, or until the process ends.
    pub fn lock(&self) -> Result<File, StateError> {
        let path = self.path("lock");
        let write = |source| StateError::Write { path: path.clone(), source };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(write)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(StateError::Write { path, source }),
        }
    }

    /// Whether `enroll` ran.
    pub fn is_enrolled(&self) -> bool {
        self.path("identity.toml").exists()
    }

    /// Who this box is.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let path = self.path("identity.toml");
        if !path.exists() {
            return Err(StateError::NotEnrolled { path });
        }
        toml::from_str(&self.read("identity.toml")?)
            .map_err(|error| StateError::Malformed { path, detail: error.to_string() })
    }

    /// The key that signs records.
    pub fn record_key(&self) -> Result<SecretKey, StateError> {
        let path = credentials::file_of(&self.path("record.key"));
        let text = fs::read_to_string(&path).map_err(|source| StateError::Read { path, source })?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| StateError::Malformed {
            path: self.path("record.key"),
            detail: "expected 64 hexadecimal digits".to_owned(),
        })?;
        Ok(SecretKey::from_bytes(&bytes))
    }

    /// The operator's key, pinned at enrolment.
    pub fn operator_key(&self, identity: &Identity) -> Result<PublicKey, StateError> {
        PublicKey::from_hex(&identity.operator_key).map_err(|error| StateError::Malformed {
            path: self.path("identity.toml"),
            detail: format!("operator_key is {error}"),
        })
    }

    /// Certificate, key and CA of the uplink.
    pub fn credentials(&self) -> Result<Credentials, StateError> {
        let ca_pem = self.read("ca.pem")?;
        let path = self.path(PAIR);
        if !path.exists() {
            // As older agents kept them.
            let (certificate_pem, key_pem) = (self.read("tls.pem")?, self.read("tls.key")?);
            return Ok(Credentials { ca_pem, certificate_pem, key_pem });
        }
        let Pair { certificate_pem, key_pem } = serde_json::from_str(&self.read(PAIR)?)
            .map_err(|error| StateError::Malformed { path, detail: error.to_string() })?;
        Ok(Credentials { ca_pem, certificate_pem, key_pem })
    }

    /// Keeps a certificate with its key: both or neither.
    pub fn put_credentials(&self, certificate_pem: &str, key_pem: &str) -> Result<(), StateError> {
        let pair = Pair { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned() };
        let json = serde_json::to_vec(&pair).expect("two texts are always JSON");
        self.write(PAIR, &json)?;
        self.remove("tls.pem")?;
        self.remove("tls.key")
    }

    /// The text of a file.
    pub fn read(&self, name: &str) -> Result<String, StateError> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|source| StateError::Read { path, source })
    }

    /// Writes a file whole: on the disk under its name when this returns, or as it was before.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, draft) = (self.path(name), self.path(&format!("{name}.tmp")));
        let write = || -> io::Result<()> {
            let mut file =
                File::options().create(true).truncate(true).write(true).mode(FILE_MODE).open(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| StateError::Write { path: path.clone(), source })
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Write { path, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_whole_and_one_process_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        assert!(matches!(state.identity(), Err(StateError::NotEnrolled { .. })));
        state.write("record.key", b"short").unwrap();
        assert!(matches!(state.record_key(), Err(StateError::Malformed { .. })));
        state.write("record.key", "07".repeat(32).as_bytes()).unwrap();
        assert_eq!(state.record_key().unwrap().to_bytes(), [7; 32]);
        let mode = fs::metadata(state.path("record.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
        let held = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(StateError::InUse { .. })));
        drop(held);
        state.lock().unwrap();
    }
}
