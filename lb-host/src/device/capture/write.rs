//! Writing what went in and what came out, for Wireshark to tell the story.

use std::borrow::Cow;
use std::io::{self, Write};

use pcap_file::Endianness;
use pcap_file::pcapng::blocks::block_common::ENHANCED_PACKET_BLOCK;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter, RawBlock};

use super::Record;

/// Which way a packet went: the name of the interface that it is written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Into the balancer.
    Ingress,
    /// Out of it.
    Egress,
}

impl Side {
    /// The interface's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Writes a pcapng section with the interfaces `ingress` and `egress`, time stamps in nanoseconds.
///
/// An interface has one link type. If packets of several are written, each link type has such a pair of its own, described
/// right before its first packet.
pub struct Writer<W: Write> {
    blocks: PcapNgWriter<W>,
    /// Link types described so far; the pair of the n-th is interfaces 2n and 2n + 1.
    link_types: Vec<u16>,
    body: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a section. Writes are small: hand in something buffered.
    pub fn new(inner: W) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            // Not the machine's own order, so that the same input gives the same bytes everywhere.
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication("lb".into())],
            ..Default::default()
        };
        let blocks = PcapNgWriter::with_section_header(inner, section).map_err(written)?;
        Ok(Self { blocks, link_types: Vec::new(), body: Vec::new() })
    }

    /// Describes a pair of interfaces for this link type, unless there is one.
    pub fn describe(&mut self, link_type: u16) -> io::Result<()> {
        self.interface(link_type, Side::Ingress).map(drop)
    }

    /// Writes one packet; an empty comment is none. Comments are cut to the 65,535 bytes that an option can have.
    pub fn write(&mut self, side: Side, record: &Record<'_>, comment: &str) -> io::Result<()> {
        let interface = self.interface(record.link_type, side)?;
        let time = record.time.unwrap_or_default();
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "a packet of more than 4 GiB");
        let captured = u32::try_from(record.data.len()).map_err(too_long)?;
        // §4.3 wants it to be no less than what was captured.
        let original = record.original_length.max(captured);

        self.body.clear();
        for word in [interface, (time >> 32) as u32, time as u32, captured, original] {
            self.body.extend_from_slice(&word.to_le_bytes());
        }
        self.body.extend_from_slice(record.data);
        self.pad();
        if !comment.is_empty() {
            const OPT_COMMENT: u16 = 1;
            let comment = &comment[..comment.floor_char_boundary(u16::MAX.into())];
            self.body.extend_from_slice(&OPT_COMMENT.to_le_bytes());
            self.body.extend_from_slice(&(comment.len() as u16).to_le_bytes());
            self.body.extend_from_slice(comment.as_bytes());
            self.pad();
            self.body.extend_from_slice(&[0; 4]); // opt_endofopt
        }
        let length = u32::try_from(self.body.len() + 12).map_err(too_long)?;
        let block = RawBlock {
            type_: ENHANCED_PACKET_BLOCK,
            initial_len: length,
            body: Cow::Borrowed(&self.body),
            trailer_len: length,
        };
        self.blocks.write_raw_block(&block).map(drop).map_err(written)
    }

    /// Hands back what was written to, flushed. A capture without packets has the interfaces all the same.
    pub fn finish(mut self) -> io::Result<W> {
        if self.link_types.is_empty() {
            self.describe(super::super::link::ETHERNET)?;
        }
        let mut inner = self.blocks.into_inner();
        inner.flush()?;
        Ok(inner)
    }

    fn interface(&mut self, link_type: u16, side: Side) -> io::Result<u32> {
        let pair = match self.link_types.iter().position(|known| *known == link_type) {
            Some(pair) => pair,
            None => {
                for side in [Side::Ingress, Side::Egress] {
                    let mut interface = InterfaceDescriptionBlock::new(u32::from(link_type).into(), 0);
                    interface.options = vec![
                        InterfaceDescriptionOption::IfName(side.name().into()),
                        InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
                    ];
                    self.blocks.write_pcapng_block(interface).map_err(written)?;
                }
                self.link_types.push(link_type);
                self.link_types.len() - 1
            }
        };
        Ok(pair as u32 * 2 + u32::from(side == Side::Egress))
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }
}

fn written(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    }
}
