//! Modes as presets: what tells kube-proxy's proxiers apart, as data (SEMANTICS §14).

use crate::pick::Scheduler;
use crate::rules::node::{ROW_COUNT, Row, Stale, Unserved};
use crate::rules::{SourceKind, VipClass};

/// What tells one kube-proxy mode from another. The packet path knows none of these names; they are
/// compiled into the rows and flags that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// What it is called.
    pub name: &'static str,
    /// How it picks unless told otherwise (§7.5, §14.3).
    pub scheduler: Scheduler,
    /// Opens node ports on the node's primary addresses, not on all, unless told otherwise (§9.1, §9.2).
    pub primary_node_ports: bool,
    /// Rejects packets to a ClusterIP on none of its ports, drops those to an unallocated one (§6.6).
    pub(super) guards_cluster_ips: bool,
    /// Looks at source ranges before it looks for endpoints (§8.6).
    pub(super) firewall_first: bool,
    /// Can open node ports on IPv4 loopback (§9.5).
    pub(super) localhost_node_ports: bool,
    /// Rejects node ports without endpoints on all of the node's addresses (§6.9).
    pub(super) rejects_everywhere: bool,
    /// What the node's own packets to an external address without endpoints meet (§6.8).
    pub(super) own_external_unserved: Unserved,
    /// What becomes of flows whose backend stopped serving: TCP, UDP, SCTP (§11).
    pub(super) stale: [Stale; 3],
}

impl Mode {
    /// netfilter rules, kube-proxy's default on Linux (§14.1).
    pub const IPTABLES: Self = Self {
        name: "iptables",
        scheduler: Scheduler::Random,
        primary_node_ports: false,
        guards_cluster_ips: false,
        firewall_first: false,
        localhost_node_ports: true,
        rejects_everywhere: true,
        own_external_unserved: Unserved::Pass,
        stale: [Stale::Keep, Stale::Reselect, Stale::Keep],
    };

    /// nftables maps (§14.2).
    pub const NFTABLES: Self = Self {
        name: "nftables",
        primary_node_ports: true,
        guards_cluster_ips: true,
        firewall_first: true,
        localhost_node_ports: false,
        rejects_everywhere: false,
        own_external_unserved: Unserved::Reject,
        ..Self::IPTABLES
    };

    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::IPTABLES, Self::NFTABLES];

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|mode| mode.name == name).copied()
    }

    /// The mode's table: what becomes of a new flow by class, source and policy (§6.3, §6.4, §7.4, §8.1).
    pub(super) fn rows(&self, detector: bool, masquerade_all: bool) -> [Row; ROW_COUNT] {
        let mut rows = [Row(0); ROW_COUNT];
        for source in [SourceKind::Node, SourceKind::Pod, SourceKind::Outside] {
            let inside = source != SourceKind::Outside;
            let to_cluster_ip = masquerade_all || (detector && source != SourceKind::Pod);
            for local in [false, true] {
                let empty = if local { Unserved::Drop } else { Unserved::Reject };
                let internal = Row::new(local, to_cluster_ip, empty, Unserved::Reject, false);
                // eTP Local, and the source pretends to come back from the load balancer (§7.4): a pod
                // keeps its address, the node does not.
                let masquerade = if local { source == SourceKind::Node } else { true };
                let external = |none| Row::new(local && !inside, masquerade, empty, none, local && inside);
                let own = if source == SourceKind::Node { self.own_external_unserved } else { Unserved::Reject };
                for (class, row) in [
                    (VipClass::ClusterIp, internal),
                    (VipClass::ExternalIp, external(own)),
                    (VipClass::NodePort, external(Unserved::Reject)),
                ] {
                    if let Some(place) = rows.get_mut(Row::place(class, source, local)) {
                        *place = row;
                    }
                }
            }
        }
        rows
    }
}
