//! The whole packet path in batches of 32, over flows in random order.
//!
//! The timed part takes [`RING`] packets through the balancer; putting fresh frames into the ring is not
//! timed. What comes out is checked by etherparse, once, outside.

mod shared;

use std::cell::{Cell, RefCell};
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Throughput};
use lb_core::wire::parse;
use lb_core::{Checksum, Direction, Flow, Instant, Link, Steer, Tuple, Verdict};
use shared::frames::{Kind, Ring, address, check, prototype, tuple};
use shared::rig::{Frames, Mix, RING, Rig, SERVICES, Share, dial, packets, process, refresh};
use shared::{Random, Shape, short};

const FLOWS: [usize; 3] = [1000, 64_000, 1_000_000];
/// Of one kind only: each takes 2 GB.
const MOST_FLOWS: usize = 10_000_000;
const SECOND: u64 = 1_000_000_000;
const TCP4: Mix = Mix { v4: true, udp: false, masquerade: Share::None, flows: 1000 };
const TCP6: Mix = Mix { v4: false, ..TCP4 };
const UDP4: Mix = Mix { udp: true, ..TCP4 };
const UDP6: Mix = Mix { v4: false, ..UDP4 };

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn main() {
    let mut criterion = shared::criterion();
    let mut group = criterion.benchmark_group("process");
    group.throughput(Throughput::Elements(RING as u64));
    floors(&mut group);
    let (original, reply) = (Direction::Original, Direction::Reply);
    for flows in FLOWS {
        let sized = |mix: Mix| Mix { flows, ..mix };
        known(&mut group, sized(TCP4), &[("tcp4-dnat/hit", original), ("tcp4-dnat/reply", reply)]);
        known(&mut group, Mix { masquerade: Share::All, ..sized(TCP4) }, &[("tcp4-masquerade/hit", original)]);
        known(&mut group, sized(TCP6), &[("tcp6-dnat/hit", original), ("tcp6-dnat/reply", reply)]);
        known(&mut group, sized(UDP4), &[("udp4/hit", original)]);
        known(&mut group, sized(UDP6), &[("udp6/hit", original)]);
        new(&mut group, &format!("tcp4/new/{}", short(flows)), sized(TCP4), SERVICES, Shape::Dual);
    }
    known(&mut group, Mix { flows: MOST_FLOWS, ..TCP4 }, &[("tcp4-dnat/hit", original), ("tcp4-dnat/reply", reply)]);
    new(&mut group, "tcp6/new/1k", TCP6, SERVICES, Shape::Dual);
    new(&mut group, "udp4/new/1k", UDP4, SERVICES, Shape::Dual);
    for services in [10, 1000, 100_000] {
        new(&mut group, &format!("tcp4/new/{}-services", short(services)), TCP4, services, Shape::Dual);
        for (mix, name) in [(TCP4, "tcp4"), (TCP6, "tcp6")] {
            miss(&mut group, &format!("{name}/miss/{}-services", short(services)), mix, services);
        }
    }
    for backends in [1, 10, 100, 1000] {
        let id = format!("tcp4/new/{backends}-backends");
        new(&mut group, &id, TCP4, SERVICES, Shape::Backends(backends));
    }
    worst(&mut group, "icmp-error4/hit/1k", || shared::worst::errors(TCP4));
    worst(&mut group, "fragments4/hit/1k", || shared::worst::fragments(UDP4));
    worst(&mut group, "extension-headers6/hit/1k", || shared::worst::extended(TCP6));
    for v4 in [true, false] {
        steer(&mut group, v4);
    }
    group.finish();
    criterion.final_summary();
}

/// Packets of flows that are there, in random order.
fn known(group: &mut Group<'_>, mix: Mix, ways: &[(&str, Direction)]) {
    // Only if the command line asks for one of them.
    let mut rig = None;
    for (name, direction) in ways {
        let mut prepared = None;
        let mut ring = Ring::new(RING);
        let length = prototype(if mix.udp { Kind::Datagram } else { Kind::Ack }, mix.v4).len();
        let packets = packets(ring.frames(length));
        group.bench_function(format!("{name}/{}", short(mix.flows)), |bencher| {
            let rig = rig.get_or_insert_with(|| Rig::new(mix, SERVICES));
            let frames = prepared.get_or_insert_with(|| {
                Random(1).shuffle(&mut rig.flows);
                let way = |flow: &Flow| if *direction == Direction::Original { flow.original } else { flow.reply };
                let kind = if mix.udp { Kind::Datagram } else { Kind::Ack };
                Frames::new(kind, mix.v4, rig.flows.iter().map(way))
            });
            let mut frames = frames.cycle();
            bencher.iter_batched(
                || refresh(&mut packets.borrow_mut(), &mut frames),
                |()| process(&mut rig.balancer, Instant::ORIGIN, &mut packets.borrow_mut()),
                BatchSize::PerIteration,
            );
        });
        for packet in packets.borrow().iter().filter(|_| prepared.is_some()) {
            let rig = rig.as_ref().expect("it was measured");
            let Verdict::Forward { flow, direction: way } = packet.verdict else {
                panic!("not forwarded: {:?}", packet.verdict)
            };
            assert_eq!(way, *direction);
            let flow = rig.balancer.flow(flow).expect("a flow that a packet just had");
            let leaves = if way == Direction::Original { flow.reply } else { flow.original };
            check(packet.data, &leaves.reversed());
        }
    }
}

/// First packets of flows, each from a client not seen before to a service by chance, while others live. Between two
/// rings the flows that the last one began are forgotten, so that their number stays.
fn new(group: &mut Group<'_>, id: &str, mix: Mix, services: usize, shape: Shape) {
    let mut rig = None;
    let mut ring = Ring::new(RING);
    let first = prototype(if mix.udp { Kind::Datagram } else { Kind::Syn }, mix.v4);
    let packets = packets(ring.frames(first.len()));
    let (now, clients) = (Cell::new(0), Cell::new(mix.flows.next_multiple_of(1 << 16)));
    let random = RefCell::new(Random(5));
    group.bench_function(id, |bencher| {
        let rig = RefCell::new(rig.get_or_insert_with(|| Rig::of(mix, services, shape)));
        let fresh = || {
            now.set(now.get() + 2 * SECOND);
            let (mut rig, mut packets) = (rig.borrow_mut(), packets.borrow_mut());
            for packet in packets.iter_mut() {
                if let Verdict::Forward { flow, .. } = packet.verdict {
                    rig.forget(Instant::from_nanos(now.get()), flow);
                }
                packet.data.copy_from_slice(&first);
                let destination = shared::cluster_ip(random.borrow_mut().below(services), mix.v4);
                address(packet.data, &Tuple { destination, ..dial(mix, clients.get()) });
                // Ports wrap around long after the flows of the last round are gone.
                clients.set(if clients.get() >> 16 < 60_000 { clients.get() + 1 } else { 1 << 24 });
            }
        };
        bencher.iter_batched(
            fresh,
            |()| process(&mut rig.borrow_mut().balancer, Instant::from_nanos(now.get()), &mut packets.borrow_mut()),
            BatchSize::PerIteration,
        );
    });
    for packet in packets.borrow().iter().filter(|_| rig.is_some()) {
        let rig = rig.as_ref().expect("it was measured");
        let Verdict::Forward { flow, direction: Direction::Original } = packet.verdict else {
            panic!("not forwarded: {:?}", packet.verdict)
        };
        check(packet.data, &rig.balancer.flow(flow).expect("a flow just begun").reply.reversed());
    }
    if let Some(rig) = rig {
        let live = rig.balancer.flows().filter(|flow| flow.deadline > Instant::from_nanos(now.get())).count();
        assert_eq!(live, mix.flows + RING, "another number of flows than was to be measured");
    }
}

/// Packets of no flow and no service.
fn miss(group: &mut Group<'_>, id: &str, mix: Mix, services: usize) {
    let mut prepared = None;
    let mut ring = Ring::new(RING);
    let packets = packets(ring.frames(prototype(Kind::Ack, mix.v4).len()));
    group.bench_function(id, |bencher| {
        let (rig, frames) = prepared.get_or_insert_with(|| {
            let mut random = Random(2);
            let elsewhere = (0..16_384).map(|number| Tuple {
                destination: shared::client(false, random.next() as u16, mix.v4),
                source_port: random.next() as u16 | 1024,
                ..dial(mix, number)
            });
            (Rig::new(mix, services), Frames::new(Kind::Ack, mix.v4, elsewhere))
        });
        let mut frames = frames.cycle();
        bencher.iter_batched(
            || refresh(&mut packets.borrow_mut(), &mut frames),
            |()| process(&mut rig.balancer, Instant::ORIGIN, &mut packets.borrow_mut()),
            BatchSize::PerIteration,
        );
    });
    assert!(packets.borrow().iter().all(|packet| packet.verdict == Verdict::Pass));
}

/// The packets that take the long way.
fn worst(group: &mut Group<'_>, id: &str, prepare: impl Fn() -> (Rig, Frames)) {
    let (mut prepared, mut ring) = (None, Ring::new(RING));
    let mut verdicts = Vec::new();
    group.bench_function(id, |bencher| {
        let (rig, frames) = prepared.get_or_insert_with(&prepare);
        let packets = packets(ring.frames(frames.length));
        let mut frames = frames.cycle();
        bencher.iter_batched(
            || refresh(&mut packets.borrow_mut(), &mut frames),
            |()| process(&mut rig.balancer, Instant::ORIGIN, &mut packets.borrow_mut()),
            BatchSize::PerIteration,
        );
        verdicts = packets.borrow().iter().map(|packet| packet.verdict).collect();
    });
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Forward { .. })), "not what was to be measured");
}

/// What memory takes: a random line out of as many as there are flows, read and written, and each line naming the next.
fn memory_floors(group: &mut Group<'_>) {
    #[derive(Clone, Copy, Default)]
    #[repr(align(64))]
    struct Line([u32; 16]);

    for flows in [FLOWS.as_slice(), &[MOST_FLOWS]].concat() {
        let mut lines = Vec::new();
        let mut random = Random(4);
        group.bench_function(format!("floor/random-line/{}", short(flows)), |bencher| {
            lines.resize(flows, Line::default());
            let order: Vec<u32> = (0..RING * 4096).map(|_| random.below(flows) as u32).collect();
            let mut rings = order.as_chunks::<RING>().0.iter().cycle();
            bencher.iter(|| {
                for number in rings.next().into_iter().flatten() {
                    lines[*number as usize].0[0] += 1;
                }
            });
        });
        let mut at = 0;
        group.bench_function(format!("floor/pointer-chase/{}", short(flows)), |bencher| {
            lines.resize(flows, Line::default());
            // One cycle through all of them (Sattolo's shuffle).
            let mut next: Vec<u32> = (0..flows as u32).collect();
            (1..flows).rev().for_each(|last| next.swap(last, random.below(last)));
            lines.iter_mut().zip(next).for_each(|(line, next)| line.0[0] = next);
            bencher.iter(|| {
                for _ in 0..RING {
                    at = lines[at as usize].0[0];
                }
                black_box(at)
            });
        });
    }
}

/// Which of four cores packets are for that clients and backends send, by turns.
fn steer(group: &mut Group<'_>, v4: bool) {
    let mix = Mix { v4, udp: false, masquerade: Share::Half, flows: 1000 };
    let steer = Steer::new(4, &[7; 16]);
    let mut rig = None;
    let mut ring = Ring::new(RING);
    let packets = packets(ring.frames(prototype(Kind::Ack, v4).len()));
    group.bench_function(if v4 { "steer/tcp4" } else { "steer/tcp6" }, |bencher| {
        let rig = rig.get_or_insert_with(|| Rig::new(mix, SERVICES));
        let both = |flow: &Flow| [flow.original, flow.reply];
        let frames = Frames::new(Kind::Ack, v4, rig.flows.iter().flat_map(both));
        refresh(&mut packets.borrow_mut(), &mut frames.cycle());
        bencher.iter(|| {
            for packet in packets.borrow().iter() {
                black_box(steer.core(rig.balancer.rules(), packet.data, Link::Ethernet));
            }
        });
    });
}

/// What no packet path can beat: touching each frame; reading and rewriting it without looking anything up.
fn floors(group: &mut Group<'_>) {
    memory_floors(group);
    for v4 in [true, false] {
        let mix = Mix { v4, flows: RING, ..TCP4 };
        let frames = Frames::new(Kind::Ack, v4, (0..RING).map(|number| dial(mix, number)));
        let to = tuple(&prototype(Kind::Ack, v4));
        let mut ring = Ring::new(RING);
        let packets = packets(ring.frames(frames.length));
        let mut frames = frames.cycle();
        if v4 {
            group.bench_function("floor/mac-swap", |bencher| {
                bencher.iter_batched(
                    || refresh(&mut packets.borrow_mut(), &mut frames),
                    |()| {
                        for packet in packets.borrow_mut().iter_mut() {
                            if let Some((one, other)) = packet.data.split_at_mut_checked(6) {
                                one.swap_with_slice(&mut other[..6]);
                            }
                        }
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.bench_function(if v4 { "floor/parse-rewrite-tcp4" } else { "floor/parse-rewrite-tcp6" }, |bencher| {
            bencher.iter_batched(
                || refresh(&mut packets.borrow_mut(), &mut frames),
                |()| {
                    for packet in packets.borrow_mut().iter_mut() {
                        if let Ok(Some(headers)) = parse(packet.data, Link::Ethernet) {
                            let _ = lb_core::nat::rewrite(packet.data, &headers, black_box(&to), Checksum::Complete);
                        }
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
}
