//! What the benches share: how long each measures, numbers from a seed, a cluster of a given size.
#![allow(dead_code, reason = "no bench needs all of it")]

pub(crate) mod frames;
pub(crate) mod rig;
pub(crate) mod worst;

use std::time::Duration;

use criterion::Criterion;
use lb_core::control::{
    Control, Detector, EmptyUdp, Endpoint, Label, Mode, Node, NodePortAddresses, Proxy, Service, ServicePort, Slice,
    SlicePort, TrafficPolicy,
};
use lb_core::pick::Scheduler;
use lb_core::{Address, Prefix, Protocol};

/// Short measurements: figures of a shared machine count as medians and ratios only, and more time does
/// not make them better. The command line's own settings come first.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args()
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How many services, packets or flows, as ids write it.
pub(crate) fn short(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}M", n >> 20),
        1_000_000.. => format!("{}M", n / 1_000_000),
        1000.. => format!("{}k", n / 1000),
        n => n.to_string(),
    }
}

/// Endpoints of each service and family, unless a shape says otherwise.
pub(crate) const ENDPOINTS: usize = 5;
/// What clients dial on every service.
pub(crate) const TCP_PORT: u16 = 80;
pub(crate) const UDP_PORT: u16 = 53;

/// Pods of this node: what clients of them dial is not masqueraded, what others dial is.
pub(crate) const PODS_V4: [u8; 2] = [10, 200];
pub(crate) const OUTSIDE_V4: [u8; 2] = [172, 20];

fn v6(kind: u16, number: u128) -> Address {
    Address::from_bits(0x2001_0db8 << 96 | u128::from(kind) << 80 | number)
}

/// The ClusterIP of a service.
pub(crate) fn cluster_ip(service: usize, v4: bool) -> Address {
    if v4 { Address::from_v4_bits(0x0a60_0000 + service as u32) } else { v6(0x96, service as u128) }
}

/// A client: one of 65,536 pods of this node, or of as many elsewhere.
pub(crate) fn client(pod: bool, number: u16, v4: bool) -> Address {
    match (v4, pod, number.to_be_bytes()) {
        (true, true, [c, d]) => Address::v4([PODS_V4[0], PODS_V4[1], c, d]),
        (true, false, [c, d]) => Address::v4([OUTSIDE_V4[0], OUTSIDE_V4[1], c, d]),
        (false, true, _) => v6(0x200, number.into()),
        (false, false, _) => v6(0x172, number.into()),
    }
}

fn node() -> Node {
    Node {
        name: "here".into(),
        zone: None,
        addresses: vec![Address::v4([192, 0, 2, 1]), v6(1, 1)],
        proxy: Proxy {
            mode: Mode::NFTABLES,
            scheduler: Scheduler::Random,
            detector: Detector::Sources(vec![
                Prefix::new(client(true, 0, true), 16),
                Prefix::new(client(true, 0, false), 64),
            ]),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Primary,
            localhost_node_ports: false,
            service_cidrs: vec![Prefix::new(cluster_ip(0, true), 12), Prefix::new(cluster_ip(0, false), 64)],
            empty_udp: EmptyUdp::Keep,
            reserved_ports: (30_000, 32_767),
            masquerade: Vec::new(),
            key: [3; 16],
        },
    }
}

pub(crate) fn name(service: usize) -> Label {
    format!("bench/service-{service}").into()
}

/// What every service of a cluster is like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One TCP port over IPv4, as the goals count services.
    Plain,
    /// A TCP and a UDP port, over both families.
    Dual,
    /// The same with this many endpoints in each family.
    Backends(usize),
}

impl Shape {
    fn endpoints(self) -> usize {
        if let Self::Backends(count) = self { count } else { ENDPOINTS }
    }
}

fn service(number: usize, shape: Shape) -> Service {
    let port = |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port, node_port: None };
    Service {
        name: name(number),
        cluster_ips: families(shape).iter().map(|v4| cluster_ip(number, *v4)).collect(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        preserve_destination: false,
        health_check_port: None,
        ports: match shape {
            Shape::Plain => vec![port("tcp", Protocol::TCP, TCP_PORT)],
            Shape::Dual | Shape::Backends(_) => {
                vec![port("tcp", Protocol::TCP, TCP_PORT), port("udp", Protocol::UDP, UDP_PORT)]
            }
        },
    }
}

/// Whether IPv4, for each family of a shape.
fn families(shape: Shape) -> &'static [bool] {
    if shape == Shape::Plain { &[true] } else { &[true, false] }
}

/// The slice of a service: its endpoints, the first of them number `first`.
pub(crate) fn slice(service: usize, first: usize, shape: Shape) -> Slice {
    let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    let endpoint = |address| Endpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: Some("there".into()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    let endpoints = shape.endpoints();
    let numbers = (first..first + endpoints).map(|n| service * (endpoints + 1) + n);
    Slice {
        name: format!("bench/service-{service}-1").into(),
        service: name(service),
        ports: vec![port("tcp", Protocol::TCP, 8080), port("udp", Protocol::UDP, 5353)],
        endpoints: numbers.flat_map(|n| families(shape).iter().map(move |v4| pod(n, *v4))).map(endpoint).collect(),
    }
}

fn pod(number: usize, v4: bool) -> Address {
    if v4 { Address::from_v4_bits(0x0a80_0000 + number as u32) } else { v6(0x128, number as u128) }
}

/// A node's control plane with this many services of this shape.
pub(crate) fn cluster(services: usize, shape: Shape) -> Control {
    let mut control = Control::new(node());
    for number in 0..services {
        control.put_service(service(number, shape));
        control.put_slice(slice(number, 0, shape));
    }
    control
}
