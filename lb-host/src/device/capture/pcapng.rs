//! The block format: sections, each with interfaces and packets.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>, whose sections are cited.

use super::order::Order;
use super::stream::{Found, Parsed};

/// The type of a Section Header Block (§4.1), the same in either byte order.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete, and still found (appendix A).
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The section that is being read.
#[derive(Debug)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

/// What an Interface Description Block says about the packets that refer to it (§4.2).
#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: u16,
    /// 0: no limit.
    snap_length: u32,
    clock: Clock,
}

/// Options `if_tsresol` and `if_tsoffset`: what a time stamp's number means.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Ticks per second are 10 or 2 to the power of this.
    exponent: u8,
    binary: bool,
    offset_seconds: i64,
}

impl Clock {
    const MICROSECONDS: Self = Self { exponent: 6, binary: false, offset_seconds: 0 };

    /// Nanoseconds since 1970 of a time stamp, within the bounds of the type.
    fn nanoseconds(self, ticks: u64) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        // The resolutions in use stay in 64 bits.
        if !self.binary && self.exponent <= 9 && self.offset_seconds == 0 {
            return ticks.saturating_mul(10u64.pow(9 - u32::from(self.exponent)));
        }
        let ticks = u128::from(ticks) * u128::from(SECOND);
        let since_offset = match self.binary {
            true => ticks >> self.exponent,
            false => 10u128.checked_pow(self.exponent.into()).map_or(0, |per_second| ticks / per_second),
        };
        let nanoseconds = since_offset as i128 + i128::from(self.offset_seconds) * i128::from(SECOND);
        nanoseconds.clamp(0, u64::MAX.into()) as u64
    }
}

impl Section {
    /// The state before the first Section Header Block.
    pub(super) fn none() -> Self {
        Self { order: Order::Little, interfaces: Vec::new() }
    }

    /// Reads one block: a packet, or `None` for any other that is understood or skipped.
    pub(super) fn block(&mut self, bytes: &[u8]) -> Result<Parsed<Option<Found>>, String> {
        let Some(header) = bytes.first_chunk::<12>() else { return Ok(Parsed::Needs(12)) };
        let [kind, _, magic] =
            [0, 4, 8].map(|at| *header[at..].first_chunk::<4>().expect("three words of twelve bytes"));
        let begins_section = u32::from_ne_bytes(kind) == SECTION_HEADER;
        let order = match begins_section {
            true => Order::of(magic, BYTE_ORDER_MAGIC).ok_or("a section header without its byte-order magic")?,
            false => self.order,
        };
        let length = order.u32(header, 4).unwrap_or_default() as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Err(format!("a block of {length} bytes, which is less than its frame or no multiple of 4"));
        }
        let Some(block) = bytes.get(..length) else { return Ok(Parsed::Needs(length)) };
        let (body, trailer) = (&block[8..length - 4], order.u32(block, length - 4).unwrap_or_default() as usize);
        if trailer != length {
            return Err(format!("a block of {length} bytes by its head and {trailer} by its tail"));
        }
        if begins_section {
            self.begin(order, body)?;
            return Ok(Parsed::Whole(length, None));
        }
        let found = match order.u32(&kind, 0).unwrap_or_default() {
            INTERFACE_DESCRIPTION => {
                self.interfaces.push(interface(order, body).ok_or("an interface description that is too short")?);
                None
            }
            ENHANCED_PACKET => {
                Some(self.packet(body, order.u32(body, 0).ok_or("an enhanced packet that is too short")?)?)
            }
            PACKET => Some(self.packet(body, order.u16(body, 0).ok_or("a packet block that is too short")?.into())?),
            SIMPLE_PACKET => Some(self.simple_packet(body)?),
            // §3.1: "readers should skip what they don't know": names, statistics, secrets, custom blocks.
            _ => None,
        };
        Ok(Parsed::Whole(length, found))
    }

    /// §4.1: a new section forgets the interfaces of the one before.
    fn begin(&mut self, order: Order, body: &[u8]) -> Result<(), String> {
        match (order.u16(body, 4), order.u16(body, 6)) {
            // §4.1: 1.2 is the same as 1.0, by writers that were mistaken.
            (Some(1), Some(0 | 2)) => {}
            (Some(major), Some(minor)) => {
                return Err(format!("pcapng of version {major}.{minor}, of which only 1.0 is known"));
            }
            _ => return Err("a section header that is too short".into()),
        }
        self.order = order;
        self.interfaces.clear();
        Ok(())
    }

    /// §4.3; the obsolete block differs in the width of the interface's number alone.
    fn packet(&self, body: &[u8], interface: u32) -> Result<Found, String> {
        const FIXED: usize = 20;
        let Some(of) = self.interfaces.get(interface as usize) else {
            let known = self.interfaces.len();
            return Err(format!("a packet of interface {interface}, when this section has described {known}"));
        };
        let field = |at| self.order.u32(body, at).ok_or("a packet block that is too short");
        let ticks = u64::from(field(4)?) << 32 | u64::from(field(8)?);
        let (captured, original_length) = (field(12)? as usize, field(16)?);
        if body.len() - FIXED < captured {
            return Err(format!("a packet of {captured} bytes in a block that has room for {}", body.len() - FIXED));
        }
        let time = Some(of.clock.nanoseconds(ticks));
        Ok(Found { time, link_type: of.link_type, original_length, data: in_block(FIXED, captured) })
    }

    /// §4.4: no time, always of the first interface, and cut by that one's snap length.
    fn simple_packet(&self, body: &[u8]) -> Result<Found, String> {
        const FIXED: usize = 4;
        let of = self.interfaces.first().ok_or("a simple packet before any interface was described")?;
        let original_length = self.order.u32(body, 0).ok_or("a simple packet that is too short")?;
        let limit = if of.snap_length == 0 { u32::MAX } else { of.snap_length };
        let captured = (original_length.min(limit) as usize).min(body.len() - FIXED);
        Ok(Found { time: None, link_type: of.link_type, original_length, data: in_block(FIXED, captured) })
    }
}

/// The range in a block of `length` bytes from offset `from` of its body.
fn in_block(from: usize, length: usize) -> std::ops::Range<usize> {
    8 + from..8 + from + length
}

/// Reads an Interface Description Block (§4.2). Options that make no sense are skipped: no packet hangs on them.
fn interface(order: Order, body: &[u8]) -> Option<Interface> {
    const IF_TSRESOL: u16 = 9;
    const IF_TSOFFSET: u16 = 14;
    let (link_type, snap_length) = (order.u16(body, 0)?, order.u32(body, 4)?);
    let mut clock = Clock::MICROSECONDS;
    let mut options = body.get(8..)?;
    while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
        let length = usize::from(length);
        let Some(value) = options.get(4..4 + length) else { break };
        match (code, value) {
            (0, _) => break,
            (IF_TSRESOL, [resolution]) => {
                (clock.binary, clock.exponent) = (resolution & 0x80 != 0, resolution & 0x7f);
            }
            (IF_TSOFFSET, [_, _, _, _, _, _, _, _]) => clock.offset_seconds = order.i64(value, 0)?,
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Interface { link_type, snap_length, clock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_means_what_the_interface_says() {
        let clock = |resolution: u8, offset_seconds| Clock {
            exponent: resolution & 0x7f,
            binary: resolution & 0x80 != 0,
            offset_seconds,
        };
        for (what, clock, ticks, nanoseconds) in [
            ("microseconds", Clock::MICROSECONDS, 1_500_000, 1_500_000_000),
            ("nanoseconds", clock(9, 0), 7, 7),
            ("seconds", clock(0, 0), 3, 3_000_000_000),
            ("picoseconds", clock(12, 0), 2_999, 2),
            ("seconds to the power of -127", clock(127, 0), u64::MAX, 0),
            ("2^-10 s", clock(0x8a, 0), 1536, 1_500_000_000),
            ("2^-127 s", clock(0xff, 0), u64::MAX, 0),
            ("offset", clock(6, 10), 1, 10_000_001_000),
            ("negative offset", clock(0, -2), 5, 3_000_000_000),
            ("before 1970", clock(0, -2), 1, 0),
            ("after 2554", clock(0, 0), u64::MAX, u64::MAX),
            ("long after 2554", clock(0, i64::MAX), u64::MAX, u64::MAX),
        ] {
            assert_eq!(clock.nanoseconds(ticks), nanoseconds, "{what}");
        }
    }
}
