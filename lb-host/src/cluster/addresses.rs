//! Who has which address in a box. All are of the blocks set aside for private use (RFC 1918, RFC 4193) and for
//! documentation (RFC 5737, RFC 3849).

use lb_core::control::Mode;
use lb_core::{Address, Prefix};

use crate::k8s::Settings;

/// 2001:db8::/32.
const DOCUMENTATION: u128 = 0x2001_0db8 << 96;
/// fd00:10::/32.
const PRIVATE: u128 = 0xfd00_0010 << 96;

/// Where pods are.
pub const PODS: [Prefix; 2] =
    [Prefix::new(Address::v4([10, 244, 0, 0]), 16), Prefix::new(Address::from_bits(PRIVATE | 0x244 << 80), 48)];

/// Where ClusterIPs are.
pub const SERVICES: [Prefix; 2] =
    [Prefix::new(Address::v4([10, 96, 0, 0]), 12), Prefix::new(Address::from_bits(PRIVATE | 0x96 << 80), 108)];

/// Where clients are that are outside.
pub const OUTSIDE: [Prefix; 2] =
    [Prefix::new(Address::v4([198, 51, 100, 0]), 24), Prefix::new(Address::from_bits(DOCUMENTATION | 1 << 64), 64)];

/// Where the cloud takes its load balancers' addresses from.
pub const LOAD_BALANCERS: [Prefix; 2] =
    [Prefix::new(Address::v4([203, 0, 113, 0]), 24), Prefix::new(Address::from_bits(DOCUMENTATION | 2 << 64), 64)];

/// Where nodes are: 192.0.2.0/24 and 2001:db8::/64.
const fn machine(host: u8) -> [Address; 2] {
    [Address::v4([192, 0, 2, host]), Address::from_bits(DOCUMENTATION | host as u128)]
}

/// How nodes of a box proxy in a mode.
pub fn settings(mode: Mode) -> Settings {
    Settings { mode, cluster_cidrs: PODS.to_vec(), service_cidrs: SERVICES.to_vec(), ..Settings::default() }
}

/// The gateway's.
pub(super) fn gateway() -> Vec<Address> {
    machine(1).to_vec()
}

/// Where the load balancer's health checks come from.
pub(super) fn checker() -> Vec<Address> {
    machine(2).to_vec()
}

/// The `number`-th node's, of 240 at most.
pub(super) fn node(number: u16) -> Vec<Address> {
    assert!(number < 240, "a box has room for 240 nodes");
    machine(number as u8 + 11).to_vec()
}

/// Which node that is.
fn number_of(node: &[Address]) -> u16 {
    node.first().map_or(0, |address| u16::from(address.octets()[15]) - 11)
}

/// The blocks that a node gives its pods addresses from: 10.244.n.0/24 and fd00:10:244:n::/64.
pub(super) fn pod_blocks(number: u16) -> Vec<Prefix> {
    let block = pod_address(number, 0);
    vec![Prefix::new(block[0], 24), Prefix::new(block[1], 64)]
}

/// Addresses that a node has for its pods.
pub(super) const PODS_OF_A_NODE: u16 = 254;

/// Those of a node's pod, counted from 1 to [`PODS_OF_A_NODE`].
pub(super) fn pod(node: &[Address], count: u16) -> Vec<Address> {
    pod_address(number_of(node), count as u8).to_vec()
}

fn pod_address(node: u16, host: u8) -> [Address; 2] {
    let v6 = PODS[1].address().bits() | u128::from(node) << 64 | u128::from(host);
    [Address::v4([10, 244, node as u8, host]), Address::from_bits(v6)]
}

/// The `number`-th client's.
pub(super) fn client(number: u16) -> Vec<Address> {
    assert!(number < 240, "a box has room for 240 clients");
    let host = number as u8 + 10;
    vec![Address::v4([198, 51, 100, host]), Address::from_bits(OUTSIDE[1].address().bits() | u128::from(host))]
}
