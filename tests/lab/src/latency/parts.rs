//! Where the time of one round went: the instants of the road in order, and the parts between them. Plain data.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Serialize;
use zerkalo_core::market::EvidenceItem;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use super::journal::Line;

/// The parts, in the order of [`Parts::secs`].
pub const PARTS: [&str; 6] = [
    // The probe's own deadlines and comparisons, until its record is complete.
    "first failing probe",
    // Signed, spooled, sent, checked, synced.
    "record to journal",
    // Until a control that began after it is in the journal too.
    "control's word",
    // Until all is in the journal that the word rests on: further words, and the hold where there is one.
    "other owners' words",
    "decision",
    "webhook",
];

/// What people were told: a first word or a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// When the collector logged it.
    pub at: UnixMillis,
    /// The records it rests on.
    pub evidence: Vec<EvidenceItem>,
}

/// One round, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parts {
    pub first_failing_probe_millis: u64,
    pub record_to_journal_millis: u64,
    pub controls_word_millis: u64,
    pub other_owners_millis: u64,
    pub decision_millis: u64,
    pub webhook_millis: u64,
    /// Records it names.
    pub evidence: usize,
}

impl Parts {
    /// Takes a round apart: from the first strike to the webhook of `word`.
    pub fn of(struck_at: UnixMillis, lines: &[Line], word: &Word, told_at: UnixMillis) -> Result<Self> {
        let first = lines
            .iter()
            .find(|line| !line.is_control && !line.is_healthy && line.ended_at >= struck_at)
            .context("no failing record is in the journal")?;
        let answers = |line: &&Line| line.is_control && line.began_at >= first.began_at;
        let control = lines.iter().find(answers).context("no control answered the first failing record")?;
        let named: BTreeSet<Sha256> = word
            .evidence
            .iter()
            .flat_map(|item| [Some(item.record), item.verdict.control])
            .flatten()
            .collect();
        let of_word = |line: &&Line| named.contains(&line.record) && line.journaled_at <= word.at;
        let complete_at = lines.iter().filter(of_word).map(|line| line.journaled_at).max();
        let complete_at = complete_at.context("none of the records it rests on is in the journal")?;
        let mut reached = struck_at;
        let mut part = |until: UnixMillis| {
            let millis = until.since_millis(reached);
            reached = reached.max(until);
            millis
        };
        Ok(Self {
            first_failing_probe_millis: part(first.ended_at),
            record_to_journal_millis: part(first.journaled_at),
            controls_word_millis: part(control.journaled_at.min(word.at)),
            other_owners_millis: part(complete_at),
            decision_millis: part(word.at),
            webhook_millis: part(told_at),
            evidence: word.evidence.len(),
        })
    }

    /// In seconds, in the order of [`PARTS`].
    pub fn secs(&self) -> [f64; PARTS.len()] {
        let parts = [
            self.first_failing_probe_millis,
            self.record_to_journal_millis,
            self.controls_word_millis,
            self.other_owners_millis,
            self.decision_millis,
            self.webhook_millis,
        ];
        parts.map(|millis| millis as f64 / 1e3)
    }

    /// First dropped packet to webhook, in seconds.
    pub fn total_secs(&self) -> f64 {
        self.secs().iter().sum()
    }
}
