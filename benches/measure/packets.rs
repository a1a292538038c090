//! Streams of packets, a turn of which is measured at a time: known flows, new ones, and packets of no service.

use lb_core::{Direction, Instant, Meta, Packet, Tuple, Verdict};

use crate::duel::{median, timed};
use crate::shared::frames::{Kind, Ring, address, prototype};
use crate::shared::rig::{Frames, Mix, RING, Rig, Share, dial, process};
use crate::shared::{Random, client};

/// Rings a turn.
const ROUNDS: usize = 400;
const SECOND: u64 = 1_000_000_000;

/// The receive ring's packets; the ring lives until the process ends.
pub(crate) fn ring(length: usize) -> Vec<Packet<'static>> {
    let ring: &'static mut Ring = Box::leak(Box::new(Ring::new(RING)));
    ring.frames(length).map(|data| Packet::new(data, Meta::default())).collect()
}

/// A balancer and frames for it, again and again.
pub(crate) struct Traffic {
    pub(crate) rig: Rig,
    frames: Frames,
    pub(crate) packets: Vec<Packet<'static>>,
    pub(crate) at: usize,
    one_at_a_time: bool,
    expected: fn(&Verdict) -> bool,
}

impl Traffic {
    pub(crate) fn new(rig: Rig, frames: Frames, expected: fn(&Verdict) -> bool) -> Self {
        let packets = ring(frames.length);
        Self { rig, frames, packets, at: 0, one_at_a_time: false, expected }
    }

    /// Packets that all leave.
    pub(crate) fn forwarded((rig, frames): (Rig, Frames)) -> Self {
        Self::new(rig, frames, |verdict| matches!(verdict, Verdict::Forward { .. }))
    }

    /// Packets of known flows, both ways, in random order.
    pub(crate) fn known(mix: Mix, services: usize) -> Self {
        Self::of(mix, services, &[Direction::Original, Direction::Reply])
    }

    pub(crate) fn replies(mix: Mix) -> Self {
        Self::of(mix, crate::shared::rig::SERVICES, &[Direction::Reply])
    }

    fn of(mix: Mix, services: usize, ways: &[Direction]) -> Self {
        Self::among(Rig::new(mix, services), mix, ways)
    }

    /// Packets of a rig's flows, these ways, in random order.
    pub(crate) fn among(rig: Rig, mix: Mix, ways: &[Direction]) -> Self {
        let tuple = |flow: &lb_core::Flow, way| if way == Direction::Original { flow.original } else { flow.reply };
        let mut tuples: Vec<Tuple> =
            rig.flows.iter().flat_map(|flow| ways.iter().map(|way| tuple(flow, *way))).collect();
        Random(1).shuffle(&mut tuples);
        let frames = Frames::new(crate::kind(mix), mix.v4, tuples.into_iter());
        Self::forwarded((rig, frames))
    }

    pub(crate) fn one_at_a_time(self) -> Self {
        Self { one_at_a_time: true, ..self }
    }

    pub(crate) fn refresh(&mut self) {
        for packet in &mut self.packets {
            packet.data.copy_from_slice(&self.frames.bytes[self.at..][..self.frames.length]);
            self.at = (self.at + self.frames.length) % self.frames.bytes.len();
        }
    }

    /// Nanoseconds a packet, the median of a turn's rings.
    pub(crate) fn turn(&mut self) -> f64 {
        median(self.rings(ROUNDS))
    }

    /// Nanoseconds a packet of each of these rings.
    pub(crate) fn rings(&mut self, rings: usize) -> Vec<f64> {
        let mut figures = Vec::with_capacity(rings);
        for _ in 0..rings {
            self.refresh();
            let (balancer, packets) = (&mut self.rig.balancer, &mut self.packets);
            let time = if self.one_at_a_time {
                timed(|| {
                    for packet in packets.iter_mut() {
                        let _ = balancer.process(Instant::ORIGIN, packet);
                    }
                })
            } else {
                timed(|| process(balancer, Instant::ORIGIN, packets))
            };
            figures.push(time / RING as f64);
        }
        assert!(self.packets.iter().all(|packet| (self.expected)(&packet.verdict)), "not what was to be measured");
        figures
    }
}

/// First packets of flows, each from a client not seen before, while others live. Between two rings the flows of the
/// last one are forgotten, so that their number stays.
pub(crate) struct Newcomers {
    rig: Rig,
    mix: Mix,
    services: usize,
    packets: Vec<Packet<'static>>,
    now: u64,
    client: usize,
}

impl Newcomers {
    pub(crate) fn new(mix: Mix, services: usize) -> Self {
        let packets = ring(prototype(first(mix), mix.v4).len());
        Self {
            rig: Rig::new(mix, services),
            mix,
            services,
            packets,
            now: 0,
            client: mix.flows.next_multiple_of(1 << 16),
        }
    }

    pub(crate) fn turn(&mut self) -> f64 {
        median(self.rings(ROUNDS / 4))
    }

    pub(crate) fn rings(&mut self, rings: usize) -> Vec<f64> {
        let (first, mut random) = (prototype(first(self.mix), self.mix.v4), Random(self.client as u64));
        let mut figures = Vec::new();
        for _ in 0..rings {
            self.now += 2 * SECOND;
            let now = Instant::from_nanos(self.now);
            for packet in &mut self.packets {
                if let Verdict::Forward { flow, .. } = packet.verdict {
                    self.rig.forget(now, flow);
                }
                let destination = crate::shared::cluster_ip(random.below(self.services), self.mix.v4);
                packet.data.copy_from_slice(&first);
                address(packet.data, &Tuple { destination, ..dial(self.mix, self.client) });
                // Ports wrap around long after the flows of the last round are gone.
                self.client = if self.client >> 16 < 60_000 { self.client + 1 } else { 1 << 24 };
            }
            figures.push(timed(|| process(&mut self.rig.balancer, now, &mut self.packets)) / RING as f64);
        }
        let begun =
            |packet: &Packet<'_>| matches!(packet.verdict, Verdict::Forward { direction: Direction::Original, .. });
        assert!(self.packets.iter().all(begun), "not what was to be measured");
        figures
    }
}

/// How a flow begins.
fn first(mix: Mix) -> Kind {
    if mix.udp { Kind::Datagram } else { Kind::Syn }
}

/// Packets between addresses of no service.
pub(crate) struct Strangers(pub(crate) Traffic);

impl Strangers {
    pub(crate) fn new(services: usize) -> Self {
        let mix = Mix { v4: true, udp: false, masquerade: Share::Half, flows: 1000 };
        let mut random = Random(2);
        let tuples = (0..16_384).map(|number| Tuple {
            destination: client(false, random.next() as u16, true),
            source_port: random.next() as u16 | 1024,
            ..dial(mix, number)
        });
        let frames = Frames::new(Kind::Ack, true, tuples);
        Self(Traffic::new(Rig::new(mix, services), frames, |verdict| *verdict == Verdict::Pass))
    }

    pub(crate) fn turn(&mut self) -> f64 {
        self.0.turn()
    }
}

/// What no packet path can beat: swapping the MAC addresses of each frame.
pub(crate) struct Floor(Vec<Packet<'static>>);

impl Floor {
    pub(crate) fn new() -> Self {
        Self(ring(prototype(Kind::Ack, true).len()))
    }

    pub(crate) fn turn(&mut self) -> f64 {
        median(self.rings(ROUNDS))
    }

    pub(crate) fn rings(&mut self, rings: usize) -> Vec<f64> {
        let swap = |packets: &mut [Packet<'_>]| {
            for packet in packets {
                if let Some((one, other)) = packet.data.split_at_mut_checked(6) {
                    one.swap_with_slice(&mut other[..6]);
                }
            }
        };
        (0..rings).map(|_| timed(|| swap(&mut self.0)) / RING as f64).collect()
    }
}

/// What memory takes: a random line out of this many, read and written.
pub(crate) struct Lines {
    lines: Vec<Line>,
    order: Vec<u32>,
    at: usize,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u32; 16]);

impl Lines {
    pub(crate) fn new(count: usize) -> Self {
        let mut random = Random(4);
        let order = (0..RING * 4096).map(|_| random.below(count) as u32).collect();
        Self { lines: vec![Line::default(); count], order, at: 0 }
    }

    /// Nanoseconds a line.
    pub(crate) fn turn(&mut self) -> f64 {
        let ring = |_| {
            let ring = &self.order[self.at..][..RING];
            self.at = (self.at + RING) % self.order.len();
            timed(|| {
                for number in ring {
                    self.lines[*number as usize].0[0] += 1;
                }
            }) / RING as f64
        };
        median((0..ROUNDS).map(ring).collect())
    }
}
