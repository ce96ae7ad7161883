//! `backup` and `restore`: a copy of a collector's directory, made while it serves.
//!
//! First the journal, then the state: a token used between the two costs a token, never admits two boxes. The journal's
//! files only grow, so any beginning of them is a journal. The state is read until two readings agree. Pictures stay
//! behind, and the operator's secrets, which have no place on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::{Store, StoreError};

use crate::clock;

/// What lists a backup's files; written last, so that half a backup is none.
pub const MANIFEST: &str = "backup.json";
/// What a backup leaves behind.
const LEFT: [&str; 4] = ["pictures", "operator", "collector.lock", MANIFEST];
/// How often the state is read, and after what wait: it changes with decisions and tokens, not with records.
const READINGS_MAX: u32 = 100;
/// See [`READINGS_MAX`].
const READING_WAIT: Duration = Duration::from_millis(50);

/// Why there is no backup, or nothing restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("not_empty: {dir} holds something already; name a new directory")]
    NotEmpty { dir: PathBuf },
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no_backup: {dir} is no finished backup: {MANIFEST} is missing or cannot be read; make another")]
    NoManifest { dir: PathBuf },
    #[error("backup_changed: {path} is not what was backed up: use another backup")]
    Changed { path: PathBuf },
    #[error("state_restless: the state in {dir} changed with every reading; try again when less is decided")]
    Restless { dir: PathBuf },
    #[error("state_torn: the copied state cannot be used; try again")]
    State(#[source] StoreError),
}

/// See [`MANIFEST`].
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    at: UnixMillis,
    /// Path to digest, hexadecimal.
    files: BTreeMap<String, String>,
}

/// Copies the collector's directory `dir` to `to`. Gives what to tell the person.
pub fn backup(dir: &Path, to: &Path) -> Result<String, BackupError> {
    make_empty(to)?;
    let mut files = BTreeMap::new();
    let names = files_under(dir, Path::new(""))?;
    let is_state = |name: &&PathBuf| name.starts_with("state");
    for name in names.iter().filter(|name| !is_state(name)) {
        let path = dir.join(name);
        let content = fs::read(&path).map_err(failed("read", &path))?;
        put(&to.join(name), &content)?;
    }
    copy_state(&dir.join("state"), &to.join("state"))?;
    for name in files_under(to, Path::new(""))? {
        files.insert(name.to_string_lossy().into_owned(), digest(&to.join(&name))?);
    }
    let count = files.len();
    let manifest = Manifest { version: 1, at: clock::now(), files };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is texts and numbers");
    put(&to.join(MANIFEST), &json)?;
    Ok(format!(
        "{count} files copied to {}. It holds the authority's key and every certificate: keep it as secret as {}. \
         Pictures and the operator's file are not in it.",
        to.display(),
        dir.display()
    ))
}

/// Makes `dir` from the backup `from`, every file checked. Gives what to tell the person.
pub fn restore(from: &Path, dir: &Path) -> Result<String, BackupError> {
    let manifest = check(from)?.ok_or_else(|| BackupError::NoManifest { dir: from.to_owned() })?;
    make_empty(dir)?;
    for (name, expected) in &manifest.files {
        let path = from.join(name);
        let content = fs::read(&path).map_err(failed("read", &path))?;
        if Sha256::of(&content).to_string() != *expected {
            return Err(BackupError::Changed { path });
        }
        put(&dir.join(name), &content)?;
    }
    for empty in ["journal", "state"] {
        let path = dir.join(empty);
        make_dir(&path)?;
    }
    Ok(format!(
        "Restored as of {}. Serve it with `zerkalo-collector serve {}`: agents send what came after, as far as they keep \
         it (a day).",
        manifest.at,
        dir.display()
    ))
}

/// Checks every file of a backup; `None` where `dir` is none.
pub(crate) fn check(dir: &Path) -> Result<Option<Checked>, BackupError> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Ok(None);
    }
    let unreadable = || BackupError::NoManifest { dir: dir.to_owned() };
    let json = fs::read(&path).map_err(|_| unreadable())?;
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|_| unreadable())?;
    for (name, expected) in &manifest.files {
        let is_inside =
            Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_inside || digest(&dir.join(name))? != *expected {
            return Err(BackupError::Changed { path: dir.join(name) });
        }
    }
    Ok(Some(Checked { at: manifest.at, files: manifest.files }))
}

/// A backup whose files are what was copied.
pub(crate) struct Checked {
    pub at: UnixMillis,
    pub files: BTreeMap<String, String>,
}

/// Copies a state that a collector may be writing to, and opens the copy.
pub(crate) fn copy_state(from: &Path, to: &Path) -> Result<(), BackupError> {
    make_dir(to)?;
    let mut before = read_all(from)?;
    for _ in 0..READINGS_MAX {
        std::thread::sleep(READING_WAIT);
        let now = read_all(from)?;
        if now != before {
            before = now;
            continue;
        }
        for (name, content) in &now {
            put(&to.join(name), content)?;
        }
        return Store::open(to).and_then(|store| store.check()).map_err(BackupError::State);
    }
    Err(BackupError::Restless { dir: from.to_owned() })
}

fn read_all(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, BackupError> {
    let mut contents = BTreeMap::new();
    for name in files_under(dir, Path::new(""))? {
        match fs::read(dir.join(&name)) {
            Ok(content) => drop(contents.insert(name, content)),
            // Drafts come and go; the next reading sees what became of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &dir.join(name))(error)),
        }
    }
    Ok(contents)
}

/// Every file under `dir`/`below` that belongs into a backup, as a path below `dir`.
fn files_under(dir: &Path, below: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let place = dir.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&place).map_err(failed("list", &place))? {
        let entry = entry.map_err(failed("list", &place))?;
        let name = below.join(entry.file_name());
        let kind = entry.file_type().map_err(failed("look at", &entry.path()))?;
        if below == Path::new("") && LEFT.iter().any(|left| name == Path::new(left)) {
            continue;
        }
        if kind.is_dir() {
            found.extend(files_under(dir, &name)?);
        } else if kind.is_file() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn digest(path: &Path) -> Result<String, BackupError> {
    Ok(Sha256::of(&fs::read(path).map_err(failed("read", path))?).to_string())
}

fn make_empty(dir: &Path) -> Result<(), BackupError> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::NotEmpty { dir: dir.to_owned() });
    }
    make_dir(dir)
}

fn make_dir(dir: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make", dir))
}

/// Writes a file that nobody else reads; on the disk when this returns.
fn put(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    make_dir(parent)?;
    let write = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        File::open(parent)?.sync_all()
    };
    write().map_err(failed("write", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { what, path, source }
}
