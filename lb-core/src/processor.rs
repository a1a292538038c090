//! What a processor can do that the language does not say: the one file with unsafe code, two instructions of x86-64, each
//! with what does the same, or nothing, elsewhere.
//!
//! Asking for a cache line ahead: plain loads, summed up so that they are not optimised away, do the same in safe code, but each
//! holds its place in the processor's queue until it is there. Among a million flows a packet then takes a third longer.
//! Comparing eight tags at once: 64 bits at a time take 17 instructions more, of the 290 that a known flow's packet took.
//! benches/README.md has the figures.
#![allow(
    unsafe_code,
    reason = "both are intrinsics: the one takes a pointer, the other a feature that only cfg knows of"
)]

/// Whether this target can be asked for a line at all; where it can't, working out what to ask for is in vain.
pub(crate) const ASKS: bool = cfg!(target_arch = "x86_64");

/// Asks for the line that this address is in, whatever is there, if anything is. On targets without such an instruction
/// nothing happens.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing that the program can see and faults at no address. Every x86-64
        // processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Which of these are equal to that one: a bit each, from the lowest up.
#[inline(always)]
pub(crate) fn equal(these: &[u16; 8], that: u16) -> u8 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    {
        // SAFETY: what is compiled here is compiled for processors that have SSE2.
        unsafe { equal_by_sse2(these, that) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    equal_one_by_one(these, that)
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[target_feature(enable = "sse2")]
#[inline]
fn equal_by_sse2(these: &[u16; 8], that: u16) -> u8 {
    use core::arch::x86_64::{
        __m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
    };
    let these: __m128i = bytemuck::must_cast(*these);
    let equal = _mm_cmpeq_epi16(these, _mm_set1_epi16(that as i16));
    _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u8
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
#[inline]
fn equal_one_by_one(these: &[u16; 8], that: u16) -> u8 {
    these.iter().rev().fold(0, |equal, this| equal << 1 | u8::from(*this == that))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_comparing_agree_on_every_set_of_equals() {
        for that in [0, 1, 0x7fff, 0x8000, 0x80ff, 0xffff] {
            for set in 0..=u8::MAX {
                for other in [that ^ 1, that ^ 0x8000, that ^ 0x0100, !that] {
                    let these = core::array::from_fn(|i| if set >> i & 1 == 1 { that } else { other });
                    assert_eq!(
                        (equal(&these, that), equal_one_by_one(&these, that)),
                        (set, set),
                        "{these:x?} {that:x}"
                    );
                }
            }
        }
    }
}
