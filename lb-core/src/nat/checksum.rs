//! The Internet checksum: its arithmetic (RFC 1071) and its update by the difference (RFC 1624).
//!
//! Ones'-complement sums are numbers modulo 65535 in which zero has two forms, 0x0000 and 0xffff. A sum
//! of words is 0x0000 only if every word is; otherwise folding yields 0x0001 to 0xffff. So a checksum
//! that its sender computed over anything but zeros is 0x0000 to 0xfffe, and updating it by equation 3
//! of RFC 1624 §3 keeps it in that range and congruent to what a full computation would give: it is the
//! same number. The 0xffff that equation 2 and RFC 1141 could leave behind comes out as 0x0000, as
//! right as it was.

use core::ops::{Add, AddAssign};

use bytemuck::must_cast;

use super::Checksum;

/// What replacing some 16-bit words by others adds to their ones'-complement sum: the sum of every new
/// word and the complement of every old one, not folded yet.
///
/// A few dozen words (all that translation ever replaces) are far from overflowing it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta(u64);

impl Delta {
    /// Nothing is replaced.
    pub(super) const NONE: Self = Self(0);

    /// The difference between two words.
    pub(super) const fn word(old: [u8; 2], new: [u8; 2]) -> Self {
        Self(!u16::from_be_bytes(old) as u64 + u16::from_be_bytes(new) as u64)
    }

    /// The difference between two pairs of words. They may be added as one number, as 2^16 is 1 modulo
    /// 65535 (RFC 1071 §2 (C)).
    pub(super) const fn pair(old: [u8; 4], new: [u8; 4]) -> Self {
        Self(!u32::from_be_bytes(old) as u64 + u32::from_be_bytes(new) as u64)
    }

    /// The difference between two IPv6 addresses.
    pub(super) const fn long(old: [u8; 16], new: [u8; 16]) -> Self {
        Self(halves(!u128::from_be_bytes(old)) + halves(u128::from_be_bytes(new)))
    }

    /// A checksum, updated (RFC 1624 §3, equation 3).
    pub(super) const fn update(self, checksum: [u8; 2]) -> [u8; 2] {
        complement(!u16::from_be_bytes(checksum) as u64 + self.0)
    }

    /// A UDP checksum, updated: zero says that there is none, and stays; a computed zero is sent as
    /// 0xffff (RFC 768). Over IPv6 it must not be zero (RFC 8200 §8.1) but for some tunnels' (RFC 6935),
    /// to which the same applies.
    pub(super) const fn update_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        match checksum {
            [0, 0] => [0, 0],
            some => match self.update(some) {
                [0, 0] => [0xff, 0xff],
                updated => updated,
            },
        }
    }

    /// The folded sum of a pseudo-header, updated: what the checksum field holds where hardware is to
    /// add the rest and take the complement.
    pub(super) const fn update_partial(self, sum: [u8; 2]) -> [u8; 2] {
        fold(u16::from_be_bytes(sum) as u64 + self.0).to_be_bytes()
    }
}

impl Add for Delta {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Delta {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// A [`Delta`] to keep: folded, in the order of a packet's bytes.
///
/// A sum of words whose bytes are all turned around is the sum turned around (RFC 1071 §2 (B)), so that
/// checksums are updated as they lie in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change(pub(crate) u16);

impl Change {
    /// Of a sum of words in that order.
    #[inline(always)]
    pub(super) const fn of(sum: u64) -> Self {
        Self(fold(sum))
    }

    /// Of each of these, what putting the old words back adds if they are `undone`: the complement. Not a branch either way.
    ///
    /// Of a change that comes to nothing the complement is 0, as no folded sum of some words is. It leaves every checksum as it
    /// is, and so does the change itself but for the form of zero that nobody computes: 0xffff, or of partial sums 0.
    #[inline(always)]
    pub(crate) fn undone_if(undone: bool, changes: [Self; 2]) -> [Self; 2] {
        let word: u32 = must_cast(changes.map(|Self(sum)| sum));
        let sums: [u16; 2] = must_cast(word ^ u32::from(undone).wrapping_neg());
        sums.map(Self)
    }

    /// As [`Delta::update`].
    #[inline(always)]
    pub(super) const fn update(self, checksum: [u8; 2]) -> [u8; 2] {
        // What is added to a sum is taken from its complement, carry and all.
        let (difference, borrow) = u16::from_le_bytes(checksum).overflowing_sub(self.0);
        difference.wrapping_sub(borrow as u16).to_le_bytes()
    }

    /// As [`Delta::update_udp`].
    #[inline(always)]
    pub(super) const fn update_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        match (checksum, self.update(checksum)) {
            ([0, 0], _) => [0, 0],
            (_, [0, 0]) => [0xff, 0xff],
            (_, updated) => updated,
        }
    }

    /// Updates a transport checksum that hardware is to complete.
    #[cold]
    pub(super) fn update_incomplete(self, field: &mut [u8; 2], state: &Checksum) {
        if *state == Checksum::Partial {
            *field = self.update_partial(*field);
        }
    }

    /// As [`Delta::update_partial`].
    #[inline(always)]
    const fn update_partial(self, sum: [u8; 2]) -> [u8; 2] {
        self.added(u16::from_le_bytes(sum)).to_le_bytes()
    }

    #[inline(always)]
    const fn added(self, sum: u16) -> u16 {
        let sum = sum as u32 + self.0 as u32;
        (sum as u16).wrapping_add((sum >> 16) as u16)
    }
}

#[cfg(test)]
impl From<Delta> for Change {
    fn from(delta: Delta) -> Self {
        Self(u16::from_le_bytes(fold(delta.0).to_be_bytes()))
    }
}

/// The sum of the words that these bytes are, an odd last one filled up with zero (RFC 1071 §1), not
/// folded yet.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks();
    let last = odd.first().map_or(0, |byte| u16::from_be_bytes([*byte, 0]).into());
    words.iter().fold(last, |sum: u64, word| sum.wrapping_add(u16::from_be_bytes(*word).into()))
}

/// The checksum that goes with a sum.
pub(super) const fn complement(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_be_bytes()
}

/// The sum of four 32-bit numbers that a 128-bit one is made of.
const fn halves(bits: u128) -> u64 {
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    (high >> 32) + (high as u32 as u64) + (low >> 32) + (low as u32 as u64)
}

/// The sixteen bits of a sum, carries added back in. 0 only for 0.
const fn fold(sum: u64) -> u16 {
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(carry as u32);
    let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
    sum.wrapping_add(carry as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §3: the bytes 00 01 f2 03 f4 f5 f6 f7 add up to 0xddf2.
    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(complement(sum(&bytes)), (!0xddf2u16).to_be_bytes());
        // An odd byte counts as the upper half of a word: 0xf2 04 instead of 0xf2 03 and so on.
        assert_eq!(fold(sum(&bytes[..3])), 0xf201);
    }

    /// RFC 1624 §4: checksum 0xdd2f, a word goes from 0x5555 to 0x3285, the rest adds up to 0xcd7a; the
    /// new checksum is 0x0000, where RFC 1141's arithmetic gave 0xffff.
    #[test]
    fn rfc_1624_example() {
        let delta = Delta::word(0x5555u16.to_be_bytes(), 0x3285u16.to_be_bytes());
        assert_eq!(delta.update(0xdd2fu16.to_be_bytes()), [0, 0]);
        assert_eq!(complement(0xcd7a + 0x3285), [0, 0]);
    }

    /// Every word that the rest of a header may add up to, around every change that crosses a zero.
    #[test]
    fn the_update_is_what_a_full_computation_gives() {
        // Both ends; under Miri only some between.
        for rest in (1..=0xffffu16).step_by(if cfg!(miri) { 1542 * 3 } else { 1 }).chain([0xffff]) {
            for (old, new) in [(0, 0xffff), (0xffff, 0), (0, 0), (0xffff, 0xffff), (0x5555, 0x3285), (1, !rest)] {
                let delta = Delta::word(u16::to_be_bytes(old), u16::to_be_bytes(new));
                let before = complement(u64::from(rest) + u64::from(old));
                let after = complement(u64::from(rest) + u64::from(new));
                assert_eq!(delta.update(before), after, "{rest:#x} {old:#x} {new:#x}");
                let udp = |checksum| if checksum == [0, 0] { [0xff, 0xff] } else { checksum };
                assert_eq!(delta.update_udp(udp(before)), udp(after), "{rest:#x} {old:#x} {new:#x}");
                let (change, undone) =
                    (Change::from(delta), Change::from(Delta::word(u16::to_be_bytes(new), u16::to_be_bytes(old))));
                assert_eq!(change.update(before), after, "{rest:#x} {old:#x} {new:#x}");
                assert_eq!(change.update_udp(udp(before)), udp(after), "{rest:#x} {old:#x} {new:#x}");
                let [back, there] = [true, false].map(|undone| Change::undone_if(undone, [change; 2])[1]);
                assert_eq!((back.update(after), there), (undone.update(after), change), "{rest:#x} {old:#x} {new:#x}");
                let sum = fold(u64::from(rest) + u64::from(old)).to_be_bytes();
                assert_eq!(change.update_partial(sum), delta.update_partial(sum));
                assert_eq!(
                    delta.update_partial(fold(u64::from(rest) + u64::from(old)).to_be_bytes()),
                    fold(u64::from(rest) + u64::from(new)).to_be_bytes(),
                );
            }
        }
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        assert_eq!(Change::from(Delta::word([0, 1], [0, 2])).update_udp([0, 0]), [0, 0]);
        assert_eq!(Delta::word([0, 1], [0, 2]).update_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn wider_words_are_words_side_by_side() {
        let old = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0, 1];
        let new = [0xfd, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let mut words = Delta::NONE;
        for (old, new) in old.as_chunks().0.iter().zip(new.as_chunks().0) {
            words += Delta::word(*old, *new);
        }
        let mut pairs = Delta::NONE;
        for (old, new) in old.as_chunks().0.iter().zip(new.as_chunks().0) {
            pairs += Delta::pair(*old, *new);
        }
        for checksum in [[0, 0], [0, 1], [0x12, 0x34], [0xff, 0xfe]] {
            assert_eq!(pairs.update(checksum), words.update(checksum));
            assert_eq!(Delta::long(old, new).update(checksum), words.update(checksum));
        }
    }
}
