//! Several balancers, each fed what is steered to it from whatever queue, beside one that has all of the traffic: every flow is
//! on one core, every reply finds it, and what comes out is the same but for ports that masquerading chose.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use common::cluster::{both, node, prefix, service, slice, twins, web};
use common::frames::{self, ETHERNET, fragments, frame_with, sliced};
use common::lab::{Lab, SIZES, config};
use etherparse::TransportSlice;
use lb_core::control::{Detector, Node, Proxy, Service, Slice};
use lb_core::pick::Scheduler;
use lb_core::{
    Balancer, Config, ConfigError, Datagram, Flow, Link, Meta, Origin, RestoreError, RuleTable, Share, Sizes, Steer,
    Verdict,
};
use proptest::prelude::*;

const KEY: [u8; 16] = *b"shared by cores.";
const NODE: &str = "192.0.2.10";

/// Pods, two of which are backends too; outsiders; the node itself.
const CLIENTS: [&str; 7] = ["10.244.2.9", "10.244.2.8", "10.244.1.2", "10.244.1.3", "203.0.113.5", "203.0.113.6", NODE];

/// By ClusterIP, external IP and node port; `edge` at a port of the node's own address; `sticky` has affinity.
const VIPS: [(&str, &str); 12] = [
    ("S", "10.96.0.10:80"),
    ("udp", "10.96.0.10:53"),
    ("S", "198.51.100.7:80"),
    ("udp", "198.51.100.7:53"),
    ("S", "192.0.2.10:30080"),
    ("udp", "192.0.2.10:30053"),
    ("S", "192.0.2.10:40002"),
    ("udp", "192.0.2.10:40002"),
    ("S", "10.96.0.12:80"),
    ("udp", "10.96.0.12:53"),
    ("udp", "10.96.0.12:54"),
    ("udp", "10.244.2.200:53"),
];

fn objects() -> [(Service, Slice); 3] {
    let endpoints = ["10.244.1.2 node-a", "10.244.1.3 node-a", "10.244.2.7 node-b", "192.0.2.77 node-b"];
    let edge = Service { external_ips: both(NODE), ..service("edge", "10.96.0.11", &["tcp:40002", "udp:40002"]) };
    let ports = ["tcp:80", "udp:53"];
    let sticky = Service { affinity: Some(10_800), ..service("sticky", "10.96.0.12", &ports) };
    [
        web(&endpoints),
        (edge, slice("edge", &["tcp:8081", "udp:5354"], &endpoints)),
        (sticky, slice("sticky", &["tcp:8082", "udp:5355"], &endpoints)),
    ]
}

fn lab(node: &Node, share: Share) -> Lab {
    let sizes = Sizes { v4_flows: 512, v6_flows: 512, affinity: 64, fragments: 64, ..SIZES };
    // Each core with chances and hashes of its own.
    let config = Config { share, hash_key: [share.core as u8; 16], seed: share.core.into(), ..config() };
    Lab::with(config, sizes, node.clone(), objects())
}

/// The node, in whose eyes its own address may be a pod's: what it sends is then not masqueraded.
fn home(node_as_pod: bool) -> Node {
    let mut pods = vec![prefix("10.244.0.0/16"), prefix("fd00:244::/32")];
    if node_as_pod {
        pods.extend([prefix("192.0.2.0/24"), prefix("2001:db8:a::/64")]);
    }
    // Every core picks alike, so that cores can be compared with one.
    let proxy = Proxy { scheduler: Scheduler::Maglev, detector: Detector::Sources(pods), ..node().proxy };
    Node { proxy, ..node() }
}

/// What came of some frames, in order.
#[derive(Clone, Debug, Default)]
struct Outcome {
    words: Vec<&'static str>,
    left: Vec<Vec<u8>>,
}

/// Balancers that share the traffic; one that has all of it is the same with nobody to share with.
struct Cores {
    labs: Vec<Lab>,
    held: Vec<(u16, Datagram, Vec<u8>)>,
    handed_on: usize,
}

impl Cores {
    fn new(node: &Node, cores: u16) -> Self {
        let lab = |core| lab(node, Share { core, cores, key: KEY });
        Self { labs: (0..cores).map(lab).collect(), held: Vec::new(), handed_on: 0 }
    }

    /// Sends frames, each from the queue that `queues` names next.
    fn send(&mut self, frames: &[Vec<u8>], origin: Origin, queues: &mut impl FnMut() -> usize) -> Outcome {
        let mut outcome = Outcome::default();
        for frame in frames {
            let asked = queues() % self.labs.len();
            let core = self.labs[asked].engine.steer(frame, Link::Ethernet);
            self.judge(core, frame, origin, frames.len() > 1, &mut outcome);
        }
        outcome
    }

    fn judge(&mut self, core: u16, frame: &[u8], origin: Origin, in_pieces: bool, outcome: &mut Outcome) {
        let meta = Meta { origin, ..Meta::default() };
        let mut sent = self.labs[usize::from(core)].send_as(frame, meta);
        let releases = sent.releases;
        if let Verdict::Elsewhere(owner) = sent.verdict {
            assert!(in_pieces, "a whole packet was steered to {core} and is for {owner}");
            assert_ne!(owner, core);
            self.handed_on += 1;
            sent = self.labs[usize::from(owner)].send_as(frame, meta);
            assert_eq!(sent.releases, None, "nothing waits behind the core that fragments go to first");
            assert!(!matches!(sent.verdict, Verdict::Elsewhere(_) | Verdict::Hold(_)), "{:?}", sent.verdict);
        }
        match sent.verdict {
            Verdict::Hold(datagram) => self.held.push((core, datagram, frame.to_vec())),
            verdict => {
                outcome.words.push(Verdict::label(verdict.code()).unwrap());
                outcome.left.push(sent.frame);
            }
        }
        let Some(released) = releases else { return };
        let (go, stay) = self.held.drain(..).partition(|(at, datagram, _)| (*at, *datagram) == (core, released));
        self.held = stay;
        let go: Vec<_> = go;
        go.into_iter().for_each(|(core, _, frame)| self.judge(core, &frame, origin, in_pieces, outcome));
    }

    fn flows(&self) -> impl Iterator<Item = (u16, Flow)> {
        (0..).zip(&self.labs).flat_map(|(core, lab)| lab.engine.flows().map(move |flow| (core, flow)))
    }
}

/// Ends and payload of each frame, with `*` for a port at the node that masquerading may have chosen.
fn told(frames: &[Vec<u8>], node: IpAddr) -> Vec<String> {
    let end = |address: IpAddr, port: Option<u16>| match port {
        Some(port) if address != node => SocketAddr::new(address, port).to_string(),
        _ => address.to_string(),
    };
    let frame = |frame: &Vec<u8>| {
        let packet = sliced(frame, true);
        frames::check_checksums(&packet);
        let (source, destination) = frames::addresses(&packet);
        let (from, to, payload) = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => (Some(tcp.source_port()), Some(tcp.destination_port()), tcp.payload()),
            Some(TransportSlice::Udp(udp)) => (Some(udp.source_port()), Some(udp.destination_port()), udp.payload()),
            _ => (None, None, &[][..]),
        };
        format!("{} > {}: {payload:?}", end(source, from), end(destination, to))
    };
    frames.iter().map(frame).collect()
}

/// An error about a packet, told to its sender by this router.
fn error(about: &[u8], router: IpAddr) -> Vec<u8> {
    let sender = frames::addresses(&sliced(about, true)).0;
    let ip = frames::ethernet(frames::ip_headers(router, sender));
    let mut out = Vec::new();
    let quote = &about[ETHERNET..about.len().min(ETHERNET + 1200)];
    match router {
        IpAddr::V4(_) => ip.icmpv4_raw(11, 0, [0; 4]).write(&mut out, quote),
        IpAddr::V6(_) => ip.icmpv6_raw(3, 0, [0; 4]).write(&mut out, quote),
    }
    .unwrap();
    out
}

/// What a client and a Vip say to each other.
#[derive(Clone, Copy, Debug)]
enum Event {
    Request,
    Reply,
    /// About the request on its way to the backend.
    ErrorBack,
    /// About the reply on its way to the client.
    ErrorForth,
}

#[derive(Clone, Debug)]
struct Step {
    event: Event,
    client: usize,
    port: u16,
    vip: usize,
    v6: bool,
    /// Of a datagram in three pieces; `None` if it is whole.
    order: Option<[usize; 3]>,
    queue: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = prop_oneof![
        4 => Just(Event::Request), 5 => Just(Event::Reply), 1 => Just(Event::ErrorBack), 1 => Just(Event::ErrorForth)
    ];
    let orders = vec![[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let order = prop::option::weighted(0.4, prop::sample::select(orders));
    let ends = (0..CLIENTS.len(), 40_000..40_004u16, 0..VIPS.len(), prop::bool::weighted(0.4));
    let step = (event, ends, order, any::<usize>()).prop_map(|(event, (client, port, vip, v6), order, queue)| Step {
        event,
        client,
        port,
        vip,
        v6,
        order,
        queue,
    });
    prop::collection::vec(step, 1..150)
}

/// One of the two worlds, and what it remembers of each conversation: the request and the reply as they left.
struct World {
    cores: Cores,
    requests: BTreeMap<(usize, u16, usize, bool), Vec<u8>>,
    replies: BTreeMap<(usize, u16, usize, bool), Vec<u8>>,
}

impl World {
    fn new(node: &Node, cores: u16) -> Self {
        Self { cores: Cores::new(node, cores), requests: BTreeMap::new(), replies: BTreeMap::new() }
    }

    /// Plays a step; `None` if there is nothing yet to reply to or to complain about.
    fn play(&mut self, step: &Step, identification: u32) -> Option<Outcome> {
        let named = |text: &str| if step.v6 { twins(text) } else { text.to_owned() };
        let (kind, vip) = VIPS[step.vip];
        let client = named(&format!("{}:{}", CLIENTS[step.client], step.port));
        let own = if CLIENTS[step.client] == NODE { Origin::Node } else { Origin::Wire };
        let talk = (step.client, step.port, step.vip, step.v6);
        let payload: Vec<u8> = (0..1500u32).map(|n| (n * 7 + identification) as u8).collect();
        let (whole, origin) = match step.event {
            Event::Request => (frame_with(kind, &client, &named(vip), &payload), own),
            Event::Reply => {
                let ends = frames::ends(self.requests.get(&talk)?, true);
                let (from, to) = ends.split_once(" > ")?;
                let kind = if kind == "S" { "SA" } else { kind };
                (frame_with(kind, to, from, &payload), Origin::Wire)
            }
            Event::ErrorBack => {
                (error(self.requests.get(&talk)?, named("10.244.2.254").parse().unwrap()), Origin::Wire)
            }
            Event::ErrorForth => {
                (error(self.replies.get(&talk)?, named("203.0.113.254").parse().unwrap()), Origin::Wire)
            }
        };
        let frames = match step.order {
            None => vec![whole.clone()],
            // The first piece holds what an error quotes up to the ports, and more.
            Some(order) => {
                let parts = fragments(&whole, &[608, 1200], identification);
                order.map(|n| parts[n].clone()).to_vec()
            }
        };
        let mut queue = step.queue;
        let mut queues = || {
            queue = queue.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            queue >> 32
        };
        let outcome = self.cores.send(&frames, origin, &mut queues);
        if let ([word], [left]) = (&outcome.words[..], &outcome.left[..])
            && word.starts_with("forward")
        {
            match step.event {
                Event::Request => drop(self.requests.insert(talk, left.clone())),
                Event::Reply => drop(self.replies.insert(talk, left.clone())),
                Event::ErrorBack | Event::ErrorForth => {}
            }
        }
        Some(outcome)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn cores_that_share_do_what_one_does(steps in steps(), cores in 2..6u16, node_as_pod: bool) {
        let node = home(node_as_pod);
        let (mut one, mut many) = (World::new(&node, 1), World::new(&node, cores));
        for (n, step) in steps.iter().enumerate() {
            let own: IpAddr = if step.v6 { twins(NODE) } else { NODE.to_owned() }.parse().unwrap();
            let (expected, got) = (one.play(step, n as u32), many.play(step, n as u32));
            let (Some(expected), Some(got)) = (&expected, &got) else {
                prop_assert_eq!(expected.is_none(), got.is_none());
                continue;
            };
            prop_assert_eq!(&expected.words, &got.words, "{:?}", step);
            match step.event {
                // What a client is shown has no ports of the node's choice in it.
                Event::Reply | Event::ErrorBack => prop_assert!(expected.left == got.left, "{:?}", step),
                Event::Request | Event::ErrorForth => {
                    prop_assert_eq!(told(&expected.left, own), told(&got.left, own), "{:?}", step);
                }
            }
        }

        prop_assert_eq!(one.cores.handed_on, 0);
        let steer = Steer::new(cores, &KEY);
        let originals = |world: &World| world.cores.flows().map(|(_, flow)| flow.original).collect::<BTreeSet<_>>();
        prop_assert_eq!(originals(&one), originals(&many));
        let (mut keys, mut sticky) = (BTreeSet::new(), BTreeMap::new());
        for (core, flow) in many.cores.flows() {
            let Flow { original, reply, .. } = flow;
            prop_assert_eq!(steer.client(original.source), core, "{}", original);
            prop_assert!(keys.insert(original) && keys.insert(reply), "{} and {} are of one flow", original, reply);
            if node.addresses.contains(&reply.destination) {
                prop_assert_eq!(reply.destination_port % cores, core, "{}", reply);
            }
            let vip = SocketAddr::new(original.destination.into(), original.destination_port).to_string();
            if [twins("10.96.0.12:80"), "10.96.0.12:80".to_owned()].contains(&vip) {
                let backend = *sticky.entry((original.source, vip)).or_insert(reply.source);
                prop_assert_eq!(backend, reply.source, "{}", original);
            }
        }
    }
}

/// A client of each core, of two.
fn clients(steer: &Steer) -> [String; 2] {
    let client = |core| {
        let mut pods = (1..250).map(|n| format!("10.244.2.{n}"));
        pods.find(|pod| steer.client(common::cluster::address(pod)) == core).unwrap()
    };
    [client(0), client(1)]
}

#[test]
fn where_any_core_will_do_a_packet_stays() {
    let cores = Cores::new(&home(false), 2);
    let frame = frames::frame("S", "10.244.2.9:40000", "10.96.0.10:80");
    let arp = [&frame[..12], &[8, 6], &[0; 28]].concat();
    for (what, frame) in [
        ("ARP", arp),
        ("cut short", frame[..30].to_vec()),
        ("a ping", frames::ping("10.244.2.9", "10.96.0.10")),
        ("nothing", Vec::new()),
    ] {
        for (core, lab) in (0..).zip(&cores.labs) {
            assert_eq!(lab.engine.steer(&frame, Link::Ethernet), core, "{what}");
        }
    }
    let [one, other] = [&cores.labs[0], &cores.labs[1]].map(|lab| lab.engine.steer(&frame, Link::Ethernet));
    assert_eq!(one, other);
    let tagged = frames::tagged(&frame);
    assert_eq!(cores.labs[0].engine.steer(&tagged, Link::Ethernet), one);
    assert_eq!(cores.labs[0].engine.steer(&frame[ETHERNET..], Link::Ip), one);
}

/// What clients send in pieces comes to their core at once, and need not be handed on.
#[test]
fn a_fragment_to_a_service_is_its_clients() {
    let cores = Cores::new(&home(false), 2);
    let steer = Steer::new(2, &KEY);
    for (core, client) in (0..).zip(clients(&steer)) {
        for to in ["10.96.0.10:53", "192.0.2.10:30053"] {
            let frame = frames::frame_with("udp", &format!("{client}:40000"), to, &[7; 64]);
            for piece in frames::fragments(&frame, &[32], 9) {
                assert_eq!(cores.labs[0].engine.steer(&piece, Link::Ethernet), core, "{client} to {to}");
            }
        }
    }
}

/// What a queue's own hashing brings to the wrong core begins nothing there, and says where it belongs.
#[test]
fn a_strangers_packet_begins_no_flow() {
    let mut cores = Cores::new(&home(false), 2);
    let steer = Steer::new(2, &KEY);
    for (core, client) in clients(&steer).iter().enumerate() {
        let frame = frames::frame("S", &format!("{client}:40000"), "10.96.0.10:80");
        assert_eq!(cores.labs[1 - core].send(&frame).verdict, Verdict::Elsewhere(core as u16));
        assert_eq!(cores.labs[1 - core].engine.flows().count(), core);
        assert!(matches!(cores.labs[core].send(&frame).verdict, Verdict::Forward { .. }));
    }
}

/// A flow outlives its Service (SEMANTICS §11.1), and is found.
#[test]
fn a_flow_whose_service_went_stays_where_it_is() {
    let steer = Steer::new(2, &KEY);
    for client in clients(&steer) {
        for (vip, from) in
            [("10.96.0.10:80", format!("{client}:40000")), ("192.0.2.10:30080", format!("{client}:40001"))]
        {
            let mut cores = Cores::new(&home(false), 2);
            let mut turn = 0..;
            let mut send = |cores: &mut Cores, kind: &str, from: &str, to: &str| {
                cores.send(&[frames::frame(kind, from, to)], Origin::Wire, &mut || turn.next().unwrap())
            };
            let asked = send(&mut cores, "S", &from, vip);
            let ends = frames::ends(&asked.left[0], true);
            let (node, backend) = ends.split_once(" > ").unwrap();
            assert_eq!(send(&mut cores, "SA", backend, node).words, ["forward-reply"]);
            assert_eq!(send(&mut cores, "A", &from, vip).words, ["forward"]);
            for lab in &mut cores.labs {
                lab.control.remove_service(&objects()[0].0.name);
                lab.update();
            }
            assert_eq!(send(&mut cores, "A", &from, vip).words, ["forward"], "{vip}");
            assert_eq!(send(&mut cores, "A", backend, node).words, ["forward-reply"], "{vip}");
        }
    }
}

#[test]
fn flows_are_restored_where_their_packets_go() {
    let mut cores = Cores::new(&home(false), 3);
    let mut queue = || 0;
    for (from, to) in [("10.244.2.9:40000", "10.96.0.10:80"), ("203.0.113.5:40000", "198.51.100.7:80")] {
        assert_eq!(cores.send(&[frames::frame("S", from, to)], Origin::Wire, &mut queue).words, ["forward"]);
    }
    let flows: Vec<_> = cores.flows().collect();
    assert_eq!(flows.len(), 2);
    let mut next = Cores::new(&home(false), 3);
    for (owner, flow) in flows {
        for (core, lab) in (0..).zip(&mut next.labs) {
            let restored = lab.engine.restore(&flow);
            assert_eq!(restored.is_ok(), core == owner, "{restored:?}");
            assert!(restored.is_ok() || restored == Err(RestoreError::Elsewhere));
        }
    }
}

#[test]
fn there_is_no_core_beyond_the_last() {
    for (core, cores, made) in [(0, 1, true), (1, 2, true), (1, 1, false), (2, 2, false), (0, 0, false)] {
        let config = Config { share: Share { core, cores, key: KEY }, ..config() };
        let sizes = Sizes { v4_flows: 0, v6_flows: 0, services: 0, affinity: 0, backends: 0, fragments: 0 };
        let mut memory = vec![lb_core::Block::ZERO; lb_core::blocks(sizes)];
        let rules = RuleTable::with_room(vec![0; common::lab::ROOM.bytes()], common::lab::ROOM).unwrap();
        let balancer = Balancer::new(config, sizes, &mut memory, rules);
        assert_eq!(balancer.err(), (!made).then_some(ConfigError::Core), "{core} of {cores}");
    }
}

#[test]
fn clients_spread_evenly_and_by_the_key() {
    let shares = |key: &[u8; 16]| {
        let steer = Steer::new(5, key);
        let of = |n: u32| steer.client(lb_core::Address::from_v4_bits(0x0af4_0000 + n));
        (0..10_000).map(of).collect::<Vec<u16>>()
    };
    let one = shares(&KEY);
    for core in 0..5 {
        let count = one.iter().filter(|of| **of == core).count();
        assert!((1800..2200).contains(&count), "{count} of 10000 clients at core {core}");
    }
    let other = shares(b"some other key..");
    let moved = one.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert!((7500..8500).contains(&moved), "{moved} of 10000 are elsewhere by another key");
}
