//! The host side of Matryoshka.
#![forbid(unsafe_code)]

pub mod k8s;
