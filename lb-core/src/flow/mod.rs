//! Connection tracking: which packets belong together, and where they go.
//!
//! One flow is one entry under two keys, the tuple as the client sends it and the tuple as the backend
//! answers it. Both live and die together, so there are no half-known flows.

pub(crate) mod affinity;
mod clock;
mod entry;
pub(crate) mod fragments;
mod index;
pub(crate) mod loads;
mod state;
pub(crate) mod table;

pub(crate) use clock::Ticks;
pub(crate) use entry::Flags;
pub use entry::Flow;
pub(crate) use index::{Name, Spot};
pub use state::State;
pub(crate) use state::{Class, Lifetimes, Signal};
pub(crate) use table::FlowTable;

/// The name of a flow in one balancer, valid until that flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FlowId(pub(crate) u32);

impl FlowId {
    /// The name as a number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Direction {
    /// From the client to the backend.
    Original,
    /// Back.
    Reply,
}

impl Direction {
    #[inline(always)]
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}
