//! ICMP errors: those about a flow's packets, translated both ways (SEMANTICS §11.8), and the engine's own
//! refusals (§6.4).
//!
//! The judge of a translated error is what its receiver once sent: it must find that in the quote, byte for
//! byte, and every checksum right.

mod common;

use std::net::IpAddr;

use common::cluster::{node, twins, web};
use common::frames::{self, ETHERNET, check_checksums, frame, sliced};
use common::lab::{Lab, SIZES};
use etherparse::checksum::Sum16BitWords;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, TransportSlice, icmpv6};
use lb_core::control::{Mode, Node, Proxy};
use lb_core::{Checksum, Config, Link, Meta, Packet, RejectReason, Verdict};

const CLIENT: &str = "10.244.2.9:40000";
const WEB: &str = "10.96.0.10:80";

/// What a sender may be told, and how it looks: type, code, and the four bytes after the checksum.
#[derive(Clone, Copy, Debug)]
enum What {
    TooBig,
    PortUnreachable,
    TimeExceeded,
}

impl What {
    const ALL: [Self; 3] = [Self::TooBig, Self::PortUnreachable, Self::TimeExceeded];

    /// RFC 792, RFC 1191 §4; RFC 4443 §3.
    fn bytes(self, v6: bool) -> [u8; 6] {
        match (self, v6) {
            (Self::TooBig, false) => [3, 4, 0, 0, 0x05, 0x14],
            (Self::PortUnreachable, false) => [3, 3, 0, 0, 0, 0],
            (Self::TimeExceeded, false) => [11, 0, 0, 0, 0, 0],
            (Self::TooBig, true) => [2, 0, 0, 0, 0x05, 0x14],
            (Self::PortUnreachable, true) => [1, 4, 0, 0, 0, 0],
            (Self::TimeExceeded, true) => [3, 0, 0, 0, 0, 0],
        }
    }
}

/// An error by `from` to `to` about an Ethernet frame, of which it quotes the IP headers and this many bytes.
fn error(what: What, from: &str, to: &str, about: &[u8], behind: usize) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let headers = if from.is_ipv4() { 20 } else { 40 };
    let quote = &about[ETHERNET..about.len().min(ETHERNET + headers + behind)];
    let ip = frames::ethernet(frames::ip_headers(from, to));
    let mut frame = Vec::new();
    match (from, what) {
        (IpAddr::V4(_), What::TooBig) => {
            let next_hop_mtu = 1300;
            ip.icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu }))
                .write(&mut frame, quote)
        }
        (IpAddr::V4(_), What::PortUnreachable) => {
            ip.icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port)).write(&mut frame, quote)
        }
        (IpAddr::V4(_), What::TimeExceeded) => ip.icmpv4_raw(11, 0, [0; 4]).write(&mut frame, quote),
        (IpAddr::V6(_), What::TooBig) => ip.icmpv6(Icmpv6Type::PacketTooBig { mtu: 1300 }).write(&mut frame, quote),
        (IpAddr::V6(_), What::PortUnreachable) => {
            ip.icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)).write(&mut frame, quote)
        }
        (IpAddr::V6(_), What::TimeExceeded) => ip.icmpv6_raw(3, 0, [0; 4]).write(&mut frame, quote),
    }
    .unwrap();
    frame
}

/// The type, code and parameter of an error, and what it quotes.
fn read(frame: &[u8]) -> ([u8; 6], Vec<u8>) {
    let packet = sliced(frame, true);
    check_checksums(&packet);
    match packet.transport.expect("ICMP") {
        TransportSlice::Icmpv4(icmp) => {
            let [a, b, c, d] = icmp.bytes5to8();
            ([icmp.type_u8(), icmp.code_u8(), a, b, c, d], icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(icmp) => {
            let [a, b, c, d] = icmp.bytes5to8();
            ([icmp.type_u8(), icmp.code_u8(), a, b, c, d], icmp.slice()[8..].to_vec())
        }
        other => panic!("{other:?}"),
    }
}

struct Case {
    name: &'static str,
    /// The flow's first packet: what, from where, to where.
    opening: (&'static str, &'static str, &'static str),
    /// Whose packet the error is about: the client's, or the backend's answer.
    about_client: bool,
    /// Who sends the error. `*` is whom the backend sees.
    by: &'static str,
    /// Outer source and destination after translation.
    expected: &'static str,
}

/// Linux' nf_nat translates the outer addresses of an error as those of a packet of its direction: behind a
/// Vip no other address shows, and where the client's own address is kept, so is that of a router near it.
const CASES: &[Case] = &[
    Case {
        name: "a router behind the Vip, about a TCP segment",
        opening: ("A", CLIENT, WEB),
        about_client: true,
        by: "192.0.2.1",
        expected: "-- 10.96.0.10 > 10.244.2.9",
    },
    Case {
        name: "the backend, about a UDP datagram",
        opening: ("udp", CLIENT, "10.96.0.10:53"),
        about_client: true,
        by: "10.244.1.2",
        expected: "-- 10.96.0.10 > 10.244.2.9",
    },
    Case {
        name: "a router behind the Vip, about a masqueraded segment",
        opening: ("A", "203.0.113.5:40000", "198.51.100.7:80"),
        about_client: true,
        by: "192.0.2.1",
        expected: "-- 198.51.100.7 > 203.0.113.5",
    },
    Case {
        name: "the backend, about a masqueraded datagram to a node port",
        opening: ("udp", "203.0.113.5:40000", "192.0.2.10:30053"),
        about_client: true,
        by: "10.244.1.2",
        expected: "-- 192.0.2.10 > 203.0.113.5",
    },
    Case {
        name: "a router near the client, about an answer",
        opening: ("A", CLIENT, WEB),
        about_client: false,
        by: "203.0.113.1",
        expected: "-- 203.0.113.1 > 10.244.1.2",
    },
    Case {
        name: "the client, about an answer",
        opening: ("udp", CLIENT, "10.96.0.10:53"),
        about_client: false,
        by: "10.244.2.9",
        expected: "-- 10.244.2.9 > 10.244.1.2",
    },
    Case {
        name: "a router near the client of a masqueraded flow, about an answer",
        opening: ("A", "203.0.113.5:40000", "198.51.100.7:80"),
        about_client: false,
        by: "203.0.113.1",
        expected: "-- 192.0.2.10 > 10.244.1.2",
    },
];

/// `-- source > destination` of a packet, checksums right.
fn outer(frame: &[u8]) -> String {
    format!("-- {}", frames::ends(frame, true))
}

#[test]
fn errors_find_their_way_and_quote_what_their_receiver_sent() {
    for case in CASES {
        for (v6, what, behind) in [false, true]
            .into_iter()
            .flat_map(|v6| What::ALL.map(|what| (v6, what)))
            .flat_map(|(v6, what)| [8, 20, 500].map(|behind| (v6, what, behind)))
        {
            let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
            let mut lab = Lab::web(&["10.244.1.2 node-a"]);
            let (kind, client, vip) = (case.opening.0, named(case.opening.1), named(case.opening.2));
            let asked = frame(kind, &client, &vip);
            let forwarded = lab.send(&asked).frame;
            let seen = frames::ends(&forwarded, true);
            let (seen_by_backend, backend) = seen.split_once(" > ").unwrap();
            let answered = frame(kind, backend, seen_by_backend);
            let returned = lab.send(&answered).frame;
            // Who sent a packet, what it sent, and what became of it, which the error is about.
            let (sent, about) = if case.about_client { (asked, forwarded) } else { (answered, returned) };
            let receiver = frames::addresses(&sliced(&about, true)).0.to_string();
            let by = named(case.by);
            let result = lab.send(&error(what, &by, &receiver, &about, behind));
            let name = format!("{}, v6: {v6}, {what:?}, {behind} bytes quoted", case.name);
            assert!(matches!(result.verdict, Verdict::Forward { .. }), "{:?}: {name}", result.verdict);
            assert_eq!(outer(&result.frame), named(case.expected), "{name}");
            let (told, quote) = read(&result.frame);
            assert_eq!(told, what.bytes(v6), "{name}");
            let headers = if v6 { 40 } else { 20 };
            assert_eq!(quote, sent[ETHERNET..sent.len().min(ETHERNET + headers + behind)], "{name}");
        }
    }
}

#[test]
fn an_error_says_nothing_about_the_flows_life() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let forwarded = lab.kind("udp", CLIENT, "10.96.0.10:53").frame;
    lab.now = 29_999;
    let told = lab.send(&error(What::PortUnreachable, "10.244.1.2", "10.244.2.9", &forwarded, 8));
    assert!(matches!(told.verdict, Verdict::Forward { .. }));
    lab.now = 30_000;
    assert_eq!(lab.kind("udp", "10.244.1.2:5353", CLIENT).to_string(), "pass", "30 s after the last datagram");
}

/// What hardware is to finish: of ICMPv6 the field has the pseudo-header's part (RFC 4443 §2.3), of ICMP nothing.
#[test]
fn an_errors_checksum_left_to_hardware_keeps_its_part() {
    for v6 in [false, true] {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let part = |frame: &[u8]| {
            let (source, destination) = frames::addresses(&sliced(frame, true));
            let length = sliced(frame, true).ip_payload().unwrap().payload.len() as u16;
            match (source, destination) {
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let sum = Sum16BitWords::new().add_slice(&source.octets()).add_slice(&destination.octets());
                    (!sum.add_2bytes(length.to_be_bytes()).add_2bytes([0, 58]).ones_complement()).to_ne_bytes()
                }
                _ => [0; 2],
            }
        };
        let mut lab = Lab::web(&["10.244.1.2 node-a"]);
        let forwarded = lab.kind("udp", &named("203.0.113.5:40000"), &named("198.51.100.7:53")).frame;
        let masquerade = frames::addresses(&sliced(&forwarded, true)).0.to_string();
        let mut told = error(What::PortUnreachable, &named("10.244.1.2"), &masquerade, &forwarded, 8);
        let field = ETHERNET + if v6 { 42 } else { 22 };
        let partial = part(&told);
        told[field..field + 2].copy_from_slice(&partial);
        let sent = lab.send_as(&told, Meta { checksum: Checksum::Partial, ..Meta::default() });
        assert!(matches!(sent.verdict, Verdict::Forward { .. }));
        assert_eq!(sent.frame[field..field + 2], part(&sent.frame), "v6: {v6}");
    }
}

/// What an endpoint that is none any more has to say of a datagram is nothing that its client could use.
#[test]
fn an_error_from_where_nobody_serves_is_stale() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let forwarded = lab.kind("udp", CLIENT, "10.96.0.10:53").frame;
    lab.put(web(&["10.244.2.3 node-b"]));
    let told = lab.send(&error(What::PortUnreachable, "10.244.1.2", "10.244.2.9", &forwarded, 8));
    assert_eq!(told.to_string(), "stale-flow");
}

#[test]
fn an_error_is_about_a_flow_of_its_own_zone() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let zone = |zone| Meta { zone, ..Meta::default() };
    let forwarded = lab.send_as(&frame("S", CLIENT, WEB), zone(1)).frame;
    let told = error(What::PortUnreachable, "10.244.1.2", "10.244.2.9", &forwarded, 8);
    assert!(matches!(lab.send_as(&told, zone(1)).verdict, Verdict::Forward { .. }));
    assert_eq!(lab.send_as(&told, zone(2)).verdict, Verdict::Pass);
}

#[test]
fn errors_about_no_flow() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let from_vip = frame("A", WEB, CLIENT);
    let cases = [
        (
            "about a packet that a Vip seems to have sent",
            error(What::TooBig, "203.0.113.1", "10.96.0.10", &from_vip, 8),
            "unrelated-error",
        ),
        (
            "about a node port's",
            error(What::TooBig, "203.0.113.1", "192.0.2.10", &frame("A", "192.0.2.10:30080", CLIENT), 8),
            "unrelated-error",
        ),
        (
            "about a packet to a Vip, from outside",
            error(What::TooBig, "203.0.113.1", "10.244.2.9", &frame("A", CLIENT, WEB), 8),
            "pass",
        ),
        (
            "about a pod's own packet",
            error(What::TooBig, "203.0.113.1", "10.244.2.9", &frame("A", CLIENT, "203.0.113.9:80"), 8),
            "pass",
        ),
        ("that quotes less than ports", error(What::TooBig, "203.0.113.1", "10.96.0.10", &from_vip, 3), "pass"),
        ("that quotes nothing", error(What::TooBig, "203.0.113.1", "10.96.0.10", &from_vip[..ETHERNET], 0), "pass"),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(lab.send(&bytes).to_string(), expected, "{name}");
    }
    assert_eq!(lab.engine.flows().count(), 0);
}

#[test]
fn an_error_begins_nothing_and_so_is_not_refused() {
    let nftables = Node { proxy: Proxy { mode: Mode::NFTABLES, ..node().proxy }, ..node() };
    let mut lab = Lab::new(nftables, [web(&["10.244.1.2 node-a"])]);
    // Linux' tables call them INVALID, and kube-proxy's checks are of NEW packets alone (SEMANTICS §6.6).
    for (vip, begun) in [("10.96.0.10", "unmatched-port"), ("10.96.0.200", "unallocated-cluster-ip")] {
        let dialled = format!("{vip}:81");
        assert_eq!(lab.kind("S", CLIENT, &dialled).to_string(), begun);
        let about = frame("A", &dialled, CLIENT);
        let told = lab.send(&error(What::PortUnreachable, "10.244.2.9", vip, &about, 8));
        assert_eq!(told.to_string(), "pass", "{vip}");
    }
}

/// The answer to a frame that is refused.
fn reply(lab: &mut Lab, bytes: &[u8], meta: Meta) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let mut packet = Packet::new(&mut bytes, meta);
    let now = lab.instant();
    let verdict = lab.engine.process(now, &mut packet);
    let Verdict::Reject(reason) = verdict else { panic!("{verdict:?}") };
    let mut out = vec![0xaa; 1500];
    let length = lab.engine.write_reply(now, &packet, reason, &mut out)?;
    out.truncate(length);
    Some(out)
}

#[test]
fn a_refusal_is_a_port_unreachable_from_the_vip_about_the_packet() {
    let mut lab = Lab::web(&[]);
    let long = [7; 1400];
    for v6 in [false, true] {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        for (kind, payload, client, vip) in [
            ("S", &b""[..], CLIENT, WEB),
            ("udp", b"hello", CLIENT, "10.96.0.10:53"),
            ("udp", &long, "203.0.113.5:40000", "198.51.100.7:53"),
            ("S", b"", "203.0.113.5:40000", "192.0.2.10:30080"),
        ] {
            let asked = frames::frame_with(kind, &named(client), &named(vip), payload);
            let answer = reply(&mut lab, &asked, Meta::default()).expect("answered");
            let address = |text: &str| named(text).parse::<std::net::SocketAddr>().unwrap().ip();
            assert_eq!(outer(&answer), format!("-- {} > {}", address(vip), address(client)));
            assert_eq!((&answer[..6], &answer[6..12]), (&asked[6..12], &asked[..6]), "back over the link it came from");
            let (told, quote) = read(&answer);
            assert_eq!(told, What::PortUnreachable.bytes(v6));
            // RFC 1812 §4.3.2.3: as much as fits in 576 bytes; RFC 4443 §3.1: in 1280.
            let (most, headers) = if v6 { (1280, 48) } else { (576, 28) };
            let quoted = (asked.len() - ETHERNET).min(most - headers);
            assert_eq!(quote, asked[ETHERNET..ETHERNET + quoted], "{kind} to {vip}");
            assert!(answer.len() <= ETHERNET + most);
        }
        let asked = frames::tagged(&frame("S", &named(CLIENT), &named(WEB)));
        let answer = reply(&mut lab, &asked, Meta::default()).expect("answered");
        assert_eq!(answer[12..18], asked[12..18], "in the same VLAN");
        let bare = Meta { link: Link::Ip, ..Meta::default() };
        let answer = reply(&mut lab, &asked[18..], bare).expect("answered");
        check_checksums(&sliced(&answer, false));
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let mut lab = Lab::web(&[]);
    let mut to_all = frame("udp", CLIENT, "10.96.0.10:53");
    to_all[..6].fill(0xff);
    // RFC 1122 §3.2.2: no answer to a link-layer broadcast, nor to a source that is no single host.
    assert_eq!(reply(&mut lab, &to_all, Meta::default()), None);
    assert_eq!(reply(&mut lab, &frame("udp", "0.0.0.0:68", "10.96.0.10:53"), Meta::default()), None);
    // An error is never answered, of whatever kind and whether or not anything can be made of what it quotes.
    for quoted in [8, 3] {
        for named in [str::to_owned, twins] {
            let about = frame("A", &named(WEB), &named(CLIENT));
            let ends = [named("10.244.2.1"), named("10.96.0.10")];
            let mut told = error(What::TimeExceeded, &ends[0], &ends[1], &about, quoted);
            let packet = Packet::new(&mut told, Meta::default());
            let written = lab.engine.write_reply(lab.instant(), &packet, RejectReason::UnmatchedPort, &mut [0; 1500]);
            assert_eq!(written, None, "an answer to an error to {}", ends[1]);
        }
    }
    assert_eq!(lab.engine.counters().replies_limited, 0);
    let asked = &mut frame("udp", CLIENT, "10.96.0.10:53")[..];
    let now = lab.instant();
    let packet = Packet::new(asked, Meta::default());
    assert_eq!(lab.engine.write_reply(now, &packet, RejectReason::NoEndpoints, &mut [0; 30]), None, "no room");
}

#[test]
fn answers_are_limited_by_the_clock_given() {
    let config = Config { replies_per_second: 10, ..common::lab::config() };
    let mut lab = Lab::with(config, SIZES, node(), [web(&[])]);
    let asked = frame("S", CLIENT, WEB);
    let answers =
        |lab: &mut Lab, count: usize| (0..count).filter(|_| reply(lab, &asked, Meta::default()).is_some()).count();
    assert_eq!(answers(&mut lab, 25), 10);
    assert_eq!(lab.engine.counters().replies_limited, 15);
    for (at, expected) in [(0, 0), (99, 0), (100, 1), (350, 2), (400, 1), (10_000, 10), (9_000, 0), (9_100, 1)] {
        lab.now = at;
        assert_eq!(answers(&mut lab, 25), expected, "at {at} ms");
    }
    // All of them are counted as refused, answered or not.
    let refused = Verdict::Reject(RejectReason::NoEndpoints).code();
    assert_eq!(lab.engine.counters().verdict(refused), 25 * 9);
}

/// A flood of what is never answered must not keep others from their answers.
#[test]
fn what_is_not_answered_does_not_use_up_the_limit() {
    let config = Config { replies_per_second: 10, ..common::lab::config() };
    let mut lab = Lab::with(config, SIZES, node(), [web(&[])]);
    let unanswerable = frame("udp", "0.0.0.0:68", "10.96.0.10:53");
    for _ in 0..100 {
        assert_eq!(reply(&mut lab, &unanswerable, Meta::default()), None);
    }
    assert!(reply(&mut lab, &frame("S", CLIENT, WEB), Meta::default()).is_some());
}
