//! The fate of a new flow (SEMANTICS §6): pure, read from the table alone.

use super::directory::{self, Question};
use super::node::{self, Row, Unserved};
use super::{Answer, Dialled, NodeRules, Pool, RuleTable, Segment, SourceKind, VipClass};
use crate::packet::Origin;
use crate::tuple::{Address, Protocol, Tuple};
use crate::verdict::{DropReason, RejectReason};

/// A service port's slot, its segment, and the class of the Vip or node port that is dialled.
pub(crate) type Owner<'r> = (u32, Segment<'r>, VipClass);

/// What becomes of a new flow, and by which rules.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'r> {
    /// What becomes of it.
    pub fate: Fate,
    /// Who sends it.
    pub source: Source,
    /// The service port that it dials, if it dials one.
    pub service: Option<(u32, Segment<'r>)>,
    /// By what sort of address it dials it.
    pub class: Option<VipClass>,
    /// The traffic policy is Local and was set aside, as the source is inside the cluster (§7.4).
    pub short_circuit: bool,
}

/// What becomes of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not ours.
    Pass,
    /// For the node itself, untranslated.
    Accept,
    /// For the service's proxy on the node (userspace mode).
    Punt,
    /// Served by a member of this pool, which has one.
    Forward {
        /// The pool to choose from.
        pool: Pool,
        /// Whether the source is replaced by the node's own address.
        masquerade: bool,
        /// Whether it is replaced as well if the backend turns out to be the client itself (§8.2).
        hairpin: bool,
    },
    /// Dropped in silence.
    Drop(DropReason),
    /// Refused with an ICMP error.
    Reject(RejectReason),
}

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// As far as policies care.
    pub kind: SourceKind,
    /// The address is loopback.
    pub loopback: bool,
}

/// What packets to an address may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// To a service: the address is theirs alone.
    Service,
    /// To a service or to the node: the port tells.
    Node {
        /// Also replies to masqueraded flows.
        masquerades: bool,
    },
    /// To no service.
    Other,
}

impl<M: AsRef<[u8]>> RuleTable<M> {
    /// What becomes of a new flow that begins with a packet of this tuple.
    pub fn decide(&self, tuple: &Tuple, origin: Origin) -> Decision<'_> {
        let Some(node) = self.node() else {
            return Decision::pass(Source { kind: SourceKind::Outside, loopback: false });
        };
        match self.owner(tuple, &node, None) {
            Some(owner) => self.decide_for(&node, tuple, origin, owner),
            None => {
                let source = self.source(&node, tuple.source, origin);
                Decision { fate: self.unmatched(&node, tuple, source), ..Decision::pass(source) }
            }
        }
    }

    /// [`decide`](Self::decide) where the node's section is at hand, and it is known which service port the tuple dials.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn decide_for<'r>(
        &'r self,
        node: &NodeRules<'_>,
        tuple: &Tuple,
        origin: Origin,
        (slot, segment, class): Owner<'r>,
    ) -> Decision<'r> {
        let source = self.source(node, tuple.source, origin);
        let local = segment.is_local(class);
        let (way, kind) = way_in(|| self.facts(node, tuple.destination), class, source.kind);
        let row = node.row(tuple.destination.family(), way, kind, local);
        let mut fate = fate(node, &segment, class, tuple, row);
        if matches!(fate, Fate::Reject(_) | Fate::Pass) && is_guarded(node, tuple.destination, source) {
            fate = Fate::Drop(DropReason::LoopbackGuard);
        }
        if let Fate::Forward { masquerade, .. } = &mut fate {
            let from_vip = || class == VipClass::ClusterIp && self.claims(tuple.source).cluster_ip;
            *masquerade |= node.has(node::flag::MASQUERADE_VIP_SOURCES) && from_vip();
            *masquerade &= !(node.has(node::flag::KEEP_LOOPBACK) && source.loopback);
        }
        Decision {
            fate,
            source,
            service: Some((slot, segment)),
            class: Some(class),
            short_circuit: local && row.short_circuit(),
        }
    }

    /// What is known of an address as one of the node's.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn facts(&self, node: &NodeRules<'_>, address: Address) -> u8 {
        if self.screen.may_be_nodes(address) { node.address(address) } else { 0 }
    }

    /// Who sends a packet (§1, §8.4).
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn source(&self, node: &NodeRules<'_>, address: Address, origin: Origin) -> Source {
        let loopback = address.is_loopback();
        let own = origin == Origin::Node || loopback || self.facts(node, address) & node::address::OWN != 0;
        let pod = origin == Origin::Pod || node.is_pod(address);
        let kind = match (own, pod) {
            (true, true) => SourceKind::NodeAsPod,
            (true, false) => SourceKind::Node,
            (false, true) => SourceKind::Pod,
            (false, false) => SourceKind::Outside,
        };
        Source { kind, loopback }
    }

    /// Whether no rule can be about a packet to this address: it passes, whoever sends it. True of most packets on a node,
    /// and quickly told; false may be said too often.
    #[inline]
    pub(crate) fn is_nobodys(&self, destination: Address) -> bool {
        self.is_far_from_all(destination) || (!self.screen.may_be_ruled(destination) && !self.claims(destination).any())
    }

    /// The same, told by the screen alone: false still oftener.
    #[inline(always)]
    pub(crate) fn is_far_from_all(&self, destination: Address) -> bool {
        !self.screen.may_be_ruled(destination) && !self.screen.may_be_claimed(destination)
    }

    /// The service port that a tuple dials (§6.1): an exact Vip first, whose `owner` may be known already, then a node port.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn owner(&self, tuple: &Tuple, node: &NodeRules<'_>, owner: Option<Answer<'_>>) -> Option<Owner<'_>> {
        let found = if let Some(owner) = owner { self.owned(owner) } else { self.vip_owner(tuple) };
        if found.is_some() {
            return found;
        }
        let facts = node.address(tuple.destination);
        if facts & (node::address::NODE_PORTS | node::address::REJECTS) == 0 {
            return None;
        }
        let (slot, segment, class) = self.node_port_owner(tuple)?;
        // §6.9: on an address where node ports are not open, only their want of endpoints shows.
        let pool = if segment.is_local(class) { Pool::Local } else { Pool::Cluster };
        let shown = facts & node::address::NODE_PORTS != 0 || segment.pool_size(pool) == 0;
        shown.then_some((slot, segment, class))
    }

    /// Who has this Vip.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn dialled(&self, (address, port, protocol): Dialled) -> Option<Answer<'_>> {
        directory::find(self.directory(), &self.hash, Question::Vip(address, port, protocol))
    }

    fn vip_owner(&self, tuple: &Tuple) -> Option<Owner<'_>> {
        self.owned(self.dialled((tuple.destination, tuple.destination_port, tuple.protocol))?)
    }

    fn node_port_owner(&self, tuple: &Tuple) -> Option<Owner<'_>> {
        self.owned(self.ask(Question::node_port(tuple.destination, tuple.destination_port, tuple.protocol))?)
    }

    /// Whether a packet to this address may dial a service, or what is kept for services, whatever its port.
    pub(crate) fn may_be_dialled(&self, destination: Address) -> bool {
        let may = |node: &NodeRules<'_>| {
            node.address(destination) != 0
                || (node.has(node::flag::DROP_UNALLOCATED) && node.in_service_cidrs(destination))
        };
        self.claims(destination).any() || self.node().is_some_and(|node| may(&node))
    }

    /// What packets to this address may be, whatever their ports.
    pub(crate) fn receiver(&self, destination: Address) -> Receiver {
        let Some(node) = self.node() else { return Receiver::Other };
        if self.screen.may_be_ruled(destination) {
            let masquerades = node.masquerade_addresses().any(|(_, address)| address == destination);
            if masquerades || node.address(destination) != 0 {
                return Receiver::Node { masquerades };
            }
        }
        // A ClusterIP stays a Service's once its Service is gone, for the sake of flows that stay (§11.1).
        if self.claims(destination).any() || node.in_service_cidrs(destination) {
            Receiver::Service
        } else {
            Receiver::Other
        }
    }

    /// Whether a packet to one of the node's addresses is for a service, and no reply: a node port stays one once its Service is gone.
    pub(crate) fn serves_on_node(&self, tuple: &Tuple) -> bool {
        let Some(node) = self.node() else { return false };
        let (first, last) = node.reserved_ports();
        (first..=last).contains(&tuple.destination_port) || self.owner(tuple, &node, None).is_some()
    }

    /// The service port that a known flow's destination belongs to now. A node port is found by its
    /// number alone, whatever the address (§11.5).
    pub(crate) fn owner_of_flow(&self, original: &Tuple) -> Option<(u32, Segment<'_>)> {
        let owner = self.vip_owner(original).or_else(|| self.node_port_owner(original));
        owner.map(|(slot, segment, _)| (slot, segment))
    }

    /// A packet that dials no service port (§6.6, §9.5).
    fn unmatched(&self, node: &NodeRules<'_>, tuple: &Tuple, source: Source) -> Fate {
        let destination = tuple.destination;
        if is_guarded(node, destination, source) {
            return Fate::Drop(DropReason::LoopbackGuard);
        }
        let own = || node.address(destination) & node::address::OWN != 0;
        // §10.5: whatever the addresses that node ports are open on.
        if tuple.protocol == Protocol::TCP && own() && node.checks_health(tuple.destination_port) {
            return Fate::Accept;
        }
        let claims = self.claims(destination);
        if node.has(node::flag::REJECT_UNMATCHED) && claims.cluster_ip {
            return Fate::Reject(RejectReason::UnmatchedPort);
        }
        if node.has(node::flag::BOUND_VIPS) && claims.any() && !own() {
            return match tuple.protocol {
                Protocol::ICMP | Protocol::ICMPV6 => Fate::Accept,
                _ => Fate::Reject(RejectReason::UnmatchedPort),
            };
        }
        if node.has(node::flag::DROP_UNALLOCATED) && node.in_service_cidrs(destination) && !claims.cluster_ip {
            return Fate::Drop(DropReason::UnallocatedClusterIp);
        }
        Fate::Pass
    }
}

/// As what class of traffic, and from whom, the rules see a packet to one of the node's addresses, of these facts.
#[cfg_attr(target_pointer_width = "64", inline(always))]
fn way_in(facts: impl Fn() -> u8, class: VipClass, kind: SourceKind) -> (VipClass, SourceKind) {
    let open = || facts() & node::address::NODE_PORTS != 0;
    match class {
        // §6.9: where node ports are not open, no chain takes a packet past a Local policy (§7.4).
        VipClass::NodePort if !open() => (class, SourceKind::Outside),
        // §6.8: what the node sends to itself comes in again, past what looks at what comes in.
        VipClass::ExternalIp | VipClass::LoadBalancer if facts() & node::address::OWN != 0 => {
            (VipClass::NodePort, kind)
        }
        _ => (class, kind),
    }
}

/// While node ports are open on loopback, only loopback may send there. What a node port's rule translates on the way has
/// another destination by then, and is let through: the kernel translates before it looks for a route (§9.5).
#[cfg_attr(target_pointer_width = "64", inline(always))]
fn is_guarded(node: &NodeRules<'_>, destination: Address, source: Source) -> bool {
    node.has(node::flag::LOOPBACK_GUARD) && destination.is_v4() && destination.is_loopback() && !source.loopback
}

/// §6.2 to §6.5, with the mode's row for this class, source and policy.
#[cfg_attr(target_pointer_width = "64", inline(always))]
fn fate(node: &NodeRules<'_>, segment: &Segment<'_>, class: VipClass, tuple: &Tuple, row: Row) -> Fate {
    if node.has(node::flag::PUNT) {
        return Fate::Punt;
    }
    let refused = || class == VipClass::LoadBalancer && !segment.admits(tuple.source, tuple.destination);
    if node.has(node::flag::FIREWALL_FIRST) && refused() {
        return Fate::Drop(DropReason::SourceRange);
    }
    if !segment.has_any() {
        return unserved(row.none());
    }
    if refused() {
        return Fate::Drop(DropReason::SourceRange);
    }
    let hairpin = !node.has(node::flag::NO_HAIRPIN);
    let serve = |pool| Fate::Forward { pool, masquerade: row.masquerade(), hairpin };
    let pool = if row.local() { Pool::Local } else { Pool::Cluster };
    if segment.pool_size(pool) > 0 {
        return serve(pool);
    }
    match row.empty() {
        Unserved::Cluster if segment.pool_size(Pool::Cluster) > 0 => serve(Pool::Cluster),
        other => unserved(other),
    }
}

#[cfg_attr(target_pointer_width = "64", inline(always))]
fn unserved(unserved: Unserved) -> Fate {
    match unserved {
        Unserved::Pass => Fate::Pass,
        Unserved::Drop => Fate::Drop(DropReason::NoLocalEndpoint),
        Unserved::Reject | Unserved::Cluster => Fate::Reject(RejectReason::NoEndpoints),
    }
}

impl Decision<'_> {
    fn pass(source: Source) -> Self {
        Self { fate: Fate::Pass, source, service: None, class: None, short_circuit: false }
    }
}
