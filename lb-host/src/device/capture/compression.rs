//! Compressed captures, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The source itself, or what it decompresses to.
pub(super) fn decompressed<'r>(mut source: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let number = magic.first_chunk().map(|magic| u32::from_le_bytes(*magic));
    let gzip = magic.starts_with(&[0x1f, 0x8b]); // RFC 1952 §2.3.1
    let whole = Cursor::new(magic).chain(source);
    Ok(match number {
        _ if gzip => Box::new(MultiGzDecoder::new(BufReader::new(Gathered(whole)))),
        // RFC 8878 §3.1: a frame, or one of the skippable frames that may come before it.
        Some(0xfd2f_b528 | 0x184d_2a50..=0x184d_2a5f) => Box::new(Zstandard::new(BufReader::new(Gathered(whole)))),
        _ => Box::new(whole),
    })
}

/// Reads all that is asked for, however small the pieces in which the source gives it: what a decompressor still tells of a
/// damaged file depends on how much it sees at once.
struct Gathered<R>(R);

impl<R: Read> Read for Gathered<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < out.len() {
            match self.0.read(&mut out[have..]) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if have == 0 => return Err(error),
                // It comes again, or what was in its way is gone.
                Err(_) => break,
            }
        }
        Ok(have)
    }
}

/// A sequence of Zstandard frames (RFC 8878 §3), as `cat a.zst b.zst` and parallel compressors make them.
struct Zstandard<R> {
    source: R,
    frame: FrameDecoder,
    begun: bool,
}

impl<R: BufRead> Zstandard<R> {
    fn new(source: R) -> Self {
        Self { source, frame: FrameDecoder::new(), begun: false }
    }

    /// Goes to the next frame with contents; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        if self.begun
            && self.frame.get_checksum_from_data().is_some_and(|sum| Some(sum) != self.frame.get_calculated_checksum())
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a Zstandard frame does not match its checksum"));
        }
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(invalid(&error)),
            }
        }
        Ok(false)
    }
}

/// In words: the decoder's errors tell their own causes.
fn invalid(error: &FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not valid Zstandard: {error}"))
}

impl<R: BufRead> Read for Zstandard<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.frame.can_collect() == 0 {
            if self.frame.is_finished() {
                if !self.next_frame()? {
                    return Ok(0);
                }
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&mut self.source, one).map_err(|error| invalid(&error))?;
            }
        }
        self.frame.read(out)
    }
}
