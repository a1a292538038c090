//! What a seed makes of a cluster: Services and their endpoints, and how they change.

use lb_core::control::{
    Detector, Endpoint, Mode, Node, NodePortAddresses, Proxy, Service, ServicePort, Slice, SlicePort, TrafficPolicy,
};
use lb_core::{Family, Protocol};
use lb_host::chance::Chance;

use crate::common::cluster::{address, both, node, prefix, twin};
use crate::world::{GATEWAY, LOCAL_PODS, REMOTE_PODS};

/// An affinity that may end within a scenario, in seconds.
pub const SHORT_AFFINITY: u32 = 1;

/// A Service with the slices of its endpoints.
#[derive(Clone)]
pub struct Served {
    pub service: Service,
    pub slices: Vec<Slice>,
    hints: Hints,
}

/// A node's cluster at one moment.
#[derive(Clone)]
pub struct Objects {
    pub family: Family,
    pub node: Node,
    pub served: Vec<Served>,
}

pub fn chance_of(chance: &mut Chance, percent: u32) -> bool {
    chance.in_a_million(percent * 10_000)
}

pub fn one_of<'t, T>(chance: &mut Chance, all: &'t [T]) -> &'t T {
    &all[chance.below(all.len() as u64) as usize]
}

impl Objects {
    /// Both modes and both families alternate with the seed; everything else is drawn.
    pub fn new(seed: u64, chance: &mut Chance) -> Self {
        let family = if seed & 1 == 0 { Family::V4 } else { Family::V6 };
        let mode = if seed & 2 == 0 { Mode::NFTABLES } else { Mode::IPTABLES };
        let served = (0..3 + chance.below(3)).map(|nth| served(nth as u16, chance)).collect();
        Self { family, node: proxying(mode, chance), served }
    }

    pub fn is_iptables(&self) -> bool {
        self.node.proxy.mode == Mode::IPTABLES
    }

    /// Every endpoint, with its Service's place and its slice's.
    pub fn endpoints(&self) -> impl Iterator<Item = (usize, usize, &Endpoint)> {
        self.served.iter().enumerate().flat_map(|(served, one)| {
            let slices = one.slices.iter().enumerate();
            slices.flat_map(move |(slice, one)| one.endpoints.iter().map(move |endpoint| (served, slice, endpoint)))
        })
    }

    /// Takes all endpoints away.
    pub fn unserve(&mut self) {
        self.served.iter_mut().flat_map(|served| &mut served.slices).for_each(|slice| slice.endpoints.clear());
    }

    /// Puts an endpoint into a slice.
    pub fn serve(&mut self, served: usize, slice: usize, endpoint: Endpoint) {
        self.served[served].slices[slice].endpoints.push(endpoint);
    }

    /// One endpoint of one Service comes, goes or changes its mind.
    pub fn churn(&mut self, chance: &mut Chance) {
        let at = chance.below(self.served.len() as u64) as usize;
        let slices = &mut self.served[at].slices;
        let slice = chance.below(slices.len() as u64) as usize;
        let endpoints = &mut slices[slice].endpoints;
        // Endpoints come in pairs, one of each family.
        let pairs = endpoints.len() as u64 / 2;
        if pairs > 0 && chance_of(chance, 70) {
            let first = chance.below(pairs) as usize * 2;
            if chance_of(chance, 50) {
                endpoints.drain(first..first + 2);
            } else {
                let state = state(chance);
                endpoints[first..first + 2].iter_mut().for_each(|endpoint| set(endpoint, state));
            }
            return;
        }
        let (text, node) = pod(chance);
        if !slices.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.address == address(text)) {
            let pair = endpoint(text, node, self.served[at].hints, chance);
            self.served[at].slices[slice].endpoints.extend(pair);
        }
    }
}

fn proxying(mode: Mode, chance: &mut Chance) -> Node {
    let plain = node();
    let detector = if chance_of(chance, 85) { plain.proxy.detector.clone() } else { Detector::None };
    let mut addresses = plain.addresses.clone();
    addresses.extend(both(GATEWAY));
    let gateway = address(GATEWAY);
    let twin_gateway = twin(GATEWAY.parse().unwrap()).into();
    let node_port_addresses = if mode == Mode::NFTABLES { NodePortAddresses::Primary } else { NodePortAddresses::All };
    let proxy = Proxy {
        mode,
        detector,
        masquerade_all: chance_of(chance, 15),
        node_port_addresses,
        localhost_node_ports: mode == Mode::IPTABLES,
        // What leaves by the pods' link has that link's address (SEMANTICS §8.5).
        masquerade: vec![(prefix("10.244.1.0/24"), gateway), (prefix("fd00:244:1::/64"), twin_gateway)],
        ..plain.proxy
    };
    Node { addresses, proxy, ..plain }
}

fn served(nth: u16, chance: &mut Chance) -> Served {
    let name = format!("default/s{nth}");
    let policy = |chance: &mut Chance, percent| match chance_of(chance, percent) {
        true => TrafficPolicy::Local,
        false => TrafficPolicy::Cluster,
    };
    let external = chance_of(chance, 50);
    let balanced = chance_of(chance, 60);
    let node_ports = balanced || chance_of(chance, 50);
    let ranges: &[&str] = &["203.0.113.0/31", "10.244.0.0/16", "192.0.2.0/24"];
    let restricted = balanced && chance_of(chance, 50);
    let in_families = |text: &&str| {
        let (start, length) = text.split_once('/').unwrap();
        let length: u8 = length.parse().unwrap();
        // As much of the twin's end is free as of the IPv4 address'.
        let twin = twin(start.parse().unwrap());
        let twin_length = if length == 16 { 32 } else { 128 - (32 - length) };
        [prefix(text), prefix(&format!("{twin}/{twin_length}"))]
    };
    let ports = [("tcp", Protocol::TCP, 80), ("udp", Protocol::UDP, 53), ("sctp", Protocol::SCTP, 90)];
    let service = Service {
        name: name.as_str().into(),
        cluster_ips: both(&format!("10.96.0.{}", 10 + nth)),
        external_ips: if external { both(&format!("198.51.100.{}", 10 + nth)) } else { Vec::new() },
        load_balancer_ips: if balanced { both(&format!("198.51.100.{}", 100 + nth)) } else { Vec::new() },
        source_ranges: if restricted {
            ranges[..1 + chance.below(3) as usize].iter().flat_map(in_families).collect()
        } else {
            Vec::new()
        },
        internal_policy: policy(chance, 20),
        external_policy: if external || node_ports { policy(chance, 35) } else { TrafficPolicy::Cluster },
        affinity: chance_of(chance, 25).then(|| if chance_of(chance, 15) { SHORT_AFFINITY } else { 10_800 }),
        preserve_destination: false,
        health_check_port: None,
        ports: ports
            .iter()
            .map(|(text, protocol, port)| ServicePort {
                name: (*text).into(),
                protocol: *protocol,
                port: *port,
                node_port: node_ports.then_some(30_000 + port + nth),
            })
            .collect(),
    };
    // Two slices that call their target ports by the same names and mean different numbers (SEMANTICS §4.2).
    let slices = (0..2u16)
        .map(|slice| Slice {
            name: format!("{name}-{slice}").as_str().into(),
            service: name.as_str().into(),
            ports: ports
                .iter()
                .map(|(text, protocol, port)| SlicePort {
                    name: (*text).into(),
                    protocol: *protocol,
                    port: 8000 + port + slice,
                })
                .collect(),
            endpoints: Vec::new(),
        })
        .collect();
    let hints = match chance.below(10) {
        0..6 => Hints::None,
        6 | 7 => Hints::Zones,
        8 => Hints::ZonesAndNodes,
        _ => Hints::Most,
    };
    let mut served = Served { service, slices, hints };
    let mut texts: Vec<&str> = Vec::new();
    for _ in 0..chance.below(6) {
        let (text, node) = pod(chance);
        if !texts.contains(&text) {
            texts.push(text);
            let slice = usize::from(chance_of(chance, 25));
            let pair = endpoint(text, node, served.hints, chance);
            served.slices[slice].endpoints.extend(pair);
        }
    }
    served
}

fn pod(chance: &mut Chance) -> (&'static str, &'static str) {
    match chance_of(chance, 50) {
        true => (*one_of(chance, &LOCAL_PODS), "node-a"),
        false => (*one_of(chance, &REMOTE_PODS), "node-b"),
    }
}

/// Ready, serving, terminating.
type State = (bool, bool, bool);

fn state(chance: &mut Chance) -> State {
    match chance.below(100) {
        0..75 => (true, true, false),
        75..90 => (false, true, true),
        90..95 => (false, true, false),
        _ => (false, false, true),
    }
}

/// How a Service's endpoints are hinted (SEMANTICS §5.4).
#[derive(Clone, Copy)]
enum Hints {
    None,
    Zones,
    ZonesAndNodes,
    /// Every fourth has none, which switches them off for all.
    Most,
}

/// The nodes' zones are theirs alone, so a hint for a zone is one for a node's endpoints.
fn hint(endpoint: &mut Endpoint, node: &str, hints: Hints, chance: &mut Chance) {
    let zone = if node == "node-a" { "zone-1" } else { "zone-2" };
    let is_hinted = match hints {
        Hints::None => false,
        Hints::Zones | Hints::ZonesAndNodes => true,
        Hints::Most => !chance_of(chance, 25),
    };
    endpoint.zone_hints = if is_hinted { vec![zone.into()] } else { Vec::new() };
    endpoint.node_hints =
        if is_hinted && matches!(hints, Hints::ZonesAndNodes) { vec![node.into()] } else { Vec::new() };
}

fn set(endpoint: &mut Endpoint, (ready, serving, terminating): State) {
    (endpoint.ready, endpoint.serving, endpoint.terminating) = (ready, serving, terminating);
}

/// An endpoint in both families.
fn endpoint(text: &str, node: &str, hints: Hints, chance: &mut Chance) -> [Endpoint; 2] {
    let (addresses, (ready, serving, terminating)) = (both(text), state(chance));
    let mut endpoint = Endpoint {
        address: addresses[0],
        ready,
        serving,
        terminating,
        node: Some(node.into()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    hint(&mut endpoint, node, hints, chance);
    [endpoint.clone(), Endpoint { address: addresses[1], ..endpoint }]
}
