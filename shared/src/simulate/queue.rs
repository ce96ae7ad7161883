//! What happens next: events in the order of their instants, those of one instant in the order they were planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::words::UnixMillis;

/// Events to come.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(UnixMillis, u64, E)>>,
    planned: u64,
}

impl<E: Ord> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(super) fn plan(&mut self, at: UnixMillis, event: E) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, event)));
    }

    pub(super) fn next(&mut self) -> Option<(UnixMillis, E)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_plan() {
        let mut queue = Queue::new();
        for (at, event) in [(5, "c"), (1, "b"), (5, "a"), (0, "z")] {
            queue.plan(UnixMillis(at), event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(_, event)| event).collect();
        assert_eq!(order, ["z", "b", "c", "a"]);
    }
}
