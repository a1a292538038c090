//! Room for segments in a table that is updated: a buddy allocator (Knuth, TAOCP vol. 1, §2.5).
//!
//! Sizes are powers of two; every operation costs at most one step a size. Its book-keeping is one byte
//! a unit in front of the units, and the links of free runs inside those runs.

use super::bytes::{put_u32, u32_at};

/// The smallest run, in bytes.
pub(crate) const UNIT: usize = 64;
const ORDERS: usize = 27;
const NONE: u32 = u32::MAX;

/// The byte of a unit: the order of the run that begins there, and whether it is free.
const FREE: u8 = 0x80;
const INSIDE: u8 = 0x7f;

/// The state of an arena beside its memory.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    units: u32,
    /// The first free run of each order.
    heads: [u32; ORDERS],
}

/// Bytes of memory for an arena of this many units.
pub(crate) const fn bytes(units: u32) -> usize {
    tags(units) + units as usize * UNIT
}

/// Bytes in front of the units, so many that these begin at whole ones.
const fn tags(units: u32) -> usize {
    (units as usize).next_multiple_of(UNIT)
}

/// The order whose runs hold this many bytes.
fn order(length: usize) -> usize {
    length.div_ceil(UNIT).next_power_of_two().trailing_zeros() as usize
}

/// How many bytes a run for this many bytes takes up.
pub(crate) fn rounded(length: usize) -> usize {
    UNIT << order(length)
}

impl Arena {
    /// All of `memory` free.
    pub(crate) fn new(memory: &mut [u8], units: u32) -> Self {
        let mut arena = Self { units, heads: [NONE; ORDERS] };
        memory.iter_mut().take(units as usize).for_each(|tag| *tag = INSIDE);
        // Cut into the largest aligned runs.
        let mut at = 0;
        while at < units {
            let fits = (units - at).ilog2();
            let order = at.trailing_zeros().min(fits).min(ORDERS as u32 - 1);
            arena.push(memory, at, order as usize);
            at += 1 << order;
        }
        arena
    }

    /// Where in `memory` a run begins.
    fn start(&self, unit: u32) -> usize {
        tags(self.units) + unit as usize * UNIT
    }

    /// Takes a run for `length` bytes: where in `memory` it begins.
    pub(crate) fn take(&mut self, memory: &mut [u8], length: usize) -> Option<u32> {
        let wanted = order(length);
        let found = (wanted..ORDERS).find(|order| self.heads.get(*order).is_some_and(|head| *head != NONE))?;
        let unit = *self.heads.get(found)?;
        self.unlink(memory, unit, found);
        for order in (wanted..found).rev() {
            self.push(memory, unit + (1 << order), order);
        }
        *memory.get_mut(unit as usize)? = wanted as u8;
        Some(self.start(unit) as u32)
    }

    /// Gives back the run that begins at `start`.
    pub(crate) fn give_back(&mut self, memory: &mut [u8], start: u32) {
        let Some(offset) = (start as usize).checked_sub(tags(self.units)) else { return };
        let mut unit = (offset / UNIT) as u32;
        let Some(&tag) = memory.get(unit as usize) else { return };
        let mut order = usize::from(tag);
        if order >= ORDERS {
            return;
        }
        while order + 1 < ORDERS {
            let buddy = unit ^ (1 << order);
            let whole = buddy.checked_add(1 << order).is_some_and(|end| end <= self.units);
            if !whole || memory.get(buddy as usize) != Some(&(FREE | order as u8)) {
                break;
            }
            self.unlink(memory, buddy, order);
            if let Some(tag) = memory.get_mut(unit.max(buddy) as usize) {
                *tag = INSIDE;
            }
            unit = unit.min(buddy);
            order += 1;
        }
        self.push(memory, unit, order);
    }

    /// Hangs a free run at the head of its order's list.
    fn push(&mut self, memory: &mut [u8], unit: u32, order: usize) {
        if let Some(tag) = memory.get_mut(unit as usize) {
            *tag = FREE | order as u8;
        }
        let Some(head) = self.heads.get_mut(order) else { return };
        let next = core::mem::replace(head, unit);
        let at = self.start(unit);
        put_u32(memory, at, next);
        put_u32(memory, at + 4, NONE);
        if next != NONE {
            let at = self.start(next);
            put_u32(memory, at + 4, unit);
        }
    }

    fn unlink(&mut self, memory: &mut [u8], unit: u32, order: usize) {
        let at = self.start(unit);
        let (Some(next), Some(previous)) = (u32_at(memory, at), u32_at(memory, at + 4)) else { return };
        if previous == NONE {
            if let Some(head) = self.heads.get_mut(order) {
                *head = next;
            }
        } else {
            let at = self.start(previous);
            put_u32(memory, at, next);
        }
        if next != NONE {
            let at = self.start(next);
            put_u32(memory, at + 4, previous);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::rng::Rng;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn runs_never_overlap_and_all_of_it_comes_back() {
        for units in [1, 5, 64, 1000] {
            let mut memory = vec![0; bytes(units)];
            let mut arena = Arena::new(&mut memory, units);
            let whole = arena.heads;
            let mut rng = Rng::new(u64::from(units));
            let mut taken: Vec<(u32, usize)> = Vec::new();
            for _ in 0..if cfg!(miri) { 150 } else { 5000 } {
                if rng.below(5) < 3 {
                    let length = rng.below(700) as usize + 1;
                    if let Some(start) = arena.take(&mut memory, length) {
                        let run = (start, rounded(length));
                        assert!(start as usize + run.1 <= memory.len());
                        for (other, size) in &taken {
                            assert!(
                                start as usize >= *other as usize + size || start as usize + run.1 <= *other as usize
                            );
                        }
                        memory[start as usize..start as usize + length].fill(0xee);
                        taken.push(run);
                    }
                } else if !taken.is_empty() {
                    let (start, _) = taken.swap_remove(rng.below(taken.len() as u32) as usize);
                    arena.give_back(&mut memory, start);
                }
            }
            taken.iter().for_each(|(start, _)| arena.give_back(&mut memory, *start));
            let free = |heads: [u32; ORDERS]| heads.iter().map(|head| *head != NONE).collect::<Vec<_>>();
            assert_eq!(free(arena.heads), free(whole), "{units} units");
        }
    }
}
