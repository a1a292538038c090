//! Capture files: pcap and pcapng read, pcapng written.
//!
//! Reading is streaming, in memory that does not grow with the capture, and as tolerant as tshark: what
//! can be told about a packet is told, and only what makes the next packet impossible to find is an error.

mod compression;
mod order;
mod output;
mod pcap;
mod pcapng;
mod read;
mod section;
mod stream;
mod write;

pub use output::Output;
pub use read::{Reader, open};
pub use section::{Direction, Section};
pub use write::{Side, Writer};

use std::io;

/// One packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, in nanoseconds since 1970-01-01 UTC; `None` where the format does not say
    /// (a pcapng Simple Packet Block). A time before 1970 reads as 0, one after 2554 as the last instant.
    pub time: Option<u64>,
    /// What its first byte is part of: a `LINKTYPE_` number.
    pub link_type: u16,
    /// How long it was on the wire; more than `data` where the capture cut it, and less where whoever
    /// wrote the capture was mistaken.
    pub original_length: u32,
    /// The bytes captured.
    pub data: &'a [u8],
}

/// Why a capture can't be read to its end.
///
/// Offsets are in bytes from the beginning of the capture, after decompression.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is nothing to read at all.
    #[error("offset 0: the file is empty, not a capture; was the capture ended before its header was written?")]
    Empty,
    /// The first bytes are those of no known capture format.
    #[error(
        "offset 0: not a capture: it begins with {magic:02x?}; pcap and pcapng are read, plain or compressed with gzip or zstd"
    )]
    Unknown {
        /// The first bytes.
        magic: [u8; 4],
    },
    /// The capture ends inside of something.
    #[error(
        "offset {offset}: the capture ends inside {what} that begins here, {have} bytes of at least {need}; it was cut short"
    )]
    Truncated {
        /// Where what is cut begins.
        offset: u64,
        /// What is cut.
        what: &'static str,
        /// Bytes of it that are there.
        have: usize,
        /// Bytes of it that there should be.
        need: usize,
    },
    /// What is there can't be.
    #[error("offset {offset}: {what}; the capture is damaged from here on")]
    Damaged {
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The file could not be read or decompressed further.
    #[error("offset {offset}: can't be read or decompressed further; was the file copied whole?")]
    Io {
        /// How far it was read.
        offset: u64,
        /// What the system or the decompressor said.
        source: io::Error,
    },
}

/// A record or block larger than this is taken for damage. Wireshark draws the line for pcapng blocks here too; no
/// link has packets near this size.
const RECORD_LIMIT: usize = 16 << 20;
