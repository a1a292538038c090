//! Zone hints in proportion to the zones' CPU: what `service.kubernetes.io/topology-mode: Auto` asks of the
//! EndpointSlice controller (SEMANTICS §18.11, KEP-2433).
//!
//! Every ready endpoint is hinted for one zone, at first its own. Zones with more endpoints than their share of the
//! cluster's CPU then give some to zones with fewer, by whole endpoints. Where upstream leaves it to the order of a map
//! which of several equal zones comes first, here it is the first by name.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

use super::manifest::Placed;
use super::node::ZONE;

/// How much more than its fair share of traffic an endpoint may get.
const OVERLOAD: f64 = 0.2;

/// Nodes with one of these labels, whatever its value, serve no ordinary Pods.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Why no endpoint gets a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unhinted {
    /// A ready Node's zone or allocatable CPU is not known.
    Unknown(String),
    /// The ready Nodes are in fewer than two zones.
    Zones,
    /// There are fewer ready endpoints than zones.
    TooFew { endpoints: usize, zones: usize },
    /// However they are dealt out, the endpoints of some zone would get too much.
    Overload { endpoints: usize, zones: usize },
    /// A ready endpoint's zone is not known.
    NoZone,
}

impl fmt::Display for Unhinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(node) => write!(f, "Node {node} has no zone label, or no allocatable CPU"),
            Self::Zones => f.write_str("ready Nodes with a zone and allocatable CPU are in fewer than two zones"),
            Self::TooFew { endpoints, zones } => write!(f, "{endpoints} ready endpoints are too few for {zones} zones"),
            Self::Overload { endpoints, zones } => {
                write!(f, "{endpoints} ready endpoints can't be dealt out to {zones} zones by their CPU")
            }
            Self::NoZone => f.write_str("a ready endpoint has no zone"),
        }
    }
}

/// Each zone's share of the CPU of all Nodes that count: ready ones that are no control plane.
fn shares<'n>(nodes: impl Iterator<Item = &'n Placed<Node>>) -> Result<BTreeMap<&'n str, f64>, Unhinted> {
    let mut zones: BTreeMap<&str, f64> = BTreeMap::new();
    let counts = |node: &&Placed<Node>| CONTROL_PLANE.iter().all(|label| node.label(label).is_none()) && is_ready(node);
    for node in nodes.filter(counts) {
        let zone = node.label(ZONE).filter(|zone| !zone.is_empty());
        let (Some(zone), Some(cpu)) = (zone, cpu(node)) else { return Err(Unhinted::Unknown(node.name().to_owned())) };
        *zones.entry(zone).or_default() += cpu;
    }
    if zones.len() < 2 {
        return Err(Unhinted::Zones);
    }
    let all: f64 = zones.values().sum();
    zones.values_mut().for_each(|share| *share /= all);
    Ok(zones)
}

/// A Node that says nothing of conditions is taken to be ready, as an endpoint is.
fn is_ready(node: &Placed<Node>) -> bool {
    let conditions = node.object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.is_empty() || conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Allocatable CPU in thousandths, if there is any.
fn cpu(node: &Placed<Node>) -> Option<f64> {
    let allocatable = node.object.status.as_ref()?.allocatable.as_ref()?;
    quantity(&allocatable.get("cpu")?.0).map(|cpu| (cpu * 1000.0).ceil()).filter(|milli| *milli > 0.0)
}

/// A quantity as Kubernetes writes it: a number with a decimal or binary suffix, or an exponent.
fn quantity(text: &str) -> Option<f64> {
    let (digits, suffix) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len()));
    let number: f64 = digits.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        // An exponent, as Rust writes it too.
        other => return text.parse().ok().filter(|_| other.starts_with(['e', 'E'])),
    };
    Some(number * factor)
}

/// Hints each ready endpoint of these, all of one Service and family, for one zone.
///
/// # Errors
/// Why it can't be; then none has a hint.
pub(super) fn hint<'n>(
    endpoints: &mut [&mut Endpoint],
    nodes: impl Iterator<Item = &'n Placed<Node>>,
) -> Result<(), Unhinted> {
    let mut ready: Vec<&mut Endpoint> = Vec::new();
    for endpoint in endpoints {
        endpoint.hints = None;
        if endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true)) {
            ready.push(endpoint);
        }
    }
    let shares = shares(nodes)?;
    let own: Option<Vec<String>> = ready.iter().map(|one| one.zone.clone().filter(|zone| !zone.is_empty())).collect();
    let desired = desired(&shares, ready.len())?;
    let mut zones = own.ok_or(Unhinted::NoZone)?;
    let (mut giving, mut receiving) = transfers(&desired, &zones);
    for zone in &mut zones {
        let Some(left) = giving.get_mut(zone.as_str()).filter(|left| **left > 0) else { continue };
        let Some((receiver, wanted)) = receiving.iter_mut().find(|(_, wanted)| **wanted > 0) else { break };
        *left -= 1;
        *wanted -= 1;
        *zone = (*receiver).to_owned();
    }
    for (endpoint, name) in ready.into_iter().zip(zones) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), ..EndpointHints::default() });
    }
    Ok(())
}

/// How many of `count` endpoints each zone is to have: its share, or what keeps each of its endpoints from more than
/// [`OVERLOAD`] if that is more.
fn desired<'z>(shares: &BTreeMap<&'z str, f64>, count: usize) -> Result<BTreeMap<&'z str, f64>, Unhinted> {
    let zones = shares.len();
    if count < zones {
        return Err(Unhinted::TooFew { endpoints: count, zones });
    }
    let least = |share: f64| (share * count as f64 * (1.0 / (1.0 + OVERLOAD))).ceil();
    if shares.values().map(|share| least(*share)).sum::<f64>() > count as f64 {
        return Err(Unhinted::Overload { endpoints: count, zones });
    }
    Ok(shares.iter().map(|(zone, share)| (*zone, (share * count as f64).max(least(*share)))).collect())
}

/// How many endpoints each zone gives away, and how many it gets, so that what it has comes near what is desired.
fn transfers<'z>(
    desired: &BTreeMap<&'z str, f64>,
    zones: &[String],
) -> (BTreeMap<&'z str, usize>, BTreeMap<&'z str, usize>) {
    let excess = |(zone, desired): (&&'z str, &f64)| {
        let has = zones.iter().filter(|own| own == zone).count();
        (*zone, has as f64 - desired)
    };
    let mut excess: BTreeMap<&str, f64> = desired.iter().map(excess).collect();
    let givers: Vec<&str> = excess.iter().filter(|(_, excess)| **excess > 0.0).map(|(zone, _)| *zone).collect();
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let most = |gives: bool| {
            let side = excess.iter().filter(|(zone, _)| givers.contains(zone) == gives);
            let mut amounts = side.map(|(zone, excess)| (*zone, if gives { *excess } else { -excess }));
            // Of equal ones the first.
            let first = amounts.next()?;
            Some(amounts.fold(first, |best, one| if one.1 > best.1 { one } else { best }))
        };
        let (Some((giver, gives)), Some((receiver, wants))) = (most(true), most(false)) else { break };
        if gives < 0.5 || wants < 0.5 || (gives < 1.0 && wants < 1.0) {
            break;
        }
        *giving.entry(giver).or_default() += 1;
        *receiving.entry(receiver).or_default() += 1;
        excess.entry(giver).and_modify(|excess| *excess -= 1.0);
        excess.entry(receiver).and_modify(|excess| *excess += 1.0);
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("4", Some(4.0)),
            ("3920m", Some(3.92)),
            ("0.5", Some(0.5)),
            (".5", Some(0.5)),
            ("2k", Some(2000.0)),
            ("1Ki", Some(1024.0)),
            ("1e3", Some(1000.0)),
            ("12E-1", Some(1.2)),
            ("1E", Some(1e18)),
            ("", None),
            ("m", None),
            ("4 cores", None),
        ] {
            assert_eq!(quantity(text), expected, "{text:?}");
        }
    }

    /// Shares in quarters, what each zone has, and who gives and gets how many: desired is four times the share.
    #[test]
    fn whole_endpoints_move_where_half_of_one_is_missed() {
        type Moves<'a> = &'a [(&'a str, usize)];
        type Case<'a> = (&'a [(&'a str, f64)], &'a str, Moves<'a>, Moves<'a>);
        let cases: &[Case<'_>] = &[
            (&[("a", 2.0), ("b", 2.0)], "aabb", &[], &[]),
            (&[("a", 2.0), ("b", 2.0)], "aaaa", &[("a", 2)], &[("b", 2)]),
            (&[("a", 1.0), ("b", 3.0)], "aabb", &[("a", 1)], &[("b", 1)]),
            // 0.4 too many is not worth a move, 0.6 meets a whole one.
            (&[("a", 3.6), ("b", 1.4)], "aaaab", &[], &[]),
            (&[("a", 2.4), ("b", 1.6), ("c", 1.0)], "aaabb", &[("a", 1)], &[("c", 1)]),
            // Of two that lack as much the first by name comes first.
            (&[("a", 1.0), ("b", 1.5), ("c", 1.5)], "aaaa", &[("a", 3)], &[("b", 2), ("c", 1)]),
            // A zone without Nodes keeps what it has: nobody there asks.
            (&[("a", 1.0), ("b", 1.0)], "zz", &[], &[]),
        ];
        for (desired, own, giving, receiving) in cases {
            let zones: Vec<String> = own.chars().map(String::from).collect();
            let moved = transfers(&desired.iter().copied().collect(), &zones);
            assert_eq!(
                moved,
                (giving.iter().copied().collect(), receiving.iter().copied().collect()),
                "{desired:?} {own}"
            );
        }
    }
}
