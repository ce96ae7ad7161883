//! What a market should do about a mirror, with reasons. Pure: carrying a decision out is the collector's business.
//!
//! `state` moves one mirror of one market over its carriers' views; `decision`, `order` and `alert` are what is logged
//! and journaled; `pool` is what the market has to put in a mirror's place; `remedy` finds what helps, `crossing` what two
//! markets together advise, `lag` how soon carriers follow one another, `forecast` how long mirrors live.

mod alert;
mod carrier;
mod crossing;
mod decision;
mod forecast;
mod lag;
mod order;
mod pool;
mod reasons;
mod remedy;
mod state;
mod suspicion;
mod why;

pub use alert::{Alert, AlertKind};
pub use carrier::{CarrierInput, CauseVotes};
pub(crate) use crossing::{MarketWord, advice};
pub use decision::{Action, Decision, Effect, EvidenceItem, Line, Replacement, Texts};
pub use forecast::{Curve, DEATHS_MIN, EndCause, Estimate, Forecast, Life, MONTH_DAYS, Step, forecast};
pub(crate) use lag::Lags;
pub use order::{ORDER_TEXT_LEN_MAX, Order, OrderError, OrderKind};
pub(crate) use pool::Place;
pub use pool::{Active, PoolEntry, PoolState};
pub(crate) use reasons::{Arg, Key, line};
pub use state::{Change, DecidedCause, MarketInput, MarketMirror};
pub(crate) use suspicion::Suspicion;

#[cfg(test)]
mod tests;
