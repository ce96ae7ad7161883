//! What a failing disk may do to the stores, done to them: power cuts, a sync that lies, a sync that fails.
//!
//! The disk is a file of ours under FUSE with a loop device on it and ext4 inside: every write and every flush that the
//! kernel sends passes through our hands, with its instant. A power cut at any place of that log is a disk that holds
//! everything before the last flush, and of the writes after it whatever the dice leave. Root only; every mount lives in
//! a mount namespace that ends with the process.

pub mod catch_up;
pub mod cut;
pub mod dice;
pub mod disk;
pub mod image;
pub mod keep;
pub mod lies;
pub mod network;
pub mod power;
