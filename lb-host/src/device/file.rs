//! A capture as a device: its packets come in one after the other, what goes out is written to another.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::capture::{Output, Reader, Record, Side, Writer, open};
use super::link::{ETHERNET, engine_part};
use super::{Device, Frame, Received};

/// Reads packets as fast as they are asked for, whatever their time stamps; those of other links than Ethernet
/// are passed over. Once the output can't be written no more is, it gets no name, and [`finish`](Device::finish) says why.
pub struct CaptureFile {
    input: Reader<'static>,
    output: Writer<Output>,
    /// The time of the last packet read, with which those that leave are written.
    time: Option<u64>,
    /// Why the output is not whole. Other devices go on without it.
    failed: Option<io::Error>,
}

impl CaptureFile {
    /// Opens one capture and begins another, which has its name when it is [finished](Device::finish).
    ///
    /// # Errors
    /// The one can't be read or the other not be written.
    pub fn open(input: &Path, output: &Path) -> io::Result<Self> {
        let input = open(input).map_err(|error| damaged(&error))?;
        Ok(Self { input, output: Writer::new(Output::create(output)?)?, time: None, failed: None })
    }
}

fn damaged(error: &super::capture::ReadError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl Device for CaptureFile {
    fn receive(&mut self, frames: &mut [Frame]) -> io::Result<Received> {
        let mut count = 0;
        while let Some(frame) = frames.get_mut(count) {
            let Some(record) = self.input.next_record().map_err(|error| damaged(&error))? else {
                return Ok(if count == 0 { Received::End } else { Received::Frames(count) });
            };
            if record.link_type == ETHERNET && engine_part(record.link_type, record.data).is_some() {
                frame.put(record.data);
                self.time = record.time;
                count += 1;
            }
        }
        Ok(Received::Frames(count))
    }

    fn send(&mut self, frames: &[Frame]) -> io::Result<usize> {
        for (sent, frame) in frames.iter().enumerate() {
            let data = frame.data();
            let original_length = data.len() as u32;
            let record = Record { time: self.time, link_type: ETHERNET, original_length, data };
            if self.failed.is_none() {
                self.failed = self.output.write(Side::Egress, &record, "").err();
            }
            if self.failed.is_some() {
                return Ok(frames.len() - sent);
            }
        }
        Ok(0)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.failed.map_or(Ok(()), Err)?;
        self.output.finish()?.publish()
    }
}
