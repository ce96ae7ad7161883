//! What a censor, a lie or a line does to a market, and what is asked of the decision then.

use serde::{Deserialize, Serialize};

use crate::verdict::words;

/// Between two carriers that fall one after another, in ms: carriers follow the leader within minutes to hours; the
/// shortest makes the hardest case for a warning that should come before the pause.
const FALL_GAP_MILLIS: u64 = 20 * 60_000;
/// How long a liar that comes and goes stays with its word, in ms: long enough to be flagged, and to be forgotten.
const LIE_MILLIS: u64 = 300_000;
/// How long a market outage lasts, in ms: three minutes.
const OUTAGE_MILLIS: u64 = 180_000;

words!(
    /// What happens.
    Scenario {
        /// Noise alone.
        Quiet = "quiet",
        AllAtOnce = "all_at_once",
        /// One carrier after another, the leader first.
        LeaderFirst = "leader_first",
        /// Blocked before anybody ever looked.
        FromTheStart = "from_the_start",
        Partial = "partial",
        /// One owner fewer than the majority lies on every carrier.
        Dishonest = "dishonest",
        /// Every owner of one carrier lies.
        FalseCarrier = "false_carrier",
        MarketOutage = "market_outage",
        /// No carrier lets anything foreign through.
        Whitelist = "whitelist",
        /// The same liars, who say so for five minutes and take it back for five.
        DishonestOnOff = "dishonest_on_off",
        /// All carriers at once, and so many owners on each deny it.
        Denied = "denied",
    }
);

/// What is asked of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Warn, then rotate, soon.
    Rotate,
    /// Never rotate.
    NeverRotate,
    /// Never turn a carrier red that half of the honest owners see free, let alone rotate.
    NeverRed,
}

impl Scenario {
    /// What is asked of the decision.
    pub fn duty(self) -> Duty {
        match self {
            Scenario::AllAtOnce
            | Scenario::LeaderFirst
            | Scenario::FromTheStart
            | Scenario::Partial
            | Scenario::Denied => Duty::Rotate,
            Scenario::FalseCarrier | Scenario::MarketOutage | Scenario::Whitelist | Scenario::Quiet => {
                Duty::NeverRotate
            }
            Scenario::Dishonest | Scenario::DishonestOnOff => Duty::NeverRed,
        }
    }

    /// How long agents measure before it begins, in ms.
    pub(super) fn onset_millis(self) -> u64 {
        match self {
            Scenario::FromTheStart => 0,
            _ => 20 * 60_000,
        }
    }

    /// How long it is watched, in ms.
    pub(super) fn watched_millis(self) -> u64 {
        match self {
            Scenario::Quiet => 30 * 86_400_000,
            Scenario::Dishonest
            | Scenario::DishonestOnOff
            | Scenario::FalseCarrier
            | Scenario::Whitelist
            | Scenario::LeaderFirst => 2 * 3_600_000,
            _ => 3_600_000,
        }
    }

    /// Whether nothing more is to be learnt once the market rotates.
    pub(super) fn ends_with_rotation(self) -> bool {
        self.duty() == Duty::Rotate
    }

    /// From the first carrier's fall to that of the one which makes `pausing` blocked carriers, in ms.
    pub(super) fn pause_due_millis(self, pausing: u32) -> u64 {
        match self {
            Scenario::LeaderFirst => FALL_GAP_MILLIS * u64::from(pausing.saturating_sub(1)),
            _ => 0,
        }
    }

    /// The part of visits a censor blocks on the carrier of that number (the leader is number 0).
    pub(super) fn blocked_share(
        self,
        carrier: u32,
        since_millis: u64,
        whole: f64,
        partial: f64,
    ) -> Option<f64> {
        match self {
            Scenario::AllAtOnce | Scenario::FromTheStart | Scenario::Denied => Some(whole),
            Scenario::LeaderFirst => (since_millis >= FALL_GAP_MILLIS * u64::from(carrier)).then_some(whole),
            Scenario::Partial => Some(partial),
            Scenario::MarketOutage => (since_millis < OUTAGE_MILLIS).then_some(1.0),
            Scenario::Quiet
            | Scenario::Dishonest
            | Scenario::DishonestOnOff
            | Scenario::FalseCarrier
            | Scenario::Whitelist => None,
        }
    }

    /// Whether this owner of this carrier speaks by no visit of its own.
    pub(super) fn lies(self, carrier: u32, owner: u32, owners: u32) -> bool {
        match self {
            Scenario::Dishonest | Scenario::DishonestOnOff | Scenario::Denied => owner + 1 < majority(owners),
            Scenario::FalseCarrier => carrier == 0,
            _ => false,
        }
    }

    /// Whether what liars say is `blocked`.
    pub(super) fn claims_block(self, since_millis: u64) -> bool {
        match self {
            Scenario::DishonestOnOff => (since_millis / LIE_MILLIS).is_multiple_of(2),
            Scenario::Denied => false,
            _ => true,
        }
    }

    pub(super) fn restricts(self) -> bool {
        self == Scenario::Whitelist
    }
}

/// Flagged owners that turn a carrier of so many: stated here once more, apart from the code that is held against it.
fn majority(owners: u32) -> u32 {
    2.max(owners / 2 + 1)
}
