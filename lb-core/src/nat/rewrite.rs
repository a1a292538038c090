//! Replacing a packet's tuple in place.

use core::mem::offset_of;

use bytemuck::Pod;

use super::checksum::Delta;
use super::{Checksum, crc32c};
use crate::tuple::{Address, Family, Protocol, Tuple};
use crate::wire::{Content, Headers, Quoted, icmp, ipv4, ipv6, sctp, tcp, udp};

/// Why a packet can't be translated. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Untranslatable {
    /// The first fragment of an SCTP packet whose ports are to change: its CRC covers bytes that
    /// travel elsewhere, and how many, no fragment but the last tells. (TCP's and UDP's checksums
    /// don't depend on it.) SCTP itself avoids fragments where it can (RFC 9260 §6.9).
    FragmentedSctp,
    /// The packet is not one that these arguments could be about: it shows no ports, the new tuple is
    /// of another family or protocol, or the headers are not those of this data.
    Mismatch,
}

/// Replaces the addresses and ports of a TCP, UDP or SCTP packet, or the addresses of a later fragment,
/// by those of `to`. `headers` is what [`parse`](crate::wire::parse) said of `data`; it is out of date
/// afterwards.
///
/// Checksums are updated by the difference. What IPv6 options say of addresses (RFC 6275's Home Address)
/// is not looked at.
#[inline]
pub fn rewrite(data: &mut [u8], headers: &Headers, to: &Tuple, checksum: Checksum) -> Result<(), Untranslatable> {
    let from = &headers.tuple;
    if !alike(from, to) {
        return Err(Untranslatable::Mismatch);
    }
    let (network, transport) = split(data, headers.transport.into())?;
    let ip = IpHeader::of(from.source.family(), network, headers.network.into())?;
    let addresses = ip.delta(to.source, to.destination);
    match headers.content {
        Content::Tcp(_) | Content::Udp | Content::Sctp(_) => {
            let length = length_by(headers.transport_length, headers.fragment.is_some());
            let moved = (from.source_port, from.destination_port) != (to.source_port, to.destination_port);
            if from.protocol == Protocol::SCTP && length.is_none() && moved && checksum == Checksum::Complete {
                return Err(Untranslatable::FragmentedSctp);
            }
            set_ports(transport, to, addresses, checksum, length)?;
        }
        Content::LaterFragment => {}
        Content::Error(_) | Content::EchoRequest | Content::Other => return Err(Untranslatable::Mismatch),
    }
    ip.set(to.source, to.destination, addresses);
    Ok(())
}

/// Replaces the addresses of an ICMP or ICMPv6 error, and the tuple of the packet it quotes.
///
/// The quoted checksums are updated where they are quoted and at hand in whole, so that the sender of
/// the quoted packet finds in it what it sent; a quoted SCTP fragment's CRC is left as it is.
/// `checksum` is about the error's own.
pub fn rewrite_error(
    data: &mut [u8],
    headers: &Headers,
    quoted: &Quoted,
    outer_source: Address,
    outer_destination: Address,
    quoted_to: &Tuple,
    checksum: Checksum,
) -> Result<(), Untranslatable> {
    let family = headers.tuple.source.family();
    if !alike(&quoted.tuple, quoted_to) || [outer_source.family(), outer_destination.family()] != [family; 2] {
        return Err(Untranslatable::Mismatch);
    }
    let (network, message) = split(data, headers.transport.into())?;
    let length = message.len().min(headers.transport_length as usize);
    let (message, _) = split(message, length)?;
    let (head, quote) = split(message, quoted.network.wrapping_sub(headers.transport).into())?;
    let (quoted_network, quoted_transport) = split(quote, quoted.transport.wrapping_sub(quoted.network).into())?;
    let length = quoted_transport.len().min(quoted.transport_length as usize);
    let (quoted_transport, _) = split(quoted_transport, length)?;

    let ip = IpHeader::of(family, network, headers.network.into())?;
    let error: &mut icmp::Header = view_mut(head, 0).ok_or(Untranslatable::Mismatch)?;
    let quoted_ip = IpHeader::of(family, quoted_network, 0)?;

    let addresses = ip.delta(outer_source, outer_destination);
    let quoted_addresses = quoted_ip.delta(quoted_to.source, quoted_to.destination);
    let length = length_by(quoted.transport_length, quoted.fragment);
    // The error's checksum covers the quote. All of its words lie at even offsets: eight bytes of ICMP
    // header and an IP header of a multiple of four precede them.
    let ports = set_ports(quoted_transport, quoted_to, quoted_addresses, Checksum::Complete, length)?;
    let quote = match family {
        // The quoted IPv4 header's own checksum makes up for its addresses.
        Family::V4 => ports,
        Family::V6 => ports + quoted_addresses,
    };
    error.checksum = match (family, checksum) {
        (Family::V4, Checksum::Complete) => quote.update(error.checksum),
        // RFC 4443 §2.3: the pseudo-header as well, which ICMP over IPv4 has not.
        (Family::V6, Checksum::Complete) => (quote + addresses).update(error.checksum),
        (Family::V6, Checksum::Partial) => addresses.update_partial(error.checksum),
        (Family::V4, Checksum::Partial) | (_, Checksum::Absent) => error.checksum,
    };
    quoted_ip.set(quoted_to.source, quoted_to.destination, quoted_addresses);
    ip.set(outer_source, outer_destination, addresses);
    Ok(())
}

/// Whether one tuple may take the other's place.
fn alike(from: &Tuple, to: &Tuple) -> bool {
    let family = from.source.family();
    from.protocol == to.protocol && [to.source.family(), to.destination.family()] == [family; 2]
}

/// How long the transport's part of the datagram is, `None` if only a part of it is here.
fn length_by(transport_length: u32, fragment: bool) -> Option<u16> {
    if fragment { None } else { u16::try_from(transport_length).ok() }
}

/// An IP header to be written to.
enum IpHeader<'d> {
    V4(&'d mut ipv4::Header),
    V6(&'d mut ipv6::Header),
}

impl<'d> IpHeader<'d> {
    #[inline]
    fn of(family: Family, data: &'d mut [u8], at: usize) -> Result<Self, Untranslatable> {
        let header = match family {
            Family::V4 => view_mut(data, at).map(Self::V4),
            Family::V6 => view_mut(data, at).map(Self::V6),
        };
        header.ok_or(Untranslatable::Mismatch)
    }

    /// What these addresses in the place of its own would change.
    #[inline]
    fn delta(&self, source: Address, destination: Address) -> Delta {
        match self {
            Self::V4(header) => {
                Delta::pair(header.source, source.v4_bits().to_be_bytes())
                    + Delta::pair(header.destination, destination.v4_bits().to_be_bytes())
            }
            Self::V6(header) => {
                Delta::long(header.source, source.octets()) + Delta::long(header.destination, destination.octets())
            }
        }
    }

    #[inline]
    fn set(self, source: Address, destination: Address, delta: Delta) {
        match self {
            Self::V4(header) => {
                header.source = source.v4_bits().to_be_bytes();
                header.destination = destination.v4_bits().to_be_bytes();
                header.checksum = delta.update(header.checksum);
            }
            Self::V6(header) => {
                header.source = source.octets();
                header.destination = destination.octets();
            }
        }
    }
}

/// Replaces the ports that a transport header begins with and, if it is at hand, updates its checksum,
/// which covers the addresses too. Says what this changed in the header's own sum.
#[inline]
fn set_ports(
    transport: &mut [u8],
    to: &Tuple,
    addresses: Delta,
    checksum: Checksum,
    length: Option<u16>,
) -> Result<Delta, Untranslatable> {
    if !to.protocol.has_ports() {
        return Err(Untranslatable::Mismatch);
    }
    let field: &mut [u8; 4] = view_mut(transport, 0).ok_or(Untranslatable::Mismatch)?;
    let old = *field;
    let ports =
        icmp::Ports { source_port: to.source_port.to_be_bytes(), destination_port: to.destination_port.to_be_bytes() };
    let new = bytemuck::must_cast(ports);
    *field = new;
    let ports = Delta::pair(old, new);
    let written = match (to.protocol, checksum) {
        (Protocol::TCP, Checksum::Complete) => {
            set_word(transport, offset_of!(tcp::Header, checksum), |field| (addresses + ports).update(field))
        }
        (Protocol::UDP, Checksum::Complete) => {
            set_word(transport, offset_of!(udp::Header, checksum), |field| (addresses + ports).update_udp(field))
        }
        (Protocol::TCP, Checksum::Partial) => {
            set_word(transport, offset_of!(tcp::Header, checksum), |field| addresses.update_partial(field))
        }
        (Protocol::UDP, Checksum::Partial) => {
            set_word(transport, offset_of!(udp::Header, checksum), |field| addresses.update_partial(field))
        }
        // No pseudo-header: the addresses don't matter to it.
        (Protocol::SCTP, Checksum::Complete) => {
            match (view_mut::<[u8; 4]>(transport, offset_of!(sctp::Header, checksum)), length) {
                (Some(field), Some(length)) => {
                    let before = *field;
                    *field = crc32c::update(before, old, new, length);
                    Delta::pair(before, *field)
                }
                _ => Delta::NONE,
            }
        }
        _ => Delta::NONE,
    };
    Ok(ports + written)
}

/// Replaces a word, if it is at hand, and says what this changed in the sum.
#[inline]
fn set_word(data: &mut [u8], at: usize, update: impl FnOnce([u8; 2]) -> [u8; 2]) -> Delta {
    view_mut::<[u8; 2]>(data, at).map_or(Delta::NONE, |field| {
        let before = *field;
        *field = update(before);
        Delta::word(before, *field)
    })
}

#[inline]
fn split(data: &mut [u8], at: usize) -> Result<(&mut [u8], &mut [u8]), Untranslatable> {
    data.split_at_mut_checked(at).ok_or(Untranslatable::Mismatch)
}

/// The header of this shape at this offset, `None` where the bytes end before it does.
#[inline]
pub(super) fn view_mut<H: Pod>(data: &mut [u8], at: usize) -> Option<&mut H> {
    bytemuck::try_from_bytes_mut(data.get_mut(at..)?.get_mut(..size_of::<H>())?).ok()
}
