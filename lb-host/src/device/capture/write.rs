//! Writing what went in and what came out, for Wireshark to tell the story.

use std::io::{self, Write};

use super::Record;
use super::section::Section;

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
    section: Section<W>,
    /// Link types described so far, and the first interface of each one's pair.
    link_types: Vec<(u16, u32)>,
}

impl<W: Write> Writer<W> {
    /// Begins a section. Blocks are written many at a time, the last ones by [`Writer::finish`].
    pub fn new(inner: W) -> io::Result<Self> {
        Ok(Self { section: Section::new(inner)?, link_types: Vec::new() })
    }

    /// Describes a pair of interfaces for this link type, unless there is one.
    pub fn describe(&mut self, link_type: u16) -> io::Result<()> {
        self.interface(link_type, Side::Ingress).map(drop)
    }

    /// Writes one packet; an empty comment is none. Comments are cut to the 65,535 bytes that an option can have.
    pub fn write(&mut self, side: Side, record: &Record<'_>, comment: &str) -> io::Result<()> {
        let interface = self.interface(record.link_type, side)?;
        self.section.write(interface, None, record, comment)
    }

    /// Hands back what was written to, flushed. A capture without packets has the interfaces all the same.
    pub fn finish(mut self) -> io::Result<W> {
        if self.link_types.is_empty() {
            self.describe(super::super::link::ETHERNET)?;
        }
        self.section.finish()
    }

    fn interface(&mut self, link_type: u16, side: Side) -> io::Result<u32> {
        let known = self.link_types.iter().find(|(known, _)| *known == link_type);
        let ingress = match known {
            Some((_, ingress)) => *ingress,
            None => {
                let ingress = self.section.describe(Side::Ingress.name(), link_type)?;
                self.section.describe(Side::Egress.name(), link_type)?;
                self.link_types.push((link_type, ingress));
                ingress
            }
        };
        Ok(ingress + u32::from(side == Side::Egress))
    }
}
