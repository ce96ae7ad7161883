//! What was acknowledged, held against what stands in a journal. Fails on a record that is missing, double or changed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zerkalo_core::evidence::SignedRecord;
use zerkalo_core::fold::Fold;
use zerkalo_core::journal::{Event, Found, MAGIC, read_frame};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;

/// A record's place: one agent, one epoch, one sequence number.
pub type Key = (AgentId, u64, u64);

/// Records by place, with the hash of what was signed.
pub type Ledger = BTreeMap<Key, Sha256>;

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It was acknowledged and is not there.
    Missing(Key),
    /// It is there twice.
    Double(Key),
    /// It is there with other bytes than those acknowledged.
    Changed(Key),
    /// A place before it is empty.
    Gap(Key),
    /// A decision counts one record twice.
    DoubleEvidence(String),
    /// The files cannot be read.
    Unreadable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The place of a record.
pub fn key(record: &SignedRecord) -> Key {
    (record.agent.clone(), record.epoch, record.sequence)
}

/// Holds a journal against what was acknowledged; gives the records in it.
pub fn check(journal: &Path, acknowledged: &Ledger) -> Result<Ledger, Fault> {
    let mut found = Ledger::new();
    let mut fold = Fold::new();
    for entry in read(journal)? {
        for decision in fold.apply(&entry).decisions {
            let mut records: Vec<_> = decision.evidence.iter().map(|item| item.record).collect();
            records.sort();
            if records.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Fault::DoubleEvidence(decision.id));
            }
        }
        if let Event::Record { signed, .. } | Event::Refused { signed, .. } = &entry.event
            && found.insert(key(signed), signed.hash()).is_some()
        {
            return Err(Fault::Double(key(signed)));
        }
    }
    for (key, hash) in acknowledged {
        match found.get(key) {
            None => return Err(Fault::Missing(key.clone())),
            Some(there) if there != hash => return Err(Fault::Changed(key.clone())),
            Some(_) => {}
        }
    }
    for (agent, epoch, sequence) in found.keys() {
        if *sequence > 1 && !found.contains_key(&(agent.clone(), *epoch, sequence - 1)) {
            return Err(Fault::Gap((agent.clone(), *epoch, *sequence)));
        }
    }
    Ok(found)
}

/// The decisions a journal leads to, as logged.
pub fn decisions(journal: &Path) -> Result<Vec<String>, Fault> {
    let mut fold = Fold::new();
    let entries = read(journal)?;
    Ok(entries
        .iter()
        .flat_map(|entry| fold.apply(entry).decisions)
        .map(|decision| decision.to_json())
        .collect())
}

/// Writes a copy of a journal's only segment with one record left out or written twice.
pub fn forge(journal: &Path, copy: &Path, target: &Key, times: usize) {
    let mut forged = MAGIC.to_vec();
    for payload in payloads(&std::fs::read(&segments(journal).unwrap()[0]).unwrap()).unwrap() {
        let entry = zerkalo_proto::journal::decode(&payload).unwrap();
        let is_target = matches!(&entry.event, Event::Record { signed, .. } if key(signed) == *target);
        for _ in 0..if is_target { times } else { 1 } {
            zerkalo_core::journal::frame(&payload, &mut forged);
        }
    }
    std::fs::write(copy.join("00000001.zkj"), forged).unwrap();
}

fn read(journal: &Path) -> Result<Vec<zerkalo_core::journal::JournalEntry>, Fault> {
    let unreadable = |error: &dyn fmt::Display| Fault::Unreadable(error.to_string());
    let mut entries = Vec::new();
    for path in segments(journal)? {
        let bytes = std::fs::read(&path).map_err(|error| unreadable(&error))?;
        for payload in payloads(&bytes)? {
            entries.push(zerkalo_proto::journal::decode(&payload).map_err(|error| unreadable(&error))?);
        }
    }
    Ok(entries)
}

/// Segments in order.
fn segments(journal: &Path) -> Result<Vec<PathBuf>, Fault> {
    let unreadable = |error: std::io::Error| Fault::Unreadable(error.to_string());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(journal).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "zkj") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The payloads of a segment, without a torn end: that was never acknowledged.
fn payloads(segment: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    if segment.get(..MAGIC.len()) != Some(MAGIC) {
        return Err(Fault::Unreadable("a segment without its first bytes".to_owned()));
    }
    let (mut offset, mut payloads) = (MAGIC.len(), Vec::new());
    loop {
        match read_frame(segment, offset) {
            Found::Frame { payload, next } => {
                payloads.push(payload.to_vec());
                offset = next;
            }
            Found::Mark { next } => offset = next,
            Found::End | Found::Torn => return Ok(payloads),
            Found::Corrupt => return Err(Fault::Unreadable(format!("damage at byte {offset}"))),
        }
    }
}
