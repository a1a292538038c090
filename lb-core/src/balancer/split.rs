//! How the caller's memory is shared out among a balancer's tables.

use crate::config::Sizes;
use crate::flow::{affinity, fragments, loads, table};
use crate::memory::Block;

/// How many [`Block`](crate::Block)s a balancer of these sizes needs.
///
/// An IPv4 flow comes to 91 bytes and an IPv6 flow to 155, both directions and the index included. More than any memory has, and
/// not a number wrapped around, for sizes that nobody can mean.
pub const fn blocks(sizes: Sizes) -> usize {
    table::blocks(sizes.v4_flows, sizes.v6_flows)
        .saturating_add(fragments::blocks(sizes.fragments))
        .saturating_add(affinity::blocks(sizes.affinity))
        .saturating_add(loads::blocks(sizes.backends))
        .saturating_add(cursor_blocks(sizes.services))
}

/// Round-robin cursors: two a service port, 16 to a block. Slot 0 is the node's.
const fn cursor_blocks(services: u32) -> usize {
    services as usize / 8 + 1
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Where words have 32 bits, too.
    #[test]
    fn no_size_is_so_large_that_little_memory_does() {
        const MOST: u32 = u32::MAX;
        let none = Sizes { v4_flows: 0, v6_flows: 0, services: 0, affinity: 0, backends: 0, fragments: 0 };
        // A block for each flow, client and datagram, for two backends, and for eight services.
        for (sizes, least) in [
            (Sizes { v4_flows: MOST, ..none }, u64::from(MOST)),
            (Sizes { v6_flows: MOST, ..none }, u64::from(MOST) * 2),
            (Sizes { v4_flows: 1 << 28, v6_flows: 1 << 28, ..none }, (1 << 30) * 10 / 48 + (3 << 28)),
            (Sizes { services: MOST, ..none }, 1 << 29),
            (Sizes { affinity: MOST, fragments: 1, ..none }, u64::from(MOST) + 1),
            (Sizes { backends: MOST, ..none }, 1 << 31),
        ] {
            let least = usize::try_from(least).unwrap_or(usize::MAX);
            assert!(blocks(sizes) >= least, "{sizes:?}: {}", blocks(sizes));
        }
    }
}
