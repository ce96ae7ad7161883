//! The audit log: who changed what and when, each line chained to the one before by its hash.
//!
//! A line is one JSON object, hashed as it stands; fields are only ever added. Whoever changes, drops, adds or moves a
//! line breaks the chain at that place. Cutting the end off shows against a head that was noted elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::target::Sha256;
use crate::words::UnixMillis;

/// Separates these hashes from every other use.
const DOMAIN: &[u8] = b"zerkalo.audit.v1\0";
/// Longest text in a line, in bytes; longer ones are cut.
const TEXT_LEN_MAX: usize = 1_024;

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditHead {
    /// Of the last line; 0 before the first.
    pub number: u64,
    /// Of the last line; zeros before the first.
    pub sha256: Sha256,
    /// Instants never fall.
    pub at: UnixMillis,
}

/// What is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The person; or what stands for whoever has the collector's directory.
    pub by: String,
    /// Digits of the digest of the token it rests on; empty without one.
    pub token: String,
    /// What was done, such as `order.freeze`; words are never renamed.
    pub act: &'static str,
    /// To what, in named parts.
    pub about: Vec<(&'static str, String)>,
}

/// A line, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    pub number: u64,
    pub at: UnixMillis,
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    pub act: String,
    pub about: BTreeMap<String, String>,
    /// Hash of the line before; zeros at the first.
    pub previous: Sha256,
}

/// Where a chain breaks, and how it shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    #[error("line {number} cannot be read ({detail}): it was changed")]
    Unreadable { number: u64, detail: String },
    #[error("where line {number} should stand is line {found}: lines were taken out, added or moved")]
    Number { number: u64, found: u64 },
    #[error("line {number} does not follow from the line before it: one of the two was changed")]
    Previous { number: u64 },
    #[error("line {number} is older than the line before it")]
    Time { number: u64 },
    #[error(
        "the chain ends at line {number}, but the head noted is line {noted}: the end was cut off or changed"
    )]
    Head { number: u64, noted: u64 },
}

impl BrokenChain {
    /// The number of the line at fault.
    pub fn number(&self) -> u64 {
        match self {
            Self::Unreadable { number, .. }
            | Self::Number { number, .. }
            | Self::Previous { number }
            | Self::Time { number }
            | Self::Head { number, .. } => *number,
        }
    }
}

impl AuditHead {
    /// The next line, and the head after it.
    pub fn append(&self, at: UnixMillis, act: &Act) -> (String, Self) {
        let line = AuditLine {
            number: self.number + 1,
            at: at.max(self.at),
            by: cut(&act.by),
            token: cut(&act.token),
            act: act.act.to_owned(),
            about: act.about.iter().map(|(name, text)| ((*name).to_owned(), cut(text))).collect(),
            previous: self.sha256,
        };
        let text = serde_json::to_string(&line).expect("a line is texts and numbers");
        let head = Self { number: line.number, sha256: hash(&text), at: line.at };
        (text, head)
    }

    /// Reads the next line; gives it with the head after it.
    pub fn follow(&self, text: &str) -> Result<(AuditLine, Self), BrokenChain> {
        let number = self.number + 1;
        let line: AuditLine = serde_json::from_str(text)
            .map_err(|error| BrokenChain::Unreadable { number, detail: error.to_string() })?;
        if line.number != number {
            return Err(BrokenChain::Number { number, found: line.number });
        }
        if line.previous != self.sha256 {
            return Err(BrokenChain::Previous { number });
        }
        if line.at < self.at {
            return Err(BrokenChain::Time { number });
        }
        let head = Self { number, sha256: hash(text), at: line.at };
        Ok((line, head))
    }

    /// Whether the chain ends where somebody noted that it does.
    pub fn require(&self, noted: &Self) -> Result<(), BrokenChain> {
        if (self.number, self.sha256) == (noted.number, noted.sha256) {
            return Ok(());
        }
        Err(BrokenChain::Head { number: self.number, noted: noted.number })
    }
}

fn hash(text: &str) -> Sha256 {
    Sha256::of(&[DOMAIN, text.as_bytes()].concat())
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_LEN_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> (Vec<String>, AuditHead) {
        let (mut lines, mut head) = (Vec::new(), AuditHead::default());
        for (number, by) in (0u64..).zip(["anna", "boris", "anna", "anna"]) {
            let about = vec![("market", "kz".to_owned()), ("reason", format!("reason {number}"))];
            let act = Act { by: by.to_owned(), token: "0a".to_owned(), act: "order.freeze", about };
            // The third is of a clock that was set back.
            let (line, next) = head.append(UnixMillis(if number == 2 { 5 } else { 100 + number }), &act);
            lines.push(line);
            head = next;
        }
        (lines, head)
    }

    fn read(lines: &[String]) -> Result<AuditHead, BrokenChain> {
        lines.iter().try_fold(AuditHead::default(), |head, line| head.follow(line).map(|(_, next)| next))
    }

    #[test]
    fn an_untouched_chain_is_read_to_its_head() {
        let (lines, head) = chain();
        assert_eq!(read(&lines), Ok(head));
        assert_eq!(head.number, 4);
        let (line, _) = AuditHead::default().follow(&lines[0]).unwrap();
        assert_eq!((line.by.as_str(), line.about["reason"].as_str()), ("anna", "reason 0"));
    }

    #[test]
    fn a_broken_chain_is_found_and_its_place_named() {
        let (lines, head) = chain();
        let check = |change: &dyn Fn(&mut Vec<String>), expected: u64| {
            let mut bad = lines.clone();
            change(&mut bad);
            let found = read(&bad).and_then(|end| end.require(&head).map(|()| end));
            assert_eq!(found.as_ref().map_err(BrokenChain::number).err(), Some(expected), "{found:?}");
        };
        check(&|lines| lines[1] = lines[1].replace("boris", "carol"), 3);
        check(&|lines| lines[0] = lines[0].replace("reason 0", "reason 9"), 2);
        check(&|lines| drop(lines.remove(1)), 2);
        check(&|lines| lines.swap(1, 2), 2);
        check(&|lines| lines.insert(1, lines[0].clone()), 2);
        check(&|lines| lines[2].truncate(20), 3);
        // What only the head shows.
        check(&|lines| drop(lines.pop()), 3);
        check(&|lines| lines[3] = lines[3].replace("reason 3", "reason 9"), 4);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let act = Act { by: "ж".repeat(2_000), token: String::new(), act: "x", about: vec![] };
        let (line, head) = AuditHead::default().append(UnixMillis(1), &act);
        let (read, _) = AuditHead::default().follow(&line).unwrap();
        assert_eq!((read.by.len(), head.number), (TEXT_LEN_MAX, 1));
    }
}
