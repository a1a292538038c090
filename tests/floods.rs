//! Floods: somebody sends as much as the wire carries of what costs most, and connections that were there before go on,
//! every packet of theirs translated right. What can't be served is dropped and counted under its name; no memory grows.
//!
//! `cargo test --release --test floods -- --nocapture --include-ignored` prints shares, counts and what a packet costs, by turns
//! with calm.

#![allow(unreachable_pub, reason = "the modules have other users too")]

mod common;
#[path = "invariants/packets.rs"]
#[allow(dead_code, reason = "the invariants use the rest")]
mod packets;

use std::time::{Duration, Instant as Clock};

use common::cluster::{address, node, service, slice, web};
use common::lab::{Engine, Lab, config};
use lb_core::{Address, DropReason, Instant, Link, Meta, Packet, Protocol, Sizes, Tuple, Verdict};
use packets::{Part, Spec};

const IP: Meta = Meta { link: Link::Ip, checksum: lb_core::Checksum::Complete, origin: lb_core::Origin::Wire, zone: 0 };
const WEB: Address = Address::v4([10, 96, 0, 10]);
/// No endpoints.
const GONE: Address = Address::v4([10, 96, 0, 13]);

fn tuple(protocol: Protocol, source: (Address, u16), destination: (Address, u16)) -> Tuple {
    let ((source, source_port), (destination, destination_port)) = (source, destination);
    Tuple { source, destination, source_port, destination_port, protocol, zone: 0 }
}

fn sizes(flows: u32) -> Sizes {
    Sizes { v4_flows: flows, v6_flows: 16, services: 32, affinity: 64, backends: 64, fragments: 64 }
}

fn lab(flows: u32, pods: &[&str]) -> Lab {
    let gone = (service("gone", "10.96.0.13", &["tcp:80", "udp:53"]), slice("gone", &["tcp:8080", "udp:5353"], &[]));
    Lab::with(config(), sizes(flows), node(), [web(pods), gone])
}

const PODS: [&str; 3] = ["10.244.1.2 node-a", "10.244.1.3 node-a", "10.244.2.4 node-b"];

/// An established connection, and the packets of both sides before and after.
struct Connection {
    there: [Vec<u8>; 2],
    back: [Vec<u8>; 2],
}

/// Opens so many connections from pods, which keep their addresses, and from outside, which are masqueraded.
fn establish(lab: &mut Lab, count: u16) -> Vec<Connection> {
    (0..count)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let client = if n % 2 == 0 { Address::v4([10, 244, high, low]) } else { Address::v4([203, 0, high, low]) };
            let original = tuple(Protocol::TCP, (client, 1024 + n % 60_000), (WEB, 80));
            let Verdict::Forward { flow, .. } = lab.send_as(&Spec::new(original, 2).packet(), IP).verdict else {
                panic!("{original} is not served")
            };
            let reply = lab.engine.flow(flow).expect("it was just begun").reply;
            let _ = lab.send_as(&Spec::new(reply, 0x12).packet(), IP);
            let (there, leaves) = (Spec::new(original, 0x10), Spec::new(reply.reversed(), 0x10));
            let (back, arrives) = (Spec::new(reply, 0x18), Spec::new(original.reversed(), 0x18));
            let connection =
                Connection { there: [there.packet(), leaves.packet()], back: [back.packet(), arrives.packet()] };
            assert!(connection.goes_on(lab));
            connection
        })
        .collect()
}

impl Connection {
    /// Whether both sides' packets come out as they should.
    fn goes_on(&self, lab: &mut Lab) -> bool {
        [&self.there, &self.back].into_iter().all(|[came, leaves]| lab.send_as(came, IP).frame == *leaves)
    }
}

/// Packets that differ in their source, each written into the same octets.
struct Flood {
    packet: Vec<u8>,
    next: fn(u32, &mut [u8]),
}

impl Flood {
    /// From spoofed sources of all of 64.0.0.0/3 and any port.
    fn spoofed(protocol: Protocol, flags: u8, to: (Address, u16)) -> Self {
        let packet = Spec::new(tuple(protocol, (Address::v4([64, 0, 0, 1]), 1), to), flags).packet();
        Self {
            packet,
            next: |n, packet| {
                let scattered = n.wrapping_mul(0x9e37_79b1);
                packet[12..16].copy_from_slice(&(scattered >> 3 | 0x4000_0000).to_be_bytes());
                packet[20..22].copy_from_slice(&(n as u16).to_be_bytes());
            },
        }
    }

    /// Later fragments, each of another datagram, that no first one will ever follow.
    fn fragments(start: usize) -> Self {
        let spec =
            Spec { payload: 64, ..Spec::new(tuple(Protocol::UDP, (Address::v4([64, 0, 0, 1]), 9), (WEB, 53)), 0) };
        let packet = spec.part(Part { start, end: start + 24, identification: 0 }).expect("within it");
        Self {
            packet,
            next: |n, packet| {
                packet[4..6].copy_from_slice(&(n as u16).to_be_bytes());
                packet[14..16].copy_from_slice(&((n >> 16) as u16).to_be_bytes());
            },
        }
    }

    /// Errors about answers of the Vip that nobody had.
    fn errors() -> Self {
        let about = tuple(Protocol::TCP, (WEB, 80), (Address::v4([64, 0, 0, 1]), 9));
        let packet = Spec::new(about, 0x10).time_exceeded(Address::v4([203, 0, 113, 1]), 8);
        Self { packet, next: |n, packet| packet[44..48].copy_from_slice(&(n | 0x4000_0000).to_be_bytes()) }
    }

    /// From one host and its every port.
    fn one_client(from: Address) -> Self {
        let packet = Spec::new(tuple(Protocol::TCP, (from, 1), (WEB, 80)), 2).packet();
        Self {
            packet,
            next: |n, packet| {
                packet[15] = 10 + (n >> 16) as u8;
                packet[20..22].copy_from_slice(&(n as u16).to_be_bytes());
            },
        }
    }

    fn send(&mut self, engine: &mut Engine, now: Instant, n: u32, scratch: &mut Vec<u8>) -> Verdict {
        (self.next)(n, &mut self.packet);
        scratch.clone_from(&self.packet);
        engine.process(now, &mut Packet::new(scratch, IP))
    }
}

struct Case {
    name: &'static str,
    flood: fn() -> Flood,
    flows: u32,
    pods: &'static [&'static str],
    packets: u32,
    /// Under which verdicts the flood's packets are counted: each some, all together all.
    ends: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "SYNs from anywhere",
        flood: || Flood::spoofed(Protocol::TCP, 2, (WEB, 80)),
        flows: 4096,
        pods: &PODS,
        packets: 1_000_000,
        ends: &["forward"],
    },
    Case {
        name: "datagrams from anywhere",
        flood: || Flood::spoofed(Protocol::UDP, 0, (WEB, 53)),
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["forward"],
    },
    Case {
        name: "ACKs of no connection",
        flood: || Flood::spoofed(Protocol::TCP, 0x10, (WEB, 80)),
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["forward"],
    },
    Case {
        name: "later fragments",
        flood: || Flood::fragments(16),
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["hold", "fragment-table-full"],
    },
    Case {
        name: "first fragments",
        flood: || Flood::fragments(0),
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["forward", "fragment-table-full"],
    },
    Case {
        name: "forged ICMP errors",
        flood: Flood::errors,
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["unrelated-error"],
    },
    Case {
        name: "all source ports towards one backend",
        flood: || Flood::one_client(Address::v4([203, 0, 114, 10])),
        flows: 80_000,
        pods: &["10.244.1.2 node-a"],
        packets: 90_000,
        ends: &["forward", "no-port"],
    },
    Case {
        name: "dials a Service without endpoints",
        flood: || Flood::spoofed(Protocol::TCP, 2, (GONE, 80)),
        flows: 4096,
        pods: &PODS,
        packets: 300_000,
        ends: &["no-endpoints"],
    },
];

#[test]
fn established_connections_go_on() {
    for case in CASES {
        let mut lab = lab(case.flows, case.pods);
        let connections = establish(&mut lab, 1000);
        let before = lab.engine.counters().clone();
        let (mut flood, mut scratch) = ((case.flood)(), Vec::new());
        let (mut right, mut asked, mut own) = (0u64, 0u64, 0u64);
        for n in 0..case.packets {
            // A hundred thousand packets a second.
            lab.now = u64::from(n) / 100;
            let now = lab.instant();
            let _ = flood.send(&mut lab.engine, now, n, &mut scratch);
            if n % 100 == 0 {
                right += u64::from(connections[n as usize / 100 % connections.len()].goes_on(&mut lab));
                (asked, own) = (asked + 1, own + 2);
            }
        }
        for connection in &connections {
            right += u64::from(connection.goes_on(&mut lab));
            (asked, own) = (asked + 1, own + 2);
        }
        let counters = lab.engine.counters();
        let evicted = counters.flows_evicted - before.flows_evicted;
        println!(
            "{:40} {:>8} packets, {right} of {asked} looks at {} connections right, {evicted} newcomers evicted",
            case.name,
            case.packets,
            connections.len()
        );
        assert_eq!(right, asked, "{}: an established connection was hurt", case.name);
        let mut counted = 0;
        for code in 0..Verdict::CODES as u8 {
            let label = Verdict::label(code).unwrap_or_default();
            let more = counters.verdict(code) - before.verdict(code);
            let theirs = match label {
                "forward" | "forward-reply" => more - own / 2,
                _ => more,
            };
            assert_eq!(theirs > 0, case.ends.contains(&label), "{}: {theirs} packets were {label}", case.name);
            counted += theirs;
        }
        assert_eq!(counted, u64::from(case.packets), "{}: packets without a verdict", case.name);
        assert!(lab.engine.flows().count() <= case.flows as usize);
    }
}

/// With nothing but established connections in it a full table refuses the newcomer and says so.
#[test]
fn a_table_full_of_established_connections_keeps_them_all() {
    let mut lab = lab(500, &PODS);
    let connections = establish(&mut lab, 500);
    let (mut flood, mut scratch) = (Flood::spoofed(Protocol::TCP, 2, (WEB, 80)), Vec::new());
    for n in 0..100_000 {
        let now = lab.instant();
        let verdict = flood.send(&mut lab.engine, now, n, &mut scratch);
        assert_eq!(verdict, Verdict::Drop(DropReason::FlowTableFull));
    }
    assert!(connections.iter().all(|connection| connection.goes_on(&mut lab)));
    assert_eq!(lab.engine.counters().flows_evicted, 0);
}

/// Refusals are few a second, and never many more octets than what they refuse.
#[test]
fn nothing_is_amplified() {
    let mut lab = lab(64, &PODS);
    let (mut flood, mut out) = (Flood::spoofed(Protocol::TCP, 2, (GONE, 80)), [0; 1302]);
    let (mut came, mut went, mut answers) = (0, 0, 0u32);
    const SECONDS: u64 = 10;
    let per_second = config().replies_per_second;
    for n in 0..(SECONDS as u32 * 20_000) {
        let now = Instant::from_nanos(u64::from(n) * 50_000);
        let mut data = flood.packet.clone();
        let Verdict::Reject(reason) = flood.send(&mut lab.engine, now, n, &mut data) else { panic!("served") };
        came += data.len();
        if let Some(length) = lab.engine.write_reply(now, &Packet::new(&mut data, IP), reason, &mut out) {
            // An IPv4 and an ICMP header in front of what is quoted.
            assert!(length <= data.len() + 28);
            (went, answers) = (went + length, answers + 1);
        }
    }
    println!("{came} octets refused by {went} octets in {answers} answers, {per_second} a second and as many at first");
    assert!(answers <= per_second * (SECONDS as u32 + 1), "{answers} answers in {SECONDS} s");
    assert!(went <= came);
    assert_eq!(lab.engine.counters().replies_limited, 20_000 * SECONDS - u64::from(answers));
}

/// Whoever knows the hash and not its key can only guess at sets of tuples that would crowd some buckets: under every key each of
/// these fills the table to its last entry.
#[test]
fn no_set_of_tuples_crowds_the_index() {
    const FLOWS: u32 = 4096;
    /// The source of the tuple of this number.
    type Source = fn(u32) -> (u32, u16);
    let sets: [(&str, Source); 6] = [
        ("one host's ports", |n| (0x4000_0001, n as u16)),
        ("neighbours", |n| (0x4000_0000 + n, 40_000)),
        ("every 256th address", |n| (0x4000_0000 + (n << 8), 40_000)),
        ("every 4096th, the port as well", |n| (0x4000_0000 + (n << 12), (n << 4) as u16)),
        ("address and port of one sum", |n| (0x4000_0000 + n, 50_000 - n as u16)),
        ("address and port of one difference", |n| (0x4000_0000 ^ n << 16, n as u16)),
    ];
    for key in 0..8u8 {
        for (name, tuple_of) in sets {
            let config = lb_core::Config::new([key.wrapping_mul(37); 16], 7);
            let mut lab = Lab::with(config, sizes(FLOWS), node(), [web(&PODS)]);
            for n in 0..FLOWS {
                let (source, port) = tuple_of(n);
                let original = tuple(Protocol::TCP, (Address::from_v4_bits(source), port), (WEB, 80));
                let verdict = lab.send_as(&Spec::new(original, 2).packet(), IP).verdict;
                assert!(matches!(verdict, Verdict::Forward { .. }), "key {key}, {name}, at the {n}th: {verdict:?}");
            }
            assert_eq!(lab.engine.flows().count(), FLOWS as usize, "key {key}, {name}");
            assert_eq!(lab.engine.counters().flows_evicted, 0, "key {key}, {name}");
        }
    }
}

/// What a packet costs in calm and under each flood, by turns: no assertion, as machines differ.
#[test]
#[ignore = "prints times"]
#[allow(clippy::disallowed_methods, reason = "a stopwatch")]
fn what_a_packet_costs() {
    println!("{:40} {:>12} {:>12} {:>6}", "median of 15 turns, ns a packet", "calm", "flood", "ratio");
    let established = |connections: &[Connection], engine: &mut Engine, scratch: &mut Vec<u8>| {
        let start = Clock::now();
        for connection in connections {
            for [came, _] in [&connection.there, &connection.back] {
                scratch.clone_from(came);
                let _ = engine.process(Instant::from_secs(1), &mut Packet::new(scratch, IP));
            }
        }
        start.elapsed() / (2 * connections.len() as u32)
    };
    for case in CASES {
        let (mut calm, mut flooded) = (lab(case.flows, case.pods), lab(case.flows, case.pods));
        let connections = [establish(&mut calm, 1000), establish(&mut flooded, 1000)];
        let (mut flood, mut scratch, mut n) = ((case.flood)(), Vec::new(), 0);
        let mut fill = |lab: &mut Lab, count: u32| {
            let start = Clock::now();
            for _ in 0..count {
                n += 1;
                let _ = flood.send(&mut lab.engine, Instant::from_secs(1), n, &mut scratch);
            }
            start.elapsed() / count
        };
        fill(&mut flooded, case.packets.min(200_000));
        let mut times: [Vec<Duration>; 4] = Default::default();
        let mut octets = Vec::new();
        for _ in 0..15 {
            times[0].push(established(&connections[0], &mut calm.engine, &mut octets));
            times[1].push(established(&connections[1], &mut flooded.engine, &mut octets));
            // Newcomers that find room: a table that was just made.
            let mut empty = lab(case.flows, case.pods);
            times[2].push(fill(&mut empty, 2_000));
            times[3].push(fill(&mut flooded, 2_000));
        }
        let median = |mut times: Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_nanos() as f64
        };
        let [a, b, c, d] = times.map(median);
        println!("{:40} {a:>12} {b:>12} {:>6.2}", format!("{}: established", case.name), b / a);
        println!("{:40} {c:>12} {d:>12} {:>6.2}", format!("{}: the flood's own", case.name), d / c);
    }
}

#[test]
fn the_lab_is_what_it_says() {
    assert_eq!((WEB, GONE), (address("10.96.0.10"), address("10.96.0.13")));
}
