//! The control arrow: objects in, rule images and deltas out. Feature `alloc`.
//!
//! ```text
//! Service, Slice, Node --resolve--> Resolved --compile--> segment --collect--> image / delta
//! ```

mod mode;
mod objects;

pub use mode::Mode;
pub use objects::*;
