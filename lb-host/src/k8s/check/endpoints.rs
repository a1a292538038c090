//! EndpointSlices and v1 Endpoints (SEMANTICS §16.8).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::names::{LABEL, QUALIFIED, SUBDOMAIN, is_label, is_qualified, is_subdomain};
use super::{Report, family_name};
use crate::k8s::address::lenient_address;

/// What a slice may hold at most, as an API server was seen to take it (§16.8).
const ENDPOINTS: usize = 1000;
const PORTS: usize = 20_000;
const ADDRESSES: usize = 100;
const HINTS: usize = 8;

pub(super) fn slice(report: &mut Report<'_, EndpointSlice>) {
    let slice = &report.object.object;
    report.subdomain();
    report.one_of("addressType", Some(&slice.address_type), &["IPv4", "IPv6", "FQDN"]);
    if slice.address_type.is_empty() {
        report.refuse("addressType", "is missing", "give IPv4, IPv6 or FQDN");
    }
    limit(report, "ports", slice.ports.iter().flatten().count(), PORTS);
    limit(report, "endpoints", slice.endpoints.iter().flatten().count(), ENDPOINTS);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        report.port(&format!("ports[{index}].port"), port.port.unwrap_or(0), true);
        report.protocol(&format!("ports[{index}].protocol"), port.protocol.as_deref());
        let (field, name) = (format!("ports[{index}].name"), port.name.as_deref().unwrap_or_default());
        if !name.is_empty() && !is_label(name) {
            report.refuse(&field, format_args!("is {name:?}, which is no DNS label"), LABEL);
        }
        if let Some(name) = port.app_protocol.as_deref().filter(|name| !is_qualified(name)) {
            let field = format!("ports[{index}].appProtocol");
            report.refuse(&field, format_args!("is {name:?}, which is no qualified name"), QUALIFIED);
        }
        if let Some(first) = names.insert(name, index) {
            report.refuse(&field, format_args!("is that of ports[{first}]"), "give each port its own name");
        }
    }
    for (index, one) in slice.endpoints.iter().flatten().enumerate() {
        endpoint(report, &slice.address_type, &format!("endpoints[{index}]"), one);
    }
}

fn endpoint(report: &mut Report<'_, EndpointSlice>, address_type: &str, field: &str, endpoint: &Endpoint) {
    let addresses = format!("{field}.addresses");
    if endpoint.addresses.is_empty() {
        report.tell(&addresses, "is missing or empty", "give the endpoint an address");
    }
    limit(report, &addresses, endpoint.addresses.len(), ADDRESSES);
    for (at, text) in endpoint.addresses.iter().enumerate() {
        let field = format!("{addresses}[{at}]");
        if address_type == "FQDN" {
            if !is_subdomain(text) {
                report.refuse(&field, format_args!("is {text:?}, which is no DNS subdomain"), SUBDOMAIN);
            }
            continue;
        }
        report.reachable(&field, text);
        let family = lenient_address(text).map(family_name).filter(|family| *family != address_type);
        if let Some(family) = family.filter(|_| !address_type.is_empty()) {
            let message = format_args!("is {text}, an {family} address in a slice of {address_type}");
            report.refuse(&field, message, "put the families in slices of their own");
        }
    }
    if let Some(name) = endpoint.hostname.as_deref().filter(|name| !is_label(name)) {
        report.refuse(&format!("{field}.hostname"), format_args!("is {name:?}, which is no DNS label"), LABEL);
    }
    if let Some(name) = endpoint.node_name.as_deref().filter(|name| !is_subdomain(name)) {
        report.refuse(
            &format!("{field}.nodeName"),
            format_args!("is {name:?}, which no Node can be called"),
            SUBDOMAIN,
        );
    }
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str());
    let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str());
    for (list, names) in [("forZones", zones.collect::<Vec<_>>()), ("forNodes", nodes.collect())] {
        for (at, name) in names.iter().enumerate() {
            let field = format!("{field}.hints.{list}[{at}].name");
            if name.is_empty() {
                report.refuse(&field, "is missing", "give the zone or node that it is for");
            } else if names.iter().take(at).any(|before| before == name) {
                report.refuse(&field, format_args!("is {name} once more"), "name each once");
            }
        }
    }
    limit(report, &format!("{field}.hints.forZones"), hints.for_zones.iter().flatten().count(), HINTS);
    limit(report, &format!("{field}.hints.forNodes"), hints.for_nodes.iter().flatten().count(), HINTS);
}

fn limit(report: &mut Report<'_, EndpointSlice>, field: &str, count: usize, most: usize) {
    if count > most {
        let advice = format!("give at most {most}, and the rest elsewhere");
        report.refuse(field, format_args!("has {count} entries"), &advice);
    }
}

pub(super) fn endpoints(report: &mut Report<'_, Endpoints>) {
    report.subdomain();
    for (index, subset) in report.object.object.subsets.iter().flatten().enumerate() {
        let addresses = subset.addresses.iter().chain(&subset.not_ready_addresses).flatten();
        if addresses.count() == 0 {
            let advice = "give it addresses or notReadyAddresses, or leave it out";
            report.refuse(&format!("subsets[{index}]"), "has no address", advice);
        }
        let several = subset.ports.iter().flatten().count() > 1;
        for (at, port) in subset.ports.iter().flatten().enumerate() {
            report.port(&format!("subsets[{index}].ports[{at}].port"), port.port, false);
            report.protocol(&format!("subsets[{index}].ports[{at}].protocol"), port.protocol.as_deref());
            let (field, name) =
                (format!("subsets[{index}].ports[{at}].name"), port.name.as_deref().unwrap_or_default());
            if name.is_empty() && several {
                report.refuse(&field, "is missing", "name every port where there are several");
            } else if !name.is_empty() && !is_label(name) {
                report.refuse(&field, format_args!("is {name:?}, which is no DNS label"), LABEL);
            }
        }
        for (list, addresses) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
        {
            for (at, address) in addresses.iter().flatten().enumerate() {
                report.reachable(&format!("subsets[{index}].{list}[{at}].ip"), &address.ip);
            }
        }
    }
}
