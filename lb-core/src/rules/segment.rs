//! A segment: all that is known of one service port in one address family.
//!
//! ```text
//!  0         4       6       7        8     16         20         21       22
//!  | length  | flags | proto | family | id  | affinity | scheduler| unused |
//!  22     24          26        28      30       32            36          40            44       48
//!  | vips | backends | cluster | local | ranges | maglev cl.  | maglev lo.| label length | unused |
//! ```
//! then, each padded to four bytes: the two pools as backend numbers of 16 bits, the backends by rising address (8 bytes of
//! IPv4, 20 of IPv6), the Vips (20 bytes each), the source ranges (20 bytes each), the two Maglev tables as backend numbers of
//! 16 bits, the label. All little-endian, addresses too. What most new flows read comes first.

use super::bytes::{u8_at, u16_at, u32_at, u64_at, u128_at};
use crate::scheduler::Scheduler;
use crate::tuple::{Address, Family, Prefix, Protocol, within};

/// Bytes before the lists.
pub(crate) const HEADER: usize = 48;
/// Bytes of a Vip, of a prefix.
pub(crate) const VIP: usize = 20;
pub(crate) const PREFIX: usize = 20;

/// Facts of a segment, as bits of its flags.
pub(crate) mod flag {
    /// A usable endpoint exists somewhere in the cluster (SEMANTICS §5.5).
    pub(crate) const HAS_ANY: u16 = 1;
    /// The internal traffic policy is Local.
    pub(crate) const INTERNAL_LOCAL: u16 = 2;
    /// The external traffic policy is Local.
    pub(crate) const EXTERNAL_LOCAL: u16 = 4;
    /// The cluster pool is in use, if only by being empty (§5.1).
    pub(crate) const USES_CLUSTER: u16 = 8;
    /// The local pool is in use.
    pub(crate) const USES_LOCAL: u16 = 16;
    /// The ranges restrict who may dial a load balancer's Vip.
    pub(crate) const RESTRICTED: u16 = 32;
    /// A range holds the node's primary address: the Vip itself is then let in as a source (§8.6).
    pub(crate) const ADMITS_VIP_SOURCE: u16 = 64;
    /// What comes to a node port or load balancer's Vip keeps its destination, and goes to local backends (§14.4).
    pub(crate) const KEEPS_DESTINATION: u16 = 128;
}

/// What sort of address a client dialled (SEMANTICS §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum VipClass {
    /// A ClusterIP.
    ClusterIp = 0,
    /// One of `spec.externalIPs`.
    ExternalIp = 1,
    /// A load balancer's IP.
    LoadBalancer = 2,
    /// A port on the node.
    NodePort = 3,
}

impl VipClass {
    /// The class of this number, of two bits.
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::ClusterIp,
            1 => Self::ExternalIp,
            2 => Self::LoadBalancer,
            _ => Self::NodePort,
        }
    }
}

/// Address, port and protocol that clients dial. A node port's address is its family's "any".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The address dialled.
    pub address: Address,
    /// The port dialled.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// What sort of address it is.
    pub class: VipClass,
}

/// One endpoint of a service port, as compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Whether it answers, ready or not: only these keep their UDP flows (SEMANTICS §11.5).
    pub serving: bool,
    /// Whether it runs on this node.
    pub local: bool,
}

/// Which of a service port's two lists of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Pool {
    /// Any usable endpoint of the cluster, by topology.
    Cluster,
    /// This node's own.
    Local,
}

/// A view of one segment's bytes. Every read is total: a segment that lies about itself answers
/// `None`, no worse.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'r> {
    /// Its first bytes, all zeros where there are fewer.
    head: &'r [u8; HEADER],
    bytes: &'r [u8],
}

/// Where each list begins; the end last.
struct Lists {
    cluster: usize,
    local: usize,
    backends: usize,
    vips: usize,
    ranges: usize,
    maglev_cluster: usize,
    maglev_local: usize,
    label: usize,
    end: usize,
}

impl<'r> Segment<'r> {
    pub(crate) fn new(bytes: &'r [u8]) -> Self {
        Self { head: bytes.first_chunk().unwrap_or(&[0; HEADER]), bytes }
    }

    #[inline(always)]
    fn u16(&self, at: usize) -> usize {
        usize::from(u16_at(self.head, at).unwrap_or(0))
    }

    #[inline(always)]
    fn u32(&self, at: usize) -> usize {
        u32_at(self.head, at).unwrap_or(0) as usize
    }

    pub(super) fn has(&self, flag: u16) -> bool {
        self.u16(4) as u16 & flag != 0
    }

    /// The protocol of all its Vips.
    pub fn protocol(&self) -> Protocol {
        Protocol(self.head[6])
    }

    /// The family of all its addresses.
    pub fn family(&self) -> Family {
        if self.head[7] == 6 { Family::V6 } else { Family::V4 }
    }

    /// The service port's identity, the same in every image.
    pub fn id(&self) -> u64 {
        u64_at(self.head, 8).unwrap_or(0)
    }

    /// Session affinity by client address, in seconds.
    pub fn affinity(&self) -> Option<u32> {
        u32_at(self.head, 16).filter(|seconds| *seconds > 0)
    }

    /// How a backend is chosen.
    pub fn scheduler(&self) -> Scheduler {
        Scheduler::from_u8(self.head[20]).unwrap_or(Scheduler::Random)
    }

    /// Whether a usable endpoint exists anywhere in the cluster (SEMANTICS §5.5).
    pub fn has_any(&self) -> bool {
        self.has(flag::HAS_ANY)
    }

    /// Whether this sort of traffic is for this node's backends only: by policy, or as it keeps its destination.
    pub fn is_local(&self, class: VipClass) -> bool {
        self.keeps_destination(class)
            || self.has(if class == VipClass::ClusterIp { flag::INTERNAL_LOCAL } else { flag::EXTERNAL_LOCAL })
    }

    /// Whether this sort of traffic is handed to a backend as it is, which answers the client itself (SEMANTICS §14.4).
    pub fn keeps_destination(&self, class: VipClass) -> bool {
        self.has(flag::KEEPS_DESTINATION) && matches!(class, VipClass::LoadBalancer | VipClass::NodePort)
    }

    /// Whether this pool is in use at all (SEMANTICS §5.1); one that is may still be empty.
    pub fn uses(&self, pool: Pool) -> bool {
        self.has(if pool == Pool::Cluster { flag::USES_CLUSTER } else { flag::USES_LOCAL })
    }

    fn backend_size(&self) -> usize {
        if self.family() == Family::V6 { 20 } else { 8 }
    }

    /// Inlined, so that who wants one list adds up what lies before it and no more; but not where code is dear.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn lists(&self) -> Lists {
        let cluster = HEADER;
        let local = cluster + padded(self.u16(26) * 2);
        let backends = local + padded(self.u16(28) * 2);
        let vips = backends + self.u16(24) * self.backend_size();
        let ranges = vips + self.u16(22) * VIP;
        let maglev_cluster = ranges + self.u16(30) * PREFIX;
        let maglev_local = maglev_cluster.saturating_add(padded(self.u32(32).saturating_mul(2)));
        let label = maglev_local.saturating_add(padded(self.u32(36).saturating_mul(2)));
        let end = label.saturating_add(padded(self.u32(40)));
        Lists { cluster, local, backends, vips, ranges, maglev_cluster, maglev_local, label, end }
    }

    /// The name that the control plane gave it; empty if it gave none.
    pub fn label(&self) -> &'r [u8] {
        let at = self.lists().label;
        self.bytes.get(at..).and_then(|rest| rest.get(..self.u32(40))).unwrap_or(&[])
    }

    /// What clients dial to reach it, in order.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub fn vips(&self) -> impl Iterator<Item = Vip> + use<'r> {
        let (bytes, at, protocol) = (self.bytes, self.lists().vips, self.protocol());
        (0..self.u16(22)).map_while(move |i| {
            let at = at + i * VIP;
            Some(Vip {
                address: Address::from_bits(u128_at(bytes, at)?),
                port: u16_at(bytes, at + 16)?,
                protocol,
                class: VipClass::from_bits(u8_at(bytes, at + 18)?),
            })
        })
    }

    /// How many backends there are.
    pub fn backends(&self) -> usize {
        self.u16(24)
    }

    /// The backend of this number, by rising address.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub fn backend(&self, number: usize) -> Option<Backend> {
        if number >= self.backends() {
            return None;
        }
        let at = self.lists().backends + number * self.backend_size();
        let records = self.bytes.get(at..)?;
        let (address, rest) = match self.family() {
            Family::V4 => {
                let record: &[u8; 8] = records.first_chunk()?;
                (Address::from_v4_bits(u32_at(record, 0)?), u32_at(record, 4)?)
            }
            Family::V6 => {
                let record: &[u8; 20] = records.first_chunk()?;
                (Address::from_bits(u128_at(record, 0)?), u32_at(record, 16)?)
            }
        };
        let facts = rest >> 16;
        Some(Backend { address, port: rest as u16, serving: facts & 1 != 0, local: facts & 2 != 0 })
    }

    /// The number of the backend with this address and port.
    pub fn find_backend(&self, address: Address, port: u16) -> Option<usize> {
        let (mut low, mut high) = (0, self.backends());
        while low < high {
            let middle = (low + high) / 2;
            let backend = self.backend(middle)?;
            match (backend.address, backend.port).cmp(&(address, port)) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Whether any backend is serving.
    pub fn has_serving(&self) -> bool {
        (0..self.backends()).any(|number| self.backend(number).is_some_and(|backend| backend.serving))
    }

    /// How many backends are in a pool.
    pub fn pool_size(&self, pool: Pool) -> usize {
        self.u16(if pool == Pool::Cluster { 26 } else { 28 })
    }

    /// The `i`th backend of a pool, by rising address.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub fn member(&self, pool: Pool, i: usize) -> Option<Backend> {
        if i >= self.pool_size(pool) {
            return None;
        }
        let lists = self.lists();
        let at = if pool == Pool::Cluster { lists.cluster } else { lists.local };
        self.backend(usize::from(u16_at(self.bytes, at + i * 2)?))
    }

    /// A pool's backends, by rising address.
    pub fn pool(&self, pool: Pool) -> impl Iterator<Item = Backend> + use<'r> {
        let segment = *self;
        (0..self.pool_size(pool)).map_while(move |i| segment.member(pool, i))
    }

    /// Whether a pool has this backend.
    pub fn pool_has(&self, pool: Pool, address: Address, port: u16) -> bool {
        let (mut low, mut high) = (0, self.pool_size(pool));
        while low < high {
            let middle = (low + high) / 2;
            let Some(backend) = self.member(pool, middle) else { return false };
            match (backend.address, backend.port).cmp(&(address, port)) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => return true,
            }
        }
        false
    }

    /// The size of a pool's Maglev table; 0 if it has none.
    pub fn maglev_size(&self, pool: Pool) -> u32 {
        self.u32(if pool == Pool::Cluster { 32 } else { 36 }) as u32
    }

    /// The backend in a slot of a pool's Maglev table.
    pub fn maglev(&self, pool: Pool, slot: u32) -> Option<Backend> {
        if slot >= self.maglev_size(pool) {
            return None;
        }
        let lists = self.lists();
        let at = if pool == Pool::Cluster { lists.maglev_cluster } else { lists.maglev_local };
        self.backend(usize::from(u16_at(self.bytes, at + slot as usize * 2)?))
    }

    /// Whether this source may dial the Vip of a load balancer (SEMANTICS §8.6).
    pub(super) fn admits(&self, source: Address, vip: Address) -> bool {
        !self.has(flag::RESTRICTED)
            || self.ranges().any(|range| range.contains(source))
            || (self.has(flag::ADMITS_VIP_SOURCE) && self.is_load_balancer_ip(source) && self.is_load_balancer_ip(vip))
    }

    fn is_load_balancer_ip(&self, address: Address) -> bool {
        self.vips().any(|vip| vip.class == VipClass::LoadBalancer && vip.address == address)
    }

    /// The sources that may dial a load balancer's Vip, if they are restricted.
    pub fn ranges(&self) -> impl Iterator<Item = Prefix> + use<'r> {
        prefixes(self.bytes, self.lists().ranges, self.u16(30))
    }

    /// Whether all of it is in order: lengths, counts, order, every number within what it counts.
    pub(super) fn is_sound(&self) -> bool {
        let lists = self.lists();
        let whole = self.bytes.len() == lists.end && self.u32(0) == lists.end;
        let family = self.head[7];
        let ours = |address: Address, port| address.is_v4() == (family == 4) && port != 0;
        let backends = || (0..self.backends()).map(|i| self.backend(i).map(|backend| (backend.address, backend.port)));
        let numbers = |at, count| self.bytes.get(at..).and_then(|rest| rest.as_chunks().0.get(..count));
        let known = |number: &[u8; 2]| usize::from(u16::from_le_bytes(*number)) < self.backends();
        // Backends rise, and so do those whose numbers do.
        let rising = |one: &[u8; 2], next: &[u8; 2]| u16::from_le_bytes(*one) < u16::from_le_bytes(*next);
        let is_pool = |numbers: &[[u8; 2]]| numbers.iter().all(known) && numbers.is_sorted_by(rising);
        let is_table = |numbers: &[[u8; 2]]| numbers.iter().all(known);
        whole
            && self.id() != 0
            && self.protocol().has_ports()
            && matches!(family, 4 | 6)
            && Scheduler::from_u8(self.head[20]).is_some()
            && self.vips().filter(|vip| ours(vip.address, vip.port)).count() == self.u16(22)
            && self.vips().is_sorted_by(|one, next| one < next)
            && backends().all(|backend| backend.is_some_and(|(address, port)| ours(address, port)))
            && backends().is_sorted_by(|one, next| one < next)
            && numbers(lists.cluster, self.pool_size(Pool::Cluster)).is_some_and(is_pool)
            && numbers(lists.local, self.pool_size(Pool::Local)).is_some_and(is_pool)
            && numbers(lists.maglev_cluster, self.u32(32)).is_some_and(is_table)
            && numbers(lists.maglev_local, self.u32(36)).is_some_and(is_table)
            && self.ranges().count() == self.u16(30)
    }
}

/// Rounded up to four bytes.
pub(crate) const fn padded(length: usize) -> usize {
    // Lengths in an image may be anything, where words have 32 bits too.
    length.saturating_add(3) & !3
}

/// `count` prefixes of [`PREFIX`] bytes each: address, length, three more.
pub(super) fn prefixes(bytes: &[u8], at: usize, count: usize) -> impl Iterator<Item = Prefix> + use<'_> {
    (0..count).map_while(move |i| prefix(bytes, at + i * PREFIX))
}

pub(super) fn prefix(bytes: &[u8], at: usize) -> Option<Prefix> {
    let bytes = bytes.get(at..)?.first_chunk::<PREFIX>()?;
    Some(Prefix::new(Address::from_bits(u128_at(bytes, 0)?), bytes[16]))
}

/// Whether the prefix in these bytes holds an address.
#[cfg_attr(target_pointer_width = "64", inline(always))]
pub(super) fn holds(bytes: &[u8; PREFIX], address: Address) -> bool {
    u128_at(bytes, 0).is_some_and(|first| within(Address::from_bits(first), bytes[16], address))
}
