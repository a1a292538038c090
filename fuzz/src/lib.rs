//! What each target does with an input, and what the targets share with the tests: one small cluster, the invariants,
//! operations, packets made the plain way.
//!
//! `tests/seeds.rs` gives the named seeds to the same functions, on stable.

#[path = "../../tests/invariants/cluster.rs"]
pub mod cluster;
#[path = "../../tests/invariants/mod.rs"]
pub mod invariants;
#[path = "../../tests/invariants/packets.rs"]
pub mod packets;

pub mod c_abi;
pub mod load_rules;
#[path = "../../tests/invariants/model.rs"]
pub mod model;
pub mod parse;
pub mod process;
#[path = "../../tests/invariants/ops.rs"]
pub mod process_ops;

// The adapters.
#[cfg(feature = "host")]
pub mod dns;
#[cfg(feature = "host")]
pub mod manifest;
#[cfg(feature = "host")]
pub mod pcap;
#[cfg(feature = "host")]
pub mod proxy;

pub use cluster::{cluster, ip, slice};
