//! What clients can dial, before and after.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::Protocol;
use lb_core::rules::Stale;
use serde::Serialize;

use super::Side;
use crate::listing::{Listing, NodeRow, Row};

/// Something that clients dial, and what changed about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipChange {
    /// Whether it came, went or stayed.
    pub change: Change,
    /// What sort of address it is; none for a service port all of whose addresses other services have.
    pub class: Option<&'static str>,
    /// Address, port and protocol.
    pub address: Option<String>,
    /// The service port that answers there; the later one if that changed.
    pub service: String,
    /// What is served otherwise.
    pub details: Vec<String>,
}

/// Whether something came, went or stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second side has it.
    Added,
    /// Only the first side has it.
    Removed,
    /// Both have it, not alike.
    Changed,
}

type Key<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// By class and address; what has no address of its own goes by its name.
fn by_address(listing: &Listing) -> BTreeMap<Key<'_>, &Row> {
    listing
        .rules
        .iter()
        .map(|row| ((row.class, row.address.as_deref(), row.address.is_none().then_some(row.service.as_str())), row))
        .collect()
}

pub(super) fn changes(before: &Listing, after: &Listing, side: &Side<'_>) -> Vec<VipChange> {
    let (before, after) = (by_address(before), by_address(after));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |key: &&Key<'_>| {
        let (change, row, details) = match (before.get(*key), after.get(*key)) {
            (Some(old), Some(new)) => (Change::Changed, *new, details(old, new, side)),
            (Some(old), None) => (Change::Removed, *old, Vec::new()),
            (None, Some(new)) => (Change::Added, *new, Vec::new()),
            (None, None) => return None,
        };
        let (class, address, service) = (row.class, row.address.clone(), row.service.clone());
        (change != Change::Changed || !details.is_empty()).then_some(VipChange {
            change,
            class,
            address,
            service,
            details,
        })
    };
    keys.iter().filter_map(change).collect()
}

fn details(old: &Row, new: &Row, side: &Side<'_>) -> Vec<String> {
    let mut details = Vec::new();
    let mut word = |name: &str, old: &str, new: &str| {
        if old != new {
            details.push(format!("{name}: {old} -> {new}"));
        }
    };
    let affinity = |row: &Row| row.affinity.map_or("none".to_owned(), |seconds| format!("{seconds}s"));
    let any = |row: &Row| if row.has_endpoints { "yes" } else { "no" };
    let ranges = |row: &Row| if row.source_ranges.is_empty() { "all".to_owned() } else { row.source_ranges.join(",") };
    word("service", &old.service, &new.service);
    word("policy", old.policy, new.policy);
    word("scheduler", old.scheduler, new.scheduler);
    word("affinity", &affinity(old), &affinity(new));
    word("endpoints anywhere", any(old), any(new));
    word("sources", &ranges(old), &ranges(new));
    for (name, old, new) in [("cluster pool", &old.cluster, &new.cluster), ("local pool", &old.local, &new.local)] {
        match (old, new) {
            (Some(_), None) => details.push(format!("{name}: no longer in use")),
            (None, Some(pool)) => details.push(format!("{name}: now in use, {} endpoints", pool.len())),
            (Some(old), Some(new)) => details.extend(members(name, old, new)),
            (None, None) => {}
        }
    }
    details.extend(members("flows kept by", &old.kept, &new.kept));
    details.extend(gone(old, new, side));
    details
}

/// Who left a list (-) and who came (+).
fn members(name: &str, old: &[String], new: &[String]) -> Option<String> {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let left = old.difference(&new).map(|member| format!("-{member}"));
    let came = new.difference(&old).map(|member| format!("+{member}"));
    let changes: Vec<_> = left.chain(came).collect();
    (!changes.is_empty()).then(|| format!("{name}: {}", changes.join(" ")))
}

/// What becomes of the flows of endpoints that are gone.
fn gone(old: &Row, new: &Row, side: &Side<'_>) -> Option<String> {
    let all = |row: &Row| -> BTreeSet<String> {
        let lists = [row.cluster.as_deref(), row.local.as_deref(), Some(row.kept.as_slice())];
        lists.into_iter().flatten().flatten().cloned().collect()
    };
    let gone: Vec<_> = all(old).difference(&all(new)).cloned().collect();
    let protocol = match new.service.rsplit_once('/').map(|(_, protocol)| protocol) {
        Some("TCP") => Protocol::TCP,
        Some("UDP") => Protocol::UDP,
        _ => Protocol::SCTP,
    };
    let fate = match side.rules.node()?.stale(protocol) {
        Stale::Keep => "stay with it until they end (§11.2)",
        Stale::Reselect => "choose anew while another endpoint serves (§11.5, §14.3)",
    };
    (!gone.is_empty()).then(|| format!("flows of {}: {fate}", gone.join(", ")))
}

/// What holds for the node, item by item.
pub(super) fn node_changes(old: Option<&NodeRow>, new: Option<&NodeRow>) -> Vec<String> {
    let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
    let masquerade = |node: &NodeRow| -> Vec<String> {
        node.masquerade.iter().map(|one| format!("{} towards {}", one.address, one.destination)).collect()
    };
    let mut changes: Vec<String> = [
        members("addresses", &old.addresses, &new.addresses),
        members("NodePorts open on", &old.node_port_addresses, &new.node_port_addresses),
        members("pods told by", &old.pod_sources, &new.pod_sources),
        members("service CIDRs", &old.service_cidrs, &new.service_cidrs),
        members("masquerades as", &masquerade(old), &masquerade(new)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if old.reserved_ports != new.reserved_ports {
        let words = |(first, last): (u16, u16)| format!("{first}-{last}");
        changes.push(format!(
            "ports not masqueraded with: {} -> {}",
            words(old.reserved_ports),
            words(new.reserved_ports)
        ));
    }
    changes
}
