//! The Stream Control Transmission Protocol (RFC 9260).

use bytemuck::{Pod, Zeroable};

use super::{Malformed, Payload, Ports};

/// The common header (RFC 9260 §3.1).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
    pub(crate) verification_tag: [u8; 4],
    /// CRC32c, least significant byte first (RFC 9260 Appendix A).
    pub(crate) checksum: [u8; 4],
}

/// The common header and how the first chunk begins (RFC 9260 §3.2). A packet without any chunk says
/// nothing and is not one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Start {
    common: Header,
    chunk_type: u8,
}

/// Ports and the first chunk's type.
#[inline(always)]
pub(super) fn read(payload: Payload<'_>) -> Result<(Ports, u8), Malformed> {
    let Start { common, chunk_type } = payload.header()?;
    let ports = (u16::from_be_bytes(common.source_port), u16::from_be_bytes(common.destination_port));
    Ok((ports, *chunk_type))
}
