//! What the API server writes into objects that leave it out (SEMANTICS §16).

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::lenient_address;
use super::service::kind;

/// A Service's defaults: type, protocols, target ports, policies (§16.2, §16.6), and `clusterIPs` and
/// `ipFamilies` from the ClusterIP that it has (§16.4).
pub(crate) fn service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    let kind = kind(spec).to_owned();
    spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    for port in spec.ports.iter_mut().flatten() {
        self::port(port);
    }
    if kind != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        addresses(spec);
    }
    let outside = ["NodePort", "LoadBalancer"].contains(&kind.as_str());
    if outside || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if kind == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    spec.type_ = Some(kind);
}

fn port(port: &mut ServicePort) {
    port.protocol.get_or_insert_with(|| "TCP".to_owned());
    port.target_port.get_or_insert(IntOrString::Int(port.port));
}

/// `clusterIPs` from `clusterIP`, `clusterIP` from `clusterIPs`, and the families of either.
fn addresses(spec: &mut ServiceSpec) {
    let ips = spec.cluster_ips.get_or_insert_default();
    match spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty()) {
        Some(ip) if ips.is_empty() => ips.push(ip.clone()),
        None => spec.cluster_ip = ips.first().cloned(),
        Some(_) => {}
    }
    let families: Vec<_> = ips.iter().filter_map(|ip| lenient_address(ip)).map(|ip| family(ip).to_owned()).collect();
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) && !families.is_empty() {
        spec.ip_families = Some(families);
    }
}

/// A family as the API writes it.
pub(crate) fn family(address: lb_core::Address) -> &'static str {
    if address.is_v4() { "IPv4" } else { "IPv6" }
}

/// A Pod's defaults: how it restarts and how long it has to end, and how its readiness is probed.
pub(crate) fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    for container in &mut spec.containers {
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        if let Some(probe) = &mut container.readiness_probe {
            probe.timeout_seconds.get_or_insert(1);
            probe.period_seconds.get_or_insert(10);
            probe.success_threshold.get_or_insert(1);
            probe.failure_threshold.get_or_insert(3);
        }
    }
}

/// A slice's defaults: a port without a name is called the empty string, and speaks TCP.
pub(crate) fn slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}
