//! What the caller hands in: the bytes, and what the bytes can't tell.

pub use crate::nat::Checksum;
use crate::verdict::{Datagram, Verdict};
pub use crate::wire::Link;

/// One packet on its way through [`Balancer::process`](crate::Balancer::process).
#[derive(Debug)]
pub struct Packet<'p> {
    /// The bytes at hand, starting at the link or IP header as [`Meta::link`] says. Fewer than the
    /// packet's own length where a capture's snap length or a first segment ends them; bytes beyond
    /// the packet (Ethernet padding) are left alone.
    pub data: &'p mut [u8],
    /// What the bytes can't tell.
    pub meta: Meta,
    /// Where [`process_batch`](crate::Balancer::process_batch) writes its verdict.
    pub verdict: Verdict,
    /// Set when this packet was the first fragment of a datagram whose later fragments were answered
    /// [`Verdict::Hold`]: those may now be processed again.
    pub releases: Option<Datagram>,
}

impl<'p> Packet<'p> {
    /// A packet not yet judged.
    pub fn new(data: &'p mut [u8], meta: Meta) -> Self {
        Self { data, meta, verdict: Verdict::Pass, releases: None }
    }
}

/// What a packet's bytes can't tell about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Meta {
    /// What the first byte is part of.
    pub link: Link,
    /// The state of the transport checksum.
    pub checksum: Checksum,
    /// Where the packet came from.
    pub origin: Origin,
    /// The address space that its addresses belong to; 0 where there is only one.
    pub zone: u16,
}

/// Where a packet came from, as far as the caller knows better than the source address tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Origin {
    /// Received; whether it is a pod's is for the address-based detectors to say (SEMANTICS §8.4).
    #[default]
    Wire,
    /// Received on an interface that only pods use: an interface-based detector said so.
    Pod,
    /// Sent by the node itself (Linux: the OUTPUT hook).
    Node,
}
