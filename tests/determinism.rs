//! The invariants that hold for any sequence of packets: same inputs, same bytes; a batch is its packets in
//! order; when the table is swept, or whether rules come as deltas or as whole images, changes nothing; every packet is counted once; keys are a bijection; payloads
//! are untouched.

mod common;

use std::collections::BTreeMap;

use common::cluster::{node, service, slice, twins, web};
use common::frames::{self, ETHERNET};
use common::lab::{Engine, Lab, SIZES, config};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv6FragmentHeader, NetSlice, SlicedPacket, TransportSlice};
use lb_core::control::{Node, Proxy, Service, Slice};
use lb_core::pick::Scheduler;
use lb_core::{Instant, Meta, Origin, Packet, RuleTable, Sizes, Tuple, Verdict};
use proptest::prelude::*;

/// One packet of a sequence.
#[derive(Clone, Debug)]
struct Step {
    /// Milliseconds since the one before.
    later: u64,
    /// Other objects before it.
    change: Option<usize>,
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
    let change = prop::option::weighted(0.1, 0..CHANGES.len());
    let step = (later, change, packet(), origin);
    let step = step.prop_map(|(later, change, bytes, origin)| Step { later, change, bytes, origin });
    prop::collection::vec(step, 1..60)
}

/// What may become of the endpoints of `web`; `other` goes with its last.
const CHANGES: [&[&str]; 5] = [
    &["10.244.1.2 node-a", "10.244.1.3 node-a"],
    &["10.244.1.2 node-a"],
    &["10.244.1.2 node-a terminating", "10.244.1.3 node-a"],
    &["10.244.1.2 node-a down", "10.244.1.3 node-a"],
    &[],
];

/// How the engine is told of changes.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Deltas,
    Images,
}

fn change(lab: &mut Lab, told: Told, endpoints: &[&str]) {
    let (service, slice) = other();
    match endpoints {
        [] => lab.control.remove_service(&service.name),
        _ => lab.control.put_service(service),
    }
    lab.control.put_slice(slice);
    lab.control.put_slice(web(endpoints).1);
    match told {
        Told::Deltas => lab.update(),
        Told::Images => {
            let image = lab.control.image().unwrap();
            drop(lab.engine.swap_rules(RuleTable::load(image).unwrap()));
        }
    }
}

fn other() -> (Service, Slice) {
    (
        service("other", "10.96.0.11", &["tcp:80", "udp:53"]),
        slice("other", &["tcp:8080", "udp:5353"], &["10.244.1.2 node-a"]),
    )
}

/// Room enough that nothing is ever evicted.
const ROOMY: Sizes = Sizes { fragments: 64, ..SIZES };
/// So little room that most flows have to go for others.
const TIGHT: Sizes = Sizes { v4_flows: 5, v6_flows: 3, fragments: 2, ..SIZES };

/// Two services, two backends.
fn lab(sizes: Sizes) -> Lab {
    let proxy = Proxy { scheduler: Scheduler::Random, ..node().proxy };
    Lab::with(config(), sizes, Node { proxy, ..node() }, [web(CHANGES[0]), other()])
}

type Outcome = (Verdict, Vec<u8>, Option<u64>);

fn outcome(packet: &Packet<'_>) -> Outcome {
    (packet.verdict, packet.data.to_vec(), packet.releases.map(|datagram| datagram.as_u64()))
}

fn meta(step: &Step) -> Meta {
    Meta { origin: step.origin, ..Meta::default() }
}

/// Each packet by itself; before the nth, `sweep(n)` entries are swept.
fn one_by_one(lab: &mut Lab, told: Told, steps: &[Step], sweep: impl Fn(usize) -> usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        lab.now += step.later;
        if let Some(number) = step.change {
            change(lab, told, CHANGES[number]);
        }
        lab.engine.expire(lab.instant(), sweep(n));
        let mut bytes = step.bytes.clone();
        let mut packet = Packet::new(&mut bytes, meta(step));
        let verdict = lab.engine.process(lab.instant(), &mut packet);
        assert_eq!(verdict, packet.verdict);
        outcomes.push(outcome(&packet));
    }
    outcomes
}

/// Packets of one time and one set of rules as one batch.
fn in_batches(lab: &mut Lab, steps: &[Step]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for steps in steps.chunk_by(|_, next| next.later == 0 && next.change.is_none()) {
        lab.now += steps[0].later;
        if let Some(number) = steps[0].change {
            change(lab, Told::Deltas, CHANGES[number]);
        }
        let mut bytes: Vec<_> = steps.iter().map(|step| step.bytes.clone()).collect();
        let mut batch: Vec<_> =
            bytes.iter_mut().zip(steps).map(|(bytes, step)| Packet::new(bytes, meta(step))).collect();
        lab.engine.process_batch(lab.instant(), &mut batch);
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
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() })]

    #[test]
    fn batches_repeats_and_sweeps_change_nothing(steps in steps(), budgets in prop::collection::vec(0..200usize, 60)) {
        for sizes in [TIGHT, ROOMY] {
            let expected = one_by_one(&mut lab(sizes), Told::Deltas, &steps, |_| 0);
            prop_assert!(one_by_one(&mut lab(sizes), Told::Deltas, &steps, |_| 0) == expected, "another run");
            let told = one_by_one(&mut lab(sizes), Told::Images, &steps, |_| 0);
            prop_assert!(told == expected, "by images: {:?}, by deltas: {:?}", names(&told), names(&expected));
            prop_assert!(in_batches(&mut lab(sizes), &steps) == expected, "in batches");
        }
        let expected = one_by_one(&mut lab(ROOMY), Told::Deltas, &steps, |_| 0);
        // Flows' names are the table's memory, which sweeping frees; what becomes of packets is not.
        let shown = |outcomes: &[Outcome]| -> Vec<_> {
            let bytes = outcomes.iter().map(|(_, bytes, releases)| (bytes.clone(), *releases));
            names(outcomes).into_iter().zip(bytes).collect()
        };
        for (name, sweep) in [("swept often", true), ("swept now and then", false)] {
            let swept = one_by_one(&mut lab(ROOMY), Told::Deltas, &steps, |n| if sweep { usize::MAX } else { budgets[n] });
            prop_assert!(shown(&swept) == shown(&expected), "{}: {:?}, {:?}", name, names(&swept), names(&expected));
        }
    }

    #[test]
    fn every_packet_counts_once_and_every_flow_is_found_by_both_keys(steps in steps(), tight in any::<bool>()) {
        // A change would let flows move at their next packet.
        let steps: Vec<Step> = steps.into_iter().map(|step| Step { change: None, ..step }).collect();
        let mut lab = lab(if tight { TIGHT } else { ROOMY });
        let outcomes = one_by_one(&mut lab, Told::Deltas, &steps, |_| 0);
        let counters = lab.engine.counters();
        prop_assert_eq!(counters.packets(), steps.len() as u64);
        for code in 0..Verdict::CODES as u8 {
            let seen = outcomes.iter().filter(|(verdict, ..)| verdict.code() == code).count() as u64;
            prop_assert_eq!(counters.verdict(code), seen, "{:?}", Verdict::label(code));
        }
        let now = lab.instant();
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
    fn nothing_expires_before_the_next_deadline_and_all_of_it_by_and_by(steps in steps()) {
        let mut lab = lab(ROOMY);
        one_by_one(&mut lab, Told::Deltas, &steps, |n| n % 4);
        let mut now = lab.instant().as_nanos();
        let mut naps = 0;
        while let Some(deadline) = lab.engine.next_deadline() {
            if deadline.as_nanos() > now {
                let just_before = Instant::from_nanos(deadline.as_nanos() - 1);
                prop_assert_eq!(lab.engine.expire(just_before, usize::MAX), 0);
                now = deadline.as_nanos();
            }
            lab.engine.expire(Instant::from_nanos(now), usize::MAX);
            naps += 1;
            prop_assert!(naps <= 2 * steps.len(), "the host would wake for nothing");
        }
        prop_assert_eq!(lab.engine.flows().count(), 0);
    }

    #[test]
    fn only_addresses_ports_and_checksums_are_written(steps in steps()) {
        let mut lab = lab(ROOMY);
        for (step, (verdict, bytes, _)) in steps.iter().zip(one_by_one(&mut lab, Told::Deltas, &steps, |_| 0)) {
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
