//! A cluster in a box: machines with real TCP/IP stacks, nodes with real engines, cables between them, on one virtual clock.
//!
//! ```text
//! client -- gateway (the cloud's load balancer) -- node -- pod
//!                                             `-- node -- pod
//! ```
//!
//! Every packet that enters a node goes through that node's own engine: a pod's, the node's own, and those off the wire.
//! The same calls and the same seed give the same packets at the same times, byte by byte.
//!
//! ```
//! use lb_core::Instant;
//! use lb_host::cluster::program::{HttpClient, HttpServer};
//! use lb_host::cluster::{Cluster, Physics, settings};
//! use lb_core::control::Mode;
//!
//! let mut cluster = Cluster::new(7, Physics::default())?;
//! let node = cluster.add_node("worker-1", None, &settings(Mode::IPTABLES))?;
//! let (web, shell) = (cluster.add_pod("web-1", node), cluster.add_pod("shell", node));
//! cluster.run(web, HttpServer::new("web-1", 8080));
//! let to = (cluster.addresses(web)[0], 8080);
//! let asked = cluster.run(shell, HttpClient::new(to));
//! cluster.run_until(Instant::from_secs(1));
//! let reply = cluster.program(asked).unwrap().exchanges()[0].result.clone().unwrap();
//! assert_eq!(reply.served_by, "web-1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod addresses;
pub mod api;
pub mod calendar;
pub mod cloud;
pub mod controllers;
mod engine;
mod events;
mod fabric;
pub mod kubectl;
pub mod kubelet;
pub mod kubernetes;
mod link;
mod load_balancer;
mod machine;
mod packet;
mod passage;
pub mod program;
mod router;
pub mod scenario;
mod streak;
mod trace;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use lb_core::control::{Label, Node};
use lb_core::pick::Scheduler;
use lb_core::{Address, Balancer, Counters, Instant, Prefix};

use crate::chance::Chance;
use crate::host::{Host, Stray};
use crate::k8s::Settings;
use crate::proxy::Proxy;
use engine::Engine;
use events::Events;
use fabric::{Fabric, Station};
use link::Cable;
use load_balancer::Admission;
use machine::{Machine, Place};
use program::Program;
use router::Router;
use trace::Trace;

pub use addresses::{LOAD_BALANCERS, OUTSIDE, PODS, SERVICES, settings};
pub use engine::{Change, EngineError};
pub use link::Link;
pub use machine::MachineId;
pub use passage::Passage;
pub use router::Judgement;

/// The cables of a box, and how quick its nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Physics {
    /// Between a pod and its node.
    pub pod: Link,
    /// Of a node, to other nodes and to the gateway.
    pub node: Link,
    /// The gateway's.
    pub gateway: Link,
    /// Between a client outside and the gateway.
    pub client: Link,
    /// How long it takes until a node's rules follow a change: at least, at most.
    pub sync: (Duration, Duration),
}

impl Default for Physics {
    /// A rack, and clients some way off.
    fn default() -> Self {
        Self {
            pod: Link::of(Duration::from_micros(20)),
            node: Link::of(Duration::from_micros(100)),
            gateway: Link::of(Duration::from_micros(100)),
            client: Link::of(Duration::from_millis(5)),
            sync: (Duration::from_millis(50), Duration::from_millis(500)),
        }
    }
}

/// A program of a machine, by which it is looked at again.
#[derive(Debug)]
pub struct ProgramId<P> {
    machine: MachineId,
    number: usize,
    program: PhantomData<fn() -> P>,
}

impl<P> Clone for ProgramId<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for ProgramId<P> {}

/// Packets that came to an end on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Addressed to nobody that anybody knows.
    pub unroutable: u64,
    /// For a machine that was gone when they came.
    pub late: u64,
    /// For the gateway itself, which runs nothing.
    pub gateway: u64,
    /// Of clients that the load balancer does not let in.
    pub refused: u64,
}

enum Event {
    Arrive { from: Station, to: Station, packet: Vec<u8> },
    Alarm(MachineId),
    Learn(Station, Change),
    Expire(Station),
}

/// A cluster in a box. See the module's own words.
pub struct Cluster {
    now: Instant,
    chance: Chance,
    physics: Physics,
    events: Events<Event>,
    machines: Vec<Option<Machine>>,
    routers: BTreeMap<Station, Router>,
    gateway: Cable,
    admission: Admission,
    fabric: Fabric,
    /// When each router will have learnt all that it was told, and how quick it is.
    schedules: BTreeMap<Station, (Instant, Chance)>,
    /// The objects as they are, for nodes that come later.
    objects: BTreeMap<(bool, Label), Change>,
    /// How many there were, for their addresses.
    nodes: u16,
    clients: u16,
    pods: BTreeMap<MachineId, u16>,
    /// Machines to be looked at before time goes on.
    due: BTreeSet<MachineId>,
    trace: Option<Trace>,
    losses: Losses,
    failures: Vec<EngineError>,
    /// How many machines of each name there were.
    names: BTreeMap<String, u64>,
}

impl Cluster {
    /// A box with a gateway and nothing else.
    ///
    /// # Errors
    /// [`EngineError`], if the engine won't be made.
    pub fn new(seed: u64, physics: Physics) -> Result<Self, EngineError> {
        let chance = Chance::new(seed);
        let node = load_balancer::node(addresses::gateway(), OUTSIDE.to_vec(), Scheduler::Random);
        let router = Router::new(Engine::new(node, chance.named("gateway engine"))?);
        let mut cluster = Self {
            now: Instant::ORIGIN,
            gateway: Cable::new(physics.gateway, chance.named("gateway cable")),
            admission: Admission::default(),
            physics,
            events: Events::new(),
            machines: Vec::new(),
            routers: BTreeMap::from([(Station::Gateway, router)]),
            fabric: Fabric::default(),
            schedules: BTreeMap::new(),
            objects: BTreeMap::new(),
            nodes: 0,
            clients: 0,
            pods: BTreeMap::new(),
            due: BTreeSet::new(),
            trace: None,
            losses: Losses::default(),
            failures: Vec::new(),
            names: BTreeMap::new(),
            chance,
        };
        cluster.schedule(Station::Gateway, "gateway");
        Ok(cluster)
    }

    /// The time.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Adds a node, which knows all objects from the start: a new kube-proxy lists before it watches.
    ///
    /// # Errors
    /// [`EngineError`], if its rules can't be made.
    pub fn add_node(&mut self, name: &str, zone: Option<&str>, settings: &Settings) -> Result<MachineId, EngineError> {
        let number = self.nodes;
        let own = addresses::node(number);
        self.nodes += 1;
        self.add_node_as(Node {
            name: name.into(),
            zone: zone.map(Label::from),
            proxy: settings.proxy(&own, &addresses::pod_blocks(number)),
            addresses: own,
        })
    }

    /// Adds a node that is described already, with addresses of its own.
    ///
    /// # Errors
    /// [`EngineError`], if its rules can't be made.
    pub fn add_node_as(&mut self, node: Node) -> Result<MachineId, EngineError> {
        let (name, own) = (node.name.to_string(), node.addresses.clone());
        let name = name.as_str();
        let mut engine = Engine::new(node, self.chance.named(name).named("engine"))?;
        self.objects.values().for_each(|object| engine.learn(object.clone()));
        let id = self.enter(name, Place::Node, &own, self.physics.node);
        if let Some(node) = self.machine_mut(id) {
            // What the engine hands the node is the node's, also a Vip that it answers for.
            node.host.accept_any();
        }
        let mut router = Router::new(engine);
        router.show(self.trace.as_mut());
        self.routers.insert(Station::Machine(id), router);
        self.pods.insert(id, 0);
        self.schedule(Station::Machine(id), name);
        match self.sync(Station::Machine(id)) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id);
                Err(error)
            }
        }
    }

    /// Adds a pod behind a node, with an address of each family from the node's block.
    ///
    /// # Panics
    /// If `node` is none, or has no address left.
    pub fn add_pod(&mut self, name: &str, node: MachineId) -> MachineId {
        let last = self.pods.get_mut(&node).expect("a pod is behind a node");
        let of_node = self.routers.get(&Station::Machine(node)).map(|router| router.engine.node().addresses.clone());
        let of_node = of_node.unwrap_or_default();
        // The next in turn, as the host-local allocator has it: one that was given back rests as long as it can.
        let turns = (1..=addresses::PODS_OF_A_NODE).map(|step| (*last + step - 1) % addresses::PODS_OF_A_NODE + 1);
        let free =
            |count: &u16| addresses::pod(&of_node, *count).iter().all(|address| self.fabric.owner(*address).is_none());
        *last = turns.into_iter().find(free).expect("a node has addresses for 254 pods");
        let addresses = addresses::pod(&of_node, *last);
        self.add_pod_as(name, node, &addresses)
    }

    /// Adds a pod behind a node, with these addresses.
    pub fn add_pod_as(&mut self, name: &str, node: MachineId, addresses: &[Address]) -> MachineId {
        self.enter(name, Place::Pod(node), addresses, self.physics.pod)
    }

    /// Adds a client outside, with an address of each family.
    pub fn add_client(&mut self, name: &str) -> MachineId {
        let addresses = addresses::client(self.clients);
        self.clients += 1;
        self.enter(name, Place::Outside, &addresses, self.physics.client)
    }

    /// Takes a machine out, from one moment to the next, as when its power fails; a node with all pods behind it.
    pub fn remove(&mut self, id: MachineId) {
        let behind = self.machines.iter().enumerate().filter_map(|(number, machine)| {
            machine.as_ref().filter(|machine| machine.place == Place::Pod(id)).map(|_| MachineId(number))
        });
        for gone in behind.chain([id]).collect::<Vec<_>>() {
            if let Some(machine) = self.machines.get_mut(gone.0) {
                *machine = None;
            }
            self.fabric.leave(gone);
            self.routers.remove(&Station::Machine(gone));
            self.schedules.remove(&Station::Machine(gone));
            self.pods.remove(&gone);
        }
    }

    /// Tells the outside that a block of addresses, such as a Service's external IP, is behind a node.
    pub fn route(&mut self, prefix: Prefix, node: MachineId) {
        self.fabric.route(prefix, node);
    }

    /// Puts another link in the place of a machine's.
    pub fn set_link(&mut self, id: MachineId, link: Link) {
        if let Some(machine) = self.machine_mut(id) {
            machine.cable.link = link;
        }
    }

    /// A machine's addresses; none if it is gone.
    pub fn addresses(&self, id: MachineId) -> &[Address] {
        self.machine(id).map_or(&[], |machine| machine.host.addresses())
    }

    /// A machine's name; empty if it is gone.
    pub fn name(&self, id: MachineId) -> &str {
        self.machine(id).map_or("", |machine| &machine.name)
    }

    /// The nodes there are, in the order they came.
    pub fn nodes(&self) -> impl Iterator<Item = MachineId> {
        self.pods.keys().copied()
    }

    /// Who has an address, if anybody does.
    pub fn owner(&self, address: Address) -> Option<MachineId> {
        self.fabric.owner(address)
    }

    /// Tells every node of a change; each follows it in its own time.
    pub fn observe(&mut self, change: &Change) {
        let key = match change {
            Change::Service(service) => Some((true, service.name.clone(), true)),
            Change::NoService(name) => Some((true, name.clone(), false)),
            Change::Slice(slice) => Some((false, slice.name.clone(), true)),
            Change::NoSlice(name) => Some((false, name.clone(), false)),
            Change::Node(_) => None,
        };
        if let Some((is_service, name, exists)) = key {
            match exists {
                true => drop(self.objects.insert((is_service, name), change.clone())),
                false => drop(self.objects.remove(&(is_service, name))),
            }
        }
        for station in self.routers.keys().copied().collect::<Vec<_>>() {
            if station != Station::Gateway {
                self.plan_learning(station, change.clone());
            }
        }
    }

    /// Tells the cloud's load balancer of a change: a Service of its own address and port, a slice of healthy nodes and
    /// their NodePort.
    pub fn balance(&mut self, change: Change) {
        self.plan_learning(Station::Gateway, load_balancer::adopted(change));
    }

    /// Lets only clients of these blocks in to an address of the load balancer's; of a family without blocks, all.
    pub fn admit(&mut self, address: Address, sources: Vec<Prefix>) {
        self.admission.set(address, sources);
    }

    /// Starts a program on a machine.
    ///
    /// # Panics
    /// If the machine is gone.
    pub fn run<P: Program>(&mut self, id: MachineId, program: P) -> ProgramId<P> {
        let machine = self.machine_mut(id).expect("a program runs on a machine");
        let number = machine.run(Box::new(program));
        self.due.insert(id);
        ProgramId { machine: id, number, program: PhantomData }
    }

    /// Ends a program from one moment to the next, as SIGKILL does: its connections are reset.
    pub fn kill<P: Program>(&mut self, id: ProgramId<P>) {
        self.due.insert(id.machine);
        if let Some(machine) = self.machine_mut(id.machine) {
            machine.end(id.number);
        }
    }

    /// A program, as long as it and its machine are there.
    pub fn program<P: Program>(&self, id: ProgramId<P>) -> Option<&P> {
        self.machine(id.machine)?.program(id.number)
    }

    /// The same, to be changed; it is asked what to do next before time goes on.
    pub fn program_mut<P: Program>(&mut self, id: ProgramId<P>) -> Option<&mut P> {
        self.due.insert(id.machine);
        self.machine_mut(id.machine)?.program_mut(id.number)
    }

    /// A machine's stack, to be used by hand; what it sends goes out before time goes on.
    pub fn host_mut(&mut self, id: MachineId) -> Option<&mut Host> {
        self.due.insert(id);
        self.machine_mut(id).map(|machine| &mut machine.host)
    }

    /// Packets that reached a machine and none of its sockets, by the machine's name.
    pub fn strays(&self) -> impl Iterator<Item = (&str, &Stray)> {
        let machines = self.machines.iter().flatten();
        machines.flat_map(|machine| machine.host.strays().map(|stray| (machine.name.as_str(), stray)))
    }

    /// What a node's engine has counted; `None` if it is no node.
    pub fn counters(&self, node: MachineId) -> Option<Counters> {
        self.routers.get(&Station::Machine(node)).map(|router| router.engine.counters())
    }

    /// How many packets a node's engine was asked about; `None` if it is no node.
    pub fn judged(&self, node: MachineId) -> Option<u64> {
        self.routers.get(&Station::Machine(node)).map(|router| router.judged)
    }

    /// The packets that a node's engine judged since this was last asked; the first time it begins to take note.
    pub fn judgements(&mut self, node: MachineId) -> Vec<Judgement> {
        let router = self.routers.get_mut(&Station::Machine(node));
        router.and_then(|router| router.judgements.replace(Vec::new())).unwrap_or_default()
    }

    /// A node's proxy; `None` if it is in no userspace mode.
    pub fn proxy(&self, node: MachineId) -> Option<&Proxy> {
        self.machine(node)?.proxy.as_ref()
    }

    /// Looks at a node's engine; `None` if it is no node.
    pub fn look<R>(&self, node: MachineId, look: impl FnOnce(&Balancer<'_, Vec<u8>>) -> R) -> Option<R> {
        self.routers.get(&Station::Machine(node)).map(|router| router.engine.with(|balancer| look(balancer)))
    }

    /// Looks at the load balancer's engine.
    pub fn look_at_load_balancer<R>(&self, look: impl FnOnce(&Balancer<'_, Vec<u8>>) -> R) -> Option<R> {
        self.routers.get(&Station::Gateway).map(|router| router.engine.with(|balancer| look(balancer)))
    }

    /// Packets that came to an end on their way.
    pub const fn losses(&self) -> Losses {
        self.losses
    }

    /// Rules that could not be made or applied; the node has those it had before.
    pub fn failures(&self) -> &[EngineError] {
        &self.failures
    }

    /// Writes all that routers see from now on into a capture.
    ///
    /// # Errors
    /// The capture can't be begun.
    pub fn record(&mut self) -> io::Result<()> {
        let mut trace = Trace::new()?;
        self.routers.values_mut().for_each(|router| router.show(Some(&mut trace)));
        self.trace = Some(trace);
        Ok(())
    }

    /// Ends the capture, and hands it out: pcapng. Empty if there is none.
    ///
    /// # Errors
    /// The capture can't be ended.
    pub fn capture(&mut self) -> io::Result<Vec<u8>> {
        self.trace.take().map_or(Ok(Vec::new()), Trace::finish)
    }

    /// Keeps every packet's way through every router from now on, for [`passages`](Self::passages), until the capture ends.
    ///
    /// # Errors
    /// There is no capture yet, and it can't be begun.
    pub fn witness(&mut self) -> io::Result<()> {
        if self.trace.is_none() {
            self.record()?;
        }
        self.trace.iter_mut().for_each(Trace::witness);
        Ok(())
    }

    /// What routers did since this was last asked for, in order; nothing unless [`witness`](Self::witness) was called.
    pub fn passages(&mut self) -> Vec<Passage> {
        self.trace.as_mut().map(Trace::take_passages).unwrap_or_default()
    }

    /// Lets everything happen that does until `time`.
    pub fn run_until(&mut self, time: Instant) {
        self.run_until_holds(time, |_| false);
        self.now = self.now.max(time);
    }

    /// Lets things happen until `condition` holds, but nothing after `limit`. Whether it holds.
    pub fn run_until_holds(&mut self, limit: Instant, mut condition: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.take_turns();
            if condition(self) {
                return true;
            }
            if !self.step(limit) {
                return false;
            }
        }
    }

    /// Lets machines that something happened to do what they can.
    fn take_turns(&mut self) {
        while let Some(id) = self.due.pop_first() {
            self.turn(id);
        }
    }

    /// Lets the next thing happen, unless it is after `limit`. Whether anything did.
    fn step(&mut self, limit: Instant) -> bool {
        if self.events.next_time().is_none_or(|next| next > limit) {
            return false;
        }
        if let Some((time, event)) = self.events.next() {
            self.now = time;
            self.happen(event);
        }
        true
    }

    fn schedule(&mut self, station: Station, name: &str) {
        self.schedules.insert(station, (self.now, self.chance.named(name).named("sync")));
    }

    fn plan_learning(&mut self, station: Station, change: Change) {
        let (least, most) = self.physics.sync;
        let Some((last, chance)) = self.schedules.get_mut(&station) else { return };
        let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        let delay = least + Duration::from_nanos(chance.below(spread));
        // In the order of the changes, each no sooner than the one before.
        *last = self.now.saturating_add(delay).max(*last);
        self.events.plan(*last, Event::Learn(station, change));
    }

    fn enter(&mut self, name: &str, place: Place, addresses: &[Address], link: Link) -> MachineId {
        let id = MachineId(self.machines.len());
        let count = self.names.entry(name.to_owned()).or_default();
        // One that comes back draws other numbers than before.
        let chance = match *count {
            0 => self.chance.named(name),
            again => self.chance.named(name).named(&again.to_string()),
        };
        *count += 1;
        let host = Host::with_mtu(addresses, link.mtu, chance.named("host").draw());
        let cable = Cable::new(link, chance.named("cable"));
        self.machines.push(Some(Machine::new(name.to_owned(), place, host, cable)));
        self.fabric.enter(id, place, addresses);
        id
    }

    fn cable(&mut self, at: Station) -> Option<&mut Cable> {
        match at {
            Station::Machine(id) => self.machine_mut(id).map(|machine| &mut machine.cable),
            Station::Gateway => Some(&mut self.gateway),
        }
    }

    fn machine(&self, id: MachineId) -> Option<&Machine> {
        self.machines.get(id.0)?.as_ref()
    }

    fn machine_mut(&mut self, id: MachineId) -> Option<&mut Machine> {
        self.machines.get_mut(id.0)?.as_mut()
    }
}
