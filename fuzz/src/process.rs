//! Any frames in order, at any pace: what a balancer says of each must be true of what it did to it.
//!
//! The input is a mode byte, then a record a frame: how it came, how long after the one before, how many
//! bytes (little-endian), the bytes. `fuzz/examples/seeds.rs` writes such inputs.

use std::sync::LazyLock;

use lb_core::control::Mode;
use lb_core::pick::Scheduler;
use lb_core::wire::{self, Content, Headers};
use lb_core::{
    Balancer, Block, Checksum, Config, Direction, Flow, Instant, Link, Meta, Origin, Packet, Protocol, RuleTable,
    Sizes, Tuple, Verdict, blocks,
};

use super::cluster::cluster;

/// The same cluster under each mode, each with another way to choose a backend.
static RULES: LazyLock<[RuleTable<Vec<u8>>; 3]> = LazyLock::new(|| {
    [(Mode::IPTABLES, Scheduler::Random), (Mode::NFTABLES, Scheduler::Maglev), (Mode::NFTABLES, Scheduler::RoundRobin)]
        .map(|(mode, scheduler)| {
            let image = cluster(mode, scheduler).image().expect("a small cluster compiles");
            RuleTable::load(image).expect("its own image")
        })
});

/// Small enough that a few frames fill it.
const SIZES: Sizes = Sizes { v4_flows: 6, v6_flows: 6, services: 64, affinity: 0, backends: 64, fragments: 3 };

struct Frame {
    now: Instant,
    meta: Meta,
    data: Vec<u8>,
}

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&mode, records)) = input.split_first() else { return };
    let rules = &RULES[usize::from(mode) % RULES.len()];
    let frames = frames(records);
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let mut alone = balancer(rules, &mut memory);
    let judged: Vec<_> = frames.iter().map(|frame| process(&mut alone, frame)).collect();
    assert_eq!(alone.counters().packets(), frames.len() as u64, "a packet without a verdict");

    // In batches, the same comes out.
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let mut batched = balancer(rules, &mut memory);
    let mut expected = judged.iter();
    for batch in frames.chunk_by(|one, next| one.now == next.now) {
        let mut copies: Vec<Vec<u8>> = batch.iter().map(|frame| frame.data.clone()).collect();
        let mut packets: Vec<Packet<'_>> =
            copies.iter_mut().zip(batch).map(|(data, frame)| Packet::new(data, frame.meta)).collect();
        batched.process_batch(batch[0].now, &mut packets);
        for (packet, (verdict, data)) in packets.iter().zip(&mut expected) {
            assert_eq!((packet.verdict, &*packet.data), (*verdict, data.as_slice()), "a batch differs");
        }
    }
}

fn balancer<'m>(rules: &RuleTable<Vec<u8>>, memory: &'m mut [Block]) -> Balancer<'m, Vec<u8>> {
    Balancer::new(Config::new([7; 16], 7), SIZES, memory, rules.clone()).expect("memory as it asks for")
}

fn frames(mut records: &[u8]) -> Vec<Frame> {
    let mut now = 0u64;
    let mut frames = Vec::new();
    while let Some((&[how, pace, low, high], rest)) = records.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        // No time at all, or powers of two of nanoseconds up to a day and a half.
        now = now.saturating_add((1 << (pace % 48)) - 1);
        let meta = Meta {
            link: if how & 1 == 0 { Link::Ethernet } else { Link::Ip },
            checksum: [Checksum::Complete, Checksum::Partial, Checksum::Absent][usize::from(how >> 1) % 3],
            origin: [Origin::Wire, Origin::Pod, Origin::Node][usize::from(how >> 4) % 3],
            zone: u16::from(how >> 7),
        };
        frames.push(Frame { now: Instant::from_nanos(now), meta, data: rest[..length].to_vec() });
        records = &rest[length..];
    }
    frames
}

fn process(balancer: &mut Balancer<'_, Vec<u8>>, frame: &Frame) -> (Verdict, Vec<u8>) {
    let mut data = frame.data.clone();
    let verdict = balancer.process(frame.now, &mut Packet::new(&mut data, frame.meta));
    match verdict {
        Verdict::Forward { flow, direction } => {
            let flow = balancer.flow(flow).expect("a flow that a packet just had");
            check_forwarded(frame, &data, &flow, direction);
        }
        Verdict::Reject(reason) => {
            assert_eq!(data, frame.data, "touched, and rejected");
            let mut answer = [0; 1320];
            let written = balancer.write_reply(frame.now, &Packet::new(&mut data, frame.meta), reason, &mut answer);
            if let Some(length) = written {
                let parsed = wire::parse(&answer[..length], frame.meta.link);
                assert!(matches!(parsed, Ok(Some(_))), "an answer that is no packet: {parsed:?}");
            }
        }
        Verdict::Pass | Verdict::Accept | Verdict::Hold(_) | Verdict::Elsewhere(_) | Verdict::Drop(_) => {
            assert_eq!(data, frame.data, "touched, and {verdict:?}");
        }
    }
    (verdict, data)
}

fn check_forwarded(frame: &Frame, data: &[u8], flow: &Flow, direction: Direction) {
    let parse = |data| wire::parse(data, frame.meta.link).expect("well-formed").expect("an IP packet");
    let (before, after): (Headers, Headers) = (parse(&frame.data), parse(data));
    // What leaves one way is what comes in the other way, reversed.
    let (came, leaves) = match direction {
        Direction::Original => (flow.original, flow.reply.reversed()),
        Direction::Reply => (flow.reply, flow.original.reversed()),
    };
    let zoned = |tuple: Tuple| Tuple { zone: frame.meta.zone, ..tuple };
    // A later fragment has no ports, and over IPv6 its own idea of what it is of: RFC 8200 §4.5 goes by the
    // first fragment's Next Header alone.
    let later = |tuple: Tuple| Tuple { source_port: 0, destination_port: 0, protocol: Protocol(0), ..tuple };
    let stated = |tuple: Tuple, flow: Tuple| tuple.protocol == flow.protocol || !flow.source.is_v4();
    match (before.content, after.content) {
        (Content::Error(old), Content::Error(new)) => {
            assert_eq!(zoned(old.tuple), came.reversed(), "an error about another flow");
            assert_eq!(zoned(new.tuple), leaves.reversed(), "an error that quotes another packet");
            assert_eq!(after.tuple.destination, leaves.destination, "an error to somebody else");
        }
        (Content::LaterFragment, Content::LaterFragment) => {
            assert_eq!((later(zoned(before.tuple)), later(zoned(after.tuple))), (later(came), later(leaves)));
            assert!(stated(before.tuple, came) && before.tuple.protocol == after.tuple.protocol, "another protocol");
        }
        _ => assert_eq!((zoned(before.tuple), zoned(after.tuple)), (came, leaves)),
    }
    assert_eq!(data.len(), frame.data.len(), "another length");
    assert_eq!(blanked(data, &after), blanked(&frame.data, &before), "more than addresses, ports and checksums");
}

/// The frame without what translation may write.
fn blanked(data: &[u8], headers: &Headers) -> Vec<u8> {
    let mut data = data.to_vec();
    blank_packet(&mut data, headers.network, headers.transport, headers.content, headers.tuple.protocol);
    if let Content::Error(quoted) = headers.content {
        // What is quoted may end anywhere, and its checksum with it.
        blank_packet(&mut data, quoted.network, quoted.transport, Content::Other, quoted.tuple.protocol);
        blank(&mut data, quoted.transport, 4);
        blank_checksum(&mut data, quoted.transport, quoted.tuple.protocol);
    }
    data
}

fn blank_packet(data: &mut [u8], network: u16, transport: u16, content: Content, protocol: Protocol) {
    if data[usize::from(network)] >> 4 == 4 {
        blank(data, network + 10, 10);
    } else {
        blank(data, network + 8, 32);
    }
    match content {
        Content::Tcp(_) | Content::Udp | Content::Sctp(_) => {
            blank(data, transport, 4);
            blank_checksum(data, transport, protocol);
        }
        Content::Error(_) => blank(data, transport + 2, 2),
        Content::EchoRequest | Content::LaterFragment | Content::Other => {}
    }
}

fn blank_checksum(data: &mut [u8], transport: u16, protocol: Protocol) {
    match protocol {
        Protocol::TCP => blank(data, transport + 16, 2),
        Protocol::UDP => blank(data, transport + 6, 2),
        _ => blank(data, transport + 8, 4),
    }
}

fn blank(data: &mut [u8], at: u16, length: usize) {
    data.iter_mut().skip(at.into()).take(length).for_each(|byte| *byte = 0);
}
