//! Every sort of first packet that the two sides could judge differently.

use std::collections::{BTreeMap, BTreeSet};

use lb_core::control::Detector;
use lb_core::rules::{Vip, VipClass};
use lb_core::{Address, Family, Origin, Protocol, RuleTable, Tuple};

use super::Side;
use crate::dialled::EPHEMERAL;
use crate::listing::label;

/// Who sends, besides the node itself and the world outside.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Addresses of pods; the first of a family that is no node's sends.
    pub pods: Vec<Address>,
    /// Addresses of other nodes.
    pub nodes: Vec<Address>,
}

/// Somebody outside the cluster: TEST-NET-2 (RFC 5737), the documentation prefix (RFC 3849).
const OUTSIDE: [Address; 2] = [Address::v4([198, 51, 100, 99]), Address::from_bits(0x2001_0db8 << 96 | 0x99)];
const LOOPBACK: Address = Address::v4([127, 0, 0, 1]);

/// What a packet is for, as far as reasons care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// A Vip.
    Dial(VipClass),
    /// A port of no service, at an address that services have.
    Unmatched,
    /// A ClusterIP of no service.
    Unallocated,
    /// An echo request to an address that services have.
    Ping,
}

impl Aim {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Dial(_) => "dial",
            Self::Unmatched => "dial a port of no service",
            Self::Unallocated => "dial a ClusterIP of no service",
            Self::Ping => "ping",
        }
    }
}

/// A packet to ask about.
pub(super) struct Probe {
    pub(super) source: &'static str,
    pub(super) aim: Aim,
    pub(super) tuple: Tuple,
    pub(super) origin: Origin,
}

/// Somebody who sends.
struct Sender {
    name: &'static str,
    address: Address,
    origin: Origin,
}

/// Every probe that the two sides suggest.
pub(super) fn probes(before: &Side<'_>, after: &Side<'_>, sources: &Sources) -> Vec<Probe> {
    let vips = vips(before.rules, after.rules);
    let mut probes = Vec::new();
    for family in [Family::V4, Family::V6] {
        let senders = senders(before, after, sources, family);
        let own: BTreeSet<Address> = own_addresses(before, after, family).into_iter().collect();
        let vips = || vips.iter().filter(move |(vip, _)| vip.address.family() == family);
        for (vip, facts) in vips() {
            let destinations: Vec<Address> = match vip.class {
                VipClass::NodePort if family == Family::V4 => own.iter().copied().chain([LOOPBACK]).collect(),
                VipClass::NodePort => own.iter().copied().collect(),
                _ => vec![vip.address],
            };
            for destination in destinations {
                // Only the node itself sends to loopback.
                let dials = senders.iter().chain(facts.admitted.as_ref());
                for sender in dials.filter(|sender| destination != LOOPBACK || sender.origin == Origin::Node) {
                    let tuple = dial(sender.address, destination, vip.protocol, vip.port);
                    let (source, origin) = (sender.name, sender.origin);
                    probes.push(Probe { source, aim: Aim::Dial(vip.class), tuple, origin });
                }
            }
        }
        // What is no service's is judged alike whoever sends it.
        let Some(anyone) = senders.last() else { continue };
        let mut probe = |aim, destination, protocol, port| {
            let mut tuple = dial(anyone.address, destination, protocol, port);
            if !protocol.has_ports() {
                tuple.source_port = 0;
            }
            probes.push(Probe { source: "anyone", aim, tuple, origin: anyone.origin });
        };
        let addresses: BTreeSet<Address> =
            vips().filter(|(vip, _)| vip.class != VipClass::NodePort).map(|(vip, _)| vip.address).collect();
        let icmp = if family == Family::V4 { Protocol::ICMP } else { Protocol::ICMPV6 };
        let taken: BTreeSet<(Address, u16)> = vips().map(|(vip, _)| (vip.address, vip.port)).collect();
        for address in &addresses {
            if let Some(port) = (1..u16::MAX).find(|port| !taken.contains(&(*address, *port))) {
                probe(Aim::Unmatched, *address, Protocol::TCP, port);
            }
            probe(Aim::Ping, *address, icmp, 0);
        }
        let nodes = [before.rules.node(), after.rules.node()];
        let blocks: BTreeSet<_> = nodes.iter().flatten().flat_map(|node| node.service_cidrs()).collect();
        for block in blocks.into_iter().filter(|block| block.address().family() == family) {
            // The last addresses are the least likely to be taken.
            let bits = if family == Family::V4 { 32 } else { 128 } - u32::from(block.length());
            let last = block.address().bits() | 1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1);
            let mut free = (1..1024).filter_map(|back| last.checked_sub(back)).map(Address::from_bits);
            if let Some(free) = free.find(|free| block.contains(*free) && !addresses.contains(free)) {
                probe(Aim::Unallocated, free, Protocol::TCP, 80);
            }
        }
    }
    probes
}

fn dial(source: Address, destination: Address, protocol: Protocol, port: u16) -> Tuple {
    Tuple { source, destination, source_port: EPHEMERAL, destination_port: port, protocol, zone: 0 }
}

/// What is known of a Vip for asking about it.
struct Facts {
    /// Somebody outside whom its source ranges let in.
    admitted: Option<Sender>,
}

/// Everything that clients dial on either side.
fn vips(before: &RuleTable<Vec<u8>>, after: &RuleTable<Vec<u8>>) -> Vec<(Vip, Facts)> {
    let mut vips = BTreeMap::new();
    for (_, segment) in before.segments().chain(after.segments()) {
        // Small blocks tell more than one that is nearly everything.
        let range = segment.ranges().max_by_key(|range| range.length());
        for vip in segment.vips() {
            let range = range.filter(|_| vip.class == VipClass::LoadBalancer);
            let admitted = range.map(|range| Sender {
                name: "outside, in its source ranges",
                address: Address::from_bits(range.address().bits() | 1),
                origin: Origin::Wire,
            });
            vips.entry((label(&segment), vip.class, vip)).or_insert(Facts { admitted });
        }
    }
    vips.into_iter().map(|((_, _, vip), facts)| (vip, facts)).collect()
}

fn own_addresses(before: &Side<'_>, after: &Side<'_>, family: Family) -> Vec<Address> {
    let nodes = [before.rules.node(), after.rules.node()];
    let own = nodes.iter().flatten().flat_map(|node| node.own_addresses());
    let mut own: Vec<_> = own.filter(|own| own.family() == family).collect();
    own.dedup();
    own
}

/// Who sends in a family; the last is anyone at all.
fn senders(before: &Side<'_>, after: &Side<'_>, sources: &Sources, family: Family) -> Vec<Sender> {
    let loopback = if family == Family::V4 { LOOPBACK } else { Address::from_bits(1) };
    let own = own_addresses(before, after, family);
    let primary = own.first().copied().unwrap_or(loopback);
    let mut senders = vec![Sender { name: "node", address: primary, origin: Origin::Node }];
    let by_interface =
        [before, after].iter().any(|side| side.node.is_some_and(|node| node.proxy.detector == Detector::Interface));
    let pod =
        sources.pods.iter().find(|pod| pod.family() == family && !sources.nodes.contains(pod) && !own.contains(pod));
    senders.extend(pod.map(|pod| Sender {
        name: "pod",
        address: *pod,
        origin: if by_interface { Origin::Pod } else { Origin::Wire },
    }));
    let other = sources.nodes.iter().find(|node| node.family() == family && !own.contains(node));
    senders.extend(other.map(|node| Sender { name: "another node", address: *node, origin: Origin::Wire }));
    let outside = OUTSIDE.into_iter().find(|outside| outside.family() == family);
    senders.extend(outside.map(|address| Sender { name: "outside", address, origin: Origin::Wire }));
    senders
}
