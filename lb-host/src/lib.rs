//! The host side of Matryoshka.
#![forbid(unsafe_code)]
