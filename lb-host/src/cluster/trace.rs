//! All that the routers saw, in one capture: an interface a node, each packet as it came in and as it went out, with what
//! the engine did in the packet's comment.

use std::io;

use lb_core::{Instant, Link, Origin, RuleTable, Verdict};

use super::engine::Engine;
use super::passage::Passage;
use crate::device::capture::{Direction, Record, Section};
use crate::device::link::RAW;
use crate::path::Path;
use crate::replay::story::{self, Event, Stories};

/// Nanoseconds since 1970 at which the box's clock starts: 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600_000_000_000;

/// A capture in the making.
pub(super) struct Trace {
    section: Section<Vec<u8>>,
    /// What routers did, if anybody wants to know.
    passages: Option<Vec<Passage>>,
}

/// A router's interface in the capture, and the stories told there.
pub(super) struct Interface {
    number: u32,
    name: String,
    stories: Stories,
    /// The router is the cloud's load balancer: what its engine takes for a Service is one, and its pods are nodes.
    balances: bool,
}

impl Trace {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { section: Section::new(Vec::new())?, passages: None })
    }

    pub(super) fn describe(&mut self, name: &str, balances: bool) -> io::Result<Interface> {
        let number = self.section.describe(name, RAW)?;
        Ok(Interface { number, name: name.to_owned(), stories: Stories::new(), balances })
    }

    /// What was written so far, as a whole capture.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.section.finish()
    }

    /// Keeps passages from now on.
    pub(super) fn witness(&mut self) {
        self.passages.get_or_insert_default();
    }

    /// Those that were kept since this was last asked for.
    pub(super) fn take_passages(&mut self) -> Vec<Passage> {
        self.passages.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What a router did with a packet that came as `came` and, if it went on, left as `left`.
    pub(super) fn passage(
        &mut self,
        now: Instant,
        at: &Interface,
        engine: &Engine,
        verdict: Verdict,
        came: &[u8],
        left: Option<&[u8]>,
    ) {
        let Some(passages) = &mut self.passages else { return };
        passages.push(Passage {
            time: now,
            router: at.name.clone(),
            verdict,
            came: came.to_vec(),
            left: left.map(<[u8]>::to_vec),
            path: at.path(engine, verdict),
        });
    }

    /// A packet as it came in, with the story of its end if it goes no further.
    pub(super) fn inbound(&mut self, now: Instant, at: &mut Interface, packet: &[u8], end: &str) {
        self.write(now, at.number, Direction::Inbound, packet, end);
    }

    /// A packet as it goes out.
    pub(super) fn outbound(&mut self, now: Instant, at: &mut Interface, packet: &[u8], story: &str) {
        self.write(now, at.number, Direction::Outbound, packet, story);
    }

    fn write(&mut self, now: Instant, interface: u32, direction: Direction, packet: &[u8], comment: &str) {
        let time = Some(START.saturating_add(now.as_nanos()));
        let original_length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let record = Record { time, link_type: RAW, original_length, data: packet };
        // Into memory, and no packet is longer than its own length field can say.
        let written = self.section.write(interface, Some(direction), &record, comment);
        debug_assert!(written.is_ok(), "{written:?}");
    }
}

impl Interface {
    /// The layers that a flow opened here.
    fn path(&self, engine: &Engine, verdict: Verdict) -> Option<Path> {
        let Verdict::Forward { flow, .. } = verdict else { return None };
        let path = engine.with(|balancer| story::flow_path(balancer.rules(), &balancer.flow(flow)?));
        if self.balances { path.map(Passage::balanced) } else { path }
    }

    /// What the engine did with a packet that came as `packet`.
    pub(super) fn story(&mut self, engine: &Engine, verdict: Verdict, origin: Origin, packet: &[u8]) -> String {
        let stories = &mut self.stories;
        engine.with(|balancer| {
            let flow = match verdict {
                Verdict::Forward { flow, .. } => balancer.flow(flow),
                _ => None,
            };
            let event = Event { verdict, flow: flow.as_ref(), packet, link: Some(Link::Ip), origin };
            let rules: &RuleTable<Vec<u8>> = balancer.rules();
            let story = stories.of(&event, rules);
            match self.balances {
                true => story.replace("\nservice ", "\nlb ").replace(" -> pod ", " -> node "),
                false => story.to_owned(),
            }
        })
    }
}
