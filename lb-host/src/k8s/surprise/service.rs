//! Services by themselves.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use lb_core::Address;

use crate::k8s::address::{lenient_address, lenient_prefix};
use crate::k8s::manifest::Placed;
use crate::k8s::place::Problem;
use crate::k8s::service::{OTHER_PROXY, PRESERVE_DESTINATION, RANGES_ANNOTATION, annotation, headless, kind};

/// Linux' default `net.ipv4.ip_local_port_range`, from which clients and masquerading take source ports.
const EPHEMERAL: std::ops::RangeInclusive<i32> = 32_768..=60_999;

/// What `service.kubernetes.io/topology-mode` was called before.
const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

pub(super) fn service(service: &Placed<Service>, problems: &mut Vec<Problem>) {
    let mut tell = |field: &str, message: &str, advice: &str| problems.push(service.problem(field, message, advice));
    let Some(spec) = &service.object.spec else { return };
    if service.name().starts_with(|first: char| first.is_ascii_digit()) {
        let message = "begins with a digit, which API servers before 1.36 refuse (§16.1)";
        tell("metadata.name", message, "begin it with a letter");
    }
    if service.label(OTHER_PROXY).is_some() {
        let message = format!("has {OTHER_PROXY}: kube-proxy sees neither the Service nor its slices (§2.2)");
        tell("metadata.labels", &message, "remove the label unless another proxy serves it");
    }
    if kind(spec) == "ExternalName" {
        return external_name(spec, &mut tell);
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        let message =
            "is deprecated: newer clusters can switch it off, as whoever may set it can take over any address";
        tell("spec.externalIPs", message, "use type LoadBalancer");
    }
    if spec.publish_not_ready_addresses == Some(true) && !headless(spec) {
        let message = "sends traffic to Pods that are not ready, terminating ones included (§5.7)";
        tell("spec.publishNotReadyAddresses", message, "keep it for headless Services whose Pods find each other");
    }
    if headless(spec) && spec.session_affinity.as_deref() == Some("ClientIP") {
        let message = "has no effect: a headless Service is not proxied (§2.4)";
        tell("spec.sessionAffinity", message, "remove it");
    }
    ports(spec, &mut tell);
    outside(service, spec, &mut tell);
    written_oddly(spec, &mut tell);
}

fn external_name(spec: &ServiceSpec, tell: &mut impl FnMut(&str, &str, &str)) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    if name.parse::<IpAddr>().is_ok() {
        let message = "is an IP address, for which DNS has no such record: the name will not resolve (§19.5)";
        tell("spec.externalName", message, "use a Service without selector, and an EndpointSlice with the address");
    } else if !name.is_empty() {
        let message = format!(
            "is an alias in DNS, no more: clients still ask {name} for the Service's own name, in the Host header of \
             HTTP and in TLS, which it may not know (§2.4, §19.5)"
        );
        tell("spec.externalName", &message, "have clients use the real name where they speak HTTP or TLS");
    }
    for (field, set) in [
        ("spec.ports", spec.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("spec.selector", spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())),
        ("spec.externalIPs", spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())),
    ] {
        if set {
            tell(field, "has no effect on a Service of type ExternalName, which is not proxied (§2.4)", "remove it");
        }
    }
}

fn ports(spec: &ServiceSpec, tell: &mut impl FnMut(&str, &str, &str)) {
    let numbers = spec.ports.iter().flatten().enumerate();
    let numbers = numbers.map(|(index, port)| (format!("spec.ports[{index}].nodePort"), port.node_port));
    let health = ("spec.healthCheckNodePort".to_owned(), spec.health_check_node_port);
    for (field, number) in numbers.chain([health]) {
        if let Some(number) = number.filter(|number| EPHEMERAL.contains(number)) {
            let message = format!(
                "is {number}, a port that nodes also take as a source for connections and masquerading: replies to \
                 those can be mistaken for new flows"
            );
            tell(&field, &message, "take one below 32768");
        }
    }
}

/// What is reached from outside the cluster.
fn outside(service: &Placed<Service>, spec: &ServiceSpec, tell: &mut impl FnMut(&str, &str, &str)) {
    let balanced = kind(spec) == "LoadBalancer";
    let cluster = spec.external_traffic_policy.as_deref() != Some("Local");
    if balanced && cluster && spec.session_affinity.as_deref() == Some("ClientIP") {
        let message = "is ClientIP, which each node remembers for itself: a load balancer that spreads a client's \
                       connections over nodes undoes it (§7.6)";
        tell("spec.sessionAffinity", message, "set the load balancer to keep a client on one node");
    }
    let udp = spec.ports.iter().flatten().position(|port| port.protocol.as_deref() == Some("UDP"));
    if let Some(index) = udp.filter(|_| balanced && cluster) {
        let message = "is UDP behind a load balancer with externalTrafficPolicy Cluster: Pods see the node's address \
                       for every client's (§8.1)";
        tell(&format!("spec.ports[{index}].protocol"), message, "use externalTrafficPolicy Local to keep addresses");
    }
    let ranges: Vec<_> = spec.load_balancer_source_ranges.iter().flatten().filter_map(|r| lenient_prefix(r)).collect();
    let field = "spec.loadBalancerSourceRanges";
    if balanced && !ranges.is_empty() {
        if spec.allocate_load_balancer_node_ports != Some(false) {
            let message = "does not hold for the NodePorts, which everybody who reaches a node can still dial (§8.6)";
            tell(field, message, "set allocateLoadBalancerNodePorts: false if the load balancer allows");
        }
        let status = service.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let entries = status.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        if entries.into_iter().any(|entry| entry.ip_mode.as_deref() == Some("Proxy")) {
            let message = "is not enforced by nodes for addresses of ipMode Proxy (§3.4)";
            tell(field, message, "see that the load balancer enforces it");
        }
        let families = spec.ip_families.iter().flatten();
        for family in families.filter(|family| !ranges.iter().any(|r| family_of(r.address()) == family.as_str())) {
            let message = format!("has no {family} block, so that all {family} sources are let in (§13.4)");
            tell(field, &message, "give blocks of both families");
        }
    }
    annotations(&service.object, tell);
}

/// Annotations that are read by fewer than one may think.
fn annotations(service: &Service, tell: &mut impl FnMut(&str, &str, &str)) {
    for (key, why, advice) in [
        (RANGES_ANNOTATION, "which nodes do not read (§8.6)", "use spec.loadBalancerSourceRanges"),
        (OLD_HINTS, "the deprecated name of topology-mode, under which it is not read here (§18.11)", "rename it"),
        (PRESERVE_DESTINATION, "which only Windows nodes heed (§14.4)", "keep it for Services that those serve"),
    ] {
        if annotation(service, key).is_some() {
            tell("metadata.annotations", &format!("has {key}, {why}"), advice);
        }
    }
}

fn family_of(address: Address) -> &'static str {
    if address.is_v4() { "IPv4" } else { "IPv6" }
}

/// §16.9: what older API servers took.
fn written_oddly(spec: &ServiceSpec, tell: &mut impl FnMut(&str, &str, &str)) {
    let listed = |field: &'static str, list: &Option<Vec<String>>| -> Vec<(String, String)> {
        let texts = list.iter().flatten().enumerate();
        texts.map(|(index, text)| (format!("{field}[{index}]"), text.clone())).collect()
    };
    let first = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip.clone()));
    let rest = [("spec.clusterIPs", &spec.cluster_ips), ("spec.externalIPs", &spec.external_ips)];
    let addresses = first.chain(rest.into_iter().flat_map(|(field, list)| listed(field, list)));
    let addresses = addresses.filter_map(|(field, text)| Some((field, lenient_address(&text)?.to_string(), text)));
    let strict = |text: &str| text.parse::<IpAddr>().is_ok();
    for (field, meant, text) in addresses.filter(|(_, _, text)| !strict(text)) {
        let message = format!("is {text}, read as {meant}; newer API servers refuse leading zeros (§3.2)");
        tell(&field, &message, "write it as it is read");
    }
    for (field, text) in listed("spec.loadBalancerSourceRanges", &spec.load_balancer_source_ranges) {
        let Some(meant) = lenient_prefix(&text).map(|block| block.to_string()) else { continue };
        if meant != text.trim() {
            let message = format!("is {text:?}, read as {meant}; newer API servers refuse it (§3.2)");
            tell(&field, &message, "write it as it is read");
        }
    }
}
