//! The invariants that hold for any sequence of packets: same inputs, same bytes; a batch is its packets in
//! order; when the table is swept changes nothing; every packet is counted once; keys are a bijection; payloads
//! are untouched.

mod common;

use std::collections::BTreeMap;

use common::cluster::{node, service, slice, twins, web};
use common::frames::{self, ETHERNET};
use common::lab::{Engine, Lab, SIZES, config};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv6FragmentHeader, NetSlice, SlicedPacket, TransportSlice};
use lb_core::control::{Node, Proxy};
use lb_core::pick::Scheduler;
use lb_core::{Instant, Meta, Origin, Packet, Sizes, Tuple, Verdict};
use proptest::prelude::*;

/// One packet of a sequence.
#[derive(Clone, Debug)]
struct Step {
    /// Milliseconds since the one before.
    later: u64,
    bytes: Vec<u8>,
    origin: Origin,
}

const ENDS: [&str; 12] = [
    "10.244.2.9:40000",
    "10.244.2.9:40001",
    "203.0.113.5:40000",
    "10.244.1.2:8080",
    "10.244.1.3:8080",
    "10.244.1.2:5353",
    "10.96.0.10:80",
    "10.96.0.10:53",
    "10.96.0.11:80",
    "198.51.100.7:80",
    "192.0.2.10:30080",
    "192.0.2.10:30053",
];

fn whole(kind: &str, from: usize, to: usize, v6: bool) -> Vec<u8> {
    let named = |n: usize| if v6 { twins(ENDS[n]) } else { ENDS[n].to_owned() };
    frames::frame_with(kind, &named(from), &named(to), &[0x5a; 64])
}

/// The first (8 bytes of payload and the header), middle or last part of a datagram.
fn fragment(from: usize, to: usize, v6: bool, part: usize, identification: u8) -> Vec<u8> {
    let frame = whole("udp", from, to, v6);
    let packet = frames::sliced(&frame, true);
    let payload = packet.ip_payload().unwrap().payload;
    let (source, destination) = frames::addresses(&packet);
    let (start, end) = [(0, 16), (16, 40), (40, payload.len())][part];
    let offset = IpFragOffset::try_new((start / 8) as u16).unwrap();
    let more = end != payload.len();
    let mut headers = frames::ip_headers(source, destination);
    match &mut headers {
        IpHeaders::Ipv4(header, _) => {
            (header.fragment_offset, header.more_fragments, header.dont_fragment) = (offset, more, false);
            header.identification = identification.into();
        }
        IpHeaders::Ipv6(_, extensions) => {
            extensions.fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, identification.into()));
        }
    }
    let mut out = Vec::new();
    frames::ethernet(headers).write(&mut out, IpNumber::UDP, &payload[start..end]).unwrap();
    out
}

/// An error about a packet between these ends.
fn error(kind: &str, from: usize, to: usize, v6: bool) -> Vec<u8> {
    let about = whole(kind, from, to, v6);
    let sender = frames::addresses(&frames::sliced(&about, true)).0;
    let router = if v6 { "2001:db8:c::1" } else { "203.0.113.1" };
    let ip = frames::ethernet(frames::ip_headers(router.parse().unwrap(), sender));
    let mut out = Vec::new();
    let quote = &about[ETHERNET..ETHERNET + 48];
    if v6 {
        ip.icmpv6_raw(3, 0, [0; 4]).write(&mut out, quote)
    } else {
        ip.icmpv4_raw(11, 0, [0; 4]).write(&mut out, quote)
    }
    .unwrap();
    out
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let ends = (0..ENDS.len(), 0..ENDS.len(), prop::bool::weighted(0.3));
    let kind = || prop::sample::select(vec!["S", "SA", "A", "FA", "R", "udp", "udp"]);
    prop_oneof![
        12 => (kind(), ends.clone()).prop_map(|(kind, (from, to, v6))| whole(kind, from, to, v6)),
        4 => (ends.clone(), 0..3usize, 0..2u8).prop_map(|((from, to, v6), part, id)| fragment(from, to, v6, part, id)),
        2 => (kind(), ends.clone()).prop_map(|(kind, (from, to, v6))| error(kind, from, to, v6)),
        1 => prop::collection::vec(any::<u8>(), 0..80),
        1 => (kind(), ends, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(kind, (from, to, v6), at, byte)| {
            let mut bytes = whole(kind, from, to, v6);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![6 => Just(0u64), 2 => 0..1000u64, 1 => 0..200_000u64];
    let origin = prop::sample::select(vec![Origin::Wire, Origin::Wire, Origin::Pod, Origin::Node]);
    let step = (later, packet(), origin).prop_map(|(later, bytes, origin)| Step { later, bytes, origin });
    prop::collection::vec(step, 1..60)
}

/// Two services, two backends, room enough that nothing is ever evicted.
fn lab() -> Lab {
    let proxy = Proxy { scheduler: Scheduler::Random, ..node().proxy };
    let other = (service("other", "10.96.0.11", &["tcp:80"]), slice("other", &["tcp:8080"], &["10.244.1.2 node-a"]));
    let sizes = Sizes { fragments: 64, ..SIZES };
    Lab::with(config(), sizes, Node { proxy, ..node() }, [web(&["10.244.1.2 node-a", "10.244.1.3 node-a"]), other])
}

type Outcome = (Verdict, Vec<u8>, Option<u64>);

fn outcome(packet: &Packet<'_>) -> Outcome {
    (packet.verdict, packet.data.to_vec(), packet.releases.map(|datagram| datagram.as_u64()))
}

fn meta(step: &Step) -> Meta {
    Meta { origin: step.origin, ..Meta::default() }
}

/// Each packet by itself; before the nth, `sweep(n)` entries are swept.
fn one_by_one(engine: &mut Engine, steps: &[Step], sweep: impl Fn(usize) -> usize) -> Vec<Outcome> {
    let mut now = 0;
    let run = |(n, step): (usize, &Step)| {
        now += step.later;
        let instant = Instant::from_nanos(now * 1_000_000);
        engine.expire(instant, sweep(n));
        let mut bytes = step.bytes.clone();
        let mut packet = Packet::new(&mut bytes, meta(step));
        let verdict = engine.process(instant, &mut packet);
        assert_eq!(verdict, packet.verdict);
        outcome(&packet)
    };
    steps.iter().enumerate().map(run).collect()
}

/// Packets of one time as one batch.
fn in_batches(engine: &mut Engine, steps: &[Step]) -> Vec<Outcome> {
    let mut now = 0;
    let mut outcomes = Vec::new();
    for steps in steps.chunk_by(|_, next| next.later == 0) {
        now += steps[0].later;
        let mut bytes: Vec<_> = steps.iter().map(|step| step.bytes.clone()).collect();
        let mut batch: Vec<_> =
            bytes.iter_mut().zip(steps).map(|(bytes, step)| Packet::new(bytes, meta(step))).collect();
        engine.process_batch(Instant::from_nanos(now * 1_000_000), &mut batch);
        outcomes.extend(batch.iter().map(outcome));
    }
    outcomes
}

/// Every flow's two keys, none shared.
fn keys(engine: &Engine) -> BTreeMap<Tuple, usize> {
    let mut keys = BTreeMap::new();
    for (n, flow) in engine.flows().enumerate() {
        for key in [flow.original, flow.reply] {
            assert_eq!(keys.insert(key, n), None, "{key} belongs to two flows");
        }
    }
    keys
}

/// Whether a fragment is its datagram's first.
fn is_first(packet: &SlicedPacket<'_>, bytes: &[u8]) -> bool {
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => ip.header().fragments_offset().value() == 0,
        NetSlice::Ipv6(_) => {
            Ipv6FragmentHeader::from_slice(&bytes[ETHERNET + 40..]).unwrap().0.fragment_offset.value() == 0
        }
        NetSlice::Arp(_) => false,
    }
}

/// A packet with this tuple.
fn frame_of(tuple: &Tuple) -> Vec<u8> {
    let end = |address: lb_core::Address, port| std::net::SocketAddr::new(address.into(), port).to_string();
    let kind = if tuple.protocol == lb_core::Protocol::UDP { "udp" } else { "A" };
    let (from, to) = (end(tuple.source, tuple.source_port), end(tuple.destination, tuple.destination_port));
    frames::frame(kind, &from, &to)
}

fn names(outcomes: &[Outcome]) -> Vec<Option<&'static str>> {
    outcomes.iter().map(|(verdict, ..)| Verdict::label(verdict.code())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn batches_repeats_and_sweeps_change_nothing(steps in steps(), budgets in prop::collection::vec(0..200usize, 60)) {
        let expected = one_by_one(&mut lab().engine, &steps, |_| 0);
        prop_assert!(one_by_one(&mut lab().engine, &steps, |_| 0) == expected, "another run");
        prop_assert!(in_batches(&mut lab().engine, &steps) == expected, "in batches");
        // Flows' names are the table's memory, which sweeping frees; what becomes of packets is not.
        let shown = |outcomes: &[Outcome]| -> Vec<_> {
            let bytes = outcomes.iter().map(|(_, bytes, releases)| (bytes.clone(), *releases));
            names(outcomes).into_iter().zip(bytes).collect()
        };
        for (name, sweep) in [("swept often", true), ("swept now and then", false)] {
            let swept = one_by_one(&mut lab().engine, &steps, |n| if sweep { usize::MAX } else { budgets[n] });
            prop_assert!(shown(&swept) == shown(&expected), "{}: {:?}, {:?}", name, names(&swept), names(&expected));
        }
    }

    #[test]
    fn every_packet_counts_once_and_every_flow_is_found_by_both_keys(steps in steps()) {
        let mut lab = lab();
        let outcomes = one_by_one(&mut lab.engine, &steps, |_| 0);
        let counters = lab.engine.counters();
        prop_assert_eq!(counters.packets(), steps.len() as u64);
        for code in 0..Verdict::CODES as u8 {
            let seen = outcomes.iter().filter(|(verdict, ..)| verdict.code() == code).count() as u64;
            prop_assert_eq!(counters.verdict(code), seen, "{:?}", Verdict::label(code));
        }
        let total: u64 = steps.iter().map(|step| step.later).sum();
        let now = Instant::from_nanos(total * 1_000_000);
        while lab.engine.expire(now, usize::MAX) > 0 {}
        let keys = keys(&lab.engine);
        let flows: Vec<_> = lab.engine.flows().collect();
        prop_assert_eq!(keys.len(), flows.len() * 2);
        for flow in flows {
            for (tuple, out, direction) in [(flow.original, flow.reply, "forward"), (flow.reply, flow.original, "forward-reply")] {
                let mut bytes = frame_of(&tuple);
                let mut packet = Packet::new(&mut bytes, Meta::default());
                let verdict = lab.engine.process(now, &mut packet);
                prop_assert_eq!(Verdict::label(verdict.code()), Some(direction), "{}", tuple);
                let reversed = out.reversed();
                let end = |address: lb_core::Address, port| std::net::SocketAddr::new(address.into(), port);
                let expected = format!(
                    "{} > {}",
                    end(reversed.source, reversed.source_port),
                    end(reversed.destination, reversed.destination_port)
                );
                prop_assert_eq!(frames::ends(&bytes, true), expected);
            }
        }
    }

    #[test]
    fn only_addresses_ports_and_checksums_are_written(steps in steps()) {
        let mut lab = lab();
        for (step, (verdict, bytes, _)) in steps.iter().zip(one_by_one(&mut lab.engine, &steps, |_| 0)) {
            prop_assert_eq!(bytes.len(), step.bytes.len());
            if !matches!(verdict, Verdict::Forward { .. }) {
                prop_assert!(bytes == step.bytes, "{:?} wrote", verdict);
                continue;
            }
            let Ok(packet) = SlicedPacket::from_ethernet(&step.bytes) else { continue };
            let payload = match &packet.transport {
                Some(TransportSlice::Tcp(tcp)) => tcp.payload(),
                Some(TransportSlice::Udp(udp)) => udp.payload(),
                Some(_) => continue,
                // etherparse looks for no transport header in fragments; a first one of ours has UDP's.
                None => {
                    let payload = packet.ip_payload().unwrap().payload;
                    if is_first(&packet, &step.bytes) { &payload[8..] } else { payload }
                }
            };
            let at = payload.as_ptr() as usize - step.bytes.as_ptr() as usize;
            prop_assert!(bytes[at..] == step.bytes[at..], "the payload was written to");
            prop_assert_eq!(&bytes[..ETHERNET], &step.bytes[..ETHERNET]);
        }
    }
}
