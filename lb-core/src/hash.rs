//! The keyed hash for everything that an outsider could aim at.

use core::hash::Hasher;
use siphasher::sip::SipHasher13;

use crate::tuple::{Address, Tuple};

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

    /// Hashes a flow key. Both families feed the same bytes for the same address.
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
        // Longer than any flow key, so that the two never feed the same bytes.
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
