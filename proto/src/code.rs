//! Stable error codes beside gRPC's own: in the metadata key `zerkalo-code`.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata key.
pub const CODE_KEY: &str = "zerkalo-code";

/// A status with a stable code. A code that is no metadata value is left out rather than panicked over.
pub fn status(grpc: Code, code: &str, detail: impl Into<String>) -> Status {
    let mut status = Status::new(grpc, detail);
    if let Ok(value) = MetadataValue::try_from(code) {
        status.metadata_mut().insert(CODE_KEY, value);
    }
    status
}

/// The stable code of a status.
pub fn code_of(status: &Status) -> Option<&str> {
    status.metadata().get(CODE_KEY)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_in_its_status() {
        let refused = status(Code::Unauthenticated, "token_used", "this token was used");
        assert_eq!(code_of(&refused), Some("token_used"));
        assert_eq!(code_of(&Status::internal("x")), None);
    }
}
