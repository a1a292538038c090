//! A balancer with established flows, and frames of them in a receive ring.

use std::cell::RefCell;

use lb_core::{
    Balancer, Block, Config, Flow, Instant, Meta, Packet, Protocol, RuleTable, Sizes, Timeouts, Tuple, Verdict, blocks,
};

use super::frames::{BATCH, Kind, address, prototype};
use super::{Shape, cluster};

/// Buffers of the receive ring: few enough that headers stay in the second-level cache, many enough that
/// reading the clock costs nothing.
pub(crate) const RING: usize = 256;
/// Services that flows dial.
pub(crate) const SERVICES: usize = 10;

/// What the flows of a table are like.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) v4: bool,
    pub(crate) udp: bool,
    pub(crate) masquerade: Share,
    pub(crate) flows: usize,
}

/// How many of something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    None,
    Half,
    All,
}

impl Mix {
    pub(crate) fn masquerades(self, number: usize) -> bool {
        match self.masquerade {
            Share::None => false,
            Share::Half => number % 2 == 1,
            Share::All => true,
        }
    }
}

/// A balancer with established flows.
pub(crate) struct Rig {
    pub(crate) balancer: Balancer<'static, Vec<u8>>,
    pub(crate) flows: Vec<Flow>,
}

impl Rig {
    pub(crate) fn new(mix: Mix, services: usize) -> Self {
        Self::of(mix, services, Shape::Dual)
    }

    pub(crate) fn of(mix: Mix, services: usize, shape: Shape) -> Self {
        Self::with_room(mix, services, shape, RING)
    }

    /// With room for as many flows more.
    pub(crate) fn with_room(mix: Mix, services: usize, shape: Shape, room: usize) -> Self {
        let (v4, room) = (mix.v4, (mix.flows + room) as u32);
        let sizes = Sizes {
            v4_flows: if v4 { room } else { 0 },
            v6_flows: if v4 { 0 } else { room },
            services: services as u32 * 4,
            affinity: 0,
            backends: 0,
            fragments: 1,
        };
        // Those established stay; those that `new` begins can be forgotten soon.
        let timeouts = Timeouts {
            tcp_established: std::time::Duration::from_secs(300 * 86_400),
            udp_stream: std::time::Duration::from_secs(300 * 86_400),
            tcp_syn_sent: std::time::Duration::from_secs(1),
            udp_unreplied: std::time::Duration::from_secs(1),
            ..Timeouts::LINUX
        };
        let config = Config { timeouts, ..Config::new([7; 16], 7) };
        let rules = RuleTable::load(cluster(services, shape).image().expect("it compiles")).expect("its own image");
        // Every rig lives until the process ends.
        let memory = vec![Block::ZERO; blocks(sizes)].leak();
        let balancer = Balancer::new(config, sizes, memory, rules).expect("memory as it asks for");
        let mut rig = Self { balancer, flows: Vec::with_capacity(mix.flows) };
        for number in 0..mix.flows {
            let flow = rig.establish(mix, number);
            rig.flows.push(flow);
        }
        assert_eq!(rig.balancer.counters().flows_created, mix.flows as u64);
        rig
    }

    /// A connection both of whose ends have been heard.
    pub(crate) fn establish(&mut self, mix: Mix, number: usize) -> Flow {
        let dialled = dial(mix, number);
        let (syn, answer, ack) =
            if mix.udp { (Kind::Datagram, Kind::Datagram, None) } else { (Kind::Syn, Kind::SynAck, Some(Kind::Ack)) };
        let flow = self.send(syn, mix.v4, &dialled);
        assert_eq!(flow.masqueraded, mix.masquerades(number));
        let _ = self.send(answer, mix.v4, &flow.reply);
        if let Some(ack) = ack {
            let _ = self.send(ack, mix.v4, &dialled);
        }
        flow
    }

    pub(crate) fn send(&mut self, kind: Kind, v4: bool, tuple: &Tuple) -> Flow {
        self.send_at(Instant::ORIGIN, kind, v4, tuple)
    }

    pub(crate) fn send_at(&mut self, now: Instant, kind: Kind, v4: bool, tuple: &Tuple) -> Flow {
        let mut frame = prototype(kind, v4);
        address(&mut frame, tuple);
        match self.balancer.process(now, &mut Packet::new(&mut frame, Meta::default())) {
            Verdict::Forward { flow, .. } => self.balancer.flow(flow).expect("a flow that a packet just had"),
            other => panic!("{tuple} was not forwarded: {other:?}"),
        }
    }

    /// Ends an expired flow: a packet from its backend finds it too old, and is nobody's.
    pub(crate) fn forget(&mut self, now: Instant, flow: lb_core::FlowId) {
        let flow = self.balancer.flow(flow).expect("a flow of the last round");
        let kind = if flow.reply.protocol == Protocol::UDP { Kind::Datagram } else { Kind::Ack };
        let mut frame = prototype(kind, flow.reply.source.family() == lb_core::Family::V4);
        address(&mut frame, &flow.reply);
        let verdict = self.balancer.process(now, &mut Packet::new(&mut frame, Meta::default()));
        assert_eq!(verdict, Verdict::Pass);
    }
}

/// What the client of this number dials: no two alike, 65,536 clients, each from a range of ports.
pub(crate) fn dial(mix: Mix, number: usize) -> Tuple {
    Tuple {
        source: super::client(!mix.masquerades(number), number as u16, mix.v4),
        destination: super::cluster_ip(number % SERVICES, mix.v4),
        source_port: 1024 + (number >> 16) as u16,
        destination_port: if mix.udp { super::UDP_PORT } else { super::TCP_PORT },
        protocol: if mix.udp { Protocol::UDP } else { Protocol::TCP },
        zone: 0,
    }
}

/// A frame for each tuple, one after the other in one stretch of memory.
pub(crate) struct Frames {
    pub(crate) bytes: Vec<u8>,
    pub(crate) length: usize,
}

impl Frames {
    pub(crate) fn new(kind: Kind, v4: bool, tuples: impl Iterator<Item = Tuple>) -> Self {
        let prototype = prototype(kind, v4);
        let mut bytes = Vec::new();
        for tuple in tuples {
            let at = bytes.len();
            bytes.extend(&prototype);
            address(&mut bytes[at..], &tuple);
        }
        Self { bytes, length: prototype.len() }
    }

    /// All of them, over and over.
    pub(crate) fn cycle(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.length).cycle()
    }
}

pub(crate) fn packets<'r>(frames: impl Iterator<Item = &'r mut [u8]>) -> RefCell<Vec<Packet<'r>>> {
    RefCell::new(frames.map(|data| Packet::new(data, Meta::default())).collect())
}

/// Fills the ring.
pub(crate) fn refresh<'f>(packets: &mut [Packet<'_>], frames: &mut impl Iterator<Item = &'f [u8]>) {
    for (packet, frame) in packets.iter_mut().zip(frames) {
        packet.data.copy_from_slice(frame);
    }
}

pub(crate) fn process(balancer: &mut Balancer<'_, Vec<u8>>, now: Instant, packets: &mut [Packet<'_>]) {
    for batch in packets.chunks_mut(BATCH) {
        balancer.process_batch(now, batch);
    }
}
