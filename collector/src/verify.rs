//! `verify`: every checksum, signature and chain of a collector's directory or of a backup. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use zerkalo_core::admission::{ChainHead, Place, place, place_ahead, place_gap};
use zerkalo_core::audit::BrokenChain;
use zerkalo_core::evidence::{CheckedRecord, PublicKey, SignedRecord};
use zerkalo_core::gap::Gap;
use zerkalo_core::journal::{Event, JournalEntry};
use zerkalo_core::words::AgentId;

use crate::backup::{self, BackupError};
use crate::clock;
use crate::journal::{self, JournalError};
use crate::state::{State, StateError};

/// Faults named one by one; more are counted.
const FAULTS_NAMED_MAX: usize = 20;

/// What is wrong, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("a file of the backup is wrong")]
    Backup(#[from] BackupError),
    #[error("the journal is wrong")]
    Journal(#[from] JournalError),
    #[error("the state cannot be read")]
    State(#[from] StateError),
    #[error("audit_broken: somebody changed the state behind the collector's back; restore it from a backup")]
    Audit(#[source] BrokenChain),
    #[error("journal_faults: {count} of {entries} entries are wrong; restore a backup, or see `zerkalo-collector mend`:\n{}", .named.join("\n"))]
    Faults { count: u64, entries: u64, named: Vec<String> },
}

/// Checks everything in `dir`. Gives what to tell the person.
pub fn verify(dir: &Path) -> Result<String, VerifyError> {
    let backup = backup::check(dir)?;
    let bar = ProgressBar::new(journal_len(&dir.join("journal")));
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut check = Check::default();
    let torn = journal::read(&dir.join("journal"), |entry| check.entry(&entry), |len| bar.inc(len))?;
    bar.finish_and_clear();
    if check.faults > 0 {
        return Err(VerifyError::Faults { count: check.faults, entries: check.entries, named: check.named });
    }
    let audited = check_state(&dir.join("state"))?;
    let mut said = format!(
        "{} entries, {} records of {} agents, {} lists: every checksum, signature and chain holds; the state can be read, \
         and {audited} lines of the audit log follow from one another",
        check.entries,
        check.records,
        check.agents.len(),
        check.lists
    );
    if check.ahead > 0 {
        said += &format!("; {} records came ahead of those they follow", check.ahead);
    }
    if check.gaps > 0 {
        said += &format!(
            "; {} gaps, signed by agents, tell of {} records that they could not keep",
            check.gaps, check.dropped
        );
    }
    if let Some(backup) = backup {
        said +=
            &format!("; {} files of the backup of {} are as they were copied", backup.files.len(), backup.at);
    }
    if torn > 0 {
        said += &format!("; the last {torn} bytes are of a group in the writing or torn, never acknowledged");
    }
    Ok(said)
}

fn journal_len(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Reads a copy: opening a store writes to it, and another process may hold it.
fn check_state(dir: &Path) -> Result<u64, VerifyError> {
    let copy: PathBuf =
        std::env::temp_dir().join(format!("zerkalo-verify-{}", hex::encode(clock::random::<8>())));
    let copied = backup::copy_state(dir, &copy).map_err(VerifyError::from).and_then(|()| {
        let state = State::open(&copy)?;
        state.check_audit()?.map(|head| head.number).map_err(VerifyError::Audit)
    });
    // A copy left behind is no harm.
    let _ = fs::remove_dir_all(&copy);
    copied
}

#[derive(Default)]
struct Check {
    agents: BTreeMap<AgentId, (PublicKey, ChainHead)>,
    entries: u64,
    records: u64,
    /// Of those, admitted before what they follow.
    ahead: u64,
    gaps: u64,
    dropped: u64,
    lists: u64,
    faults: u64,
    named: Vec<String>,
}

impl Check {
    fn entry(&mut self, entry: &JournalEntry) {
        self.entries += 1;
        match &entry.event {
            Event::Enrolled(enrolment) => {
                self.agents.insert(enrolment.agent.clone(), (enrolment.key, ChainHead::default()));
            }
            Event::Record { signed, is_ahead, .. } => {
                self.records += 1;
                self.ahead += u64::from(*is_ahead);
                self.statement(signed, None, *is_ahead);
            }
            Event::Refused { signed, .. } => {
                self.records += 1;
                self.statement(signed, None, false);
            }
            Event::Gap { signed, gap } => {
                self.gaps += 1;
                self.statement(signed, Some(gap), false);
            }
            Event::List { list, operator } => {
                self.lists += 1;
                if let Err(error) = list.open(operator) {
                    self.fault(format!("entry {}: a mirror list: {error}", self.entries));
                }
            }
            _ => {}
        }
    }

    fn statement(&mut self, signed: &SignedRecord, gap: Option<&Gap>, is_ahead: bool) {
        let name = format!("{} epoch {} sequence {}", signed.agent, signed.epoch, signed.sequence);
        let Some((key, head)) = self.agents.get_mut(&signed.agent) else {
            return self.fault(format!("{name}: its agent was never enrolled"));
        };
        let checked = CheckedRecord::new(signed.clone(), key);
        let (placed, link) = match gap {
            None if is_ahead => (place_ahead(&checked, head), checked.link()),
            None => (place(&checked, head).map(Some), checked.link()),
            Some(gap) => (place_gap(&checked, gap, head).map(Some), gap.link(signed)),
        };
        self.dropped += gap.map_or(0, |gap| head.lacks(gap, signed));
        match is_ahead && placed == Ok(Some(Place::Ahead)) {
            true => head.advance_ahead(link, signed.previous),
            false => head.advance(link),
        }
        match placed {
            Ok(Some(Place::Duplicate)) => self.fault(format!("{name}: it is here twice")),
            Ok(Some(Place::Ahead)) => {}
            Ok(Some(Place::Next)) if !is_ahead => {}
            Ok(_) => self.fault(format!("{name}: it does not stand where a record ahead of its chain may")),
            Err(rejection) => self.fault(format!("{name}: {rejection}")),
        }
    }

    fn fault(&mut self, text: String) {
        self.faults += 1;
        if self.named.len() < FAULTS_NAMED_MAX {
            self.named.push(text);
        }
    }
}
