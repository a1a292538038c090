//! A sieve for destinations: those that a node's lists can't be about are told without reading the lists.

use super::NodeRules;
use super::node::flag;
use crate::tuple::{Address, Prefix};

/// Which stretches of address space hold something that the node's section is about. An address by chance in such a
/// stretch costs time, no more.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    /// By a hash of an address's leading bits.
    stretches: [u64; 8],
}

impl Screen {
    /// Of no section: lets nothing through.
    pub(super) const EMPTY: Self = Self { stretches: [0; 8] };

    /// Of a node's section. Its lists change with it alone.
    pub(super) fn new(node: &NodeRules<'_>) -> Self {
        let mut screen = Self::EMPTY;
        node.blocks().for_each(|block| screen.add(block));
        node.masquerade_addresses().for_each(|(_, address)| screen.add(Prefix::host(address)));
        if node.has(flag::DROP_UNALLOCATED) {
            node.service_cidrs().for_each(|block| screen.add(block));
        }
        screen
    }

    fn add(&mut self, block: Prefix) {
        let first = block.address();
        // Loopback is told by itself, and would fill half of it.
        if first.is_loopback() {
            return;
        }
        let (bits, whole) = stretch(first);
        let count = 1usize << whole.saturating_sub(block.length()).min(9);
        if count > 256 {
            self.stretches = [u64::MAX; 8];
            return;
        }
        for bits in (bits..).take(count) {
            let (word, bit) = place(bits);
            if let Some(word) = self.stretches.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Whether the lists, or what holds for loopback, may be about this address.
    #[inline(always)]
    pub(super) fn may_hold(&self, address: Address) -> bool {
        let (word, bit) = place(stretch(address).0);
        self.stretches.get(word).is_some_and(|word| word & bit != 0) || address.is_loopback()
    }
}

/// The leading bits by which addresses are told apart, and how many these are: enough to part a node from its pods.
#[inline(always)]
const fn stretch(address: Address) -> (u64, u8) {
    if address.is_v4() { ((address.v4_bits() >> 16) as u64, 16) } else { ((address.bits() >> 80) as u64 | 1 << 63, 48) }
}

#[inline(always)]
const fn place(stretch: u64) -> (usize, u64) {
    // Fibonacci hashing (Knuth, TAOCP vol. 3, §6.4).
    let hash = stretch.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55;
    ((hash >> 6) as usize, 1 << (hash & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_block_is_let_through_and_most_else_is_not() {
        let v6 = |high: u128, low: u128| Address::from_bits(high << 96 | low);
        let mut screen = Screen::EMPTY;
        assert!(!screen.may_hold(Address::v4([10, 0, 0, 1])) && screen.may_hold(Address::v4([127, 0, 0, 1])));
        for block in [
            Prefix::host(Address::v4([192, 0, 2, 1])),
            Prefix::new(Address::v4([10, 96, 0, 0]), 12),
            Prefix::new(Address::v4([127, 0, 0, 0]), 8),
            Prefix::new(v6(0x2001_0db8, 0), 48),
        ] {
            screen.add(block);
        }
        for address in [
            Address::v4([192, 0, 2, 1]),
            Address::v4([10, 96, 0, 1]),
            Address::v4([10, 111, 255, 255]),
            v6(0x2001_0db8, 7),
            v6(0, 1),
        ] {
            assert!(screen.may_hold(address), "{address}");
        }
        let through = (0..=255).filter(|n| screen.may_hold(Address::v4([172, *n, 0, 1]))).count();
        assert!(through < 32, "{through} of 256 blocks that it knows nothing of");
        screen.add(Prefix::new(Address::v4([0, 0, 0, 0]), 0));
        assert!(screen.may_hold(Address::v4([1, 2, 3, 4])) && screen.may_hold(v6(0xfd00_0000, 1)));
    }
}
