//! What probes and health checks come to: a state that so many outcomes in a row change.

/// A state, down at first, and the outcomes on the way to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    up: bool,
    last: bool,
    count: u32,
}

impl Streak {
    /// Takes in an outcome: `successes` in a row make it up, `failures` down.
    pub(super) fn push(&mut self, success: bool, successes: u32, failures: u32) {
        self.count = if self.last == success { self.count.saturating_add(1) } else { 1 };
        self.last = success;
        if self.count >= if success { successes } else { failures } {
            self.up = success;
        }
    }

    pub(super) fn up(&self) -> bool {
        self.up
    }

    /// The state of what needs no outcome.
    pub(super) const ALWAYS: Self = Self { up: true, last: true, count: 0 };
}
