//! The memory that a caller gives a balancer: blocks of one cache line.

use bytemuck::{Pod, Zeroable};

use crate::config::Sizes;
use crate::flow::{affinity, fragments, table};

/// 64 aligned bytes: the unit of the memory that the caller gives. What they hold beforehand does not
/// matter.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Block([u64; 8]);

impl Block {
    /// A block of zeros, for a `static` array or a `Vec`.
    pub const ZERO: Self = Self([0; 8]);
}

/// How many [`Block`]s a balancer of these sizes needs.
///
/// An IPv4 flow comes to 84 bytes and an IPv6 flow to 148, both directions and the index included.
pub const fn blocks(sizes: Sizes) -> usize {
    table::blocks(sizes.v4_flows, sizes.v6_flows)
        + fragments::blocks(sizes.fragments)
        + affinity::blocks(sizes.affinity)
        + cursor_blocks(sizes.services)
}

/// Round-robin cursors: two a service port, 16 to a block. Slot 0 is the node's.
const fn cursor_blocks(services: u32) -> usize {
    (services as usize + 1).div_ceil(8)
}

/// The caller's memory, split among its users. `None` if it is too small.
pub(crate) struct Split<'m> {
    pub(crate) flows: &'m mut [Block],
    pub(crate) fragments: &'m mut [Block],
    pub(crate) affinity: &'m mut [Block],
    pub(crate) cursors: &'m mut [u32],
}

pub(crate) fn split(memory: &mut [Block], sizes: Sizes) -> Option<Split<'_>> {
    let (flows, rest) = memory.split_at_mut_checked(table::blocks(sizes.v4_flows, sizes.v6_flows))?;
    let (fragments, rest) = rest.split_at_mut_checked(fragments::blocks(sizes.fragments))?;
    let (affinity, rest) = rest.split_at_mut_checked(affinity::blocks(sizes.affinity))?;
    let (cursors, _) = rest.split_at_mut_checked(cursor_blocks(sizes.services))?;
    cursors.fill(Block::ZERO);
    Some(Split { flows, fragments, affinity, cursors: bytemuck::must_cast_slice_mut(cursors) })
}
