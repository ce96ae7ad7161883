//! When people hear of a block before any carrier is red for it: enough owners see it at once. The rule alone, which the
//! simulation plays too; nothing acts on it.

use std::collections::BTreeSet;

use crate::cell::{CellPolicy, Sighting};
use crate::policy::SuspicionPolicy;
use crate::words::{OwnerId, UnixMillis};

/// What people have heard of one mirror in one market.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// When the block that they have heard of was last seen; `None` where there is none.
    seen_at: Option<UnixMillis>,
}

impl Suspicion {
    /// Takes in what the cells of each carrier see at `now`; whether people must hear of it. `is_told`: a decision has told
    /// them.
    pub(crate) fn take(
        &mut self,
        carriers: &[Vec<Sighting<'_>>],
        is_told: bool,
        now: UnixMillis,
        (policy, cell): (&SuspicionPolicy, &CellPolicy),
    ) -> bool {
        let crowd = Crowd::of(carriers);
        let is_open = self.seen_at.is_some_and(|last| now < last.plus_secs(policy.over_secs(cell)));
        let is_news = !is_open && !is_told && crowd.is_enough(policy);
        if is_told {
            self.seen_at = Some(now);
        } else if is_news || (is_open && crowd.is_half(policy)) {
            self.seen_at = self.seen_at.max(crowd.seen_at);
        }
        is_news
    }
}

/// Who sees a block, all over the market.
struct Crowd<'a> {
    /// One owner is one, on however many carriers.
    owners: BTreeSet<&'a OwnerId>,
    /// Carriers where somebody does, of how many.
    carriers: usize,
    of: usize,
    /// The most flagged owners on a carrier where the majority that would turn it red does; `None`: there is no such.
    flagged: Option<u32>,
    /// Their newest verdict.
    seen_at: Option<UnixMillis>,
}

impl<'a> Crowd<'a> {
    fn of(carriers: &'a [Vec<Sighting<'a>>]) -> Self {
        let voices = || carriers.iter().flatten().flat_map(|sighting| &sighting.voices);
        let sees = |cells: &&Vec<Sighting<'_>>| cells.iter().any(|sighting| !sighting.voices.is_empty());
        let has_majority = |sighting: &&Sighting<'_>| sighting.voices.len() as u32 >= sighting.needed;
        Self {
            owners: voices().map(|(owner, _)| *owner).collect(),
            carriers: carriers.iter().filter(sees).count(),
            of: carriers.len(),
            flagged: carriers.iter().flatten().filter(has_majority).map(|sighting| sighting.flagged).max(),
            seen_at: voices().map(|(_, evidence)| evidence.at).max(),
        }
    }

    fn is_enough(&self, policy: &SuspicionPolicy) -> bool {
        let carriers_min = self.of.min(policy.carriers_min as usize);
        let is_wide = self.carriers >= carriers_min && self.owners.len() >= policy.owners_min as usize;
        is_wide || self.flagged.is_some_and(|flagged| flagged >= policy.flagged_min)
    }

    /// Whether what people have heard of may still be the case: one owner who is wrong now and then, or lies, holds no
    /// event open.
    fn is_half(&self, policy: &SuspicionPolicy) -> bool {
        self.owners.len() * 2 >= policy.owners_min as usize || self.flagged.is_some()
    }
}
