//! Flows, a line a packet: what a client, a backend and the node see of each other through the engine.

mod common;

use common::cluster::{node, service, slice, twin, twins, web};
use common::frames::{self, frame};
use common::lab::{Lab, SIZES, config};
use lb_core::control::{Node, Proxy, Service, Slice, TrafficPolicy};
use lb_core::flow::State;
use lb_core::pick::Scheduler;
use lb_core::{DropReason, Link, Meta, Origin, Sizes, Verdict};

/// When (in milliseconds), what, from where, to where; what becomes of it.
///
/// `*` stands for the port that the last flow was given, which must be outside the well-known ports and the
/// NodePort range (SEMANTICS §8.5, §9.9).
type Step = (u64, &'static str, &'static str, &'static str, &'static str);

struct Case {
    name: &'static str,
    objects: fn() -> Vec<(Service, Slice)>,
    origin: Origin,
    steps: &'static [Step],
}

const CLIENT: &str = "10.244.2.9:40000";
const POD: &str = "10.244.1.2:8080";
const WEB: &str = "10.96.0.10:80";
const DNS: &str = "10.96.0.10:53";
const DNS_POD: &str = "10.244.1.2:5353";
const TO_POD: &str = "-> 10.244.2.9:40000 > 10.244.1.2:8080";
const TO_DNS_POD: &str = "-> 10.244.2.9:40000 > 10.244.1.2:5353";
const FROM_WEB: &str = "<- 10.96.0.10:80 > 10.244.2.9:40000";
const FROM_DNS: &str = "<- 10.96.0.10:53 > 10.244.2.9:40000";

fn one_pod() -> Vec<(Service, Slice)> {
    vec![web(&["10.244.1.2 node-a"])]
}

/// A second service with the same pod behind it.
fn two_services() -> Vec<(Service, Slice)> {
    let other = service("other", "10.96.0.11", &["tcp:80"]);
    vec![web(&["10.244.1.2 node-a"]), (other, slice("other", &["tcp:8080"], &["10.244.1.2 node-a"]))]
}

fn external_local() -> Vec<(Service, Slice)> {
    let (service, slice) = web(&["10.244.1.2 node-a"]);
    vec![(Service { external_policy: TrafficPolicy::Local, ..service }, slice)]
}

const fn case(name: &'static str, objects: fn() -> Vec<(Service, Slice)>, steps: &'static [Step]) -> Case {
    Case { name, objects, origin: Origin::Wire, steps }
}

const CASES: &[Case] = &[
    case(
        "a TCP connection through a ClusterIP, opened, used, closed",
        one_pod,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "SA", POD, CLIENT, FROM_WEB),
            (0, "A", CLIENT, WEB, TO_POD),
            // Established: 24 h (SEMANTICS §11.4).
            (86_399_999, "A", POD, CLIENT, FROM_WEB),
            (86_400_000, "F", POD, CLIENT, FROM_WEB),
            (86_400_000, "A", CLIENT, WEB, TO_POD),
            (86_400_000, "FA", CLIENT, WEB, TO_POD),
            (86_400_000, "A", POD, CLIENT, FROM_WEB),
            // TIME-WAIT: 120 s (Linux' nf_conntrack_tcp_timeout_time_wait).
            (86_519_999, "A", POD, CLIENT, FROM_WEB),
            (86_639_999, "A", POD, CLIENT, "pass"),
        ],
    ),
    case(
        "established is forgotten after 24 hours",
        one_pod,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "SA", POD, CLIENT, FROM_WEB),
            (0, "A", CLIENT, WEB, TO_POD),
            (86_400_000, "A", POD, CLIENT, "pass"),
        ],
    ),
    case(
        "half-closed by the client: the backend may go on for an hour of silence (CLOSE-WAIT)",
        one_pod,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "SA", POD, CLIENT, FROM_WEB),
            (0, "A", CLIENT, WEB, TO_POD),
            (0, "FA", CLIENT, WEB, TO_POD),
            (0, "A", POD, CLIENT, FROM_WEB),
            (3_599_999, "A", POD, CLIENT, FROM_WEB),
            (7_199_999, "A", POD, CLIENT, "pass"),
        ],
    ),
    case(
        "a SYN that nobody answers lasts 120 s",
        one_pod,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (119_999, "SA", POD, CLIENT, FROM_WEB),
            // SYN-RECEIVED: 60 s.
            (179_998, "A", CLIENT, WEB, TO_POD),
        ],
    ),
    case(
        "too late an answer to a SYN is nobody's",
        one_pod,
        &[(0, "S", CLIENT, WEB, TO_POD), (120_000, "SA", POD, CLIENT, "pass")],
    ),
    case(
        "a reset connection is remembered for 10 s",
        one_pod,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "R", POD, CLIENT, FROM_WEB),
            (9_999, "R", POD, CLIENT, FROM_WEB),
            (19_999, "R", POD, CLIENT, "pass"),
        ],
    ),
    case(
        "TCP is picked up in mid-stream (SEMANTICS §11.9), and is established once both were heard",
        one_pod,
        &[(0, "A", CLIENT, WEB, TO_POD), (299_999, "A", POD, CLIENT, FROM_WEB), (86_699_998, "A", CLIENT, WEB, TO_POD)],
    ),
    case(
        "what is picked up and not answered lasts 300 s",
        one_pod,
        &[(0, "A", CLIENT, WEB, TO_POD), (300_000, "A", POD, CLIENT, "pass")],
    ),
    case(
        "what is picked up by its FIN lasts 120 s (FIN-WAIT)",
        one_pod,
        &[
            (0, "FA", CLIENT, WEB, TO_POD),
            (119_999, "FA", POD, CLIENT, FROM_WEB),
            // LAST-ACK: 30 s.
            (149_999, "A", CLIENT, WEB, TO_POD),
        ],
    ),
    case(
        "UDP unreplied: 30 s",
        one_pod,
        &[
            (0, "udp", CLIENT, DNS, TO_DNS_POD),
            (29_999, "udp", CLIENT, DNS, TO_DNS_POD),
            (59_937, "udp", DNS_POD, CLIENT, FROM_DNS),
        ],
    ),
    case(
        "UDP unreplied: not longer than 30 s",
        one_pod,
        &[(0, "udp", CLIENT, DNS, TO_DNS_POD), (30_000, "udp", DNS_POD, CLIENT, "pass")],
    ),
    case(
        "UDP seen both ways: 120 s",
        one_pod,
        &[
            (0, "udp", CLIENT, DNS, TO_DNS_POD),
            (1_000, "udp", DNS_POD, CLIENT, FROM_DNS),
            (120_999, "udp", DNS_POD, CLIENT, FROM_DNS),
            (240_999, "udp", DNS_POD, CLIENT, "pass"),
        ],
    ),
    case("a reply alone begins nothing", one_pod, &[(0, "SA", POD, CLIENT, "pass"), (0, "S", CLIENT, WEB, TO_POD)]),
    case(
        "external IP, policy Cluster: masqueraded, with a port of the engine's own choice (SEMANTICS §8.1)",
        one_pod,
        &[
            (0, "S", "203.0.113.5:40000", "198.51.100.7:80", "-> 192.0.2.10:* > 10.244.1.2:8080"),
            (0, "SA", POD, "192.0.2.10:*", "<- 198.51.100.7:80 > 203.0.113.5:40000"),
            (0, "A", "203.0.113.5:40000", "198.51.100.7:80", "-> 192.0.2.10:* > 10.244.1.2:8080"),
        ],
    ),
    case(
        "node port, policy Cluster: pods are masqueraded as well",
        one_pod,
        &[
            (0, "udp", CLIENT, "192.0.2.10:30053", "-> 192.0.2.10:* > 10.244.1.2:5353"),
            (0, "udp", DNS_POD, "192.0.2.10:*", "<- 192.0.2.10:30053 > 10.244.2.9:40000"),
        ],
    ),
    case(
        "external IP, policy Local: the client's address is kept (SEMANTICS §7.3)",
        external_local,
        &[
            (0, "S", "203.0.113.5:40000", "198.51.100.7:80", "-> 203.0.113.5:40000 > 10.244.1.2:8080"),
            (0, "SA", POD, "203.0.113.5:40000", "<- 198.51.100.7:80 > 203.0.113.5:40000"),
        ],
    ),
    case(
        "off-cluster client of a ClusterIP: masqueraded, as there is a detector (SEMANTICS §8.1)",
        one_pod,
        &[
            (0, "S", "203.0.113.5:40000", WEB, "-> 192.0.2.10:* > 10.244.1.2:8080"),
            (0, "SA", POD, "192.0.2.10:*", "<- 10.96.0.10:80 > 203.0.113.5:40000"),
        ],
    ),
    case(
        "hairpin: a pod that is its own backend sees the node (SEMANTICS §8.2)",
        one_pod,
        &[
            (0, "S", "10.244.1.2:40000", WEB, "-> 192.0.2.10:* > 10.244.1.2:8080"),
            (0, "SA", POD, "192.0.2.10:*", "<- 10.96.0.10:80 > 10.244.1.2:40000"),
            (0, "A", "10.244.1.2:40000", WEB, "-> 192.0.2.10:* > 10.244.1.2:8080"),
        ],
    ),
    case(
        "one client port, two Vips, one backend: the second flow gets another port",
        two_services,
        &[
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "S", CLIENT, "10.96.0.11:80", "-> 10.244.2.9:* > 10.244.1.2:8080"),
            (0, "SA", POD, CLIENT, FROM_WEB),
            (0, "SA", POD, "10.244.2.9:*", "<- 10.96.0.11:80 > 10.244.2.9:40000"),
            (0, "A", CLIENT, "10.96.0.11:80", "-> 10.244.2.9:* > 10.244.1.2:8080"),
        ],
    ),
    case(
        "a flow whose reply would be a Vip's own flow gets another port too",
        two_services,
        &[
            // The pod itself dials, over the port that the client's flow would answer from.
            (0, "S", POD, "10.96.0.10:80", "-> 192.0.2.10:* > 10.244.1.2:8080"),
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "SA", POD, CLIENT, FROM_WEB),
        ],
    ),
    case(
        "TCP and UDP of the same numbers are two flows",
        one_pod,
        &[
            (0, "udp", CLIENT, DNS, TO_DNS_POD),
            (0, "S", CLIENT, WEB, TO_POD),
            (0, "udp", DNS_POD, CLIENT, FROM_DNS),
            (0, "SA", POD, CLIENT, FROM_WEB),
        ],
    ),
    Case {
        name: "the node's own connection to a ClusterIP is masqueraded (SEMANTICS §8.1)",
        objects: one_pod,
        origin: Origin::Node,
        steps: &[
            (0, "S", "192.0.2.10:40000", WEB, "-> 192.0.2.10:* > 10.244.1.2:8080"),
            (0, "SA", POD, "192.0.2.10:*", "<- 10.96.0.10:80 > 192.0.2.10:40000"),
        ],
    },
    Case {
        name: "an interface detector's pod is a pod, whatever its address",
        objects: external_local,
        origin: Origin::Pod,
        // The short circuit of §7.4: a pod keeps its address.
        steps: &[(0, "S", "203.0.113.5:40000", "198.51.100.7:80", "-> 203.0.113.5:40000 > 10.244.1.2:8080")],
    },
];

#[derive(Clone, Copy, Debug)]
enum Sweep {
    Never,
    Always,
    Some,
}

/// Plays a case in one family; the engine sweeps as told before every packet, which must not matter.
fn play(case: &Case, v6: bool, sweep: Sweep) {
    let mut lab = Lab::new(node(), (case.objects)());
    let mut port = String::from("*");
    for (n, (at, kind, from, to, expected)) in case.steps.iter().enumerate() {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let [from, to] = [from, to].map(|text| named(text).replace('*', &port));
        lab.now = *at;
        match sweep {
            Sweep::Never => {}
            Sweep::Always => _ = lab.engine.expire(lab.instant(), usize::MAX),
            Sweep::Some => _ = lab.engine.expire(lab.instant(), n % 3),
        }
        let sent = lab.send_as(&frame(kind, &from, &to), Meta { origin: case.origin, ..Meta::default() });
        if expected.contains('*') {
            let chosen = sent.source_port();
            let newly = sent.to_string().starts_with("->");
            if newly {
                assert!(chosen >= 1024 && !(30000..=32767).contains(&chosen), "{}: port {chosen}", case.name);
                port = chosen.to_string();
            }
        }
        let expected = named(expected).replace('*', &port);
        assert_eq!(sent.to_string(), expected, "{}, line {n}, v6: {v6}, sweep: {sweep:?}", case.name);
    }
    assert_eq!(lab.engine.counters().packets(), case.steps.len() as u64);
}

#[test]
fn flows_over_ipv4_and_ipv6_whenever_the_table_is_swept() {
    for case in CASES {
        for v6 in [false, true] {
            for sweep in [Sweep::Never, Sweep::Always, Sweep::Some] {
                play(case, v6, sweep);
            }
        }
    }
}

fn round_robin() -> Node {
    Node { proxy: Proxy { scheduler: Scheduler::RoundRobin, ..node().proxy }, ..node() }
}

const TWO: &[&str] = &["10.244.1.2 node-a", "10.244.2.3 node-b"];

/// Round robin shows a new choice by another backend.
#[test]
fn a_syn_over_a_finished_connection_chooses_anew() {
    const TO_OTHER: &str = "-> 10.244.2.9:40000 > 10.244.2.3:8080";
    let closing: &[(&str, &str, &str, &str)] = &[
        ("S", CLIENT, WEB, TO_POD),
        ("SA", POD, CLIENT, FROM_WEB),
        ("A", CLIENT, WEB, TO_POD),
        ("S", CLIENT, WEB, TO_POD), // a SYN out of place chooses nothing
        ("FA", CLIENT, WEB, TO_POD),
        ("FA", POD, CLIENT, FROM_WEB),
        ("A", CLIENT, WEB, TO_POD),
        ("S", CLIENT, WEB, TO_OTHER),
        ("S", CLIENT, WEB, TO_OTHER), // retransmitted
        ("SA", POD, CLIENT, "pass"),
    ];
    let reset: &[(&str, &str, &str, &str)] =
        &[("S", CLIENT, WEB, TO_POD), ("R", POD, CLIENT, FROM_WEB), ("S", CLIENT, WEB, TO_OTHER)];
    for steps in [closing, reset] {
        let mut lab = Lab::new(round_robin(), [web(TWO)]);
        for (n, (kind, from, to, expected)) in steps.iter().enumerate() {
            assert_eq!(lab.kind(kind, from, to).to_string(), *expected, "line {n}");
        }
    }
}

#[test]
fn a_udp_flow_past_its_deadline_chooses_anew_even_if_nothing_was_swept() {
    let mut lab = Lab::new(round_robin(), [web(TWO)]);
    for (at, backend) in [(0, "10.244.1.2"), (29_999, "10.244.1.2"), (59_999, "10.244.2.3"), (60_000, "10.244.2.3")] {
        lab.now = at;
        assert_eq!(lab.kind("udp", CLIENT, DNS).to_string(), format!("-> {CLIENT} > {backend}:5353"), "at {at} ms");
    }
    assert_eq!(lab.engine.counters().flows_expired, 1);
}

/// The ports of the clients that still have a flow.
fn clients(lab: &Lab) -> Vec<u16> {
    let mut ports: Vec<u16> = lab.engine.flows().map(|flow| flow.original.source_port).collect();
    ports.sort_unstable();
    ports
}

/// Embryonic before closing before unreplied UDP; established flows never give way.
#[test]
fn a_full_table_lets_the_least_settled_flow_go_first() {
    for v6 in [false, true] {
        let sizes = Sizes { v4_flows: 4, v6_flows: 4, ..SIZES };
        let mut lab = Lab::with(config(), sizes, node(), one_pod());
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let client = |port: u16| named(&format!("10.244.2.9:{port}"));
        let (web, dns, pod) = (named(WEB), named(DNS), named(POD));
        let connect = |lab: &mut Lab, port: u16| {
            let sent = lab.kind("S", &client(port), &web);
            lab.kind("SA", &pod, &client(port));
            lab.kind("A", &client(port), &web);
            sent.verdict
        };
        lab.kind("udp", &client(3), &dns);
        lab.kind("S", &client(2), &web);
        lab.kind("R", &pod, &client(2));
        lab.kind("S", &client(1), &web);
        assert!(matches!(connect(&mut lab, 4), Verdict::Forward { .. }));
        assert_eq!(clients(&lab), [1, 2, 3, 4]);
        for (newcomer, left) in [(5, [2, 3, 4, 5]), (6, [3, 4, 5, 6]), (7, [4, 5, 6, 7])] {
            assert!(matches!(connect(&mut lab, newcomer), Verdict::Forward { .. }));
            assert_eq!(clients(&lab), left, "after {newcomer}");
        }
        let full = Verdict::Drop(DropReason::FlowTableFull);
        assert_eq!(lab.kind("S", &client(8), &web).verdict, full);
        assert_eq!(lab.kind("udp", &client(8), &dns).verdict, full);
        assert_eq!(clients(&lab), [4, 5, 6, 7]);
        assert_eq!(lab.engine.counters().flows_evicted, 3);
        assert_eq!(lab.engine.counters().verdict(full.code()), 2);
        // The other family has room of its own.
        assert!(matches!(connect_other(&mut lab, v6), Verdict::Forward { .. }));
        // A day later they are forgotten, and there is room again, swept or not.
        lab.now = 86_400_000;
        assert!(matches!(connect(&mut lab, 9), Verdict::Forward { .. }));
        assert!(clients(&lab).contains(&9));
    }
}

fn connect_other(lab: &mut Lab, v6: bool) -> Verdict {
    let named = |text: &str| if v6 { text.to_owned() } else { twins(text) };
    lab.kind("S", &named(CLIENT), &named(WEB)).verdict
}

/// A connection has both sides' word for it once the client confirmed; until then a flood of SYNs that a backend answers is one
/// of newcomers among themselves, of whom the longest-standing goes first.
#[test]
fn half_open_connections_give_way_in_turn() {
    let sizes = Sizes { v4_flows: 4, ..SIZES };
    let mut lab = Lab::with(config(), sizes, node(), one_pod());
    let client = |port: u16| format!("10.244.2.9:{port}");
    for (newcomer, left) in
        [(4, &[4][..]), (3, &[3, 4]), (2, &[2, 3, 4]), (1, &[1, 2, 3, 4]), (5, &[1, 2, 3, 5]), (6, &[1, 2, 5, 6])]
    {
        assert_eq!(lab.kind("S", &client(newcomer), WEB).to_string(), format!("-> {} > {POD}", client(newcomer)));
        lab.kind("SA", POD, &client(newcomer));
        assert_eq!(clients(&lab), left, "after {newcomer}");
    }
}

/// A line a packet of a connection that is opened and closed in order: what it leaves the flow in, and for how many seconds
/// (Linux' names and times, SEMANTICS §11.4).
#[test]
fn a_connection_from_its_first_packet_to_its_last() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for (kind, is_reply, state, seconds) in [
        ("S", false, State::SynSent, 120),
        ("SA", true, State::SynReceived, 60),
        ("A", false, State::Established, 86_400),
        ("A", true, State::Established, 86_400),
        ("FA", false, State::FinWait, 120),
        ("A", true, State::CloseWait, 3600),
        ("FA", true, State::LastAck, 30),
        ("A", false, State::TimeWait, 120),
    ] {
        let sent = if is_reply { lab.kind(kind, POD, CLIENT) } else { lab.kind(kind, CLIENT, WEB) };
        let Verdict::Forward { flow, .. } = sent.verdict else { panic!("{kind}: {sent}") };
        let flow = lab.engine.flow(flow).unwrap();
        assert_eq!((flow.state, flow.deadline), (state, lb_core::Instant::from_secs(seconds)), "{kind}");
    }
}

/// Nothing is lost from the counts: every flow begun is live, expired or evicted.
#[test]
fn expired_flows_that_make_room_count_as_expired() {
    let sizes = Sizes { v4_flows: 4, ..SIZES };
    let mut lab = Lab::with(config(), sizes, node(), one_pod());
    for n in 0..40u16 {
        lab.now = u64::from(n) * 10_000;
        lab.kind("udp", &format!("10.244.2.9:{}", 40000 + n), DNS);
    }
    let counters = lab.engine.counters();
    assert_eq!(counters.flows_created, 40);
    assert_eq!(counters.flows_created - counters.flows_expired - counters.flows_evicted, clients(&lab).len() as u64);
    assert_eq!(counters.flows_evicted, 0, "there was always one past its deadline");
}

#[test]
fn a_table_for_no_flow_forwards_nothing_and_still_passes_the_rest() {
    let sizes = Sizes { v4_flows: 0, v6_flows: 0, ..SIZES };
    let mut lab = Lab::with(config(), sizes, node(), one_pod());
    for (to, expected) in [(WEB, "flow-table-full"), ("10.244.1.2:80", "pass")] {
        assert_eq!(lab.kind("S", CLIENT, to).to_string(), expected);
        assert_eq!(lab.kind("S", &twins(CLIENT), &twins(to)).to_string(), expected);
    }
    assert_eq!(lab.engine.next_deadline(), None);
}

/// `send` itself asserts that they come out byte by byte as they went in.
#[test]
fn what_is_no_services_passes_untouched() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
    let mut ospf = frame("udp", CLIENT, "224.0.0.5:1");
    ospf[14 + 9] = 89;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("TCP to a pod", frame("S", CLIENT, "10.244.1.7:80")),
        ("TCP to the backend itself", frame("S", CLIENT, POD)),
        ("an unknown port of a ClusterIP, iptables (SEMANTICS §6.6)", frame("S", CLIENT, "10.96.0.10:81")),
        ("the Vip's port over the other protocol", frame("udp", CLIENT, WEB)),
        ("an unallocated ClusterIP, iptables", frame("S", CLIENT, "10.96.9.9:80")),
        ("a node port's number elsewhere", frame("S", CLIENT, "203.0.113.9:30080")),
        ("a port of the node that is no node port", frame("S", CLIENT, "192.0.2.10:22")),
        ("ping to a ClusterIP, iptables (SEMANTICS §12.5)", frames::ping("10.244.2.9", "10.96.0.10")),
        ("ping over IPv6", frames::ping("fd00:244:2::9", "fd00:96::a")),
        ("multicast", frame("udp", CLIENT, "224.0.0.251:5353")),
        ("ARP", arp),
        ("OSPF", ospf),
        ("LLDP", [&[1, 0x80, 0xc2, 0, 0, 0xe, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..], &[0; 30]].concat()),
    ];
    for (name, bytes) in cases {
        assert_eq!(lab.send(&bytes).to_string(), "pass", "{name}");
        assert_eq!(lab.send(&frames::tagged(&bytes)).to_string(), "pass", "{name}, tagged");
    }
    assert_eq!(lab.engine.flows().count(), 0);
}

#[test]
fn the_nodes_own_packets() {
    let none = || Lab::web(&[]);
    // §6.8, iptables: a process on the node is not refused at an external address without endpoints.
    let sent = none().send_own(&frame("S", "192.0.2.10:40000", "198.51.100.7:80"));
    assert_eq!(sent.to_string(), "pass");
    assert_eq!(none().send_own(&frame("S", "192.0.2.10:40000", WEB)).to_string(), "no-endpoints");
    assert_eq!(none().kind("S", "203.0.113.5:40000", "198.51.100.7:80").to_string(), "no-endpoints");
    // §9.5: loopback node ports are masqueraded; the guard drops what comes from elsewhere and is not DNATed.
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let sent = lab.send_own(&frame("S", "127.0.0.1:40000", "127.0.0.1:30080"));
    let port = sent.source_port();
    assert_eq!(sent.to_string(), format!("-> 192.0.2.10:{port} > 10.244.1.2:8080"));
    assert_eq!(lab.kind("SA", POD, &format!("192.0.2.10:{port}")).to_string(), "<- 127.0.0.1:30080 > 127.0.0.1:40000");
    assert_eq!(lab.kind("S", "203.0.113.5:40000", "127.0.0.1:30081").to_string(), "loopback-guard");
    assert!(lab.kind("S", "203.0.113.5:40000", "127.0.0.1:30080").to_string().starts_with("-> 192.0.2.10:"));
    // §9.6: IPv6 loopback node ports never work.
    assert_eq!(lab.send_own(&frame("S", "[::1]:40000", "[::1]:30080")).to_string(), "pass");
}

/// §7.5: a flow never moves, and nobody who can only guess moves it by a reset.
#[test]
fn a_forged_reset_moves_no_flow() {
    let mut lab = Lab::web(&["10.244.1.2 node-a", "10.244.1.3 node-a", "10.244.1.4 node-a"]);
    let first = lab.kind("S", CLIENT, WEB).to_string();
    let backend = first.rsplit_once(' ').unwrap().1.to_owned();
    lab.kind("SA", &backend, CLIENT);
    lab.kind("A", CLIENT, WEB);
    lab.kind("R", CLIENT, WEB);
    for (at, kind, from, to) in [(1, "A", CLIENT, WEB), (2, "A", &backend, CLIENT), (3600, "A", CLIENT, WEB)] {
        lab.now = at * 1000;
        assert_ne!(lab.kind(kind, from, to).to_string(), "pass", "at {at} s");
    }
    assert!(lab.kind("A", CLIENT, WEB).to_string().ends_with(&backend));
    assert_eq!(lab.engine.flows().count(), 1);
}

#[test]
fn tagged_frames_and_bare_ip() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for v6 in [false, true] {
        let named = |text: &str| if v6 { twins(text) } else { text.to_owned() };
        let (there, back) = (frame("S", &named(CLIENT), &named(WEB)), frame("SA", &named(POD), &named(CLIENT)));
        let twice = |bytes: &[u8]| frames::tagged(&frames::tagged(bytes));
        for (there, back) in [(frames::tagged(&there), frames::tagged(&back)), (twice(&there), twice(&back))] {
            let sent = lab.send(&there);
            assert_eq!(sent.to_string(), named(TO_POD));
            assert_eq!(sent.frame[..18], there[..18], "the link header is not ours");
            assert_eq!(lab.send(&back).to_string(), named(FROM_WEB));
        }
        let bare = Meta { link: Link::Ip, ..Meta::default() };
        assert_eq!(lab.send_as(&there[frames::ETHERNET..], bare).to_string(), named(TO_POD));
        assert_eq!(lab.send_as(&back[frames::ETHERNET..], bare).to_string(), named(FROM_WEB));
    }
}

#[test]
fn zones_are_worlds_apart() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let zone = |zone| Meta { zone, ..Meta::default() };
    assert_eq!(lab.send_as(&frame("S", CLIENT, WEB), zone(1)).to_string(), TO_POD);
    assert_eq!(lab.send_as(&frame("SA", POD, CLIENT), zone(2)).to_string(), "pass");
    assert_eq!(lab.send_as(&frame("S", CLIENT, WEB), zone(2)).to_string(), TO_POD);
    assert_eq!(lab.send_as(&frame("SA", POD, CLIENT), zone(1)).to_string(), FROM_WEB);
    assert_eq!(lab.engine.flows().count(), 2);
}

#[test]
fn what_a_flow_shows() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    lab.now = 5_000;
    let sent = lab.kind("udp", CLIENT, DNS);
    let Verdict::Forward { flow: id, .. } = sent.verdict else { panic!("{sent}") };
    lab.kind("udp", CLIENT, DNS);
    lab.kind("udp", DNS_POD, CLIENT);
    let flow = lab.engine.flow(id).unwrap();
    assert_eq!(flow.original.to_string(), format!("udp {CLIENT} -> {DNS}"));
    assert_eq!(flow.reply.to_string(), format!("udp {DNS_POD} -> {CLIENT}"));
    assert_eq!((flow.state, flow.packets, flow.masqueraded), (State::Stream, [2, 1], false));
    assert_eq!(flow.deadline, lb_core::Instant::from_secs(125));
    // In pieces it is as many packets.
    for piece in frames::fragments(&frames::frame_with("udp", DNS_POD, CLIENT, &[7; 64]), &[32], 9) {
        lab.send(&piece);
    }
    assert_eq!(lab.engine.flow(id).unwrap().packets, [2, 3]);
    assert!(lab.engine.next_deadline().unwrap() <= flow.deadline);
    assert_eq!(twin("10.244.2.9".parse().unwrap()).to_string(), "fd00:244:2::9");
}

#[test]
fn a_saved_flow_goes_on_in_another_engine() {
    let mut before = Lab::web(&["10.244.1.2 node-a"]);
    let masqueraded = before.kind("S", "203.0.113.5:40000", "198.51.100.7:80");
    before.kind("SA", POD, &format!("192.0.2.10:{}", masqueraded.source_port()));
    before.kind("udp", &twins(CLIENT), &twins(DNS));
    let saved: Vec<_> = before.engine.flows().collect();
    let mut after = Lab::web(&["10.244.1.2 node-a"]);
    for flow in &saved {
        after.engine.restore(flow).unwrap();
    }
    let told = |flow: &lb_core::Flow| (flow.original, flow.reply, flow.state, flow.deadline, flow.packets);
    assert!(after.engine.flows().map(|flow| told(&flow)).eq(saved.iter().map(told)), "something of them is lost");
    let again = after.kind("A", "203.0.113.5:40000", "198.51.100.7:80");
    assert_eq!(again.to_string(), masqueraded.to_string());
    assert_eq!(after.kind("udp", &twins(DNS_POD), &twins(CLIENT)).to_string(), twins(FROM_DNS));
    assert_eq!(after.engine.restore(&saved[0]), Err(lb_core::RestoreError::Taken));
    // A flow past its deadline has nothing any more.
    after.now = 86_500_000;
    assert_eq!(after.engine.expire(after.instant(), 0), 0);
    after.engine.restore(&saved[0]).unwrap();
}
