//! Sieves for addresses: those that neither a node's lists nor the directory can be about are told without reading either.

use super::NodeRules;
use super::node::flag;
use crate::tuple::{Address, Prefix};

/// What lies where in address space, as packets ask for it.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    /// The node's addresses.
    node: Sieve,
    /// Whatever else its section has rules for.
    ruled: Sieve,
    /// Services' addresses. They are added one by one, and never taken out but with all others.
    claimed: Sieve,
}

impl Screen {
    /// Of no rules: lets nothing through but loopback.
    pub(super) const EMPTY: Self = Self { node: Sieve::EMPTY, ruled: Sieve::EMPTY, claimed: Sieve::EMPTY };

    /// Notes another section of the node. Its lists change with it alone.
    pub(super) fn set_node(&mut self, node: &NodeRules<'_>) {
        (self.node, self.ruled) = (Sieve::EMPTY, Sieve::EMPTY);
        node.blocks().for_each(|block| self.node.add(block));
        node.masquerade_addresses().for_each(|(_, address)| self.ruled.add(Prefix::host(address)));
        if node.has(flag::DROP_UNALLOCATED) {
            node.service_cidrs().for_each(|block| self.ruled.add(block));
        }
    }

    /// Notes a service's address.
    pub(super) fn claim(&mut self, address: Address) {
        self.claimed.add(Prefix::host(address));
    }

    /// Whether this may be an address of the node's.
    #[inline(always)]
    pub(super) fn may_be_nodes(&self, address: Address) -> bool {
        self.node.may_hold(bit_of(stretch(address).0)) || address.is_loopback()
    }

    /// Whether the node's section may have rules for this address.
    #[inline(always)]
    pub(super) fn may_be_ruled(&self, address: Address) -> bool {
        self.ruled.may_hold(bit_of(stretch(address).0)) || self.may_be_nodes(address)
    }

    /// Whether this may be a service's address.
    #[inline(always)]
    pub(super) fn may_be_claimed(&self, address: Address) -> bool {
        self.claimed.may_hold(bit_of(stretch(address).0))
    }
}

/// Words of a sieve: less where stack is dear and services are few.
const WORDS: usize = if usize::BITS >= 64 { 8 } else { 1 };
/// How many bits these are, as a power of two.
const BITS: u32 = (WORDS as u32 * 64).ilog2();

/// Which stretches of address space hold something. An address by chance in such a stretch costs time, no more.
#[derive(Clone, Debug)]
struct Sieve {
    /// By a hash of an address's leading bits.
    stretches: [u64; WORDS],
}

impl Sieve {
    const EMPTY: Self = Self { stretches: [0; WORDS] };

    fn add(&mut self, block: Prefix) {
        let first = block.address();
        // Loopback is told by itself, and would fill half of it.
        if first.is_loopback() {
            return;
        }
        let (bits, whole) = stretch(first);
        let count = 1usize << u32::from(whole.saturating_sub(block.length())).min(BITS);
        if count > WORDS * 32 {
            self.stretches = [u64::MAX; WORDS];
            return;
        }
        for bits in (bits..).take(count) {
            let (word, bit) = bit_of(bits);
            if let Some(word) = self.stretches.get_mut(word) {
                *word |= bit;
            }
        }
    }

    #[inline(always)]
    fn may_hold(&self, (word, bit): (usize, u64)) -> bool {
        self.stretches.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// The leading bits by which addresses are told apart, and how many these are: enough to part a node from its pods.
#[inline(always)]
const fn stretch(address: Address) -> (u64, u8) {
    if address.is_v4() { ((address.v4_bits() >> 16) as u64, 16) } else { ((address.bits() >> 80) as u64 | 1 << 63, 48) }
}

#[inline(always)]
const fn bit_of(stretch: u64) -> (usize, u64) {
    // Fibonacci hashing (Knuth, TAOCP vol. 3, §6.4).
    let hash = stretch.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS);
    ((hash >> 6) as usize, 1 << (hash & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_block_is_let_through_and_most_else_is_not() {
        let v6 = |high: u128, low: u128| Address::from_bits(high << 96 | low);
        let mut sieve = Sieve::EMPTY;
        let holds = |sieve: &Sieve, address| sieve.may_hold(bit_of(stretch(address).0));
        assert!(!holds(&sieve, Address::v4([10, 0, 0, 1])));
        for block in [
            Prefix::host(Address::v4([192, 0, 2, 1])),
            Prefix::new(Address::v4([10, 96, 0, 0]), 12),
            Prefix::new(Address::v4([127, 0, 0, 0]), 8),
            Prefix::new(v6(0x2001_0db8, 0), 48),
        ] {
            sieve.add(block);
        }
        for address in [
            Address::v4([192, 0, 2, 1]),
            Address::v4([10, 96, 0, 1]),
            Address::v4([10, 111, 255, 255]),
            v6(0x2001_0db8, 7),
        ] {
            assert!(holds(&sieve, address), "{address}");
        }
        let through = (0..=255).filter(|n| holds(&sieve, Address::v4([172, *n, 0, 1]))).count();
        assert!(through < 32, "{through} of 256 blocks that it knows nothing of");
        sieve.add(Prefix::new(Address::v4([0, 0, 0, 0]), 0));
        assert!(holds(&sieve, Address::v4([1, 2, 3, 4])) && holds(&sieve, v6(0xfd00_0000, 1)));
    }

    #[test]
    fn loopback_is_always_let_through_as_the_nodes() {
        let v6 = Address::from_bits(1);
        assert!(Screen::EMPTY.may_be_nodes(Address::v4([127, 1, 2, 3])) && Screen::EMPTY.may_be_ruled(v6));
    }
}
