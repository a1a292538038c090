//! A pcapng section: interfaces and the packets seen on them, time stamps in nanoseconds.

use std::io::{self, Write};

use pcap_file::Endianness;
use pcap_file::pcapng::blocks::block_common::ENHANCED_PACKET_BLOCK;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter};

use super::Record;

/// Which way a packet crossed its interface (pcapng §4.3, `epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received on it.
    Inbound = 1,
    /// Sent on it.
    Outbound = 2,
}

/// Writes a pcapng section with interfaces of any names.
pub struct Section<W: Write> {
    inner: W,
    /// Whole blocks that `inner` was not given yet.
    blocks: PcapNgWriter<Vec<u8>>,
    interfaces: u32,
}

/// Octets of blocks that are written together.
const TOGETHER: usize = 256 << 10;

impl<W: Write> Section<W> {
    /// Begins a section. Blocks are written many at a time, the last ones by [`Section::finish`].
    pub fn new(inner: W) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            // Not the machine's own order, so that the same input gives the same bytes everywhere.
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication("lb".into())],
            ..Default::default()
        };
        let blocks = PcapNgWriter::with_section_header(Vec::new(), section).map_err(written)?;
        Ok(Self { inner, blocks, interfaces: 0 })
    }

    /// Describes an interface, and gives its number.
    pub fn describe(&mut self, name: &str, link_type: u16) -> io::Result<u32> {
        let mut interface = InterfaceDescriptionBlock::new(u32::from(link_type).into(), 0);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        self.blocks.write_pcapng_block(interface).map_err(written)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes one packet seen on a described interface; an empty comment is none. Comments are cut to the 65,535 bytes
    /// that an option can have.
    pub fn write(
        &mut self,
        interface: u32,
        direction: Option<Direction>,
        record: &Record<'_>,
        comment: &str,
    ) -> io::Result<()> {
        let time = record.time.unwrap_or_default();
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "a packet of more than 4 GiB");
        let captured = u32::try_from(record.data.len()).map_err(too_long)?;
        // §4.3 wants it to be no less than what was captured.
        let original = record.original_length.max(captured);

        // Put together here: the library's way is several times the work, for every packet.
        let time = [(time >> 32) as u32, time as u32];
        let head = [ENHANCED_PACKET_BLOCK, 0, interface, time[0], time[1], captured, original];
        let blocks = self.blocks.get_mut();
        let begin = blocks.len();
        blocks.extend_from_slice(head.map(u32::to_le_bytes).as_flattened());
        padded(blocks, record.data);
        if !comment.is_empty() {
            const OPT_COMMENT: u16 = 1;
            let comment = &comment[..comment.floor_char_boundary(u16::MAX.into())];
            option(blocks, OPT_COMMENT, comment.as_bytes());
        }
        if let Some(direction) = direction {
            const EPB_FLAGS: u16 = 2;
            option(blocks, EPB_FLAGS, &(direction as u32).to_le_bytes());
        }
        if !comment.is_empty() || direction.is_some() {
            blocks.extend_from_slice(&[0; 4]); // opt_endofopt
        }
        // §3.1: a block's length stands at both of its ends.
        let length = u32::try_from(blocks.len() - begin + 4).map_err(too_long)?.to_le_bytes();
        blocks[begin + 4..begin + 8].copy_from_slice(&length);
        blocks.extend_from_slice(&length);
        if blocks.len() >= TOGETHER { self.write_out() } else { Ok(()) }
    }

    /// Hands back what was written to, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_out()?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn write_out(&mut self) -> io::Result<()> {
        let blocks = self.blocks.get_mut();
        let written = self.inner.write_all(blocks);
        blocks.clear();
        written
    }
}

/// An option of at most 65,535 bytes.
fn option(blocks: &mut Vec<u8>, code: u16, value: &[u8]) {
    let [code, length] = [code, value.len() as u16].map(u16::to_le_bytes);
    blocks.extend_from_slice([code, length].as_flattened());
    padded(blocks, value);
}

/// These, and nothing up to a multiple of four.
fn padded(blocks: &mut Vec<u8>, bytes: &[u8]) {
    blocks.extend_from_slice(bytes);
    blocks.extend_from_slice(&[0; 3][..bytes.len().wrapping_neg() % 4]);
}

fn written(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}
