//! A capture of any known format, packet by packet.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::compression::decompressed;
use super::pcap::Pcap;
use super::pcapng::{SECTION_HEADER, Section};
use super::stream::{Found, Stream};
use super::{ReadError, Record};

/// Reads a capture from its beginning to its end.
///
/// Memory is one window of 256 KiB, or of the largest record if that is larger. After an error the capture is
/// at its end.
pub struct Reader<'r> {
    stream: Stream<'r>,
    format: Format,
    /// Bytes of the window that the packet last handed out lies in.
    handed_out: usize,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Section),
    /// After an error.
    Over,
}

/// Opens the capture at `path`; `-` is standard input.
pub fn open(path: &Path) -> Result<Reader<'static>, ReadError> {
    let failed = |source| ReadError::Io { offset: 0, source };
    match path.as_os_str().as_encoded_bytes() {
        b"-" => Reader::new(io::stdin()),
        _ => Reader::new(File::open(path).map_err(failed)?),
    }
}

impl<'r> Reader<'r> {
    /// Recognises the capture's format by its first bytes, decompressing it if need be.
    pub fn new(source: impl Read + 'r) -> Result<Self, ReadError> {
        let source = decompressed(source).map_err(|source| ReadError::Io { offset: 0, source })?;
        let mut stream = Stream::new(source);
        stream.fill(4)?;
        let format = match *stream.window() {
            [] => return Err(ReadError::Empty),
            [a, b, c, d, ..] if [a, b, c, d] == SECTION_HEADER.to_be_bytes() => Format::Pcapng(Section::none()),
            [a, b, c, d, ..] if Pcap::is_magic([a, b, c, d]) => {
                let (length, header) = stream.item("the file header", Pcap::header)?.ok_or(ReadError::Empty)?;
                stream.consume(length);
                Format::Pcap(header)
            }
            [a, b, c, d, ..] => return Err(ReadError::Unknown { magic: [a, b, c, d] }),
            ref short => {
                return Err(ReadError::Truncated {
                    offset: 0,
                    what: "the file's magic number",
                    have: short.len(),
                    need: 4,
                });
            }
        };
        Ok(Self { stream, format, handed_out: 0 })
    }

    /// The next packet; `None` at the capture's end, and after an error.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        self.stream.consume(std::mem::take(&mut self.handed_out));
        match self.find() {
            Ok(None) => Ok(None),
            Ok(Some(Found { time, link_type, original_length, data })) => {
                Ok(Some(Record { time, link_type, original_length, data: &self.stream.window()[data] }))
            }
            Err(error) => {
                self.format = Format::Over;
                Err(error)
            }
        }
    }

    /// Where in the capture the next record or block begins, in bytes, after decompression.
    pub fn offset(&self) -> u64 {
        self.stream.offset() + self.handed_out as u64
    }

    fn find(&mut self) -> Result<Option<Found>, ReadError> {
        loop {
            let item = match &mut self.format {
                Format::Pcap(pcap) => {
                    self.stream.item("a record", |bytes| pcap.record(bytes))?.map(|(n, found)| (n, Some(found)))
                }
                Format::Pcapng(section) => self.stream.item("a block", |bytes| section.block(bytes))?,
                Format::Over => None,
            };
            match item {
                None => return Ok(None),
                Some((length, Some(found))) => {
                    self.handed_out = length;
                    return Ok(Some(found));
                }
                Some((length, None)) => self.stream.consume(length),
            }
        }
    }
}
