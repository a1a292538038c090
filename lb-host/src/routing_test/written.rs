//! A routing test as it is written: the keys of the file, and nothing else.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// `kind: RoutingTest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoutingTest {
    #[serde(default)]
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) name: String,
    /// As any object may have them; they say nothing to us.
    #[serde(rename = "labels")]
    _labels: Value,
    #[serde(rename = "annotations")]
    _annotations: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Spec {
    #[serde(default = "iptables")]
    pub(super) mode: String,
    pub(super) steps: Vec<Step>,
}

fn iptables() -> String {
    "iptables".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(default = "yes")]
    pub(super) fresh: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) node: Node,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) proxy: Proxy,
    /// Read as Kubernetes objects, with their places.
    #[serde(default, deserialize_with = "or_default", rename = "objects")]
    _objects: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) manifests: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) flows: Vec<Flow>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) endpoints: Vec<Endpoints>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) health_check: BTreeMap<String, Option<Health>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) conntrack: Vec<Conntrack>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) addresses: Option<Vec<String>>,
    pub(super) zone: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Words>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Proxy {
    #[serde(rename = "clusterCIDR")]
    pub(super) cluster_cidr: Words,
    pub(super) detect_local_mode: Option<String>,
    pub(super) detect_local: DetectLocal,
    pub(super) node_port_addresses: Words,
    pub(super) localhost_node_ports: Option<bool>,
    pub(super) masquerade_all: Option<bool>,
    #[serde(rename = "serviceCIDRs")]
    pub(super) service_cidrs: Option<Words>,
    pub(super) scheduler: Option<String>,
    #[serde(rename = "emptyUDP")]
    pub(super) empty_udp: EmptyUdp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DetectLocal {
    pub(super) bridge_interface: String,
    pub(super) interface_name_prefix: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EmptyUdp {
    #[default]
    Keep,
    Cut,
}

/// A verdict's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// To a backend.
    Forward,
    /// Refused with an ICMP error.
    Reject,
    /// Dropped in silence.
    Drop,
    /// None of ours, untouched.
    Pass,
    /// The node itself answers, untranslated.
    Accept,
    /// To the proxy of userspace mode.
    Punt,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Accept => "accept",
            Self::Punt => "punt",
        })
    }
}

/// A list, or its one item, or its items in one text with commas between them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    Text(String),
    List(Vec<String>),
    Null(()),
}

impl Default for Words {
    fn default() -> Self {
        Self::Null(())
    }
}

impl Words {
    pub(super) fn words(&self) -> Vec<&str> {
        match self {
            Self::Null(()) => Vec::new(),
            Self::Text(text) => text.split(',').filter(|word| !word.trim().is_empty()).collect(),
            Self::List(list) => list.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Flow {
    pub(super) name: Option<String>,
    pub(super) packet: String,
    pub(super) iif: Option<String>,
    pub(super) expect: Expect,
}

#[derive(Debug, Deserialize)]
pub(super) struct Expect {
    pub(super) verdict: Option<Word>,
    pub(super) backends: Option<Vec<String>>,
    pub(super) masquerade: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoints {
    pub(super) service: String,
    pub(super) family: Option<Family>,
    #[serde(default, deserialize_with = "given")]
    pub(super) cluster: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) local: Option<Option<Vec<String>>>,
    pub(super) has_any: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health {
    pub(super) status: Option<u16>,
    pub(super) local_endpoints: Option<usize>,
    pub(super) family: Option<Family>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Conntrack {
    pub(super) flow: String,
    pub(super) to: String,
    pub(super) expect: Survival,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Survival {
    Kept,
    Cleared,
}

/// A key without a value is as one that is not there.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Tells a key that is there and null from one that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Every key there is, for hints.
pub(super) const KEYS: &[&str] = &[
    "metadata",
    "name",
    "labels",
    "annotations",
    "spec",
    "mode",
    "steps",
    "fresh",
    "node",
    "addresses",
    "zone",
    "podCIDRs",
    "proxy",
    "clusterCIDR",
    "detectLocalMode",
    "detectLocal",
    "bridgeInterface",
    "interfaceNamePrefix",
    "nodePortAddresses",
    "localhostNodePorts",
    "masqueradeAll",
    "serviceCIDRs",
    "scheduler",
    "emptyUDP",
    "objects",
    "manifests",
    "flows",
    "packet",
    "iif",
    "expect",
    "verdict",
    "backends",
    "masquerade",
    "endpoints",
    "service",
    "family",
    "cluster",
    "local",
    "hasAny",
    "healthCheck",
    "status",
    "localEndpoints",
    "conntrack",
    "flow",
    "to",
];
