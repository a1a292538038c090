//! Network address translation: what is written into a packet.
//!
//! A packet is translated by replacing its tuple; checksums follow by the difference, so that no byte
//! of the payload is read and an error of the sender or the line stays as visible as it was.

mod checksum;
mod crc32c;
mod plain;
mod ports;
mod reject;
mod rewrite;

pub(crate) use checksum::Change;
pub(crate) use plain::{changes, rewrite_plain};
pub use ports::PortRange;
pub use reject::write_unreachable;
pub use rewrite::{Untranslatable, rewrite, rewrite_error};

/// The state of a packet's transport checksum, which its bytes don't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Checksum {
    /// It covers the packet, rightly or wrongly: updated by the difference (RFC 1624), so that a right
    /// one stays right and a wrong one stays wrong.
    #[default]
    Complete,
    /// It covers the pseudo-header only, and hardware will add the rest (Linux `CHECKSUM_PARTIAL`,
    /// virtio `NEEDS_CSUM`): updated by the addresses' difference. SCTP's CRC is left alone.
    Partial,
    /// There is none yet, all of it is hardware's to fill in: left alone.
    Absent,
}
