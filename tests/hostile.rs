//! What no honest host sends, a line a packet: each has a verdict with a name, nothing comes of it, and a connection that goes on
//! beside it never notices.

#![allow(unreachable_pub, reason = "the modules have other users too")]

mod common;
#[path = "invariants/packets.rs"]
#[allow(dead_code, reason = "the invariants use the rest")]
mod packets;

use common::cluster::{address, node, service, slice, twin, web};
use common::lab::Lab;
use lb_core::control::{Mode, Node, Proxy};
use lb_core::{Link, Meta, Origin, Protocol, Tuple, Verdict};
use packets::{Part, Spec};

const CLIENT: &str = "203.0.113.5";
const WEB: &str = "10.96.0.10";

fn tuple(protocol: Protocol, from: (&str, u16), to: (&str, u16)) -> Tuple {
    let (source, destination) = (address(from.0), address(to.0));
    Tuple { source, destination, source_port: from.1, destination_port: to.1, protocol, zone: 0 }
}

fn tcp(from: &str, to: &str) -> Spec {
    Spec::new(tuple(Protocol::TCP, (from, 40_000), (to, 80)), 2)
}

fn udp(from: &str, to: &str) -> Spec {
    Spec::new(tuple(Protocol::UDP, (from, 40_000), (to, 53)), 0)
}

fn sctp(from: &str, to: &str) -> Spec {
    Spec::new(tuple(Protocol::SCTP, (from, 40_000), (to, 80)), 1)
}

fn v6(v4: &str) -> String {
    twin(v4.parse().expect(v4)).to_string()
}

/// The packet with these octets in the place of what is there.
fn with(mut packet: Vec<u8>, at: usize, octets: &[u8]) -> Vec<u8> {
    packet[at..at + octets.len()].copy_from_slice(octets);
    packet
}

/// An IPv6 SYN with these extension headers: kind and octets without the first, which says what follows.
fn extended(headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let packet = tcp(&v6(CLIENT), &v6(WEB)).packet();
    let mut chain = Vec::new();
    for (n, (_, octets)) in headers.iter().enumerate() {
        chain.push(headers.get(n + 1).map_or(6, |(kind, _)| *kind));
        chain.extend(octets);
    }
    let length = (packet.len() - 40 + chain.len()) as u16;
    let mut extended = [&packet[..40], &chain, &packet[40..]].concat();
    extended[4..6].copy_from_slice(&length.to_be_bytes());
    extended[6] = headers[0].0;
    extended
}

/// The frame with so many VLAN tags.
fn tagged(packet: Vec<u8>, tags: usize) -> Vec<u8> {
    let macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    [&macs[..], &[0x81, 0, 0, 1].repeat(tags), &[8, 0], &packet].concat()
}

fn part(spec: Spec, start: usize, end: usize, identification: u16) -> Vec<u8> {
    Spec { payload: 64, ..spec }.part(Part { start, end, identification }).expect("within it")
}

/// A connection's first three packets, and what they come to.
fn connect(lab: &mut Lab) {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    let there = tcp(CLIENT, WEB);
    let there = Spec { tuple: Tuple { source_port: 50_000, ..there.tuple }, ..there };
    let sent = lab.send_as(&there.packet(), ip);
    let Verdict::Forward { flow, .. } = sent.verdict else { panic!("{:?}", sent.verdict) };
    let reply = lab.engine.flow(flow).expect("it was just begun").reply;
    let answer = lab.send_as(&Spec::new(reply, 0x12).packet(), ip);
    assert_eq!(answer.frame, Spec::new(there.tuple.reversed(), 0x12).packet());
    assert_eq!(lab.send_as(&Spec { flags: 0x10, ..there }.packet(), ip).verdict, sent.verdict);
}

fn check(mode: Mode, cases: Vec<(&str, Vec<u8>, Meta, &str)>) {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    for (name, packet, meta, expected) in cases {
        let proxy = Proxy { mode, ..node().proxy };
        let gone =
            (service("gone", "10.96.0.13", &["tcp:80", "udp:53"]), slice("gone", &["tcp:8080", "udp:5353"], &[]));
        let mut lab = Lab::new(Node { proxy, ..node() }, [web(&["10.244.1.2 node-a", "10.244.1.3 node-a"]), gone]);
        connect(&mut lab);
        let flows: Vec<_> = lab.engine.flows().collect();
        let verdict = lab.send_as(&packet, meta).verdict;
        assert_eq!(Verdict::label(verdict.code()), Some(expected), "{name}");
        let is_new = !matches!(verdict, Verdict::Forward { .. });
        assert!(!is_new || lab.engine.flows().eq(flows.iter().copied()), "{name}: something came of it");
        // The connection goes on.
        let there = Tuple { source_port: 50_000, ..tcp(CLIENT, WEB).tuple };
        let sent = lab.send_as(&Spec::new(there, 0x10).packet(), ip).verdict;
        assert!(matches!(sent, Verdict::Forward { .. }), "{name}: {sent:?} of an established flow");
    }
}

#[test]
fn forged_sources() {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    let pod = Meta { origin: Origin::Pod, ..ip };
    let own = Meta { origin: Origin::Node, ..ip };
    let loopback_to = |node: &str| Spec::new(tuple(Protocol::TCP, ("127.0.0.1", 40_000), (node, 30_080)), 2).packet();
    let land = |from: &str, port: u16| Spec::new(tuple(Protocol::TCP, (from, port), (from, port)), 2).packet();
    check(
        Mode::IPTABLES,
        vec![
            ("multicast dials a Service", tcp("224.0.0.1", WEB).packet(), ip, "martian-source"),
            ("multicast, UDP", udp("239.255.255.250", WEB).packet(), ip, "martian-source"),
            ("limited broadcast", udp("255.255.255.255", WEB).packet(), ip, "martian-source"),
            ("class E", tcp("240.0.0.1", WEB).packet(), ip, "martian-source"),
            ("the unspecified address", tcp("0.0.0.0", WEB).packet(), ip, "martian-source"),
            ("the zero network", tcp("0.1.2.3", WEB).packet(), ip, "martian-source"),
            ("IPv6 multicast", tcp("ff02::1", &v6(WEB)).packet(), ip, "martian-source"),
            ("IPv6 unspecified", tcp("::", &v6(WEB)).packet(), ip, "martian-source"),
            ("loopback from a pod", tcp("127.0.0.1", WEB).packet(), pod, "martian-source"),
            ("IPv6 loopback from a pod", tcp("::1", &v6(WEB)).packet(), pod, "martian-source"),
            ("loopback from the wire", tcp("127.0.0.1", WEB).packet(), ip, "martian-source"),
            ("loopback from the wire, to a node port", loopback_to("192.0.2.10"), ip, "martian-source"),
            ("IPv6 loopback from the wire", tcp("::1", &v6(WEB)).packet(), ip, "martian-source"),
            ("loopback by the node itself (§8.1)", tcp("127.0.0.1", WEB).packet(), own, "forward"),
            ("loopback to loopback, as a capture there shows it (§9.5)", loopback_to("127.0.0.1"), ip, "forward"),
            (
                "a martian to a Service without endpoints: refused, and not answered (RFC 1122 §3.2.2)",
                tcp("224.0.0.1", "10.96.0.13").packet(),
                ip,
                "no-endpoints",
            ),
            ("a martian to nobody is nobody's", tcp("224.0.0.1", "198.51.100.99").packet(), ip, "pass"),
            ("LAND at a ClusterIP", land(WEB, 80), ip, "land"),
            ("LAND at an external IP", land("198.51.100.7", 80), ip, "land"),
            ("LAND at a node port", land("192.0.2.10", 30_080), ip, "land"),
            ("LAND over IPv6", land(&v6(WEB), 80), ip, "land"),
            ("from a Vip, another port: a node may (§8.6)", tcp(WEB, WEB).packet(), ip, "forward"),
            (
                "to loopback from outside",
                Spec::new(tuple(Protocol::TCP, (CLIENT, 1), ("127.0.0.1", 22)), 2).packet(),
                ip,
                "loopback-guard",
            ),
            (
                "an IPv4-mapped address",
                with(tcp(&v6(CLIENT), &v6(WEB)).packet(), 8, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4]),
                ip,
                "mapped-address",
            ),
        ],
    );
}

#[test]
fn forged_errors() {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    let router = address("203.0.113.1");
    // What an error about an answer from the Vip to this client would quote.
    let about = |client: (&str, u16), vip: (&str, u16)| Spec::new(tuple(Protocol::TCP, vip, client), 0x10);
    let forged = about((CLIENT, 41_000), (WEB, 80)).time_exceeded(router, 8);
    let nobodys = about((CLIENT, 41_000), ("198.51.100.99", 80)).time_exceeded(router, 8);
    let to_another = |spec: Spec| with(spec.time_exceeded(router, 8), 16, &[10, 96, 0, 11]);
    let short = about((CLIENT, 50_000), (WEB, 80)).time_exceeded(router, 3);
    // RFC 792: type 5, for the host, to a gateway of its choice. Whether its checksum is right, nobody asks.
    let redirect = |client| with(about(client, (WEB, 80)).time_exceeded(router, 8), 20, &[5, 1, 0, 0, 203, 0, 113, 66]);
    check(
        Mode::IPTABLES,
        vec![
            ("about a Vip's packet of no flow", forged, ip, "unrelated-error"),
            ("about nobody's packet", nobodys, ip, "pass"),
            ("that quotes less than ports", short, ip, "pass"),
            (
                "about the connection, to another than sent it",
                to_another(about((CLIENT, 50_000), (WEB, 80))),
                ip,
                "unrelated-error",
            ),
            ("about the connection", about((CLIENT, 50_000), (WEB, 80)).time_exceeded(router, 8), ip, "forward"),
            ("a redirect about the connection", redirect((CLIENT, 50_000)), ip, "redirect"),
            ("a redirect about no connection", redirect((CLIENT, 41_000)), ip, "unrelated-error"),
        ],
    );
}

#[test]
fn fragments() {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    let header_in_two = part(tcp(CLIENT, WEB), 0, 8, 1);
    let past_the_end = with(part(udp(CLIENT, WEB), 8, 24, 2), 6, &[0x1f, 0xff]);
    let empty = {
        let whole = part(udp(CLIENT, WEB), 0, 16, 3);
        with(whole[..20].to_vec(), 2, &[0, 20])
    };
    let misaligned = {
        let piece = part(udp(CLIENT, WEB), 0, 16, 4);
        let length = (piece.len() - 3) as u16;
        with(piece, 2, &length.to_be_bytes())
    };
    check(
        Mode::IPTABLES,
        vec![
            ("a TCP header in two (RFC 1858 §3)", header_in_two, ip, "bad-fragment"),
            ("a later one within the TCP header (RFC 3128 §2)", part(tcp(CLIENT, WEB), 8, 16, 7), ip, "bad-fragment"),
            ("the same over IPv6", part(tcp(&v6(CLIENT), &v6(WEB)), 16, 24, 7), ip, "bad-fragment"),
            ("a later one within the SCTP header", part(sctp(CLIENT, WEB), 8, 16, 7), ip, "bad-fragment"),
            ("past the end of any datagram (ping of death)", past_the_end, ip, "bad-fragment"),
            ("of nothing", empty, ip, "bad-fragment"),
            ("misaligned, and not the last", misaligned, ip, "bad-fragment"),
            ("later, its first not there", part(udp(CLIENT, WEB), 16, 32, 5), ip, "hold"),
        ],
    );
    // Overlaps: teardrop, and a second first that shows other ports (RFC 1858 §4, RFC 5722).
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for (piece, expected) in [
        (part(udp(CLIENT, WEB), 0, 24, 6), "forward"),
        (part(udp(CLIENT, WEB), 16, 32, 6), "fragment-overlap"),
        (part(udp(CLIENT, WEB), 8, 16, 6), "fragment-overlap"),
        (part(udp(CLIENT, "198.51.100.7"), 0, 16, 6), "forward"),
        (part(Spec::new(tuple(Protocol::UDP, (CLIENT, 1), (WEB, 7)), 0), 0, 16, 6), "fragment-overlap"),
        (part(udp(CLIENT, WEB), 24, 40, 6), "forward"),
    ] {
        let verdict = lab.send_as(&piece, ip).verdict;
        assert_eq!(Verdict::label(verdict.code()), Some(expected), "{:?}", &piece[..28]);
    }
}

#[test]
fn lengths_and_headers_that_lie() {
    let ip = Meta { link: Link::Ip, ..Meta::default() };
    let ethernet = Meta::default();
    let syn = || tcp(CLIENT, WEB).packet();
    let syn6 = || tcp(&v6(CLIENT), &v6(WEB)).packet();
    let datagram = || udp(CLIENT, WEB).packet();
    let options = |octets: usize| (60, [&[((octets / 8) - 1) as u8][..], &vec![0; octets - 2]].concat());
    // A hop-by-hop header with a jumbo payload option of 2^31 (RFC 2675 §2), and a payload length of 0.
    let jumbo = with(extended(&[(0, vec![0, 0xc2, 4, 0x80, 0, 0, 0])]), 4, &[0, 0]);
    let jumbo_first = {
        let fragment: (u8, Vec<u8>) = (44, vec![0, 0, 1, 0, 0, 0, 9]);
        with(extended(&[(0, vec![0, 0xc2, 4, 0x80, 0, 0, 0]), fragment]), 4, &[0, 0])
    };
    let jumbo_of = |length: u32, payload: Option<u16>| {
        let option = [&[0, 0xc2, 4][..], &length.to_be_bytes()].concat();
        let packet = extended(&[(0, option)]);
        payload.map_or(packet.clone(), |payload| with(packet, 4, &payload.to_be_bytes()))
    };
    let source_route = (43, vec![2, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    check(
        Mode::IPTABLES,
        vec![
            ("nothing at all", vec![], ip, "truncated"),
            ("an Ethernet header in part", vec![2; 13], ethernet, "truncated"),
            ("an IPv4 header in part", syn()[..19].to_vec(), ip, "truncated"),
            ("a TCP header in part, by the snap length", syn()[..30].to_vec(), ip, "truncated"),
            ("a TCP header in part, by its own length", with(syn(), 2, &[0, 30]), ip, "bad-transport-header"),
            ("version 5", with(syn(), 0, &[0x55]), ip, "pass"),
            ("version 6 in an IPv4 frame", tagged(with(syn(), 0, &[0x65]), 0), ethernet, "bad-ip-header"),
            ("a header of four words", with(syn(), 0, &[0x44]), ip, "bad-ip-header"),
            ("total length within the header", with(syn(), 2, &[0, 19]), ip, "bad-ip-header"),
            ("options past the total length", with(with(syn(), 0, &[0x4f]), 2, &[0, 50]), ip, "bad-ip-header"),
            ("a data offset of four words", with(syn(), 32, &[0x40]), ip, "bad-transport-header"),
            ("a data offset past the end", with(syn(), 32, &[0xf0]), ip, "bad-transport-header"),
            ("a UDP length within its header", with(datagram(), 24, &[0, 7]), ip, "bad-transport-header"),
            ("a UDP length past the packet", with(datagram(), 24, &[0xff, 0xff]), ip, "bad-transport-header"),
            ("an IPv6 header in part", syn6()[..39].to_vec(), ip, "truncated"),
            ("an extension past the packet", with(extended(&[options(8)]), 41, &[200]), ip, "bad-ip-header"),
            ("nine extensions", extended(&vec![options(8); 9]), ip, "too-many-extensions"),
            ("eight of two kilobytes each are walked over", extended(&vec![options(2048); 8]), ip, "forward"),
            (
                "two Fragment headers",
                extended(&[(44, vec![0, 0, 1, 0, 0, 0, 9]), (44, vec![0, 0, 1, 0, 0, 0, 9])]),
                ip,
                "bad-fragment",
            ),
            ("a jumbogram that says more than there is", jumbo, ip, "forward"),
            ("a fragment of a jumbogram (RFC 2675 §3)", jumbo_first, ip, "bad-fragment"),
            ("a jumbogram that is none by its IP header (RFC 2675 §3)", jumbo_of(1 << 31, None), ip, "bad-ip-header"),
            ("a jumbogram that needs not be one", jumbo_of(65_535, Some(0)), ip, "bad-ip-header"),
            ("the smallest jumbogram", jumbo_of(65_536, Some(0)), ip, "forward"),
            ("a source route, not at its end", extended(&[source_route]), ip, "pass"),
            ("two tags", tagged(syn(), 2), ethernet, "forward"),
            ("a tower of tags", tagged(syn(), 3), ethernet, "pass"),
            ("a tower without an end", tagged(syn(), 400), ethernet, "pass"),
            ("tags and nothing behind", tagged(vec![], 2)[..20].to_vec(), ethernet, "truncated"),
        ],
    );
}
