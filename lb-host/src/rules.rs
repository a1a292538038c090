//! From a cluster's objects to the rules of one of its nodes.

use lb_core::control::{Control, Node, Service, Slice};

/// The control plane of a node that knows these objects.
pub fn control(services: &[Service], slices: &[Slice], node: Node) -> Control {
    let mut control = Control::new(node);
    services.iter().for_each(|service| control.put_service(service.clone()));
    slices.iter().for_each(|slice| control.put_slice(slice.clone()));
    control
}
