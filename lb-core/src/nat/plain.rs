//! Replacing the tuple of a plain packet, by differences that its flow keeps.

use bytemuck::{Pod, must_cast};

use super::Checksum;
use super::checksum::Change;
use crate::tuple::Family;
use crate::tuple::packed::Packed;
use crate::wire::plain::Plain;
use crate::wire::{ipv4, ipv6, tcp, udp};

/// What replacing one tuple by another adds to sums: of the addresses, and of addresses and ports. The complement of what goes and
/// what comes are added as they lie in a packet, 32 bits at a time, as 2^16 is 1 modulo 65535 (RFC 1071 §2 (B), (C)).
#[inline(always)]
pub(crate) fn changes(from: &Packed, to: &Packed) -> [Change; 2] {
    let pair = |from: u32, to: u32| u64::from(!from) + u64::from(to);
    let word = |from: u64, to: u64| pair(from as u32, to as u32) + pair((from >> 32) as u32, (to >> 32) as u32);
    let words = from.addresses.iter().zip(to.addresses).take(if from.family == Family::V4 { 1 } else { 4 });
    let addresses = words.fold(0, |sum: u64, (from, to)| sum.wrapping_add(word(*from, to)));
    [addresses, addresses.wrapping_add(pair(from.ports(), to.ports()))].map(Change::of)
}

/// Puts `to` in the place of a packet's tuple, whose differences are [`changes`]. `plain` is what
/// [`read`](crate::wire::plain::read) said of `data`: of any other bytes there is nothing to rewrite.
#[inline(always)]
pub(crate) fn rewrite_plain(
    data: &mut [u8],
    plain: &Plain,
    family: Family,
    to: &Packed,
    [addresses, all]: [Change; 2],
    checksum: &Checksum,
) -> Option<()> {
    // All that is read and written, so that nothing is if there is less.
    let header = if family == Family::V4 { size_of::<ipv4::Header>() } else { size_of::<ipv6::Header>() };
    let length = header + if plain.is_tcp() { size_of::<tcp::Header>() } else { size_of::<udp::Header>() };
    let packet = data.get_mut(usize::from(plain.network)..)?.get_mut(..length)?;
    let transport = match family {
        Family::V4 => {
            let (header, transport) = split::<ipv4::Header>(packet)?;
            [header.source, header.destination] = must_cast(to.addresses[0].to_le_bytes());
            header.checksum = addresses.update(header.checksum);
            transport
        }
        Family::V6 => {
            let (header, transport) = split::<ipv6::Header>(packet)?;
            [header.source, header.destination] = must_cast(to.addresses.map(u64::to_le_bytes));
            transport
        }
    };
    if plain.is_tcp() {
        let (tcp::Header { source_port, destination_port, checksum: field, .. }, _) = split(transport)?;
        [*source_port, *destination_port] = must_cast(to.ports().to_le_bytes());
        match checksum {
            Checksum::Complete => *field = all.update(*field),
            other => addresses.update_incomplete(field, other),
        }
    } else {
        let (udp::Header { source_port, destination_port, checksum: field, .. }, _) = split(transport)?;
        [*source_port, *destination_port] = must_cast(to.ports().to_le_bytes());
        match checksum {
            Checksum::Complete => *field = all.update_udp(*field),
            other => addresses.update_incomplete(field, other),
        }
    }
    Some(())
}

/// The header that these bytes begin with, and what follows it.
#[inline(always)]
fn split<H: Pod>(data: &mut [u8]) -> Option<(&mut H, &mut [u8])> {
    let (header, rest) = data.split_at_mut_checked(size_of::<H>())?;
    Some((bytemuck::try_from_bytes_mut(header).ok()?, rest))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::nat::rewrite;
    use crate::tuple::{Address, Protocol, Tuple};
    use crate::wire::{self, Link};
    use std::vec::Vec;

    /// A packet of zeros but for what makes it one; checksums as given.
    fn packet(from: &Tuple, checksum: [u8; 2]) -> Vec<u8> {
        let udp = from.protocol == Protocol::UDP;
        let payload = if udp { 8 } else { 20 };
        let mut bytes = if from.source.is_v4() {
            let mut bytes = std::vec![0; 20 + payload];
            (bytes[0], bytes[3], bytes[9]) = (0x45, 20 + payload as u8, from.protocol.0);
            bytes[12..16].copy_from_slice(&from.source.octets()[12..]);
            bytes[16..20].copy_from_slice(&from.destination.octets()[12..]);
            bytes
        } else {
            let mut bytes = std::vec![0; 40 + payload];
            (bytes[0], bytes[5], bytes[6]) = (0x60, payload as u8, from.protocol.0);
            bytes[8..24].copy_from_slice(&from.source.octets());
            bytes[24..40].copy_from_slice(&from.destination.octets());
            bytes
        };
        let at = bytes.len() - payload;
        bytes[at..at + 2].copy_from_slice(&from.source_port.to_be_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&from.destination_port.to_be_bytes());
        if udp {
            bytes[at + 5] = payload as u8;
            bytes[at + 6..at + 8].copy_from_slice(&checksum);
        } else {
            bytes[at + 12] = 0x50;
            bytes[at + 16..at + 18].copy_from_slice(&checksum);
        }
        bytes
    }

    #[test]
    fn a_plain_packet_is_rewritten_as_any_packet_is_both_ways() {
        let v6 = |n: u128| Address::from_bits(0x2001_0db8 << 96 | n << 64 | n);
        let v4 = |n: u32| Address::from_v4_bits(0x0a00_0000 | n);
        for (a, b, c) in
            [(v4(1), v4(0xffff), v4(0x01ff00)), (v6(1), v6(0xffff), v6(0xfedc_ba98)), (v4(1), v4(2), v4(2))]
        {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let from =
                    Tuple { source: a, destination: b, source_port: 40_000, destination_port: 80, protocol, zone: 0 };
                for to in [
                    Tuple { destination: c, destination_port: 8080, ..from },
                    Tuple { source: b, destination: c, source_port: 1024, ..from },
                    from,
                ] {
                    let changes = changes(&(&from).into(), &(&to).into());
                    for (from, to, back) in [(from, to, false), (to, from, true)] {
                        for checksum in [Checksum::Complete, Checksum::Partial, Checksum::Absent] {
                            for field in [[0, 0], [0, 1], [0x12, 0x34], [0xff, 0xfe], [0xff, 0xff], [0xab, 0]] {
                                // Where a sum stays what it is, so may the form of a zero that nobody computes.
                                let addresses = (from.source, from.destination) == (to.source, to.destination);
                                let same = if checksum == Checksum::Partial { addresses } else { from == to };
                                if same && matches!(field, [0, 0] | [0xff, 0xff]) {
                                    continue;
                                }
                                let (mut one, mut other) = (packet(&from, field), packet(&from, field));
                                let headers = wire::parse(&one, Link::Ip).unwrap().unwrap();
                                rewrite(&mut one, &headers, &to, checksum).unwrap();
                                let plain = wire::plain::read(&other, Link::Ip, 0).unwrap();
                                rewrite_plain(
                                    &mut other,
                                    &plain,
                                    from.source.family(),
                                    &(&to).into(),
                                    Change::undone_if(back, changes),
                                    &checksum,
                                )
                                .unwrap();
                                assert_eq!(one, other, "{from} becomes {to}: {checksum:?} {field:x?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
