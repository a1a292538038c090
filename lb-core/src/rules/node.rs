//! The node's section: what holds for all services on it. A mode lives here, as tables and flags.
//!
//! ```text
//!  0        4       8         40        72      76      78     80        82          84     86           96
//!  | length | flags | rows v4 | rows v6 | stale | first | last | sources | addresses | CIDRs | masquerade | health |
//! ```
//! then the detector's sources, the node's addresses, the service CIDRs (20 bytes each: address, prefix
//! length, facts), the masquerade addresses (36 bytes each: prefix, address), and the
//! health check ports (16 bits each, padded to four bytes).

use super::bytes::{u8_at, u16_at, u32_at, u128_at};
use super::segment::{PREFIX, VipClass, holds, padded, prefix, prefixes};
use crate::tuple::{Address, Family, Prefix, Protocol};

/// Bytes before the lists.
pub(crate) const HEADER: usize = 96;
/// Where the rows of each family are, and how many.
pub(crate) const ROWS: [usize; 2] = [8, 40];
#[cfg(feature = "alloc")]
pub(crate) const ROW_COUNT: usize = 32;
/// Where it says what becomes of stale flows, by protocol: TCP, UDP, SCTP.
pub(crate) const STALE: usize = 72;
/// Bytes of a masquerade address and its prefix.
pub(crate) const MASQUERADE: usize = PREFIX + 16;

/// Facts of a node, as bits of its flags.
pub(crate) mod flag {
    /// A packet to a ClusterIP on no port of its service is rejected (SEMANTICS §6.6).
    pub(crate) const REJECT_UNMATCHED: u32 = 1;
    /// A packet to a service CIDR's address that is no ClusterIP is dropped (§6.6).
    pub(crate) const DROP_UNALLOCATED: u32 = 2;
    /// Source ranges are looked at before endpoints are (§8.6).
    pub(crate) const FIREWALL_FIRST: u32 = 4;
    /// Packets to loopback from elsewhere are dropped (§9.5).
    pub(crate) const LOOPBACK_GUARD: u32 = 8;
    /// Flows whose service has no serving backend left, or no owner any more, end (§11.5 keeps them).
    pub(crate) const CUT_EMPTY: u32 = 16;
    /// Vips of every class are the node's own: it answers pings to them and rejects what is on none of
    /// their services' ports (§14.3).
    pub(crate) const BOUND_VIPS: u32 = 32;
    /// Traffic to a ClusterIP whose source is itself a ClusterIP is masqueraded (§14.3).
    pub(crate) const MASQUERADE_VIP_SOURCES: u32 = 64;
    /// Traffic from loopback is never masqueraded (§14.3).
    pub(crate) const KEEP_LOOPBACK: u32 = 128;
    /// A client that is its own backend is not masqueraded (§14.4).
    pub(crate) const NO_HAIRPIN: u32 = 256;
    /// New flows go to a proxy on the node (§14.5).
    pub(crate) const PUNT: u32 = 512;
    /// A flow is stale once its backend is in no pool, serving or not (§14.3).
    pub(crate) const STALE_BY_POOL: u32 = 1024;
    /// Session affinity is not shared between the Vips of a service port (§14.3).
    pub(crate) const AFFINITY_BY_VIP: u32 = 2048;
    /// Every backend is a proxy on the node (§14.5).
    pub(crate) const REDIRECT: u32 = 4096;
}

/// Facts of one of the node's addresses.
pub(crate) mod address {
    /// It is the node's own.
    pub(crate) const OWN: u8 = 1;
    /// Node ports are open on it.
    pub(crate) const NODE_PORTS: u8 = 2;
    /// Node ports without an endpoint are rejected or dropped on it (SEMANTICS §6.9).
    pub(crate) const REJECTS: u8 = 4;
}

/// Who sends a packet, as far as policies care (SEMANTICS §1, §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum SourceKind {
    /// The node itself.
    Node = 0,
    /// A pod, as the local detector has it.
    Pod = 1,
    /// Anyone else.
    Outside = 2,
    /// The node itself, in the name of an address that the local detector takes for a pod's (a bridge's own, say). Detectors look
    /// at nothing but the address (§8.4), so policies and masquerading treat it as a pod; what it sends takes the
    /// node's way out all the same (§6.8).
    NodeAsPod = 3,
}

/// What becomes of a new flow of one class, source and policy: a row of the mode's table, as one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row(pub(crate) u8);

/// What becomes of a flow that finds nobody to serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Unserved {
    Reject = 0,
    Drop = 1,
    Pass = 2,
    /// The cluster pool takes the local one's place.
    Cluster = 3,
}

impl Row {
    /// Bit 0: the local pool; bit 1: masquerade; bits 2-3: what when the pool is empty; bits 4-5: what
    /// when there is no endpoint anywhere; bit 6: a local policy was set aside (SEMANTICS §7.4).
    #[cfg(feature = "alloc")]
    pub(crate) const fn new(
        local: bool,
        masquerade: bool,
        empty: Unserved,
        none: Unserved,
        short_circuit: bool,
    ) -> Self {
        Self(
            local as u8 | (masquerade as u8) << 1 | (empty as u8) << 2 | (none as u8) << 4 | (short_circuit as u8) << 6,
        )
    }

    pub(super) const fn local(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) const fn masquerade(self) -> bool {
        self.0 & 2 != 0
    }

    pub(super) const fn empty(self) -> Unserved {
        unserved(self.0 >> 2)
    }

    pub(super) const fn none(self) -> Unserved {
        unserved(self.0 >> 4)
    }

    pub(super) const fn short_circuit(self) -> bool {
        self.0 & 64 != 0
    }

    /// Its place in the table: by class (ClusterIP, other address, node port), source, policy (Cluster,
    /// Local).
    pub(crate) const fn index(class: VipClass, source: SourceKind, local: bool) -> usize {
        let class = match class {
            VipClass::ClusterIp => 0,
            VipClass::ExternalIp | VipClass::LoadBalancer => 1,
            VipClass::NodePort => 2,
        };
        class << 3 | (source as usize) << 1 | local as usize
    }
}

const fn unserved(bits: u8) -> Unserved {
    match bits & 3 {
        0 => Unserved::Reject,
        1 => Unserved::Drop,
        2 => Unserved::Pass,
        _ => Unserved::Cluster,
    }
}

/// What becomes of a flow whose backend stopped serving while another still does (SEMANTICS §11, §14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stale {
    /// It stays.
    Keep = 0,
    /// The client's next packet chooses anew.
    Reselect = 1,
}

/// A view of the node's section. Reads are total, as a [`Segment`](super::Segment)'s are.
#[derive(Clone, Copy, Debug)]
pub struct NodeRules<'r> {
    /// Its first bytes, all zeros where there are fewer.
    head: &'r [u8; HEADER],
    bytes: &'r [u8],
}

impl<'r> NodeRules<'r> {
    pub(super) fn new(bytes: &'r [u8]) -> Self {
        Self { head: bytes.first_chunk().unwrap_or(&[0; HEADER]), bytes }
    }

    #[inline(always)]
    fn count(&self, at: usize) -> usize {
        usize::from(u16_at(self.head, at).unwrap_or(0))
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn has(&self, flag: u32) -> bool {
        u32_at(self.head, 4).unwrap_or(0) & flag != 0
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn row(&self, family: Family, class: VipClass, source: SourceKind, local: bool) -> Row {
        let index = Row::index(class, source, local);
        let [v4, v6] = ROWS;
        let rows = if family == Family::V4 { v4 } else { v6 };
        Row(u8_at(self.head, rows + index).unwrap_or(0))
    }

    /// What becomes of flows of this protocol whose backend stopped serving.
    pub fn stale(&self, protocol: Protocol) -> Stale {
        let at = match protocol {
            Protocol::TCP => STALE,
            Protocol::UDP => STALE + 1,
            _ => STALE + 2,
        };
        if u8_at(self.head, at) == Some(Stale::Reselect as u8) { Stale::Reselect } else { Stale::Keep }
    }

    /// Ports that masquerading must not use, first and last.
    pub fn reserved_ports(&self) -> (u16, u16) {
        (self.count(76) as u16, self.count(78) as u16)
    }

    /// Blocks whose addresses are pods', by the local detector.
    pub fn pod_sources(&self) -> impl Iterator<Item = Prefix> + use<'r> {
        prefixes(self.bytes, self.sources(), self.count(80))
    }

    fn sources(&self) -> usize {
        HEADER
    }

    fn addresses(&self) -> usize {
        self.sources() + self.count(80) * PREFIX
    }

    fn cidrs(&self) -> usize {
        self.addresses() + self.count(82) * PREFIX
    }

    fn masquerades(&self) -> usize {
        self.cidrs() + self.count(84) * PREFIX
    }

    fn health_checks(&self) -> usize {
        self.masquerades() + self.count(86) * MASQUERADE
    }

    fn end(&self) -> usize {
        self.health_checks() + padded(self.count(88) * 2)
    }

    /// Whether the node answers load balancers' health checks on this TCP port (SEMANTICS §10.5).
    pub(super) fn checks_health(&self, port: u16) -> bool {
        (0..self.count(88)).any(|i| u16_at(self.bytes, self.health_checks() + i * 2) == Some(port))
    }

    /// The lists' entries, of this size each, from `at` on.
    #[inline(always)]
    fn entries<const SIZE: usize>(
        &self,
        at: usize,
        count: usize,
    ) -> impl Iterator<Item = &'r [u8; SIZE]> + use<'r, SIZE> {
        let mut rest = self.bytes.get(at..).and_then(|rest| rest.get(..count * SIZE)).unwrap_or(&[]);
        core::iter::from_fn(move || {
            let (entry, behind) = rest.split_first_chunk()?;
            rest = behind;
            Some(entry)
        })
    }

    /// The first of such entries that begins with a block that holds this address.
    #[allow(clippy::manual_find, reason = "`find` is not inlined, and is handed what it looks for in memory")]
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn holding<const SIZE: usize>(&self, at: usize, count: usize, address: Address) -> Option<&'r [u8; SIZE]> {
        for entry in self.entries(at, count) {
            if entry.first_chunk().is_some_and(|block| holds(block, address)) {
                return Some(entry);
            }
        }
        None
    }

    /// What is known of this address as one of the node's: bits of [`address`].
    pub(super) fn address(&self, address: Address) -> u8 {
        let blocks = self.entries::<PREFIX>(self.addresses(), self.count(82));
        blocks.filter(|block| holds(block, address)).fold(0, |all, block| all | block[17])
    }

    /// Whether this is a pod's address, by the local detector.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn is_pod(&self, address: Address) -> bool {
        self.holding::<PREFIX>(self.sources(), self.count(80), address).is_some()
    }

    /// The blocks of all of the node's addresses.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Prefix> + use<'r> {
        prefixes(self.bytes, self.addresses(), self.count(82))
    }

    /// Whether every backend is a proxy on this node, which dials endpoints on its own (SEMANTICS §14.5).
    pub fn redirects(&self) -> bool {
        self.has(flag::REDIRECT)
    }

    /// The node's own addresses, the first of each family its primary one.
    pub fn own_addresses(&self) -> impl Iterator<Item = Address> + use<'r> {
        let (bytes, at) = (self.bytes, self.addresses());
        let own = move |i: &usize| u8_at(bytes, at + i * PREFIX + 17).is_some_and(|facts| facts & address::OWN != 0);
        let host =
            move |i: usize| prefix(bytes, at + i * PREFIX).filter(|block| *block == Prefix::host(block.address()));
        (0..self.count(82)).filter(own).filter_map(move |i| Some(host(i)?.address()))
    }

    /// Addresses on which node ports are open: the node's own, and loopback as a block (SEMANTICS §9.1, §9.5).
    pub fn node_port_addresses(&self) -> impl Iterator<Item = Prefix> + use<'r> {
        let (bytes, at) = (self.bytes, self.addresses());
        let open = move |i: &usize| u8_at(bytes, at + i * PREFIX + 17).is_some_and(|f| f & address::NODE_PORTS != 0);
        (0..self.count(82)).filter(open).filter_map(move |i| prefix(bytes, at + i * PREFIX))
    }

    /// Blocks that ClusterIPs come from.
    pub fn service_cidrs(&self) -> impl Iterator<Item = Prefix> + use<'r> {
        prefixes(self.bytes, self.cidrs(), self.count(84))
    }

    pub(super) fn in_service_cidrs(&self, address: Address) -> bool {
        self.service_cidrs().any(|cidr| cidr.contains(address))
    }

    /// Towards which destinations to masquerade with which of the node's own addresses, in order.
    pub fn masquerade_addresses(&self) -> impl Iterator<Item = (Prefix, Address)> + use<'r> {
        let (bytes, at) = (self.bytes, self.masquerades());
        (0..self.count(86)).map_while(move |i| {
            let at = at + i * MASQUERADE;
            Some((prefix(bytes, at)?, Address::from_bits(u128_at(bytes, at + PREFIX)?)))
        })
    }

    /// The node's own address to masquerade with towards `destination`: the first whose prefix holds it.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub fn masquerade(&self, destination: Address) -> Option<Address> {
        let row = self.holding::<MASQUERADE>(self.masquerades(), self.count(86), destination)?;
        Some(Address::from_bits(u128_at(row, PREFIX)?))
    }

    pub(super) fn is_sound(&self) -> bool {
        self.bytes.len() == self.end() && u32_at(self.head, 0) == Some(self.end() as u32)
    }
}
