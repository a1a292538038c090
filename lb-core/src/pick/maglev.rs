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

/// A slot that nobody has taken.
const FREE: u16 = u16::MAX;

/// Fills a table, whose size must be the prime that the permutations were made for, with backend
/// numbers. Nothing is written if there are no backends.
///
/// Walking a permutation to its next free slot takes as many steps as there are slots for each free one: half of
/// all steps would go into the last 128 slots. Those are found the other way round, by asking of each which step
/// of the permutation it is.
pub fn populate(backends: &mut [Turns], table: &mut [u16]) {
    const LAST: usize = 128;
    let size = table.len() as u32;
    if backends.is_empty() {
        return;
    }
    table.fill(FREE);
    let walked = table.len().saturating_sub(LAST);
    let mut order = (0..backends.len()).cycle();
    for number in order.by_ref().take(walked) {
        let Some(turns) = backends.get_mut(number) else { return };
        // At most `size` steps, as the permutation visits every slot and one is free.
        for _ in 0..size {
            let slot = turns.step(size);
            if let Some(slot) = table.get_mut(slot as usize).filter(|slot| **slot == FREE) {
                *slot = number as u16;
                break;
            }
        }
    }
    let mut last = [0u32; LAST];
    let free = table.iter().zip(0u32..).filter(|(backend, _)| **backend == FREE).map(|(_, slot)| slot);
    let mut left = last.iter_mut().zip(free).map(|(place, slot)| *place = slot).count();
    for number in order {
        let (Some(turns), Some(free)) = (backends.get_mut(number), last.get_mut(..left)) else { return };
        let inverse = inverse(turns.skip, size);
        let Some((nearest, slot)) =
            free.iter().copied().enumerate().min_by_key(|(_, slot)| turns.steps_to(*slot, inverse, size))
        else {
            return;
        };
        turns.next = slot;
        turns.step(size);
        if let Some(backend) = table.get_mut(slot as usize) {
            *backend = number as u16;
        }
        left -= 1;
        free.swap(nearest, left);
    }
}

impl Turns {
    /// The slot whose turn it is, and on to the next.
    fn step(&mut self, size: u32) -> u32 {
        let (slot, back) = (self.next, size - self.skip.min(size));
        self.next = if slot >= back { slot - back } else { slot + self.skip };
        slot
    }

    /// How many steps away a slot's turn is: (slot - next) / skip, modulo the size.
    fn steps_to(&self, slot: u32, inverse: u32, size: u32) -> u32 {
        let distance = if slot >= self.next { slot - self.next } else { slot + (size - self.next.min(size)) };
        (u64::from(distance) * u64::from(inverse)).checked_rem(size.into()).unwrap_or(0) as u32
    }
}

/// The number whose product with `n` is 1 modulo a prime (Euclid's algorithm, extended: Knuth, TAOCP vol. 2, §4.5.2);
/// 0 has none.
fn inverse(n: u32, prime: u32) -> u32 {
    let (mut old, mut new) = ((i64::from(prime), 0), (i64::from(n), 1));
    while let Some(quotient) = old.0.checked_div(new.0) {
        (old, new) = (new, (old.0 - quotient * new.0, old.1 - quotient * new.1));
    }
    old.1.rem_euclid(i64::from(prime).max(1)) as u32
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

    /// The paper's own loop, step by step, for many sizes around the number that is found the other way.
    #[test]
    fn the_last_slots_are_those_that_walking_finds() {
        let sizes = [(1, 251), (3, 127), (3, 131), (7, 257), (100, 10_007), (600, 65_537)];
        for (backends, size) in sizes.into_iter().take(if cfg!(miri) { 4 } else { 6 }) {
            let names = (0..backends).map(|n| Turns::new(&[5; 16], Address::from_v4_bits(n), 80, size));
            let (mut walked, mut found) = (vec![FREE; size as usize], vec![0; size as usize]);
            let mut turns: Vec<Turns> = names.clone().collect();
            for number in (0..backends as usize).cycle().take(size as usize) {
                while walked[turns[number].next as usize] != FREE {
                    turns[number].step(size);
                }
                walked[turns[number].step(size) as usize] = number as u16;
            }
            populate(&mut names.collect::<Vec<_>>(), &mut found);
            assert!(walked == found, "{backends} backends, {size} slots");
        }
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
