//! One collector a directory: a lock that dies with its process, and says whose it is.
//!
//! Journal and state have locks of their own; this one is taken first, before anything is opened or listened on, so
//! that a second collector touches nothing.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The file's name in the collector's directory.
const FILE_NAME: &str = "collector.lock";
/// Longest content read: a process number.
const CONTENT_LEN_MAX: u64 = 32;

/// Why the directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is served by another collector already{}; stop that one first", dir.display(), pid_text(*pid))]
    Held { dir: PathBuf, pid: Option<u32> },
    #[error("{} cannot be locked", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The directory is this process's until this goes.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes it, or names who has it.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(FILE_NAME);
        let fail = |source| LockError::File { path: path.clone(), source };
        // Never truncated before it is ours: it names the other.
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.take(CONTENT_LEN_MAX).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { dir: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        // A full disk costs the name, not the lock.
        let _ = file
            .rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let said = DirLock::take(dir.path()).unwrap_err().to_string();
        assert!(said.contains(&format!("(process {})", std::process::id())), "{said}");
        std::fs::write(dir.path().join(FILE_NAME), "nonsense").unwrap();
        let said = DirLock::take(dir.path()).unwrap_err().to_string();
        assert!(said.contains("another collector already; stop"), "{said}");
        drop(first);
        DirLock::take(dir.path()).unwrap();
        let said = DirLock::take(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(said.contains("/nowhere/collector.lock"), "{said}");
    }
}
