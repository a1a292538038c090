//! Writes the seeds of `process`, `process_ops` and `load_rules`: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.
//!
//! Frames are those of `parse`, in orders that mean something to a balancer; where one must fit the flow
//! that another began, a balancer is asked which.

use std::path::Path;

use lb_core::control::{Control, Mode};
use lb_core::nat::{rewrite, rewrite_error};
use lb_core::pick::Scheduler;
use lb_core::wire::{Content, parse};
use lb_core::{
    Balancer, Block, Checksum, Config, Flow, Instant, Link, Meta, Packet, RuleTable, Sizes, Tuple, Verdict, blocks,
};
use matryoshka_fuzz::{cluster, slice};

/// The mode byte of the iptables cluster, and how a frame comes: by Ethernet, checksum complete, by wire.
const IPTABLES: u8 = 0;
const PLAIN: u8 = 0;
/// Paces: at once; after two seconds; after a minute or two, when UDP is forgotten.
const AT_ONCE: u8 = 0;
const SOON: u8 = 31;
const LATE: u8 = 37;

fn main() {
    let frame = |name: &str| std::fs::read(seeds().join("parse").join(name)).expect("a seed of `parse`");
    let conversation = |first: &str| {
        let flow = begun(&frame(first));
        let answer = readdressed(frame(first), &flow.reply);
        records(&[(AT_ONCE, frame(first)), (SOON, answer), (SOON, frame(first))])
    };
    let fragments = |first: &str, last: &str| {
        records(&[(AT_ONCE, frame(last)), (AT_ONCE, frame(first)), (AT_ONCE, frame(last)), (AT_ONCE, frame(last))])
    };
    let error = |first: &str, error: &str| {
        let about = about(frame(error), &begun(&frame(first)));
        records(&[(AT_ONCE, frame(first)), (SOON, about)])
    };
    let crowd = (0..9).map(|n| {
        let syn = frame("tcp4-syn");
        let to = Tuple { source_port: 50_000 + n, ..tuple(&syn) };
        (AT_ONCE, readdressed(syn, &to))
    });
    let mut names: Vec<String> = std::fs::read_dir(seeds().join("parse"))
        .expect("the seeds of `parse`")
        .map(|entry| entry.expect("a seed").file_name().into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    let everything: Vec<(u8, Vec<u8>)> = names.iter().map(|name| (SOON, frame(name))).collect();
    for (name, bytes) in [
        ("every-frame-that-parse-has", records(&everything)),
        ("tcp4-syn-and-an-answer", conversation("tcp4-syn")),
        ("tcp6-syn-and-an-answer", conversation("tcp6-syn")),
        ("udp4-question-and-answer", conversation("udp4")),
        ("udp6-question-and-answer", conversation("udp6")),
        ("sctp4-init-and-an-answer", conversation("sctp4-init")),
        ("udp4-last-fragment-first", fragments("udp4-first-fragment", "udp4-last-fragment")),
        ("udp6-last-fragment-first", fragments("udp6-first-fragment", "udp6-last-fragment")),
        ("icmp4-error-of-a-backend", error("udp4", "icmp4-unreachable-quotes-udp")),
        ("icmp6-error-of-a-backend", error("tcp6-syn", "icmp6-too-big-quotes-tcp")),
        ("udp4-comes-back-too-late", records(&[(AT_ONCE, frame("udp4")), (LATE, frame("udp4"))])),
        ("tcp4-more-flows-than-fit", records(&crowd.collect::<Vec<_>>())),
    ] {
        write("process", name, bytes);
    }

    for (name, operations) in lives() {
        write("process_ops", name, [vec![0], operations.concat()].concat());
    }

    let image = |control: &mut Control| control.image().expect("a small cluster compiles");
    let alone = |mode, scheduler| {
        let mut control = cluster(mode, scheduler);
        ["local/only", "local/none-here", "no/endpoints"]
            .iter()
            .for_each(|name| control.remove_service(&(*name).into()));
        control
    };
    for (name, how, bytes) in [
        ("image-iptables", 0, image(&mut cluster(Mode::IPTABLES, Scheduler::Random))),
        ("image-nftables", 0, image(&mut cluster(Mode::NFTABLES, Scheduler::RoundRobin))),
        ("image-one-service-maglev", 0, image(&mut alone(Mode::NFTABLES, Scheduler::Maglev))),
        ("image-one-service", 0, image(&mut alone(Mode::IPTABLES, Scheduler::Random))),
        ("delta-an-endpoint-came", 1, delta(|control| control.put_slice(slice("no/endpoints", &[(9, true)])))),
        ("delta-an-endpoint-went", 1, delta(|control| control.put_slice(slice("all/kinds", &[(2, true)])))),
        ("delta-a-service-went", 1, delta(|control| control.remove_service(&"local/only".into()))),
        (
            "delta-a-new-mode",
            1,
            delta(|control| control.put_node(cluster(Mode::IPTABLES, Scheduler::RoundRobin).node().clone())),
        ),
    ] {
        write("load_rules", name, [vec![how], bytes].concat());
    }
}

/// Operations as `tests/invariants/ops.rs` reads them.
fn lives() -> Vec<(&'static str, Vec<[u8; 5]>)> {
    const TCP: u8 = 0;
    const UDP: u8 = 1;
    const SCTP: u8 = 3;
    const V6: u8 = 2;
    // SYN, SYN+ACK, ACK, FIN+ACK, RST.
    let [syn, answer, ack, fin, reset] = [0, 1, 2, 3, 4].map(|flags: u8| flags << 2);
    let dial = |client: u8, vip: u8, what: u8, how: u8| [0, client, vip, what, how];
    let [client, backend] = [0, 1].map(|side: u8| move |flow: u8, what: u8, how: u8| [10, flow, side, what, how]);
    let (leap, sweep) = (|power: u8| [21, power, 0, 0, 0], [25, 255, 0, 0, 0]);
    let endpoints = |service: u8, pods: u8| [26, service | 8, pods, 0, 0];
    let opened = |how| vec![dial(0, 0, TCP | syn, how), backend(0, TCP | answer, how), client(0, TCP | ack, how)];
    let closed = |how| vec![backend(0, TCP | fin, how), client(0, TCP | fin, how), backend(0, TCP | ack, how)];
    let dns = 1 << 4;
    vec![
        ("tcp4-opened-and-closed-and-opened-anew", [opened(0), closed(0), opened(0)].concat()),
        ("tcp6-opened-reset-swept", [opened(V6), vec![client(0, TCP | reset, V6), leap(35), sweep]].concat()),
        ("sctp4-both-ways", vec![dial(0, 0, SCTP | syn, 0), backend(0, SCTP | answer, 0), client(0, SCTP | ack, 0)]),
        (
            "udp4-its-backend-goes-and-comes-back",
            vec![
                dial(0, dns, UDP, 0),
                backend(0, UDP, 0),
                endpoints(0, 0b100),
                backend(0, UDP, 0),
                client(0, UDP, 0),
                endpoints(0, 0),
                client(0, UDP, 0),
                endpoints(0, 0b11),
                client(0, UDP, 0),
            ],
        ),
        (
            "tcp4-more-flows-than-fit-beside-established-ones",
            [opened(0), (1..20).map(|port| dial(3 | port << 3, 0, TCP | syn, 0)).collect(), vec![client(0, ack, 0)]]
                .concat(),
        ),
        (
            "udp6-pieces-in-any-order",
            vec![[16, 1, dns, 1 | 1 << 6, V6], [16, 1, dns, 1, V6], [16, 1, dns, 1, V6], [16, 1, dns, 1 | 1 << 6, V6]],
        ),
        (
            "tcp4-errors-about-both-ways",
            [opened(0), vec![[18, 0, 0, 0, 0], [18, 0, 1, 0, 0], [18, 0, 1, 64, 0]]].concat(),
        ),
        ("a-batch-of-one-new-flow", vec![[31, 7, 0, 0, 0]].into_iter().chain([dial(0, 0, TCP | syn, 0); 9]).collect()),
        (
            "rules-swapped-under-flows",
            [opened(0), vec![[28, 1, 0, 0, 0], client(0, ack, 0), [28, 2, 0, 0, 0]], opened(0)].concat(),
        ),
        (
            "a-flow-ended-and-restored",
            [opened(0), vec![[29, 0, 0, 0, 0], [30, 0, 0, 0, 0], client(0, ack, 0)]].concat(),
        ),
        ("made-up-flows-restored", (200..215).map(|n| [30, n, n >> 3, 0, n]).collect()),
        ("time-goes-back-two-days", [opened(0), vec![leap(48), [21, 47, 255, 0, 0], sweep], opened(0)].concat()),
        ("refused-and-answered", vec![dial(3, 3, TCP | syn, 0), dial(3, 3, TCP | syn, V6), dial(7, 3, TCP | syn, 0)]),
    ]
}

fn seeds() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds"))
}

fn write(target: &str, name: &str, bytes: Vec<u8>) {
    let directory = seeds().join(target);
    std::fs::create_dir_all(&directory).expect("a directory for seeds");
    std::fs::write(directory.join(name), bytes).expect("a seed written");
}

/// An input of `process`: frames, and how long after the one before each comes.
fn records(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![IPTABLES];
    for (pace, data) in frames {
        let length = u16::try_from(data.len()).expect("a short frame");
        input.extend([PLAIN, *pace]);
        input.extend(length.to_le_bytes());
        input.extend(data);
    }
    input
}

/// A change of the table that `load_rules` applies deltas to.
fn delta(change: impl FnOnce(&mut Control)) -> Vec<u8> {
    let mut control = cluster(Mode::NFTABLES, Scheduler::RoundRobin);
    let mut bytes = Vec::new();
    control.delta(&mut bytes).expect("a small cluster compiles");
    change(&mut control);
    control.delta(&mut bytes).expect("so does a change of it");
    bytes
}

/// The flow that this frame begins in the balancer of `process`.
fn begun(frame: &[u8]) -> Flow {
    let sizes = Sizes { v4_flows: 6, v6_flows: 6, services: 64, affinity: 0, backends: 64, fragments: 3 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let image = cluster(Mode::IPTABLES, Scheduler::Random).image().expect("a small cluster compiles");
    let rules = RuleTable::load(image).expect("its own image");
    let mut balancer = Balancer::new(Config::new([7; 16], 7), sizes, &mut memory, rules).expect("enough memory");
    let mut data = frame.to_vec();
    let verdict = balancer.process(Instant::ORIGIN, &mut Packet::new(&mut data, Meta::default()));
    let Verdict::Forward { flow, .. } = verdict else { panic!("not forwarded: {verdict:?}") };
    balancer.flow(flow).expect("a flow just begun")
}

fn tuple(frame: &[u8]) -> Tuple {
    parse(frame, Link::Ethernet).expect("well-formed").expect("an IP packet").tuple
}

fn readdressed(mut frame: Vec<u8>, to: &Tuple) -> Vec<u8> {
    let headers = parse(&frame, Link::Ethernet).expect("well-formed").expect("an IP packet");
    rewrite(&mut frame, &headers, to, Checksum::Complete).expect("a packet with ports");
    frame
}

/// The error as the flow's backend would send it, about what reached it.
fn about(mut error: Vec<u8>, flow: &Flow) -> Vec<u8> {
    let headers = parse(&error, Link::Ethernet).expect("well-formed").expect("an IP packet");
    let Content::Error(quoted) = headers.content else { panic!("not an error") };
    let (backend, node) = (flow.reply.source, flow.reply.destination);
    rewrite_error(&mut error, &headers, &quoted, backend, node, &flow.reply.reversed(), Checksum::Complete)
        .expect("an error that quotes ports");
    error
}
