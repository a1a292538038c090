//! Addresses of several Services, of nodes, and of the cluster's blocks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use lb_core::{Address, Prefix};

use crate::k8s::address::lenient_address;
use crate::k8s::manifest::{Manifests, Placed};
use crate::k8s::node;
use crate::k8s::place::Problem;
use crate::k8s::service::{OTHER_PROXY, kind};

/// ClusterIPs that the API server could not have allocated (SEMANTICS §17.4).
pub(super) fn cluster_ips(services: &[Placed<Service>], blocks: &[Prefix], problems: &mut Vec<Problem>) {
    for claim in services.iter().flat_map(claims).filter(|claim| claim.class == "ClusterIP") {
        let mut own = blocks.iter().filter(|block| block.address().family() == claim.address.family()).peekable();
        if own.peek().is_some() && !own.any(|block| block.contains(claim.address)) {
            let message = format!("is {}, outside the blocks that ClusterIPs come from", claim.address);
            let advice = "give one inside, or say the blocks with --service-cluster-ip-range";
            problems.push(claim.service.problem(&claim.field, message, advice));
        }
    }
}

/// What is dialled by one address and port, and belongs to two Services (§6.1).
pub(super) fn claimed_twice(applied: &Manifests, problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<(Address, &str, i32), Vec<Claim<'_>>> = BTreeMap::new();
    for service in applied.services.iter().filter(|service| service.label(OTHER_PROXY).is_none()) {
        for port in service.object.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            for claim in claims(service) {
                owners.entry((claim.address, protocol, port.port)).or_default().push(claim);
            }
        }
    }
    for ((address, protocol, port), mut claims) in owners {
        // As the compiler decides, whatever came first.
        claims.sort_by_key(|claim| claim.service.key());
        let mut claims = claims.into_iter();
        let Some(first) = claims.next() else { continue };
        let winner = first.service.key();
        // Two ClusterIPs are an error, and told as one.
        let both_own = |claim: &Claim<'_>| (claim.class, first.class) == ("ClusterIP", "ClusterIP");
        for claim in claims.filter(|claim| claim.service.key() != winner && !both_own(claim)) {
            let message = format!(
                "claims {address}:{port}/{protocol}, which is also the {} of Service {winner} at {}: {winner} has it, \
                 by its name; among kube-proxies it is left to chance (§6.1)",
                first.class,
                first.service.place(&first.field)
            );
            problems.push(claim.service.problem(&claim.field, message, "give each its own address or port"));
        }
    }
}

/// Service addresses that are a node's own (§7.7).
pub(super) fn on_nodes(applied: &Manifests, problems: &mut Vec<Problem>) {
    let nodes = applied
        .nodes
        .iter()
        .flat_map(|node| node::addresses(&node.object).into_iter().map(|address| (address, node.name().to_owned())));
    let nodes: BTreeMap<Address, String> = nodes.collect();
    for claim in applied.services.iter().flat_map(claims) {
        if let Some(node) = nodes.get(&claim.address) {
            let message = format!(
                "is {}, an address of Node {node}: the Service takes its ports from whatever listens there (§7.7)",
                claim.address
            );
            problems.push(claim.service.problem(&claim.field, message, "use a NodePort, or an address of its own"));
        }
    }
}

/// An address that a Service is dialled by, and where that is said.
struct Claim<'a> {
    service: &'a Placed<Service>,
    field: String,
    class: &'static str,
    address: Address,
}

fn claims(service: &Placed<Service>) -> Vec<Claim<'_>> {
    let Some(spec) = service.object.spec.as_ref().filter(|spec| kind(spec) != "ExternalName") else {
        return Vec::new();
    };
    let mut claims: Vec<Claim<'_>> = Vec::new();
    let mut claim = |field: String, class: &'static str, text: &str| {
        let Some(address) = lenient_address(text) else { return };
        if !claims.iter().any(|claim| claim.address == address) {
            claims.push(Claim { service, field, class, address });
        }
    };
    if let Some(ip) = &spec.cluster_ip {
        claim("spec.clusterIP".to_owned(), "ClusterIP", ip);
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        claim(format!("spec.clusterIPs[{index}]"), "ClusterIP", ip);
    }
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        claim(format!("spec.externalIPs[{index}]"), "external IP", ip);
    }
    let balancer = service.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for (index, entry) in balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
        if let Some(ip) = entry.ip.as_deref().filter(|_| entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP")) {
            claim(format!("status.loadBalancer.ingress[{index}].ip"), "load balancer IP", ip);
        }
    }
    claims
}
