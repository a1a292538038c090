//! The keyed hashes for everything that an outsider could aim at.

use core::hash::Hasher;
use siphasher::sip::SipHasher13;

use crate::tuple::packed::Packed;
use crate::tuple::{Address, Family, Tuple};

/// SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012; the 1-3 variant of
/// the same authors' advice for hash tables) under the caller's 128-bit key.
///
/// Threat model: senders choose addresses and ports freely and watch timing, but do not know the key.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    keyed: SipHasher13,
}

impl Key {
    /// A hasher under this key.
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self { keyed: SipHasher13::new_with_key(key) }
    }

    /// Hashes a tuple, for choices on which every node agrees.
    pub(crate) fn tuple(&self, tuple: &Tuple) -> u64 {
        let mut hasher = self.keyed;
        let ports = u32::from(tuple.source_port) << 16 | u32::from(tuple.destination_port);
        let rest = u32::from(tuple.protocol.0) << 16 | u32::from(tuple.zone);
        if tuple.source.is_v4() {
            word(&mut hasher, u64::from(tuple.source.v4_bits()) << 32 | u64::from(tuple.destination.v4_bits()));
        } else {
            hasher.write(&tuple.source.octets());
            hasher.write(&tuple.destination.octets());
        }
        word(&mut hasher, u64::from(ports) << 32 | u64::from(rest));
        hasher.finish()
    }

    /// Hashes the name of a fragmented datagram: its tuple without ports, and its identification.
    pub(crate) fn datagram(&self, tuple: &Tuple, identification: u32) -> u64 {
        let mut hasher = self.keyed;
        word(&mut hasher, u64::from(identification));
        hasher.write(&tuple.source.octets());
        hasher.write(&tuple.destination.octets());
        word(&mut hasher, u64::from(tuple.protocol.0) << 16 | u64::from(tuple.zone));
        hasher.finish()
    }

    /// Hashes an address and a number.
    pub(crate) fn address(&self, address: Address, number: u64) -> u64 {
        let mut hasher = self.keyed;
        hasher.write(&address.octets());
        word(&mut hasher, number);
        hasher.finish()
    }

    /// Hashes bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.keyed;
        hasher.write(bytes);
        hasher.finish()
    }
}

/// Feeds a number's bytes, the lowest first on every machine: `Hasher::write_u64` feeds them as they lie in memory.
fn word(hasher: &mut SipHasher13, number: u64) {
    hasher.write_u64(number.to_le());
}

/// Every packet's hash: pair-multiply-shift (Thorup: "High Speed Hashing for Integers and Strings", 2015,
/// §3.3) of 32-bit words, two at a time, under 64-bit keys that SipHash makes of the caller's.
///
/// Its upper 33 bits are strongly universal: to whoever does not know the key, any two tuples fall on any two values with the
/// probability of chance, 2^-66, whatever the tuples are. So addresses and ports chosen beforehand gain a
/// sender nothing. Bits below tell apart what chance brought together.
///
/// Threat model, where it is weaker than [`Key`]: it is linear. A sender who, by timing alone, learns of
/// collisions may in the end solve for the key. What that buys is bounded by the table and not by the hash: a
/// look-up reads two buckets whoever fills them, and a new flow that finds both full is dropped and
/// counted. Filling a pair of buckets takes live flows, which have their own limits.
#[derive(Clone)]
pub(crate) struct TupleHash {
    keys: [[u64; 2]; 5],
    last: u64,
}

impl TupleHash {
    /// The hasher whose keys are made of this one.
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let [k0, k1, k2, k3, k4, [last, _]] = expand(key, b't').map(|key| [key as u64, (key >> 64) as u64]);
        Self { keys: [k0, k1, k2, k3, k4], last }
    }

    // Where words are short, products of 64 bits are a page of code: one copy of it.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(crate) fn of(&self, tuple: &Packed) -> u64 {
        let [k0, k1, k2, k3, k4] = self.keys;
        let [a, b, c, d] = tuple.addresses;
        let rest = halves(k0, a).wrapping_add(pair(k1, tuple.label(), tuple.ports())).wrapping_add(self.last);
        match tuple.family {
            Family::V4 => rest,
            Family::V6 => rest.wrapping_add(halves(k2, b)).wrapping_add(halves(k3, c)).wrapping_add(halves(k4, d)),
        }
    }
}

/// What the halves of a word add to the sum.
#[inline(always)]
fn halves(keys: [u64; 2], word: u64) -> u64 {
    pair(keys, (word >> 32) as u32, word as u32)
}

/// What two words add to the sum.
#[inline(always)]
fn pair([k0, k1]: [u64; 2], one: u32, other: u32) -> u64 {
    k0.wrapping_add(one.into()).wrapping_mul(k1.wrapping_add(other.into()))
}

/// The hash of what a rule table's directory is asked: an address or an id, and a number. Made as [`TupleHash`] is, of 64-bit
/// words under 128-bit keys, the rules' own, with the same guarantee for what packets dial; what is in the directory its owner chose.
#[derive(Clone, Copy)]
pub(crate) struct AddressHash {
    keys: [u128; 5],
}

impl AddressHash {
    /// The hasher whose keys are made of this one.
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self { keys: expand(key, b'a') }
    }

    // Where words are short, products of 128 bits are a page of code: one copy of it.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    pub(crate) fn of(&self, bits: u128, number: u64) -> u32 {
        let [k0, k1, k2, k3, last] = self.keys;
        let address = wide_pair([k0, k1], [bits as u64, (bits >> 64) as u64]);
        (address.wrapping_add(wide_pair([k2, k3], [number, 0])).wrapping_add(last) >> 96) as u32
    }
}

/// Keys for one use, made of a caller's key by SipHash.
fn expand<const N: usize>(key: &[u8; 16], purpose: u8) -> [u128; N] {
    let key = Key::new(key);
    let word = |i: usize| u128::from(key.bytes(&[purpose, i as u8]));
    core::array::from_fn(|i| word(2 * i) << 64 | word(2 * i + 1))
}

/// What two words add to a sum whose upper part is the hash: (k₀ + w₁)(k₁ + w₀).
#[inline(always)]
fn wide_pair([k0, k1]: [u128; 2], [w0, w1]: [u64; 2]) -> u128 {
    k0.wrapping_add(w1.into()).wrapping_mul(k1.wrapping_add(w0.into()))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;
    use std::vec;

    /// Tuples as a scan would choose them: all alike but for one field, which counts up.
    #[test]
    fn tuples_that_differ_in_one_field_spread_as_chance_would() {
        // Under Miri fewer, which do the same.
        const BITS: u32 = if cfg!(miri) { 9 } else { 16 };
        const N: u32 = 1 << BITS;
        let hash = TupleHash::new(&[7; 16]);
        let addresses = [0x0100_000a_0200_000a, 0, 0, 0];
        let v4 = |addresses, ports, label| Packed::new(Family::V4, addresses, ports, label);
        let v6 = |addresses| Packed::new(Family::V6, addresses, 0x5000_1234, 6);
        let vary = |i: u32| {
            let shifted = |n: u32| u64::from(i) << n;
            [
                v4(addresses, i, 6),
                v4(addresses, i << 16, 6),
                v4(addresses, 0x5000_1234, 6 | i << 8),
                v4([shifted(16), 0, 0, 0], 0x5000_1234, 6),
                v4([shifted(48), 0, 0, 0], 0x5000_1234, 6),
                v6([shifted(48), 2, 3, 4]),
                v6([1, 2, 3, shifted(48)]),
                v6([1, shifted(20), 3, shifted(20)]),
            ]
        };
        for field in 0..vary(0).len() {
            let mut seen = BTreeSet::new();
            let mut buckets = vec![0u32; N as usize / 16];
            let mut tags = vec![0u32; N as usize / 16];
            for i in 0..N {
                let hash = hash.of(&vary(i)[field]);
                seen.insert(hash);
                buckets[(hash >> (68 - BITS)) as usize] += 1;
                tags[((hash >> 24) as u16 >> (20 - BITS)) as usize] += 1;
            }
            assert!(seen.len() as u32 >= N - 2, "field {field}: {} of {N} hashes", seen.len());
            // 16 in each by chance; a line of numbers is spread more evenly than chance, never less than so.
            for counts in [&buckets, &tags] {
                assert!(counts.iter().all(|count| *count < 64), "field {field}: {:?}", counts.iter().max());
            }
        }
    }
}
