//! How a doubt is pursued: how often, and for how long. The fold's rule, which the simulation plays too.

use crate::cell::CellState;
use crate::market::Action;
use crate::words::UnixMillis;

/// A doubt that lasts longer is how things are: a carrier that stays red, an owner who always sees a block.
const DOUBT_SECS_MAX: u64 = 900;
/// How often it is looked whom to ask again.
pub(super) const LOOK_SECS: u64 = 5;

/// What is in doubt, since when it looks so, and when it was last asked about.
#[derive(Debug)]
pub(crate) struct Doubt<T> {
    seen: T,
    since: UnixMillis,
    asked_at: UnixMillis,
}

impl<T: PartialEq> Doubt<T> {
    /// Takes in what is seen now; whether it is to be asked about at once.
    pub(crate) fn pursue(open: &mut Option<Self>, seen: T, now: UnixMillis) -> bool {
        let doubt = open.as_ref().filter(|doubt| doubt.seen == seen);
        let since = doubt.map_or(now, |doubt| doubt.since);
        let is_due = doubt.is_none_or(|doubt| now >= doubt.asked_at.plus_secs(LOOK_SECS));
        if !is_due || now >= since.plus_secs(DOUBT_SECS_MAX) {
            return false;
        }
        *open = Some(Self { seen, since, asked_at: now });
        true
    }
}

/// Whether a cell that looks like this is in doubt.
pub(crate) fn sees_block(state: CellState) -> bool {
    matches!(state, CellState::Suspect | CellState::Red)
}

/// The warning that an action gives: while it stands, all of the market is asked.
pub(crate) fn warning(action: Option<Action>) -> Option<Action> {
    action.filter(|action| matches!(action, Action::Prepare | Action::Pause))
}

/// Whether a decision in force says what an early word would: that the mirror does not serve here.
pub(crate) fn tells_of_block(action: Option<Action>) -> bool {
    action.is_some_and(|action| !matches!(action, Action::Keep | Action::Hold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_pursued_every_few_seconds_until_it_is_how_things_are() {
        let (start, mut open) = (UnixMillis(1_000_000), None);
        let mut pursue = |seen: &'static str, secs| Doubt::pursue(&mut open, seen, start.plus_secs(secs));
        assert!(pursue("one", 0) && !pursue("one", 4) && pursue("one", 5));
        assert!(pursue("two", 6), "what looks otherwise is asked about at once");
        assert!(!pursue("two", 10) && pursue("two", 11));
        assert!(pursue("two", 905) && !pursue("two", 906), "900 s after it began to look so");
        assert!(pursue("one", 907));
    }
}
