//! Asking for a cache line before it is needed, without waiting for it: the one file with unsafe code.
//!
//! Plain loads, summed up so that they are not optimised away, do the same in safe code, but each holds
//! its place in the processor's queue until it is there. Among a million flows a packet then takes a third
//! longer: benches/README.md has the figures.
#![allow(unsafe_code, reason = "prefetch instructions are intrinsics, and no safe function wraps them yet")]

/// Whether this target can be asked at all; where it can't, working out what to ask for is in vain.
pub(crate) const ASKS: bool = cfg!(target_arch = "x86_64");

/// Asks for the line that this value begins in. On targets without such an instruction nothing happens.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing that the program can see and faults at no address. Every x86-64
        // processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *value).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
