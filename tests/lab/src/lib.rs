//! Zerkalo's laboratory: carriers, censors and origins on loopback, with no root needed and nothing reached beyond it.
//!
//! In travel order: what a censor can do, and to whom it never does it, the first bytes it reads, the resolvers and fronts it works through, the
//! networks made of them, the origin behind; then the real programs, run against it; then the scenarios, played.

pub mod interference;
pub mod exempt;
pub mod hello;
pub mod resolver;
pub mod front;
pub mod carrier;
pub mod pki;
pub mod origin;
pub mod internet;
pub mod process;
pub mod operator;
pub mod bound;
pub mod signer;
pub mod webhook;
pub mod fleet;
pub mod scenario;
pub mod observation;
pub mod report;
pub mod screen;
pub mod play;
pub mod sample;
pub mod stored;
pub mod usage;
pub mod load;
pub mod crowd;
pub mod restart;
pub mod idle;
pub mod soak;
pub mod namespaces;
pub mod speed;
pub mod latency;
