//! Which endpoints kube-proxy would use for a service port (SEMANTICS §5), for the kernel's rules: a second opinion, apart
//! from the engine's control plane.

use std::net::{IpAddr, SocketAddr};

use lb_core::Family;
use lb_core::control::{Endpoint, ServicePort, TrafficPolicy};

use crate::objects::{Objects, Served};

/// One service port in the scenario's family, as kube-proxy sees it.
pub struct Port {
    /// `s0-tcp`.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    pub port: u16,
    pub node_port: Option<u16>,
    pub cluster_ip: IpAddr,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    /// Sources that load balancer IPs admit; everybody if there are none.
    pub ranges: Vec<String>,
    pub internal_local: bool,
    pub external_local: bool,
    pub affinity: Option<u32>,
    pub cluster: Vec<SocketAddr>,
    pub local: Vec<SocketAddr>,
    /// Whether there is an endpoint anywhere (§5.5).
    pub has_any: bool,
    /// The endpoints that keep UDP flows alive (§11.5).
    pub serving: Vec<SocketAddr>,
}

impl Port {
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether it is one of its frontends; a node port by its number alone.
    pub fn is_dialled_by(&self, dialled: SocketAddr) -> bool {
        let mut vips = self.external_ips.iter().chain(&self.load_balancer_ips).chain([&self.cluster_ip]);
        vips.any(|ip| SocketAddr::new(*ip, self.port) == dialled) || self.node_port == Some(dialled.port())
    }

    /// The endpoints of one policy.
    pub fn pool(&self, local: bool) -> &[SocketAddr] {
        if local { &self.local } else { &self.cluster }
    }

    /// Every endpoint that any rule may send to.
    pub fn in_use(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.cluster.iter().chain(&self.local).copied().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The service ports of all Services.
pub fn ports(objects: &Objects) -> Vec<Port> {
    objects.served.iter().flat_map(|served| served.service.ports.iter().map(|port| of(objects, served, port))).collect()
}

fn of(objects: &Objects, served: &Served, port: &ServicePort) -> Port {
    let service = &served.service;
    let family = objects.family;
    let ips = |addresses: &[lb_core::Address]| -> Vec<IpAddr> {
        addresses
            .iter()
            .filter(|address| address.family() == family)
            .map(|address| address.to_string().parse().unwrap())
            .collect()
    };
    let (external_ips, load_balancer_ips) = (ips(&service.external_ips), ips(&service.load_balancer_ips));
    let is_external = port.node_port.is_some() || !external_ips.is_empty() || !load_balancer_ips.is_empty();
    let internal_local = service.internal_policy == TrafficPolicy::Local;
    let external_local = service.external_policy == TrafficPolicy::Local && is_external;

    let mut all: Vec<(&Endpoint, SocketAddr)> = Vec::new();
    for slice in &served.slices {
        let Some(number) = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.address.family() == family) {
            all.push((endpoint, SocketAddr::new(endpoint.address.to_string().parse().unwrap(), number.port)));
        }
    }
    all.sort_by_key(|(_, socket)| socket.to_string());
    let chosen = |keep: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        all.iter().filter(|(endpoint, _)| keep(endpoint)).map(|(_, socket)| *socket).collect()
    };
    let is_local = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(&objects.node.name);
    let is_leaving = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    // §5.2, §5.3: the ready ones, or if there is none those that leave.
    let or_leaving = |ready: Vec<SocketAddr>, leaving: Vec<SocketAddr>| if ready.is_empty() { leaving } else { ready };
    let uses_cluster = !internal_local || is_external;
    let uses_local = internal_local || external_local;
    let cluster = match uses_cluster {
        true => or_leaving(nearby(objects, &all), chosen(&is_leaving)),
        false => Vec::new(),
    };
    let local = match uses_local {
        true => or_leaving(
            chosen(&|endpoint| is_local(endpoint) && endpoint.ready),
            chosen(&|endpoint| is_local(endpoint) && is_leaving(endpoint)),
        ),
        false => Vec::new(),
    };
    let has_any =
        !cluster.is_empty() || (uses_local && !chosen(&|endpoint| endpoint.ready || is_leaving(endpoint)).is_empty());
    Port {
        name: format!("{}-{}", service.name.trim_start_matches("default/"), port.name),
        protocol: port.name.to_string(),
        port: port.port,
        node_port: port.node_port,
        cluster_ip: ips(&service.cluster_ips)[0],
        external_ips,
        load_balancer_ips,
        ranges: service
            .source_ranges
            .iter()
            .filter(|range| range.address().family() == family)
            .map(ToString::to_string)
            .collect(),
        internal_local,
        external_local,
        affinity: service.affinity,
        cluster,
        local,
        has_any,
        serving: chosen(&|endpoint| endpoint.serving),
    }
}

/// The ready endpoints that hints leave for this node (§5.4).
fn nearby(objects: &Objects, all: &[(&Endpoint, SocketAddr)]) -> Vec<SocketAddr> {
    let ready: Vec<_> = all.iter().filter(|(endpoint, _)| endpoint.ready).collect();
    let zone = objects.node.zone.as_ref();
    let by_node = |endpoint: &Endpoint| endpoint.node_hints.contains(&objects.node.name);
    let by_zone = |endpoint: &Endpoint| zone.is_some_and(|zone| endpoint.zone_hints.contains(zone));
    let kept = |is_hinted: &dyn Fn(&Endpoint) -> bool, is_near: &dyn Fn(&Endpoint) -> bool| {
        let all_hinted = ready.iter().all(|(endpoint, _)| is_hinted(endpoint));
        let near: Vec<_> = ready.iter().filter(|(endpoint, _)| is_near(endpoint)).map(|(_, socket)| *socket).collect();
        (all_hinted && !near.is_empty()).then_some(near)
    };
    kept(&|endpoint| !endpoint.node_hints.is_empty(), &by_node)
        .or_else(|| kept(&|endpoint| !endpoint.zone_hints.is_empty(), &by_zone))
        .unwrap_or_else(|| ready.iter().map(|(_, socket)| *socket).collect())
}

/// The pods' block, if the node can tell pods by it.
pub fn pod_block(objects: &Objects) -> Option<&'static str> {
    use lb_core::control::Detector;
    let block = if objects.family == Family::V4 { "10.244.0.0/16" } else { "fd00:244::/32" };
    (objects.node.proxy.detector != Detector::None).then_some(block)
}
