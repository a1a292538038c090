//! How the caller's memory is shared out among a balancer's tables.

use crate::config::Sizes;
use crate::flow::{affinity, fragments, loads, table};
use crate::memory::Block;

/// How many [`Block`](crate::Block)s a balancer of these sizes needs.
///
/// An IPv4 flow comes to 91 bytes and an IPv6 flow to 155, both directions and the index included.
pub const fn blocks(sizes: Sizes) -> usize {
    table::blocks(sizes.v4_flows, sizes.v6_flows)
        + fragments::blocks(sizes.fragments)
        + affinity::blocks(sizes.affinity)
        + loads::blocks(sizes.backends)
        + cursor_blocks(sizes.services)
}

/// Round-robin cursors: two a service port, 16 to a block. Slot 0 is the node's.
const fn cursor_blocks(services: u32) -> usize {
    (services as usize + 1).div_ceil(8)
}

/// The caller's memory, split among its users. `None` if it is too small.
pub(in crate::balancer) struct Split<'m> {
    pub(in crate::balancer) flows: &'m mut [Block],
    pub(in crate::balancer) fragments: &'m mut [Block],
    pub(in crate::balancer) affinity: &'m mut [Block],
    pub(in crate::balancer) loads: &'m mut [Block],
    pub(in crate::balancer) cursors: &'m mut [u32],
}

pub(in crate::balancer) fn split(memory: &mut [Block], sizes: Sizes) -> Option<Split<'_>> {
    let (flows, rest) = memory.split_at_mut_checked(table::blocks(sizes.v4_flows, sizes.v6_flows))?;
    let (fragments, rest) = rest.split_at_mut_checked(fragments::blocks(sizes.fragments))?;
    let (affinity, rest) = rest.split_at_mut_checked(affinity::blocks(sizes.affinity))?;
    let (loads, rest) = rest.split_at_mut_checked(loads::blocks(sizes.backends))?;
    let (cursors, _) = rest.split_at_mut_checked(cursor_blocks(sizes.services))?;
    cursors.fill(Block::ZERO);
    Some(Split { flows, fragments, affinity, loads, cursors: bytemuck::must_cast_slice_mut(cursors) })
}
