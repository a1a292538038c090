//! The Internet Protocol, version 6 (RFC 8200), and the walk over its extension headers.

use bytemuck::{Pod, Zeroable};

use super::{Fragment, MAX_EXTENSIONS, Malformed, Network, view};
use crate::tuple::{Address, Protocol};

/// The fixed header (RFC 8200 §3).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    /// Version in the upper four bits, then traffic class and flow label.
    pub(crate) version_flow: [u8; 4],
    pub(crate) payload_length: [u8; 2],
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
}

/// What every extension header begins with, here with as much as a Routing header's (RFC 8200 §4.4), or of a Hop-by-Hop
/// Options header the first option's type and length. None is shorter than eight bytes (RFC 6564 §4).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Extension {
    next: u8,
    /// In units of eight bytes, the first not counted.
    length: u8,
    kind: u8,
    segments_left: u8,
    rest: [u8; 4],
}

/// A Fragment header (RFC 8200 §4.5).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FragmentExtension {
    next: u8,
    _reserved: u8,
    /// The offset in its upper thirteen bits, in units of eight bytes: as they stand, in bytes.
    offset: [u8; 2],
    identification: [u8; 4],
}

const OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 0x0001;

// Headers that are stepped over. Not among them: ESP, whose inside is hidden, and AH, whose integrity
// value covers the addresses (RFC 4302 §3.3.3) and forbids translation; for both, as over IPv4, they
// are the protocol that the packet carries.
const HOP_BY_HOP: u8 = 0;
/// Type and length of the Jumbo Payload option (RFC 2675 §2), looked for as the first, where all send it; padding may come before it.
const JUMBO: [u8; 2] = [0xc2, 4];
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 6275 §6.1.
const MOBILITY: u8 = 135;
/// RFC 7401 §5.1.
const HOST_IDENTITY: u8 = 139;
/// RFC 5533 §5.1.
const SHIM6: u8 = 140;

#[inline(always)]
pub(super) fn read(data: &[u8], at: usize) -> Result<Network, Malformed> {
    let header: &Header = view(data, at).ok_or(Malformed::Truncated)?;
    let [version, ..] = header.version_flow;
    if version >> 4 != 6 {
        return Err(Malformed::IpHeader);
    }
    let (source, destination) = (Address::v6(header.source), Address::v6(header.destination));
    // RFC 4291 §2.5.5.2: a notation for IPv4 addresses, not an address for packets.
    if source.is_v4() || destination.is_v4() {
        return Err(Malformed::MappedAddress);
    }
    let transport = at + size_of::<Header>();
    let end = match u16::from_be_bytes(header.payload_length) {
        // A jumbogram (RFC 2675 §3) or segmentation offload: taken from the data at hand.
        0 => data.len(),
        length => transport + usize::from(length),
    };
    let Chain { protocol, transport, fragment } = if is_extension(header.next) {
        walk(data, header.next, transport, end, header.payload_length == [0; 2])?
    } else {
        Chain { protocol: Protocol(header.next), transport, fragment: None }
    };
    Ok(Network { source, destination, protocol, transport, end, fragment })
}

/// How far the chain of headers is read.
struct Chain {
    /// What lies at `transport`.
    protocol: Protocol,
    transport: usize,
    fragment: Option<Fragment>,
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6)
}

/// Steps over the extension headers, of which there is one at least and may be [`MAX_EXTENSIONS`]. It may be a `jumbo`gram if
/// the IP header tells no length.
#[cold]
fn walk(data: &[u8], first: u8, transport: usize, end: usize, jumbo: bool) -> Result<Chain, Malformed> {
    let mut chain = Chain { protocol: Protocol(first), transport, fragment: None };
    for _ in 0..MAX_EXTENSIONS {
        let at = chain.transport;
        let kind = chain.protocol.0;
        if end.saturating_sub(at) < size_of::<Extension>() {
            return Err(does_not_fit(chain.fragment));
        }
        let length = if kind == FRAGMENT {
            let header: &FragmentExtension = view(data, at).ok_or(Malformed::Truncated)?;
            let length = size_of::<FragmentExtension>();
            if chain.fragment.is_some() {
                return Err(Malformed::Fragment);
            }
            chain.fragment = fragment(header, end - at - length)?;
            chain.protocol = Protocol(header.next);
            length
        } else {
            let header: &Extension = view(data, at).ok_or(Malformed::Truncated)?;
            if kind == ROUTING && header.segments_left != 0 {
                return Ok(chain);
            }
            if kind == HOP_BY_HOP && [header.kind, header.segments_left] == JUMBO {
                // RFC 2675 §3: only where the IP header tells no length, and one that it could not have told.
                let [high, low, ..] = header.rest;
                if !jumbo || [high, low] == [0, 0] {
                    return Err(Malformed::IpHeader);
                }
            }
            chain.protocol = Protocol(header.next);
            (usize::from(header.length) + 1) * 8
        };
        chain.transport = at + length;
        if chain.transport > end {
            return Err(does_not_fit(chain.fragment));
        }
        if chain.transport > data.len() {
            return Err(Malformed::Truncated);
        }
        let later = chain.fragment.is_some_and(|fragment| fragment.offset != 0);
        if later || !is_extension(chain.protocol.0) {
            return Ok(chain);
        }
    }
    Err(Malformed::TooManyExtensions)
}

/// An extension header that reaches beyond the packet; a first fragment must hold them all (RFC 7112 §5).
fn does_not_fit(fragment: Option<Fragment>) -> Malformed {
    if fragment.is_some() { Malformed::Fragment } else { Malformed::IpHeader }
}

fn fragment(header: &FragmentExtension, length: usize) -> Result<Option<Fragment>, Malformed> {
    let offset = u16::from_be_bytes(header.offset);
    let fragment = Fragment {
        identification: u32::from_be_bytes(header.identification),
        offset: u32::from(offset & OFFSET),
        length: u32::try_from(length).unwrap_or(u32::MAX),
        more: offset & MORE_FRAGMENTS != 0,
    };
    fragment.checked()
}
