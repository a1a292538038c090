//! Who is where. IPv4 addresses have IPv6 twins (`common::cluster::twin`); a scenario is of one family.
//!
//! ```text
//! clients, external IPs, node-b and its pods -- out0 -- node-a -- pod0 -- pods of node-a
//! ```
//!
//! All of it but node-a is the script's, which answers for everybody.

use std::net::IpAddr;

use lb_core::Family;

use crate::common::cluster::twin;

/// A side of the node where packets come in or go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Clients, other nodes and their pods.
    Outside,
    /// The node's own pods.
    Pods,
    /// The node itself: sent by it, or delivered to it.
    Node,
}

pub const NODE: &str = "192.0.2.10";
/// What a program on the node may dial a node port by (SEMANTICS §9.5).
pub const LOOPBACK: &str = "127.0.0.1";
/// The node's address on its pods' link.
pub const GATEWAY: &str = "10.244.1.1";
pub const LOCAL_PODS: [&str; 4] = ["10.244.1.10", "10.244.1.11", "10.244.1.12", "10.244.1.13"];
pub const REMOTE_PODS: [&str; 4] = ["10.244.2.10", "10.244.2.11", "10.244.2.12", "10.244.2.13"];
/// The last is another node.
pub const CLIENTS: [&str; 5] = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "192.0.2.11"];
pub const OUTSIDE_ROUTER: &str = "203.0.113.254";
pub const REMOTE_ROUTER: &str = "10.244.2.1";
pub const POD_ROUTER: &str = "10.244.1.2";

/// The address of this family that a text of IPv4 stands for.
pub fn of(family: Family, text: &str) -> IpAddr {
    let address: IpAddr = text.parse().expect(text);
    if family == Family::V4 { address } else { twin(address) }
}

/// What the node's routes say.
pub fn place_of(address: IpAddr) -> Place {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    if address.is_loopback() || [NODE, GATEWAY].iter().any(|own| of(family, own) == address) {
        return Place::Node;
    }
    let is_local_pod = match address {
        IpAddr::V4(address) => address.octets()[..3] == [10, 244, 1],
        IpAddr::V6(address) => address.segments()[..4] == [0xfd00, 0x244, 1, 0],
    };
    if is_local_pod { Place::Pods } else { Place::Outside }
}
