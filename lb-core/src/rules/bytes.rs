//! Little-endian reads and writes that can't fail loudly: `None`, or nothing written, past the end.

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn put_bytes(bytes: &mut [u8], at: usize, values: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..values.len())) {
        // Not `copy_from_slice`, whose check of the lengths small builds keep, with its panic.
        place.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
    }
}

macro_rules! little_endian {
    ($($type:ty, $read:ident, $write:ident;)*) => {$(
        #[inline]
        pub(crate) fn $read(bytes: &[u8], at: usize) -> Option<$type> {
            Some(<$type>::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        }

        #[inline]
        pub(crate) fn $write(bytes: &mut [u8], at: usize, value: $type) {
            if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *place = value.to_le_bytes();
            }
        }
    )*};
}

little_endian! {
    u16, u16_at, put_u16;
    u32, u32_at, put_u32;
    u64, u64_at, put_u64;
    u128, u128_at, put_u128;
}
