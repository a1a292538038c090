//! What an API server would refuse, told with its place (SEMANTICS §16).
//!
//! Objects that one has stored may be such as it would not take today, or never took from a user: odd
//! addresses, a NodePort on a Service of another type, port 0 in a slice. SEMANTICS §2-4 say how those are
//! read, so they pass [`check`]; [`refusals`] tells all.

mod across;
mod endpoints;
mod names;
mod service;

use std::fmt::Display;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use lb_core::{Address, Family};

use super::address::{lenient_address, lenient_prefix};
use super::defaults;
use super::manifest::{Manifests, Object, Placed};
use super::place::Problem;
use super::service::{number, protocol};

pub(super) use names::{is_label, is_subdomain};
use names::{is_label_value, is_qualified};

const PORT: &str = "give a number from 1 to 65535";

/// What a cluster takes, which no manifest tells.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The address families that it serves.
    pub families: Vec<Family>,
    /// Its first and last NodePort.
    pub node_ports: (u16, u16),
}

/// What is wrong with the objects whatever they were meant to be, kind by kind.
pub fn check(manifests: &Manifests) -> Vec<Problem> {
    run(manifests, None)
}

/// All that the API server of such a cluster would refuse if the objects were applied to it.
pub fn refusals(manifests: &Manifests, limits: &Limits) -> Vec<Problem> {
    run(manifests, Some(limits))
}

fn run(manifests: &Manifests, limits: Option<&Limits>) -> Vec<Problem> {
    let mut problems = Vec::new();
    each(&manifests.services, limits, &mut problems);
    across::cluster_ips(&manifests.services, &mut problems);
    across::node_ports(&manifests.services, &mut problems);
    each(&manifests.slices, limits, &mut problems);
    each(&manifests.endpoints, limits, &mut problems);
    each(&manifests.pods, limits, &mut problems);
    each(&manifests.nodes, limits, &mut problems);
    problems
}

/// What the API server of such a cluster would refuse of one object, looked at alone.
pub fn refusals_of<T: Checked>(object: &Placed<T>, limits: &Limits) -> Vec<Problem> {
    let mut problems = Vec::new();
    one(object, Some(limits), &mut problems);
    problems
}

/// The NodePorts that a Service asks for more than once.
pub fn repeated_node_ports(service: &Placed<Service>) -> Vec<Problem> {
    let mut problems = Vec::new();
    across::node_ports(std::slice::from_ref(service), &mut problems);
    problems
}

fn each<T: Checked>(objects: &[Placed<T>], limits: Option<&Limits>, problems: &mut Vec<Problem>) {
    for object in objects {
        one(object, limits, problems);
    }
}

fn one<T: Checked>(object: &Placed<T>, limits: Option<&Limits>, problems: &mut Vec<Problem>) {
    let mut report = Report { object, limits, problems };
    if T::namespaced() && !is_label(object.namespace()) {
        let message = format!("is {:?}, which is no DNS label", object.namespace());
        report.refuse("metadata.namespace", message, names::LABEL);
    }
    labels(&mut report);
    T::check(&mut report);
}

/// What every object may be labelled and annotated with.
fn labels<T: Object>(report: &mut Report<'_, T>) {
    let metadata = report.object.object.metadata();
    for (key, value) in metadata.labels.iter().flatten() {
        report.label("metadata.labels", key, value);
    }
    // Of annotations the case of the domain does not count either, and the value may be anything.
    for key in metadata.annotations.iter().flat_map(|annotations| annotations.keys()) {
        if !is_qualified(&key.to_lowercase()) {
            let message = format_args!("has {key:?}, which no annotation can be called");
            report.refuse("metadata.annotations", message, names::QUALIFIED);
        }
    }
}

/// A kind of object that an API server looks at.
pub trait Checked: Object {
    /// Tells `report` what is wrong.
    fn check(report: &mut Report<'_, Self>)
    where
        Self: Sized;
}

impl Checked for Service {
    fn check(report: &mut Report<'_, Self>) {
        service::service(report);
    }
}

impl Checked for EndpointSlice {
    fn check(report: &mut Report<'_, Self>) {
        endpoints::slice(report);
    }
}

impl Checked for Endpoints {
    fn check(report: &mut Report<'_, Self>) {
        endpoints::endpoints(report);
    }
}

impl Checked for Pod {
    fn check(report: &mut Report<'_, Self>) {
        pod(report);
    }
}

impl Checked for Node {
    fn check(report: &mut Report<'_, Self>) {
        node(report);
    }
}

impl Checked for Namespace {
    fn check(report: &mut Report<'_, Self>) {
        if !is_label(report.object.name()) {
            report.refuse(
                "metadata.name",
                format_args!("is {:?}, which is no DNS label", report.object.name()),
                names::LABEL,
            );
        }
    }
}

impl Checked for ServiceCIDR {
    fn check(report: &mut Report<'_, Self>) {
        report.subdomain();
    }
}

/// Collects the problems of one object.
pub struct Report<'a, T> {
    object: &'a Placed<T>,
    /// Set if all is told that an API server refuses.
    limits: Option<&'a Limits>,
    problems: &'a mut Vec<Problem>,
}

impl<T: Object> Report<'_, T> {
    fn tell(&mut self, field: &str, message: impl Display, advice: &str) {
        self.problems.push(self.object.problem(field, message, advice));
    }

    /// Tells what is refused of a user, and has a meaning all the same if it was stored.
    fn refuse(&mut self, field: &str, message: impl Display, advice: &str) {
        if self.limits.is_some() {
            self.tell(field, message, advice);
        }
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

    /// An address that traffic can be sent to from elsewhere (§16.7, §16.8).
    fn reachable(&mut self, field: &str, text: &str) {
        self.address(field, text);
        let Some(address) = lenient_address(text) else { return };
        if let Some(kind) = special(address) {
            self.refuse(
                field,
                format_args!("is {text}, which is {kind}"),
                "give an address that other hosts can reach",
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

    /// A label that an object has, or is to have to be selected.
    fn label(&mut self, field: &str, key: &str, value: &str) {
        if !is_qualified(key) || !is_label_value(value) {
            self.refuse(field, format_args!("has {key:?}: {value:?}, which no label can be"), names::QUALIFIED);
        }
    }

    /// The name of an object whose names are DNS subdomains.
    fn subdomain(&mut self) {
        if !is_subdomain(self.object.name()) {
            let message = format!("is {:?}, which is no DNS subdomain", self.object.name());
            self.refuse("metadata.name", message, names::SUBDOMAIN);
        }
    }
}

/// What sort of address it is, if it is of a sort that no packet from elsewhere reaches.
fn special(address: Address) -> Option<&'static str> {
    let (v4, bits) = (address.v4_bits(), address.bits());
    let (unspecified, unicast, multicast) = if address.is_v4() {
        // RFC 1122 §3.2.1.3, RFC 3927 §2.1, RFC 5771 §4.
        (v4 == 0, v4 >> 16 == 0xa9fe, v4 >> 8 == 0x00e0_0000)
    } else {
        // RFC 4291 §2.5.2, §2.5.6, §2.7.
        (bits == 0, bits >> 118 == 0x3fa, bits >> 112 == 0xff02)
    };
    match (unspecified, address.is_loopback(), unicast, multicast) {
        (true, ..) => Some("the unspecified address"),
        (_, true, ..) => Some("a loopback address"),
        (_, _, true, _) => Some("a link-local address"),
        (_, _, _, true) => Some("a link-local multicast address"),
        _ => None,
    }
}

/// A family as the API writes it.
fn family_name(address: Address) -> &'static str {
    defaults::family(address)
}

fn pod(report: &mut Report<'_, Pod>) {
    let object = report.object;
    report.subdomain();
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

fn node(report: &mut Report<'_, Node>) {
    let object = report.object;
    report.subdomain();
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
