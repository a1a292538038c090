//! The packets that nearly all are: TCP or UDP, whole, over IPv4 without options or IPv6 without extensions.
//!
//! What is plain is read here in one straight line, into a form that a flow is found by as it stands.
//! [`parse`](super::parse) reads everything, this included, and says the same of it; whatever is the
//! least unusual, malformed packets among it, is left to it.

use bytemuck::{AnyBitPattern, must_cast};

use super::{Link, TcpFlags, ethernet, ipv4, ipv6, tcp, udp};
use crate::tuple::packed::Packed;
use crate::tuple::{Family, Protocol};

/// What a plain packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) tuple: Packed,
    /// Where the IP header begins. The transport header follows it, at its fixed length.
    pub(crate) network: u16,
    /// Of TCP its flags, `None` of UDP.
    pub(crate) tcp: Option<TcpFlags>,
}

/// Reads a plain packet; `None` if it is not one.
#[inline(always)]
pub(crate) fn read(data: &[u8], link: Link, zone: u16) -> Option<Plain> {
    let (family, network) = match link {
        Link::Ethernet => ethernet::read(data).ok()??,
        Link::Ip => match data.first()? >> 4 {
            4 => (Family::V4, 0),
            6 => (Family::V6, 0),
            _ => return None,
        },
    };
    let packet = data.get(network..)?;
    let (addresses, protocol, length, payload) = match family {
        Family::V4 => read_v4(packet)?,
        Family::V6 => read_v6(packet)?,
    };
    let (ports, tcp) = match Protocol(protocol) {
        Protocol::TCP => {
            let (header, _) = split::<tcp::Header>(payload)?;
            let header_length = usize::from(header.data_offset >> 4) * 4;
            (header_length >= size_of::<tcp::Header>() && header_length <= length).then_some(())?;
            ([header.source_port, header.destination_port], Some(TcpFlags(header.flags)))
        }
        Protocol::UDP => {
            let (header, _) = split::<udp::Header>(payload)?;
            let own = usize::from(u16::from_be_bytes(header.length));
            (length >= size_of::<udp::Header>()).then_some(())?;
            (own == 0 || own >= size_of::<udp::Header>() && own <= length).then_some(())?;
            ([header.source_port, header.destination_port], None)
        }
        _ => return None,
    };
    let ports = u32::from_le_bytes(must_cast(ports));
    let tuple = Packed { addresses, ports, label: Packed::label(protocol, zone), family };
    Some(Plain { tuple, network: network as u16, tcp })
}

/// Addresses, protocol, how long the payload is by the header, and the payload at hand.
type Read<'d> = ([u64; 4], u8, usize, &'d [u8]);

#[inline(always)]
fn read_v4(packet: &[u8]) -> Option<Read<'_>> {
    let (header, payload) = split::<ipv4::Header>(packet)?;
    let whole = u16::from_be_bytes(header.fragment) & ipv4::FRAGMENT == 0;
    (whole && header.version_length == ipv4::PLAIN).then_some(())?;
    let length = match u16::from_be_bytes(header.total_length) {
        0 => payload.len(),
        total => usize::from(total).checked_sub(size_of::<ipv4::Header>())?,
    };
    let addresses = u64::from_le_bytes(must_cast([header.source, header.destination]));
    Some(([addresses, 0, 0, 0], header.protocol, length, payload))
}

#[inline(always)]
fn read_v6(packet: &[u8]) -> Option<Read<'_>> {
    let (header, payload) = split::<ipv6::Header>(packet)?;
    let [version, ..] = header.version_flow;
    let addresses @ [a, b, c, d]: [u64; 4] =
        must_cast::<_, [[u8; 8]; 4]>([header.source, header.destination]).map(u64::from_le_bytes);
    let mapped = |first: u64, second: u64| first == 0 && second as u32 == u32::from_le_bytes([0, 0, 0xff, 0xff]);
    (version >> 4 == 6 && !mapped(a, b) && !mapped(c, d)).then_some(())?;
    let length = match u16::from_be_bytes(header.payload_length) {
        0 => payload.len(),
        length => usize::from(length),
    };
    Some((addresses, header.next, length, payload))
}

/// The header that these bytes begin with, and what follows it.
#[inline(always)]
fn split<H: AnyBitPattern>(data: &[u8]) -> Option<(&H, &[u8])> {
    let (header, rest) = data.split_at_checked(size_of::<H>())?;
    Some((bytemuck::try_from_bytes(header).ok()?, rest))
}
