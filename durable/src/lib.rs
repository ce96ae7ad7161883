//! What must survive a crash, what must be tried again, and where secrets lie.
//!
//! The two unmaintained crates of the design card live here, one file each: sled in `store.rs`, backoff in `retry.rs`.
//! Nothing else in the workspace names them, so that either can be replaced by changing one file.

pub mod credentials;
pub mod store;
pub mod retry;
