//! How many live flows each backend has, for the schedulers that ask (SEMANTICS §14.3: lc, sed, nq).

use bytemuck::{Pod, Zeroable};

use super::entry::NONE;
use crate::memory::Block;

/// One backend of one service port, by a keyed hash of the two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Cell {
    key: u64,
    /// 0 where the cell is free.
    flows: u32,
    reserved: u32,
}

/// Blocks for this many backends: two cells each, so that one is practically always found.
pub(crate) const fn blocks(backends: u32) -> usize {
    (backends as usize).div_ceil(2)
}

pub(super) struct Loads<'m> {
    cells: &'m mut [Cell],
}

/// Cells that a look-up reads at most.
const WINDOW: usize = 16;

impl<'m> Loads<'m> {
    pub(super) fn new(memory: &'m mut [Block]) -> Self {
        memory.fill(Block::ZERO);
        Self { cells: bytemuck::must_cast_slice_mut(memory) }
    }

    fn window(&self, key: u64) -> impl Iterator<Item = usize> + use<> {
        let n = self.cells.len();
        let start = ((u128::from(key) * n as u128) >> 64) as usize;
        (0..WINDOW.min(n)).map(move |i| if start + i < n { start + i } else { start + i - n })
    }

    /// The flows that this backend has.
    pub(super) fn of(&self, key: u64) -> u32 {
        let mut cells = self.window(key).filter_map(|at| self.cells.get(at));
        cells.find(|cell| cell.flows > 0 && cell.key == key).map_or(0, |cell| cell.flows)
    }

    /// Counts one more, and says in which cell; [`NONE`] if there was no room to.
    pub(super) fn count(&mut self, key: u64) -> u32 {
        let is = |at: &usize, want: fn(&Cell, u64) -> bool| self.cells.get(*at).is_some_and(|cell| want(cell, key));
        let own = self.window(key).find(|at| is(at, |cell, key| cell.flows > 0 && cell.key == key));
        let Some(at) = own.or_else(|| self.window(key).find(|at| is(at, |cell, _| cell.flows == 0))) else {
            return NONE;
        };
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = Cell { key, flows: cell.flows.saturating_add(1), reserved: 0 };
        }
        at as u32
    }

    /// Counts one less.
    pub(super) fn give_back(&mut self, cell: u32) {
        if let Some(cell) = self.cells.get_mut(cell as usize) {
            cell.flows = cell.flows.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    #[test]
    fn counts_go_up_and_down_and_cells_are_used_again() {
        let mut memory = vec![Block::ZERO; blocks(4)];
        let mut loads = Loads::new(&mut memory);
        let cells: vec::Vec<u32> = [1, 1, 2, 1].map(|key| loads.count(key)).into();
        assert_eq!([1, 2, 3].map(|key| loads.of(key)), [3, 1, 0]);
        cells.iter().for_each(|cell| loads.give_back(*cell));
        assert_eq!([1, 2].map(|key| loads.of(key)), [0, 0]);
        assert!((10..18).all(|key| loads.count(key) != NONE));
        assert_eq!(loads.count(18), NONE, "eight cells for four backends");
        loads.give_back(NONE);
        assert_eq!(Loads::new(&mut []).count(1), NONE);
    }
}
