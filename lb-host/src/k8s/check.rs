//! What an API server would refuse, told with its place (SEMANTICS §16).
//!
//! Odd values that an older one may have stored (leading zeros, an ExternalName's ClusterIP, port 0 in a
//! slice) pass: SEMANTICS §2-4 say how they are read.

use std::collections::BTreeMap;
use std::fmt::Display;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::{Address, Family};

use super::address::{lenient_address, lenient_prefix};
use super::manifest::{Manifests, Object, Placed};
use super::place::{Place, Problem};
use super::service::{headless, kind, number, protocol};

const PORT: &str = "give a number from 1 to 65535";

/// All that is wrong with the objects, kind by kind.
pub fn check(manifests: &Manifests) -> Vec<Problem> {
    let mut problems = Vec::new();
    manifests.services.iter().for_each(|service| self::service(service, &mut problems));
    cluster_ips(&manifests.services, &mut problems);
    node_ports(&manifests.services, &mut problems);
    manifests.slices.iter().for_each(|slice| self::slice(slice, &mut problems));
    manifests.endpoints.iter().for_each(|endpoints| self::endpoints(endpoints, &mut problems));
    manifests.pods.iter().for_each(|pod| self::pod(pod, &mut problems));
    manifests.nodes.iter().for_each(|node| self::node(node, &mut problems));
    problems
}

/// Collects the problems of one object.
struct Report<'a, T> {
    object: &'a Placed<T>,
    problems: &'a mut Vec<Problem>,
}

impl<T: Object> Report<'_, T> {
    fn tell(&mut self, field: &str, message: impl Display, advice: &str) {
        self.problems.push(self.object.problem(field, message, advice));
    }

    fn address(&mut self, field: &str, text: &str) {
        if lenient_address(text).is_none() {
            self.tell(
                field,
                format_args!("is {text:?}, which is no IP address"),
                "give one like 10.0.0.1 or 2001:db8::1",
            );
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&str>, known: &[&str]) {
        if let Some(value) = value.filter(|value| !value.is_empty() && !known.contains(value)) {
            let advice = format!("give one of {}", known.join(", "));
            self.tell(field, format_args!("is {value:?}, which is not known"), &advice);
        }
    }

    /// 0 passes where an absent port is written so.
    fn port(&mut self, field: &str, port: i32, zero: bool) {
        match number(self.object, field, port) {
            Ok(0) if !zero => self.tell(field, "is 0 or missing, which is no port", PORT),
            other => self.problems.extend(other.err()),
        }
    }

    fn protocol(&mut self, field: &str, name: Option<&str>) {
        self.problems.extend(protocol(self.object, field, name).err());
    }
}

fn service(object: &Placed<Service>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, problems };
    if !label(object.name()) {
        let advice = "use at most 63 of a-z, 0-9 and -, no - at either end";
        report.tell("metadata.name", format_args!("is {:?}, which is no DNS label", object.name()), advice);
    }
    let Some(spec) = &object.object.spec else { return };
    report.one_of("spec.type", spec.type_.as_deref(), &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    report.one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]);
    report.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &["Cluster", "Local"]);
    report.one_of("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &["Cluster", "Local"]);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    report.one_of("spec.trafficDistribution", spec.traffic_distribution.as_deref(), &distributions);
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
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
    own_cluster_ips(&mut report, spec);
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        report.address(&format!("spec.externalIPs[{index}]"), ip);
    }
    for (index, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        if lenient_prefix(range).is_none() {
            let field = format!("spec.loadBalancerSourceRanges[{index}]");
            report.tell(
                &field,
                format_args!("is {range:?}, which is no block of addresses"),
                "give one like 203.0.113.0/24",
            );
        }
    }
    ports(&mut report, spec);
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
        report.protocol(&field("protocol"), port.protocol.as_deref());
        let name = port.name.as_deref().unwrap_or_default();
        match name {
            "" if ports.len() > 1 => {
                report.tell(&field("name"), "is missing", "name every port where there are several")
            }
            "" => {}
            _ if !label(name) => {
                let advice = "use at most 63 of a-z, 0-9 and -, no - at either end";
                report.tell(&field("name"), format_args!("is {name:?}, which is no DNS label"), advice);
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

/// RFC 1123 §2.1, lower case: what Service and port names are made of (SEMANTICS §16.1, §16.2).
fn label(name: &str) -> bool {
    let inside = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    inside && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// No two Services have one ClusterIP.
fn cluster_ips(services: &[Placed<Service>], problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<Address, (String, Place)> = BTreeMap::new();
    for service in services {
        let Some(spec) = service.object.spec.as_ref().filter(|spec| kind(spec) != "ExternalName") else { continue };
        let first = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
        let listed = spec.cluster_ips.iter().flatten().enumerate();
        for (field, ip) in first.chain(listed.map(|(index, ip)| (format!("spec.clusterIPs[{index}]"), ip))) {
            let Some(address) = lenient_address(ip) else { continue };
            match owners.get(&address) {
                Some((owner, place)) if *owner != service.key() => {
                    let message = format_args!("is {ip}, which is that of Service {owner} at {place}");
                    problems.push(service.problem(&field, message, "give each Service its own ClusterIP"));
                    break;
                }
                _ => drop(owners.insert(address, (service.key(), service.place(&field)))),
            }
        }
    }
}

/// A NodePort is one Service's; it may have it for the same port over several protocols (SEMANTICS §16.3).
fn node_ports(services: &[Placed<Service>], problems: &mut Vec<Problem>) {
    struct Owner<'a> {
        service: &'a Placed<Service>,
        /// The service port, and the protocols it is taken for.
        port: Option<i32>,
        protocols: Vec<String>,
        place: Place,
    }
    let mut owners: BTreeMap<i32, Owner<'_>> = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.object.spec else { continue };
        let ports = spec.ports.iter().flatten().enumerate();
        let claims = ports.map(|(index, port)| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            (format!("spec.ports[{index}].nodePort"), port.node_port, Some(port.port), protocol)
        });
        let health = ("spec.healthCheckNodePort".to_owned(), spec.health_check_node_port, None, "TCP");
        for (field, number, port, protocol) in claims.chain([health]) {
            let Some(number) = number.filter(|number| *number != 0) else { continue };
            let Some(owner) = owners.get_mut(&number) else {
                let (protocols, place) = (vec![protocol.to_owned()], service.place(&field));
                owners.insert(number, Owner { service, port, protocols, place });
                continue;
            };
            let same = owner.service.key() == service.key() && owner.port == port && port.is_some();
            if same && !owner.protocols.iter().any(|known| known == protocol) {
                owner.protocols.push(protocol.to_owned());
                continue;
            }
            let message = format_args!("is {number}, which Service {} has at {}", owner.service.key(), owner.place);
            problems.push(service.problem(&field, message, "give each its own number, or leave it out to get one"));
        }
    }
}

fn slice(object: &Placed<EndpointSlice>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, problems };
    report.one_of("addressType", Some(&object.object.address_type), &["IPv4", "IPv6", "FQDN"]);
    for (index, port) in object.object.ports.iter().flatten().enumerate() {
        report.port(&format!("ports[{index}].port"), port.port.unwrap_or(0), true);
        report.protocol(&format!("ports[{index}].protocol"), port.protocol.as_deref());
    }
    let names = object.object.address_type == "FQDN";
    for (index, endpoint) in object.object.endpoints.iter().flatten().enumerate() {
        if endpoint.addresses.is_empty() {
            report.tell(
                &format!("endpoints[{index}].addresses"),
                "is missing or empty",
                "give the endpoint an address",
            );
        }
        for (at, address) in endpoint.addresses.iter().enumerate().filter(|_| !names) {
            report.address(&format!("endpoints[{index}].addresses[{at}]"), address);
        }
    }
}

fn endpoints(object: &Placed<Endpoints>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, problems };
    for (index, subset) in object.object.subsets.iter().flatten().enumerate() {
        for (at, port) in subset.ports.iter().flatten().enumerate() {
            report.port(&format!("subsets[{index}].ports[{at}].port"), port.port, false);
            report.protocol(&format!("subsets[{index}].ports[{at}].protocol"), port.protocol.as_deref());
        }
        for (list, addresses) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
        {
            for (at, address) in addresses.iter().flatten().enumerate() {
                report.address(&format!("subsets[{index}].{list}[{at}].ip"), &address.ip);
            }
        }
    }
}

fn pod(object: &Placed<Pod>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, problems };
    let status = object.object.status.as_ref();
    if let Some(ip) = status.and_then(|status| status.pod_ip.as_deref()).filter(|ip| !ip.is_empty()) {
        report.address("status.podIP", ip);
    }
    for (index, ip) in status.iter().flat_map(|status| status.pod_ips.iter().flatten()).enumerate() {
        report.address(&format!("status.podIPs[{index}].ip"), &ip.ip);
    }
    let Some(spec) = &object.object.spec else { return };
    let lists = [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())];
    for (list, containers) in lists {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            for (at, port) in container.ports.iter().flatten().enumerate() {
                let field = format!("spec.{list}[{index}].ports[{at}]");
                report.port(&format!("{field}.containerPort"), port.container_port, false);
                report.protocol(&format!("{field}.protocol"), port.protocol.as_deref());
            }
        }
    }
}

fn node(object: &Placed<Node>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, problems };
    let status = object.object.status.as_ref();
    for (index, address) in status.iter().flat_map(|status| status.addresses.iter().flatten()).enumerate() {
        if address.type_.ends_with("IP") {
            report.address(&format!("status.addresses[{index}].address"), &address.address);
        }
    }
    for (index, block) in object.object.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten()).enumerate() {
        if lenient_prefix(block).is_none() {
            let field = format!("spec.podCIDRs[{index}]");
            report.tell(
                &field,
                format_args!("is {block:?}, which is no block of addresses"),
                "give one like 10.244.1.0/24",
            );
        }
    }
}
