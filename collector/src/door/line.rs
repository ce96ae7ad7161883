//! A bounded line of those let in, in the order they came. Who comes when it is full takes the place of whoever stands in
//! it longest, among their own kind first: so nobody is kept out by others who came to stay.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

/// So many places, so many of them for one kind.
#[derive(Debug)]
pub struct Line<K> {
    max: usize,
    kind_max: usize,
    next: u64,
    places: BTreeMap<u64, (Option<K>, oneshot::Sender<()>)>,
    by_kind: BTreeMap<K, VecDeque<u64>>,
}

/// A place taken.
#[derive(Debug)]
pub struct Taken {
    /// What to leave by.
    pub number: u64,
    /// Ends when another takes the place.
    pub ousted: oneshot::Receiver<()>,
    /// Whether somebody was ousted for it.
    pub is_ousting: bool,
}

/// What becomes of a newcomer to a line that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Whoever stands in it longest goes.
    OustOldest,
    /// The newcomer goes, unless one of its own kind can.
    TurnAway,
}

impl<K: Ord + Clone> Line<K> {
    /// An empty line of at least one place.
    pub fn new(max: usize, kind_max: usize) -> Self {
        let (max, kind_max) = (max.max(1), kind_max.max(1));
        Self { max, kind_max, next: 0, places: BTreeMap::new(), by_kind: BTreeMap::new() }
    }

    /// Takes a place; who is of no kind is bounded by the whole line alone.
    pub fn enter(&mut self, kind: Option<K>, when_full: WhenFull) -> Option<Taken> {
        let of_kind = kind.as_ref().and_then(|kind| self.by_kind.get(kind));
        let own_oldest =
            of_kind.filter(|own| own.len() >= self.kind_max).and_then(|own| own.front().copied());
        let is_full = self.places.len() >= self.max;
        let goes = match (own_oldest, is_full, when_full) {
            (Some(own), _, _) => Some(own),
            (None, true, WhenFull::TurnAway) => return None,
            (None, true, WhenFull::OustOldest) => self.places.first_key_value().map(|(number, _)| *number),
            (None, false, _) => None,
        };
        if let Some(number) = goes {
            self.leave(number);
        }
        let (place, ousted) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        if let Some(kind) = &kind {
            self.by_kind.entry(kind.clone()).or_default().push_back(number);
        }
        self.places.insert(number, (kind, place));
        Some(Taken { number, ousted, is_ousting: goes.is_some() })
    }

    /// Gives a place back. Who was ousted has none any more, and nothing happens.
    pub fn leave(&mut self, number: u64) {
        let Some((Some(kind), _)) = self.places.remove(&number) else { return };
        if let Some(own) = self.by_kind.get_mut(&kind) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.by_kind.remove(&kind);
            }
        }
    }

    /// Places taken.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(line: &mut Line<u8>, kind: Option<u8>, when_full: WhenFull) -> Option<Taken> {
        let taken = line.enter(kind, when_full);
        assert!(line.len() <= line.max);
        taken
    }

    #[test]
    fn the_oldest_goes_first_and_of_a_crowded_kind_its_own_oldest() {
        let mut line = Line::new(4, 2);
        let mut first = enter(&mut line, None, WhenFull::OustOldest).unwrap();
        let mut crowd: Vec<_> =
            (0..3).map(|_| enter(&mut line, Some(7), WhenFull::OustOldest).unwrap()).collect();
        let is_gone = |taken: &mut Taken| {
            taken.ousted.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        };
        assert_eq!(crowd.iter_mut().map(is_gone).collect::<Vec<_>>(), [true, false, false]);
        assert!(crowd[2].is_ousting && !is_gone(&mut first), "a crowd ousts its own");
        assert_eq!(line.len(), 3);
        enter(&mut line, Some(8), WhenFull::OustOldest).unwrap();
        assert!(!is_gone(&mut first));
        let last = enter(&mut line, Some(9), WhenFull::OustOldest).unwrap();
        assert!(last.is_ousting && is_gone(&mut first));
        // Who was ousted leaves once more, without effect.
        line.leave(first.number);
        assert_eq!(line.len(), 4);
    }

    #[test]
    fn a_line_that_turns_away_still_lets_one_replace_itself() {
        let mut line = Line::new(2, 1);
        let one = enter(&mut line, Some(1), WhenFull::TurnAway).unwrap();
        enter(&mut line, Some(2), WhenFull::TurnAway).unwrap();
        assert!(enter(&mut line, Some(3), WhenFull::TurnAway).is_none());
        assert!(enter(&mut line, Some(1), WhenFull::TurnAway).unwrap().is_ousting);
        line.leave(one.number);
        assert_eq!(line.len(), 2);
    }

    #[test]
    fn nobody_is_remembered_who_left() {
        let mut line = Line::new(10, 3);
        let taken: Vec<_> =
            (0..9).map(|kind| enter(&mut line, Some(kind), WhenFull::TurnAway).unwrap().number).collect();
        taken.into_iter().for_each(|number| line.leave(number));
        assert!(line.places.is_empty() && line.by_kind.is_empty());
    }
}
