//! The packets that nearly all are: TCP or UDP, whole, over IPv4 without options or IPv6 without extensions.
//!
//! What is plain is read here in one straight line, into a form that a flow is found by as it stands.
//! [`parse`](super::parse) reads everything, this included, and says the same of it; whatever is the
//! least unusual, malformed packets among it, is left to it.

use bytemuck::{AnyBitPattern, must_cast};

use super::{Link, ethernet, ipv4, ipv6, tcp, udp};
use crate::tuple::packed::{Packed, label};
use crate::tuple::{Family, Protocol};

/// What a plain packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) tuple: Packed,
    /// Where the IP header begins. The transport header follows it, at its fixed length.
    pub(crate) network: u16,
    /// Of TCP its five lowest flags, of UDP [`DATAGRAM`].
    pub(crate) signs: u8,
}

/// What says in the place of flags that it is of UDP.
pub(crate) const DATAGRAM: u8 = 1 << 5;

impl Plain {
    /// Whether it is of TCP, and not of UDP.
    #[inline(always)]
    pub(crate) const fn is_tcp(&self) -> bool {
        self.signs < DATAGRAM
    }
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
            // One of 0, which hardware is to fill in, is too short for any header, and so is not plain.
            let total = u16::from_be_bytes(header.total_length).into();
            let addresses = [u64::from_le_bytes(must_cast([header.source, header.destination])), 0, 0, 0];
            let (ports, signs) = transport(header.protocol, payload, size_of_val(header), total)?;
            let tuple = Packed::new(family, addresses, ports, label(header.protocol, zone));
            Some(then(Plain { tuple, network: network as u16, signs }))
        }
        Family::V6 => {
            let (header, payload) = split::<ipv6::Header>(packet)?;
            let [version, ..] = header.version_flow;
            let words: [[u8; 8]; 4] = must_cast([header.source, header.destination]);
            let addresses @ [source, _, destination, _] = words.map(u64::from_le_bytes);
            // An address whose first half is 0 may be a mapped one.
            (version >> 4 == 6 && source != 0 && destination != 0).then_some(())?;
            let length = u16::from_be_bytes(header.payload_length).into();
            let (ports, signs) = transport(header.next, payload, 0, length)?;
            let tuple = Packed::new(family, addresses, ports, label(header.next, zone));
            Some(then(Plain { tuple, network: network as u16, signs }))
        }
    }
}

/// Ports and [`Plain::signs`] of a payload that with what is `before` it is this long by the IP header.
#[inline(always)]
fn transport(protocol: u8, payload: &[u8], before: usize, length: usize) -> Option<(u32, u8)> {
    match Protocol(protocol) {
        Protocol::TCP => {
            let (header, _) = split::<tcp::Header>(payload)?;
            let own = usize::from(header.data_offset >> 4) * 4;
            (own >= size_of_val(header) && before + own <= length).then_some(())?;
            let ports = u32::from_le_bytes(must_cast([header.source_port, header.destination_port]));
            Some((ports, header.flags % DATAGRAM))
        }
        Protocol::UDP => {
            let (header, _) = split::<udp::Header>(payload)?;
            let own = usize::from(u16::from_be_bytes(header.length));
            (own >= size_of_val(header) && before + own <= length).then_some(())?;
            let ports = u32::from_le_bytes(must_cast([header.source_port, header.destination_port]));
            Some((ports, DATAGRAM))
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
