//! From one Service and its endpoints to what may serve each of its ports (SEMANTICS §3-5): pure.

use alloc::string::String;
use alloc::vec::Vec;

use super::candidate::{Candidate, Standing};
use super::mode::EndpointRule;
use super::objects::{Label, Node, Service, ServicePort, Slice, TrafficPolicy};
use super::windows;
use crate::rules::{Pool, Vip, VipClass};
use crate::tuple::{Address, Family, Prefix, Protocol};

/// What may serve one service port in one family, and why not the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The [`Service::name`] it is of.
    pub service: Label,
    /// The port it is.
    pub port: ServicePort,
    /// The family of all addresses here.
    pub family: Family,
    /// What clients dial, in order; another service may have a better claim (SEMANTICS §6.1).
    pub vips: Vec<Vip>,
    /// Its endpoints by rising address and port, each once.
    pub candidates: Vec<Candidate>,
    /// Whether a usable endpoint exists anywhere in the cluster (§5.5).
    pub has_any: bool,
    /// Whether each pool is in use (§5.1): the cluster's, this node's.
    pub uses: (bool, bool),
    /// Whether traffic to the ClusterIP is for this node's endpoints only.
    pub internal_local: bool,
    /// Whether all other traffic is.
    pub external_local: bool,
    /// Whether traffic to node ports and load balancer IPs is for this node's endpoints only, and keeps its destination
    /// (§14.4).
    pub keeps_destination: bool,
    /// Session affinity in seconds.
    pub affinity: Option<u32>,
    /// Sources admitted on load balancer IPs; none means all.
    pub source_ranges: Vec<Prefix>,
}

impl Resolved {
    /// Its name in comments and tables: `namespace/name:port/PROTOCOL`, without the colon if the port has
    /// no name.
    pub fn label(&self) -> String {
        let protocol = match self.port.protocol {
            Protocol::TCP => "TCP",
            Protocol::UDP => "UDP",
            _ => "SCTP",
        };
        let (service, port) = (&*self.service, &*self.port.name);
        if port.is_empty() { [service, "/", protocol].concat() } else { [service, ":", port, "/", protocol].concat() }
    }

    /// The endpoints in a pool; `None` if the pool is not in use.
    pub fn pool(&self, pool: Pool) -> Option<impl Iterator<Item = &Candidate>> {
        let used = if pool == Pool::Cluster { self.uses.0 } else { self.uses.1 };
        used.then(|| self.candidates.iter().filter(move |candidate| candidate.standing(pool).is_in()))
    }
}

/// What may serve each port of a service in each of its families, on this node.
pub fn resolve<'s>(service: &Service, slices: impl Iterator<Item = &'s Slice> + Clone, node: &Node) -> Vec<Resolved> {
    let families = [Family::V4, Family::V6];
    // §2.5: a family without a ClusterIP is not proxied.
    let served = families.into_iter().filter(|family| service.cluster_ips.iter().any(|ip| ip.family() == *family));
    // §12.1: not every mode proxies SCTP.
    let proxied = |port: &&ServicePort| node.proxy.mode.sctp || port.protocol != Protocol::SCTP;
    served
        .flat_map(|family| service.ports.iter().filter(proxied).map(move |port| (family, port)))
        .map(|(family, port)| resolve_port(service, port, family, slices.clone(), node))
        .collect()
}

fn resolve_port<'s>(
    service: &Service,
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'s Slice>,
    node: &Node,
) -> Resolved {
    let mode = &node.proxy.mode;
    let mut vips = vips(service, port, family);
    // §3.5
    let external = vips.iter().any(|vip| vip.class != VipClass::ClusterIp);
    // §14.5: the userspace proxy knows no policies.
    let is_local = |policy| policy == TrafficPolicy::Local && mode.endpoints != EndpointRule::Ready;
    let (internal_local, external_local) = (is_local(service.internal_policy), is_local(service.external_policy));
    // §5.1
    let uses_cluster = !internal_local || external;
    let keeps_destination = mode.preserves_destinations && service.preserve_destination;
    let uses_local = internal_local || ((external_local || keeps_destination) && external);
    let mut candidates = candidates(port, family, slices, node);
    let has_any = match mode.endpoints {
        EndpointRule::Linux => {
            let topology = topology(&candidates, node);
            stand(&mut candidates, uses_cluster, uses_local, topology, node);
            // §5.5
            let usable = |candidate: &Candidate| candidate.ready || candidate.is_last_resort();
            candidates.iter().any(|candidate| candidate.cluster.is_in() || (uses_local && usable(candidate)))
        }
        EndpointRule::Ready => {
            // Without a last resort (§14.5), and a local pool is never asked for.
            stand(&mut candidates, true, false, Topology::None, node);
            candidates
                .iter_mut()
                .filter(|c| c.cluster == Standing::LastResort)
                .for_each(|c| c.cluster = Standing::NotReady);
            candidates.iter().any(|candidate| candidate.cluster.is_in())
        }
        EndpointRule::Windows => {
            windows::one_port(&mut candidates);
            windows::stand(&mut candidates, &mut vips, external_local, (uses_cluster, uses_local));
            candidates.iter().any(|candidate| candidate.cluster.is_in() || candidate.own.is_in())
        }
    };
    Resolved {
        service: service.name.clone(),
        port: port.clone(),
        family,
        vips,
        candidates,
        has_any,
        uses: (uses_cluster, uses_local),
        internal_local,
        external_local,
        keeps_destination,
        affinity: match mode.endpoints {
            // §14.4: a flag without a time-out; the API's default stands in (§3.6).
            EndpointRule::Windows => service.affinity.map(|_| 10_800),
            EndpointRule::Linux | EndpointRule::Ready => service.affinity,
        },
        source_ranges: service
            .source_ranges
            .iter()
            .filter(|range| mode.source_ranges && range.address().family() == family)
            .copied()
            .collect(),
    }
}

fn vips(service: &Service, port: &ServicePort, family: Family) -> Vec<Vip> {
    let any = if family == Family::V4 { Address::from_v4_bits(0) } else { Address::UNSPECIFIED };
    let at = |class, address: &Address, port: u16, protocol| Vip { address: *address, port, protocol, class };
    let classes = [
        (VipClass::ClusterIp, &service.cluster_ips),
        (VipClass::ExternalIp, &service.external_ips),
        (VipClass::LoadBalancer, &service.load_balancer_ips),
    ];
    let addresses = classes.into_iter().flat_map(|(class, addresses)| addresses.iter().map(move |ip| (class, ip)));
    let mut vips: Vec<Vip> = addresses
        .filter(|(_, address)| address.family() == family)
        .map(|(class, address)| at(class, address, port.port, port.protocol))
        .chain(port.node_port.map(|number| at(VipClass::NodePort, &any, number, port.protocol)))
        .collect();
    // An address given twice counts once: as a load balancer's before an external one, as its source ranges
    // hold for it (§8.6).
    let rank = |vip: &Vip| (vip.class != VipClass::ClusterIp, vip.class != VipClass::LoadBalancer);
    vips.sort_by_key(|vip| (vip.address, vip.port, vip.class == VipClass::NodePort, rank(vip)));
    vips.dedup_by_key(|vip| (vip.address, vip.port, vip.class == VipClass::NodePort));
    vips.sort_unstable();
    vips
}

/// §4.2 to §4.6: the endpoints of a service port from all slices, each once.
fn candidates<'s>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'s Slice>,
    node: &Node,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for slice_port in ports {
            candidates.reserve(slice.endpoints.len());
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.address.family() == family) {
                candidates.push(Candidate {
                    address: endpoint.address,
                    port: slice_port.port,
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                    local: endpoint.node.as_ref() == Some(&node.name),
                    node: endpoint.node.clone(),
                    zone_hints: endpoint.zone_hints.clone(),
                    node_hints: endpoint.node_hints.clone(),
                    cluster: Standing::Unused,
                    own: Standing::Unused,
                });
            }
        }
    }
    // §4.4: of copies the local one wins; among equals the better one, so that order does not matter.
    candidates.sort_by(|a, b| {
        let rank = |c: &Candidate| (!c.local, !c.ready, !c.serving, c.terminating);
        (a.address, a.port)
            .cmp(&(b.address, b.port))
            .then_with(|| rank(a).cmp(&rank(b)))
            .then_with(|| (&a.node, &a.zone_hints, &a.node_hints).cmp(&(&b.node, &b.zone_hints, &b.node_hints)))
    });
    candidates.dedup_by_key(|candidate| (candidate.address, candidate.port));
    candidates
}

/// Which hints the cluster pool follows (§5.4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Node,
    Zone,
    None,
}

fn topology(candidates: &[Candidate], node: &Node) -> Topology {
    let ready = || candidates.iter().filter(|candidate| candidate.ready);
    let followed = |hints: fn(&Candidate) -> &Vec<Label>, own: Option<&Label>| {
        ready().next().is_some()
            && ready().all(|candidate| !hints(candidate).is_empty())
            && own.is_some_and(|own| ready().any(|candidate| hints(candidate).contains(own)))
    };
    if followed(|candidate| &candidate.node_hints, Some(&node.name)) {
        Topology::Node
    } else if followed(|candidate| &candidate.zone_hints, node.zone.as_ref()) {
        Topology::Zone
    } else {
        Topology::None
    }
}

/// §5.2, §5.3: how each endpoint stands towards the two pools.
fn stand(candidates: &mut [Candidate], uses_cluster: bool, uses_local: bool, topology: Topology, node: &Node) {
    let any_ready = candidates.iter().any(|candidate| candidate.ready);
    let local_ready = candidates.iter().any(|candidate| candidate.ready && candidate.local);
    for candidate in candidates {
        let last_resort = candidate.is_last_resort();
        let unready = |others_ready: bool| match (last_resort, others_ready) {
            (true, false) => Standing::LastResort,
            (true, true) => Standing::Terminating,
            (false, _) => Standing::NotReady,
        };
        let hinted = match topology {
            Topology::Node if !candidate.node_hints.contains(&node.name) => Standing::OtherNode,
            Topology::Zone if node.zone.as_ref().is_none_or(|zone| !candidate.zone_hints.contains(zone)) => {
                Standing::OtherZone
            }
            _ => Standing::Member,
        };
        candidate.cluster = match (uses_cluster, candidate.ready) {
            (false, _) => Standing::Unused,
            (true, true) => hinted,
            (true, false) => unready(any_ready),
        };
        candidate.own = match (uses_local, candidate.local, candidate.ready) {
            (false, _, _) => Standing::Unused,
            (true, false, _) => Standing::Remote,
            (true, true, true) => Standing::Member,
            (true, true, false) => unready(local_ready),
        };
    }
}
