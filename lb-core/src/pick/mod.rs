//! Choosing a backend.

/// How a backend is chosen among those that may be (SEMANTICS §7.5, §14.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Scheduler {
    /// Uniformly at random.
    Random = 0,
    /// One after the other.
    RoundRobin = 1,
    /// By a Maglev table (Eisenbud et al., NSDI 2016, §3.4) over the client's address and port.
    Maglev = 2,
}
