//! Deadlines in 32 bits.

use core::time::Duration;

use crate::time::Instant;

/// Time in sixteenths of a second, wrapping every 8.5 years: what an entry keeps of a deadline.
///
/// Comparison is by signed difference, so a clock may step by up to four years either way and no
/// timeout may be longer; [`Ticks::of`] caps them at one year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks(pub(crate) u32);

const PER_SECOND: u64 = 16;
const YEAR: u64 = 365 * 86_400 * PER_SECOND;

impl Ticks {
    /// The tick that `now` falls in.
    pub(crate) const fn at(now: Instant) -> Self {
        Self((now.as_nanos() / (1_000_000_000 / PER_SECOND)) as u32)
    }

    /// A timeout in ticks, rounded up.
    pub(crate) const fn of(timeout: Duration) -> u32 {
        let ticks = timeout.as_nanos().div_ceil((1_000_000_000 / PER_SECOND) as u128);
        if ticks > YEAR as u128 { YEAR as u32 } else { ticks as u32 }
    }

    pub(crate) const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// How many ticks this lies after `now`; negative once it has passed.
    pub(crate) const fn after(self, now: Self) -> i32 {
        self.0.wrapping_sub(now.0) as i32
    }

    /// The instant at which this tick begins, given that it lies within four years of `now`.
    pub(crate) const fn instant(self, now: Instant) -> Instant {
        let ticks = now.as_nanos() / (1_000_000_000 / PER_SECOND);
        let at = ticks.saturating_add_signed(self.after(Self(ticks as u32)) as i64);
        Instant::from_nanos(at.saturating_mul(1_000_000_000 / PER_SECOND))
    }
}
