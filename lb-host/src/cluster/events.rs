//! What is to happen, in the order in which it does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lb_core::Instant;

/// Events by time; those of one time in the order they were planned.
#[derive(Debug)]
pub(super) struct Events<T> {
    heap: BinaryHeap<Reverse<Planned<T>>>,
    planned: u64,
}

#[derive(Debug)]
struct Planned<T> {
    time: Instant,
    number: u64,
    event: T,
}

impl<T> Events<T> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(super) fn plan(&mut self, time: Instant, event: T) {
        self.heap.push(Reverse(Planned { time, number: self.planned, event }));
        self.planned += 1;
    }

    /// When the next one happens.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.heap.peek().map(|next| next.0.time)
    }

    pub(super) fn next(&mut self) -> Option<(Instant, T)> {
        self.heap.pop().map(|next| (next.0.time, next.0.event))
    }
}

impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Planned<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut events = Events::new();
        for (time, name) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b')] {
            events.plan(Instant::from_secs(time), name);
        }
        assert_eq!(events.next_time(), Some(Instant::from_secs(1)));
        assert_eq!(std::iter::from_fn(|| events.next().map(|(_, name)| name)).collect::<String>(), "abcd");
    }
}
