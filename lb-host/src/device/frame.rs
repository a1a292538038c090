//! A frame with what the kernel leaves to be done to it.
//!
//! ```text
//!  0        1         2         4         6          8           10
//! +--------+---------+---------+---------+----------+-----------+------------------
//! | flags  | GSO kind| header  | segment | checksum | checksum  | the frame from
//! |        |         | length  | size    | start    | offset    | Ethernet's header on
//! +--------+---------+---------+---------+----------+-----------+------------------
//! ```
//! The head is `struct virtio_net_hdr` (virtio 1.2 §5.1.6, in the machine's byte order) as TAP devices and packet
//! sockets prepend it. A sender's kernel that knows the next hop to be software saves the work of cutting a large
//! segment into packets and of summing it up; what it saved is in the head. Translation changes neither lengths nor
//! where headers are, so the head goes out as it came in, and the work is done by whoever meets real hardware.

use std::fmt;

use lb_core::{Checksum, Link, wire};

/// Bytes of the head.
pub const HEAD: usize = 10;

/// The longest IPv4 packet, Ethernet with two tags, and the head, rounded up so that neighbours do not fall into the same
/// cache sets.
const ROOM: usize = 65_535 + 22 + HEAD + 2112;

/// A frame and its head, in memory that is used again and again.
pub struct Frame {
    buffer: Box<[u8]>,
    length: usize,
}

/// Flag: the transport checksum covers the pseudo-header only.
const NEEDS_CHECKSUM: u8 = 1;

impl Frame {
    /// An empty frame.
    pub fn new() -> Self {
        Self { buffer: vec![0; ROOM].into(), length: HEAD }
    }

    /// From Ethernet's header on.
    pub fn data(&self) -> &[u8] {
        &self.buffer[HEAD..self.length]
    }

    /// From Ethernet's header on.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[HEAD..self.length]
    }

    /// The head and the frame, as the kernel takes it.
    pub fn with_head(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Room for the kernel to put a head and a frame; say how much it was with [`set_length`](Self::set_length).
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// How many bytes there are, those of the head included; at least those of the head, at most the room.
    pub fn set_length(&mut self, length: usize) {
        self.length = length.clamp(HEAD, self.buffer.len());
    }

    /// Puts a frame in that is complete in itself: nothing is left to be done. What does not fit is cut.
    pub fn put(&mut self, data: &[u8]) {
        let length = data.len().min(self.buffer.len() - HEAD);
        self.buffer[..HEAD].fill(0);
        self.buffer[HEAD..HEAD + length].copy_from_slice(&data[..length]);
        self.length = HEAD + length;
    }

    /// Makes this frame the same as another, head included.
    pub fn copy_from(&mut self, other: &Self) {
        self.copy_from_bytes(other.with_head());
    }

    /// Makes this the frame of these bytes, a head and what follows it. What does not fit is cut.
    pub fn copy_from_bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.buffer.len());
        self.buffer[..length].copy_from_slice(&bytes[..length]);
        self.set_length(length);
    }

    /// The state of the transport checksum that translation has to keep up.
    pub fn checksum(&self) -> Checksum {
        if self.buffer[0] & NEEDS_CHECKSUM == 0 {
            return Checksum::Complete;
        }
        // In a tunnel it is the inner packet's: the outer one's is whole, or is none.
        let start = u16::from_ne_bytes([self.buffer[6], self.buffer[7]]);
        match wire::parse(self.data(), Link::Ethernet) {
            Ok(Some(headers)) if headers.transport == start => Checksum::Partial,
            _ => Checksum::Complete,
        }
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("head", &&self.buffer[..HEAD]).field("data", &self.data()).finish()
    }
}

#[cfg(test)]
mod tests {
    use lb_core::{Protocol, Tuple};

    use super::*;
    use crate::dialled;

    /// A frame of an IPv4 SYN, whose head says these flags and this start of the checksum.
    fn syn(flags: u8, start: u16) -> Frame {
        let (source, destination) = (lb_core::Address::v4([10, 0, 0, 1]), lb_core::Address::v4([10, 0, 0, 2]));
        let tuple =
            Tuple { source, destination, source_port: 1, destination_port: 2, protocol: Protocol::TCP, zone: 0 };
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        bytes.extend(dialled::packet(&tuple));
        let mut frame = Frame::new();
        frame.put(&bytes);
        frame.room()[0] = flags;
        frame.room()[6..8].copy_from_slice(&start.to_ne_bytes());
        frame
    }

    #[test]
    fn a_partial_checksum_is_that_of_the_transport_header_it_starts_at() {
        for (what, flags, start, expected) in [
            ("nothing left to do", 0, 0, Checksum::Complete),
            ("verified by the sender's kernel", 2, 0, Checksum::Complete),
            ("TCP behind 14 + 20 bytes", 1, 34, Checksum::Partial),
            ("that of a packet further in", 1, 84, Checksum::Complete),
        ] {
            assert_eq!(syn(flags, start).checksum(), expected, "{what}");
        }
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut frame = Frame::new();
        frame.put(&vec![7; 1 << 20]);
        assert_eq!(frame.data().len(), ROOM - HEAD);
    }
}
