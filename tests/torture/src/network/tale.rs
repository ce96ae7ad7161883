//! What happened in one run.

use zerkalo_core::target::Sha256;

/// See the module.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tale {
    /// Trouble, in order.
    pub events: Vec<String>,
    /// In the journal at the end.
    pub records: u64,
    /// Of those, admitted before what they follow.
    pub ahead: u64,
    /// Given up by full spools, and told.
    pub dropped: u64,
    pub crashes: u64,
    /// Epochs beyond each agent's first.
    pub epochs: u64,
    /// Of all statements in the journal, agent by agent: the same seed gives the same.
    pub digest: Sha256,
}

impl Tale {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.events.extend(other.events);
        self.records += other.records;
        self.ahead += other.ahead;
        self.dropped += other.dropped;
        self.crashes += other.crashes;
        self.epochs += other.epochs;
    }
}
