//! What the behaviour tests share: frames made and judged by etherparse, a small cluster as objects, and a
//! balancer for it on a bench.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part of this")]

pub mod cluster;
pub mod frames;
pub mod lab;
