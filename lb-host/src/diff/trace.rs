//! The flows of a capture, judged by both sides.

use std::collections::BTreeSet;
use std::io::Read;

use lb_core::pick::Scheduler;
use lb_core::wire::{self, Content};
use lb_core::{Address, Balancer, Block, Config, Instant, Link, Meta, Origin, Packet, Sizes, Tuple, Verdict, blocks};
use serde::Serialize;

use super::fate::ask;
use super::probe::{Aim, Probe};
use super::{FateChange, Side};
use crate::device::capture::{ReadError, Reader};
use crate::device::link::engine_part;
use crate::dialled;
use crate::listing::label;
use crate::path::socket;

/// What a capture's flows come to.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// Flows that begin in it, each asked about once, by its first packet.
    pub flows: u64,
    /// Those that the two sides judge differently.
    pub differing: Vec<TraceFlow>,
}

/// A flow that meets another fate.
#[derive(Clone, Debug, Serialize)]
pub struct TraceFlow {
    /// The number of its first packet in the capture, from 1.
    pub frame: u64,
    /// Its fate on both sides; none if only the endpoint is another.
    pub fate: Option<FateChange>,
    /// The endpoint, where both choose one by a hash, and not the same.
    pub moved: Option<Moved>,
}

/// A flow that another endpoint serves.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// The flow's first packet, in words.
    pub packet: String,
    /// The service port.
    pub service: String,
    /// Its endpoint on the first side.
    pub before: String,
    /// Its endpoint on the second.
    pub after: String,
    /// Whether the endpoint is gone, so that the flow had to move.
    pub forced: bool,
}

/// Flows that one side tracks to see which endpoints they get, of each family.
const TRACKED: u32 = 65_536;

/// Asks both sides about every flow of a capture. Packets are taken for the wire's: a source that is the node's own
/// address is the node's all the same.
///
/// # Errors
/// The capture cannot be read to its end.
pub fn trace(input: impl Read, before: &Side<'_>, after: &Side<'_>, seed: u64) -> Result<Trace, ReadError> {
    let mut reader = Reader::new(input)?;
    let (mut seen, mut frame) = (BTreeSet::new(), 0);
    let mut trace = Trace { flows: 0, differing: Vec::new() };
    let mut memories = [(); 2].map(|()| vec![Block::ZERO; blocks(sizes(before, after))]);
    let [ours, theirs] = &mut memories;
    let mut engines = [engine(before, after, before, seed, ours), engine(before, after, after, seed, theirs)];
    while let Some(record) = reader.next_record()? {
        frame += 1;
        let Some((strip, link)) = engine_part(record.link_type, record.data) else { continue };
        let Some(tuple) = record.data.get(strip..).and_then(|data| first_of_flow(data, link)) else { continue };
        // Replies are of the flow that they answer.
        if seen.contains(&tuple.reversed()) || !seen.insert(tuple) {
            continue;
        }
        trace.flows += 1;
        let fate = ask(before, after, &probe(before, after, tuple));
        let moved = if fate.is_none() { moved(&mut engines, before, after, &tuple) } else { None };
        if fate.is_some() || moved.is_some() {
            trace.differing.push(TraceFlow { frame, fate, moved });
        }
    }
    Ok(trace)
}

/// The tuple of a packet that can be a flow's, or a ping.
fn first_of_flow(data: &[u8], link: Link) -> Option<Tuple> {
    let headers = wire::parse(data, link).ok()??;
    let is_flow = match headers.content {
        Content::Tcp(_) | Content::Udp | Content::Sctp(_) | Content::EchoRequest => true,
        Content::LaterFragment | Content::Error(_) | Content::Other => false,
    };
    is_flow.then_some(headers.tuple)
}

fn probe(before: &Side<'_>, after: &Side<'_>, tuple: Tuple) -> Probe {
    let asked = [before, after].map(|side| side.rules.decide(&tuple, Origin::Wire));
    let class = asked.iter().find_map(|decision| decision.class);
    let aim = match class {
        Some(class) => Aim::Dial(class),
        None if !tuple.protocol.has_ports() => Aim::Ping,
        None if has_address(before, tuple.destination) || has_address(after, tuple.destination) => Aim::Unmatched,
        None => Aim::Unallocated,
    };
    let source = crate::explain::source_word(asked[0].source.kind);
    Probe { source, aim, tuple, origin: Origin::Wire }
}

fn has_address(side: &Side<'_>, address: Address) -> bool {
    side.rules.segments().any(|(_, segment)| segment.vips().any(|vip| vip.address == address))
}

fn sizes(before: &Side<'_>, after: &Side<'_>) -> Sizes {
    let slots = |side: &Side<'_>| side.rules.segments().map(|(slot, _)| slot + 1).max().unwrap_or(0);
    let services = slots(before).max(slots(after));
    Sizes { v4_flows: TRACKED, v6_flows: TRACKED, services, affinity: TRACKED, backends: 0, fragments: 1 }
}

type Engine<'m, 'r> = Balancer<'m, &'r [u8]>;

fn engine<'m, 'r>(
    before: &Side<'_>,
    after: &Side<'_>,
    side: &Side<'r>,
    seed: u64,
    memory: &'m mut [Block],
) -> Option<Engine<'m, 'r>> {
    Balancer::new(Config::new([0; 16], seed), sizes(before, after), memory, side.rules.view()).ok()
}

/// Another endpoint than before, where a hash decides on both sides: any other choice differs from run to run.
fn moved(
    engines: &mut [Option<Engine<'_, '_>>; 2],
    before: &Side<'_>,
    after: &Side<'_>,
    tuple: &Tuple,
) -> Option<Moved> {
    let hashed = |side: &Side<'_>| {
        let scheduler = side.rules.decide(tuple, Origin::Wire).service?.1.scheduler();
        [Scheduler::Maglev, Scheduler::SourceHash, Scheduler::DestinationHash].contains(&scheduler).then_some(())
    };
    hashed(before).and(hashed(after))?;
    let [ours, theirs] = engines;
    let (old, new) = (backend(ours.as_mut()?, tuple)?, backend(theirs.as_mut()?, tuple)?);
    let (_, segment) = after.rules.decide(tuple, Origin::Wire).service?;
    (old != new).then(|| Moved {
        packet: tuple.to_string(),
        service: label(&segment),
        before: socket(old.0, old.1),
        after: socket(new.0, new.1),
        forced: segment.find_backend(old.0, old.1).is_none(),
    })
}

fn backend(engine: &mut Engine<'_, '_>, tuple: &Tuple) -> Option<(Address, u16)> {
    let mut bytes = dialled::packet(tuple);
    let meta = Meta { link: Link::Ip, ..Meta::default() };
    match engine.process(Instant::ORIGIN, &mut Packet::new(&mut bytes, meta)) {
        Verdict::Forward { flow, .. } => engine.flow(flow).map(|flow| (flow.reply.source, flow.reply.source_port)),
        _ => None,
    }
}
