//! Services, one by one (SEMANTICS §16.1-16.7).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::{Address, Family};

use super::names::{LABEL, PORT_NAME, QUALIFIED, SUBDOMAIN, is_label, is_port_name, is_qualified, is_subdomain};
use super::{Limits, PORT, Report, family_name};
use crate::k8s::address::{lenient_address, lenient_prefix};
use crate::k8s::manifest::Placed;
use crate::k8s::service::{RANGES_ANNOTATION, annotation, headless, kind};

/// The port that kubelets serve.
const KUBELET: i32 = 10_250;
const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";

pub(super) fn service(report: &mut Report<'_, Service>) {
    let object = report.object;
    if !is_label(object.name()) {
        report.tell("metadata.name", format_args!("is {:?}, which is no DNS label", object.name()), LABEL);
    }
    let Some(spec) = &object.object.spec else { return };
    report.one_of("spec.type", spec.type_.as_deref(), &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    report.one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]);
    report.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &["Cluster", "Local"]);
    report.one_of("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &["Cluster", "Local"]);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    report.one_of("spec.trafficDistribution", spec.traffic_distribution.as_deref(), &distributions);
    let policies = [SINGLE, "PreferDualStack", REQUIRE];
    report.one_of("spec.ipFamilyPolicy", spec.ip_family_policy.as_deref(), &policies);
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        report.one_of(&format!("spec.ipFamilies[{index}]"), Some(family), &["IPv4", "IPv6"]);
    }
    let affinity = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = affinity.and_then(|client| client.timeout_seconds).filter(|s| !(1..=86_400).contains(s)) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        report.tell(field, format_args!("is {seconds}"), "give 1 to 86400 seconds");
    }
    report.port("spec.healthCheckNodePort", spec.health_check_node_port.unwrap_or(0), true);
    own_cluster_ips(report, spec);
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        report.reachable(&format!("spec.externalIPs[{index}]"), ip);
    }
    source_ranges(report, spec);
    ports(report, spec);
    ingress(report, object);
    for (key, value) in spec.selector.iter().flatten() {
        report.label("spec.selector", key, value);
    }
    families(report, spec);
    belongs(report, spec);
    external_name(report, spec);
}

fn own_cluster_ips(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    if let Some(ip) = first.filter(|_| !headless(spec)) {
        report.address("spec.clusterIP", ip);
    }
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(listed)) = (first, listed.first())
        && first != listed
    {
        let advice = "make the two the same, or leave one out";
        report.tell("spec.clusterIPs[0]", format_args!("is {listed}, while spec.clusterIP is {first}"), advice);
    }
    if let (None, Some(listed)) = (first, listed.first()) {
        let message = format_args!("is {listed}, while spec.clusterIP is missing");
        report.refuse("spec.clusterIPs[0]", message, "write it in both, or leave both out");
    }
    if listed.len() > 1 && listed.iter().any(|ip| ip == "None") {
        report.refuse("spec.clusterIPs", "has None among others", "give None alone, or addresses");
    }
    let mut families: Vec<Family> = Vec::new();
    for (index, ip) in listed.iter().enumerate().filter(|(_, ip)| *ip != "None") {
        let field = format!("spec.clusterIPs[{index}]");
        report.address(&field, ip);
        let Some(family) = lenient_address(ip).map(Address::family) else { continue };
        if families.contains(&family) {
            report.tell(&field, "is the second of its family", "give at most one IPv4 and one IPv6 address");
        }
        families.push(family);
    }
}

/// What a load balancer's controller may report.
fn ingress(report: &mut Report<'_, Service>, object: &Placed<Service>) {
    let balancer = object.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for (index, entry) in balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        let ip = entry.ip.as_deref().filter(|ip| !ip.is_empty());
        if let Some(ip) = ip.filter(|ip| lenient_address(ip).is_none()) {
            report.refuse(
                &field("ip"),
                format_args!("is {ip:?}, which is no IP address"),
                "give one like 203.0.113.10",
            );
        }
        match entry.ip_mode.as_deref() {
            None | Some("VIP" | "Proxy") if ip.is_some() || entry.ip_mode.is_none() => {}
            Some(_) if ip.is_none() => report.refuse(&field("ipMode"), "is set where there is no ip", "remove it"),
            other => {
                let message = format_args!("is {:?}, which is not known", other.unwrap_or_default());
                report.refuse(&field("ipMode"), message, "give VIP or Proxy");
            }
        }
        if let Some(name) = entry.hostname.as_deref().filter(|name| !name.is_empty())
            && (!is_subdomain(name) || lenient_address(name).is_some())
        {
            report.refuse(&field("hostname"), format_args!("is {name:?}, which is no DNS subdomain"), SUBDOMAIN);
        }
    }
}

fn ports(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless(spec) && kind(spec) != "ExternalName" {
        report.tell("spec.ports", "is missing or empty", "give at least one port, or clusterIP: None");
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbers: BTreeMap<(i32, &str), usize> = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        report.port(&field("port"), port.port, false);
        report.port(&field("nodePort"), port.node_port.unwrap_or(0), true);
        node_port(report, &field("nodePort"), port.node_port.unwrap_or(0));
        target_port(report, &field("targetPort"), port.target_port.as_ref());
        report.protocol(&field("protocol"), port.protocol.as_deref());
        if let Some(name) = port.app_protocol.as_deref().filter(|name| !is_qualified(name)) {
            report.refuse(&field("appProtocol"), format_args!("is {name:?}, which is no qualified name"), QUALIFIED);
        }
        if port.port == KUBELET && kind(spec) == "LoadBalancer" {
            let message = format_args!("is {KUBELET}, the kubelet's, which no load balancer may have");
            report.refuse(&field("port"), message, "take another");
        }
        let name = port.name.as_deref().unwrap_or_default();
        match name {
            "" if ports.len() > 1 => {
                report.tell(&field("name"), "is missing", "name every port where there are several")
            }
            "" => {}
            _ if !is_label(name) => {
                report.tell(&field("name"), format_args!("is {name:?}, which is no DNS label"), LABEL);
            }
            _ => {
                if let Some(first) = names.insert(name, index) {
                    report.tell(
                        &field("name"),
                        format_args!("is that of spec.ports[{first}]"),
                        "give each port its own name",
                    );
                }
            }
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if let Some(first) = numbers.insert((port.port, protocol), index) {
            let message = format_args!("is {}/{protocol}, as that of spec.ports[{first}]", port.port);
            report.tell(&field("port"), message, "remove one, or change its protocol");
        }
    }
}

/// §16.3, with the range that the cluster has.
fn node_port(report: &mut Report<'_, Service>, field: &str, port: i32) {
    let Some(Limits { node_ports: (first, last), .. }) = report.limits else { return };
    if (1..=65_535).contains(&port) && !(i32::from(*first)..=i32::from(*last)).contains(&port) {
        let advice = "give one inside, or say the cluster's range with --service-node-port-range";
        report.refuse(field, format_args!("is {port}, outside the cluster's range {first}-{last}"), advice);
    }
}

/// §16.2: a number, or the name of a container port. 0 and the empty name stand for the Service's own port.
fn target_port(report: &mut Report<'_, Service>, field: &str, port: Option<&IntOrString>) {
    match port {
        Some(IntOrString::Int(number)) if !(0..=65_535).contains(number) => {
            report.refuse(field, format_args!("is {number}, which is no port"), PORT);
        }
        Some(IntOrString::String(name)) if !name.is_empty() && !is_port_name(name) => {
            report.refuse(field, format_args!("is {name:?}, which no container port can be called"), PORT_NAME);
        }
        _ => {}
    }
}

/// §16.4, §13.2: the families that a Service names, has addresses of, and the cluster serves agree.
fn families(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    let Some(limits) = report.limits else { return };
    if kind(spec) == "ExternalName" {
        return;
    }
    let named: Vec<&str> = spec.ip_families.iter().flatten().map(String::as_str).collect();
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = [spec.cluster_ip.clone().unwrap_or_default()];
    let ips = if listed.is_empty() { &single[..] } else { listed };
    let serves = |name: &str| {
        let family = if name == "IPv6" { Family::V6 } else { Family::V4 };
        limits.families.contains(&family)
    };
    for (field, count) in [("spec.ipFamilies", named.len()), ("spec.clusterIPs", listed.len())] {
        if count > 2 {
            report.refuse(field, format_args!("has {count} entries"), "give at most one of each family");
        } else if count == 2 && spec.ip_family_policy.as_deref() == Some(SINGLE) {
            report.refuse(
                field,
                "has two entries, while spec.ipFamilyPolicy is SingleStack",
                "ask for PreferDualStack",
            );
        }
    }
    for (index, name) in named.iter().enumerate().filter(|(_, name)| ["IPv4", "IPv6"].contains(name)) {
        let field = format!("spec.ipFamilies[{index}]");
        if named.iter().take(index).any(|before| before == name) {
            report.refuse(&field, format_args!("is {name} once more"), "name each family once");
        } else if !serves(name) {
            let advice = "name a family that it serves, or say which with --ip-families";
            report.refuse(&field, format_args!("is {name}, which this cluster does not serve"), advice);
        }
    }
    for (index, ip) in ips.iter().enumerate() {
        let field = if listed.is_empty() { "spec.clusterIP".to_owned() } else { format!("spec.clusterIPs[{index}]") };
        let Some(family) = lenient_address(ip).map(family_name) else { continue };
        match named.get(index) {
            Some(name) if *name != family => {
                let message = format!("is {ip}, while spec.ipFamilies[{index}] is {name}");
                report.refuse(&field, message, "list addresses and families in the same order");
            }
            None if !serves(family) => {
                let advice = "give one of a family that it serves, or say which with --ip-families";
                report.refuse(&field, format_args!("is {ip}, and this cluster does not serve {family}"), advice);
            }
            _ => {}
        }
    }
    if spec.ip_family_policy.as_deref() == Some(REQUIRE) && limits.families.len() < 2 {
        let advice = "ask for PreferDualStack, or say what the cluster serves with --ip-families";
        report.refuse("spec.ipFamilyPolicy", "is RequireDualStack, and this cluster serves one family", advice);
    }
}

/// Blocks that clients of a load balancer may be of: the field's, else the annotation's, of which an empty one says nothing.
fn source_ranges(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    const BLOCK: &str = "give one like 203.0.113.0/24";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    for (index, range) in ranges.iter().enumerate().filter(|(_, range)| lenient_prefix(range).is_none()) {
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        report.tell(&field, format_args!("is {range:?}, which is no block of addresses"), BLOCK);
    }
    let annotated = annotation(&report.object.object, RANGES_ANNOTATION).map(str::trim).unwrap_or_default();
    if !ranges.is_empty() || annotated.is_empty() {
        return;
    }
    for range in annotated.split(',').filter(|range| lenient_prefix(range).is_none()) {
        let message = format_args!("has {RANGES_ANNOTATION} with {range:?}, which is no block of addresses");
        report.refuse("metadata.annotations", message, BLOCK);
    }
}

/// Fields that only Services of some type may have (§16.3, §16.4, §16.6, §16.7).
fn belongs(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    let kind = kind(spec);
    let balanced = kind == "LoadBalancer";
    let external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let reached = balanced || kind == "NodePort" || (kind == "ClusterIP" && external_ips);
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let ranges = spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    let health = spec.health_check_node_port.unwrap_or(0);
    let config = spec.session_affinity_config.as_ref().is_some_and(|config| config.client_ip.is_some());
    if let Some(class) = spec.load_balancer_class.as_deref().filter(|class| balanced && !is_qualified(class)) {
        let message = format_args!("is {class:?}, which is no qualified name");
        report.refuse("spec.loadBalancerClass", message, QUALIFIED);
    }
    let annotated = annotation(&report.object.object, RANGES_ANNOTATION);
    for (field, wrong, right) in [
        ("metadata.annotations", annotated.is_some() && !balanced, "type LoadBalancer"),
        ("spec.loadBalancerSourceRanges", ranges && !balanced, "type LoadBalancer"),
        ("spec.loadBalancerClass", some(&spec.load_balancer_class) && !balanced, "type LoadBalancer"),
        (
            "spec.allocateLoadBalancerNodePorts",
            spec.allocate_load_balancer_node_ports.is_some() && !balanced,
            "type LoadBalancer",
        ),
        (
            "spec.externalTrafficPolicy",
            some(&spec.external_traffic_policy) && !reached,
            "type NodePort or LoadBalancer, or externalIPs",
        ),
        (
            "spec.healthCheckNodePort",
            health != 0 && !(balanced && local),
            "type LoadBalancer and externalTrafficPolicy Local",
        ),
        (
            "spec.sessionAffinityConfig",
            config && spec.session_affinity.as_deref() != Some("ClientIP"),
            "sessionAffinity ClientIP",
        ),
    ] {
        if wrong {
            let advice = "remove it, or make the Service one";
            report.refuse(field, format_args!("is set, which only Services with {right} may have"), advice);
        }
    }
    node_port(report, "spec.healthCheckNodePort", health);
    if headless(spec) && (balanced || kind == "NodePort") {
        report.refuse("spec.clusterIP", format_args!("is None on a Service of type {kind}"), "leave it out");
    }
    for (index, port) in spec.ports.iter().flatten().enumerate().filter(|_| kind == "ClusterIP") {
        if port.node_port.is_some_and(|number| number != 0) {
            let field = format!("spec.ports[{index}].nodePort");
            report.refuse(&field, "is set on a Service of type ClusterIP", "make its type NodePort, or remove it");
        }
    }
}

/// §16.5: a name for a name, and nothing to proxy.
fn external_name(report: &mut Report<'_, Service>, spec: &ServiceSpec) {
    if kind(spec) != "ExternalName" {
        return;
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        report.refuse("spec.externalName", "is missing", "give the name that it stands for");
    } else if !is_subdomain(name.strip_suffix('.').unwrap_or(name)) {
        report.refuse("spec.externalName", format_args!("is {name:?}, which is no DNS subdomain"), SUBDOMAIN);
    }
    let set = |ips: &[String]| ips.iter().any(|ip| !ip.is_empty());
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    for (field, wrong) in [
        ("spec.clusterIP", set(spec.cluster_ip.as_slice())),
        ("spec.clusterIPs", set(ips)),
        ("spec.ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
        ("spec.ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if wrong {
            report.refuse(field, "is set on a Service of type ExternalName", "remove it: it has no address");
        }
    }
}
