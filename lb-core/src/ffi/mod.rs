//! The C ABI: the public face of this crate for programs that are not written in Rust.
//!
//! `include/lb_core.h` is made from these files and documented by their comments. All of them follow the same rules,
//! which `include/README.md` states for C programmers: memory is the caller's, nothing is called back, nothing
//! unwinds, every argument is checked as far as it can be before anything happens, and an output is written only on
//! success.
//!
//! This is the one module with unsafe code, and nearly all of that is in `borrow.rs`: raw pointers become references
//! there and nowhere else.
#![allow(unsafe_code, reason = "C hands in pointers; what is asked of them is written beside each use")]
#![allow(missing_docs, reason = "a field named as in the RFC or documented by its enum")]
#![allow(non_camel_case_types, reason = "the names are those of the C header")]

mod balancer;
mod borrow;
mod flow;
mod layout;
mod packet;
#[cfg(lb_staticlib)]
mod panic;
mod rules;
mod status;
mod words;

pub use balancer::*;
pub use flow::*;
pub use layout::*;
pub use packet::*;
pub use rules::*;
pub use status::*;
pub use words::*;

/// The version of this interface. A program may go on if `lb_abi_version()` returns the one that it was compiled with;
/// structs that grow do so without changing it (see `struct_size`), so another number means another interface.
pub const LB_ABI_VERSION: u32 = 1;

/// One second, in the unit of every time here.
pub const LB_SECOND: u64 = 1_000_000_000;

/// The `LB_ABI_VERSION` that this library was built with.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn lb_abi_version() -> u32 {
    LB_ABI_VERSION
}
