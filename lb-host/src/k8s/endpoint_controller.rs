//! The endpoint controllers: EndpointSlices for Services whose input brings none (SEMANTICS §18).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, EndpointAddress, EndpointSubset, Endpoints, Node, ObjectReference, Pod, PodSpec, Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::Family;

use super::address::lenient_address;
use super::endpoints::{HEADLESS, SERVICE_NAME, service_key};
use super::manifest::{Manifests, Placed};
use super::node::ZONE;
use super::place::Problem;
use super::service::{annotation, headless, kind};
use super::topology;

/// Who made a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who makes slices by selector.
pub(crate) const SELECTING: &str = "endpointslice-controller.k8s.io";
/// Who makes slices of v1 Endpoints.
pub(crate) const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label at `true` are not mirrored (§18.10).
pub(super) const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The CPU-proportional hints, which win over the trafficDistribution field (§18.11).
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// Endpoints a slice holds, as the controllers are set by default (§16.8).
pub(crate) const SLICE: usize = 100;
/// Addresses that are mirrored of one subset (§18.10).
const MIRRORED: usize = 1000;

/// What the controllers make of the input.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Slices of Services that have none in the input; each stands where its Service does.
    pub slices: Vec<Placed<EndpointSlice>>,
    /// What may surprise.
    pub warnings: Vec<Problem>,
}

/// Runs the controllers over Services that no slice of the input belongs to: by selector and readiness of
/// the Pods for those with a selector, from the v1 Endpoints of their name for the others. A Service
/// without selector is the user's business, and an ExternalName has no endpoints (§18.1).
pub fn slices(manifests: &Manifests) -> Made {
    let owned: BTreeSet<_> = manifests.slices.iter().filter_map(service_key).collect();
    let names: BTreeSet<_> = manifests.slices.iter().map(Placed::key).collect();
    let given = Given::new(manifests);
    let mut made = Made::default();
    for service in manifests.services.iter().filter(|service| !owned.contains(&service.key())) {
        let mut free = (1..).map(|number| format!("{}-{number}", service.name()));
        for group in groups(service, &given, &mut made.warnings) {
            // A group without endpoints is a placeholder, and has a slice all the same (§18.8).
            let chunks = group.endpoints.chunks(SLICE).map(<[_]>::to_vec);
            let chunks: Vec<_> = if group.endpoints.is_empty() { vec![Vec::new()] } else { chunks.collect() };
            for endpoints in chunks {
                let name = free.find(|name| !names.contains(&format!("{}/{name}", service.namespace())));
                made.slices.push(service.made(group.slice(service, name, endpoints)));
            }
        }
    }
    made
}

/// What the controllers make of one Service, before it is cut into slices: none of an ExternalName.
pub(crate) fn groups(service: &Placed<Service>, given: &Given<'_>, warnings: &mut Vec<Problem>) -> Vec<Group> {
    match &service.object.spec {
        Some(spec) if kind(spec) == "ExternalName" => Vec::new(),
        Some(spec) if !spec.selector.iter().all(BTreeMap::is_empty) => by_selector(service, given, warnings),
        _ => mirrored(service, given),
    }
}

/// What the controllers look at, each by how they look it up.
pub(crate) struct Given<'a> {
    /// By namespace and each of their labels.
    pods: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Placed<Pod>>>,
    /// By name.
    nodes: BTreeMap<&'a str, &'a Placed<Node>>,
    /// By namespace and name.
    endpoints: BTreeMap<String, &'a Placed<Endpoints>>,
}

fn by_label<'a>(
    pods: impl Iterator<Item = &'a Placed<Pod>>,
) -> BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Placed<Pod>>> {
    let mut by_label: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for pod in pods {
        for (key, value) in pod.object.metadata.labels.iter().flatten() {
            by_label.entry((pod.namespace(), key.as_str(), value.as_str())).or_default().push(pod);
        }
    }
    by_label
}

impl<'a> Given<'a> {
    pub(super) fn new(manifests: &'a Manifests) -> Self {
        Self::of(manifests.pods.iter(), manifests.nodes.iter(), manifests.endpoints.iter())
    }

    /// These objects.
    pub(crate) fn of(
        pods: impl Iterator<Item = &'a Placed<Pod>>,
        nodes: impl Iterator<Item = &'a Placed<Node>>,
        endpoints: impl Iterator<Item = &'a Placed<Endpoints>>,
    ) -> Self {
        Self {
            pods: by_label(pods),
            nodes: nodes.map(|node| (node.name(), node)).collect(),
            endpoints: endpoints.map(|endpoints| (endpoints.key(), endpoints)).collect(),
        }
    }

    /// Whether there are v1 Endpoints of this namespace and name.
    pub(super) fn has_endpoints(&self, key: &str) -> bool {
        self.endpoints.contains_key(key)
    }

    /// The Pods that have all labels of a Service's selector (§18.1): those of the rarest, filtered by the others.
    pub(super) fn selected(&self, service: &Placed<Service>) -> Vec<&'a Placed<Pod>> {
        let selector = service.object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let pairs = selector.into_iter().flatten();
        let lists = pairs.map(|(key, value)| self.pods.get(&(service.namespace(), key.as_str(), value.as_str())));
        let shortest = lists.map(|pods| pods.map_or(&[][..], Vec::as_slice)).min_by_key(|pods| pods.len());
        let has = |pod: &Placed<Pod>| selector.into_iter().flatten().all(|(key, value)| pod.label(key) == Some(value));
        shortest.unwrap_or_default().iter().copied().filter(|pod| has(pod)).collect()
    }
}

/// A Service's endpoints of one family and one set of ports: what its slices of these are to hold between them.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The controller whose they are.
    pub(crate) manager: &'static str,
    /// The family of their addresses.
    pub(crate) family: Family,
    /// Their ports.
    pub(crate) ports: Vec<EndpointPort>,
    /// Themselves.
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Group {
    /// A slice of some of the endpoints. Its labels are those of §18.9: the Service's own but for the reserved
    /// ones, and the controller's.
    pub(crate) fn slice(
        &self,
        service: &Placed<Service>,
        name: Option<String>,
        endpoints: Vec<Endpoint>,
    ) -> EndpointSlice {
        let mut labels = service.object.metadata.labels.clone().unwrap_or_default();
        labels.retain(|key, _| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&key.as_str()));
        labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
        labels.insert(MANAGED_BY.to_owned(), self.manager.to_owned());
        let address = service.object.spec.as_ref().is_some_and(|spec| !headless(spec));
        if !address {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        EndpointSlice {
            address_type: family_name(self.family).to_owned(),
            metadata: ObjectMeta {
                name,
                namespace: Some(service.namespace().to_owned()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ports: Some(self.ports.clone()),
            endpoints: Some(endpoints),
        }
    }
}

/// Slices of the Pods that a Service selects: per family, and per set of ports that Pods' named target
/// ports come to (§18.5, §18.8).
fn by_selector(service: &Placed<Service>, given: &Given<'_>, warnings: &mut Vec<Problem>) -> Vec<Group> {
    let manager = SELECTING;
    let mut pods = given.selected(service);
    pods.retain(|pod| candidate(&pod.object));
    let spec = service.object.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut groups: Vec<Group> = Vec::new();
    for family in families(service) {
        for pod in &pods {
            let Some(address) = pod_address(&pod.object, family) else { continue };
            let name = pod.object.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = name.and_then(|name| given.nodes.get(name));
            // Where no Node is given at all, none can be missing.
            if let (Some(name), None, false, false) = (name, node, publish, given.nodes.is_empty()) {
                let message =
                    format_args!("is {name}, which is not among the Nodes given: no endpoint is made of the Pod");
                warnings.push(pod.problem("spec.nodeName", message, "add that Node, or leave out all Nodes"));
                continue;
            }
            let zone = node.and_then(|node| node.label(ZONE));
            let endpoint = endpoint(service, pod, address, zone, publish);
            let ports = ports(spec.ports.as_deref().unwrap_or_default(), pod.object.spec.as_ref());
            match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { manager, family, ports, endpoints: vec![endpoint] }),
            }
        }
    }
    if groups.is_empty() {
        // A placeholder, so that the Service is known to have none (§18.8).
        let family = families(service).first().copied().unwrap_or(Family::V4);
        groups.push(Group { manager, family, ports: Vec::new(), endpoints: Vec::new() });
    }
    hint(service, &mut groups, given, warnings);
    groups
}

/// Whether a Pod has not come to its end (§18.2); one without an address is left out later.
fn candidate(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The Pod's address of a family, as it is written (§18.6).
fn pod_address(pod: &Pod, family: Family) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips = status.pod_ip.as_deref().into_iter().chain(listed);
    ips.find(|ip| lenient_address(ip).is_some_and(|address| address.family() == family))
}

/// The families that a Service's slices are of (§18.8): its own; both for a headless one that says none.
fn families(service: &Placed<Service>) -> Vec<Family> {
    let Some(spec) = &service.object.spec else { return Vec::new() };
    let named = spec.ip_families.iter().flatten();
    let mut families: Vec<_> = named.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    if families.is_empty() {
        let ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        families = ips.filter_map(|ip| lenient_address(ip)).map(lb_core::Address::family).collect();
        families.sort();
        families.dedup();
    }
    if families.is_empty() { vec![Family::V4, Family::V6] } else { families }
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The endpoint that a Pod is (§18.3, §18.6, §18.7).
fn endpoint(
    service: &Placed<Service>,
    pod: &Placed<Pod>,
    address: &str,
    zone: Option<&str>,
    publish: bool,
) -> Endpoint {
    let status = pod.object.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let serving = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let terminating = pod.object.metadata.deletion_timestamp.is_some();
    let spec = pod.object.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| subdomain == Some(service.name())),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        zone: zone.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.name().to_owned()),
            namespace: Some(pod.namespace().to_owned()),
            uid: pod.object.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// A Service's ports at a Pod; those whose named target port the Pod lacks are left out (§18.5).
fn ports(ports: &[ServicePort], pod: Option<&PodSpec>) -> Vec<EndpointPort> {
    let at_pod = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            // An absent or zero target port is the Service's own (§16.2).
            None | Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) if name.is_empty() => port.port,
            Some(IntOrString::String(name)) => named_port(pod?, name, protocol)?,
        };
        Some(EndpointPort {
            app_protocol: port.app_protocol.clone(),
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol.to_owned()),
        })
    };
    ports.iter().filter_map(at_pod).collect()
}

/// The first container port of a name and protocol; init containers that restart come last (§18.5).
pub(super) fn named_port(pod: &PodSpec, name: &str, protocol: &str) -> Option<i32> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten().filter(sidecar));
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let same = |port: &str| port == protocol;
    let port = ports.find(|port| port.name.as_deref() == Some(name) && same(port.protocol.as_deref().unwrap_or("TCP")));
    port.map(|port| port.container_port)
}

/// Hints as the Service asks for (§18.11): by the zones' shares of CPU, or by trafficDistribution each ready endpoint
/// for its own zone, and node.
fn hint(service: &Placed<Service>, groups: &mut [Group], given: &Given<'_>, warnings: &mut Vec<Problem>) {
    if matches!(annotation(&service.object, TOPOLOGY_MODE), Some("Auto" | "auto")) {
        for family in families(service) {
            let own = groups.iter_mut().filter(|group| group.family == family);
            let mut endpoints: Vec<_> = own.flat_map(|group| &mut group.endpoints).collect();
            if let (Err(why), false) =
                (topology::hint(&mut endpoints, given.nodes.values().copied()), endpoints.is_empty())
            {
                let message = format_args!("asks for hints by the zones' CPU, and there are none: {why} (§18.11)");
                let advice = "correct that, or use spec.trafficDistribution";
                warnings.push(service.problem("metadata.annotations", message, advice));
            }
        }
        return;
    }
    let distribution = service.object.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let nodes = distribution == Some("PreferSameNode");
    if !nodes && !matches!(distribution, Some("PreferClose" | "PreferSameZone")) {
        return;
    }
    for endpoint in groups.iter_mut().flat_map(|group| &mut group.endpoints) {
        let ready = endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true));
        let zone = endpoint.zone.iter().map(|zone| ForZone { name: zone.clone() });
        let node = endpoint.node_name.iter().filter(|_| nodes).map(|node| ForNode { name: node.clone() });
        let hints = EndpointHints { for_zones: some(zone.collect()), for_nodes: some(node.collect()) };
        endpoint.hints = (ready && hints != EndpointHints::default()).then_some(hints);
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Slices that mirror the v1 Endpoints of a Service without selector (§18.10).
fn mirrored(service: &Placed<Service>, given: &Given<'_>) -> Vec<Group> {
    let manager = MIRRORING;
    let named = given.endpoints.get(&service.key());
    let Some(endpoints) = named.filter(|endpoints| endpoints.label(SKIP_MIRROR) != Some("true")) else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    for subset in endpoints.object.subsets.iter().flatten() {
        for family in [Family::V4, Family::V6] {
            let ports = subset.ports.iter().flatten().map(mirrored_port).collect();
            groups.push(Group { manager, family, ports, endpoints: mirrored_endpoints(subset, family) });
        }
    }
    groups.retain(|group| !group.endpoints.is_empty());
    groups
}

fn mirrored_port(port: &k8s_openapi::api::core::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
    }
}

fn mirrored_endpoints(subset: &EndpointSubset, family: Family) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let endpoint = |(address, ready): (&EndpointAddress, bool)| Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    let of_family = |ip: &str| lenient_address(ip).is_some_and(|address| address.family() == family);
    ready.chain(not_ready).take(MIRRORED).filter(|(address, _)| of_family(&address.ip)).map(endpoint).collect()
}

/// The v1 Endpoints that Kubernetes would show for the Services, but for ExternalNames: those given, else
/// made of their slices.
pub fn endpoints(manifests: &Manifests) -> Vec<Placed<Endpoints>> {
    let given: BTreeMap<_, _> = manifests.endpoints.iter().map(|endpoints| (endpoints.key(), endpoints)).collect();
    let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for slice in &manifests.slices {
        slices.entry(service_key(slice)).or_default().push(&slice.object);
    }
    let external = |service: &Placed<Service>| service.object.spec.as_ref().is_some_and(|s| kind(s) == "ExternalName");
    let services = manifests.services.iter().filter(|service| !external(service));
    let made = services.map(|service| match given.get(&service.key()) {
        Some(given) => (*given).clone(),
        None => endpoints_of(service, slices.get(&Some(service.key())).map_or(&[], Vec::as_slice)),
    });
    made.collect()
}

/// The v1 Endpoints made of a Service's slices (§18.4): of its first family, in one subset an equal list of
/// ports, terminating endpoints left out.
pub(crate) fn endpoints_of(service: &Placed<Service>, slices: &[&EndpointSlice]) -> Placed<Endpoints> {
    let primary = families(service).first().copied().unwrap_or(Family::V4);
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family_name(primary)) {
        let ports: Vec<_> = slice.ports.iter().flatten().filter_map(endpoints_port).collect();
        let place = subsets.iter().position(|subset| subset.ports.as_ref() == Some(&ports));
        let place = place.unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports: Some(ports), ..EndpointSubset::default() });
            subsets.len() - 1
        });
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let Some(ip) = endpoint.addresses.first().filter(|_| ready || conditions.terminating != Some(true)) else {
                continue;
            };
            let address = EndpointAddress {
                ip: ip.clone(),
                hostname: endpoint.hostname.clone(),
                node_name: endpoint.node_name.clone(),
                target_ref: endpoint.target_ref.clone(),
            };
            let subset = &mut subsets[place];
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().push(address);
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    let metadata = ObjectMeta {
        name: Some(service.name().to_owned()),
        namespace: Some(service.namespace().to_owned()),
        labels: service.object.metadata.labels.clone(),
        ..ObjectMeta::default()
    };
    service.made(Endpoints { metadata, subsets: some(subsets) })
}

fn endpoints_port(port: &EndpointPort) -> Option<k8s_openapi::api::core::v1::EndpointPort> {
    Some(k8s_openapi::api::core::v1::EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: port.protocol.clone(),
    })
}
