//! Fragments are translated one by one and put together again at the far end: by hand here, with etherparse
//! for headers and checksums.

mod common;

use common::cluster::{node, twins, web};
use common::frames::{self, ETHERNET, check_checksums, fragments, frame_with, sliced};
use common::lab::{Lab, SIZES, config};
use etherparse::{IpNumber, Ipv6FragmentHeader, Ipv6HeaderSlice, NetSlice, SlicedPacket};
use lb_core::control::{Mode, Node, Proxy};
use lb_core::flow::State;
use lb_core::{DropReason, Meta, Sizes, Timeouts, Verdict};
use std::collections::BTreeMap;
use std::time::Duration;

const CLIENT: &str = "10.244.2.9:40000";
const DNS: &str = "10.96.0.10:53";
const POD: &str = "10.244.1.2:5353";

/// The datagram that these fragments make, as a frame; `None` if a part is missing.
fn reassembled(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts = BTreeMap::new();
    let (mut length, mut number, mut ends) = (None, IpNumber::UDP, None);
    for fragment in fragments {
        let packet = SlicedPacket::from_ethernet(fragment).unwrap();
        check_checksums(&packet);
        let payload = packet.ip_payload().unwrap();
        let (offset, more) = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => (ip.header().fragments_offset(), ip.header().more_fragments()),
            NetSlice::Ipv6(_) => {
                let header = Ipv6HeaderSlice::from_slice(&fragment[ETHERNET..]).unwrap();
                assert_eq!(header.next_header(), IpNumber::IPV6_FRAGMENTATION_HEADER);
                let (header, _) = Ipv6FragmentHeader::from_slice(&fragment[ETHERNET + 40..]).unwrap();
                (header.fragment_offset, header.more_fragments)
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        let offset = usize::from(offset.byte_offset());
        number = payload.ip_number;
        parts.insert(offset, payload.payload.to_vec());
        if !more {
            length = Some(offset + payload.payload.len());
        }
        let found = frames::addresses(&packet);
        assert!(ends.is_none_or(|ends| ends == found), "fragments of one datagram went two ways");
        ends = Some(found);
    }
    let mut payload = Vec::new();
    for (offset, part) in parts {
        if offset != payload.len() {
            return None;
        }
        payload.extend(part);
    }
    let (source, destination) = ends?;
    if Some(payload.len()) != length {
        return None;
    }
    let mut frame = Vec::new();
    frames::ethernet(frames::ip_headers(source, destination)).write(&mut frame, number, &payload).unwrap();
    Some(frame)
}

/// Sends fragments through, keeping those that are to be held and submitting them again when released, as a
/// caller does. Gives what left, in order, and every verdict's word.
fn through(lab: &mut Lab, fragments: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut left, mut words, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for fragment in fragments {
        let sent = lab.send(fragment);
        words.push(Verdict::label(sent.verdict.code()).unwrap().to_owned());
        match sent.verdict {
            Verdict::Forward { .. } => left.push(sent.frame),
            Verdict::Hold(datagram) => held.push((datagram, sent.frame)),
            _ => {}
        }
        let Some(released) = sent.releases else { continue };
        let (go, stay) = held.into_iter().partition(|(datagram, _)| *datagram == released);
        held = stay;
        for (_, fragment) in go {
            let sent = lab.send(&fragment);
            words.push(format!("again: {}", Verdict::label(sent.verdict.code()).unwrap()));
            if let Verdict::Forward { .. } = sent.verdict {
                left.push(sent.frame);
            }
        }
    }
    (left, words)
}

fn payload() -> Vec<u8> {
    (0..3000u32).map(|n| (n * 7 + n / 256) as u8).collect()
}

#[test]
fn whatever_the_order_the_far_end_gets_the_datagram() {
    let orders: [&[usize]; 6] = [&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]];
    // Client, Vip, and the two ends that the backend sees; `*` is the port chosen.
    let ways = [
        ("udp", CLIENT, DNS, "10.244.2.9:40000 > 10.244.1.2:5353"),
        ("udp", "203.0.113.5:40000", "198.51.100.7:53", "192.0.2.10:* > 10.244.1.2:5353"),
        ("udp", "10.244.1.2:40000", DNS, "192.0.2.10:* > 10.244.1.2:5353"),
        ("A", CLIENT, "10.96.0.10:80", "10.244.2.9:40000 > 10.244.1.2:8080"),
    ];
    for (kind, client, vip, expected) in ways {
        for (order, v6) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
            let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
            let mut lab = Lab::web(&["10.244.1.2 node-a"]);
            let whole = frame_with(kind, &named(client), &named(vip), &payload());
            let parts = fragments(&whole, &[1208, 2400], 77);
            let shuffled: Vec<_> = order.iter().map(|n| parts[*n].clone()).collect();
            let (left, words) = through(&mut lab, &shuffled);
            let first = order.iter().position(|n| *n == 0).unwrap();
            let name = format!("{kind} to {vip}, {order:?}, v6: {v6}: {words:?}");
            assert_eq!(words.iter().filter(|word| *word == "hold").count(), first, "{name}");
            let datagram = reassembled(&left).expect(&name);
            let ends = frames::ends(&datagram, true);
            let (from, to) = ends.split_once(" > ").unwrap();
            let port = from.rsplit_once(':').unwrap().1;
            assert_eq!(ends, named(expected).replace('*', port), "{name}");
            assert!(datagram.ends_with(&payload()), "{name}");
            // One flow, one turn of it, and the answer finds its way in fragments too.
            assert_eq!(lab.engine.counters().flows_created, 1, "{name}");
            let answer = fragments(&frame_with(kind, to, from, &payload()), &[1480, 2960], 78);
            let (back, words) = through(&mut lab, &[answer[1].clone(), answer[0].clone(), answer[2].clone()]);
            assert_eq!(words, ["hold", "forward-reply", "again: forward-reply", "forward-reply"], "{name}");
            let back = reassembled(&back).expect(&name);
            assert_eq!(frames::ends(&back, true), format!("{} > {}", named(vip), named(client)), "{name}");
        }
    }
}

/// An ICMP error is translated in pieces too, and all of them alike (§11.8): the client finds in it what it sent.
#[test]
fn an_error_in_pieces_arrives_as_one() {
    let orders: [&[usize]; 4] = [&[0, 1, 2], &[0, 2, 1], &[1, 2, 0], &[2, 0, 1]];
    let (client, vip, router) = ("203.0.113.5:40000", "198.51.100.7:53", "10.244.1.2");
    for (order, v6) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let name = format!("{order:?}, v6: {v6}");
        let mut lab = Lab::web(&["10.244.1.2 node-a"]);
        let asked = frame_with("udp", &named(client), &named(vip), &payload()[..1200]);
        let sent = lab.send(&asked);
        let ends = sent.to_string();
        let node = ends.strip_prefix("-> ").and_then(|ends| ends.split_once(" > ")).expect(&ends).0;
        let node = node.parse::<std::net::SocketAddr>().unwrap().ip();
        let told = frames::ethernet(frames::ip_headers(named(router).parse().unwrap(), node));
        let quote = &sent.frame[ETHERNET..ETHERNET + 1200];
        let mut whole = Vec::new();
        match v6 {
            true => told.icmpv6_raw(2, 0, [0, 0, 5, 0]).write(&mut whole, quote).unwrap(),
            false => told.icmpv4_raw(3, 4, [0, 0, 5, 0]).write(&mut whole, quote).unwrap(),
        }
        let parts = fragments(&whole, &[400, 800], 99);
        let shuffled: Vec<_> = order.iter().map(|n| parts[*n].clone()).collect();
        let (left, words) = through(&mut lab, &shuffled);
        if !v6 && order[0] != 0 {
            // Over IPv4 an error is never so long that it needs this (RFC 1812 §4.3.2.3); what comes too early is not held, as
            // it would be for every ping in pieces.
            let early = order.iter().take_while(|n| **n != 0).count();
            assert!(words[..early].iter().all(|word| word == "pass"), "{name}: {words:?}");
            assert!(words[early..].iter().all(|word| word.starts_with("forward")), "{name}: {words:?}");
            continue;
        }
        let arrived = reassembled(&left).expect(&name);
        let packet = sliced(&arrived, true);
        check_checksums(&packet);
        assert_eq!(frames::addresses(&packet).1, named(client).parse::<std::net::SocketAddr>().unwrap().ip(), "{name}");
        // Behind the error's own headers: what the client sent, as far as it was quoted.
        assert!(arrived.ends_with(&asked[ETHERNET..ETHERNET + 1200]), "{name}");
        // Pieces of an error about nothing known are the business of their receiver.
        let mut other = Lab::web(&["10.244.1.2 node-a"]);
        assert!(through(&mut other, &parts).1.iter().all(|word| word == "pass"), "{name}");
    }
}

/// A flow that has ended leaves its name to another, whose the rest of the error is not.
#[test]
fn the_rest_of_an_error_is_no_other_flows() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let sent = lab.send(&frame_with("udp", CLIENT, DNS, &payload()[..1200]));
    let Verdict::Forward { flow: ended, .. } = sent.verdict else { panic!("{sent}") };
    let told = frames::ip_headers("10.244.1.2".parse().unwrap(), "10.244.2.9".parse().unwrap());
    let mut whole = Vec::new();
    frames::ethernet(told).icmpv4_raw(3, 4, [0, 0, 5, 0]).write(&mut whole, &sent.frame[ETHERNET..]).unwrap();
    let pieces = fragments(&whole, &[400, 800], 99);
    for piece in &pieces[..2] {
        assert!(matches!(lab.send(piece).verdict, Verdict::Forward { flow, .. } if flow == ended));
    }
    lab.engine.forget(ended);
    let another = lab.kind("udp", "10.244.2.8:40000", DNS).verdict;
    assert!(matches!(another, Verdict::Forward { flow, .. } if flow == ended), "{another:?} has another name");
    assert_eq!(lab.send(&pieces[2]).verdict, Verdict::Pass);
}

#[test]
fn datagrams_do_not_mix() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let other = "10.244.2.8:40001";
    let one = fragments(&frame_with("udp", CLIENT, DNS, &payload()), &[1208], 77);
    let next = fragments(&frame_with("udp", "10.244.2.9:40002", DNS, &payload()), &[1208], 78);
    let same_id = fragments(&frame_with("udp", other, DNS, &payload()), &[1208], 77);
    // Later fragments first, then the firsts in another order: each goes where its own first went.
    let sequence = [&one[1], &next[1], &same_id[1], &next[0], &same_id[0], &one[0]].map(Clone::clone);
    let (left, words) = through(&mut lab, &sequence);
    assert_eq!(words[..3], ["hold", "hold", "hold"]);
    assert_eq!(left.len(), 6);
    for (pair, expected) in left.chunks(2).zip(["10.244.2.9:40002", other, CLIENT]) {
        let datagram = reassembled(pair).expect("each first and its own later fragment, side by side");
        assert_eq!(frames::ends(&datagram, true), format!("{expected} > {POD}"));
    }
}

/// Nor those of two worlds in which the same addresses are others' (`Meta::zone`).
#[test]
fn zones_do_not_mix() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let [one, other] = ["10.244.2.9:40000", "10.244.2.9:40001"]
        .map(|client| fragments(&frame_with("udp", client, DNS, &payload()), &[1208], 77));
    let mut send = |fragment: &[u8], zone| lab.send_as(fragment, Meta { zone, ..Meta::default() });
    assert!(matches!(send(&one[0], 1).verdict, Verdict::Forward { .. }));
    let later = send(&other[1], 2);
    assert!(matches!(later.verdict, Verdict::Hold(_)), "the first of the other zone is none of its own");
    let first = send(&other[0], 2);
    assert_eq!(first.releases.map(Verdict::Hold), Some(later.verdict));
    let left = [first, send(&other[1], 2)].map(|sent| sent.frame);
    assert_eq!(frames::ends(&reassembled(&left).unwrap(), true), format!("10.244.2.9:40001 > {POD}"));
    assert!(matches!(send(&one[1], 1).verdict, Verdict::Forward { .. }));
}

/// A later fragment's header says what the whole datagram begins with, and its sender may think that another header than the
/// first one's says so (RFC 8200 §4.5).
#[test]
fn an_ipv6_datagram_is_named_without_its_protocol() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let mut pieces = fragments(&frame_with("udp", &twins(CLIENT), &twins(DNS), &payload()), &[1208], 77);
    let next_header = &mut pieces[1][ETHERNET + 40];
    assert_eq!(std::mem::replace(next_header, 60), 17);
    for piece in &pieces {
        assert!(matches!(lab.send(piece).verdict, Verdict::Forward { .. }));
    }
}

/// Less than the eight octets in which offsets are counted is a part all the same.
#[test]
fn a_short_end_passes_once() {
    let whole = frame_with("udp", CLIENT, DNS, &payload()[..2997]);
    let length = whole.len() - ETHERNET - 20;
    let (middle, end) = (1208, (length - 1) / 8 * 8);
    assert!(length - end < 8, "{length}");
    let pieces = fragments(&whole, &[middle, end], 77);
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for (piece, expected) in [(0, "forward"), (2, "forward"), (2, "fragment-overlap"), (1, "forward")] {
        let verdict = lab.send(&pieces[piece]).verdict;
        assert_eq!(Verdict::label(verdict.code()), Some(expected), "piece {piece}");
    }
}

#[test]
fn a_fragment_that_overlaps_goes_no_further() {
    // RFC 5722 §4, RFC 8200 §4.5; and over IPv4 as well, against RFC 1858's attacks.
    for v6 in [false, true] {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let whole = frame_with("udp", &named(CLIENT), &named(DNS), &payload());
        let [coarse, fine] = [&[1208][..], &[1200, 1208]].map(|cuts| fragments(&whole, cuts, 77));
        let mut lab = Lab::web(&["10.244.1.2 node-a"]);
        for (fragment, expected) in [
            (&coarse[0], "forward"),
            (&fine[1], "fragment-overlap"),
            (&coarse[0], "fragment-overlap"),
            (&coarse[1], "forward"),
        ] {
            let sent = lab.send(fragment);
            assert_eq!(Verdict::label(sent.verdict.code()), Some(expected), "v6: {v6}");
        }
        // The datagram is complete: its identification may come again.
        let (left, _) = through(&mut lab, &coarse);
        assert!(reassembled(&left).is_some());
    }
}

/// A second first fragment is dropped, and must not speak for the fragments that follow it.
#[test]
fn a_dropped_first_fragment_moves_nothing() {
    let cut = |from: &str, to: &str| fragments(&frame_with("udp", from, to, &payload()), &[1208], 77);
    let genuine = cut(CLIENT, DNS);
    for forged in [cut("10.244.2.9:50000", DNS), cut(CLIENT, "10.96.0.10:9999")] {
        let mut lab = Lab::web(&["10.244.1.2 node-a", "10.244.1.3 node-a", "10.244.1.4 node-a"]);
        let (left, words) = through(&mut lab, &[genuine[0].clone(), forged[0].clone(), genuine[1].clone()]);
        assert_eq!(words, ["forward", "fragment-overlap", "forward"]);
        assert_eq!(lab.engine.flows().count(), 1);
        assert!(reassembled(&left).is_some(), "both halves went to one pod");
    }
}

/// Nor does one of no service that came before it let a flow's own first fragment out untranslated.
#[test]
fn a_first_fragment_of_no_service_hides_none_of_a_flow() {
    let cut = |to: &str| fragments(&frame_with("udp", CLIENT, to, &payload()), &[1208], 77);
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let (_, words) = through(&mut lab, &[cut("10.96.0.10:9999")[0].clone(), cut(DNS)[0].clone()]);
    assert_eq!(words, ["pass", "fragment-overlap"]);
}

/// What dials no service and can be no reply is the business of its receiver: overlapping, early or in numbers.
#[test]
fn fragments_of_no_service_pass_whatever_they_are() {
    let other = fragments(&frame_with("udp", CLIENT, "10.244.9.9:9999", &payload()), &[1208, 2400], 77);
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for fragment in [&other[2], &other[0], &other[0], &other[1], &other[1]] {
        assert_eq!(lab.send(fragment).verdict, Verdict::Pass);
    }
    for identification in 100..200 {
        let many = fragments(&frame_with("udp", CLIENT, "10.244.9.9:9999", &payload()), &[1208], identification);
        assert_eq!(lab.send(&many[0]).verdict, Verdict::Pass);
    }
}

#[test]
fn what_waits_is_forgotten_after_its_time() {
    let timeouts = Timeouts { fragments: Duration::from_secs(30), ..Timeouts::LINUX };
    let config = lb_core::Config { timeouts, ..config() };
    let mut lab = Lab::with(config, SIZES, common::cluster::node(), [web(&["10.244.1.2 node-a"])]);
    let parts = fragments(&frame_with("udp", CLIENT, DNS, &payload()), &[1208, 2400], 77);
    assert!(matches!(lab.send(&parts[0]).verdict, Verdict::Forward { .. }));
    lab.now = 29_999;
    assert!(matches!(lab.send(&parts[1]).verdict, Verdict::Forward { .. }));
    lab.now = 30_000;
    // Its first fragment is not known any more.
    assert!(matches!(lab.send(&parts[2]).verdict, Verdict::Hold(_)));
    // And a first that comes now is a new datagram's.
    assert!(matches!(lab.send(&parts[0]).verdict, Verdict::Forward { .. }));
}

#[test]
fn a_later_fragment_that_outlives_its_tcp_flow_begins_a_tcp_flow() {
    let timeouts = Timeouts { tcp_picked_up: Duration::from_secs(5), ..Timeouts::LINUX };
    let config = lb_core::Config { timeouts, ..config() };
    let mut lab = Lab::with(config, SIZES, common::cluster::node(), [web(&["10.244.1.2 node-a"])]);
    let parts = fragments(&frame_with("A", CLIENT, "10.96.0.10:80", &payload()), &[1208], 77);
    for (at, part) in parts.iter().enumerate() {
        lab.now = at as u64 * 10_000;
        assert!(matches!(lab.send(part).verdict, Verdict::Forward { .. }));
    }
    let states: Vec<State> = lab.engine.flows().map(|flow| flow.state).collect();
    assert_eq!(states, [State::PickedUp]);
}

/// Pieces that are under way when the rules change go with their flow: on to where the first went, while that endpoint serves or nobody
/// does; a UDP flow whose endpoint went moves at once (§11.5), and nobody gets that datagram whole.
#[test]
fn the_rules_may_change_between_two_fragments() {
    let one = ["10.244.1.2 node-a"];
    let other = ["10.244.1.3 node-a"];
    let both = ["10.244.1.2 node-a", "10.244.1.3 node-a"];
    // What becomes of the endpoints, and where the pieces and the next datagram go: `-` nowhere.
    for (what, changed, rest, next) in [
        ("another comes", &both[..], "10.244.1.2", "10.244.1.2"),
        ("nothing", &one, "10.244.1.2", "10.244.1.2"),
        ("it goes, another is there", &other, "10.244.1.3", "10.244.1.3"),
        ("it goes, nobody is left", &[], "10.244.1.2", "10.244.1.2"),
    ] {
        for order in [[0, 1, 2], [1, 0, 2]] {
            let mut lab = Lab::web(&one);
            let parts = fragments(&frame_with("udp", CLIENT, DNS, &payload()), &[1208, 2400], 77);
            let shuffled: Vec<_> = order.iter().map(|n| parts[*n].clone()).collect();
            let (left, _) = through(&mut lab, &shuffled[..2]);
            assert_eq!(left.len(), 2, "{what}");
            lab.put(web(changed));
            let to = |sent: &common::lab::Sent| frames::addresses(&sliced(&sent.frame, true)).1.to_string();
            let last = lab.send(&parts[2]);
            assert_eq!(to(&last), rest, "{what}, {order:?}");
            let whole = lab.send(&frame_with("udp", CLIENT, DNS, b"next"));
            assert_eq!(to(&whole), next, "{what}, {order:?}");
        }
    }
}

#[test]
fn no_room_for_another_datagram() {
    let sizes = Sizes { fragments: 2, ..SIZES };
    let mut lab = Lab::with(config(), sizes, common::cluster::node(), [web(&["10.244.1.2 node-a"])]);
    let datagram = |n: u32| fragments(&frame_with("udp", CLIENT, DNS, &payload()), &[1208], n);
    for n in 0..2 {
        assert!(matches!(lab.send(&datagram(n)[0]).verdict, Verdict::Forward { .. }));
    }
    assert_eq!(lab.send(&datagram(2)[0]).verdict, Verdict::Drop(DropReason::FragmentTableFull));
    assert!(matches!(lab.send(&datagram(0)[1]).verdict, Verdict::Forward { .. }), "one is complete");
    assert!(matches!(lab.send(&datagram(2)[0]).verdict, Verdict::Forward { .. }));
}

/// nftables mode drops what a Service's address range has of no Service (SEMANTICS §6.6), in pieces and out of order as well.
#[test]
fn fragments_to_an_unallocated_cluster_ip_wait_for_their_first() {
    let nftables = Node { proxy: Proxy { mode: Mode::NFTABLES, ..node().proxy }, ..node() };
    let mut lab = Lab::new(nftables, [web(&["10.244.1.2 node-a"])]);
    let [first, later] = &fragments(&frame_with("udp", CLIENT, "10.96.0.200:53", &payload()), &[1208], 3)[..] else {
        panic!("two pieces")
    };
    let (out, words) = through(&mut lab, &[later.clone(), first.clone()]);
    assert_eq!(words, ["hold", "unallocated-cluster-ip", "again: unallocated-cluster-ip"]);
    assert!(out.is_empty());
}

#[test]
fn fragments_of_no_service_pass_and_those_of_an_unserved_one_are_refused() {
    let mut lab = Lab::web(&[]);
    let elsewhere = fragments(&frame_with("udp", CLIENT, "10.244.1.7:53", &payload()), &[1208], 1);
    let (_, words) = through(&mut lab, &elsewhere);
    assert_eq!(words, ["pass", "pass"]);
    // While there was no flow yet, nothing but what dials a service's address can be ours; then anything may.
    let early = [elsewhere[1].clone(), elsewhere[0].clone()];
    assert_eq!(through(&mut lab, &early).1, ["pass", "pass"]);
    let mut served = Lab::web(&["10.244.1.2 node-a"]);
    let _ = served.kind("udp", CLIENT, DNS);
    assert_eq!(through(&mut served, &early).1, ["hold", "pass", "again: pass"]);
    let unserved = fragments(&frame_with("udp", CLIENT, DNS, &payload()), &[1208], 2);
    let (_, words) = through(&mut lab, &unserved);
    assert_eq!(words, ["no-endpoints", "no-endpoints"]);
    assert_eq!(lab.engine.flows().count(), 0);
}
