//! The same packets through the engine, and what it did beside what the kernel did.
//!
//! Chance is the kernel's: at a flow's first packet its choice of backend must lie in the engine's pool and is then the
//! engine's too, and so is its choice of a source port. From there on every byte must be the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

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
    /// Flows of the engine that gave way to one of the kernel's, which had not heard of them.
    pub given_way: usize,
    /// Clients of sticky Services who came back in time; who came too late; and who of these found the same endpoint, of several.
    pub returned: usize,
    pub expired: usize,
    pub stayed: usize,
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether there is a difference that nobody meant.
    pub fn differs(&self) -> bool {
        self.differences.iter().any(|difference| difference.listed.is_none())
    }

    /// Counts another scenario's in.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.flows += other.flows;
        self.forwarded += other.forwarded;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.clashes += other.clashes;
        self.given_way += other.given_way;
        self.returned += other.returned;
        self.expired += other.expired;
        self.stayed += other.stayed;
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
    /// Which clients which endpoints of which service ports remember, and since when.
    remembered: BTreeMap<(String, Address, SocketAddr), Duration>,
    /// The same of endpoints that went since: kube-proxy has deleted their memory.
    lost: BTreeSet<(String, Address, SocketAddr)>,
    /// Clients of sticky service ports whom the engine may remember otherwise: a stray packet of theirs began a flow.
    muddled: BTreeSet<(String, Address)>,
    /// Flows of which, by a listed difference, only the engine may know.
    alone: BTreeSet<FlowId>,
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
    now: Duration,
    /// How many fragments were given twice, each time as another datagram's.
    twins: u16,
    /// Whether every step is printed.
    is_traced: bool,
}

/// Judges what happened in a scenario.
pub fn judge(seed: u64, objects: &Objects, events: &[(Duration, Event)], is_traced: bool) -> Report {
    let mut judge = Judge::new(seed, objects, is_traced);
    judge.all(events);
    judge.report
}

impl Judge {
    pub fn new(seed: u64, objects: &Objects, is_traced: bool) -> Self {
        let mut config = lab::config();
        (config.seed, config.replies_per_second) = (seed, 1_000_000);
        let timeouts = &mut config.timeouts;
        for short in [&mut timeouts.sctp_opening, &mut timeouts.sctp_closing, &mut timeouts.tcp_close] {
            *short = Duration::from_secs(120);
        }
        let lab = Lab::with(config, SIZES, objects.node.clone(), []);
        let mut judge = Judge {
            lab,
            objects: objects.clone(),
            ports: endpoints::ports(objects),
            remembered: BTreeMap::new(),
            lost: BTreeSet::new(),
            muddled: BTreeSet::new(),
            alone: BTreeSet::new(),
            cleared: BTreeSet::new(),
            parted: BTreeSet::new(),
            aged: BTreeSet::new(),
            passed: BTreeSet::new(),
            report: Report::default(),
            at: 0,
            now: Duration::ZERO,
            twins: 0,
            is_traced,
        };
        judge.update(objects);
        judge
    }

    /// Judges these events, which come after all that came before.
    pub fn all(&mut self, events: &[(Duration, Event)]) {
        for (at, (now, event)) in events.iter().enumerate() {
            self.at = at;
            self.now = *now;
            self.lab.now = now.as_millis() as u64;
            match event {
                Event::Change(objects) => {
                    if self.is_traced {
                        println!("{at} the endpoints change");
                    }
                    self.update(objects);
                }
                Event::Step(step) => self.step(step),
            }
        }
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The flows that the engine has.
    pub fn flows(&self) -> Vec<Flow> {
        self.lab.engine.flows().collect()
    }

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
        let lost = self.remembered.keys().filter(|(name, _, endpoint)| !is_used(name, endpoint));
        self.lost.extend(lost.cloned());
        self.remembered.retain(|(name, _, endpoint), _| is_used(name, endpoint));
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
        let is_refused = matches!(ours.verdicts[..], [Verdict::Reject(_)]);
        if step.from == own && (is_refused || ours.out.first().is_some_and(|(to, _)| *to == own)) {
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
            self.part(step, &ours);
        }
        let mut told = format!("{:?} from {:?}, talk {}\n", step.kind, step.from, step.talk);
        let mut show = |who: &str, packet: &[u8]| told.push_str(&format!("  {who} {}\n", packets::told(packet)));
        step.given.iter().for_each(|packet| show("given ", packet));
        step.taken.iter().for_each(|(place, packet)| show(&format!("kernel {place:?}"), packet));
        ours.out.iter().for_each(|(place, packet)| show(&format!("engine {place:?}"), packet));
        told.push_str(&format!("  verdicts {:?}\n", ours.verdicts));
        self.differ(listed, told);
    }

    /// From here on kernel and engine may know different things of a conversation.
    fn part(&mut self, step: &Step, ours: &Ours) {
        self.parted.insert(step.talk);
        for verdict in &ours.verdicts {
            let Verdict::Forward { flow: id, .. } = verdict else { continue };
            self.alone.insert(*id);
            if let Some(flow) = self.lab.engine.flow(*id) {
                self.muddled.extend(self.sticky_of(&flow).map(|(name, _)| (name, flow.original.source)));
            }
        }
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

    /// The endpoint to which the kernel sends a client of a sticky service port of whom no endpoint that may serve it ever heard.
    fn newcomer(&self, step: &Step, packet: &[u8]) -> Option<(Address, u16)> {
        let (from, dialled) = packets::ends(packet)?;
        let protocol = packets::protocol(packet);
        let (name, _) = self.sticky(protocol, dialled)?;
        let (_, backend) = translated(step, packet)?;
        let original = Tuple {
            source: from.ip().into(),
            destination: dialled.ip().into(),
            source_port: from.port(),
            destination_port: dialled.port(),
            protocol: Protocol(protocol),
            ..Tuple::default()
        };
        let in_pool = self.pool(&original, Self::meta(step).origin);
        let is_known =
            in_pool.iter().any(|endpoint| self.remembered.contains_key(&(name.clone(), original.source, *endpoint)));
        let is_new = !is_known && !self.muddled.contains(&(name, original.source));
        is_new.then_some((Address::from(backend.ip()), backend.port()))
    }

    /// Who may serve a new flow.
    fn pool(&self, original: &Tuple, origin: Origin) -> Vec<SocketAddr> {
        let decision = self.lab.engine.rules().decide(original, origin);
        let (Fate::Forward { pool, .. }, Some((_, segment))) = (decision.fate, decision.service) else {
            return Vec::new();
        };
        segment.pool(pool).map(|backend| SocketAddr::new(backend.address.into(), backend.port)).collect()
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
            self.muddled.extend(self.sticky_of(&flow).map(|(name, _)| (name, flow.original.source)));
            self.alone.insert(id);
            return sent;
        };
        let (address, port) = (Address::from(backend.ip()), backend.port());

        let in_pool = self.pool(&flow.original, meta.origin);
        if in_pool.is_empty() {
            return sent;
        }
        if !in_pool.contains(&backend) {
            // Where the kernel has gone on with an old flow, that is told of the step.
            if step.before != Some(backend) {
                self.differ(None, format!("the kernel chose {backend}, which is not among the engine's {in_pool:?}\n"));
            }
            return sent;
        }
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
            self.make_way(&reply);
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

    /// The kernel may give a flow a port that here belongs to one of which it has not heard: it is forgotten.
    fn make_way(&mut self, reply: &Tuple) {
        let engine = &self.lab.engine;
        let in_the_way = |id: &&FlowId| engine.flow(**id).is_some_and(|flow| flow.reply == *reply);
        if let Some(id) = self.alone.iter().find(in_the_way).copied() {
            self.lab.engine.forget(id);
            self.alone.remove(&id);
            self.report.given_way += 1;
        }
    }

    /// The sticky service port that has this destination, by its name, and for how long it remembers.
    fn sticky(&self, protocol: u8, dialled: SocketAddr) -> Option<(String, Duration)> {
        let port =
            self.ports.iter().find(|port| port.protocol == packets::name(protocol) && port.is_dialled_by(dialled))?;
        port.affinity.map(|seconds| (port.name.clone(), Duration::from_secs(seconds.into())))
    }

    fn sticky_of(&self, flow: &Flow) -> Option<(String, Duration)> {
        let dialled = SocketAddr::new(flow.original.destination.into(), flow.original.destination_port);
        self.sticky(flow.original.protocol.0, dialled)
    }

    /// Session affinity (SEMANTICS §7.6): who is remembered by an endpoint of the pool gets it, here as there; for as long as the
    /// Service says, and no longer.
    fn check_affinity(&mut self, flow: &Flow, backend: SocketAddr, in_pool: &[SocketAddr]) {
        let Some((name, timeout)) = self.sticky_of(flow) else { return };
        let client = flow.original.source;
        let chosen = SocketAddr::new(flow.reply.source.into(), flow.reply.source_port);
        let seen = |endpoint: &SocketAddr| self.remembered.get(&(name.clone(), client, *endpoint)).copied();
        let (known, forgotten): (Vec<_>, Vec<_>) = in_pool
            .iter()
            .filter_map(|endpoint| Some((*endpoint, seen(endpoint)?)))
            .partition(|(_, seen)| self.now - *seen < timeout);
        let is_muddled = self.muddled.contains(&(name.clone(), client));
        if !known.is_empty() {
            self.report.returned += usize::from(!is_muddled);
            if chosen != backend {
                let is_back = self.lost.contains(&(name.clone(), client, chosen));
                let listed = is_muddled.then_some(Listed::StrayRemembered);
                let listed = listed.or(is_back.then_some(Listed::RememberedBack));
                self.differ(
                    listed,
                    format!("{client} is remembered by {known:?}: kernel {backend}, engine {chosen}\n"),
                );
            }
        } else if !forgotten.is_empty() {
            if in_pool.len() > 1 && !is_muddled {
                self.report.expired += 1;
                self.report.stayed += usize::from(forgotten.iter().any(|(endpoint, _)| *endpoint == chosen));
            }
            // What it chose by chance it remembers, as the kernel does its own.
            if chosen != backend {
                self.muddled.insert((name.clone(), client));
            }
        }
        self.remembered.insert((name, client, backend), self.now);
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
pub fn route(from: Place, mut packet: Vec<u8>) -> (Place, Vec<u8>) {
    let to = world::place_of(packets::addresses(&packet).1);
    if from != Place::Node || to == Place::Node {
        packets::hop(&mut packet);
    }
    if to == Place::Node {
        packets::forbid_fragments(&mut packet);
    }
    (to, packet)
}
