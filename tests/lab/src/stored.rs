//! What stands in a collector's journal, read off its files as anybody could: for counting what was lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use zerkalo_core::journal::{Event, Found, MAGIC, read_frame};
use zerkalo_core::words::AgentId;

/// A record's place: one agent, one epoch, one sequence number.
pub type Key = (AgentId, u64, u64);

/// The records of a journal.
#[derive(Debug, Default)]
pub struct Stored {
    pub records: BTreeSet<Key>,
    /// Records that stand there twice.
    pub double: u64,
}

/// Reads the journal in `dir`; nobody may write to it meanwhile.
pub fn read(dir: &Path) -> Result<Stored> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zkj"));
    files.sort();
    let mut stored = Stored::default();
    for file in files {
        let bytes = std::fs::read(&file)?;
        let mut offset = MAGIC.len();
        loop {
            offset = match read_frame(&bytes, offset) {
                Found::Frame { payload, next } => {
                    let entry = zerkalo_proto::journal::decode(payload)?;
                    if let Event::Record { signed, .. } | Event::Refused { signed, .. } = &entry.event
                        && !stored.records.insert((signed.agent.clone(), signed.epoch, signed.sequence))
                    {
                        stored.double += 1;
                    }
                    next
                }
                Found::Mark { next } => next,
                _ => break,
            };
        }
    }
    Ok(stored)
}
