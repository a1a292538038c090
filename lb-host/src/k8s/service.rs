//! Services as the control plane takes them (SEMANTICS §2-3).

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use lb_core::control::{self, TrafficPolicy};
use lb_core::{Address, Protocol};

use super::address::{lenient_address, lenient_prefix};
use super::manifest::{Object, Placed};
use super::place::Problem;

/// The label that hands a Service and its slices to another proxy, whatever its value (SEMANTICS §2.2).
pub(super) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The annotation that has Windows' mode keep destinations (SEMANTICS §14.4).
pub(super) const PRESERVE_DESTINATION: &str = "preserve-destination";

/// Cloud providers read it; proxies do not (SEMANTICS §8.6).
pub(super) const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The affinity timeout of a Service that sets none, in seconds (SEMANTICS §3.6).
const AFFINITY: i32 = 10_800;

/// The Service as the control plane takes it; `None` if it is not to be proxied (SEMANTICS §2.2, §2.4, §2.5).
///
/// # Errors
/// A port or protocol that no packet can have.
pub fn service(placed: &Placed<Service>) -> Result<Option<control::Service>, Problem> {
    let Some(spec) = placed.object.spec.as_ref().filter(|_| placed.label(OTHER_PROXY).is_none()) else {
        return Ok(None);
    };
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty() || kind(spec) == "ExternalName" {
        return Ok(None);
    }
    let load_balancer_ips = ingress_ips(&placed.object);
    let external_policy = external_policy(spec);
    let health_check_port = match spec.health_check_node_port {
        Some(port) if port != 0 && kind(spec) == "LoadBalancer" && external_policy == TrafficPolicy::Local => {
            Some(number(placed, "spec.healthCheckNodePort", port)?)
        }
        _ => None,
    };
    let ports = spec.ports.iter().flatten().enumerate();
    Ok(Some(control::Service {
        name: placed.key().into(),
        cluster_ips,
        external_ips: spec.external_ips.iter().flatten().filter_map(|ip| lenient_address(ip)).collect(),
        load_balancer_ips,
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|range| lenient_prefix(range))
            .collect(),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy,
        affinity: affinity(spec),
        preserve_destination: annotation(&placed.object, PRESERVE_DESTINATION) == Some("true"),
        health_check_port,
        ports: ports.map(|(index, port)| service_port(placed, index, port)).collect::<Result<_, _>>()?,
    }))
}

/// The value of one of a Service's annotations.
pub(super) fn annotation<'s>(service: &'s Service, key: &str) -> Option<&'s str> {
    service.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn service_port(placed: &Placed<Service>, index: usize, port: &ServicePort) -> Result<control::ServicePort, Problem> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let node_port = port.node_port.filter(|port| *port != 0);
    Ok(control::ServicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(placed, &field("protocol"), port.protocol.as_deref())?,
        port: number(placed, &field("port"), port.port)?,
        node_port: node_port.map(|port| number(placed, &field("nodePort"), port)).transpose()?,
    })
}

/// The Service's type, ClusterIP if it says none.
pub fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("ClusterIP")
}

/// Whether the Service has endpoints under its name but no address of its own.
pub fn headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The ClusterIPs that count: those that `ipFamilies` names the family of, else `clusterIP` (SEMANTICS §2.4, §2.5).
pub fn cluster_ips(spec: &ServiceSpec) -> Vec<Address> {
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if first.is_empty() || first == "None" {
        return Vec::new();
    }
    match spec.ip_families.as_deref().unwrap_or_default() {
        [] => lenient_address(first).into_iter().collect(),
        families => {
            let listed = families.iter().zip(spec.cluster_ips.iter().flatten());
            listed.filter_map(|(_, ip)| lenient_address(ip)).collect()
        }
    }
}

/// The load balancer's addresses that nodes capture: those with an IP, of mode VIP or none (SEMANTICS §3.4).
pub fn ingress_ips(service: &Service) -> Vec<Address> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let captured = entries.iter().filter(|entry| entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    captured.filter_map(|entry| lenient_address(entry.ip.as_deref()?)).collect()
}

/// Local only where something outside can reach the Service (SEMANTICS §3.3).
fn external_policy(spec: &ServiceSpec) -> TrafficPolicy {
    let reachable = match kind(spec) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    };
    if reachable { policy(spec.external_traffic_policy.as_deref()) } else { TrafficPolicy::Cluster }
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY);
    Some(seconds.clamp(1, 86_400).unsigned_abs())
}

/// A port number, 0 included.
pub(super) fn number<T: Object>(placed: &Placed<T>, field: &str, port: i32) -> Result<u16, Problem> {
    let advice = "give a number from 1 to 65535";
    port.try_into().map_err(|_| placed.problem(field, format_args!("is {port}, which is no port"), advice))
}

/// A transport protocol, TCP if none is given.
pub(super) fn protocol<T: Object>(placed: &Placed<T>, field: &str, name: Option<&str>) -> Result<Protocol, Problem> {
    match name {
        None | Some("TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => {
            let message = format_args!("is {other:?}, which is no protocol of Services");
            Err(placed.problem(field, message, "give TCP, UDP or SCTP"))
        }
    }
}
