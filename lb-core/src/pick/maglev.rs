//! Maglev's lookup table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, §3.4).
//!
//! Every backend has its own permutation of the table's slots; in turns, each takes the next slot of its
//! permutation that is still free, until none is.

use crate::hash::Key;
use crate::tuple::Address;

/// One backend's permutation, and how far it has come in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    next: u32,
    skip: u32,
}

impl Turns {
    /// The permutation of the backend at this address and port, for a table of `size` slots: its offset
    /// and skip are two hashes of its name (paper, §3.4).
    pub fn new(key: &[u8; 16], address: Address, port: u16, size: u32) -> Self {
        let key = Key::new(key);
        let offset = key.address(address, u64::from(port));
        let skip = key.address(address, u64::from(port) | 1 << 16);
        let size = u64::from(size.max(2));
        Self { next: (offset % size) as u32, skip: (skip % (size - 1) + 1) as u32 }
    }
}

/// The table size for this many backends: the smallest prime above 100 for each, so that shares differ by
/// about 1 % (paper, §5.3), and at least 251.
///
/// A prime, as every skip must visit every slot.
pub const fn table_size(backends: usize) -> u32 {
    let least = backends as u64 * 100 + 1;
    let mut size = if least < 251 { 251 } else { least | 1 };
    while !is_prime(size) {
        size += 2;
    }
    size as u32
}

const fn is_prime(n: u64) -> bool {
    let mut divisor = 3;
    while divisor * divisor <= n {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    n % 2 == 1
}

/// Fills a table, whose size must be the prime that the permutations were made for, with backend
/// numbers. Nothing is written if there are no backends.
pub fn populate(backends: &mut [Turns], table: &mut [u16]) {
    /// A slot that nobody has taken.
    const FREE: u16 = u16::MAX;
    let size = table.len() as u32;
    let mut left = table.len();
    if backends.is_empty() {
        return;
    }
    table.fill(FREE);
    loop {
        for (number, turns) in backends.iter_mut().enumerate() {
            // At most `size` steps, as the permutation visits every slot and one is free.
            for _ in 0..size {
                let slot = turns.next;
                turns.next = if turns.next >= size - turns.skip.min(size) {
                    turns.next - (size - turns.skip.min(size))
                } else {
                    turns.next + turns.skip
                };
                if let Some(slot) = table.get_mut(slot as usize).filter(|slot| **slot == FREE) {
                    *slot = number as u16;
                    break;
                }
            }
            left = left.saturating_sub(1);
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn sizes_are_the_smallest_primes_above_a_hundred_a_backend() {
        for (backends, size) in [(0, 251), (1, 251), (2, 251), (3, 307), (10, 1009), (100, 10_007), (655, 65_519)] {
            assert_eq!(table_size(backends), size, "{backends} backends");
        }
    }

    /// The worked example of the paper's table 1: three backends with the permutations (3,4), (0,2) and
    /// (3,1) over seven slots, before and after B1 goes.
    #[test]
    fn the_papers_example() {
        let b0 = Turns { next: 3, skip: 4 };
        let b1 = Turns { next: 0, skip: 2 };
        let b2 = Turns { next: 3, skip: 1 };
        let mut table = [0; 7];
        populate(&mut [b0, b1, b2], &mut table);
        assert_eq!(table, [1, 0, 1, 0, 2, 2, 0]);
        populate(&mut [b0, b2], &mut table);
        assert_eq!(table.map(|b| b * 2), [0, 0, 0, 0, 2, 2, 2]);
    }

    fn table(backends: impl Iterator<Item = u32>, size: u32) -> Vec<u32> {
        let names: Vec<u32> = backends.collect();
        let mut turns: Vec<_> =
            names.iter().map(|n| Turns::new(&[1; 16], Address::from_v4_bits(*n), 80, size)).collect();
        let mut table = vec![0; size as usize];
        populate(&mut turns, &mut table);
        table.iter().map(|b| names[usize::from(*b)]).collect()
    }

    /// Shares within the paper's figure 1 % (§5.3); few slots move when one of a hundred backends goes
    /// (§5.4, Figure 12: under 4 % beyond those that must, at this ratio of slots to backends).
    #[test]
    fn shares_are_even_and_few_slots_move() {
        let size = table_size(100);
        let before = table(0..100, size);
        let mut shares = [0u32; 100];
        before.iter().for_each(|n| shares[*n as usize] += 1);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "shares from {least} to {most}");
        let after = table((0..100).filter(|n| *n != 37), size);
        let collateral = before.iter().zip(&after).filter(|(a, b)| **a != 37 && a != b).count();
        assert!(collateral * 100 < size as usize * 4, "{collateral} of {size} slots moved without need");
    }
}
