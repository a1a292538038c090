//! Who did what, and when, in words.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::Instant;

use crate::cluster::api::{Any, Api, Change, Refusal};
use crate::cluster::cloud::Cloud;
use crate::k8s::Placed;
use crate::k8s::service::{ingress_ips, kind};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub time: Instant,
    /// Who: an object, `Pod default/web-1`, or a process, `kube-proxy on worker-1`.
    pub who: String,
    /// What it did, or how it is since then.
    pub what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.time.as_nanos() / 1000;
        write!(f, "{:>6}.{:06} s  {}: {}", micros / 1_000_000, micros % 1_000_000, self.who, self.what)
    }
}

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
    told: u64,
    /// How each object was when it was last told of.
    last: BTreeMap<String, String>,
}

impl Log {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn note(&mut self, time: Instant, who: impl Into<String>, what: impl Into<String>) {
        self.entries.push(Entry { time, who: who.into(), what: what.into() });
    }

    /// A write that the API refused to one of its own: never in order, always told.
    pub(super) fn fault(&mut self, who: &str, time: Instant, refusal: Option<Refusal>) {
        refusal.into_iter().for_each(|refusal| self.note(time, who, format!("was refused: {refusal}")));
    }

    /// Tells of all that happened in the API, as far as it shows.
    pub(super) fn tell(&mut self, api: &Api, now: Instant) {
        for event in api.watch(self.told) {
            let Some((who, state)) = describe(&event.object) else { continue };
            if event.change == Change::Deleted {
                self.last.remove(&who);
                self.note(now, who, "is gone");
            } else {
                self.changed(now, who, state);
            }
        }
        self.told = api.version();
    }

    /// Tells how load balancers see their nodes.
    pub(super) fn balancers(&mut self, now: Instant, cloud: &Cloud) {
        for balancer in cloud.balancers() {
            let targets = balancer
                .targets()
                .map(|(node, _, well)| format!("{node} {}", if well { "healthy" } else { "unhealthy" }));
            let mut targets: Vec<_> = targets.collect();
            targets.dedup();
            self.changed(now, format!("load balancer {}", balancer.name()), targets.join(", "));
        }
    }

    fn changed(&mut self, now: Instant, who: String, state: String) {
        if self.last.get(&who) != Some(&state) {
            self.last.insert(who.clone(), state.clone());
            self.note(now, who, state);
        }
    }
}

/// What an object is called, and how it is; `None` of what nobody wants to hear about.
fn describe(object: &Any) -> Option<(String, String)> {
    Some(match object {
        Any::Service(service) => (format!("Service {}", service.key()), of_service(service)),
        Any::EndpointSlice(slice) => (format!("EndpointSlice {}", slice.key()), of_slice(slice)),
        Any::Pod(pod) => (format!("Pod {}", pod.key()), of_pod(pod)),
        Any::Node(node) => (format!("Node {}", node.key()), of_node(node)),
        Any::Endpoints(_) | Any::Namespace(_) | Any::ServiceCIDR(_) => return None,
    })
}

fn of_service(service: &Placed<Service>) -> String {
    let Some(spec) = &service.object.spec else { return "has no spec".to_owned() };
    let mut words = vec![kind(spec).to_owned()];
    words.extend(spec.cluster_ips.iter().flatten().cloned());
    words.extend(spec.external_name.iter().map(|name| format!("-> {name}")));
    words.extend(ingress_ips(&service.object).iter().map(|ip| format!("external {ip}")));
    if service.object.metadata.deletion_timestamp.is_some() {
        words.push("on its way out".to_owned());
    }
    words.join(" ")
}

fn of_slice(slice: &Placed<EndpointSlice>) -> String {
    let endpoints = slice.object.endpoints.iter().flatten().map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let standing = match (conditions.ready, conditions.serving, conditions.terminating) {
            (None | Some(true), ..) => "ready",
            (_, None | Some(true), Some(true)) => "terminating but serving",
            (_, _, Some(true)) => "terminating",
            _ => "not ready",
        };
        format!("{} {standing}", endpoint.addresses.first().map_or("?", String::as_str))
    });
    let endpoints: Vec<_> = endpoints.collect();
    if endpoints.is_empty() { "no endpoints".to_owned() } else { endpoints.join(", ") }
}

fn of_pod(pod: &Placed<Pod>) -> String {
    let status = pod.object.status.clone().unwrap_or_default();
    let mut words = vec![status.phase.unwrap_or_default()];
    if let Some(node) = pod.object.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
        words.push(format!("on {node}"));
    }
    words.extend(status.pod_ip.map(|ip| format!("as {ip}")));
    let ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    words.push(if ready { "ready" } else { "not ready" }.to_owned());
    if pod.object.metadata.deletion_timestamp.is_some() {
        words.push("terminating".to_owned());
    }
    words.join(" ")
}

fn of_node(node: &Placed<Node>) -> String {
    let conditions = node.object.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    match ready.map(|condition| condition.status.as_str()) {
        Some("True") => "ready",
        Some(_) => "not heard of",
        None => "joins",
    }
    .to_owned()
}
