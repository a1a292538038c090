//! The node whose data plane is asked for, from a Node object or from its name alone.

use k8s_openapi::api::core::v1::{Node, NodeAddress};
use lb_core::{Address, Prefix, control};

use super::Placed;
use super::address::{lenient_address, lenient_prefix};
use super::settings::Settings;

/// The label with the zone of a Node.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// The name of the node when neither a Node object nor the user names one.
const UNNAMED: &str = "node";

/// No node could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The manifests have Nodes, not this one.
    #[error("no Node is called {name:?} in the manifests; name one of theirs with --node: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The manifests have several Nodes, and none was asked for.
    #[error("the manifests have several Nodes; name one with --node: {known}")]
    Several {
        /// The names there are.
        known: String,
    },
}

/// The node called `name`, or the only one there is; where there are no Nodes, one without addresses.
///
/// # Errors
/// There are Nodes, but not that one, or no telling which.
pub fn node(nodes: &[Placed<Node>], name: Option<&str>, settings: &Settings) -> Result<control::Node, NodeError> {
    let known = || nodes.iter().map(Placed::name).collect::<Vec<_>>().join(", ");
    let placed = match (nodes, name) {
        ([], name) => return Ok(of_parts(name.unwrap_or(UNNAMED), None, Vec::new(), &[], settings)),
        ([only], None) => only,
        (_, None) => return Err(NodeError::Several { known: known() }),
        (_, Some(name)) => nodes
            .iter()
            .find(|node| node.name() == name)
            .ok_or_else(|| NodeError::Unknown { name: name.to_owned(), known: known() })?,
    };
    let zone = placed.label(ZONE).filter(|zone| !zone.is_empty());
    Ok(of_parts(placed.name(), zone, addresses(&placed.object), &pod_cidrs(&placed.object), settings))
}

/// A node of this name, zone, addresses (the first of a family is primary) and blocks of Pod addresses.
pub fn of_parts(
    name: &str,
    zone: Option<&str>,
    addresses: Vec<Address>,
    pod_cidrs: &[Prefix],
    settings: &Settings,
) -> control::Node {
    let proxy = settings.proxy(&addresses, pod_cidrs);
    control::Node { name: name.into(), zone: zone.map(Into::into), addresses, proxy }
}

/// A Node's addresses, the internal ones first.
pub fn addresses(node: &Node) -> Vec<Address> {
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let (internal, other): (Vec<_>, Vec<_>) = listed.iter().partition(|address| address.type_ == "InternalIP");
    let ips = internal.into_iter().chain(other).filter(|address| address.type_.ends_with("IP"));
    let mut addresses = Vec::new();
    for address in ips.filter_map(|NodeAddress { address, .. }| lenient_address(address)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether load balancers should send new connections to a Node: it is not being deleted (SEMANTICS §10.6).
pub fn is_eligible(node: &Node) -> bool {
    const DELETING: &str = "ToBeDeletedByClusterAutoscaler";
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none() && !taints.iter().any(|taint| taint.key == DELETING)
}

/// A Node's blocks of Pod addresses.
pub fn pod_cidrs(node: &Node) -> Vec<Prefix> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.as_deref().unwrap_or_default();
    let blocks = if listed.is_empty() { spec.pod_cidr.as_slice() } else { listed };
    blocks.iter().filter_map(|block| lenient_prefix(block)).collect()
}
