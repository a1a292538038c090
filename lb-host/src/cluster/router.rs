//! A router with the engine in it: what a node and a cloud's load balancer have in common.

use std::collections::VecDeque;

use lb_core::{Address, Datagram, Flow, Instant, Origin, Verdict};

use super::engine::Engine;
use super::load_balancer;
use super::packet::{self, Trouble};
use super::trace::{Interface, Trace};

/// What leaves a router.
#[derive(Debug)]
pub(super) enum Out {
    /// For the router itself.
    Deliver(Vec<u8>),
    /// For whoever its destination is.
    Forward(Vec<u8>),
}

/// Fragments that a router keeps until their first comes; the oldest gives way.
const KEPT: usize = 128;

pub(super) struct Router {
    pub(super) engine: Engine,
    held: VecDeque<(Datagram, Origin, Vec<u8>)>,
    interface: Option<Interface>,
    /// When `expire` is planned.
    pub(super) expiry: Option<Instant>,
    /// Packets that its engine was asked about.
    pub(super) judged: u64,
    /// What its engine did since somebody wants to know.
    pub(super) judgements: Option<Vec<Judgement>>,
}

/// A packet that an engine judged.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// When.
    pub time: Instant,
    /// From where.
    pub origin: Origin,
    /// From its IP header on, as it came.
    pub came: Vec<u8>,
    /// As the engine left it.
    pub left: Vec<u8>,
    /// What was said of it.
    pub verdict: Verdict,
    /// The flow that it was forwarded by.
    pub flow: Option<Flow>,
    /// Whether that began with it.
    pub begun: bool,
    /// What its sender was answered if it was rejected.
    pub answer: Option<Vec<u8>>,
}

impl Router {
    pub(super) const fn new(engine: Engine) -> Self {
        Self { engine, held: VecDeque::new(), interface: None, expiry: None, judged: 0, judgements: None }
    }

    pub(super) fn owns(&self, address: Address) -> bool {
        self.engine.node().addresses.contains(&address)
    }

    /// The address that it speaks under in a family.
    pub(super) fn address(&self, v4: bool) -> Option<Address> {
        self.engine.node().addresses.iter().copied().find(|own| own.is_v4() == v4)
    }

    /// Takes part in the capture, if there is one.
    pub(super) fn show(&mut self, trace: Option<&mut Trace>) {
        let name = self.engine.node().name.clone();
        self.interface = trace.and_then(|trace| trace.describe(&name, &*name == load_balancer::NAME).ok());
    }

    /// What becomes of a packet that entered.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        origin: Origin,
        packet: Vec<u8>,
        trace: &mut Option<Trace>,
    ) -> Vec<Out> {
        let mut out = Vec::new();
        let mut work = VecDeque::from([(origin, packet)]);
        while let Some((origin, mut packet)) = work.pop_front() {
            let before = (trace.is_some() || self.judgements.is_some()).then(|| packet.clone());
            let known = self.engine.with(|balancer| balancer.counters().flows_created);
            let (verdict, releases) = self.engine.process(now, origin, &mut packet);
            self.judged += 1;
            if let (Some(judgements), Some(came)) = (&mut self.judgements, &before) {
                let flow = match verdict {
                    Verdict::Forward { flow, .. } => self.engine.with(|balancer| balancer.flow(flow)),
                    _ => None,
                };
                let begun = self.engine.with(|balancer| balancer.counters().flows_created > known);
                let (came, left) = (came.clone(), packet.clone());
                judgements.push(Judgement { time: now, origin, came, left, verdict, flow, begun, answer: None });
            }
            if let (Some(trace), Some(before), Some(interface)) = (trace.as_mut(), before, self.interface.as_mut()) {
                let leaves = matches!(verdict, Verdict::Pass | Verdict::Accept | Verdict::Forward { .. });
                let rewritten = matches!(verdict, Verdict::Forward { .. });
                let story = interface.story(&self.engine, verdict, origin, &before);
                trace.inbound(now, interface, &before, if leaves && rewritten { "" } else { &story });
                if leaves && rewritten {
                    trace.outbound(now, interface, &packet, &story);
                }
                trace.passage(now, interface, &self.engine, verdict, &before, leaves.then_some(&packet));
            }
            match verdict {
                Verdict::Accept => out.push(Out::Deliver(packet)),
                Verdict::Pass | Verdict::Forward { .. } => self.send(now, origin, packet, &mut out, trace),
                Verdict::Hold(datagram) => {
                    while self.held.len() >= KEPT {
                        self.held.pop_front();
                    }
                    self.held.push_back((datagram, origin, packet));
                }
                Verdict::Drop(_) | Verdict::Elsewhere(_) => {}
                Verdict::Reject(reason) => {
                    if let Some(reply) = self.engine.reply(now, &mut packet, reason) {
                        if let Some(judgement) = self.judgements.as_mut().and_then(|judgements| judgements.last_mut()) {
                            judgement.answer = Some(reply.clone());
                        }
                        if let (Some(trace), Some(interface)) = (trace.as_mut(), self.interface.as_mut()) {
                            trace.outbound(now, interface, &reply, "reply to the packet before");
                        }
                        self.route(reply, &mut out);
                    }
                }
            }
            if let Some(datagram) = releases {
                let (released, rest) = self.held.drain(..).partition::<Vec<_>, _>(|(held, ..)| *held == datagram);
                self.held.extend(rest);
                work.extend(released.into_iter().map(|(_, origin, packet)| (origin, packet)));
            }
        }
        out
    }

    /// What a router says of a packet that it can't send on: its own word, so that a translated packet's sender
    /// recognises what is quoted.
    pub(super) fn complain(
        &mut self,
        now: Instant,
        trouble: Trouble,
        about: &[u8],
        trace: &mut Option<Trace>,
    ) -> Vec<Out> {
        let v4 = about.first().is_some_and(|first| *first >> 4 == 4);
        let message = self.address(v4).and_then(|own| packet::complaint(trouble, about, own));
        message.map(|message| self.pass(now, Origin::Node, message, trace)).unwrap_or_default()
    }

    /// Sends on what the engine let go.
    fn send(
        &mut self,
        now: Instant,
        origin: Origin,
        mut packet: Vec<u8>,
        out: &mut Vec<Out>,
        trace: &mut Option<Trace>,
    ) {
        let own = packet::destination(&packet).is_some_and(|destination| self.owns(destination));
        let came_through = !own && origin != Origin::Node;
        if let Some(trouble) = came_through.then(|| packet::hop(&mut packet)).and_then(Result::err) {
            return out.extend(self.complain(now, trouble, &packet, trace));
        }
        self.route(packet, out);
    }

    fn route(&self, packet: Vec<u8>, out: &mut Vec<Out>) {
        match packet::destination(&packet) {
            Some(destination) if self.owns(destination) => out.push(Out::Deliver(packet)),
            Some(_) => out.push(Out::Forward(packet)),
            None => {}
        }
    }
}
