//! The one reader of the operating system's clock, and of its randomness.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Now, on a clock that never steps back.
#[allow(clippy::disallowed_methods, reason = "everyone else is told the time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The engine's time in a live data plane: nanoseconds since 1970 when it was started, and from then on a clock that
/// never steps back. So the times of one process make sense to the next.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    origin: u64,
}

impl Clock {
    /// A clock that is set by the system's wall clock, once.
    #[allow(clippy::disallowed_methods, reason = "everyone else is told the time")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: now(), origin: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX) }
    }

    /// Now.
    pub fn now(&self) -> lb_core::Instant {
        lb_core::Instant::from_nanos(self.origin).saturating_add(now() - self.began)
    }
}

/// Bytes that nobody can guess: for keys and seeds.
///
/// # Errors
/// The system has none to give.
#[allow(clippy::disallowed_methods, reason = "everyone else is given keys and seeds")]
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
