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
    blocks: PcapNgWriter<W>,
    interfaces: u32,
    /// The block of a packet.
    block: Vec<u8>,
}

impl<W: Write> Section<W> {
    /// Begins a section. There is a write a block: hand in something buffered.
    pub fn new(inner: W) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            // Not the machine's own order, so that the same input gives the same bytes everywhere.
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication("lb".into())],
            ..Default::default()
        };
        let blocks = PcapNgWriter::with_section_header(inner, section).map_err(written)?;
        Ok(Self { blocks, interfaces: 0, block: Vec::new() })
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

        // Put together here and written in one piece: the library's way is several times the work, for every packet.
        let time = [(time >> 32) as u32, time as u32];
        let head = [ENHANCED_PACKET_BLOCK, 0, interface, time[0], time[1], captured, original];
        self.block.clear();
        self.block.extend_from_slice(head.map(u32::to_le_bytes).as_flattened());
        self.block.extend_from_slice(record.data);
        self.pad();
        if !comment.is_empty() {
            const OPT_COMMENT: u16 = 1;
            let comment = &comment[..comment.floor_char_boundary(u16::MAX.into())];
            self.option(OPT_COMMENT, comment.as_bytes());
        }
        if let Some(direction) = direction {
            const EPB_FLAGS: u16 = 2;
            self.option(EPB_FLAGS, &(direction as u32).to_le_bytes());
        }
        if !comment.is_empty() || direction.is_some() {
            self.block.extend_from_slice(&[0; 4]); // opt_endofopt
        }
        // §3.1: a block's length stands at both of its ends.
        let length = u32::try_from(self.block.len() + 4).map_err(too_long)?.to_le_bytes();
        self.block[4..8].copy_from_slice(&length);
        self.block.extend_from_slice(&length);
        self.blocks.get_mut().write_all(&self.block)
    }

    /// Hands back what was written to, flushed.
    pub fn finish(self) -> io::Result<W> {
        let mut inner = self.blocks.into_inner();
        inner.flush()?;
        Ok(inner)
    }

    /// An option of at most 65,535 bytes.
    fn option(&mut self, code: u16, value: &[u8]) {
        self.block.extend_from_slice(&code.to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.block.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }
}

fn written(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}
