//! The packet path of a Kubernetes service proxy.
#![no_std]
#![forbid(unsafe_code)]
// No packet, image or argument makes the engine panic. Tests may: see clippy.toml.
#![warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable, clippy::unwrap_used)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod balancer;
pub mod config;
#[cfg(feature = "alloc")]
pub mod control;
pub mod counters;
pub mod flow;
mod hash;
mod memory;
pub mod nat;
pub mod packet;
pub mod pick;
mod rng;
pub mod rules;
pub mod time;
pub mod tuple;
pub mod verdict;
pub mod wire;

pub use balancer::{Balancer, ConfigError, RestoreError};
pub use config::{Config, Sizes, Timeouts};
pub use counters::Counters;
pub use flow::{Direction, Flow, FlowId};
pub use memory::{Block, blocks};
pub use nat::Checksum;
pub use packet::{Datagram, Meta, Origin, Packet};
pub use rules::RuleTable;
pub use time::Instant;
pub use tuple::{Address, Family, Prefix, Protocol, Tuple};
pub use verdict::{DropReason, RejectReason, Verdict};
pub use wire::Link;
