//! A window over a byte stream that remembers where in the stream it is.

use std::io::{ErrorKind, Read};
use std::ops::Range;

use super::{RECORD_LIMIT, ReadError};

/// What a parser of the window's bytes found.
pub(super) enum Parsed<T> {
    /// A whole item of this many bytes.
    Whole(usize, T),
    /// The item needs at least this many bytes.
    Needs(usize),
}

/// Where in the window a packet's bytes are, and what is said about it.
pub(super) struct Found {
    pub(super) time: Option<u64>,
    pub(super) link_type: u16,
    pub(super) original_length: u32,
    pub(super) data: Range<usize>,
}

/// A byte stream seen through a growing window.
pub(super) struct Stream<'r> {
    source: Box<dyn Read + 'r>,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// The offset in the stream of `buffer[begin]`.
    offset: u64,
}

/// Large enough that a system call is rare against the packets it brings.
const WINDOW: usize = 256 << 10;

impl<'r> Stream<'r> {
    pub(super) fn new(source: Box<dyn Read + 'r>) -> Self {
        Self { source, buffer: vec![0; WINDOW], begin: 0, end: 0, offset: 0 }
    }

    /// Where in the stream the next unread byte is.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes in the window.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Makes at least `want` bytes visible, or as many as the stream still has; says how many there are.
    pub(super) fn fill(&mut self, want: usize) -> Result<usize, ReadError> {
        while self.end - self.begin < want {
            if self.buffer.len() - self.begin < want {
                self.buffer.copy_within(self.begin..self.end, 0);
                (self.begin, self.end) = (0, self.end - self.begin);
                if self.buffer.len() < want {
                    self.buffer.resize(want.next_power_of_two(), 0);
                }
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ReadError::Io { offset: self.offset + (self.end - self.begin) as u64, source });
                }
            }
        }
        Ok(self.end - self.begin)
    }

    /// Moves the window past its first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.begin += count;
        self.offset += count as u64;
    }

    /// Reads one item: `measure` says whether the window holds all of it, and the window is widened until
    /// it does. Returns what `measure` found and how many bytes it covers, which are not yet consumed;
    /// `None` at the stream's end.
    pub(super) fn item<T>(
        &mut self,
        what: &'static str,
        mut measure: impl FnMut(&[u8]) -> Result<Parsed<T>, String>,
    ) -> Result<Option<(usize, T)>, ReadError> {
        if self.begin == self.end && self.fill(1)? == 0 {
            return Ok(None);
        }
        loop {
            let offset = self.offset;
            match measure(self.window()) {
                Ok(Parsed::Whole(length, item)) => return Ok(Some((length, item))),
                Ok(Parsed::Needs(need)) if need > RECORD_LIMIT => {
                    let what = format!("{what} of {need} bytes, more than the {RECORD_LIMIT} that any can have");
                    return Err(ReadError::Damaged { offset, what });
                }
                Ok(Parsed::Needs(need)) => {
                    let have = self.fill(need)?;
                    if have < need {
                        return Err(ReadError::Truncated { offset, what, have, need });
                    }
                }
                Err(what) => return Err(ReadError::Damaged { offset, what }),
            }
        }
    }
}
