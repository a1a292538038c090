//! A balancer on a bench: objects in, packets through it, verdicts in words.

use std::fmt;

use lb_core::Datagram;
use lb_core::control::{Control, Node, Service, Slice};
use lb_core::rules::Room;
use lb_core::{
    Balancer, Block, Config, Direction, Instant, Link, Meta, Origin, Packet, RuleTable, Sizes, Verdict, blocks,
};

use super::{cluster, frames};

pub type Engine = Balancer<'static, Vec<u8>>;

pub const SIZES: Sizes = Sizes { v4_flows: 64, v6_flows: 64, services: 32, affinity: 0, backends: 64, fragments: 16 };
pub const ROOM: Room = Room { services: 32, vips: 128, segments: 1 << 17 };

pub fn config() -> Config {
    Config::new(*b"a key for tests.", 7)
}

/// An engine with an empty, updatable rule table.
pub fn engine(config: Config, sizes: Sizes) -> Engine {
    let rules = RuleTable::with_room(vec![0; ROOM.bytes()], ROOM).unwrap();
    Balancer::new(config, sizes, vec![Block::ZERO; blocks(sizes)].leak(), rules).unwrap()
}

/// A control plane and an engine that follows it.
pub struct Lab {
    pub control: Control,
    pub engine: Engine,
    /// Milliseconds.
    pub now: u64,
}

impl Lab {
    pub fn new(node: Node, objects: impl IntoIterator<Item = (Service, Slice)>) -> Self {
        Self::with(config(), SIZES, node, objects)
    }

    pub fn with(config: Config, sizes: Sizes, node: Node, objects: impl IntoIterator<Item = (Service, Slice)>) -> Self {
        let mut lab = Self { control: Control::new(node), engine: engine(config, sizes), now: 0 };
        for (service, slice) in objects {
            lab.control.put_service(service);
            lab.control.put_slice(slice);
        }
        lab.update();
        lab
    }

    /// The small cluster with `web` served by these endpoints.
    pub fn web(endpoints: &[&str]) -> Self {
        Self::new(cluster::node(), [cluster::web(endpoints)])
    }

    /// Hands what changed in the objects to the engine.
    pub fn update(&mut self) {
        let mut delta = Vec::new();
        if self.control.delta(&mut delta).unwrap() {
            self.engine.apply_rules(&delta).unwrap();
        }
    }

    pub fn put(&mut self, (service, slice): (Service, Slice)) {
        self.control.put_service(service);
        self.control.put_slice(slice);
        self.update();
    }

    pub fn instant(&self) -> Instant {
        Instant::from_nanos(self.now * 1_000_000)
    }

    pub fn send(&mut self, frame: &[u8]) -> Sent {
        self.send_as(frame, Meta::default())
    }

    /// A packet that the node itself sends.
    pub fn send_own(&mut self, frame: &[u8]) -> Sent {
        self.send_as(frame, Meta { origin: Origin::Node, ..Meta::default() })
    }

    /// Sends a packet through. Whatever is not forwarded must come out as it went in.
    pub fn send_as(&mut self, frame: &[u8], meta: Meta) -> Sent {
        let mut bytes = frame.to_vec();
        let mut packet = Packet::new(&mut bytes, meta);
        let verdict = self.engine.process(self.instant(), &mut packet);
        assert_eq!(packet.verdict, verdict);
        let releases = packet.releases;
        if !matches!(verdict, Verdict::Forward { .. }) {
            assert!(bytes == frame, "{verdict:?} must leave the bytes alone");
        }
        Sent { verdict, frame: bytes, releases, has_link: meta.link == Link::Ethernet }
    }

    pub fn kind(&mut self, kind: &str, from: &str, to: &str) -> Sent {
        self.send(&frames::frame(kind, from, to))
    }
}

/// What became of a packet.
pub struct Sent {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    pub releases: Option<Datagram>,
    has_link: bool,
}

impl Sent {
    /// The source port with which it left.
    pub fn source_port(&self) -> u16 {
        let text = self.to_string();
        let source = text.split(' ').nth(1).expect("forwarded");
        source.parse::<std::net::SocketAddr>().expect(source).port()
    }
}

/// `-> source > destination` of a forwarded packet (`<-` of a reply) whose checksums are right, else the
/// verdict's word.
impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Forward { direction: Direction::Original, .. } => {
                write!(f, "-> {}", frames::ends(&self.frame, self.has_link))
            }
            Verdict::Forward { direction: Direction::Reply, .. } => {
                write!(f, "<- {}", frames::ends(&self.frame, self.has_link))
            }
            verdict => f.write_str(Verdict::label(verdict.code()).expect("a word for every verdict")),
        }
    }
}
