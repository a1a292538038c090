//! A slow and obvious model of flows and translation, written from the specification, and the engine beside it.
//!
//! The model has a list of services, a list of flows, and builds every packet anew with all its checksums. What it can't know
//! (which backend, which port) it takes from the engine and holds it to. UDP's lifetimes are exact; a TCP or SCTP flow surely
//! lives for the shortest lifetime of its protocol's states and surely not past the longest, and between the two the engine may
//! say.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lb_core::control::Mode;
use lb_core::pick::Scheduler;
use lb_core::wire::parse;
use lb_core::{
    Address, Balancer, Block, Config, Direction, Instant, Link, Meta, Packet, Protocol, RuleTable, Sizes, Tuple,
    Verdict, blocks,
};

use super::cluster::{cluster, ip};
use super::packets::Spec;

/// Octets of an operation.
pub const OPERATION: usize = 4;

/// More than an input can begin: nothing is evicted.
const SIZES: Sizes = Sizes { v4_flows: 256, v6_flows: 256, services: 64, affinity: 0, backends: 8, fragments: 1 };

/// Sixteenths of a second, in which the engine counts.
const TICK: u64 = 1_000_000_000 / 16;

static IMAGE: LazyLock<Vec<u8>> =
    LazyLock::new(|| cluster(Mode::IPTABLES, Scheduler::Random).image().expect("a small cluster compiles"));

/// The service `all/kinds`, in both families: what is dialled, and whether a Pod of this node keeps its address (§8.1).
const DIALLED: [(&str, &str, bool); 5] = [
    ("10.96.0.10", "2001:db8:96::a", true),
    ("203.0.113.20", "2001:db8:10::20", false),
    ("203.0.113.10", "2001:db8:10::10", false),
    // With node ports.
    ("192.0.2.1", "2001:db8:1::1", false),
    // Nobody's.
    ("198.51.100.200", "2001:db8:9::9", false),
];
const NODE: usize = 3;
const NOBODY: usize = 4;
/// A Pod of this node, which is a backend too; a Pod of another node; the node; somebody outside.
const CLIENTS: [(&str, &str); 4] = [
    ("10.244.0.2", "2001:db8:244::2"),
    ("10.244.1.3", "2001:db8:244:1::3"),
    ("192.0.2.1", "2001:db8:1::1"),
    ("198.51.100.7", "2001:db8:7::7"),
];
const PODS: [(&str, &str); 3] =
    [("10.244.0.2", "2001:db8:244::2"), ("10.244.1.3", "2001:db8:244:1::3"), ("10.244.1.4", "2001:db8:244:1::4")];
/// In whose name a flow to a Pod is masqueraded.
const MASQUERADE: (&str, &str) = ("10.244.0.1", "2001:db8:1::1");
/// Port, node port and the Pods' port.
const PORTS: [(Protocol, u16, u16, u16); 3] =
    [(Protocol::TCP, 8081, 30_080, 8080), (Protocol::UDP, 53, 30_081, 5353), (Protocol::SCTP, 8081, 30_082, 8080)];

fn of(pair: (&str, &str), v6: bool) -> Address {
    ip(if v6 { pair.1 } else { pair.0 })
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    original: Tuple,
    reply: Tuple,
    /// Ticks of its last packet.
    last: u64,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Surely,
    Perhaps,
    Over,
}

impl Flow {
    fn life(&self, now: u64) -> Life {
        let idle = (now - self.last) / 16;
        let (least, most) = match self.original.protocol {
            Protocol::UDP if self.answered => (120, 120),
            Protocol::UDP => (30, 30),
            // Without FIN and RST: SYN received, established.
            Protocol::TCP => (60, 86_400),
            _ => (3, 210),
        };
        match idle {
            idle if idle < least => Life::Surely,
            idle if idle < most => Life::Perhaps,
            _ => Life::Over,
        }
    }
}

/// Plays these operations to both.
pub fn run(input: &[u8]) {
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let rules = RuleTable::load(IMAGE.as_slice()).expect("its own image");
    let engine = Balancer::new(Config::new([9; 16], 9), SIZES, &mut memory, rules).expect("enough memory");
    let mut pair = Pair { engine, flows: Vec::new(), now: 0 };
    for operation in input.chunks_exact(OPERATION).take(200) {
        let [what, a, b, c] = *operation else { continue };
        match what % 8 {
            0..=3 => pair.send(dialled(a, b, c), c),
            4 | 5 if !pair.flows.is_empty() => {
                let flow = pair.flows[usize::from(a) % pair.flows.len()];
                pair.send(if b & 1 == 0 { flow.original } else { flow.reply }, c);
            }
            6 => pair.now += u64::from(a) << (b % 14),
            _ => {
                let _ = pair.engine.expire(Instant::from_nanos(pair.now * TICK), a.into());
            }
        }
    }
}

fn dialled(a: u8, b: u8, c: u8) -> Tuple {
    let (v6, vip) = (a & 0x80 != 0, usize::from(b & 7) % DIALLED.len());
    let (protocol, port, node_port, _) = PORTS[usize::from(b >> 3) % PORTS.len()];
    let (one, other, _) = DIALLED[vip];
    Tuple {
        source: of(CLIENTS[usize::from(a & 3)], v6),
        destination: of((one, other), v6),
        // Also the Pods' own ports, so that what is sent may look like an answer.
        source_port: [40_000, 40_001, 8080, 5353][usize::from(c >> 6)],
        destination_port: if vip == NODE { node_port } else { port },
        protocol,
        zone: 0,
    }
}

struct Pair<'m> {
    engine: Balancer<'m, &'static [u8]>,
    flows: Vec<Flow>,
    now: u64,
}

impl Pair<'_> {
    fn send(&mut self, tuple: Tuple, c: u8) {
        // SYN, SYN+ACK or ACK; an INIT, a COOKIE ECHO, DATA.
        let flags = match tuple.protocol {
            Protocol::SCTP => [1, 10, 0, 0][usize::from(c & 3)],
            _ => [0x02, 0x12, 0x10, 0x18][usize::from(c & 3)],
        };
        let checksum = c & 4 == 0 || !tuple.source.is_v4();
        let spec = Spec { payload: usize::from(c >> 3 & 7), checksum, ..Spec::new(tuple, flags) };
        let mut data = spec.packet();
        let meta = Meta { link: Link::Ip, ..Meta::default() };
        let verdict = self.engine.process(Instant::from_nanos(self.now * TICK), &mut Packet::new(&mut data, meta));

        self.flows.retain(|flow| flow.life(self.now) != Life::Over);
        let is_its = |flow: &Flow| flow.original == tuple || flow.reply == tuple;
        if let Some(at) = self.flows.iter().position(is_its) {
            let flow = self.flows[at];
            let (direction, leaves) = match flow.original == tuple {
                true => (Direction::Original, flow.reply.reversed()),
                false => (Direction::Reply, flow.original.reversed()),
            };
            let goes = matches!(verdict, Verdict::Forward { direction: went, .. } if went == direction);
            let as_it_should = goes && data == Spec { tuple: leaves, ..spec }.packet();
            if as_it_should {
                self.flows[at].last = self.now;
                self.flows[at].answered |= direction == Direction::Reply;
                return;
            }
            assert_eq!(flow.life(self.now), Life::Perhaps, "{verdict:?} of {tuple}, a packet of {flow:?}");
            self.flows.remove(at);
        }
        self.begin(spec, verdict, &data);
    }

    /// What becomes of a packet of no flow.
    fn begin(&mut self, spec: Spec, verdict: Verdict, data: &[u8]) {
        let tuple = spec.tuple;
        let Some((keeps, port)) = service(&tuple) else {
            assert_eq!((verdict, data), (Verdict::Pass, spec.packet().as_slice()), "{tuple} dials nobody");
            return;
        };
        assert!(matches!(verdict, Verdict::Forward { direction: Direction::Original, .. }), "{verdict:?} of {tuple}");
        let left = parse(data, Link::Ip).expect("well-formed").expect("an IP packet").tuple;
        let v6 = !tuple.source.is_v4();
        assert!(PODS.iter().any(|pod| of(*pod, v6) == left.destination), "{tuple} to no backend: {left}");
        assert_eq!(left.destination_port, port, "{tuple} to another port: {left}");

        let from_pod = tuple.source == of(CLIENTS[0], v6);
        let masquerade = !(keeps && from_pod) || left.destination == tuple.source;
        let source = if masquerade { of(MASQUERADE, v6) } else { tuple.source };
        assert_eq!(left.source, source, "{tuple} in another's name: {left}");
        assert_eq!(data, Spec { tuple: left, ..spec }.packet(), "{tuple}: other than its headers");

        let reply = left.reversed();
        let taken: BTreeSet<Tuple> = self
            .flows
            .iter()
            .filter(|flow| flow.life(self.now) == Life::Surely)
            .flat_map(|flow| [flow.original, flow.reply])
            .collect();
        assert!(!taken.contains(&reply) && reply != tuple, "{tuple} answered by another flow's packets: {left}");
        if left.source_port != tuple.source_port {
            let own = Tuple { destination_port: tuple.source_port, ..reply };
            let perhaps = self.flows.iter().any(|flow| flow.original == own || flow.reply == own);
            assert!(masquerade || perhaps, "{tuple} with another port for no reason: {left}");
            assert!(
                left.source_port >= 1024 && !(30_000..=32_767).contains(&left.source_port),
                "{left}: a port of others"
            );
        }
        // What was only perhaps alive has made room.
        self.flows.retain(|flow| ![flow.original, flow.reply].iter().any(|key| *key == reply || *key == tuple));
        self.flows.push(Flow { original: tuple, reply, last: self.now, answered: false });
    }
}

/// The service port that a tuple dials: whether Pods of this node keep their address, and the Pods' port.
fn service(tuple: &Tuple) -> Option<(bool, u16)> {
    let v6 = !tuple.source.is_v4();
    let vip = DIALLED[..NOBODY].iter().position(|(one, other, _)| of((one, other), v6) == tuple.destination)?;
    let dials = |(protocol, port, node_port, _): &&(Protocol, u16, u16, u16)| {
        *protocol == tuple.protocol && tuple.destination_port == if vip == NODE { *node_port } else { *port }
    };
    PORTS.iter().find(dials).map(|(.., pod_port)| (DIALLED[vip].2, *pod_port))
}
