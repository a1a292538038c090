//! Services and what serves them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::control::{self, resolve};
use lb_core::rules::{Pool, VipClass};

use crate::k8s::endpoint_controller::{Given, MANAGED_BY, MIRRORING, SKIP_MIRROR, named_port};
use crate::k8s::endpoints::{self, service_key};
use crate::k8s::manifest::{Manifests, Placed};
use crate::k8s::node::ZONE;
use crate::k8s::place::Problem;
use crate::k8s::service::{OTHER_PROXY, kind};
use crate::k8s::{Settings, node, service};

/// What the endpoints controller writes into the Endpoints that it keeps.
const KEPT: &str = "endpoints.kubernetes.io/last-change-trigger-time";

fn selects(spec: &ServiceSpec) -> bool {
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

/// Services that nothing will ever serve, or one of whose ports nothing will (SEMANTICS §4.2, §18.1, §18.5).
pub(super) fn sources(written: &Manifests, applied: &Manifests, problems: &mut Vec<Problem>) {
    let given = Given::new(written);
    let by_service = by_service(&written.slices);
    for service in &written.services {
        let Some(spec) = service.object.spec.as_ref().filter(|spec| kind(spec) != "ExternalName") else { continue };
        let mut tell =
            |field: &str, message: &str, advice: &str| problems.push(service.problem(field, message, advice));
        if let Some(slices) = by_service.get(&service.key()) {
            unmatched_ports(spec, slices, &mut tell);
        } else if selects(spec) {
            // Where no Pods are given they come from elsewhere.
            let selected = given.selected(service);
            if selected.is_empty() && !applied.pods.is_empty() {
                let message = "matches none of the Pods in its namespace: it has no endpoints (§18.1)";
                tell("spec.selector", message, "compare it with the Pods' labels");
            }
            for (index, port) in spec.ports.iter().flatten().enumerate() {
                let Some(IntOrString::String(name)) = port.target_port.as_ref().filter(|_| !selected.is_empty()) else {
                    continue;
                };
                let protocol = protocol(port);
                let has = |pod: &&Placed<_>| pod_has(pod, name, protocol);
                if !name.is_empty() && !selected.iter().any(has) {
                    let field = format!("spec.ports[{index}].targetPort");
                    let message = format!(
                        "is {name}, a name that no {protocol} container port of the selected Pods has: the port has \
                         no endpoints (§18.5)"
                    );
                    tell(&field, &message, "name the container port, or give its number");
                }
            }
        } else if !given.has_endpoints(&service.key()) {
            let message = "is missing, and there is no EndpointSlice of the Service either: nothing will serve it";
            tell("spec.selector", message, "add a selector, or an EndpointSlice labelled with the Service's name");
        }
    }
}

fn pod_has(pod: &Placed<k8s_openapi::api::core::v1::Pod>, name: &str, protocol: &str) -> bool {
    pod.object.spec.as_ref().is_some_and(|spec| named_port(spec, name, protocol).is_some())
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// Hand-made slices whose ports have other names than the Service's (§4.2).
fn unmatched_ports(spec: &ServiceSpec, slices: &[&Placed<EndpointSlice>], tell: &mut impl FnMut(&str, &str, &str)) {
    let filled = slices.iter().filter(|slice| slice.object.endpoints.as_ref().is_some_and(|all| !all.is_empty()));
    let offered: BTreeSet<(String, String)> = filled
        .flat_map(|slice| slice.object.ports.iter().flatten())
        .map(|port| (port.name.clone().unwrap_or_default(), port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
        .collect();
    for (index, port) in spec.ports.iter().flatten().enumerate().filter(|_| !offered.is_empty()) {
        let name = port.name.clone().unwrap_or_default();
        if !offered.contains(&(name.clone(), protocol(port).to_owned())) {
            let message = format!(
                "is {name:?}, and no slice of the Service has a {} port of that name: the port has no endpoints (§4.2)",
                protocol(port)
            );
            tell(&format!("spec.ports[{index}].name"), &message, "give the slice's port the same name and protocol");
        }
    }
}

fn by_service(slices: &[Placed<EndpointSlice>]) -> BTreeMap<String, Vec<&Placed<EndpointSlice>>> {
    let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for slice in slices {
        if let Some(key) = service_key(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    by_service
}

/// Nodes on which a Local policy leaves nobody to serve (§6.4), and Services without usable endpoints.
pub(super) fn policies(applied: &Manifests, problems: &mut Vec<Problem>) {
    let nodes = applied
        .nodes
        .iter()
        .filter_map(|placed| node::node(std::slice::from_ref(placed), None, &Settings::default()).ok());
    let mut nodes: Vec<control::Node> = nodes.collect();
    let known = !nodes.is_empty();
    if !known {
        nodes.push(node::of_parts("", None, Vec::new(), &[], &Settings::default()));
    }
    let slices = by_service(&applied.slices);
    for placed in &applied.services {
        // What cannot be converted is an error, and told as one.
        let Ok(Some(service)) = service::service(placed) else { continue };
        let own = slices.get(&placed.key()).map_or(&[][..], Vec::as_slice);
        let own: Vec<control::Slice> = own.iter().filter_map(|slice| endpoints::slice(slice).ok()?).collect();
        let mut bare = Bare::default();
        for node in &nodes {
            for port in resolve(&service, own.iter(), node) {
                bare.look(&port, &node.name);
            }
        }
        for label in bare.unusable {
            let message = format!("has endpoints for {label}, and none of use: new flows are refused (§6.4)");
            problems.push(placed.problem("spec.ports", message, "see why none of them is ready"));
        }
        let lists = [
            ("spec.internalTrafficPolicy", bare.internal, "what dials the ClusterIP there"),
            ("spec.externalTrafficPolicy", bare.external, "what arrives there from outside"),
        ];
        for (field, nodes, what) in lists.into_iter().filter(|(_, nodes, _)| known && !nodes.is_empty()) {
            let nodes: Vec<_> = nodes.into_iter().collect();
            let message =
                format!("is Local, and there is no usable endpoint on {}: {what} is dropped (§6.4)", nodes.join(", "));
            problems.push(placed.problem(field, message, "run a Pod on every node that is dialled, or use Cluster"));
        }
    }
}

/// Where a Service is not served.
#[derive(Default)]
struct Bare {
    internal: BTreeSet<String>,
    external: BTreeSet<String>,
    unusable: BTreeSet<String>,
}

impl Bare {
    fn look(&mut self, port: &control::Resolved, node: &str) {
        if !port.has_any {
            if !port.candidates.is_empty() {
                self.unusable.insert(port.label());
            }
            return;
        }
        let served = port.pool(Pool::Local).is_some_and(|mut pool| pool.next().is_some());
        if served {
            return;
        }
        if port.internal_local {
            self.internal.insert(node.to_owned());
        }
        if port.external_local && port.vips.iter().any(|vip| vip.class != VipClass::ClusterIp) {
            self.external.insert(node.to_owned());
        }
    }
}

/// Hints that switch themselves off (§5.4).
pub(super) fn hints(applied: &Manifests, problems: &mut Vec<Problem>) {
    for (key, slices) in by_service(&applied.slices) {
        for family in ["IPv4", "IPv6"] {
            let own = slices.iter().filter(|slice| slice.object.address_type == family);
            let ready: Vec<_> = own.flat_map(|slice| ready(slice)).collect();
            for (kind, field, hinted) in [
                ("zone", "forZones", zone_hints as fn(&Endpoint) -> Vec<&str>),
                ("node", "forNodes", node_hints as fn(&Endpoint) -> Vec<&str>),
            ] {
                let bare = ready.iter().find(|(_, _, endpoint)| hinted(endpoint).is_empty());
                let some = ready.iter().any(|(_, _, endpoint)| !hinted(endpoint).is_empty());
                if let Some((slice, index, _)) = bare.filter(|_| some) {
                    let message = format!(
                        "is missing, while other ready endpoints of Service {key} have {kind} hints: nobody follows \
                         them then (§5.4)"
                    );
                    let field = format!("endpoints[{index}].hints.{field}");
                    problems.push(slice.problem(&field, message, "hint every ready endpoint, or none"));
                }
            }
            unhinted_zones(applied, &key, &ready, problems);
        }
    }
}

/// Zones of Nodes that no hint names: from there, traffic goes anywhere.
fn unhinted_zones(applied: &Manifests, key: &str, ready: &[Ready<'_>], problems: &mut Vec<Problem>) {
    let hinted: BTreeSet<&str> = ready.iter().flat_map(|(_, _, endpoint)| zone_hints(endpoint)).collect();
    let all = ready.iter().all(|(_, _, endpoint)| !zone_hints(endpoint).is_empty());
    let zones = applied.nodes.iter().map(|node| node.label(ZONE).unwrap_or_default());
    let without: BTreeSet<&str> = zones.filter(|zone| !hinted.contains(zone)).collect();
    let Some((slice, ..)) = ready.first().filter(|_| all && !hinted.is_empty() && !without.is_empty()) else { return };
    let named: Vec<_> = without.iter().map(|zone| if zone.is_empty() { "no zone" } else { zone }).collect();
    let message =
        format!("have no hint for {}: nodes there send Service {key}'s traffic to every zone (§5.4)", named.join(", "));
    problems.push(slice.problem("endpoints", message, "have a ready endpoint in each zone"));
}

type Ready<'a> = (&'a Placed<EndpointSlice>, usize, &'a Endpoint);

/// The ready endpoints of a slice, with their places in it.
fn ready(slice: &Placed<EndpointSlice>) -> impl Iterator<Item = Ready<'_>> {
    let endpoints = slice.object.endpoints.iter().flatten().enumerate();
    let is_ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    endpoints.filter(move |(_, endpoint)| is_ready(endpoint)).map(move |(index, endpoint)| (slice, index, endpoint))
}

fn zone_hints(endpoint: &Endpoint) -> Vec<&str> {
    let zones = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    zones.map(|zone| zone.name.as_str()).collect()
}

fn node_hints(endpoint: &Endpoint) -> Vec<&str> {
    let nodes = endpoint.hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    nodes.map(|node| node.name.as_str()).collect()
}

/// Slices, or parts of them, that no proxy looks at (§2.2, §4.1, §4.3).
pub(super) fn slices(slices: &[Placed<EndpointSlice>], problems: &mut Vec<Problem>) {
    for slice in slices {
        if service_key(slice).is_none() {
            let message =
                format!("has no {}: it belongs to no Service, and nobody reads it (§4.1)", endpoints::SERVICE_NAME);
            problems.push(slice.problem("metadata.labels", message, "add the label with the Service's name"));
        }
        if slice.label(OTHER_PROXY).is_some() {
            let message = format!("has {OTHER_PROXY}: kube-proxy does not see the slice (§2.2)");
            problems.push(slice.problem("metadata.labels", message, "remove the label unless another proxy reads it"));
        }
        if slice.object.address_type == "FQDN" {
            let message = "is FQDN, which kube-proxy does not read (§4.1)";
            problems.push(slice.problem("addressType", message, "give addresses"));
        }
        for (index, endpoint) in slice.object.endpoints.iter().flatten().enumerate() {
            if endpoint.addresses.len() > 1 {
                let field = format!("endpoints[{index}].addresses");
                let message = "has several entries, of which only the first is used (§4.3)";
                problems.push(slice.problem(&field, message, "make the others endpoints of their own"));
            }
        }
    }
}

/// v1 Endpoints that come to nothing (§2.1, §18.10).
pub(super) fn unread(written: &Manifests, problems: &mut Vec<Problem>) {
    let services: BTreeMap<String, &Placed<Service>> = written.services.iter().map(|s| (s.key(), s)).collect();
    let sliced: BTreeSet<String> = written
        .slices
        .iter()
        .filter(|slice| slice.label(MANAGED_BY) != Some(MIRRORING))
        .filter_map(service_key)
        .collect();
    for endpoints in &written.endpoints {
        let kept = endpoints.object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(KEPT));
        let spec = services.get(&endpoints.key()).and_then(|service| service.object.spec.as_ref());
        let why = match spec {
            _ if kept => continue,
            _ if endpoints.label(SKIP_MIRROR) == Some("true") => {
                format!("its label {SKIP_MIRROR} keeps it from being mirrored")
            }
            None => "there is no Service of its name".to_owned(),
            Some(spec) if selects(spec) => "the Service of its name has a selector, which decides".to_owned(),
            Some(_) if sliced.contains(&endpoints.key()) => "the Service of its name has EndpointSlices".to_owned(),
            Some(_) => continue,
        };
        let message = format!("is read by no proxy, and {why} (§2.1, §18.10)");
        problems.push(endpoints.problem("subsets", message, "write an EndpointSlice instead"));
    }
}
