//! How much memory what lives in the caller's takes.

use core::mem::size_of;

use super::borrow::Versioned;

/// How much memory something takes, and how it must be aligned.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_layout {
    /// `sizeof (lb_layout)`.
    pub struct_size: u32,
    /// In bytes, a power of two.
    pub alignment: u32,
    /// In bytes, a multiple of the alignment.
    pub size: usize,
}

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_layout {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self = Self { struct_size: 0, alignment: 0, size: 0 };
}
