//! What can be wrong with what a balancer is made from, or with a flow that is brought back.

/// Why a balancer can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ConfigError {
    /// The memory is too small: give at least this many blocks.
    Memory {
        /// [`blocks`](crate::blocks) of the sizes.
        needed: usize,
    },
    /// More flows of one family than names: 2^28 at most.
    TooManyFlows,
    /// It is to be a core that is none of those that share the traffic.
    Core,
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Memory { needed } => write!(f, "too little memory for these sizes: give {needed} blocks"),
            Self::TooManyFlows => {
                f.write_str("more than 2^28 flows of one family: give smaller sizes, or use a balancer a core")
            }
            Self::Core => f.write_str("no such core: they are numbered from 0, and there is at least one"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// Why a flow can't be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RestoreError {
    /// One of its tuples is another flow's already.
    Taken,
    /// The table is full of flows that may not be evicted.
    Full,
    /// Its two tuples differ in family, protocol or zone, or are the same.
    Mixed,
    /// Its packets are steered to another core than this balancer's.
    Elsewhere,
}

impl core::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Taken => "another flow has one of its tuples: remove that one first, or leave this out",
            Self::Full => "the flow table is full: make a larger one",
            Self::Mixed => {
                "its two tuples are not of one flow: family, protocol and zone must agree, and the tuples differ"
            }
            Self::Elsewhere => {
                "its packets go to another core: restore it there, or leave it out if the number of cores has changed"
            }
        })
    }
}

impl core::error::Error for RestoreError {}
