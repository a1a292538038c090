//! Compiled rules as rows: what a rule table says, in words, for people and programs.

use lb_core::rules::{Pool, Segment, Vip, VipClass};
use lb_core::{Family, Prefix, Protocol, RuleTable};
use serde::Serialize;

use crate::path::socket;

/// All that a rule table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// The number of this set of rules, 16 hexadecimal digits.
    pub fingerprint: String,
    /// What holds for the node; none if the table is empty.
    pub node: Option<NodeRow>,
    /// A row for everything that clients dial, by service port, then class.
    pub rules: Vec<Row>,
}

/// What holds for all services of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its own addresses, the first of each family primary.
    pub addresses: Vec<String>,
    /// The addresses on which NodePorts are open; blocks where a whole block is.
    pub node_port_addresses: Vec<String>,
    /// The blocks by which a source is told for a pod's; an interface-based detector leaves no trace in an image.
    pub pod_sources: Vec<String>,
    /// The blocks that ClusterIPs come from.
    pub service_cidrs: Vec<String>,
    /// Towards which destinations it masquerades as whom.
    pub masquerade: Vec<Masquerade>,
    /// Ports that masquerading does not use, first and last.
    pub reserved_ports: (u16, u16),
}

/// A masquerade address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Masquerade {
    /// The destinations it is for.
    pub destination: String,
    /// The node's own address that is used.
    pub address: String,
}

/// Something that clients dial, and what becomes of a flow that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The service port: `namespace/name:port/PROTOCOL`.
    pub service: String,
    /// What sort of address it is; none for a service port all of whose addresses other services have.
    pub class: Option<&'static str>,
    /// Address, port and protocol; a NodePort's address is its family's "any".
    pub address: Option<String>,
    /// The traffic policy for this sort of address: Cluster or Local.
    pub policy: &'static str,
    /// How a backend is chosen.
    pub scheduler: &'static str,
    /// Session affinity by client address, in seconds.
    pub affinity: Option<u32>,
    /// Whether a usable endpoint exists anywhere in the cluster.
    pub has_endpoints: bool,
    /// The endpoints of the cluster that may serve it; none if that pool is not in use.
    pub cluster: Option<Vec<String>>,
    /// This node's own; none if that pool is not in use.
    pub local: Option<Vec<String>>,
    /// Endpoints that get no new flows, and keep those they have.
    pub kept: Vec<String>,
    /// The sources that may dial a load balancer's address; empty for all.
    pub source_ranges: Vec<String>,
    /// Slots of the Maglev tables over the two pools.
    pub maglev: Option<(u32, u32)>,
    /// The segment's identity, the same in every image, 16 hexadecimal digits.
    pub segment: String,
}

/// What sort of address a class is, in the words of the tables.
pub fn class_word(class: VipClass) -> &'static str {
    match class {
        VipClass::ClusterIp => "ClusterIP",
        VipClass::ExternalIp => "ExternalIP",
        VipClass::LoadBalancer => "LoadBalancer",
        VipClass::NodePort => "NodePort",
    }
}

/// `10.96.0.10:80/TCP`.
pub fn vip_words(vip: &Vip) -> String {
    format!("{}/{}", socket(vip.address, vip.port), protocol_word(vip.protocol))
}

/// A Service's protocol as manifests write it.
pub fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "TCP",
        Protocol::UDP => "UDP",
        _ => "SCTP",
    }
}

/// The service port's name.
pub fn label(segment: &Segment<'_>) -> String {
    String::from_utf8_lossy(segment.label()).into_owned()
}

impl Listing {
    /// The rows of a table.
    pub fn new<M: AsRef<[u8]>>(rules: &RuleTable<M>) -> Self {
        let mut segments: Vec<_> = rules.segments().map(|(_, segment)| segment).collect();
        segments.sort_by_key(|segment| (segment.label(), segment.family() == Family::V6, segment.id()));
        Self {
            fingerprint: format!("{:016x}", rules.fingerprint()),
            node: rules.node().map(|node| NodeRow {
                addresses: node.own_addresses().map(|address| address.to_string()).collect(),
                node_port_addresses: node.node_port_addresses().map(block).collect(),
                pod_sources: node.pod_sources().map(|block| block.to_string()).collect(),
                service_cidrs: node.service_cidrs().map(|block| block.to_string()).collect(),
                masquerade: node
                    .masquerade_addresses()
                    .map(|(destination, address)| Masquerade {
                        destination: destination.to_string(),
                        address: address.to_string(),
                    })
                    .collect(),
                reserved_ports: node.reserved_ports(),
            }),
            rules: segments.iter().flat_map(rows).collect(),
        }
    }
}

/// A single address without its length.
fn block(block: Prefix) -> String {
    let host = Prefix::host(block.address()) == block;
    if host { block.address().to_string() } else { block.to_string() }
}

fn rows(segment: &Segment<'_>) -> Vec<Row> {
    let pool = |pool| segment.uses(pool).then(|| segment.pool(pool).map(|b| socket(b.address, b.port)).collect());
    let sizes = (segment.maglev_size(Pool::Cluster), segment.maglev_size(Pool::Local));
    let row = |vip: Option<Vip>| Row {
        service: label(segment),
        class: vip.map(|vip| class_word(vip.class)),
        address: vip.as_ref().map(vip_words),
        policy: if segment.is_local(vip.map_or(VipClass::ClusterIp, |vip| vip.class)) { "Local" } else { "Cluster" },
        scheduler: segment.scheduler().name(),
        affinity: segment.affinity(),
        has_endpoints: segment.has_any(),
        cluster: pool(Pool::Cluster),
        local: pool(Pool::Local),
        kept: kept(segment),
        source_ranges: segment.ranges().map(|range| range.to_string()).collect(),
        maglev: (sizes != (0, 0)).then_some(sizes),
        segment: format!("{:016x}", segment.id()),
    };
    let mut vips: Vec<Vip> = segment.vips().collect();
    vips.sort_by_key(|vip| (vip.class, vip.address));
    if vips.is_empty() { vec![row(None)] } else { vips.into_iter().map(|vip| row(Some(vip))).collect() }
}

fn kept(segment: &Segment<'_>) -> Vec<String> {
    let backends = (0..segment.backends()).filter_map(|number| segment.backend(number));
    let pooled = |pool, address, port| segment.pool_has(pool, address, port);
    let kept = backends.filter(|b| ![Pool::Cluster, Pool::Local].iter().any(|pool| pooled(*pool, b.address, b.port)));
    kept.map(|backend| socket(backend.address, backend.port)).collect()
}
