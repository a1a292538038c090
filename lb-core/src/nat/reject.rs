//! Refusing a packet: the ICMP or ICMPv6 "port unreachable" that answers it.

use bytemuck::bytes_of;

use super::checksum;
use super::rewrite::view_mut;
use crate::tuple::{Address, Family, Protocol};
use crate::wire::{Content, Headers, Link, ethernet, icmp, ipv4, ipv6, view};

/// Destination unreachable, port unreachable (RFC 792).
const UNREACHABLE_V4: (u8, u8) = (3, 3);
/// The same of ICMPv6 (RFC 4443 §3.1).
const UNREACHABLE_V6: (u8, u8) = (1, 4);
/// An ICMPv6 Redirect (RFC 4861 §4.5), no error by its number.
const REDIRECT_V6: u8 = 137;

/// How much an IPv4 answer may quote, to be no longer than 576 bytes (RFC 1812 §4.3.2.3).
const QUOTED_V4: usize = 576 - size_of::<ipv4::Header>() - size_of::<icmp::ErrorHeader>();
/// How much an IPv6 answer may quote, to fit the smallest MTU (RFC 4443 §3.1, RFC 8200 §5).
const QUOTED_V6: usize = 1280 - size_of::<ipv6::Header>() - size_of::<icmp::ErrorHeader>();

/// What IANA recommends for new packets ("IP Parameters").
const HOP_LIMIT: u8 = 64;

/// Writes the answer to a refused packet into `out` and says how long it is; `None` if the packet must
/// not be answered or `out` is too short (with the link header 598 bytes are enough for IPv4, 1302 for
/// IPv6).
///
/// The answer is a whole frame of the same link layer: over Ethernet it goes back to where the packet
/// came from, with its VLAN tags. It is sent in the name of the packet's destination, and quotes as
/// much of the packet as is at hand and allowed. TCP is answered likewise (SEMANTICS §6.4).
///
/// Never answered (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): ICMP errors and redirects, later fragments,
/// what was sent to several hosts, and what was not sent by a single one.
pub fn write_unreachable(packet: &[u8], link: Link, headers: &Headers, out: &mut [u8]) -> Option<usize> {
    if !may_be_answered(packet, link, headers) {
        return None;
    }
    let network = usize::from(headers.network);
    let end = usize::from(headers.transport).saturating_add(headers.transport_length as usize).min(packet.len());
    let original = packet.get(network..end)?;
    let (source, destination) = (headers.tuple.destination, headers.tuple.source);

    let (frame, rest) = out.split_at_mut_checked(network)?;
    copy(packet.get(..network)?, frame);
    if link == Link::Ethernet {
        let header: &mut ethernet::Header = view_mut(frame, 0)?;
        core::mem::swap(&mut header.source, &mut header.destination);
    }
    let length = match source.family() {
        Family::V4 => {
            let quote = original.get(..QUOTED_V4).unwrap_or(original);
            let message = error(UNREACHABLE_V4, quote, 0);
            let header = ipv4_header(source, destination, message_length(quote));
            put(rest, [bytes_of(&header), bytes_of(&message), quote])
        }
        Family::V6 => {
            let quote = original.get(..QUOTED_V6).unwrap_or(original);
            // RFC 8200 §8.1: addresses, length, next header.
            let pseudo_header = checksum::sum(&source.octets())
                + checksum::sum(&destination.octets())
                + u64::from(message_length(quote))
                + u64::from(Protocol::ICMPV6.0);
            let message = error(UNREACHABLE_V6, quote, pseudo_header);
            let header = ipv6_header(source, destination, message_length(quote));
            put(rest, [bytes_of(&header), bytes_of(&message), quote])
        }
    };
    Some(network + length?)
}

fn may_be_answered(packet: &[u8], link: Link, headers: &Headers) -> bool {
    let (source, destination) = (headers.tuple.source, headers.tuple.destination);
    let to_many = destination.is_multicast() || destination == Address::v4([255; 4]);
    let frame_to_many = link == Link::Ethernet && packet.first().is_some_and(|octet| octet & 1 != 0);
    // What is no single host's address (RFC 1122 §3.2.2).
    let by_nobody = !source.is_unicast() || source.is_loopback();
    !to_many && !frame_to_many && !by_nobody && !is_error(packet, headers) && headers.content != Content::LaterFragment
}

/// Whether the packet is an ICMP error, also one that quotes nothing legible.
fn is_error(packet: &[u8], headers: &Headers) -> bool {
    let family = headers.tuple.source.family();
    let kind = || view(packet, headers.transport.into()).map(|message: &icmp::Header| message.kind);
    match (headers.tuple.protocol, family) {
        (Protocol::ICMP, Family::V4) => kind().is_none_or(|kind| icmp::is_error(family, kind)),
        (Protocol::ICMPV6, Family::V6) => kind().is_none_or(|kind| icmp::is_error(family, kind) || kind == REDIRECT_V6),
        _ => false,
    }
}

/// The header of an error with this quote.
fn error((kind, code): (u8, u8), quote: &[u8], pseudo_header: u64) -> icmp::ErrorHeader {
    let sum = pseudo_header + u64::from(u16::from_be_bytes([kind, code])) + checksum::sum(quote);
    let common = icmp::Header { kind, code, checksum: checksum::complement(sum) };
    icmp::ErrorHeader { common, rest: [0; 4] }
}

/// The length of an error with this quote; at most 1240.
fn message_length(quote: &[u8]) -> u16 {
    (size_of::<icmp::ErrorHeader>() + quote.len()) as u16
}

fn ipv4_header(source: Address, destination: Address, payload_length: u16) -> ipv4::Header {
    let mut header = ipv4::Header {
        version_length: ipv4::PLAIN,
        service: 0,
        total_length: (size_of::<ipv4::Header>() as u16 + payload_length).to_be_bytes(),
        // Meaningless in what is never fragmented (RFC 6864 §4.1).
        identification: [0; 2],
        fragment: ipv4::DONT_FRAGMENT.to_be_bytes(),
        time_to_live: HOP_LIMIT,
        protocol: Protocol::ICMP.0,
        checksum: [0; 2],
        source: source.v4_bits().to_be_bytes(),
        destination: destination.v4_bits().to_be_bytes(),
    };
    header.checksum = checksum::complement(checksum::sum(bytes_of(&header)));
    header
}

fn ipv6_header(source: Address, destination: Address, payload_length: u16) -> ipv6::Header {
    ipv6::Header {
        version_flow: [0x60, 0, 0, 0],
        payload_length: payload_length.to_be_bytes(),
        next: Protocol::ICMPV6.0,
        hop_limit: HOP_LIMIT,
        source: source.octets(),
        destination: destination.octets(),
    }
}

/// Copies as many bytes as both have. Of equal length they are; that a compiler can't see it must not leave a panic.
fn copy(from: &[u8], to: &mut [u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Writes these parts one after the other and says how long they are together, if they fit.
fn put(mut out: &mut [u8], parts: [&[u8]; 3]) -> Option<usize> {
    let mut length = 0;
    for part in parts {
        let (here, rest) = out.split_at_mut_checked(part.len())?;
        copy(part, here);
        length += part.len();
        out = rest;
    }
    Some(length)
}
