//! Signed statements across the wall. Bodies and lists pass as the exact bytes that were signed.

use prost::Message;
use zerkalo_core::admission::{AHEAD_RUNS_MAX, Run};
use zerkalo_core::evidence::{SignedList, SignedRecord};
use zerkalo_core::operator_keys::OPERATOR_KEYS_MAX;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::AgentId;

use crate::agent_v1 as wire;
use crate::record::DecodeError;

/// A signed record for the wire.
pub fn record_to_wire(record: &SignedRecord) -> wire::SignedRecord {
    wire::SignedRecord {
        agent: record.agent.to_string(),
        epoch: record.epoch,
        sequence: record.sequence,
        previous: record.previous.0.to_vec(),
        body: record.body.clone(),
        signature: record.signature.to_vec(),
    }
}

/// A signed record from the wire; its signature is not checked here.
pub fn record_from_wire(record: wire::SignedRecord) -> Result<SignedRecord, DecodeError> {
    Ok(SignedRecord {
        agent: AgentId::parse(&record.agent).map_err(|_| DecodeError::invalid("agent", &record.agent))?,
        epoch: record.epoch,
        sequence: record.sequence,
        previous: Sha256(fixed("previous", &record.previous)?),
        signature: fixed("signature", &record.signature)?,
        body: record.body,
    })
}

/// The bytes of a signed record as they stand on the wire, for who sends it in parts.
pub fn record_to_bytes(record: &SignedRecord) -> Vec<u8> {
    record_to_wire(record).encode_to_vec()
}

/// The wire's record of [`record_to_bytes`].
pub fn record_from_bytes(bytes: &[u8]) -> Result<wire::SignedRecord, DecodeError> {
    wire::SignedRecord::decode(bytes).map_err(|error| DecodeError::invalid("part", error))
}

/// The bytes of a signed list as they stand on the wire, for who sends it in parts.
pub fn list_to_bytes(list: &SignedList) -> Vec<u8> {
    list_to_wire(list).encode_to_vec()
}

/// The list of [`list_to_bytes`]; its signature is not checked here.
pub fn list_from_bytes(bytes: &[u8]) -> Result<SignedList, DecodeError> {
    let list = wire::SignedList::decode(bytes).map_err(|error| DecodeError::invalid("list_part", error))?;
    list_from_wire(list)
}

/// A signed list for the wire.
pub fn list_to_wire(list: &SignedList) -> wire::SignedList {
    wire::SignedList {
        list: list.bytes.clone(),
        signature: list.signature.to_vec(),
        cosignatures: list.cosignatures.iter().map(|one| one.to_vec()).collect(),
    }
}

/// A signed list from the wire; its signatures are not checked here.
pub fn list_from_wire(list: wire::SignedList) -> Result<SignedList, DecodeError> {
    let count = list.cosignatures.len();
    if count > OPERATOR_KEYS_MAX {
        return Err(DecodeError::invalid(
            "cosignatures",
            format!("{count} instead of {OPERATOR_KEYS_MAX} at most"),
        ));
    }
    let cosignatures = list.cosignatures.iter().map(|one| fixed("cosignatures", one));
    Ok(SignedList {
        cosignatures: cosignatures.collect::<Result<_, _>>()?,
        signature: fixed("signature", &list.signature)?,
        bytes: list.list,
    })
}

/// What is held ahead of a chain, for the wire.
pub fn runs_to_wire(runs: &[Run]) -> Vec<wire::AheadRun> {
    let run = |run: &Run| wire::AheadRun { first: run.first, last: run.last, hash: run.hash.0.to_vec() };
    runs.iter().map(run).collect()
}

/// What is held ahead of a chain, from the wire: in order, and no more than there may be.
pub fn runs_from_wire(runs: &[wire::AheadRun]) -> Result<Vec<Run>, DecodeError> {
    if runs.len() > AHEAD_RUNS_MAX {
        return Err(DecodeError::invalid("ahead", format!("{} runs", runs.len())));
    }
    let run = |run: &wire::AheadRun| {
        Ok(Run { first: run.first, last: run.last, hash: Sha256(fixed("ahead", &run.hash)?) })
    };
    let runs = runs.iter().map(run).collect::<Result<Vec<_>, DecodeError>>()?;
    let is_sound = |run: &Run| run.first > 0 && run.first <= run.last && run.last < u64::MAX;
    let in_order = runs.windows(2).all(|pair| pair[0].last < pair[1].first);
    if !in_order || !runs.iter().all(is_sound) {
        return Err(DecodeError::invalid("ahead", "runs out of order"));
    }
    Ok(runs)
}

pub(crate) fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::invalid(field, format!("{} bytes instead of {N}", bytes.len())))
}
