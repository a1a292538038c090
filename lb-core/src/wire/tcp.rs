//! The Transmission Control Protocol (RFC 9293).

use bytemuck::{Pod, Zeroable};

use super::{Malformed, Payload, Ports};

/// The header without options (RFC 9293 §3.1).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) source_port: [u8; 2],
    pub(crate) destination_port: [u8; 2],
    pub(crate) sequence: [u8; 4],
    pub(crate) acknowledgment: [u8; 4],
    /// The header's length in 32-bit words in the upper four bits.
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: [u8; 2],
    pub(crate) checksum: [u8; 2],
    pub(crate) urgent: [u8; 2],
}

/// The flag byte of a TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);

    /// Whether FIN is set.
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN.0 != 0
    }

    /// Whether SYN is set.
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN.0 != 0
    }

    /// Whether RST is set.
    pub const fn rst(self) -> bool {
        self.0 & Self::RST.0 != 0
    }

    /// Whether ACK is set.
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK.0 != 0
    }
}

/// Ports and flags. Options are not read, so they may be cut off or travel in the next fragment.
#[inline(always)]
pub(super) fn read(payload: Payload<'_>) -> Result<(Ports, TcpFlags), Malformed> {
    let header: &Header = payload.header()?;
    let length = u32::from(header.data_offset >> 4) * 4;
    if (length as usize) < size_of::<Header>() || (length > payload.length && !payload.fragment) {
        return Err(Malformed::TransportHeader);
    }
    let ports = (u16::from_be_bytes(header.source_port), u16::from_be_bytes(header.destination_port));
    Ok((ports, TcpFlags(header.flags)))
}
