//! The same packets through the engine, and what it did beside what the kernel did.
//!
//! Chance is the kernel's: at a flow's first packet its choice of backend must lie in the engine's pool and is then the
//! engine's too, and so is its choice of a source port. From there on every byte must be the same.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use lb_core::rules::Fate;
use lb_core::{
    Address, Datagram, Direction, Flow, FlowId, Link, Meta, Origin, Packet, Protocol, Sizes, Tuple, Verdict,
};

use crate::common::lab::{self, Lab, Sent};
use crate::endpoints::{self, Port};
use crate::listed::{self, Listed, Seen};
use crate::objects::Objects;
use crate::packets;
use crate::script::{Event, Kind, Step};
use crate::world::{self, Place};

const SIZES: Sizes = Sizes { v4_flows: 256, v6_flows: 256, services: 32, affinity: 256, backends: 0, fragments: 1024 };

/// A difference between the engine and the kernel.
pub struct Difference {
    /// The deliberate one that it is; `None` for one that nobody meant.
    pub listed: Option<Listed>,
    /// Which of the scenario's events.
    pub at: usize,
    pub told: String,
}

/// What was seen of one scenario.
#[derive(Default)]
pub struct Report {
    pub packets: usize,
    pub flows: usize,
    pub forwarded: usize,
    pub refused: usize,
    pub dropped: usize,
    /// Flows that kept their client's address and not its port, as another had it.
    pub clashes: usize,
    pub differences: Vec<Difference>,
}

impl Report {
    /// Counts another scenario's in.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.flows += other.flows;
        self.forwarded += other.forwarded;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.clashes += other.clashes;
    }
}

/// What the engine made of one packet.
struct Judged {
    verdict: Verdict,
    /// What leaves, and where; the answer, if it was refused.
    out: Option<(Place, Vec<u8>)>,
}

/// All that the engine made of a step.
pub struct Ours {
    pub verdicts: Vec<Verdict>,
    pub out: Vec<(Place, Vec<u8>)>,
}

pub struct Judge {
    lab: Lab,
    objects: Objects,
    ports: Vec<Port>,
    /// Which clients which endpoints of which service ports remember.
    remembered: BTreeSet<(String, Address, SocketAddr)>,
    /// Clients of sticky service ports whom the engine may remember otherwise: a stray packet of theirs began a flow.
    muddled: BTreeSet<(String, Address)>,
    /// UDP flows of the engine that kube-proxy has deleted from the kernel's table at some change of the endpoints.
    cleared: BTreeSet<Tuple>,
    /// Conversations in which engine and kernel went apart for a listed reason, and may stay apart.
    parted: BTreeSet<usize>,
    /// Conversations in which a reset from nowhere near came by.
    aged: BTreeSet<usize>,
    /// Conversations that went untranslated before.
    passed: BTreeSet<usize>,
    report: Report,
    at: usize,
    /// How many fragments were given twice, each time as another datagram's.
    twins: u16,
    /// Whether every step is printed.
    is_traced: bool,
}

/// Judges what happened in a scenario.
pub fn judge(seed: u64, objects: &Objects, events: &[Event], is_traced: bool) -> Report {
    let mut config = lab::config();
    (config.seed, config.replies_per_second) = (seed, 1_000_000);
    let lab = Lab::with(config, SIZES, objects.node.clone(), []);
    let mut judge = Judge {
        lab,
        objects: objects.clone(),
        ports: endpoints::ports(objects),
        remembered: BTreeSet::new(),
        muddled: BTreeSet::new(),
        cleared: BTreeSet::new(),
        parted: BTreeSet::new(),
        aged: BTreeSet::new(),
        passed: BTreeSet::new(),
        report: Report::default(),
        at: 0,
        twins: 0,
        is_traced,
    };
    judge.update(objects);
    for (at, event) in events.iter().enumerate() {
        judge.at = at;
        judge.lab.now += 1;
        match event {
            Event::Change(objects) => {
                if is_traced {
                    println!("{at} the endpoints change");
                }
                judge.update(objects);
            }
            Event::Step(step) => judge.step(step),
        }
    }
    judge.report
}

impl Judge {
    fn update(&mut self, objects: &Objects) {
        self.objects = objects.clone();
        self.ports = endpoints::ports(objects);
        for served in &objects.served {
            self.lab.control.put_service(served.service.clone());
            for slice in &served.slices {
                self.lab.control.put_slice(slice.clone());
            }
        }
        self.lab.update();
        for flow in self.lab.engine.flows().filter(|flow| flow.original.protocol == Protocol::UDP) {
            let socket = |address: Address, port| SocketAddr::new(address.into(), port);
            let dialled = socket(flow.original.destination, flow.original.destination_port);
            let backend = socket(flow.reply.source, flow.reply.source_port);
            let port = self.ports.iter().find(|port| port.protocol == "udp" && port.is_dialled_by(dialled));
            if port.is_some_and(|port| !port.serving.is_empty() && !port.serving.contains(&backend)) {
                self.cleared.insert(flow.original);
            }
        }
        // kube-proxy deletes an endpoint's memory with the endpoint's rules.
        let ports = &self.ports;
        let is_used = |name: &str, endpoint: &SocketAddr| {
            ports.iter().any(|port| port.name == name && port.in_use().contains(endpoint))
        };
        self.remembered.retain(|(name, _, endpoint)| is_used(name, endpoint));
    }

    fn step(&mut self, step: &Step) {
        if self.parted.contains(&step.talk) {
            return;
        }
        self.report.packets += step.given.len();
        let ours = self.ours(step);
        if step.kind == Kind::OutOfWindow {
            self.aged.insert(step.talk);
        }
        if self.is_traced {
            println!("{} {:?} talk {}: {:?}", self.at, step.kind, step.talk, ours.verdicts);
            step.given.iter().for_each(|packet| println!("    {:?} {}", step.from, packets::summed_up(packet)));
            step.taken.iter().for_each(|(to, packet)| println!("    -> {to:?} {}", packets::summed_up(packet)));
        }
        for verdict in &ours.verdicts {
            match verdict {
                Verdict::Forward { .. } => self.report.forwarded += 1,
                Verdict::Reject(_) => self.report.refused += 1,
                Verdict::Drop(_) => self.report.dropped += 1,
                Verdict::Pass | Verdict::Accept | Verdict::Hold(_) | Verdict::Elsewhere(_) => {}
            }
        }
        if listed::same(&ours.out, &step.taken) {
            if ours.verdicts.contains(&Verdict::Pass) {
                self.passed.insert(step.talk);
            }
            return;
        }
        // What the node sends itself has left it before it is refused on its way in: the kernel keeps that flow.
        let own = Place::Node;
        if step.from == own && ours.out.first().is_some_and(|(to, _)| *to == own) {
            self.passed.insert(step.talk);
        }
        let seen = Seen {
            is_iptables: self.objects.is_iptables(),
            ports: &self.ports,
            step,
            ours: &ours,
            untouched: route(step.from, step.given[0].clone()),
            was_aged: self.aged.contains(&step.talk),
            was_passed: self.passed.contains(&step.talk),
            was_cleared: ours.verdicts.iter().any(|verdict| match verdict {
                Verdict::Forward { flow, .. } => {
                    self.lab.engine.flow(*flow).is_some_and(|flow| self.cleared.contains(&flow.original))
                }
                _ => false,
            }),
        };
        let listed = seen.listed();
        if listed.is_some_and(|listed| listed.parts(step.kind)) {
            self.parted.insert(step.talk);
        }
        let mut told = format!("{:?} from {:?}, talk {}\n", step.kind, step.from, step.talk);
        let mut show = |who: &str, packet: &[u8]| told.push_str(&format!("  {who} {}\n", packets::told(packet)));
        step.given.iter().for_each(|packet| show("given ", packet));
        step.taken.iter().for_each(|(place, packet)| show(&format!("kernel {place:?}"), packet));
        ours.out.iter().for_each(|(place, packet)| show(&format!("engine {place:?}"), packet));
        told.push_str(&format!("  verdicts {:?}\n", ours.verdicts));
        self.differ(listed, told);
    }

    fn differ(&mut self, listed: Option<Listed>, told: String) {
        self.report.differences.push(Difference { listed, at: self.at, told });
    }

    /// The engine's part of a step. What it holds back is given once more as soon as it says so.
    fn ours(&mut self, step: &Step) -> Ours {
        let mut ours = Ours { verdicts: Vec::new(), out: Vec::new() };
        let mut held: HashMap<Datagram, Vec<&[u8]>> = HashMap::new();
        for packet in &step.given {
            let mut due: Vec<&[u8]> = vec![packet];
            while let Some(packet) = due.pop() {
                let (judged, released) = self.packet(step, packet);
                if let Verdict::Hold(name) = judged.verdict {
                    held.entry(name).or_default().push(packet);
                }
                ours.verdicts.push(judged.verdict);
                ours.out.extend(judged.out);
                due.extend(released.and_then(|name| held.remove(&name)).unwrap_or_default());
            }
        }
        ours
    }

    fn meta(step: &Step) -> Meta {
        let origin = if step.from == Place::Node { Origin::Node } else { Origin::Wire };
        Meta { link: Link::Ip, origin, ..Meta::default() }
    }

    fn packet(&mut self, step: &Step, packet: &[u8]) -> (Judged, Option<Datagram>) {
        let meta = Self::meta(step);
        // Of a first fragment the engine takes only one, so its flow is begun by another of the same look.
        let sent = match packets::offset(packet) {
            Some(0) => {
                let twin = self.twin(packet);
                let _ = self.throw(step, &twin);
                self.lab.send_as(packet, meta)
            }
            _ => self.throw(step, packet),
        };
        let verdict = sent.verdict;
        let out = match verdict {
            Verdict::Forward { .. } | Verdict::Pass | Verdict::Accept => Some(route(step.from, sent.frame)),
            Verdict::Reject(reason) => {
                let mut answer = [0; 1280];
                let mut bytes = packet.to_vec();
                let now = self.lab.instant();
                let length = self.lab.engine.write_reply(now, &Packet::new(&mut bytes, meta), reason, &mut answer);
                length.map(|length| (step.from, answer[..length].to_vec()))
            }
            Verdict::Drop(_) | Verdict::Hold(_) | Verdict::Elsewhere(_) => None,
        };
        (Judged { verdict, out }, sent.releases)
    }

    /// Sends a packet through the engine. If it begins a flow, the kernel's choices become the engine's.
    fn throw(&mut self, step: &Step, packet: &[u8]) -> Sent {
        let begun = self.lab.engine.counters().flows_created;
        // Where there is affinity a choice of the engine's own would be remembered.
        let newcomer = self.newcomer(step, packet);
        if newcomer.is_some() {
            self.narrow(newcomer);
        }
        let sent = self.lab.send_as(packet, Self::meta(step));
        if newcomer.is_some() {
            self.narrow(None);
        }
        match sent.verdict {
            Verdict::Forward { flow, .. } if self.lab.engine.counters().flows_created > begun => {
                self.report.flows += 1;
                if let Some(flow) = self.lab.engine.flow(flow) {
                    self.cleared.remove(&flow.original);
                }
                self.adopt(step, packet, flow, sent)
            }
            _ => sent,
        }
    }

    /// The endpoint to which the kernel sends a client of a sticky service port who was not its client so far.
    fn newcomer(&self, step: &Step, packet: &[u8]) -> Option<(Address, u16)> {
        let (from, dialled) = packets::ends(packet)?;
        let name = self.sticky(packets::protocol(packet), dialled)?;
        let (_, backend) = translated(step, packet)?;
        let (client, endpoint) = (Address::from(from.ip()), Address::from(backend.ip()));
        let is_known =
            self.remembered.contains(&(name.clone(), client, backend)) || self.muddled.contains(&(name, client));
        (!is_known).then_some((endpoint, backend.port()))
    }

    /// The packet itself, or if it is a fragment one of another datagram that is otherwise the same.
    fn twin(&mut self, packet: &[u8]) -> Vec<u8> {
        self.twins += 1;
        packets::renamed(packet, self.twins)
    }

    /// Makes the kernel's choices the engine's, if they are choices that the engine has.
    fn adopt(&mut self, step: &Step, packet: &[u8], mut id: FlowId, mut sent: Sent) -> Sent {
        let meta = Self::meta(step);
        let Some(flow) = self.lab.engine.flow(id) else { return sent };
        let Some((seen, backend)) = translated(step, packet) else {
            // The kernel let no flow begin, but here there is one, and its client is remembered.
            self.muddled.extend(self.sticky_of(&flow).map(|name| (name, flow.original.source)));
            return sent;
        };
        let (address, port) = (Address::from(backend.ip()), backend.port());

        let decision = self.lab.engine.rules().decide(&flow.original, meta.origin);
        let (Fate::Forward { pool, .. }, Some((_, segment))) = (decision.fate, decision.service) else { return sent };
        if !segment.pool_has(pool, address, port) {
            // Where the kernel has gone on with an old flow, that is told of the step.
            if step.before != Some(backend) {
                self.differ(None, format!("the kernel chose {backend}, which is not in the engine's {pool:?} pool\n"));
            }
            return sent;
        }
        let in_pool: Vec<SocketAddr> =
            segment.pool(pool).map(|backend| SocketAddr::new(backend.address.into(), backend.port)).collect();
        self.check_affinity(&flow, backend, &in_pool);

        if (flow.reply.source, flow.reply.source_port) != (address, port) {
            self.lab.engine.forget(id);
            self.narrow(Some((address, port)));
            sent = {
                let twin = self.twin(packet);
                self.lab.send_as(&twin, meta)
            };
            self.narrow(None);
            let Verdict::Forward { flow, direction: Direction::Original } = sent.verdict else { return sent };
            id = flow;
        }
        let Some(flow) = self.lab.engine.flow(id) else { return sent };
        self.report.clashes += usize::from(!flow.masqueraded && seen.port() != flow.original.source_port);
        let chooses_port = flow.masqueraded || flow.reply.destination_port != flow.original.source_port;
        if chooses_port && flow.reply.destination_port != seen.port() {
            self.lab.engine.forget(id);
            let mut reply = flow.reply;
            reply.destination_port = seen.port();
            if self.lab.engine.restore(&Flow { reply, packets: [0; 2], ..flow }).is_err() {
                self.differ(None, format!("the engine has another flow between {seen} and {backend}\n"));
                return sent;
            }
            sent = {
                let twin = self.twin(packet);
                self.lab.send_as(&twin, meta)
            };
        }
        sent
    }

    /// The sticky service port that has this destination, by its name.
    fn sticky(&self, protocol: u8, dialled: SocketAddr) -> Option<String> {
        let port =
            self.ports.iter().find(|port| port.protocol == packets::name(protocol) && port.is_dialled_by(dialled))?;
        port.affinity.map(|_| port.name.clone())
    }

    fn sticky_of(&self, flow: &Flow) -> Option<String> {
        let dialled = SocketAddr::new(flow.original.destination.into(), flow.original.destination_port);
        self.sticky(flow.original.protocol.0, dialled)
    }

    /// Session affinity (SEMANTICS §7.6): who is remembered by an endpoint of the pool gets it, here as there.
    fn check_affinity(&mut self, flow: &Flow, backend: SocketAddr, in_pool: &[SocketAddr]) {
        let Some(name) = self.sticky_of(flow) else { return };
        let client = flow.original.source;
        let remembers = |endpoint: &&SocketAddr| self.remembered.contains(&(name.clone(), client, **endpoint));
        let known: Vec<SocketAddr> = in_pool.iter().filter(remembers).copied().collect();
        let chosen = SocketAddr::new(flow.reply.source.into(), flow.reply.source_port);
        if !known.is_empty() && chosen != backend {
            let listed = self.muddled.contains(&(name.clone(), client)).then_some(Listed::StrayRemembered);
            self.differ(listed, format!("{client} is remembered by {known:?}: kernel {backend}, engine {chosen}\n"));
        }
        self.remembered.insert((name, client, backend));
    }

    /// Leaves this endpoint as the only one of every Service that has it, or all of them again.
    fn narrow(&mut self, to: Option<(Address, u16)>) {
        for served in &self.objects.served {
            for slice in &served.slices {
                let mut slice = slice.clone();
                if let Some((address, port)) = to {
                    let has_port = slice.ports.iter().any(|slice_port| slice_port.port == port);
                    slice.endpoints.retain(|endpoint| has_port && endpoint.address == address);
                }
                self.lab.control.put_slice(slice);
            }
        }
        self.lab.update();
    }
}

/// The client as the backend sees it, and the backend, if the kernel translated the packet.
fn translated(step: &Step, packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ends = step.taken.iter().find_map(|(_, packet)| packets::ends(packet));
    ends.filter(|(_, to)| to.ip() != packets::addresses(packet).1)
}

/// Where a packet goes that the node sends on, and how it leaves: a hop less. What the node itself sends has all its hops, but
/// for what it sends to itself, which is seen on its way from input to the witness. The witness's copies are not to be cut up.
fn route(from: Place, mut packet: Vec<u8>) -> (Place, Vec<u8>) {
    let to = world::place_of(packets::addresses(&packet).1);
    if from != Place::Node || to == Place::Node {
        packets::hop(&mut packet);
    }
    if to == Place::Node {
        packets::forbid_fragments(&mut packet);
    }
    (to, packet)
}
