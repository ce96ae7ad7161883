//! What people must hear that is no decision about a mirror: logged, listed and delivered beside decisions.

use serde::{Deserialize, Serialize};

use super::{EvidenceItem, Texts};
use crate::verdict::words;
use crate::words::{CarrierId, MarketId, MirrorId, UnixMillis};

words!(
    /// What an alert is about.
    AlertKind {
        /// A rotation finds no standby that works.
        PoolEmpty = "pool_empty",
        /// The standbys will not last.
        PoolLow = "pool_low",
        /// Several agents of a carrier fell silent at once, while others speak.
        ShutdownSuspected = "shutdown_suspected",
        /// They are heard again.
        ShutdownOver = "shutdown_over",
        /// A burned mirror works again.
        Unblocked = "unblocked",
        /// Enough voices see a block, and no carrier is red for it yet: a first word, on which nothing acts.
        BlockSuspected = "block_suspected",
        /// A decision waits for people.
        ApprovalNeeded = "approval_needed",
        /// The mirror list ends soon, or has ended: agents measure nothing by it then.
        ListExpiring = "list_expiring",
        /// Two boxes use one agent's name.
        AgentLocked = "agent_locked",
    }
);

/// One line of the alert log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Market and number, such as `kz-alert-000003`.
    pub id: String,
    /// From 1, over all markets.
    pub number: u64,
    pub at: UnixMillis,
    pub market: MarketId,
    pub kind: AlertKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorId>,
    pub carriers: Vec<CarrierId>,
    pub texts: Texts,
    /// The records it rests on, where it rests on any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceItem>,
    /// How many journal entries had been folded, this one's cause among them.
    pub journal_position: u64,
}

impl Alert {
    /// The logged bytes: one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an alert has only text keys")
    }
}
