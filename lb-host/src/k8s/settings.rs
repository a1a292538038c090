//! What an operator set about how nodes proxy, and the [`Proxy`] it comes to on one of them.

use lb_core::control::{Detector, EmptyUdp, Mode, NodePortAddresses, Proxy};
use lb_core::pick::Scheduler;
use lb_core::{Address, Family, Prefix};

use super::address::lenient_prefix;

/// Schedulers by name; ipvs' weighted ones come to the plain ones, as kube-proxy weighs all endpoints
/// alike (SEMANTICS §14.3).
pub const SCHEDULERS: &[(&str, Scheduler)] = &[
    ("random", Scheduler::Random),
    ("rr", Scheduler::RoundRobin),
    ("wrr", Scheduler::RoundRobin),
    ("lc", Scheduler::LeastConnections),
    ("wlc", Scheduler::LeastConnections),
    ("sh", Scheduler::SourceHash),
    ("dh", Scheduler::DestinationHash),
    ("sed", Scheduler::ShortestExpectedDelay),
    ("nq", Scheduler::NeverQueue),
    ("maglev", Scheduler::Maglev),
    ("mh", Scheduler::Maglev),
];

/// The mode of this name.
pub fn mode(name: &str) -> Option<Mode> {
    Mode::ALL.iter().find(|mode| mode.name == name).copied()
}

/// ipvs' schedulers that kube-proxy's services give nothing to work on.
pub const CACHE_SCHEDULERS: [&str; 2] = ["lblc", "lblcr"];

/// The scheduler of this name.
///
/// # Errors
/// There is none: why, and the names there are.
pub fn scheduler(name: &str) -> Result<Scheduler, (String, String)> {
    let known = SCHEDULERS.iter().find(|(known, _)| *known == name);
    known.map(|(_, scheduler)| *scheduler).ok_or_else(|| {
        let names: Vec<_> = SCHEDULERS.iter().map(|(name, _)| *name).collect();
        let why = match CACHE_SCHEDULERS.contains(&name) {
            true => format!("{name} balances caches by destination and kube-proxy's services have none"),
            false => format!("{name:?} is no scheduler"),
        };
        (why, format!("take one of {}", names.join(", ")))
    })
}

/// How pods' packets are told from others (SEMANTICS §8.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's block of Pod addresses.
    #[default]
    ClusterCidr,
    /// By the node's own block of Pod addresses.
    NodeCidr,
    /// By the interface they arrive on.
    Interface,
}

/// One entry of `--nodeport-addresses` (SEMANTICS §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortEntry {
    /// `all`: every address of the node.
    All,
    /// `primary`: the first address of each family.
    Primary,
    /// `localhost`: the loopback addresses.
    Localhost,
    /// The node's addresses inside a block.
    Inside(Prefix),
}

impl std::str::FromStr for NodePortEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            _ => lenient_prefix(text)
                .map(Self::Inside)
                .ok_or_else(|| "neither a block like 192.0.2.0/24 nor one of all, primary, localhost".to_owned()),
        }
    }
}

/// What an operator set; the rest is the mode's own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The mode.
    pub mode: Mode,
    /// The scheduler, if not the mode's own.
    pub scheduler: Option<Scheduler>,
    /// How pods' packets are told from others.
    pub detect_local: DetectLocal,
    /// The cluster's blocks of Pod addresses, of which the first of a family counts.
    pub cluster_cidrs: Vec<Prefix>,
    /// Where NodePorts are open; empty for the mode's own choice.
    pub node_port_addresses: Vec<NodePortEntry>,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// Whether NodePorts are open on IPv4 loopback, where the mode can do that.
    pub localhost_node_ports: bool,
    /// The blocks that ClusterIPs come from.
    pub service_cidrs: Vec<Prefix>,
    /// The cluster's first and last NodePort.
    pub node_port_range: (u16, u16),
    /// What becomes of a UDP flow when its service has no serving backend left.
    pub empty_udp: EmptyUdp,
    /// The cluster's key for Maglev tables and the directory.
    pub key: [u8; 16],
}

impl Default for Settings {
    /// kube-proxy's defaults, and the API server's for the ranges of ClusterIPs and NodePorts.
    fn default() -> Self {
        Self {
            mode: Mode::IPTABLES,
            scheduler: None,
            detect_local: DetectLocal::ClusterCidr,
            cluster_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
            masquerade_all: false,
            localhost_node_ports: true,
            service_cidrs: vec![Prefix::new(Address::v4([10, 96, 0, 0]), 12)],
            node_port_range: (30_000, 32_767),
            empty_udp: EmptyUdp::Keep,
            key: [0; 16],
        }
    }
}

impl Settings {
    /// How a node of these addresses (the first of a family is primary) and Pod blocks proxies.
    pub fn proxy(&self, addresses: &[Address], pod_cidrs: &[Prefix]) -> Proxy {
        Proxy {
            mode: self.mode,
            scheduler: self.scheduler.unwrap_or(self.mode.scheduler),
            detector: match self.detect_local {
                DetectLocal::ClusterCidr => sources(&self.cluster_cidrs),
                DetectLocal::NodeCidr => sources(pod_cidrs),
                DetectLocal::Interface => Detector::Interface,
            },
            masquerade_all: self.masquerade_all,
            node_port_addresses: self.node_port_addresses(addresses),
            localhost_node_ports: self.localhost_node_ports,
            service_cidrs: self.service_cidrs.clone(),
            empty_udp: self.empty_udp,
            reserved_ports: self.node_port_range,
            masquerade: Vec::new(),
            key: self.key,
        }
    }

    /// SEMANTICS §9.1, §9.2: a family that no block is of gets all of its addresses.
    fn node_port_addresses(&self, addresses: &[Address]) -> NodePortAddresses {
        match self.node_port_addresses.as_slice() {
            [] if self.mode.primary_node_ports => NodePortAddresses::Primary,
            [] => NodePortAddresses::All,
            [NodePortEntry::Primary] => NodePortAddresses::Primary,
            entries if entries.contains(&NodePortEntry::All) => NodePortAddresses::All,
            entries => {
                let mut blocks: Vec<Prefix> = Vec::new();
                for entry in entries {
                    match entry {
                        NodePortEntry::All => {}
                        NodePortEntry::Inside(block) => blocks.push(*block),
                        NodePortEntry::Localhost => blocks.extend(LOOPBACK),
                        NodePortEntry::Primary => {
                            let first = |family| addresses.iter().find(|address| address.family() == family);
                            let primary = [Family::V4, Family::V6].into_iter().filter_map(first);
                            blocks.extend(primary.map(|address| Prefix::host(*address)));
                        }
                    }
                }
                for all in EVERYTHING {
                    if !blocks.iter().any(|block| block.address().family() == all.address().family()) {
                        blocks.push(all);
                    }
                }
                NodePortAddresses::Inside(blocks)
            }
        }
    }
}

const EVERYTHING: [Prefix; 2] = [Prefix::new(Address::v4([0; 4]), 0), Prefix::new(Address::UNSPECIFIED, 0)];
const LOOPBACK: [Prefix; 2] = [Prefix::new(Address::v4([127, 0, 0, 0]), 8), Prefix::new(Address::from_bits(1), 128)];

/// The first block of each family; with none there is no detector (SEMANTICS §8.4).
fn sources(blocks: &[Prefix]) -> Detector {
    let first = |family| blocks.iter().find(|block| block.address().family() == family).copied();
    let blocks: Vec<_> = [Family::V4, Family::V6].into_iter().filter_map(first).collect();
    if blocks.is_empty() { Detector::None } else { Detector::Sources(blocks) }
}

/// The first and last port of `30000-32767`, or of `30000+2767`, as the API server's flag takes it.
///
/// # Errors
/// It is neither, or the first is not below the last.
pub fn port_range(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => text.split_once('+').and_then(|(first, more)| {
            let first = number(first)?;
            Some((first, first.checked_add(more.trim().parse().ok()?)?))
        }),
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| "not a range of ports like 30000-32767".to_owned())
}
