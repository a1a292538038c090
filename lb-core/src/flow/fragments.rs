//! Fragmented datagrams under way: which ports the first fragment showed, and which parts have passed.
//!
//! Fragments are translated one by one, never reassembled: only the first holds the ports and the
//! checksum, the later ones need their flow's addresses alone.

use bytemuck::{Pod, Zeroable};

use super::clock::Ticks;
use crate::memory::Block;
use crate::tuple::Protocol;

/// One datagram: a keyed hash for its name, and one cache line of memory.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Pieces {
    name: u64,
    deadline: u32,
    source_port: u16,
    destination_port: u16,
    /// What has passed: from and to, in units of 8 bytes (RFC 791 §3.1), by rising position.
    passed: [[u16; 2]; RANGES],
    ranges: u8,
    flags: u8,
    /// Where the datagram ends, once its last fragment was seen.
    end: u16,
    protocol: u8,
    reserved: [u8; 11],
}

/// Gaps that a datagram may have while its fragments arrive out of order.
const RANGES: usize = 8;

const LIVE: u8 = 1;
const FIRST_SEEN: u8 = 2;
const HOLDING: u8 = 4;
const END_SEEN: u8 = 8;

/// Blocks for a table of this many datagrams.
pub(crate) const fn blocks(fragments: u32) -> usize {
    fragments as usize
}

pub(crate) struct FragmentTable<'m> {
    datagrams: &'m mut [Pieces],
}

/// One fragment of a datagram with this name.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) name: u64,
    /// Bytes.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) length: u32,
    pub(crate) more: bool,
    /// What a first fragment shows: the protocol, source and destination port.
    pub(crate) first: Option<(Protocol, u16, u16)>,
}

/// What to do with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// The first showed this: protocol and ports. `releases` if fragments are held for it.
    Known {
        first: (Protocol, u16, u16),
        releases: bool,
    },
    /// The first is still missing.
    Early,
    /// Some of it has passed already; the first showed this.
    Overlap {
        first: (Protocol, u16, u16),
    },
    Full,
}

impl<'m> FragmentTable<'m> {
    pub(crate) fn new(memory: &'m mut [Block]) -> Self {
        memory.fill(Block::ZERO);
        Self { datagrams: bytemuck::must_cast_slice_mut(memory) }
    }

    /// Places a fragment in its datagram. One that comes before the first is remembered as held only if it
    /// `may_hold`.
    pub(crate) fn place(&mut self, now: Ticks, lifetime: u32, piece: &Piece, may_hold: bool) -> Placed {
        let Some(pieces) = self.datagram(now, piece.name) else { return Placed::Full };
        let is_new = pieces.flags & LIVE == 0;
        let known = if is_new || pieces.flags & FIRST_SEEN == 0 { piece.first } else { Some(pieces.first()) };
        let Some(first) = known else {
            if is_new && may_hold {
                *pieces = Pieces { name: piece.name, flags: LIVE, deadline: now.plus(lifetime).0, ..Pieces::zeroed() };
            }
            pieces.flags |= if may_hold { HOLDING } else { 0 };
            return Placed::Early;
        };
        if is_new {
            *pieces = Pieces { name: piece.name, flags: LIVE, deadline: now.plus(lifetime).0, ..Pieces::zeroed() };
        }
        let from = (piece.offset / 8) as u16;
        let to = (piece.offset + piece.length).div_ceil(8) as u16;
        match pieces.pass(from, to) {
            Passed::Overlap => return Placed::Overlap { first },
            Passed::TooScattered => return Placed::Full,
            Passed::Yes => {}
        }
        if !piece.more {
            (pieces.end, pieces.flags) = (to, pieces.flags | END_SEEN);
        }
        // The first counts once it has passed: one that overlaps must not speak for the others.
        let releases = pieces.flags & HOLDING != 0 && piece.first.is_some();
        pieces.flags = (pieces.flags | FIRST_SEEN) & if releases { !HOLDING } else { !0 };
        (pieces.protocol, pieces.source_port, pieces.destination_port) = (first.0.0, first.1, first.2);
        // All of it has passed: its identification may be used again at once.
        if pieces.flags & END_SEEN != 0 && pieces.ranges == 1 && pieces.passed.first() == Some(&[0, pieces.end]) {
            pieces.flags = 0;
        }
        Placed::Known { first, releases }
    }

    /// The entry of this name, or one to be used for it.
    fn datagram(&mut self, now: Ticks, name: u64) -> Option<&mut Pieces> {
        /// Entries looked at before the table counts as full.
        const WINDOW: usize = 16;
        let n = self.datagrams.len();
        let start = ((u128::from(name) * n as u128) >> 64) as usize;
        let window = (0..WINDOW.min(n)).map(|i| if start + i < n { start + i } else { start + i - n });
        let (mut own, mut vacant) = (None, None);
        for at in window {
            let Some(pieces) = self.datagrams.get(at) else { continue };
            let gone = pieces.flags & LIVE == 0 || Ticks(pieces.deadline).after(now) <= 0;
            match (gone, pieces.name == name) {
                (false, true) => own = own.or(Some(at)),
                (true, _) => vacant = vacant.or(Some(at)),
                (false, false) => {}
            }
        }
        let pieces = self.datagrams.get_mut(own.or(vacant)?)?;
        if own.is_none() {
            pieces.flags = 0;
        }
        Some(pieces)
    }
}

enum Passed {
    Yes,
    Overlap,
    TooScattered,
}

impl Pieces {
    /// What the first fragment showed.
    fn first(&self) -> (Protocol, u16, u16) {
        (Protocol(self.protocol), self.source_port, self.destination_port)
    }

    /// Notes that this part passes, unless some of it already has.
    fn pass(&mut self, from: u16, to: u16) -> Passed {
        let count = usize::from(self.ranges).min(RANGES);
        let Some(passed) = self.passed.get_mut(..count) else { return Passed::TooScattered };
        if passed.iter().any(|[a, b]| from < *b && *a < to) {
            return Passed::Overlap;
        }
        let before = passed.iter().position(|[_, b]| *b == from);
        let after = passed.iter().position(|[a, _]| *a == to);
        match (before, after) {
            (Some(before), Some(after)) => {
                let end = passed.get(after).map_or(to, |[_, b]| *b);
                if let Some(range) = passed.get_mut(before) {
                    range[1] = end;
                }
                // The last range takes the place of the one that was joined.
                let last = passed.last().copied().unwrap_or_default();
                if let Some(range) = passed.get_mut(after) {
                    *range = last;
                }
                self.ranges -= 1;
            }
            (Some(before), None) => {
                if let Some(range) = passed.get_mut(before) {
                    range[1] = to;
                }
            }
            (None, Some(after)) => {
                if let Some(range) = passed.get_mut(after) {
                    range[0] = from;
                }
            }
            (None, None) => {
                let Some(range) = self.passed.get_mut(count) else { return Passed::TooScattered };
                *range = [from, to];
                self.ranges += 1;
            }
        }
        Passed::Yes
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    const NOW: Ticks = Ticks(1000);
    const OVERLAP: Placed = Placed::Overlap { first: (Protocol::UDP, 10, 53) };

    fn piece(offset: u32, length: u32, more: bool) -> Piece {
        Piece { name: 7, offset, length, more, first: (offset == 0).then_some((Protocol::UDP, 10, 53)) }
    }

    fn ports(releases: bool) -> Placed {
        Placed::Known { first: (Protocol::UDP, 10, 53), releases }
    }

    #[test]
    fn fragments_pass_once_each_in_any_order() {
        type Case<'a> = (&'a str, &'a [(u32, u32, bool)], &'a [Placed]);
        let cases: &[Case<'_>] = &[
            ("in order", &[(0, 8, true), (8, 8, true), (16, 3, false)], &[ports(false); 3]),
            ("the last before the middle", &[(0, 8, true), (16, 3, false), (8, 8, true)], &[ports(false); 3]),
            (
                "the first last",
                &[(8, 8, false), (0, 8, true), (8, 8, false)],
                &[Placed::Early, ports(true), ports(false)],
            ),
            ("again", &[(0, 16, true), (0, 16, true)], &[ports(false), OVERLAP]),
            ("overlapping the first", &[(0, 16, true), (8, 16, false)], &[ports(false), OVERLAP]),
            ("the same identification once complete", &[(0, 8, true), (8, 8, false), (0, 8, true)], &[ports(false); 3]),
        ];
        for (name, fragments, expected) in cases {
            let mut memory = vec![Block::ZERO; 4];
            let mut table = FragmentTable::new(&mut memory);
            let got: vec::Vec<_> =
                fragments.iter().map(|(o, l, m)| table.place(NOW, 480, &piece(*o, *l, *m), true)).collect();
            assert_eq!(&got, expected, "{name}");
        }
    }

    #[test]
    fn a_full_table_refuses_newcomers_until_something_expires() {
        let mut memory = vec![Block::ZERO; 2];
        let mut table = FragmentTable::new(&mut memory);
        let first = |name| Piece { name, ..piece(0, 8, true) };
        assert_eq!(table.place(NOW, 480, &first(1), true), ports(false));
        assert_eq!(table.place(NOW, 480, &first(2), true), ports(false));
        assert_eq!(table.place(NOW, 480, &first(3), true), Placed::Full);
        assert_eq!(table.place(NOW.plus(480), 480, &first(3), true), ports(false));
        assert_eq!(FragmentTable::new(&mut []).place(NOW, 480, &first(1), true), Placed::Full);
    }
}
