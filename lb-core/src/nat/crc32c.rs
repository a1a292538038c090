//! SCTP's checksum, CRC32c (RFC 9260 Appendix A), updated by the difference.
//!
//! A CRC is linear: of two packets of one length that differ in a few bytes, the CRCs differ by the
//! remainder of that difference, times x for every bit that follows it, modulo the polynomial. The
//! start value, the final complement and the payload cancel out, so the payload is not read.

/// Castagnoli's polynomial 0x1edc6f41, lowest power first as the CRC is: bit 31 stands for x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// x^(8 * 2^i): what 2^i bytes that follow multiply by.
#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const BYTES: [u32; 16] = {
    let mut powers = [ONE >> 8; 16];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = multiply(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

/// A checksum field, updated for a packet of `length` bytes whose first four were `old` and are `new`.
/// The packet's ports are its first four bytes.
pub(super) fn update(checksum: [u8; 4], old: [u8; 4], new: [u8; 4], length: u16) -> [u8; 4] {
    let mut difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    // Reading four bytes into the register is as many bits as the register has, so their difference
    // moves up by its own four bytes and by all that follow: by `length`.
    for (i, power) in BYTES.iter().enumerate() {
        if length >> i & 1 != 0 {
            difference = multiply(difference, *power);
        }
    }
    (u32::from_le_bytes(checksum) ^ difference).to_le_bytes()
}

/// The product of two polynomials modulo Castagnoli's.
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a & ONE != 0 {
            product ^= b;
        }
        a <<= 1;
        b = if b & 1 != 0 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the CRC of one of RFC 3720 §B.4's 32-byte vectors to another's, four bytes after four.
    #[test]
    fn rfc_3720_vectors() {
        let zeros = [0; 32];
        let ones = [0xff; 32];
        let up: [u8; 32] = core::array::from_fn(|i| i as u8);
        let down: [u8; 32] = core::array::from_fn(|i| 31 - i as u8);
        let vectors = [
            (zeros, [0xaa, 0x36, 0x91, 0x8a]),
            (ones, [0x43, 0xab, 0xa8, 0x62]),
            (up, [0x4e, 0x79, 0xdd, 0x46]),
            (down, [0x5c, 0xdb, 0x3f, 0x11]),
        ];
        for (from, before) in vectors {
            for (to, after) in vectors {
                let mut checksum = before;
                let words = from.as_chunks().0.iter().zip(to.as_chunks().0);
                for (i, (old, new)) in words.enumerate() {
                    checksum = update(checksum, *old, *new, 32 - 4 * i as u16);
                }
                assert_eq!(checksum, after);
            }
        }
    }
}
