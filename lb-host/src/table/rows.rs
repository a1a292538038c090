//! Objects as rows of kubectl's tables.

use std::collections::BTreeSet;
use std::io::{self, Write};

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::{NONE, UNKNOWN, list, short_list};
use crate::k8s::manifest::{Object, Placed};
use crate::k8s::service::kind;

/// Writes objects of a kind as a table: with the columns of `-o wide` if `wide`, with their namespaces if `namespaces`.
///
/// # Errors
/// `out`'s own.
pub fn write_objects<T: Row>(
    out: &mut dyn Write,
    wide: bool,
    namespaces: bool,
    objects: &[&Placed<T>],
    age: impl Fn(&T) -> String,
) -> io::Result<()> {
    let columns = if wide { T::HEADINGS.len() } else { T::NARROW };
    let mut headings: Vec<_> = T::HEADINGS.iter().take(columns).copied().collect();
    let mut rows: Vec<_> = objects.iter().map(|object| object.object.row(&age(&object.object))).collect();
    rows.iter_mut().for_each(|row| row.truncate(columns - 1));
    for (row, object) in rows.iter_mut().zip(objects) {
        row.insert(0, object.name().to_owned());
        if namespaces {
            row.insert(0, object.namespace().to_owned());
        }
    }
    if namespaces {
        headings.insert(0, "NAMESPACE");
    }
    super::write(out, &headings, &rows)
}

/// A kind of object as a row of a table.
pub trait Row: Object + Serialize {
    /// What `-o name` calls the kind, lower case, singular.
    const NAME: &'static str;
    /// All columns, those of `-o wide` last.
    const HEADINGS: &'static [&'static str];
    /// How many columns there are without `-o wide`.
    const NARROW: usize;

    /// The columns after the name, of an object of this age.
    fn row(&self, age: &str) -> Vec<String>;
}

impl Row for Service {
    const NAME: &'static str = "service";
    const HEADINGS: &'static [&'static str] =
        &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"];
    const NARROW: usize = 6;

    fn row(&self, age: &str) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port.filter(|port| *port != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        });
        let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && kind(&spec) != "ExternalName");
        let selector = spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        vec![
            kind(&spec).to_owned(),
            cluster_ip.unwrap_or(NONE).to_owned(),
            external_ips(self),
            list(ports),
            age.to_owned(),
            list(selector),
        ]
    }
}

fn external_ips(service: &Service) -> String {
    let Some(spec) = &service.spec else { return NONE.to_owned() };
    let own = spec.external_ips.iter().flatten().cloned();
    match kind(spec) {
        "ExternalName" => spec.external_name.clone().unwrap_or_else(|| NONE.to_owned()),
        "LoadBalancer" => {
            let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
            let entries = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
            let entries: BTreeSet<_> =
                entries.filter_map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone())).collect();
            let all: Vec<_> = entries.into_iter().chain(own).collect();
            if all.is_empty() { "<pending>".to_owned() } else { list(all) }
        }
        _ => list(own),
    }
}

impl Row for Endpoints {
    const NAME: &'static str = "endpoints";
    const HEADINGS: &'static [&'static str] = &["NAME", "ENDPOINTS", "AGE"];
    const NARROW: usize = 3;

    fn row(&self, age: &str) -> Vec<String> {
        let mut all = Vec::new();
        for subset in self.subsets.iter().flatten() {
            let addresses = subset.addresses.iter().flatten().map(|address| address.ip.as_str());
            match subset.ports.as_deref().unwrap_or_default() {
                [] => all.extend(addresses.map(str::to_owned)),
                ports => ports.iter().for_each(|port| all.extend(addresses.clone().map(|ip| socket(ip, port.port)))),
            }
        }
        vec![short_list(&all), age.to_owned()]
    }
}

/// An address and a port, IPv6 in brackets.
fn socket(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

impl Row for EndpointSlice {
    const NAME: &'static str = "endpointslice";
    const HEADINGS: &'static [&'static str] = &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"];
    const NARROW: usize = 5;

    fn row(&self, age: &str) -> Vec<String> {
        let ports = self.ports.iter().flatten().map(|port| match port.port {
            Some(number) => number.to_string(),
            None => port.name.clone().unwrap_or_else(|| "*".to_owned()),
        });
        let ports: Vec<_> = ports.collect();
        let addresses: Vec<_> =
            self.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { short_list(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { short_list(&addresses) };
        vec![self.address_type.clone(), ports, addresses, age.to_owned()]
    }
}

impl Row for Node {
    const NAME: &'static str = "node";
    const HEADINGS: &'static [&'static str] = &[
        "NAME",
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        "INTERNAL-IP",
        "EXTERNAL-IP",
        "OS-IMAGE",
        "KERNEL-VERSION",
        "CONTAINER-RUNTIME",
    ];
    const NARROW: usize = 5;

    fn row(&self, age: &str) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let mut state = match ready.map(|condition| condition.status.as_str()) {
            Some("True") => "Ready".to_owned(),
            // kubectl's word for one that is not heard of, too.
            Some(_) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if self.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
            state.push_str(",SchedulingDisabled");
        }
        let labels = self.metadata.labels.iter().flatten();
        let role = |(key, value): (&String, &String)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role.to_owned()),
            None => (key == "kubernetes.io/role").then(|| value.clone()),
        };
        let roles: BTreeSet<_> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
            found.map_or(NONE.to_owned(), |address| address.address.clone())
        };
        let software = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { UNKNOWN.to_owned() } else { text };
        vec![
            state,
            list(roles),
            age.to_owned(),
            known(software.kubelet_version),
            address("InternalIP"),
            address("ExternalIP"),
            known(software.os_image),
            known(software.kernel_version),
            known(software.container_runtime_version),
        ]
    }
}

impl Row for Pod {
    const NAME: &'static str = "pod";
    const HEADINGS: &'static [&'static str] =
        &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"];
    const NARROW: usize = 5;

    fn row(&self, age: &str) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let ready = containers.iter().filter(|container| container.ready).count();
        let restarts: i32 = containers.iter().map(|container| container.restart_count).sum();
        let condition = |kind: &str| {
            let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
            found.is_some_and(|condition| condition.status == "True")
        };
        let gates: Vec<_> = spec.readiness_gates.iter().flatten().map(|gate| condition(&gate.condition_type)).collect();
        let met = gates.iter().filter(|met| **met).count();
        vec![
            format!("{ready}/{}", spec.containers.len()),
            pod_state(self),
            restarts.to_string(),
            age.to_owned(),
            status.pod_ip.clone().unwrap_or_else(|| NONE.to_owned()),
            spec.node_name.clone().unwrap_or_else(|| NONE.to_owned()),
            status.nominated_node_name.clone().unwrap_or_else(|| NONE.to_owned()),
            if gates.is_empty() { NONE.to_owned() } else { format!("{met}/{}", gates.len()) },
        ]
    }
}

/// A Pod's state in a word: that it ends, else what a container is kept up or ended by, else its phase.
fn pod_state(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let Some(status) = &pod.status else { return UNKNOWN.to_owned() };
    let states = status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
    let reasons = states.filter_map(|state| {
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref()?.reason.clone())
    });
    // The first container's, as kubectl walks them from the last to it.
    let reason = reasons.into_iter().next();
    reason.or_else(|| status.phase.clone()).unwrap_or_else(|| UNKNOWN.to_owned())
}
