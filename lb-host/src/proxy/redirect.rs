//! What the engine is told of services whose packets the proxy is to have: the proxy's port is a service port's one backend.

use lb_core::Family;
use std::collections::BTreeSet;

use lb_core::control::{CompileError, Control, Endpoint, Label, Mode, Node, Service, ServicePort, Slice, SlicePort};

use super::{Key, Proxy};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The service as the engine is to see it on this node: its addresses and ports, and no policy, affinity or source range, as
/// userspace mode knows none or sees to it itself (SEMANTICS §14.5). With it two slices, one a family, whose one endpoint is
/// the node, on the ports that `proxy_port` names.
pub fn redirect(
    service: &Service,
    node: &Node,
    proxy_port: impl Fn(&ServicePort, Family) -> Option<u16>,
) -> (Service, [Slice; 2]) {
    let slice = |family| {
        let redirected = |port: &ServicePort| {
            let (name, protocol) = (port.name.clone(), port.protocol);
            Some(SlicePort { name, protocol, port: proxy_port(port, family)? })
        };
        let endpoint = |address| Endpoint {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.name.clone()),
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        };
        Slice {
            name: slice_name(&service.name, family),
            service: service.name.clone(),
            ports: service.ports.iter().filter_map(redirected).collect(),
            endpoints: node.primary(family).into_iter().map(endpoint).collect(),
        }
    };
    let redirected = Service {
        name: service.name.clone(),
        cluster_ips: service.cluster_ips.clone(),
        external_ips: service.external_ips.clone(),
        load_balancer_ips: service.load_balancer_ips.clone(),
        source_ranges: Vec::new(),
        internal_policy: Default::default(),
        external_policy: Default::default(),
        affinity: None,
        preserve_destination: false,
        health_check_port: service.health_check_port,
        ports: service.ports.clone(),
    };
    (redirected, FAMILIES.map(slice))
}

fn slice_name(service: &Label, family: Family) -> Label {
    let word = if family == Family::V4 { "v4" } else { "v6" };
    format!("{service}/{word}").into()
}

/// The control plane of an engine that redirects to a proxy on its node.
pub struct Redirect {
    control: Control,
}

impl Redirect {
    /// Nothing is redirected yet. Of the node what counts is what [`delta`](Self::delta)'s control plane says of it.
    pub fn new(node: &Node) -> Self {
        Self { control: Control::new(redirecting(node)) }
    }

    /// Writes to `out` what the engine's table changes by, so that all of `control`'s services go to the ports that `proxy`
    /// has open for them; as [`Control::delta`] does. It looks at every service.
    ///
    /// # Errors
    /// As [`Control::delta`].
    pub fn delta(&mut self, control: &Control, proxy: &Proxy, out: &mut Vec<u8>) -> Result<bool, CompileError> {
        self.control.put_node(redirecting(control.node()));
        let names = |control: &Control| control.services().map(|service| service.name.clone()).collect::<BTreeSet<_>>();
        for gone in names(&self.control).difference(&names(control)) {
            self.control.remove_service(gone);
            FAMILIES.iter().for_each(|family| self.control.remove_slice(&slice_name(gone, *family)));
        }
        for service in control.services() {
            let port = |port: &ServicePort, family| proxy.port(&Key::new(&service.name, port, family));
            let (service, slices) = redirect(service, control.node(), port);
            self.control.put_service(service);
            slices.into_iter().for_each(|slice| self.control.put_slice(slice));
        }
        self.control.delta(out)
    }

    /// The full image of what the engine has after the last [`delta`](Self::delta), as [`Control::image`].
    ///
    /// # Errors
    /// As [`Control::image`].
    pub fn image(&mut self) -> Result<Vec<u8>, CompileError> {
        self.control.image()
    }
}

fn redirecting(node: &Node) -> Node {
    let mut node = node.clone();
    (node.proxy.mode, node.proxy.scheduler) = (Mode::REDIRECT, Mode::REDIRECT.scheduler);
    node
}
