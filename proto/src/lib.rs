//! Wire formats of Zerkalo and the one wall between them and the core. No proto type passes it into the core, no core
//! type is encoded anywhere else.

/// Generated: the facts of a probe.
#[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines, missing_docs)]
pub mod record_v1 {
    include!(concat!(env!("OUT_DIR"), "/zerkalo.record.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/zerkalo.record.v1.serde.rs"));
}

/// The packages as protobuf names them, so that generated paths between packages hold.
pub mod zerkalo {
    /// Agents and collectors.
    pub mod agent {
        /// Generated.
        #[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/zerkalo.agent.v1.rs"));
        }
    }
    /// The journal's frames.
    pub mod journal {
        /// Generated.
        #[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/zerkalo.journal.v1.rs"));
        }
    }
    /// Operators and collectors.
    pub mod operator {
        /// Generated.
        #[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/zerkalo.operator.v1.rs"));
        }
    }
}

pub use zerkalo::agent::v1 as agent_v1;
pub use zerkalo::journal::v1 as journal_v1;
pub use zerkalo::operator::v1 as operator_v1;

pub mod record;
pub mod gap;
pub mod evidence;
pub mod order;
pub mod journal;
pub mod operator;
pub mod code;

/// The compiled .proto files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The names of the operator service's calls.
pub const OPERATOR_CALLS: &[&str] = include!(concat!(env!("OUT_DIR"), "/operator_calls.rs"));
