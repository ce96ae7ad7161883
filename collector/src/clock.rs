//! The two things a pure core cannot have: the wall clock and randomness. Nothing else in this crate reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use zerkalo_core::words::UnixMillis;

/// The wall clock; 1970 if it is set before.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The day of an instant, such as 2026-11-20.
pub fn day(instant: SystemTime) -> String {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(millis).to_rfc3339().chars().take(10).collect()
}

/// Bytes nobody can guess, from the operating system's generator by way of aws-lc.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the operating system's generator of random numbers works");
    bytes
}
