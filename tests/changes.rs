//! What a change of the rules does to flows that are under way (SEMANTICS §11).

mod common;

use common::cluster::{both, node, service, slice, web};
use common::frames::frame;
use common::lab::Lab;
use lb_core::control::{Control, EmptyUdp, Mode, Node, Proxy, TrafficPolicy};
use lb_core::{RuleTable, Verdict};

const CLIENT: &str = "10.244.2.9:40000";
const VIP: &str = "10.96.0.10:53";

/// What a change of the objects does to a UDP flow and a TCP flow that client and backend 10.244.1.2 have.
struct Change {
    name: &'static str,
    empty_udp: EmptyUdp,
    change: fn(&mut Lab),
    /// What becomes of the backend's next UDP packet, and of the client's after it.
    udp: (&'static str, &'static str),
    /// The same of TCP, whose flow stays (SEMANTICS §11.1, §11.2).
    tcp: (&'static str, &'static str),
    counted: (u64, u64),
}

const STAYS: (&str, &str) = ("<- 10.96.0.10:53 > 10.244.2.9:40000", "-> 10.244.2.9:40000 > 10.244.1.2:5353");
const MOVES: (&str, &str) = ("stale-flow", "-> 10.244.2.9:40000 > 10.244.2.3:5353");
const TCP_STAYS: (&str, &str) = ("<- 10.96.0.10:80 > 10.244.2.9:40000", "-> 10.244.2.9:40000 > 10.244.1.2:8080");

fn endpoints(lab: &mut Lab, endpoints: &[&str]) {
    lab.control.put_slice(web(endpoints).1);
}

fn no_service(lab: &mut Lab) {
    lab.control.remove_service(&"default/web".into());
}

const CHANGES: &[Change] = &[
    Change {
        name: "another endpoint joins",
        empty_udp: EmptyUdp::Keep,
        change: |lab| endpoints(lab, &["10.244.1.2 node-a", "10.244.2.3 node-b"]),
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "the backend is removed, another serves (§11.5)",
        empty_udp: EmptyUdp::Keep,
        change: |lab| endpoints(lab, &["10.244.2.3 node-b"]),
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "the backend listens on another port (§11.5)",
        empty_udp: EmptyUdp::Keep,
        change: |lab| lab.control.put_slice(slice("web", &["tcp:8081", "udp:5354"], &["10.244.1.2 node-a"])),
        udp: ("stale-flow", "-> 10.244.2.9:40000 > 10.244.1.2:5354"),
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "the backend stops serving, another serves",
        empty_udp: EmptyUdp::Keep,
        change: |lab| endpoints(lab, &["10.244.1.2 node-a down", "10.244.2.3 node-b"]),
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "the backend terminates but serves on, another is ready",
        empty_udp: EmptyUdp::Keep,
        change: |lab| endpoints(lab, &["10.244.1.2 node-a terminating", "10.244.2.3 node-b"]),
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "nobody serves any more: kube-proxy leaves the flow alone (§11.5)",
        empty_udp: EmptyUdp::Keep,
        change: |lab| endpoints(lab, &[]),
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "nobody serves any more, and the operator wants such flows cut",
        empty_udp: EmptyUdp::Cut,
        change: |lab| endpoints(lab, &["10.244.1.2 node-a down"]),
        udp: ("stale-flow", "no-endpoints"),
        tcp: TCP_STAYS,
        counted: (0, 1),
    },
    Change {
        name: "the service is deleted: kube-proxy leaves the flow alone",
        empty_udp: EmptyUdp::Keep,
        change: no_service,
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "the service is deleted, and the operator wants such flows cut",
        empty_udp: EmptyUdp::Cut,
        change: no_service,
        udp: ("stale-flow", "pass"),
        tcp: TCP_STAYS,
        counted: (0, 1),
    },
    Change {
        name: "deleted and made again with the same endpoint",
        empty_udp: EmptyUdp::Cut,
        change: |lab| {
            no_service(lab);
            lab.update();
            lab.put(web(&["10.244.1.2 node-a"]));
        },
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "deleted and made again with another endpoint",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            no_service(lab);
            lab.update();
            lab.put(web(&["10.244.2.3 node-b"]));
        },
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "deleted, seen so by a packet, and made again with another endpoint",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            no_service(lab);
            lab.update();
            assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1);
            lab.put((
                service("another", "10.96.0.99", &["udp:53"]),
                slice("another", &["udp:5353"], &["10.244.1.2 node-a"]),
            ));
            assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1);
            lab.put(web(&["10.244.2.3 node-b"]));
        },
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "the Vip becomes another service's, with another endpoint",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            lab.control.put_service(service("a", "10.96.0.10", &["udp:53"]));
            lab.control.put_slice(slice("a", &["udp:5353"], &["10.244.2.3 node-b"]));
        },
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "the backend's port changes (§11.5)",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            let (_, mut slice) = web(&["10.244.1.2 node-a"]);
            slice.ports.iter_mut().for_each(|port| port.port += 1);
            lab.control.put_slice(slice);
        },
        udp: ("stale-flow", "-> 10.244.2.9:40000 > 10.244.1.2:5354"),
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
    Change {
        name: "policies change: a flow keeps its backend and its address (§11.1)",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            let (mut service, slice) = web(&["10.244.1.2 node-b", "10.244.1.3 node-a"]);
            (service.internal_policy, service.external_policy) = (TrafficPolicy::Local, TrafficPolicy::Local);
            lab.control.put_service(service);
            lab.control.put_slice(slice);
            let proxy = Proxy { masquerade_all: true, ..lab.control.node().proxy.clone() };
            lab.control.put_node(Node { proxy, ..lab.control.node().clone() });
        },
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "another service changes",
        empty_udp: EmptyUdp::Cut,
        change: |lab| {
            lab.control.put_service(service("other", "10.96.0.11", &["udp:53"]));
            lab.control.put_slice(slice("other", &["udp:5353"], &["10.244.2.3 node-b"]));
        },
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "the rules are swapped for a table loaded from the same image",
        empty_udp: EmptyUdp::Cut,
        change: |lab| {
            let image = lab.control.image().unwrap();
            let old = lab.engine.swap_rules(RuleTable::load(image).unwrap());
            assert_eq!(old.fingerprint(), lab.engine.rules().fingerprint());
        },
        udp: STAYS,
        tcp: TCP_STAYS,
        counted: (0, 0),
    },
    Change {
        name: "the rules are swapped for others, and back, and for the others again",
        empty_udp: EmptyUdp::Keep,
        change: |lab| {
            let mut elsewhere = Control::new(node());
            let (service, slice) = web(&["10.244.2.3 node-b"]);
            elsewhere.put_service(service);
            elsewhere.put_slice(slice);
            let other = elsewhere.image().unwrap();
            let before = lab.engine.swap_rules(RuleTable::load(other).unwrap());
            let other = lab.engine.swap_rules(before);
            assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1);
            let _before = lab.engine.swap_rules(other);
        },
        udp: MOVES,
        tcp: TCP_STAYS,
        counted: (1, 0),
    },
];

fn under_way(empty_udp: EmptyUdp) -> Lab {
    let node = Node { proxy: Proxy { empty_udp, ..node().proxy }, ..node() };
    let mut lab = Lab::new(node, [web(&["10.244.1.2 node-a"])]);
    assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1);
    assert_eq!(lab.kind("S", CLIENT, "10.96.0.10:80").to_string(), TCP_STAYS.1);
    assert_eq!(lab.kind("SA", "10.244.1.2:8080", CLIENT).to_string(), TCP_STAYS.0);
    lab
}

#[test]
fn what_a_change_does_to_flows_under_way() {
    for case in CHANGES {
        let mut lab = under_way(case.empty_udp);
        (case.change)(&mut lab);
        lab.update();
        let name = case.name;
        assert_eq!(lab.kind("udp", "10.244.1.2:5353", CLIENT).to_string(), case.udp.0, "UDP reply: {name}");
        assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), case.udp.1, "UDP: {name}");
        assert_eq!(lab.kind("A", "10.244.1.2:8080", CLIENT).to_string(), case.tcp.0, "TCP reply: {name}");
        assert_eq!(lab.kind("A", CLIENT, "10.96.0.10:80").to_string(), case.tcp.1, "TCP: {name}");
        let counters = lab.engine.counters();
        assert_eq!((counters.flows_reselected, counters.flows_cut), case.counted, "moved and cut: {name}");
        if case.udp == MOVES {
            // The old backend has nothing to say any more, the new one has.
            assert_eq!(lab.kind("udp", "10.244.1.2:5353", CLIENT).to_string(), "pass", "{name}");
            assert_eq!(lab.kind("udp", "10.244.2.3:5353", CLIENT).to_string(), STAYS.0, "{name}");
        }
    }
}

#[test]
fn a_node_ports_flow_moves_whatever_the_address() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let from = "203.0.113.5:40000";
    lab.kind("udp", from, "192.0.2.10:30053");
    lab.put(web(&["10.244.2.3 node-b"]));
    // §11.5: by the port alone, even now that the node has another address.
    let renamed = Node { addresses: both("192.0.2.11"), ..node() };
    lab.control.put_node(renamed);
    lab.update();
    assert_eq!(lab.kind("udp", from, "192.0.2.10:30053").to_string(), "pass");
    assert_eq!(lab.engine.flows().count(), 0);
}

/// One port of a Service goes, and its address is a Service's still.
#[test]
fn an_address_is_a_services_while_it_has_a_port() {
    let nftables = Node { proxy: Proxy { mode: Mode::NFTABLES, ..node().proxy }, ..node() };
    let mut lab = Lab::new(nftables, [web(&["10.244.1.2 node-a"])]);
    let endpoints = || slice("web", &["tcp:8080"], &["10.244.1.2 node-a"]);
    for (ports, tcp, udp) in [
        (&["tcp:80"][..], "-> 10.244.2.9:40000 > 10.244.1.2:8080", "unmatched-port"),
        (&["tcp:80", "udp:53"], "-> 10.244.2.9:40000 > 10.244.1.2:8080", "no-endpoints"),
        (&["udp:53"], "unmatched-port", "no-endpoints"),
        (&[], "unallocated-cluster-ip", "unallocated-cluster-ip"),
    ] {
        lab.put((service("web", "10.96.0.10", ports), endpoints()));
        lab.now += 1_000_000; // past the last flow
        assert_eq!(lab.kind("S", CLIENT, "10.96.0.10:80").to_string(), tcp, "{ports:?}");
        assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), udp, "{ports:?}");
    }
}

/// A Service that comes back may lie elsewhere among the rules, where another lies now that it had been.
#[test]
fn a_flow_follows_its_service_from_one_place_to_another() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1);
    no_service(&mut lab);
    lab.update();
    for (name, address) in [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3"), ("d", "10.96.0.4")] {
        lab.put((service(name, address, &["udp:53"]), slice(name, &["udp:5353"], &["10.244.1.9 node-a"])));
    }
    lab.put(web(&["10.244.1.2 node-a"]));
    assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), STAYS.1, "its endpoint is there again");
    lab.put(web(&["10.244.2.3 node-b"]));
    assert_eq!(
        [lab.kind("udp", "10.244.1.2:5353", CLIENT), lab.kind("udp", CLIENT, VIP)].map(|sent| sent.to_string()),
        [MOVES.0, MOVES.1]
    );
}

#[test]
fn new_flows_never_go_where_nobody_serves() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    for (endpoints, expected) in [
        (&["10.244.1.2 node-a"][..], "-> 10.244.2.9:40000 > 10.244.1.2:8080"),
        (&["10.244.1.2 node-a down"], "no-endpoints"),
        (&["10.244.1.2 node-a down", "10.244.2.3 node-b terminating"], "-> 10.244.2.9:40000 > 10.244.2.3:8080"),
        (&["10.244.1.2 node-a", "10.244.2.3 node-b terminating"], "-> 10.244.2.9:40000 > 10.244.1.2:8080"),
        (&[], "no-endpoints"),
    ] {
        lab.put(web(endpoints));
        lab.now += 1_000_000; // past the last flow
        assert_eq!(lab.kind("S", CLIENT, "10.96.0.10:80").to_string(), expected, "{endpoints:?}");
    }
    let (mut service, slice) = web(&["10.244.2.3 node-b"]);
    service.internal_policy = TrafficPolicy::Local;
    lab.put((service, slice));
    lab.now += 1_000_000;
    assert_eq!(lab.send(&frame("S", CLIENT, "10.96.0.10:80")).to_string(), "no-local-endpoint");
}

#[test]
fn a_flow_that_is_deleted_begins_anew() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let sent = lab.kind("udp", CLIENT, VIP);
    let Verdict::Forward { flow, .. } = sent.verdict else { panic!("{:?}", sent.verdict) };
    lab.put(web(&["10.244.2.3 node-b terminating", "10.244.1.2 node-a terminating"]));
    assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), "-> 10.244.2.9:40000 > 10.244.1.2:5353", "it stays");
    assert_eq!(lab.engine.forget(flow).unwrap().original.to_string(), format!("udp {CLIENT} -> {VIP}"));
    assert_eq!(lab.engine.forget(flow), None);
    assert_eq!(lab.kind("udp", "10.244.1.2:5353", CLIENT).to_string(), "pass", "an answer to nobody");
    lab.put(web(&["10.244.2.3 node-b"]));
    assert_eq!(lab.kind("udp", CLIENT, VIP).to_string(), "-> 10.244.2.9:40000 > 10.244.2.3:5353");
}
