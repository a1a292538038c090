//! The one reader of the operating system's clock.

use std::time::Instant;

/// Now, on a clock that never steps back.
#[allow(clippy::disallowed_methods, reason = "everyone else is told the time")]
pub fn now() -> Instant {
    Instant::now()
}
