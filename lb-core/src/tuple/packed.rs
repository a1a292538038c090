//! A tuple as it lies in a packet: what a flow is recognised by, hashed under and rewritten with.

use super::{Address, Family, Protocol, Tuple};

/// A [`Tuple`] in the order of a packet's bytes, so that a packet of a known flow is found and rewritten
/// without turning any of them around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Source, then destination: 4 bytes each in the first word (IPv4), or 16 each in all four (IPv6).
    pub(crate) addresses: [u64; 4],
    ports: u32,
    label: u32,
    pub(crate) family: Family,
}

/// The bits of a [`Packed::label`].
pub(crate) const LABEL: u32 = 0x00ff_ffff;

/// The protocol in the lowest 8 bits, the zone in 16 above them.
#[inline(always)]
pub(crate) const fn label(protocol: u8, zone: u16) -> u32 {
    protocol as u32 | (zone as u32) << 8
}

impl Packed {
    /// The tuple of these words.
    #[inline(always)]
    pub(crate) const fn new(family: Family, addresses: [u64; 4], ports: u32, label: u32) -> Self {
        Self { addresses, ports, label, family }
    }

    /// Source, then destination port.
    #[inline(always)]
    pub(crate) const fn ports(&self) -> u32 {
        self.ports
    }

    /// What [`label`] makes of protocol and zone.
    #[inline(always)]
    pub(crate) const fn label(&self) -> u32 {
        self.label
    }

    /// Whether they are the same, both of this family.
    #[inline(always)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        let [[a, b, c, d], [e, f, g, h]] = [self.addresses, other.addresses];
        let longer = match self.family {
            Family::V4 => 0,
            Family::V6 => (b ^ f) | (c ^ g) | (d ^ h),
        };
        (a ^ e) | longer == 0 && (self.ports ^ other.ports) | (self.label ^ other.label) == 0
    }

    /// The same, said to be of the family that it is of: from there on the compiler knows it.
    #[inline(always)]
    pub(crate) const fn known_as(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// The tuple of an answer to a packet of this one.
    #[inline(always)]
    pub(crate) fn reversed(self) -> Self {
        let [a, b, c, d] = self.addresses;
        let addresses = match self.family {
            Family::V4 => [a.rotate_left(32), 0, 0, 0],
            Family::V6 => [c, d, a, b],
        };
        Self::new(self.family, addresses, self.ports().rotate_left(16), self.label())
    }

    #[inline(always)]
    pub(crate) const fn protocol(&self) -> Protocol {
        Protocol(self.label() as u8)
    }

    /// Destination, its port, and the protocol.
    pub(crate) fn dialled(&self) -> (Address, u16, Protocol) {
        (self.destination(), ((self.ports() >> 16) as u16).swap_bytes(), self.protocol())
    }

    #[inline(always)]
    pub(crate) fn destination(&self) -> Address {
        let [a, _, c, d] = self.addresses;
        match self.family {
            Family::V4 => from_v4((a >> 32) as u32),
            Family::V6 => from_v6(c, d),
        }
    }

    /// The tuple of answers to this one from another address and port than were dialled, to whoever sent it or to the one
    /// who stands in for him.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn answered_by(&self, address: Address, port: u16, to: Option<Address>) -> Self {
        let [a, b, ..] = self.addresses;
        let addresses = match self.family {
            Family::V4 => [v4(address) | to.map_or(a & u64::from(u32::MAX), v4) << 32, 0, 0, 0],
            Family::V6 => {
                let ([a, b], [c, d]) = (v6(address), to.map_or([a, b], v6));
                [a, b, c, d]
            }
        };
        Self::new(self.family, addresses, u32::from(port.swap_bytes()) | self.ports() << 16, self.label())
    }

    /// The same to another destination port.
    pub(crate) const fn to_port(self, port: u16) -> Self {
        let ports = self.ports() & 0xffff | (port.swap_bytes() as u32) << 16;
        Self::new(self.family, self.addresses, ports, self.label())
    }
}

impl From<&Tuple> for Packed {
    fn from(tuple: &Tuple) -> Self {
        let family = tuple.source.family();
        let addresses = match family {
            Family::V4 => [v4(tuple.source) | v4(tuple.destination) << 32, 0, 0, 0],
            Family::V6 => {
                let ([a, b], [c, d]) = (v6(tuple.source), v6(tuple.destination));
                [a, b, c, d]
            }
        };
        let ports = u32::from(tuple.source_port.swap_bytes()) | u32::from(tuple.destination_port.swap_bytes()) << 16;
        Self::new(family, addresses, ports, label(tuple.protocol.0, tuple.zone))
    }
}

impl From<&Packed> for Tuple {
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn from(packed: &Packed) -> Self {
        let [a, b, ..] = packed.addresses;
        let source = match packed.family {
            Family::V4 => from_v4(a as u32),
            Family::V6 => from_v6(a, b),
        };
        Self {
            source,
            destination: packed.destination(),
            source_port: (packed.ports() as u16).swap_bytes(),
            destination_port: ((packed.ports() >> 16) as u16).swap_bytes(),
            protocol: packed.protocol(),
            zone: (packed.label() >> 8) as u16,
        }
    }
}

// Words are read from bytes as little-endian numbers, on every target.

#[inline]
fn v4(address: Address) -> u64 {
    address.v4_bits().swap_bytes().into()
}

#[inline]
fn v6(address: Address) -> [u64; 2] {
    let bits = address.bits().swap_bytes();
    [bits as u64, (bits >> 64) as u64]
}

#[inline]
fn from_v4(word: u32) -> Address {
    Address::from_v4_bits(word.swap_bytes())
}

#[inline]
fn from_v6(first: u64, second: u64) -> Address {
    Address::from_bits((u128::from(first) | u128::from(second) << 64).swap_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_packed_and_unpacked_is_the_same_either_way_round() {
        for (source, destination) in [
            (Address::v4([10, 1, 2, 3]), Address::v4([192, 0, 2, 255])),
            (Address::from_bits(0x2001_0db8 << 96 | 1), Address::from_bits(0xfd00 << 112 | 0xabcd << 64 | 2)),
        ] {
            let tuple = Tuple {
                source,
                destination,
                source_port: 0x1234,
                destination_port: 80,
                protocol: Protocol::SCTP,
                zone: 0xfffe,
            };
            let packed = Packed::from(&tuple);
            assert_eq!(Tuple::from(&packed), tuple);
            assert_eq!(Tuple::from(&packed.reversed()), tuple.reversed());
            assert_eq!(packed.label() & !LABEL, 0);
            assert_eq!(packed.ports().to_le_bytes(), [0x12, 0x34, 0, 80]);
        }
    }
}
