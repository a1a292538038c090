//! So that what is dear can't be made a flood: answers to rejected packets, and searches for ports that find none, are few in
//! any second.

use crate::time::Instant;

/// A bucket of tokens: as many as a second may bring, filled by the time that passes.
pub(super) struct Limiter {
    per_second: u32,
    /// In billionths.
    tokens: u64,
    filled: Instant,
}

impl Limiter {
    const TOKEN: u64 = 1_000_000_000;

    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, tokens: u64::from(per_second) * Self::TOKEN, filled: Instant::ORIGIN }
    }

    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let passed = now.saturating_since(self.filled).as_nanos().min(u128::from(Self::TOKEN)) as u64;
        let full = u64::from(self.per_second) * Self::TOKEN;
        self.tokens = (self.tokens + passed * u64::from(self.per_second)).min(full);
        self.filled = now;
        let admitted = self.tokens >= Self::TOKEN;
        if admitted {
            self.tokens -= Self::TOKEN;
        }
        admitted
    }

    /// What was admitted did not happen.
    pub(super) fn give_back(&mut self) {
        self.tokens += Self::TOKEN;
    }
}
