//! What the API server does to Services as they come and change (SEMANTICS §16.3, §16.4, §16.6, §17).

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use crate::k8s::allocate::Allocator;
use crate::k8s::check::repeated_node_ports;
use crate::k8s::service::kind;
use crate::k8s::{Placed, Problem};

const EXTERNAL_NAME: &str = "ExternalName";

fn has_node_ports(spec: &ServiceSpec) -> bool {
    ["NodePort", "LoadBalancer"].contains(&kind(spec))
}

fn has_health_check(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn is_reached(spec: &ServiceSpec) -> bool {
    has_node_ports(spec) || (kind(spec) == "ClusterIP" && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()))
}

/// A port as users think of it: what they dial.
fn dialled(port: &ServicePort) -> (i32, String) {
    (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()))
}

fn node_port(port: &ServicePort) -> Option<i32> {
    port.node_port.filter(|number| *number != 0)
}

fn health_port(spec: &ServiceSpec) -> Option<i32> {
    spec.health_check_node_port.filter(|port| *port != 0)
}

/// Numbers that were allocated stay, where an update leaves them out and the Service still needs them.
pub(super) fn carry(new: &mut Service, old: &Service) {
    let (Some(new), Some(old)) = (&mut new.spec, &old.spec) else { return };
    if kind(new) != EXTERNAL_NAME && kind(old) != EXTERNAL_NAME {
        let written = |ips: &Option<Vec<String>>| ips.as_ref().is_some_and(|ips| !ips.is_empty());
        if new.cluster_ip.as_ref().is_none_or(String::is_empty) && !written(&new.cluster_ips) {
            new.cluster_ip = old.cluster_ip.clone();
            new.cluster_ips = old.cluster_ips.clone();
            new.ip_families = new.ip_families.take().filter(|named| !named.is_empty()).or(old.ip_families.clone());
        }
        // From two families to one: the second goes.
        if new.ip_family_policy.as_deref() == Some("SingleStack") && new.cluster_ips == old.cluster_ips {
            new.cluster_ips.iter_mut().for_each(|ips| ips.truncate(1));
            new.ip_families.iter_mut().for_each(|families| families.truncate(1));
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        let taken: Vec<_> = new.ports.iter().flatten().filter_map(node_port).collect();
        for port in new.ports.iter_mut().flatten().filter(|port| node_port(port).is_none()) {
            let known = old.ports.iter().flatten().find(|known| dialled(known) == dialled(port));
            port.node_port = known.and_then(node_port).filter(|number| !taken.contains(number));
        }
    }
    if has_health_check(new) && has_health_check(old) && health_port(new).is_none() {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Drops what only the Service's former type has a use for, unless the update changes it, which is then
/// checked (§16.3); says what cannot change (§16.4, §16.6).
pub(super) fn change(new: &mut Placed<Service>, old: &Placed<Service>) -> Vec<Problem> {
    let (Some(now), Some(before)) = (&mut new.object.spec, &old.object.spec) else { return Vec::new() };
    wipe(now, before);
    let mut problems = Vec::new();
    let (now, before) = (&*now, before);
    if kind(now) != EXTERNAL_NAME && kind(before) != EXTERNAL_NAME && now.cluster_ip != before.cluster_ip {
        let [now, before] = [now, before].map(|spec| spec.cluster_ip.as_deref().unwrap_or_default());
        let message = format!("is {now:?}, and was {before:?}: it cannot change");
        problems.push(("spec.clusterIP", message, "leave it out, or delete the Service and create it anew"));
    }
    if let (true, Some(port)) = (has_health_check(now), health_port(before).filter(|_| has_health_check(before)))
        && health_port(now) != Some(port)
    {
        let message = format!("was {port}: it cannot change");
        problems.push(("spec.healthCheckNodePort", message, "leave it out"));
    }
    problems.into_iter().map(|(field, message, advice)| new.problem(field, message, advice)).collect()
}

fn wipe(now: &mut ServiceSpec, before: &ServiceSpec) {
    let balanced = |spec: &ServiceSpec| kind(spec) == "LoadBalancer";
    if kind(now) == EXTERNAL_NAME && kind(before) != EXTERNAL_NAME {
        if now.cluster_ip == before.cluster_ip {
            now.cluster_ip = None;
        }
        if now.cluster_ips == before.cluster_ips || now.cluster_ip.is_none() {
            now.cluster_ips = None;
        }
        now.ip_families = now.ip_families.take().filter(|families| Some(families) != before.ip_families.as_ref());
        now.ip_family_policy =
            now.ip_family_policy.take().filter(|policy| Some(policy) != before.ip_family_policy.as_ref());
        now.internal_traffic_policy = None;
    }
    if has_node_ports(before) && !has_node_ports(now) {
        for port in now.ports.iter_mut().flatten() {
            let known = before.ports.iter().flatten().find(|known| dialled(known) == dialled(port));
            port.node_port = port.node_port.filter(|number| known.and_then(node_port) != Some(*number));
        }
    }
    if has_health_check(before) && !has_health_check(now) && now.health_check_node_port == before.health_check_node_port
    {
        now.health_check_node_port = None;
    }
    if is_reached(before) && !is_reached(now) && now.external_traffic_policy == before.external_traffic_policy {
        now.external_traffic_policy = None;
    }
    if balanced(before) && !balanced(now) {
        now.allocate_load_balancer_node_ports = None;
        if now.load_balancer_class == before.load_balancer_class {
            now.load_balancer_class = None;
        }
    }
}

/// ClusterIPs and NodePorts: those asked for if nobody else has them, and those that are missing.
pub(super) fn allocate(allocator: &mut Allocator, new: &mut Placed<Service>, old: Option<&Service>) -> Vec<Problem> {
    let before = old.and_then(|old| old.spec.as_ref());
    before.iter().for_each(|spec| allocator.release(spec));
    let mut problems = repeated_node_ports(new);
    problems.extend(allocator.conflicts(new));
    if problems.is_empty() {
        new.object.spec.iter().for_each(|spec| allocator.reserve(spec));
        problems = allocator.complete(new);
        if !problems.is_empty() {
            new.object.spec.iter().for_each(|spec| allocator.release(spec));
        }
    }
    if !problems.is_empty() {
        before.iter().for_each(|spec| allocator.reserve(spec));
    }
    problems
}
