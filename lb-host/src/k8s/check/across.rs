//! What only all Services together show.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use lb_core::Address;

use crate::k8s::address::lenient_address;
use crate::k8s::manifest::Placed;
use crate::k8s::place::{Place, Problem};
use crate::k8s::service::kind;

/// No two Services have one ClusterIP.
pub(super) fn cluster_ips(services: &[Placed<Service>], problems: &mut Vec<Problem>) {
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
pub(super) fn node_ports(services: &[Placed<Service>], problems: &mut Vec<Problem>) {
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
