//! The cloud's load balancer as packets see it: the outside's gateway, with an engine of its own whose Services are
//! (load balancer IP, port) and whose backends are healthy nodes' NodePorts. Objects tell it all; nobody asks it.

use std::collections::BTreeMap;

use lb_core::control::{Detector, EmptyUdp, Mode, Node, NodePortAddresses, Proxy, Service, TrafficPolicy};
use lb_core::pick::Scheduler;
use lb_core::{Address, Prefix};

use super::engine::Change;
use super::packet;

/// Who is let in to which of the balancer's addresses: nodes can't tell any more what came to it (SEMANTICS §8.6 is about
/// the load balancer's own address).
#[derive(Debug, Default)]
pub(super) struct Admission {
    sources: BTreeMap<Address, Vec<Prefix>>,
}

impl Admission {
    pub(super) fn set(&mut self, address: Address, sources: Vec<Prefix>) {
        self.sources.insert(address, sources);
    }

    pub(super) fn admits(&self, packet: &[u8]) -> bool {
        let Some((source, destination)) = packet::addresses(packet) else { return true };
        let Some(sources) = self.sources.get(&destination) else { return true };
        let mut own = sources.iter().filter(|block| block.address().family() == source.family()).peekable();
        own.peek().is_none() || own.any(|block| block.contains(source))
    }
}

/// What it is called.
pub(super) const NAME: &str = "load-balancer";

/// The balancer as the engine knows a node. `outside` is where clients are that keep their address, as the answers to
/// them come back through here; others, nodes and pods, get its own, or the answers would go past it.
pub(super) fn node(addresses: Vec<Address>, outside: Vec<Prefix>, scheduler: Scheduler) -> Node {
    Node {
        name: NAME.into(),
        zone: None,
        addresses,
        proxy: Proxy {
            mode: Mode::IPTABLES,
            scheduler,
            detector: Detector::Sources(outside),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::Inside(Vec::new()),
            localhost_node_ports: false,
            service_cidrs: Vec::new(),
            empty_udp: EmptyUdp::Cut,
            reserved_ports: (30_000, 32_767),
            masquerade: Vec::new(),
            key: [0; 16],
        },
    }
}

/// A change as the balancer takes it. The rules of a ClusterIP are those of a load balancer's own address: whoever the
/// detector knows keeps its address, no policy, no node port.
pub(super) fn adopted(change: Change) -> Change {
    let Change::Service(service) = change else { return change };
    let mut cluster_ips: Vec<Address> = Vec::new();
    for address in service.load_balancer_ips.iter().chain(&service.external_ips).chain(&service.cluster_ips) {
        if !cluster_ips.iter().any(|other| other.family() == address.family()) {
            cluster_ips.push(*address);
        }
    }
    Change::Service(Service {
        cluster_ips,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_port: None,
        preserve_destination: false,
        ports: service
            .ports
            .into_iter()
            .map(|port| lb_core::control::ServicePort { node_port: None, ..port })
            .collect(),
        ..service
    })
}
