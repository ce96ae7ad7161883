//! The mirror list ends: people hear of it in time, for agents measure nothing by one that has ended.
//!
//! Lists of older signers, without an end, are told of by nobody: what followed from old journals stays as it was.

use std::collections::BTreeSet;

use super::Fold;
use crate::evidence::SignedList;
use crate::market::{Alert, AlertKind, Arg, Key, line};
use crate::operator_keys::OperatorKeys;
use crate::target::MirrorList;
use crate::words::{MarketId, UnixMillis};

/// How long before a list's end people are told: three days, one day, and at the end itself.
const AHEAD_SECS: [u64; 3] = [3 * 86_400, 86_400, 0];
/// Lists kept that changed the operator's keys: agents that were away need each of them. Nobody changes keys so often.
const KEY_CHANGES_MAX: usize = 64;

/// What is known of lists beside the one in force.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// When people are to be told, and of which end.
    warnings: Vec<UnixMillis>,
    /// The operator's keys, as the last list that named some has them.
    keys: Option<OperatorKeys>,
    /// Those that changed the operator's keys, by version.
    key_changes: Vec<(u64, SignedList)>,
}

impl Lists {
    /// When people are to be told next.
    pub(super) fn deadline(&self) -> Option<UnixMillis> {
        self.warnings.first().copied()
    }

    /// Notes a new list.
    pub(super) fn put(&mut self, signed: &SignedList, list: &MirrorList, at: UnixMillis) {
        let warnings = list.expires_at.into_iter().flat_map(|end| {
            AHEAD_SECS.into_iter().map(move |secs| end.minus_millis(secs * 1_000)).filter(|when| *when > at)
        });
        self.warnings = warnings.collect();
        if list.keys.is_some() && list.keys != self.keys {
            self.keys.clone_from(&list.keys);
            self.key_changes.push((list.version, signed.clone()));
            let surplus = self.key_changes.len().saturating_sub(KEY_CHANGES_MAX);
            self.key_changes.drain(..surplus);
        }
    }
}

impl Fold {
    /// The operator's keys as a list named them; `None`: none ever did.
    pub fn operator_keys(&self) -> Option<&OperatorKeys> {
        self.lists.keys.as_ref()
    }

    /// The lists that changed the operator's keys, by version: who holds an older list needs each to know the next.
    pub fn key_changes(&self) -> &[(u64, SignedList)] {
        &self.lists.key_changes
    }

    /// Tells of the list's end, where it is time.
    pub(super) fn hear_expiry(&mut self) -> Vec<Alert> {
        let due = self.lists.warnings.iter().filter(|when| **when <= self.at).count();
        let end = self.list().and_then(|list| list.expires_at);
        let (Some(end), true) = (end, due > 0) else { return Vec::new() };
        // Of several that are due, after a long stop, one is told.
        self.lists.warnings.drain(..due);
        let left_secs = end.since_millis(self.at) / 1_000;
        let markets =
            self.list().into_iter().flat_map(|list| &list.mirrors).flat_map(|mirror| &mirror.markets);
        let markets: BTreeSet<MarketId> = markets.cloned().collect();
        let (key, args) = if left_secs == 0 {
            (Key::AlertListEnded, [("at", Arg::from(end)), ("left", Arg::Span(0))])
        } else {
            (Key::AlertListExpiring, [("at", Arg::from(end)), ("left", Arg::Span(left_secs))])
        };
        let tell = |market| self.alert(AlertKind::ListExpiring, &market, None, vec![], [line(key, &args)]);
        markets.into_iter().map(tell).collect()
    }
}
