//! What people order: freezes, overrides, approvals, pool states. Journaled, so that a replay obeys them too.

use serde::{Deserialize, Serialize};

use super::{Action, PoolState};
use crate::words::{MarketId, MirrorId, UnixMillis};

/// Longest author or reason, in bytes: a name, a sentence or two.
pub const ORDER_TEXT_LEN_MAX: usize = 500;

/// One order of one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who gave it. Two approvals count as two only if their authors differ.
    pub author: String,
    /// Why.
    pub reason: String,
    #[serde(flatten)]
    pub kind: OrderKind,
}

/// What is ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OrderKind {
    /// Nothing of the market's decisions is carried out any more.
    Freeze { market: MarketId },
    /// Ends a freeze.
    Thaw { market: MarketId },
    /// This action, whatever is measured, until the instant or a release.
    Override { market: MarketId, mirror: MirrorId, action: Action, until: Option<UnixMillis> },
    /// Ends an override.
    Release { market: MarketId, mirror: MirrorId },
    /// One person's yes to a decision that waits.
    Approve { decision: String },
    /// One person's no: it is dropped.
    Decline { decision: String },
    /// Moves a mirror within a market's pool.
    SetState { market: MarketId, mirror: MirrorId, state: PoolState },
    /// Rotates every live mirror of the market; always needs two people.
    RotateAll { market: MarketId },
}

impl OrderKind {
    /// The word as stored and shown.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Freeze { .. } => "freeze",
            Self::Thaw { .. } => "thaw",
            Self::Override { .. } => "override",
            Self::Release { .. } => "release",
            Self::Approve { .. } => "approve",
            Self::Decline { .. } => "decline",
            Self::SetState { .. } => "set_state",
            Self::RotateAll { .. } => "rotate_all",
        }
    }
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("an order needs an {what} of 1 to {ORDER_TEXT_LEN_MAX} bytes, in one line")]
    Text { what: &'static str },
    #[error("market {market} is not in the catalogue, or has no policy")]
    UnknownMarket { market: MarketId },
    #[error("mirror {mirror} is not in the pool of market {market}")]
    UnknownMirror { market: MarketId, mirror: MirrorId },
    #[error("no decision {decision:?} waits for approval")]
    NothingWaits { decision: String },
    #[error("{author} has approved {decision} already; another person must")]
    SameAuthor { author: String, decision: String },
    #[error("market {market} is frozen already")]
    AlreadyFrozen { market: MarketId },
    #[error("market {market} is not frozen")]
    NotFrozen { market: MarketId },
    #[error("no override is in force for mirror {mirror} in market {market}")]
    NoOverride { market: MarketId, mirror: MirrorId },
    #[error("the override would end at {until}, which is past")]
    Past { until: UnixMillis },
    #[error("{action} cannot be ordered by an override; order the pool's state or a rotation instead")]
    NotOverridable { action: Action },
    #[error(
        "mirror {mirror} is live in market {other}, and the policy of {market} wants one market a mirror"
    )]
    InOtherMarket { market: MarketId, mirror: MirrorId, other: MarketId },
    #[error("mirror {mirror} does not serve market {market}; there is nothing to override")]
    NotServing { market: MarketId, mirror: MirrorId },
    #[error("market {market} has no live mirror to rotate")]
    NothingLive { market: MarketId },
}

impl OrderError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Text { .. } => "bad_order_text",
            Self::UnknownMarket { .. } => "unknown_market",
            Self::UnknownMirror { .. } => "unknown_mirror",
            Self::NothingWaits { .. } => "nothing_waits",
            Self::SameAuthor { .. } => "same_author",
            Self::AlreadyFrozen { .. } => "already_frozen",
            Self::NotFrozen { .. } => "not_frozen",
            Self::NoOverride { .. } => "no_override",
            Self::Past { .. } => "past",
            Self::NotOverridable { .. } => "not_overridable",
            Self::InOtherMarket { .. } => "in_other_market",
            Self::NotServing { .. } => "not_serving",
            Self::NothingLive { .. } => "nothing_live",
        }
    }
}

impl Order {
    /// Checks what needs no knowledge of markets: author and reason.
    pub fn check_texts(&self) -> Result<(), OrderError> {
        let is_line = |text: &str| {
            !text.trim().is_empty() && text.len() <= ORDER_TEXT_LEN_MAX && !text.chars().any(char::is_control)
        };
        match (is_line(&self.author), is_line(&self.reason)) {
            (true, true) => Ok(()),
            (false, _) => Err(OrderError::Text { what: "author" }),
            (true, false) => Err(OrderError::Text { what: "explanation" }),
        }
    }
}
