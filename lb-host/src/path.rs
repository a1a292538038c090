//! The doll, opened: every layer from the address that a client dialled to the pod that serves it.
//!
//! ```text
//! <lb-ip>:<lb-port> -> <node-ip>:<node-port> -> <service-ip>:<service-port> -> <pod-ip>:<pod-port>
//! ```

use std::fmt;

use lb_core::rules::{NodeRules, Segment, VipClass};
use lb_core::{Address, Protocol, Tuple};
use serde::Serialize;

/// One layer of the doll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// What sort of address it is.
    pub kind: Kind,
    /// Address and port, IPv6 addresses in brackets.
    pub address: String,
}

/// What sort of address a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A load balancer's.
    Lb,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// A node's.
    Node,
    /// The service's own: its ClusterIP.
    Service,
    /// That of a proxy on the node, in userspace mode (SEMANTICS §14.5).
    Proxy,
    /// A pod's, or whatever else the endpoint is.
    Pod,
}

/// The layers from what was dialled inwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Path(pub Vec<Layer>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, layer) in self.0.iter().enumerate() {
            let arrow = if depth == 0 { "" } else { " -> " };
            write!(f, "{arrow}{} {}", layer.kind, layer.address)?;
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lb => "lb",
            Self::ExternalIp => "external",
            Self::Node => "node",
            Self::Service => "service",
            Self::Proxy => "proxy",
            Self::Pod => "pod",
        })
    }
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`.
pub fn socket(address: Address, port: u16) -> String {
    if address.is_v4() { format!("{address}:{port}") } else { format!("[{address}]:{port}") }
}

/// The path of a packet that dials `segment`'s service port by an address of `class`, to `backend` if one
/// was found. The engine translates in one step; the layers between are those that Kubernetes defines the
/// outer ones by.
pub fn path(
    segment: &Segment<'_>,
    node: Option<&NodeRules<'_>>,
    class: VipClass,
    dialled: (Address, u16),
    backend: Option<(Address, u16)>,
) -> Path {
    let (address, port) = dialled;
    let layer = |kind, (address, port): (Address, u16)| Layer { kind, address: socket(address, port) };
    let of_class = |class| segment.vips().find(move |vip| vip.class == class);
    let own = |node: &NodeRules<'_>| node.own_addresses().find(|own| own.family() == address.family());
    let mut layers = Vec::new();
    match class {
        VipClass::LoadBalancer => {
            layers.push(layer(Kind::Lb, dialled));
            let inner = of_class(VipClass::NodePort).zip(node.and_then(own));
            layers.extend(inner.map(|(vip, own)| layer(Kind::Node, (own, vip.port))));
        }
        VipClass::ExternalIp => layers.push(layer(Kind::ExternalIp, dialled)),
        VipClass::NodePort => layers.push(layer(Kind::Node, (address, port))),
        VipClass::ClusterIp => {}
    }
    layers.extend(of_class(VipClass::ClusterIp).map(|vip| layer(Kind::Service, (vip.address, vip.port))));
    let inmost = if node.is_some_and(NodeRules::redirects) { Kind::Proxy } else { Kind::Pod };
    layers.extend(backend.map(|backend| layer(inmost, backend)));
    Path(layers)
}

/// The sort of address by which a flow's original tuple dials a segment, if it does.
pub fn class_of(segment: &Segment<'_>, original: &Tuple) -> Option<VipClass> {
    let dials = |address: Address, port: u16, protocol: Protocol| {
        (address, port, protocol) == (original.destination, original.destination_port, original.protocol)
    };
    let by_address =
        segment.vips().find(|vip| vip.class != VipClass::NodePort && dials(vip.address, vip.port, vip.protocol));
    let node_port = |port| segment.vips().find(|vip| vip.class == VipClass::NodePort && vip.port == port);
    by_address.or_else(|| node_port(original.destination_port)).map(|vip| vip.class)
}
