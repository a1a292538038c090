//! What the targets share with the tests: one small cluster, the invariants, operations, packets made the plain way.

#[path = "../../tests/invariants/cluster.rs"]
pub mod cluster;
#[path = "../../tests/invariants/mod.rs"]
pub mod invariants;
#[path = "../../tests/invariants/model.rs"]
pub mod model;
#[path = "../../tests/invariants/ops.rs"]
pub mod ops;
#[path = "../../tests/invariants/packets.rs"]
pub mod packets;

pub use cluster::{cluster, ip, slice};
