//! An endpoint on its way into a service port's pools.

use alloc::vec::Vec;

use super::objects::Label;
use crate::rules::Pool;
use crate::tuple::Address;

/// An endpoint of a service port, and how it stands towards each pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Whether it may receive new traffic.
    pub ready: bool,
    /// Whether it answers, ready or not.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Whether it runs on this node.
    pub local: bool,
    /// The node it runs on, if known.
    pub node: Option<Label>,
    /// Zones that it is hinted for.
    pub zone_hints: Vec<Label>,
    /// Nodes that it is hinted for.
    pub node_hints: Vec<Label>,
    /// How it stands towards the cluster pool.
    pub cluster: Standing,
    /// How it stands towards the local pool.
    pub own: Standing,
}

/// How an endpoint stands towards a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In it.
    Member,
    /// In it, terminating, as no endpoint is ready (§5.2, §5.3).
    LastResort,
    /// Out: the pool is not in use (§5.1).
    Unused,
    /// Out: neither ready, nor serving while it terminates (§5.6).
    NotReady,
    /// Out: it terminates, and others are ready.
    Terminating,
    /// Out: it is hinted for other nodes (§5.4).
    OtherNode,
    /// Out: it is hinted for other zones (§5.4).
    OtherZone,
    /// Out: it is not on this node.
    Remote,
}

impl Standing {
    /// Whether this is in the pool.
    pub const fn is_in(self) -> bool {
        matches!(self, Self::Member | Self::LastResort)
    }
}

impl Candidate {
    /// How it stands towards a pool.
    pub const fn standing(&self, pool: Pool) -> Standing {
        match pool {
            Pool::Cluster => self.cluster,
            Pool::Local => self.own,
        }
    }

    /// §5.6: what may stand in when no endpoint is ready.
    pub(super) const fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}
