//! The unit of the memory that a caller gives: one cache line.

use bytemuck::{Pod, Zeroable};

/// 64 aligned bytes: the unit of the memory that the caller gives. What they hold beforehand does not
/// matter.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Block([u64; 8]);

impl Block {
    /// A block of zeros, for a `static` array or a `Vec`.
    pub const ZERO: Self = Self([0; 8]);
}
