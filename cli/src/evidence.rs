//! The records behind a decision: fetched from the collector or read from a journal, and held against what names them.
//!
//! A record is its agent's if its bytes have the hash that the decision names and its signature holds under the agent's
//! key. One that is not is shown with its fault and never as evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use zerkalo_core::evidence::{PublicKey, SignedRecord};
use zerkalo_core::journal::Event;
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;
use zerkalo_proto::evidence::record_from_wire;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::journal::read_journal;

/// Answers to one question at most: each brings at least one record, and a decision names no more than 128.
const ANSWERS_MAX: usize = 128;

/// Records by the hash that a decision names them by.
#[derive(Debug, Default)]
pub struct Records {
    pub found: BTreeMap<String, Exhibit>,
    /// Named by the decision, and not in the journal any more.
    pub missing: BTreeSet<String>,
}

/// One record.
#[derive(Debug)]
pub struct Exhibit {
    /// Who signed it, and as which statement.
    pub signer: String,
    /// What it says, or why it counts for nothing.
    pub facts: Result<Box<ProbeRecord>, String>,
}

impl Exhibit {
    /// Holds a record against the hash that names it and the key of its agent.
    fn check(named: &str, signed: &SignedRecord, key: Option<&PublicKey>) -> Self {
        let signer = format!("{}, epoch {}, sequence {}", signed.agent, signed.epoch, signed.sequence);
        Self { signer, facts: read(named, signed, key) }
    }
}

impl Records {
    /// How many are not what they are named for.
    pub fn faults(&self) -> usize {
        self.found.values().filter(|exhibit| exhibit.facts.is_err()).count()
    }
}

fn read(named: &str, signed: &SignedRecord, key: Option<&PublicKey>) -> Result<Box<ProbeRecord>, String> {
    let hash = signed.hash().to_string();
    if hash != named {
        return Err(format!("it is another record than the one named: its hash is {hash}"));
    }
    let key =
        key.ok_or_else(|| format!("no key of {} is known, so nobody can tell who signed it", signed.agent))?;
    signed.verify(key).map_err(|error| format!("{error} ({})", key.to_hex()))?;
    let facts = zerkalo_proto::record::decode(&signed.body);
    facts.map(Box::new).map_err(|error| format!("its body cannot be read ({error}); upgrade this program"))
}

/// Asks the collector for all records behind a decision.
pub async fn fetch(service: &mut Service, decision: &str) -> Result<Records> {
    let mut records = Records::default();
    let mut wanted = Vec::new();
    for _ in 0..ANSWERS_MAX {
        let request = wire::FetchEvidenceRequest { decision_id: decision.to_owned(), records: wanted };
        let found = answer("fetch the records behind the decision", service.fetch_evidence(request)).await?;
        records.missing.extend(found.missing);
        let is_empty = found.records.is_empty();
        for one in found.records {
            let record = one.record.context("the collector sent a record without its bytes; upgrade it")?;
            let signed = record_from_wire(record)
                .with_context(|| format!("the collector sent record {} in no form known here", one.sha256))?;
            let key = PublicKey::from_bytes(&one.record_key).ok();
            let exhibit = Exhibit::check(&one.sha256, &signed, key.as_ref());
            records.found.insert(one.sha256, exhibit);
        }
        wanted = found.left_out;
        if wanted.is_empty() {
            return Ok(records);
        }
        if is_empty {
            break;
        }
    }
    bail!("the collector left {} records out of every answer; its log may say why", wanted.len());
}

/// Reads the records of these hashes from a journal.
pub fn read_from(journal: &Path, mut wanted: BTreeSet<Sha256>) -> Result<Records> {
    let (mut records, mut keys) = (Records::default(), BTreeMap::<AgentId, PublicKey>::new());
    read_journal(journal, |entry| {
        match entry.event {
            Event::Enrolled(enrolment) => {
                keys.insert(enrolment.agent, enrolment.key);
            }
            Event::Record { signed, .. } => {
                let hash = signed.hash();
                if wanted.remove(&hash) {
                    let exhibit = Exhibit::check(&hash.to_string(), &signed, keys.get(&signed.agent));
                    records.found.insert(hash.to_string(), exhibit);
                }
            }
            _ => {}
        }
        Ok(if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    records.missing = wanted.iter().map(ToString::to_string).collect();
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::{ChainLink, SecretKey};

    #[test]
    fn a_record_that_is_not_the_one_named_counts_for_nothing() {
        let (key, other) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let agent = AgentId::parse("a1").unwrap();
        let signed = SignedRecord::sign(&agent, ChainLink::start(3), b"no body".to_vec(), &key);
        let named = signed.hash().to_string();
        let check = |named: &str, signed: &SignedRecord, key: Option<&PublicKey>, part: &str| {
            let exhibit = Exhibit::check(named, signed, key);
            let fault = exhibit.facts.unwrap_err();
            assert!(fault.contains(part), "{part:?} in {fault:?}");
            assert_eq!(exhibit.signer, "a1, epoch 3, sequence 1");
        };
        check(&"0".repeat(64), &signed, Some(&key.public()), &named);
        check(&named, &signed, None, "no key of a1");
        check(&named, &signed, Some(&other.public()), "the signature does not hold");
        let forged = SignedRecord { signature: [7; 64], ..signed.clone() };
        check(&named, &forged, Some(&key.public()), "the signature does not hold");
        check(&named, &signed, Some(&key.public()), "its body cannot be read");
    }
}
