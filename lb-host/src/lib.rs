//! The host side of Matryoshka.
#![forbid(unsafe_code)]

pub mod device;
