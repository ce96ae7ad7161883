//! What a market should do about a mirror, with reasons. Pure: carrying a decision out is the collector's business.
//!
//! `state` moves one mirror of one market over its carriers' views; `decision`, `order` and `alert` are what is logged
//! and journaled; `pool` is what the market has to put in a mirror's place.

mod alert;
mod decision;
mod order;
mod pool;
mod reasons;
mod state;

pub use alert::{Alert, AlertKind};
pub use decision::{Action, Decision, Effect, EvidenceItem, Line, Replacement, Texts};
pub use order::{ORDER_TEXT_LEN_MAX, Order, OrderError, OrderKind};
pub(crate) use pool::Place;
pub use pool::{Active, PoolEntry, PoolState};
pub use state::{CarrierInput, CauseVotes, Change, MarketInput, MarketMirror};

#[cfg(test)]
mod tests;
