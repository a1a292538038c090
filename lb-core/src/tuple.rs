//! Addresses and tuples: what a flow is recognised by.

pub(crate) mod packed;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address of either family in 128 bits, IPv4 in its mapped form `::ffff:a.b.c.d`
/// (RFC 4291 §2.5.5.2), so that one code path serves both families.
///
/// An IPv6 packet must not carry a mapped address on the wire, so the two never meet.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(u128);

const MAPPED: u128 = 0xffff << 32;

impl Address {
    /// `::`, which stands for "no address".
    pub const UNSPECIFIED: Self = Self(0);

    /// The IPv4 address of these four octets, in network order.
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::from_v4_bits(u32::from_be_bytes(octets))
    }

    /// The IPv6 address of these sixteen octets, in network order.
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// The IPv4 address of this number, most significant octet first.
    pub const fn from_v4_bits(bits: u32) -> Self {
        Self(MAPPED | bits as u128)
    }

    /// The address of these 128 bits; the mapped range is IPv4.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits, IPv4 mapped.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The low 32 bits: all of an IPv4 address.
    pub const fn v4_bits(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// The family this address belongs to.
    pub const fn family(self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// Loopback: 127.0.0.0/8 (RFC 1122 §3.2.1.3) or ::1 (RFC 4291 §2.5.3).
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() { self.v4_bits() >> 24 == 127 } else { self.0 == 1 }
    }

    /// Multicast: 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291 §2.7).
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { self.v4_bits() >> 28 == 0xe } else { self.0 >> 120 == 0xff }
    }

    /// Whether a host may have it and send from it: not multicast, not unspecified, and of IPv4 neither in the zero network nor
    /// in class E, to which the limited broadcast belongs (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2, §2.7).
    pub const fn is_unicast(self) -> bool {
        let reserved = self.is_v4() && (self.v4_bits() >> 24 == 0 || self.v4_bits() >> 28 == 0xf);
        !reserved && !self.is_multicast() && self.0 != Self::UNSPECIFIED.0
    }

    /// The sixteen octets in network order, IPv4 mapped.
    pub const fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(address.v4_bits()))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(address.0))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Address {
    fn format(&self, f: defmt::Formatter<'_>) {
        let octets = self.octets();
        if self.is_v4() {
            let [.., a, b, c, d] = octets;
            defmt::write!(f, "{}.{}.{}.{}", a, b, c, d);
        } else {
            defmt::write!(f, "{=[u8]:x}", octets);
        }
    }
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A block of addresses, as in CIDR notation. Host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Address,
    length: u8,
}

impl Prefix {
    /// The block of `length` leading bits (0..=32 for IPv4, 0..=128 for IPv6; more is cut to that)
    /// around `address`, whose other bits are cleared.
    #[inline]
    pub const fn new(address: Address, length: u8) -> Self {
        let (whole, base) = if address.is_v4() { (32, 96) } else { (128, 0) };
        let length = if length > whole { whole } else { length };
        Self { address: Address(address.0 & mask(base + length)), length }
    }

    /// The block that holds this address alone.
    pub const fn host(address: Address) -> Self {
        Self::new(address, 128)
    }

    /// The first address of the block.
    pub const fn address(self) -> Address {
        self.address
    }

    /// The number of leading bits that count: 0..=32 for IPv4, 0..=128 for IPv6.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the block; never so across families.
    #[inline]
    pub const fn contains(self, address: Address) -> bool {
        within(self.address, self.length, address)
    }

    /// Whether all of `other` lies in the block.
    pub const fn holds(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

/// Whether an address shares its `length` leading bits with `first`, counted as [`Prefix::new`] does; never so across families.
#[cfg_attr(target_pointer_width = "64", inline(always))]
#[cfg_attr(not(target_pointer_width = "64"), inline(never))]
pub(crate) const fn within(first: Address, length: u8, address: Address) -> bool {
    if address.is_v4() {
        let length = if length > 32 { 32 } else { length };
        // 64 bits, so that a shift by all 32 is one.
        first.is_v4() && ((first.v4_bits() ^ address.v4_bits()) as u64) >> (32 - length) == 0
    } else {
        let length = if length > 128 { 128 } else { length };
        !first.is_v4() && (first.0 ^ address.0) & mask(length) == 0
    }
}

/// The `length` (0..=128) leading bits set.
#[inline]
const fn mask(length: u8) -> u128 {
    match 128u8.checked_sub(length) {
        Some(128) | None => 0,
        Some(zeros) => u128::MAX << zeros,
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Whether a Service can be of this protocol (SEMANTICS §6.1), which is also whether its first
    /// four bytes are two ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self::SCTP => f.write_str("sctp"),
            Self(number) => write!(f, "ip-proto-{number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a packet of a flow is recognised by: who speaks to whom over what.
///
/// Both addresses are of one family. `zone` tells address spaces apart that may overlap (tenants,
/// VRFs); packets of different zones never share a flow. Ports are 0 where the protocol has none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tuple {
    /// The sender.
    pub source: Address,
    /// The receiver.
    pub destination: Address,
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address space, from `Meta::zone`.
    pub zone: u16,
}

impl Tuple {
    /// The tuple of an answer to a packet of this one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }
}

/// `tcp 10.244.0.2:40000 -> 10.96.0.10:80`, IPv6 addresses in brackets; without ports where the
/// protocol has none.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.protocol.has_ports();
        let end = |f: &mut fmt::Formatter<'_>, address: Address, port: u16| match (ports, address.is_v4()) {
            (true, true) => write!(f, "{address}:{port}"),
            (true, false) => write!(f, "[{address}]:{port}"),
            (false, _) => write!(f, "{address}"),
        };
        write!(f, "{} ", self.protocol)?;
        end(f, self.source, self.source_port)?;
        f.write_str(" -> ")?;
        end(f, self.destination, self.destination_port)
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_its_own_family_only() {
        let all_v4 = Prefix::new(Address::v4([0, 0, 0, 0]), 0);
        let ten = Prefix::new(Address::v4([10, 1, 2, 3]), 8);
        let all_v6 = Prefix::new(Address::UNSPECIFIED, 0);
        let v4 = Address::v4([10, 9, 8, 7]);
        let v6 = Address::from_bits(0x2001_0db8 << 96 | 1);
        for (prefix, address, holds) in [
            (all_v4, v4, true),
            (all_v4, v6, false),
            (all_v6, v6, true),
            (all_v6, v4, false),
            (ten, v4, true),
            (ten, Address::v4([11, 0, 0, 0]), false),
            (Prefix::host(v6), v6, true),
            (Prefix::host(v6), Address::from_bits(v6.bits() + 1), false),
            (Prefix::new(v6, 32), Address::from_bits(v6.bits() + 1), true),
        ] {
            assert_eq!(prefix.contains(address), holds, "{prefix} {address}");
        }
        assert_eq!(ten.address(), Address::v4([10, 0, 0, 0]));
    }
}
