//! Modes as presets: what tells kube-proxy's proxiers apart, as data (SEMANTICS §14).

use crate::rules::node::{ROW_COUNT, Row, Stale, Unserved, flag};
use crate::rules::{SourceKind, VipClass};
use crate::scheduler::Scheduler;

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
    /// Proxies SCTP (§12.1).
    pub sctp: bool,
    /// How endpoints come into pools (§5, §14.4, §14.5).
    pub endpoints: EndpointRule,
    /// Looks at loadBalancerSourceRanges (§8.6).
    pub source_ranges: bool,
    /// Can hand a packet to an endpoint with its destination as it is (§14.4).
    pub preserves_destinations: bool,
    /// Flags of the node's section.
    pub(super) flags: u32,
    /// Can open node ports on IPv4 loopback (§9.5).
    pub(super) localhost_node_ports: bool,
    /// Lets health checks in on their own ports (§10.5).
    pub(super) accepts_health_checks: bool,
    /// Shows on all of the node's addresses which node ports lack endpoints (§6.9).
    pub(super) rejects_everywhere: bool,
    /// Sends traffic from inside to an external address past its Local policy (§7.4).
    pub(super) short_circuit: bool,
    /// Replaces no source, as every backend is the node itself (§14.5).
    pub(super) keeps_sources: bool,
    /// When ClusterIP traffic is masqueraded besides `--masquerade-all` (§8.1, §14).
    pub(super) masquerades_cluster_ips: bool,
    /// What a flow meets whose policy is Local and finds no endpoint on this node (§6.4).
    pub(super) local_unserved: Unserved,
    /// What a flow meets where there is no endpoint at all (§6.4).
    pub(super) unserved: Unserved,
    /// The same for the node's own packets to an external address (§6.8).
    pub(super) own_external_unserved: Unserved,
    /// What becomes of flows whose backend stopped serving: TCP, UDP, SCTP (§11).
    pub(super) stale: [Stale; 3],
}

/// How endpoints come into pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointRule {
    /// Ready ones, by topology; terminating ones as a last resort (§5).
    Linux,
    /// Windows' filter, without topology; one port for all of a service port's endpoints (§14.4).
    Windows,
    /// Ready ones, whatever policies say (§14.5).
    Ready,
}

impl Mode {
    /// netfilter rules, kube-proxy's default on Linux (§14.1).
    pub const IPTABLES: Self = Self {
        name: "iptables",
        scheduler: Scheduler::Random,
        primary_node_ports: false,
        sctp: true,
        endpoints: EndpointRule::Linux,
        source_ranges: true,
        preserves_destinations: false,
        flags: 0,
        localhost_node_ports: true,
        accepts_health_checks: true,
        rejects_everywhere: true,
        short_circuit: true,
        keeps_sources: false,
        masquerades_cluster_ips: true,
        local_unserved: Unserved::Drop,
        unserved: Unserved::Reject,
        own_external_unserved: Unserved::Pass,
        stale: [Stale::Keep, Stale::Reselect, Stale::Keep],
    };

    /// nftables maps (§14.2).
    pub const NFTABLES: Self = Self {
        name: "nftables",
        primary_node_ports: true,
        flags: flag::REJECT_UNMATCHED | flag::DROP_UNALLOCATED | flag::FIREWALL_FIRST,
        accepts_health_checks: false,
        localhost_node_ports: false,
        rejects_everywhere: false,
        own_external_unserved: Unserved::Reject,
        ..Self::IPTABLES
    };

    /// Linux' IP virtual server (§14.3).
    pub const IPVS: Self = Self {
        name: "ipvs",
        scheduler: Scheduler::RoundRobin,
        flags: flag::FIREWALL_FIRST
            | flag::BOUND_VIPS
            | flag::MASQUERADE_VIP_SOURCES
            | flag::KEEP_LOOPBACK
            | flag::STALE_BY_POOL
            | flag::CUT_EMPTY
            | flag::AFFINITY_BY_VIP,
        localhost_node_ports: false,
        rejects_everywhere: false,
        short_circuit: false,
        local_unserved: Unserved::Cluster,
        own_external_unserved: Unserved::Reject,
        stale: [Stale::Keep, Stale::Reselect, Stale::Reselect],
        ..Self::IPTABLES
    };

    /// Windows' host networking service (§14.4).
    pub const KERNELSPACE: Self = Self {
        name: "kernelspace",
        sctp: false,
        endpoints: EndpointRule::Windows,
        source_ranges: false,
        preserves_destinations: true,
        flags: flag::NO_HAIRPIN,
        accepts_health_checks: false,
        localhost_node_ports: false,
        rejects_everywhere: false,
        short_circuit: false,
        masquerades_cluster_ips: false,
        local_unserved: Unserved::Pass,
        unserved: Unserved::Pass,
        own_external_unserved: Unserved::Pass,
        stale: [Stale::Keep; 3],
        ..Self::IPTABLES
    };

    /// A proxy process on the node, to which everything is sent (§14.5).
    pub const USERSPACE: Self = Self {
        name: "userspace",
        scheduler: Scheduler::RoundRobin,
        sctp: false,
        endpoints: EndpointRule::Ready,
        source_ranges: false,
        flags: flag::PUNT,
        accepts_health_checks: false,
        rejects_everywhere: false,
        ..Self::IPTABLES
    };

    /// What the engine does in userspace mode where it is known on which of the node's ports the proxy waits for each service
    /// port: that is its one backend, and everything to the service goes there as it came. A service port without one is
    /// left alone.
    pub const REDIRECT: Self = Self {
        flags: flag::NO_HAIRPIN | flag::REDIRECT,
        keeps_sources: true,
        short_circuit: false,
        unserved: Unserved::Pass,
        own_external_unserved: Unserved::Pass,
        ..Self::USERSPACE
    };

    /// Every mode that can be asked for.
    pub const ALL: &'static [Self] = &[Self::IPTABLES, Self::IPVS, Self::NFTABLES, Self::KERNELSPACE, Self::USERSPACE];

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|mode| mode.name == name).copied()
    }

    /// The mode's table: what becomes of a new flow by class, source and policy (§6.3, §6.4, §7.4, §8.1).
    pub(super) fn rows(&self, detector: bool, masquerade_all: bool) -> [Row; ROW_COUNT] {
        let mut rows = [Row(0); ROW_COUNT];
        for source in [SourceKind::Node, SourceKind::Pod, SourceKind::Outside, SourceKind::NodeAsPod] {
            let pod = matches!(source, SourceKind::Pod | SourceKind::NodeAsPod);
            let node = matches!(source, SourceKind::Node | SourceKind::NodeAsPod);
            let inside = self.short_circuit && (pod || node);
            let off_cluster = detector && !pod;
            let to_cluster_ip =
                !self.keeps_sources && (masquerade_all || (self.masquerades_cluster_ips && off_cluster));
            for local in [false, true] {
                let empty = if local { self.local_unserved } else { self.unserved };
                let internal = Row::new(local, to_cluster_ip, empty, self.unserved, false);
                // eTP Local, and the source pretends to come back from the load balancer (§7.4): a pod
                // keeps its address, the node does not.
                let masquerade = if local { inside && !pod } else { !self.keeps_sources };
                let external = |none| Row::new(local && !inside, masquerade, empty, none, local && inside);
                let own = if node { self.own_external_unserved } else { self.unserved };
                for (class, row) in [
                    (VipClass::ClusterIp, internal),
                    (VipClass::ExternalIp, external(own)),
                    (VipClass::NodePort, external(self.unserved)),
                ] {
                    if let Some(place) = rows.get_mut(Row::index(class, source, local)) {
                        *place = row;
                    }
                }
            }
        }
        rows
    }
}
