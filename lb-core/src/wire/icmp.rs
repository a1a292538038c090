//! The Internet Control Message Protocol (RFC 792) and ICMPv6 (RFC 4443): errors and what they quote.

use bytemuck::{Pod, Zeroable};

use super::{Content, Malformed, Network, Payload, Quoted, offset, view};
use crate::tuple::Family;

/// What every message begins with (RFC 4443 §2.1).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: [u8; 2],
}

/// What an error begins with, before the packet it quotes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ErrorHeader {
    pub(crate) common: Header,
    /// A pointer, an MTU, a gateway or nothing.
    pub(crate) rest: [u8; 4],
}

/// The ports that a quoted transport header begins with.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Ports {
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
}

/// Another gateway on the link for the packet quoted (RFC 792). ICMPv6 has it among its informational messages.
pub(crate) const REDIRECT_V4: u8 = 5;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Whether messages of this type are errors, which quote a packet: of ICMP those of RFC 1122 §3.2.2,
/// of ICMPv6 those without the highest bit (RFC 4443 §2.1).
pub(crate) const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        Family::V4 => matches!(kind, 3 | 4 | REDIRECT_V4 | 11 | 12),
        Family::V6 => kind < 128,
    }
}

/// What a message is. An error whose quoted packet shows no ports is [`Content::Other`], not malformed.
pub(super) fn read(data: &[u8], ip: Network, payload: Payload<'_>) -> Result<Content, Malformed> {
    let family = ip.source.family();
    let header: &Header = payload.header()?;
    Ok(match (family, header.kind) {
        (Family::V4, ECHO_REQUEST_V4) | (Family::V6, ECHO_REQUEST_V6) => Content::EchoRequest,
        (_, kind) if is_error(family, kind) => quoted(data, ip).map_or(Content::Other, Content::Error),
        _ => Content::Other,
    })
}

/// The quoted packet: RFC 792 promises its IP header and the eight bytes behind it, which begin with
/// the ports where it was no later fragment.
fn quoted(data: &[u8], ip: Network) -> Option<Quoted> {
    let data = data.get(..ip.end.min(data.len()))?;
    let network = ip.transport + size_of::<ErrorHeader>();
    let quoted = Network::read(data, network, ip.source.family()).ok()?;
    if quoted.is_later_fragment() || !quoted.protocol.has_ports() {
        return None;
    }
    let payload = quoted.payload(data);
    let ports: &Ports = view(payload.bytes, 0)?;
    let tuple = quoted.tuple((u16::from_be_bytes(ports.source_port), u16::from_be_bytes(ports.destination_port)));
    Some(Quoted {
        tuple,
        network: offset(network),
        transport: offset(quoted.transport),
        transport_length: payload.length,
        fragment: payload.fragment,
    })
}
