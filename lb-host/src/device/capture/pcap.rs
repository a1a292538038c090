//! The classic format: one header, then records.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>; where real files differ from it, as
//! libpcap reads them.

use super::order::Order;
use super::stream::{Found, Parsed};

/// Bytes of the file's header.
const HEADER: usize = 24;

/// What the file's header says about its records.
#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    nanoseconds_a_tick: u64,
    record_header: usize,
    link_type: u16,
    minor_version: u16,
}

/// What the file's magic number stands for: nanoseconds a tick, and bytes of a record's header.
const MAGICS: [(u32, u64, usize); 3] = [
    (0xa1b2_c3d4, 1000, 16),
    (0xa1b2_3c4d, 1, 16),
    // Written by a patched libpcap of the nineties, which appended an interface, a protocol and a packet type.
    (0xa1b2_cd34, 1000, 24),
];

impl Pcap {
    /// Whether a file that begins so is of this format.
    pub(super) fn is_magic(magic: [u8; 4]) -> bool {
        MAGICS.iter().any(|(value, ..)| Order::of(magic, *value).is_some())
    }

    /// Reads the file's header.
    pub(super) fn header(bytes: &[u8]) -> Result<Parsed<Self>, String> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(Parsed::Needs(HEADER)) };
        let [a, b, c, d, ..] = *header;
        let magic = |(value, nanoseconds_a_tick, record_header)| {
            Order::of([a, b, c, d], value).map(|order| (order, nanoseconds_a_tick, record_header))
        };
        let Some((order, nanoseconds_a_tick, record_header)) = MAGICS.into_iter().find_map(magic) else {
            return Err("no magic number of a pcap".into());
        };
        let field = |at| order.u16(header, at).unwrap_or_default();
        if field(4) != 2 {
            return Err(format!("pcap of version {}.{}, of which only 2 is known", field(4), field(6)));
        }
        // Only the low half is the link type; the upper may tell of a frame check sequence.
        let link_type = order.u32(header, 20).unwrap_or_default() as u16;
        let pcap = Self { order, nanoseconds_a_tick, record_header, link_type, minor_version: field(6) };
        Ok(Parsed::Whole(HEADER, pcap))
    }

    /// Reads one record.
    pub(super) fn record(&self, bytes: &[u8]) -> Result<Parsed<Found>, String> {
        // Its first fields are those of every kind of record.
        let (true, Some(header)) = (bytes.len() >= self.record_header, bytes.first_chunk::<16>()) else {
            return Ok(Parsed::Needs(self.record_header));
        };
        let field = |at| self.order.u32(header, at).unwrap_or_default();
        let (captured, original) = match (self.minor_version, field(8), field(12)) {
            // libpcap before 0.4 wrote the two lengths the other way round, and 2.3 either way.
            (0..=2, original, captured) => (captured, original),
            (3, original, captured) if original > captured => (captured, original),
            (_, captured, original) => (captured, original),
        };
        let length = self.record_header + captured as usize;
        if bytes.len() < length {
            return Ok(Parsed::Needs(length));
        }
        // A fraction of more than a second is found in real files: it reaches into the next.
        let time = u64::from(field(0)) * 1_000_000_000 + u64::from(field(4)) * self.nanoseconds_a_tick;
        let data = self.record_header..length;
        Ok(Parsed::Whole(
            length,
            Found { time: Some(time), link_type: self.link_type, original_length: original, data },
        ))
    }
}
