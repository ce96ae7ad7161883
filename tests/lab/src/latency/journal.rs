//! What the collector wrote down of one mirror's probes: when each was made, when it reached the journal, how it went.
//! Reads the segments of a collector at work; what is being written at the end is left for later.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use zerkalo_core::journal::{Event, Found, JournalEntry, MAGIC, read_frame};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{Station, UnixMillis};

/// How the names of segments end.
const SEGMENT_EXTENSION: &str = "zkj";

/// One record of the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub record: Sha256,
    pub is_control: bool,
    /// Whether the page was found.
    pub is_healthy: bool,
    pub began_at: UnixMillis,
    pub ended_at: UnixMillis,
    /// When it was in the journal.
    pub journaled_at: UnixMillis,
}

/// Every record about `mirror`, in the journal's order.
pub fn lines(journal: &Path, mirror: &str) -> Result<Vec<Line>> {
    let (mut controls, mut lines) = (BTreeSet::new(), Vec::new());
    for entry in entries(journal)? {
        match entry.event {
            Event::Enrolled(enrolment) if enrolment.station == Station::Control => {
                controls.insert(enrolment.agent);
            }
            Event::Record { signed, facts, .. } if is_visit(&facts, mirror) => lines.push(Line {
                record: signed.link().hash,
                is_control: controls.contains(&signed.agent),
                is_healthy: facts.http.iter().any(|step| step.canary_found == Some(true)),
                began_at: facts.started_at,
                ended_at: facts.started_at.plus_millis(facts.duration_micros / 1_000),
                journaled_at: entry.at,
            }),
            _ => {}
        }
    }
    Ok(lines)
}

fn is_visit(facts: &ProbeRecord, mirror: &str) -> bool {
    facts.mirror.as_ref().is_some_and(|of| of.as_str() == mirror) && !facts.is_picture_alone()
}

fn entries(journal: &Path) -> Result<Vec<JournalEntry>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(journal).with_context(|| format!("{} is unreadable", journal.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SEGMENT_EXTENSION) {
            paths.push(path);
        }
    }
    // Numbers have leading zeros.
    paths.sort();
    let mut entries = Vec::new();
    for path in paths {
        let segment = std::fs::read(&path)?;
        let mut offset = MAGIC.len();
        loop {
            match read_frame(&segment, offset) {
                Found::Frame { payload, next } => {
                    entries.push(zerkalo_proto::journal::decode(payload)?);
                    offset = next;
                }
                Found::Mark { next } => offset = next,
                Found::End | Found::Torn => break,
                Found::Corrupt => bail!("{} is damaged at offset {offset}", path.display()),
            }
        }
    }
    Ok(entries)
}
