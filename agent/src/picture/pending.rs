//! Pictures on their way to the collector: a few files beside the spool. A lost picture is no lost record: they are not
//! synced, the oldest gives way, and what the collector answers, either way, ends it.
//!
//! A picture is a draft until the record that names it is in the spool; only then may it be sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use zerkalo_core::record::PICTURE_LEN_MAX;
use zerkalo_core::target::Sha256;

/// Its place in the state directory.
pub const DIR: &str = "pictures";
/// Pictures kept at most: an hour's worth, under 2 MB.
const PENDING_MAX: usize = 12;
/// How often one is offered to the collector: a line that dies of it each time must not die for ever.
const TRIES_MAX: u32 = 3;
const DRAFT: &str = "draft";
const READY: &str = "webp";

/// The pictures waiting; clones share them.
#[derive(Debug, Clone)]
pub struct Pending {
    dir: PathBuf,
    released: Arc<Notify>,
    /// The picture offered last, and how often.
    tries: Arc<Mutex<(Sha256, u32)>>,
}

impl Pending {
    /// The pictures in `dir`, made if absent; drafts that a crash left are gone.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for (path, _) in files(dir, DRAFT)? {
            fs::remove_file(path)?;
        }
        Ok(Self { dir: dir.to_owned(), released: Arc::default(), tries: Arc::default() })
    }

    /// Keeps a picture that no record names yet.
    pub fn draft(&self, content: &[u8]) -> io::Result<Sha256> {
        let sha256 = Sha256::of(content);
        fs::write(self.path(&sha256, DRAFT), content)?;
        Ok(sha256)
    }

    /// Its record is in the spool: it may be sent. Returns how many older ones gave way.
    pub fn release(&self, sha256: &Sha256) -> io::Result<usize> {
        fs::rename(self.path(sha256, DRAFT), self.path(sha256, READY))?;
        let ready = files(&self.dir, READY)?;
        let surplus = ready.len().saturating_sub(PENDING_MAX);
        for (path, _) in &ready[..surplus] {
            fs::remove_file(path)?;
        }
        self.released.notify_one();
        Ok(surplus)
    }

    /// Drops a draft.
    pub fn discard(&self, sha256: &Sha256) {
        // Nothing is lost that anybody waits for.
        let _ = fs::remove_file(self.path(sha256, DRAFT));
    }

    /// The oldest picture to send. What was offered too often, or is not what its name says, is dropped.
    pub fn oldest(&self) -> io::Result<Option<(Sha256, Vec<u8>)>> {
        for (path, _) in files(&self.dir, READY)? {
            let len = fs::metadata(&path)?.len();
            let content = if len <= PICTURE_LEN_MAX { fs::read(&path)? } else { Vec::new() };
            let sha256 = Sha256::of(&content);
            if path == self.path(&sha256, READY) && self.note_try(sha256) {
                return Ok(Some((sha256, content)));
            }
            tracing::warn!(picture = %sha256, "a picture was spoilt, or offered too often, and is dropped");
            fs::remove_file(path)?;
        }
        Ok(None)
    }

    /// It needs to wait no longer.
    pub fn done(&self, sha256: &Sha256) {
        // Sent once more, it would be answered once more.
        let _ = fs::remove_file(self.path(sha256, READY));
    }

    /// Ends once a picture was released.
    pub async fn released(&self) {
        self.released.notified().await;
    }

    fn note_try(&self, sha256: Sha256) -> bool {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        *tries = if tries.0 == sha256 { (sha256, tries.1 + 1) } else { (sha256, 1) };
        tries.1 <= TRIES_MAX
    }

    fn path(&self, sha256: &Sha256, kind: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.{kind}"))
    }
}

/// Files of a kind, oldest first.
fn files(dir: &Path, kind: &str) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == kind) {
            found.push((entry.path(), entry.metadata()?.modified()?));
        }
    }
    found.sort_by(|left, right| (left.1, &left.0).cmp(&(right.1, &right.0)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_never_sent_and_does_not_outlive_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::open(dir.path()).unwrap();
        let first = pending.draft(b"first").unwrap();
        assert_eq!(pending.oldest().unwrap(), None);
        pending.release(&first).unwrap();
        let second = pending.draft(b"second").unwrap();
        let again = Pending::open(dir.path()).unwrap();
        assert_eq!(again.oldest().unwrap(), Some((first, b"first".to_vec())));
        assert!(again.release(&second).is_err());
        again.done(&first);
        assert_eq!(again.oldest().unwrap(), None);
    }

    #[test]
    fn a_picture_that_is_never_answered_is_offered_a_few_times() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::open(dir.path()).unwrap();
        let sha256 = pending.draft(b"a picture").unwrap();
        pending.release(&sha256).unwrap();
        for _ in 0..TRIES_MAX {
            assert!(pending.oldest().unwrap().is_some());
        }
        assert_eq!(pending.oldest().unwrap(), None);
    }

    #[test]
    fn the_oldest_give_way_and_spoilt_files_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::open(dir.path()).unwrap();
        let mut dropped = 0;
        let age = |sha256: &Sha256, kind, secs| {
            let file = fs::File::options().append(true).open(pending.path(sha256, kind)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(secs)).unwrap();
        };
        for number in 0..PENDING_MAX as u64 + 3 {
            let sha256 = pending.draft(&number.to_be_bytes()).unwrap();
            age(&sha256, DRAFT, number);
            dropped += pending.release(&sha256).unwrap();
        }
        assert_eq!(dropped, 3);
        let (sha256, content) = pending.oldest().unwrap().unwrap();
        assert_eq!(content, 3u64.to_be_bytes());
        fs::write(pending.path(&sha256, READY), b"spoilt").unwrap();
        age(&sha256, READY, 3);
        assert_eq!(pending.oldest().unwrap().unwrap().1, 4u64.to_be_bytes());
        assert!(!pending.path(&sha256, READY).exists());
    }
}
