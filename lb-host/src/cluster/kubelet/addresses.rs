//! The addresses that a node gives to its Pods.

use std::collections::VecDeque;

use lb_core::{Address, Family, Prefix};

/// Which free address a new Pod gets. Reuse is what stale flows and stale rules are found out by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// The one that was free the longest: never used ones first, as CNI's host-local plugin goes round.
    #[default]
    Oldest,
    /// The lowest.
    Lowest,
    /// The one that was freed last.
    Latest,
}

/// One block's addresses.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// The next that was never given out, and the last that may be.
    next: u128,
    last: u128,
    /// Those that came back, the longest ago first.
    freed: VecDeque<u128>,
    block: Prefix,
}

impl Pool {
    /// A node's block without its first address, which is the network's, its second, which is the node's own
    /// side of the Pods' links, and in IPv4 its last, which is the broadcast address.
    pub(super) fn new(block: Prefix) -> Self {
        let bits = if block.address().is_v4() { 32 } else { 128 } - u32::from(block.length());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let first = block.address().bits();
        let last = first.saturating_add(size - 1).saturating_sub(u128::from(block.address().is_v4()));
        Self { next: first.saturating_add(2), last, freed: VecDeque::new(), block }
    }

    pub(super) fn take(&mut self, reuse: Reuse) -> Option<Address> {
        let fresh = self.next <= self.last;
        let freed = match reuse {
            Reuse::Oldest if fresh => None,
            Reuse::Oldest => self.freed.pop_front(),
            Reuse::Latest => self.freed.pop_back(),
            Reuse::Lowest => {
                let lowest = self.freed.iter().enumerate().min_by_key(|(_, address)| **address).map(|(index, _)| index);
                lowest.and_then(|index| self.freed.remove(index))
            }
        };
        let bits = freed.or_else(|| {
            let bits = self.next;
            self.next += u128::from(fresh);
            fresh.then_some(bits)
        });
        bits.map(Address::from_bits)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.freed.is_empty() && self.next > self.last
    }

    pub(super) fn family(&self) -> Family {
        self.block.address().family()
    }

    pub(super) fn holds(&self, address: Address) -> bool {
        self.block.contains(address)
    }

    pub(super) fn give_back(&mut self, address: Address) {
        self.freed.push_back(address.bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_asked() {
        // 10.244.1.0/29 has .2 to .6 for Pods. Four are taken, the first, third and second given back.
        for (reuse, expected) in [
            (Reuse::Oldest, [Some(6), Some(2), Some(4), Some(3), None]),
            (Reuse::Lowest, [Some(2), Some(3), Some(4), Some(6), None]),
            (Reuse::Latest, [Some(3), Some(4), Some(2), Some(6), None]),
        ] {
            let mut pool = Pool::new(Prefix::new(Address::v4([10, 244, 1, 0]), 29));
            let taken: Vec<_> = (0..4).filter_map(|_| pool.take(reuse)).collect();
            assert_eq!(taken.iter().map(|ip| ip.v4_bits() & 0xff).collect::<Vec<_>>(), [2, 3, 4, 5]);
            [0, 2, 1].into_iter().for_each(|index| pool.give_back(taken[index]));
            let got = [(); 5].map(|()| pool.take(reuse).map(|ip| ip.v4_bits() & 0xff));
            assert_eq!(got, expected, "{reuse:?}");
        }
    }
}
