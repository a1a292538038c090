//! The Internet Protocol, version 4 (RFC 791).

use bytemuck::{Pod, Zeroable};

use super::{Fragment, Malformed, Network, view};
use crate::tuple::{Address, Protocol};

/// The fixed part of the header (RFC 791 §3.1).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    /// Version in the upper four bits, header length in 32-bit words in the lower.
    pub(crate) version_length: u8,
    pub(crate) service: u8,
    pub(crate) total_length: [u8; 2],
    pub(crate) identification: [u8; 2],
    /// Three flags, then the offset in units of eight bytes.
    pub(crate) fragment: [u8; 2],
    pub(crate) time_to_live: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}

/// Version 4 and the length of a header without options.
pub(crate) const PLAIN: u8 = 0x45;
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Set in any fragment of a longer datagram.
pub(super) const FRAGMENT: u16 = MORE_FRAGMENTS | OFFSET;

#[inline(always)]
pub(super) fn read(data: &[u8], at: usize) -> Result<Network, Malformed> {
    let header: &Header = view(data, at).ok_or(Malformed::Truncated)?;
    let length = if header.version_length == PLAIN { size_of::<Header>() } else { length_with_options(header)? };
    let transport = at + length;
    let end = match u16::from_be_bytes(header.total_length) {
        // Segmentation offload leaves the length to the hardware: taken from the data at hand.
        0 => data.len().max(transport),
        total => at + usize::from(total),
    };
    if end < transport {
        return Err(Malformed::IpHeader);
    }
    if transport > data.len() {
        return Err(Malformed::Truncated);
    }
    let flags = u16::from_be_bytes(header.fragment);
    let fragment = if flags & FRAGMENT == 0 { None } else { fragment(header, flags, end - transport)? };
    Ok(Network {
        source: Address::v4(header.source),
        destination: Address::v4(header.destination),
        protocol: Protocol(header.protocol),
        transport,
        end,
        fragment,
    })
}

/// The header's length in bytes where it isn't the plain one. Options are stepped over, not read.
#[cold]
fn length_with_options(header: &Header) -> Result<usize, Malformed> {
    let length = usize::from(header.version_length & 0x0f) * 4;
    if header.version_length >> 4 == 4 && length >= size_of::<Header>() { Ok(length) } else { Err(Malformed::IpHeader) }
}

#[cold]
fn fragment(header: &Header, flags: u16, length: usize) -> Result<Option<Fragment>, Malformed> {
    let fragment = Fragment {
        identification: u16::from_be_bytes(header.identification).into(),
        offset: u32::from(flags & OFFSET) * 8,
        length: u32::try_from(length).unwrap_or(u32::MAX),
        more: flags & MORE_FRAGMENTS != 0,
    };
    fragment.checked()
}
