//! From a key's hash to the flows that may have it: buckets of tags.
//!
//! A bucket is one cache line of eight 16-bit tags and eight 32-bit names. A key may lie in either of
//! two buckets, the second found from the first and the tag alone (partial-key cuckoo hashing: Fan et
//! al., "Cuckoo Filter", CoNEXT 2014), so that a key can be moved without reading its flow. A key goes
//! to its first bucket while there is room, so most look-ups touch one line.

use bytemuck::{Pod, Zeroable};

use super::Direction;
use crate::memory::Block;

/// Keys in a bucket.
const WAYS: usize = 8;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// 0 where a way is free.
    tags: [u16; WAYS],
    /// Which flow, and in the lowest bit which of its keys.
    names: [u32; WAYS],
    reserved: [u64; 2],
}

/// A key of a flow, as the index names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(u32);

impl Name {
    pub(super) const fn new(flow: u32, direction: Direction) -> Self {
        Self(flow << 1 | direction as u32)
    }

    pub(super) const fn flow(self) -> u32 {
        self.0 >> 1
    }

    pub(super) const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

pub(super) struct Index<'m> {
    buckets: &'m mut [Bucket],
}

/// The buckets for this many keys: at most 80 % full, where a key practically always finds a way.
pub(super) const fn buckets(keys: usize) -> usize {
    (keys * 10).div_ceil(WAYS * 8) + 2
}

impl<'m> Index<'m> {
    /// An empty index over this memory.
    pub(super) fn new(memory: &'m mut [Block]) -> Self {
        memory.fill(Block::ZERO);
        Self { buckets: bytemuck::must_cast_slice_mut(memory) }
    }

    /// The bucket of a hash, and its tag, which is never 0.
    #[inline]
    pub(super) fn place(&self, hash: u64) -> (usize, u16) {
        let tag = (hash as u16).max(1);
        // Multiply-shift maps 32 hash bits onto any number of buckets.
        let bucket = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        (bucket as usize, tag)
    }

    /// The other bucket of a key: its own inverse for a given tag.
    #[inline]
    pub(super) fn other(&self, bucket: usize, tag: u16) -> usize {
        let n = self.buckets.len();
        let sum = ((u64::from(u32::from(tag).wrapping_mul(0x9e37_79b1)) * n as u64) >> 32) as usize;
        if sum >= bucket { sum - bucket } else { sum + n - bucket }
    }

    /// The name of the first key of this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(Name) -> bool) -> Option<Name> {
        let (first, tag) = self.place(hash);
        let second = self.other(first, tag);
        [first, second].into_iter().find_map(|at| self.buckets.get(at)?.find(tag, &mut is))
    }

    /// Adds a key; false if neither bucket has a way free nor can make one.
    pub(super) fn insert(&mut self, hash: u64, name: Name) -> bool {
        let (first, tag) = self.place(hash);
        let second = self.other(first, tag);
        self.put(first, tag, name)
            || self.put(second, tag, name)
            || ((self.make_way(first) || self.make_way(second))
                && (self.put(first, tag, name) || self.put(second, tag, name)))
    }

    fn put(&mut self, at: usize, tag: u16, name: Name) -> bool {
        let Some(bucket) = self.buckets.get_mut(at) else { return false };
        let mut ways = bucket.tags.iter_mut().zip(&mut bucket.names);
        let Some((way, slot)) = ways.find(|(way, _)| **way == 0) else { return false };
        (*way, *slot) = (tag, name.0);
        true
    }

    /// Moves one key of a full bucket to its other bucket, where a key may first have to be moved in the
    /// same way. At the rated load one step alone finds no way for one key in some millions, and then the
    /// flow could not begin until a neighbour ends; two try 128 ways more.
    fn make_way(&mut self, at: usize) -> bool {
        self.move_one(at, |index, other| index.move_one(other, |_, _| false))
    }

    /// Moves one key of a bucket to its other bucket; `make_way` is asked for room where that is full. Each step is a
    /// function of its own, so that none calls itself.
    fn move_one(&mut self, at: usize, make_way: impl Fn(&mut Self, usize) -> bool) -> bool {
        let Some(&bucket) = self.buckets.get(at) else { return false };
        for (way, (&tag, &name)) in bucket.tags.iter().zip(&bucket.names).enumerate() {
            let other = self.other(at, tag);
            if other == at {
                continue;
            }
            let moved = self.put(other, tag, Name(name)) || (make_way(self, other) && self.put(other, tag, Name(name)));
            if moved {
                if let Some(tag) = self.buckets.get_mut(at).and_then(|bucket| bucket.tags.get_mut(way)) {
                    *tag = 0;
                }
                return true;
            }
        }
        false
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, hash: u64, name: Name) {
        let (first, tag) = self.place(hash);
        let second = self.other(first, tag);
        for at in [first, second] {
            let Some(bucket) = self.buckets.get_mut(at) else { continue };
            let mut ways = bucket.tags.iter_mut().zip(&bucket.names);
            if let Some((way, _)) = ways.find(|(way, slot)| **way == tag && **slot == name.0) {
                *way = 0;
                return;
            }
        }
    }
}

impl Bucket {
    #[inline]
    fn find(&self, tag: u16, is: &mut impl FnMut(Name) -> bool) -> Option<Name> {
        // One compare of all eight tags; the rare equal ones are then looked at.
        let mut equal = 0u32;
        for (way, &other) in self.tags.iter().enumerate() {
            equal |= u32::from(other == tag) << way;
        }
        while equal != 0 {
            let way = equal.trailing_zeros() as usize;
            equal &= equal - 1;
            let name = Name(*self.names.get(way)?);
            if is(name) {
                return Some(name);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::rng::Rng;
    use std::vec;

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_the_first() {
        for n in [1, 2, 3, 7, 64, 1000] {
            let mut memory = vec![Block::ZERO; n];
            let index = Index::new(&mut memory);
            for tag in [1, 2, 77, 0x8000, u16::MAX] {
                for at in 0..n {
                    let other = index.other(at, tag);
                    assert!(other < n);
                    assert_eq!(index.other(other, tag), at);
                }
            }
        }
    }

    /// These seeds, one in some thousand tables of this size, lead to a key both of whose buckets are full,
    /// as are the other buckets of all sixteen keys in them.
    #[test]
    fn a_key_whose_whole_neighbourhood_is_full_still_finds_a_way() {
        const KEYS: usize = 8000;
        for seed in [2375, 2650, 5001, 5814, 6613] {
            let mut memory = vec![Block::ZERO; buckets(KEYS)];
            let mut index = Index::new(&mut memory);
            let mut rng = Rng::new(seed);
            let hashes: std::vec::Vec<u64> = (0..KEYS).map(|_| rng.next()).collect();
            let name = |i: usize| Name::new(i as u32, Direction::Original);
            for (i, &hash) in hashes.iter().enumerate() {
                assert!(index.insert(hash, name(i)), "seed {seed}, at the {i}th");
            }
            for (i, &hash) in hashes.iter().enumerate() {
                assert!(index.find(hash, |found| found == name(i)).is_some());
            }
        }
    }

    #[test]
    fn at_its_rated_load_every_key_finds_a_way_and_is_found_again() {
        for keys in [2usize, 16, 1000, 100_000] {
            let mut memory = vec![Block::ZERO; buckets(keys)];
            let mut index = Index::new(&mut memory);
            let mut rng = Rng::new(keys as u64);
            let hashes: std::vec::Vec<u64> = (0..keys).map(|_| rng.next()).collect();
            let name = |i: usize| Name::new(i as u32, Direction::Original);
            for (i, &hash) in hashes.iter().enumerate() {
                assert!(index.insert(hash, name(i)), "{keys} keys, at the {i}th");
            }
            for (i, &hash) in hashes.iter().enumerate() {
                assert!(index.find(hash, |found| found == name(i)).is_some());
                index.remove(hash, name(i));
                assert!(index.find(hash, |found| found == name(i)).is_none());
            }
            assert!(index.buckets.iter().all(|bucket| bucket.tags == [0; WAYS]));
        }
    }
}
