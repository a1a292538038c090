//! The User Datagram Protocol (RFC 768).

use bytemuck::{Pod, Zeroable};

use super::{Malformed, Payload, Ports};

/// The header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
    /// Of header and data; 0 where the IP header alone tells (RFC 2675 §4, segmentation offload).
    pub(crate) length: [u8; 2],
    /// 0 where there is none.
    pub(crate) checksum: [u8; 2],
}

/// Ports.
#[inline(always)]
pub(super) fn read(payload: Payload<'_>) -> Result<Ports, Malformed> {
    let header: &Header = payload.header()?;
    let length = u32::from(u16::from_be_bytes(header.length));
    let shorter = length != 0 && (length as usize) < size_of::<Header>();
    if shorter || (length > payload.length && !payload.fragment) {
        return Err(Malformed::TransportHeader);
    }
    Ok((u16::from_be_bytes(header.source_port), u16::from_be_bytes(header.destination_port)))
}
