//! Records across the wall: core facts to wire messages, and back through checks into types that hold no nonsense.

mod from_wire;
mod to_wire;

use prost::Message;
use zerkalo_core::record::ProbeRecord;

use crate::record_v1 as wire;

/// The schema every record names.
pub const SCHEMA: &str = "zerkalo.record.v1";

/// Why bytes are no record, list or entry.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not a protobuf message of the expected kind")]
    Protobuf(#[source] prost::DecodeError),
    #[error("not JSON of the expected shape")]
    Json(#[source] serde_json::Error),
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} holds {value:?}, which makes no sense there")]
    Invalid { field: &'static str, value: String },
}

impl DecodeError {
    pub(crate) fn invalid(field: &'static str, value: impl std::fmt::Display) -> Self {
        // Hostile text is cut before it reaches a log.
        Self::Invalid { field, value: value.to_string().chars().take(120).collect() }
    }
}

/// The body of a signed record.
pub fn encode(record: &ProbeRecord) -> Vec<u8> {
    wire::ProbeRecord::from(record).encode_to_vec()
}

/// Reads the body of a signed record.
pub fn decode(body: &[u8]) -> Result<ProbeRecord, DecodeError> {
    wire::ProbeRecord::decode(body).map_err(DecodeError::Protobuf)?.try_into()
}

/// The record as JSON (the mapping of protobuf), indented.
pub fn to_json(record: &ProbeRecord) -> String {
    serde_json::to_string_pretty(&wire::ProbeRecord::from(record))
        .expect("a record has only text keys and finite numbers")
}

/// Reads a record from JSON.
pub fn from_json(text: &str) -> Result<ProbeRecord, DecodeError> {
    serde_json::from_str::<wire::ProbeRecord>(text).map_err(DecodeError::Json)?.try_into()
}

#[cfg(test)]
pub(crate) mod tests;
