//! The objects that the control plane takes: Services, EndpointSlices and the Node, as numbers and
//! opaque labels. What a manifest calls these things is the host's business.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::mode::Mode;
use crate::scheduler::Scheduler;
use crate::tuple::{Address, Family, Prefix, Protocol};

/// An opaque name. Only equality and byte order matter: of two services that claim one Vip, the one
/// of the lower name gets it.
pub type Label = Arc<str>;

/// One Service that is to be proxied (SEMANTICS §2-3 says which are).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name, joined by a slash.
    pub name: Label,
    /// Its ClusterIPs, at most one a family.
    pub cluster_ips: Vec<Address>,
    /// Its external IPs, canonical.
    pub external_ips: Vec<Address>,
    /// Its load balancer's IPs of mode VIP (SEMANTICS §3.4).
    pub load_balancer_ips: Vec<Address>,
    /// Sources admitted on load balancer IPs; none of a family means all of it (SEMANTICS §8.6).
    pub source_ranges: Vec<Prefix>,
    /// The policy for traffic to the ClusterIP.
    pub internal_policy: TrafficPolicy,
    /// The policy for all other traffic, [`TrafficPolicy::Local`] only as SEMANTICS §3.3 admits it.
    pub external_policy: TrafficPolicy,
    /// Session affinity by client address, in seconds (1..=86400); `None` for none.
    pub affinity: Option<u32>,
    /// What comes to its node ports and load balancer IPs keeps its destination and goes to this node's endpoints only,
    /// in modes that can do that (SEMANTICS §14.4).
    pub preserve_destination: bool,
    /// The port on which the node answers load balancers' health checks, if it has one (§10.1).
    pub health_check_port: Option<u16>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service: the unit of proxying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty if it has none.
    pub name: Label,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port that clients dial.
    pub port: u16,
    /// The port that every node opens, if any.
    pub node_port: Option<u16>,
}

/// Whether traffic may leave the node for an endpoint elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any usable endpoint of the cluster.
    #[default]
    Cluster,
    /// Only this node's own.
    Local,
}

/// Some of a Service's endpoints: one EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its namespace and name, joined by a slash.
    pub name: Label,
    /// The [`Service::name`] it belongs to.
    pub service: Label,
    /// Its ports: a service port finds its backend port by name and protocol (SEMANTICS §4.2).
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name, empty if it has none.
    pub name: Label,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port on each of the slice's endpoints, not 0.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Whether it may receive new traffic.
    pub ready: bool,
    /// Whether it answers, ready or not.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// The [`Node::name`] it runs on, if known.
    pub node: Option<Label>,
    /// Zones that it is hinted for.
    pub zone_hints: Vec<Label>,
    /// Nodes that it is hinted for.
    pub node_hints: Vec<Label>,
}

/// The node whose data plane is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Label,
    /// Its zone, if it has one.
    pub zone: Option<Label>,
    /// All of its own addresses; the first of each family is its primary one.
    pub addresses: Vec<Address>,
    /// How it proxies.
    pub proxy: Proxy,
}

impl Node {
    /// Its primary address of this family, if it has one.
    pub fn primary(&self, family: Family) -> Option<Address> {
        self.addresses.iter().copied().find(|address| address.family() == family)
    }

    /// Whether NodePorts are open on this one of its addresses (SEMANTICS §9.1).
    pub fn opens_node_ports_on(&self, address: Address) -> bool {
        match &self.proxy.node_port_addresses {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => self.primary(address.family()) == Some(address),
            NodePortAddresses::Inside(blocks) => {
                let mut own_family =
                    blocks.iter().filter(|block| block.address().family() == address.family()).peekable();
                // §9.2: no block of this family means all of it.
                own_family.peek().is_none() || own_family.any(|block| block.contains(address))
            }
        }
    }
}

/// How a node proxies: a mode's preset and what the operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The preset.
    pub mode: Mode,
    /// How a backend is chosen among those that may be.
    pub scheduler: Scheduler,
    /// How a pod's packet is told from others.
    pub detector: Detector,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// On which of the node's addresses NodePorts are open.
    pub node_port_addresses: NodePortAddresses,
    /// Whether NodePorts are open on IPv4 loopback, where the mode can do that (SEMANTICS §9.5).
    pub localhost_node_ports: bool,
    /// The blocks that ClusterIPs come from.
    pub service_cidrs: Vec<Prefix>,
    /// What becomes of a UDP flow when its service has no serving backend left.
    pub empty_udp: EmptyUdp,
    /// Ports never used as a masqueraded flow's source, first and last: the cluster's NodePort range.
    pub reserved_ports: (u16, u16),
    /// Masquerade addresses by destination, the longest prefix first to match; elsewhere the node's
    /// primary address of the family.
    pub masquerade: Vec<(Prefix, Address)>,
    /// The cluster's key for Maglev tables and the directory: the same on every node.
    pub key: [u8; 16],
}

/// How a node recognises pods' packets (SEMANTICS §8.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detector {
    /// It does not.
    #[default]
    None,
    /// By source address: inside the block of the address's family, if there is one.
    Sources(Vec<Prefix>),
    /// By the interface they arrive on, which the caller tells as
    /// [`Origin::Pod`](crate::packet::Origin::Pod).
    Interface,
}

/// The node addresses on which NodePorts are open (SEMANTICS §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of the node's own.
    All,
    /// The first of each family.
    Primary,
    /// The node's own addresses inside these blocks.
    Inside(Vec<Prefix>),
}

/// What becomes of a UDP flow to a backend that stopped serving when no other serves either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyUdp {
    /// It goes on, as kube-proxy lets it (SEMANTICS §11.5).
    #[default]
    Keep,
    /// It ends.
    Cut,
}
