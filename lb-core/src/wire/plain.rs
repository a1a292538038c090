//! The packets that nearly all are: TCP or UDP, whole, over IPv4 without options or IPv6 without extensions.
//!
//! What is plain is read here in one straight line, into a form that a flow is found by as it stands.
//! [`parse`](super::parse) reads everything, this included, and says the same of it; whatever is the
//! least unusual, malformed packets among it, is left to it.

use bytemuck::{AnyBitPattern, must_cast};

use super::{Link, TcpFlags, ethernet, ipv4, ipv6, tcp, udp};
use crate::tuple::packed::{Packed, label};
use crate::tuple::{Family, Protocol};

/// What a plain packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) tuple: Packed,
    /// Where the IP header begins. The transport header follows it, at its fixed length.
    pub(crate) network: u16,
    /// Whether it is of TCP, and not of UDP.
    pub(crate) tcp: bool,
    /// Of TCP its flags, of UDP none.
    pub(crate) flags: TcpFlags,
}

/// Reads a plain packet; `None` if it is not one.
#[inline(always)]
pub(crate) fn read(data: &[u8], link: Link, zone: u16) -> Option<Plain> {
    read_and(data, link, zone, |plain| plain)
}

/// Reads a plain packet, and what is `then` to be done with it is done for each family by itself: where families meet, all
/// that one does without must be made up.
#[inline(always)]
pub(crate) fn read_and<T>(data: &[u8], link: Link, zone: u16, then: impl FnOnce(Plain) -> T) -> Option<T> {
    let (family, network) = match link {
        Link::Ethernet => ethernet::read(data).ok()??,
        Link::Ip => match data.first()? >> 4 {
            4 => (Family::V4, 0),
            6 => (Family::V6, 0),
            _ => return None,
        },
    };
    let packet = data.get(network..)?;
    match family {
        Family::V4 => {
            let (header, payload) = split::<ipv4::Header>(packet)?;
            let whole = u16::from_be_bytes(header.fragment) & ipv4::FRAGMENT == 0;
            (whole && header.version_length == ipv4::PLAIN).then_some(())?;
            let total = match u16::from_be_bytes(header.total_length) {
                0 => packet.len(),
                total => usize::from(total),
            };
            let addresses = [u64::from_le_bytes(must_cast([header.source, header.destination])), 0, 0, 0];
            let (ports, tcp, flags) = transport(header.protocol, payload, size_of_val(header), total)?;
            let tuple = Packed::new(family, addresses, ports, label(header.protocol, zone));
            Some(then(Plain { tuple, network: network as u16, tcp, flags }))
        }
        Family::V6 => {
            let (header, payload) = split::<ipv6::Header>(packet)?;
            let [version, ..] = header.version_flow;
            let words: [[u8; 8]; 4] = must_cast([header.source, header.destination]);
            let addresses @ [a, b, c, d] = words.map(u64::from_le_bytes);
            let mapped = |one: u64, other: u64| one == 0 && other as u32 == u32::from_le_bytes([0, 0, 0xff, 0xff]);
            (version >> 4 == 6 && !mapped(a, b) && !mapped(c, d)).then_some(())?;
            let length = match u16::from_be_bytes(header.payload_length) {
                0 => payload.len(),
                length => usize::from(length),
            };
            let (ports, tcp, flags) = transport(header.next, payload, 0, length)?;
            let tuple = Packed::new(family, addresses, ports, label(header.next, zone));
            Some(then(Plain { tuple, network: network as u16, tcp, flags }))
        }
    }
}

/// Ports, whether it is of TCP, and its flags, of a payload that with what is `before` it is this long by the IP header.
#[inline(always)]
fn transport(protocol: u8, payload: &[u8], before: usize, length: usize) -> Option<(u32, bool, TcpFlags)> {
    match Protocol(protocol) {
        Protocol::TCP => {
            let (header, _) = split::<tcp::Header>(payload)?;
            let own = usize::from(header.data_offset >> 4) * 4;
            (own >= size_of_val(header) && before + own <= length).then_some(())?;
            let ports = u32::from_le_bytes(must_cast([header.source_port, header.destination_port]));
            Some((ports, true, TcpFlags(header.flags)))
        }
        Protocol::UDP => {
            let (header, _) = split::<udp::Header>(payload)?;
            let own = usize::from(u16::from_be_bytes(header.length));
            let fits = own == 0 || own >= size_of_val(header) && before + own <= length;
            (fits && before + size_of_val(header) <= length).then_some(())?;
            let ports = u32::from_le_bytes(must_cast([header.source_port, header.destination_port]));
            Some((ports, false, TcpFlags::default()))
        }
        _ => None,
    }
}

/// The header that these bytes begin with, and what follows it.
#[inline(always)]
fn split<H: AnyBitPattern>(data: &[u8]) -> Option<(&H, &[u8])> {
    let (header, rest) = data.split_at_checked(size_of::<H>())?;
    Some((bytemuck::try_from_bytes(header).ok()?, rest))
}
