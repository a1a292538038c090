//! The C ABI, seen from C: the header, the library's symbols, and a program compiled as C and as C++ whose results
//! are compared with those of the Rust API.

#[path = "../common/mod.rs"]
mod common;
mod header;
mod installed;
mod program;
