//! Where the corpora begin: bytes as the programs' own writers write them, the same each time.

mod crypto;
mod packets;
mod statements;
mod texts;

/// A target, a name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut all = statements::seeds();
    all.extend(crypto::seeds());
    all.extend(packets::seeds());
    all.extend(texts::seeds());
    all
}
