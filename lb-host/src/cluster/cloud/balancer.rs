//! One external load balancer: its addresses, what it listens on, and the nodes behind it.

use lb_core::control::{self, Label, TrafficPolicy};
use lb_core::{Address, Instant, Prefix, Protocol};

use super::health::{Check, CheckId, Checks, Question, Target};

/// What a load balancer does when none of its nodes is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Empty {
    /// It sends to all of them, as an AWS NLB does.
    #[default]
    Open,
    /// It refuses.
    Closed,
}

/// One port that a load balancer listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, the service port's.
    pub name: Label,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port that clients dial.
    pub port: u16,
    /// The port on the nodes.
    pub node_port: u16,
}

/// A load balancer in front of nodes.
#[derive(Clone, Debug)]
pub struct LoadBalancer {
    name: String,
    pub(super) addresses: Vec<Address>,
    pub(super) listeners: Vec<Listener>,
    /// Clients that it admits; all if there are none of the client's family.
    pub(super) source_ranges: Vec<Prefix>,
    /// What nodes are asked; nothing of those that are taken to be well.
    pub(super) question: Option<Question>,
    targets: Vec<Target>,
    empty: Empty,
}

impl LoadBalancer {
    /// A load balancer of one's own, pointed at a NodePort: no controller knows it, and no status names it. `nodes`
    /// are the nodes and their addresses. They are checked by a connection to the NodePort if it is one of TCP.
    pub fn by_hand(
        name: &str,
        (address, port): (Address, u16),
        protocol: Protocol,
        node_port: u16,
        nodes: &[(String, Address)],
        now: Instant,
    ) -> Self {
        let mut balancer = Self::new(name.to_owned(), Empty::default());
        balancer.addresses = vec![address];
        balancer.listeners = vec![Listener { name: "".into(), protocol, port, node_port }];
        balancer.question = (protocol == Protocol::TCP).then_some(Question::Connect(node_port));
        balancer.point_at(nodes, now);
        balancer
    }

    pub(super) fn new(name: String, empty: Empty) -> Self {
        let (addresses, listeners, source_ranges, targets) = Default::default();
        Self { name, addresses, listeners, source_ranges, question: None, targets, empty }
    }

    /// Its name: the Service's namespace and name, or that which it was given by hand.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What it listens on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The blocks of the clients that it admits; of a family without any it admits all.
    pub fn source_ranges(&self) -> &[Prefix] {
        &self.source_ranges
    }

    /// The nodes behind it, their addresses, and whether each is healthy.
    pub fn targets(&self) -> impl Iterator<Item = (&str, Address, bool)> {
        self.targets.iter().map(|target| (target.node.as_str(), target.address, self.well(target)))
    }

    /// Whether it lets this client in (SEMANTICS §8.6, which nodes keep only for what is sent to the load balancer's
    /// own address: what it has sent on to a NodePort is past them).
    pub fn admits(&self, client: Address) -> bool {
        let mut own = self.source_ranges.iter().filter(|range| range.address().family() == client.family()).peekable();
        own.peek().is_none() || own.any(|range| range.contains(client))
    }

    /// Puts these nodes behind it, of those that have an address of its families; the others go.
    pub(super) fn point_at(&mut self, nodes: &[(String, Address)], now: Instant) {
        let served = |address: &Address| self.addresses.iter().any(|own| own.family() == address.family());
        let wanted: Vec<_> = nodes.iter().filter(|(_, address)| served(address)).collect();
        self.targets.retain(|target| wanted.iter().any(|(node, at)| *node == target.node && *at == target.address));
        for (node, address) in wanted {
            if !self.targets.iter().any(|target| target.node == *node && target.address == *address) {
                self.targets.push(Target::new(node.clone(), *address, now));
            }
        }
        self.targets.sort_by(|a, b| (&a.node, a.address).cmp(&(&b.node, b.address)));
    }

    /// Asks nodes something else from now on: what they answered before says nothing any more.
    pub(super) fn ask(&mut self, question: Option<Question>, now: Instant) {
        if self.question != question {
            self.question = question;
            let fresh = |target: &Target| Target::new(target.node.clone(), target.address, now);
            self.targets = self.targets.iter().map(fresh).collect();
        }
    }

    fn well(&self, target: &Target) -> bool {
        self.question.is_none() || target.healthy()
    }

    pub(super) fn due(&mut self, now: Instant, ids: &mut u64, checks: &Checks, out: &mut Vec<Check>) {
        let Some(question) = self.question else { return };
        for target in &mut self.targets {
            let id = CheckId(*ids);
            if target.due(now, id, checks) {
                *ids += 1;
                out.push(Check {
                    id,
                    balancer: self.name.clone(),
                    node: target.node.clone(),
                    address: target.address,
                    question,
                    timeout: checks.timeout,
                });
            }
        }
    }

    pub(super) fn result(&mut self, id: CheckId, success: bool, checks: &Checks) {
        self.targets.iter_mut().for_each(|target| target.result(id, success, checks));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.question?;
        self.targets.iter().map(Target::next_deadline).min()
    }

    /// The load balancer as a Service whose VIPs are its own addresses and whose endpoints are node:nodePort.
    pub(super) fn objects(&self) -> (control::Service, control::Slice) {
        let name: Label = self.name.as_str().into();
        let ports = self.listeners.iter().map(|listener| control::ServicePort {
            name: listener.name.clone(),
            protocol: listener.protocol,
            port: listener.port,
            node_port: None,
        });
        let service = control::Service {
            name: name.clone(),
            cluster_ips: self.addresses.clone(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            preserve_destination: false,
            health_check_port: None,
            ports: ports.collect(),
        };
        let ports = self.listeners.iter().map(|listener| control::SlicePort {
            name: listener.name.clone(),
            protocol: listener.protocol,
            port: listener.node_port,
        });
        let endpoints = self.targets.iter().map(|target| {
            let mut family = self.targets.iter().filter(|other| other.address.family() == target.address.family());
            let fails_open = self.empty == Empty::Open && !family.any(|other| self.well(other));
            let ready = self.well(target) || fails_open;
            control::Endpoint {
                address: target.address,
                ready,
                serving: ready,
                terminating: false,
                node: Some(target.node.as_str().into()),
                zone_hints: Vec::new(),
                node_hints: Vec::new(),
            }
        });
        let slice = control::Slice {
            name: name.clone(),
            service: name,
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        };
        (service, slice)
    }
}
