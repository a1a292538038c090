//! Nodes: a machine with a proxy and a kubelet, which can lose its power, or its cable.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, NodeAddress};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::{Address, Family, Instant};

use super::watch::{News, Watch};
use super::{Kubernetes, Nobody, Trouble};
use crate::cluster::engine::Change;
use crate::cluster::fabric::Station;
use crate::cluster::kubelet::{Action, Kubelet, Probe, ProbeId, Question};
use crate::cluster::program::{Check, HealthServer};
use crate::cluster::{Cluster, Link, MachineId, ProgramId, addresses};
use crate::health;
use crate::k8s::{Placed, Settings, endpoints, node};

pub(super) struct Node {
    /// `None` without power.
    pub(super) machine: Option<MachineId>,
    pub(super) kubelet: Kubelet,
    pub(super) watch: Watch,
    health: Option<ProgramId<HealthServer>>,
    probes: Vec<(ProbeId, ProgramId<Check>)>,
    /// Its cable is cut.
    cut: bool,
    /// How often it was switched on.
    starts: u64,
}

impl Node {
    /// Whether it reaches the API.
    pub(super) const fn connected(&self) -> bool {
        self.machine.is_some() && !self.cut
    }

    pub(super) fn heard(&self, world: &Cluster) -> bool {
        self.probes.iter().any(|(_, check)| world.program(*check).is_none_or(|check| check.outcome().is_some()))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.machine?;
        let reaches = self.connected();
        self.kubelet.next_deadline().into_iter().chain(self.watch.next_deadline()).filter(|_| reaches).min()
    }
}

impl Kubernetes {
    /// Gives a Node that is to join, the `ahead`-th of several, what it does not say: addresses and blocks of Pods.
    pub(super) fn place(&self, object: &mut NodeObject, ahead: usize) {
        let number = u16::try_from(self.nodes.len() + ahead).unwrap_or(u16::MAX);
        if node::addresses(object).is_empty() {
            let own = addresses::node(number).into_iter();
            let own = own.map(|address| NodeAddress { address: address.to_string(), type_: "InternalIP".to_owned() });
            object.status.get_or_insert_default().addresses = Some(own.collect());
        }
        if node::pod_cidrs(object).is_empty() {
            let blocks = addresses::pod_blocks(number);
            object.spec.get_or_insert_default().pod_cidrs = Some(blocks.iter().map(ToString::to_string).collect());
        }
    }

    /// Switches a node on for the first time.
    pub(super) fn join(&mut self, name: &str) -> Result<(), Trouble> {
        let Some(object) = self.api.get::<NodeObject>(name) else { return Err(Nobody(name.to_owned()).into()) };
        let node = Node {
            machine: None,
            kubelet: Kubelet::new(object, self.plan.kubelet.clone()),
            watch: Watch::new(&self.api, self.plan.physics.sync, self.chance.named(name).named("watch")),
            health: None,
            probes: Vec::new(),
            cut: false,
            starts: 0,
        };
        self.nodes.insert(name.to_owned(), node);
        self.power_on(name)
    }

    /// Takes a node's power: it and all Pods on it are gone from one moment to the next.
    ///
    /// # Errors
    /// There is no such node.
    pub fn power_off(&mut self, name: &str) -> Result<(), Nobody> {
        let node = self.nodes.get_mut(name).ok_or_else(|| Nobody(name.to_owned()))?;
        if let Some(machine) = node.machine.take() {
            self.world.remove(machine);
            node.probes.clear();
            self.pods.retain(|_, pod| pod.node != name);
            self.log.note(self.world.now, format!("Node {name}"), "loses its power");
        }
        self.stirred = true;
        Ok(())
    }

    /// Gives it back: the node boots, lists all objects, and starts the Pods that are still bound to it.
    ///
    /// # Errors
    /// There is no such node; its rules cannot be made.
    pub fn power_on(&mut self, name: &str) -> Result<(), Trouble> {
        let Some(object) = self.api.get::<NodeObject>(name).cloned() else {
            return Err(Nobody(name.to_owned()).into());
        };
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.machine.is_none()) else { return Ok(()) };
        let described = node::node(&[Placed::clone(&object)], Some(name), &self.plan.proxy);
        let Ok(described) = described else { return Err(Nobody(name.to_owned()).into()) };
        let machine = self.world.add_node_as(described)?;
        node.machine = Some(machine);
        node.cut = false;
        node.starts += 1;
        node.kubelet = Kubelet::new(&object, self.plan.kubelet.clone());
        let chance = self.chance.named(name).named("watch").named(&node.starts.to_string());
        node.watch = Watch::new(&self.api, self.plan.physics.sync, chance);
        node.health = Some(self.world.run(machine, HealthServer::default()));
        self.follow(name, &News::everything(&self.api));
        self.log.note(self.world.now, format!("Node {name}"), "boots");
        self.stirred = true;
        Ok(())
    }

    /// Cuts a node's cable: all goes on behind it, nothing passes.
    ///
    /// # Errors
    /// There is no such node.
    pub fn cut(&mut self, name: &str) -> Result<(), Nobody> {
        self.recable(name, true)
    }

    /// Mends it.
    ///
    /// # Errors
    /// There is no such node.
    pub fn mend(&mut self, name: &str) -> Result<(), Nobody> {
        self.recable(name, false)
    }

    fn recable(&mut self, name: &str, cut: bool) -> Result<(), Nobody> {
        let node = self.nodes.get_mut(name).ok_or_else(|| Nobody(name.to_owned()))?;
        node.cut = cut;
        let loss = if cut { 1_000_000 } else { self.plan.physics.node.loss };
        if let Some(machine) = node.machine {
            self.world.set_link(machine, Link { loss, ..self.plan.physics.node });
        }
        let what = if cut { "is cut off" } else { "is connected again" };
        self.log.note(self.world.now, format!("Node {name}"), what);
        self.stirred = true;
        Ok(())
    }

    /// Starts kube-proxy anew on every node, with other settings: another mode. Nodes that join later have them too.
    ///
    /// # Errors
    /// A node's rules cannot be made; it has those it had before.
    pub fn set_proxy(&mut self, settings: Settings) -> Result<(), Trouble> {
        self.plan.proxy = settings;
        let running = self.nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.machine?)));
        for (name, machine) in running.collect::<Vec<_>>() {
            let Some(object) = self.api.get::<NodeObject>(&name) else { continue };
            let described = node::node(&[Placed::clone(object)], Some(&name), &self.plan.proxy);
            let Ok(described) = described else { return Err(Nobody(name).into()) };
            let station = Station::Machine(machine);
            let Some(router) = self.world.routers.get_mut(&station) else { continue };
            router.engine.learn(Change::Node(described));
            self.world.sync(station)?;
            let what = format!("starts in mode {}", self.plan.proxy.mode.name);
            self.log.note(self.world.now, format!("kube-proxy on {name}"), what);
        }
        self.stirred = true;
        Ok(())
    }

    /// A node's machine, while it has power.
    pub fn node(&self, name: &str) -> Option<MachineId> {
        self.nodes.get(name)?.machine
    }

    /// The nodes' names.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// The address under which a node speaks in a family.
    pub fn node_address(&self, name: &str, family: Family) -> Option<Address> {
        let addresses = self.world.addresses(self.node(name)?);
        addresses.iter().copied().find(|address| address.family() == family)
    }

    /// Lets a node's proxy take in what has changed, in one step for all packets.
    pub(super) fn follow(&mut self, name: &str, news: &News) {
        let Some(machine) = self.nodes.get(name).and_then(|node| node.machine) else { return };
        let station = Station::Machine(machine);
        let Some(router) = self.world.routers.get_mut(&station) else { return };
        news.changes(&self.api).for_each(|change| router.engine.learn(change));
        if let Err(failure) = self.world.sync(station) {
            self.world.failures.push(failure);
        }
        self.log.note(
            self.world.now,
            format!("kube-proxy on {name}"),
            format!("has rules for resource version {}", self.api.version()),
        );
        self.answer_health(name);
    }

    /// What the node's health-check ports say now (SEMANTICS §10.1).
    fn answer_health(&mut self, name: &str) {
        let Some(node) = self.nodes.get(name) else { return };
        let (Some(machine), Some(health)) = (node.machine, node.health) else { return };
        let Some(router) = self.world.routers.get(&Station::Machine(machine)) else { return };
        let (control, described) = (router.engine.control(), router.engine.node());
        let services: Vec<_> = control.services().filter(|service| service.health_check_port.is_some()).collect();
        let slices: Vec<_> = match services.is_empty() {
            true => Vec::new(),
            false => {
                let all = self.api.list::<EndpointSlice>();
                all.filter_map(|slice| endpoints::slice(slice).ok().flatten()).collect()
            }
        };
        let mut answers = BTreeMap::new();
        for service in services {
            for family in [Family::V4, Family::V6] {
                let answer = health::answer(service, slices.iter(), described, family, true);
                if let (Some(answer), Some(port)) = (answer, service.health_check_port) {
                    answers.insert((port, family), answer);
                }
            }
        }
        if let Some(server) = self.world.program_mut(health) {
            server.tell(answers);
        }
    }

    /// Kubelets hear, act and report.
    pub(super) fn tend_nodes(&mut self) {
        let now = self.world.now;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            self.hear_probes(&name);
            self.hear_ends(&name);
            let Some(node) = self.nodes.get_mut(&name).filter(|node| node.machine.is_some()) else { continue };
            if node.connected() {
                node.kubelet.observe(&self.api, now);
            }
            let actions = node.kubelet.due(now);
            let any = !actions.is_empty();
            actions.into_iter().for_each(|action| self.act(&name, action));
            self.stirred |= any;
            let Some(node) = self.nodes.get_mut(&name).filter(|node| node.connected()) else { continue };
            let reported = node.kubelet.report(&mut self.api, now);
            self.log.fault("kubelet", now, reported.err());
        }
    }

    fn act(&mut self, node: &str, action: Action) {
        match action {
            Action::Start { program, pod, addresses } => self.start(node, &program, &pod, &addresses),
            Action::Stop(program) => self.stop(&program),
            Action::Kill(program) => self.kill(&program),
            Action::Remove { uid, .. } => self.remove(&uid),
            Action::Probe(probe) => self.probe(node, probe),
        }
    }

    fn probe(&mut self, name: &str, probe: Probe) {
        let Some(machine) = self.node(name) else { return };
        let to = (probe.address, probe.port);
        // A little less than the kubelet waits, so that its answer is the probe's own.
        let timeout = probe.timeout.saturating_sub(Duration::from_micros(1));
        let check = match &probe.question {
            Question::Http { path, headers, .. } => Check::get(to, path, headers, 200..=399, timeout),
            Question::Tcp => Check::connect(to, timeout),
            // Neither is a packet that this box knows: the program says itself.
            Question::Grpc { .. } | Question::Exec { .. } => {
                let ready = self.pods.get(&probe.program.uid).is_some_and(|pod| pod.is_ready());
                let node = self.nodes.get_mut(name);
                return node.into_iter().for_each(|node| node.kubelet.result(probe.id, ready));
            }
        };
        let check = self.world.run(machine, check);
        self.nodes.get_mut(name).into_iter().for_each(|node| node.probes.push((probe.id, check)));
    }

    fn hear_probes(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let world = &mut self.world;
        let (waiting, heard) = node
            .probes
            .drain(..)
            .partition::<Vec<_>, _>(|(_, check)| world.program(*check).is_some_and(|check| check.outcome().is_none()));
        node.probes = waiting;
        for (id, check) in heard {
            let well = world.program(check).is_some_and(|check| check.outcome() == Some(true));
            node.kubelet.result(id, well);
            world.kill(check);
        }
    }

    /// Programs that have ended by themselves.
    fn hear_ends(&mut self, name: &str) {
        let now = self.world.now;
        for pod in self.pods.values_mut().filter(|pod| pod.node == name) {
            for ended in pod.ended(&mut self.world) {
                self.nodes.get_mut(name).into_iter().for_each(|node| node.kubelet.exited(&ended, 0, now));
            }
        }
    }
}
