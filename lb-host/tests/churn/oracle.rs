//! Who may be sent a new flow, by SEMANTICS §5 and §6.3 alone: from the objects that a node had seen by then.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::control::Mode;
use lb_core::{Address, Flow, Instant};
use lb_host::cluster::api::{Change, Event};
use lb_host::cluster::kubernetes::Kubernetes;
use lb_host::k8s::address::lenient_address;

/// The API's history, and when each node took in what.
#[derive(Default)]
pub(crate) struct Oracle {
    events: Vec<Event>,
    /// By node, times and resource versions.
    followed: BTreeMap<String, Vec<(Instant, u64)>>,
    read: usize,
}

/// A flow at its first packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    pub(crate) time: Instant,
    pub(crate) flow: Flow,
}

/// An endpoint: its address and port, its node, ready, serving, terminating.
#[derive(Clone, Debug)]
struct Endpoint {
    at: (Address, u16),
    node: String,
    ready: bool,
    last_resort: bool,
}

impl Oracle {
    pub(crate) fn read(&mut self, it: &Kubernetes) {
        self.events.extend_from_slice(it.api().watch(self.events.len() as u64));
        for entry in &it.log()[self.read..] {
            let node = entry.who.strip_prefix("kube-proxy on ");
            let version = entry.what.strip_prefix("has rules for resource version ");
            if let (Some(node), Some(version)) = (node, version.and_then(|version| version.parse().ok())) {
                self.followed.entry(node.to_owned()).or_default().push((entry.time, version));
            }
        }
        self.read = it.log().len();
    }

    /// Whether the node's rules allow what it did. Of two sets of rules at one moment either will do.
    pub(crate) fn judge(&self, mode: Mode, node: &str, own: &[Address], birth: &Birth) -> Result<(), String> {
        let known = self.followed.get(node).map_or(&[][..], Vec::as_slice);
        let before = known.iter().rev().find(|(time, _)| *time < birth.time);
        let same = known.iter().filter(|(time, _)| *time == birth.time);
        let versions: Vec<u64> = before.into_iter().chain(same).map(|(_, version)| *version).collect();
        let mut why = Err(format!("{node} knew nothing yet"));
        for version in versions {
            why = self.allows(version, mode, node, own, birth);
            if why.is_ok() {
                break;
            }
        }
        why
    }

    fn allows(&self, version: u64, mode: Mode, node: &str, own: &[Address], birth: &Birth) -> Result<(), String> {
        let (original, backend) = (birth.flow.original, (birth.flow.reply.source, birth.flow.reply.source_port));
        if mode == Mode::USERSPACE {
            // The proxy on the node dials for itself.
            return if own.contains(&backend.0) { Ok(()) } else { Err("not sent to the proxy".to_owned()) };
        }
        let (services, slices) = self.objects(version);
        let dialled = (original.destination, original.destination_port);
        let mut reasons = Vec::new();
        for (key, service) in &services {
            let Some((port, external)) = dialled_port(service, dialled, own) else { continue };
            let endpoints = endpoints(key, &port, &slices);
            let spec = service.spec.as_ref().ok_or("no spec")?;
            let policy = if external { &spec.external_traffic_policy } else { &spec.internal_traffic_policy };
            // Pods and the node itself take the short circuit (§7.4).
            let inside = own.contains(&original.source) || is_pod(original.source);
            let local = policy.as_deref() == Some("Local") && !(external && inside);
            let pool: Vec<_> = endpoints.iter().filter(|one| !local || one.node == node).collect();
            let any_ready = pool.iter().any(|one| one.ready);
            let allowed = |one: &&&Endpoint| one.ready || (one.last_resort && !any_ready);
            let windows = mode == Mode::KERNELSPACE && !any_ready;
            if pool.iter().filter(|one| windows || allowed(one)).any(|one| one.at == backend) {
                return Ok(());
            }
            reasons.push(format!("{key} at {version} forbids {backend:?} of {pool:?}"));
        }
        Err(if reasons.is_empty() { format!("no Service at {version}") } else { reasons.join("; ") })
    }

    /// Services and slices at a resource version.
    fn objects(&self, version: u64) -> (BTreeMap<String, &Service>, BTreeMap<String, &EndpointSlice>) {
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        for event in self.events.iter().take_while(|event| event.version <= version) {
            let gone = event.change == Change::Deleted;
            if let Some(service) = event.of::<Service>() {
                services.insert(service.key(), &service.object);
                gone.then(|| services.remove(&service.key()));
            } else if let Some(slice) = event.of::<EndpointSlice>() {
                slices.insert(slice.key(), &slice.object);
                gone.then(|| slices.remove(&slice.key()));
            }
        }
        (services, slices)
    }
}

/// The pods' block of the box.
fn is_pod(address: Address) -> bool {
    lb_host::cluster::PODS.iter().any(|block| block.contains(address))
}

/// The name of the Service's port that is dialled, and whether that is from without.
fn dialled_port(service: &Service, (address, port): (Address, u16), own: &[Address]) -> Option<(String, bool)> {
    let spec = service.spec.as_ref()?;
    let is = |ip: &String| lenient_address(ip) == Some(address);
    let cluster = spec.cluster_ips.iter().flatten().any(is);
    let ingress = service.status.iter().flat_map(|status| status.load_balancer.iter());
    let external = ingress.flat_map(|lb| lb.ingress.iter().flatten()).filter_map(|one| one.ip.as_ref()).any(is);
    spec.ports.iter().flatten().find_map(|one| {
        let by_port = one.port == i32::from(port) && (cluster || external);
        let by_node = own.contains(&address) && one.node_port == Some(i32::from(port));
        (by_port || by_node).then(|| (one.name.clone().unwrap_or_default(), !cluster))
    })
}

fn endpoints(key: &str, port: &str, slices: &BTreeMap<String, &EndpointSlice>) -> Vec<Endpoint> {
    let (namespace, name) = key.split_once('/').unwrap_or_default();
    let own = slices.values().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        slice.metadata.namespace.as_deref() == Some(namespace)
            && labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|owner| owner == name)
    });
    let mut endpoints = Vec::new();
    for slice in own {
        let numbers = slice.ports.iter().flatten().filter(|one| one.name.as_deref().unwrap_or_default() == port);
        for number in numbers.filter_map(|one| u16::try_from(one.port?).ok()) {
            for one in slice.endpoints.iter().flatten() {
                let conditions = one.conditions.clone().unwrap_or_default();
                let Some(address) = one.addresses.first().and_then(|address| lenient_address(address)) else {
                    continue;
                };
                endpoints.push(Endpoint {
                    at: (address, number),
                    node: one.node_name.clone().unwrap_or_default(),
                    ready: conditions.ready.unwrap_or(true),
                    last_resort: conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false),
                });
            }
        }
    }
    endpoints
}
