//! Randomness from the operating system, by way of the TLS library. The only file that draws any.

/// The system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no randomness")]
pub struct NoEntropy;

/// 32 bytes fit for a key.
pub fn key_bytes() -> Result<[u8; 32], NoEntropy> {
    let mut bytes = [0; 32];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}

/// A number from 0 to below 1, for jitter; the middle where the system gives none.
pub fn fraction() -> f64 {
    let Ok(bytes) = key_bytes() else { return 0.5 };
    f64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / (f64::from(u32::MAX) + 1.0)
}

/// A number from 0 to below `count`, for turns; 0 where the system gives none. Slightly uneven where `count` is large.
pub fn below(count: usize) -> usize {
    key_bytes().map_or(0, |bytes| usize::from(bytes[0]) % count.max(1))
}
