//! A market's mirrors and what each is good for there.

use serde::{Deserialize, Serialize};

use crate::target::TargetUrl;
use crate::verdict::words;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

words!(
    /// What a mirror is in one market.
    PoolState {
        /// A standby that never served the market.
        Fresh = "fresh",
        /// Serves the market.
        Live = "live",
        /// Serves, though a block of it is suspected or paused for.
        Suspect = "suspect",
        /// Was blocked and replaced.
        Burned = "burned",
        /// Taken off for good.
        Retired = "retired",
    }
);

impl PoolState {
    /// Whether the market's traffic goes there.
    pub fn serves(self) -> bool {
        matches!(self, Self::Live | Self::Suspect)
    }
}

/// One mirror in one market's pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolEntry {
    pub market: MarketId,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub state: PoolState,
    /// Since when it is that.
    pub since: UnixMillis,
    /// The decision or order that made it so; none where the list did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

/// The mirror to send visitors to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    pub market: MarketId,
    pub mirror: MirrorId,
    pub url: TargetUrl,
    pub state: PoolState,
    /// The carrier asked about, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierId>,
}

/// A mirror's place in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) state: PoolState,
    pub(crate) since: UnixMillis,
    pub(crate) decision: Option<String>,
    /// When it began to serve, where it ever did.
    pub(crate) served_since: Option<UnixMillis>,
    /// As the list says.
    pub(crate) is_standby: bool,
}

impl Place {
    /// As the list puts it there.
    pub(crate) fn listed(is_standby: bool, at: UnixMillis) -> Self {
        let state = if is_standby { PoolState::Fresh } else { PoolState::Live };
        let served_since = state.serves().then_some(at);
        Self { state, since: at, decision: None, served_since, is_standby }
    }

    /// Moves it; `by` is a decision's id or an order's author.
    pub(crate) fn set(&mut self, state: PoolState, at: UnixMillis, by: Option<String>) {
        if self.state == state {
            return;
        }
        if state.serves() && !self.state.serves() {
            self.served_since = Some(at);
        }
        (self.state, self.since, self.decision) = (state, at, by);
    }
}
