//! A node with services, and captures through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_core::control::{Control, Endpoint, Node, NodePortAddresses, Proxy, Service, ServicePort, Slice, SlicePort};
use lb_core::control::{Detector, EmptyUdp, Mode, TrafficPolicy};
use lb_core::{Address, Balancer, Block, Config, Protocol, RuleTable, Sizes, blocks};
use lb_host::replay::{self, Options, Summary};

/// What clients dial.
pub(crate) type Frontend = (Address, Protocol, u16);

/// How the services of a test are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Clients keep their address.
    ByClusterIp,
    /// Clients get the node's address.
    ByExternalIp,
}

/// The node that everything goes through.
pub(crate) fn node() -> Node {
    Node {
        name: "node".into(),
        zone: None,
        addresses: vec![v4([192, 0, 2, 1]), v6(1)],
        proxy: Proxy {
            mode: Mode::IPTABLES,
            scheduler: Mode::IPTABLES.scheduler,
            detector: Detector::None,
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: true,
            service_cidrs: vec![],
            empty_udp: EmptyUdp::Keep,
            reserved_ports: (30000, 32767),
            masquerade: vec![],
            key: [0; 16],
        },
    }
}

/// A service that is reached at this address, so far without endpoints.
pub(crate) fn service(address: Address, ports: &[(Protocol, u16)], reached: Reached) -> Service {
    let (cluster_ips, external_ips) = match reached {
        Reached::ByClusterIp => (vec![address], vec![]),
        Reached::ByExternalIp if address.is_v4() => (vec![v4([10, 96, 255, 254])], vec![address]),
        Reached::ByExternalIp => (vec![v6(0xffff)], vec![address]),
    };
    Service {
        name: name(address),
        cluster_ips,
        external_ips,
        load_balancer_ips: vec![],
        source_ranges: vec![],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        preserve_destination: false,
        health_check_port: None,
        ports: ports
            .iter()
            .map(|&(protocol, port)| ServicePort { name: label(protocol, port), protocol, port, node_port: None })
            .collect(),
    }
}

fn name(address: Address) -> Arc<str> {
    format!("test/{address}").into()
}

fn label(protocol: Protocol, port: u16) -> Arc<str> {
    format!("{protocol}-{port}").into()
}

/// Rules for a service of two endpoints behind each frontend; the endpoints listen on the port plus 1000.
pub(crate) fn rules(frontends: &BTreeSet<Frontend>, reached: Reached) -> RuleTable<Vec<u8>> {
    let mut control = Control::new(node());
    let mut of_address: BTreeMap<Address, Vec<(Protocol, u16)>> = BTreeMap::new();
    for (address, protocol, port) in frontends {
        of_address.entry(*address).or_default().push((*protocol, *port));
    }
    for (address, ports) in of_address {
        let name = name(address);
        control.put_service(service(address, &ports, reached));
        let backends = match address.is_v4() {
            true => [v4([198, 18, 0, 1]), v4([198, 18, 255, 2])],
            false => [v6(0xb1), v6(0xffb2)],
        };
        control.put_slice(Slice {
            name: format!("{name}-slice").into(),
            service: name,
            ports: ports
                .iter()
                .map(|&(protocol, port)| SlicePort {
                    name: label(protocol, port),
                    protocol,
                    port: port.wrapping_add(1000).max(1),
                })
                .collect(),
            endpoints: backends
                .into_iter()
                .map(|address| Endpoint {
                    address,
                    ready: true,
                    serving: true,
                    terminating: false,
                    node: None,
                    zone_hints: vec![],
                    node_hints: vec![],
                })
                .collect(),
        });
    }
    RuleTable::load(control.image().unwrap()).unwrap()
}

pub(crate) fn v4(octets: [u8; 4]) -> Address {
    Address::v4(octets)
}

/// An address of the block that is set aside for benchmarks (RFC 5180).
pub(crate) fn v6(host: u128) -> Address {
    Address::from_bits(0x2001_0002 << 96 | host)
}

/// Replays a capture to memory.
pub(crate) fn replay(capture: &[u8], rules: RuleTable<Vec<u8>>, reflect: bool) -> (Summary, Vec<u8>) {
    let sizes = Sizes { v4_flows: 4096, v6_flows: 4096, services: 1024, affinity: 0, backends: 64, fragments: 256 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let mut balancer = Balancer::new(Config::new([7; 16], 1), sizes, &mut memory, rules).unwrap();
    let mut output = Vec::new();
    let options = Options { reflect, ..Options::default() };
    let summary = replay::run(capture, &mut output, &mut balancer, options).unwrap();
    let told = summary.forwarded + summary.passed + summary.rejected + summary.dropped.values().sum::<u64>();
    assert_eq!(told, summary.packets, "every packet is counted once");
    (summary, output)
}
