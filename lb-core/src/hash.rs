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
            hasher.write_u64(u64::from(tuple.source.v4_bits()) << 32 | u64::from(tuple.destination.v4_bits()));
        } else {
            hasher.write(&tuple.source.octets());
            hasher.write(&tuple.destination.octets());
        }
        hasher.write_u64(u64::from(ports) << 32 | u64::from(rest));
        hasher.finish()
    }

    /// Hashes the name of a fragmented datagram: its tuple without ports, and its identification.
    pub(crate) fn datagram(&self, tuple: &Tuple, identification: u32) -> u64 {
        let mut hasher = self.keyed;
        hasher.write_u64(u64::from(identification));
        hasher.write(&tuple.source.octets());
        hasher.write(&tuple.destination.octets());
        hasher.write_u64(u64::from(tuple.protocol.0) << 16 | u64::from(tuple.zone));
        hasher.finish()
    }

    /// Hashes an address and a number.
    pub(crate) fn address(&self, address: Address, number: u64) -> u64 {
        let mut hasher = self.keyed;
        hasher.write(&address.octets());
        hasher.write_u64(number);
        hasher.finish()
    }

    /// Hashes bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.keyed;
        hasher.write(bytes);
        hasher.finish()
    }
}

/// Every packet's hash: pair-multiply-shift (Thorup: "High Speed Hashing for Integers and Strings", 2015,
/// §3.3) twice, under keys that SipHash makes of the caller's.
///
/// Each half is strongly universal: to whoever does not know the key, any two tuples fall on any two values
/// with the probability of chance, 2^-64, whatever the tuples are. So addresses and ports chosen beforehand
/// gain a sender nothing.
///
/// Threat model, where it is weaker than [`Key`]: it is linear. A sender who, by timing alone, learns of
/// collisions may in the end solve for the key. What that buys is bounded by the table and not by the hash: a
/// look-up reads two buckets whoever fills them, and a new flow that finds both full is dropped and
/// counted. Filling a pair of buckets takes live flows, which have their own limits.
#[derive(Clone)]
pub(crate) struct TupleHash {
    keys: [[u64; 11]; 2],
}

impl TupleHash {
    /// The hasher whose keys are made of this one.
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let key = Key::new(key);
        let row = |row: u8| core::array::from_fn(|i| key.bytes(&[b't', row, i as u8]));
        Self { keys: [row(0), row(1)] }
    }

    #[inline(always)]
    pub(crate) fn of(&self, tuple: &Packed) -> u64 {
        let [one, other] = &self.keys;
        u64::from(half(one, tuple)) << 32 | u64::from(half(other, tuple))
    }
}

/// The words of a tuple, two by two: (k₀ + w₁)(k₁ + w₀) + (k₂ + w₃)(k₃ + w₂) + ... + k₁₀, upper half.
#[inline(always)]
fn half(keys: &[u64; 11], tuple: &Packed) -> u32 {
    let pair = |k0: u64, k1: u64, w0: u64, w1: u64| k0.wrapping_add(w1).wrapping_mul(k1.wrapping_add(w0));
    let word = |k0: u64, k1: u64, w: u64| pair(k0, k1, w & 0xffff_ffff, w >> 32);
    let [a, b, c, d] = tuple.addresses;
    let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, last] = *keys;
    let rest = pair(k0, k1, tuple.ports.into(), tuple.label.into()).wrapping_add(word(k2, k3, a)).wrapping_add(last);
    let sum = match tuple.family {
        Family::V4 => rest,
        Family::V6 => rest.wrapping_add(word(k4, k5, b)).wrapping_add(word(k6, k7, c)).wrapping_add(word(k8, k9, d)),
    };
    (sum >> 32) as u32
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
        const N: u32 = 1 << 16;
        let hash = TupleHash::new(&[7; 16]);
        let base = Packed { addresses: [0x0100_000a_0200_000a, 0, 0, 0], ports: 0x5000_1234, label: 6, ..Packed::NONE };
        let wide = Packed { family: Family::V6, addresses: [1, 2, 3, 4], ..base };
        let vary = |i: u32| {
            let shifted = |n: u32| u64::from(i) << n;
            [
                Packed { ports: i, ..base },
                Packed { ports: i << 16, ..base },
                Packed { label: 6 | i << 8, ..base },
                Packed { addresses: [shifted(16), 0, 0, 0], ..base },
                Packed { addresses: [shifted(48), 0, 0, 0], ..base },
                Packed { addresses: [shifted(48), 2, 3, 4], ..wide },
                Packed { addresses: [1, 2, 3, shifted(48)], ..wide },
                Packed { addresses: [1, shifted(20), 3, shifted(20)], ..wide },
            ]
        };
        for field in 0..vary(0).len() {
            let mut seen = BTreeSet::new();
            let mut buckets = vec![0u32; N as usize / 16];
            let mut tags = vec![0u32; N as usize / 16];
            for i in 0..N {
                let hash = hash.of(&vary(i)[field]);
                seen.insert(hash);
                buckets[(hash >> 52) as usize] += 1;
                tags[(hash as u16 >> 4) as usize] += 1;
            }
            assert!(seen.len() as u32 >= N - 2, "field {field}: {} of {N} hashes", seen.len());
            // 16 in each by chance; a line of numbers is spread more evenly than chance, never less than so.
            for counts in [&buckets, &tags] {
                assert!(counts.iter().all(|count| *count < 64), "field {field}: {:?}", counts.iter().max());
            }
        }
    }
}
