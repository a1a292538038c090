//! Schedulers that count or hash, session affinity, and what tells ipvs from the netfilter modes on the packet path
//! (SEMANTICS §7.6, §14.3).

mod common;

use common::cluster::{node, web};
use common::frames;
use common::lab::{Lab, SIZES, config};
use lb_core::Sizes;
use lb_core::control::{Mode, Node, Proxy, Service};
use lb_core::pick::Scheduler;

const THREE: [&str; 3] = ["10.244.1.1 node-a", "10.244.1.2 node-a", "10.244.2.3 node-b"];

fn lab(mode: Mode, scheduler: Scheduler, affinity: Option<u32>) -> Lab {
    let (service, slice) = web(&THREE);
    let proxy = Proxy { mode, scheduler, ..node().proxy };
    let sizes = Sizes { v4_flows: 512, affinity: 64, ..SIZES };
    Lab::with(config(), sizes, Node { proxy, ..node() }, [(Service { affinity, ..service }, slice)])
}

/// The last number of the endpoint's address that a new flow goes to.
fn served_by(lab: &mut Lab, kind: &str, from: &str, to: &str) -> u8 {
    let text = lab.kind(kind, from, to).to_string();
    let (_, endpoint) = text.rsplit_once(' ').unwrap();
    let (address, _) = endpoint.split_once(':').expect(&text);
    address.rsplit_once('.').unwrap().1.parse().unwrap()
}

#[test]
fn the_fewest_flows_win_and_ended_flows_no_longer_count() {
    for scheduler in [Scheduler::LeastConnections, Scheduler::ShortestExpectedDelay, Scheduler::NeverQueue] {
        let mut lab = lab(Mode::IPTABLES, scheduler, None);
        let client = |port: u16| format!("10.244.7.7:{port}");
        let dial = |lab: &mut Lab, port| served_by(lab, "udp", &client(port), "10.96.0.10:53");
        // Among equals the first by address, so three flows go to three endpoints, twice over.
        let six: Vec<u8> = (1..=6).map(|port| dial(&mut lab, port)).collect();
        assert_eq!(six, [1, 2, 3, 1, 2, 3], "{scheduler:?}");
        // Ports 2 and 5 keep the second endpoint busy; the others' flows end after 30 s unreplied.
        lab.now = 20_000;
        assert_eq!([dial(&mut lab, 2), dial(&mut lab, 5)], [2, 2]);
        lab.now = 31_000;
        lab.engine.expire(lab.instant(), 10_000);
        let four: Vec<u8> = (11..=14).map(|port| dial(&mut lab, port)).collect();
        assert_eq!(four, [1, 3, 1, 3], "{scheduler:?}: the second has two flows already");
        // Another port of the service has its own counts.
        assert_eq!(served_by(&mut lab, "S", "10.244.7.7:1", "10.96.0.10:80"), 1);
    }
}

/// What was begun elsewhere counts from then on.
#[test]
fn restored_flows_count() {
    let mut before = lab(Mode::IPTABLES, Scheduler::LeastConnections, None);
    let four: Vec<u8> =
        (1..=4).map(|port| served_by(&mut before, "udp", &format!("10.244.7.7:{port}"), "10.96.0.10:53")).collect();
    assert_eq!(four, [1, 2, 3, 1]);
    let mut after = lab(Mode::IPTABLES, Scheduler::LeastConnections, None);
    for flow in before.engine.flows() {
        after.engine.restore(&flow).unwrap();
    }
    let next = [5, 6, 7].map(|port| served_by(&mut after, "udp", &format!("10.244.7.7:{port}"), "10.96.0.10:53"));
    assert_eq!(next, [2, 3, 1]);
}

#[test]
fn hashes_of_one_end_see_nothing_else() {
    let clients: Vec<String> = (1..=60).map(|n| format!("10.244.7.{n}")).collect();
    for (scheduler, spreads) in [(Scheduler::SourceHash, true), (Scheduler::DestinationHash, false)] {
        let mut lab = lab(Mode::IPTABLES, scheduler, None);
        let mut seen = std::collections::BTreeSet::new();
        for client in &clients {
            let mut dial = |port| served_by(&mut lab, "udp", &format!("{client}:{port}"), "10.96.0.10:53");
            let first = dial(1);
            assert_eq!([dial(2), dial(3)], [first; 2], "{scheduler:?}: {client} is one client");
            seen.insert(first);
        }
        assert_eq!(seen.len(), if spreads { 3 } else { 1 }, "{scheduler:?}");
    }
}

/// §14.3: round after round, also when a pool shrinks.
#[test]
fn turns_come_round() {
    let mut lab = lab(Mode::IPTABLES, Scheduler::RoundRobin, None);
    let mut port = 0;
    let mut dial = |lab: &mut Lab| {
        port += 1;
        served_by(lab, "udp", &format!("10.244.7.7:{port}"), "10.96.0.10:53")
    };
    assert_eq!([(); 8].map(|()| dial(&mut lab)), [1, 2, 3, 1, 2, 3, 1, 2]);
    lab.put(web(&THREE[..2]));
    assert_eq!([(); 4].map(|()| dial(&mut lab)), [1, 2, 1, 2]);
}

/// §7.5: of seven endpoints each has a seventh of the flows. With 420 of them that is 60, seven more or less at random.
#[test]
fn chance_is_fair() {
    let seven: Vec<String> = (1..=7).map(|n| format!("10.244.1.{n} node-a")).collect();
    let mut lab = lab(Mode::IPTABLES, Scheduler::Random, None);
    lab.put(web(&seven.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut flows = [0; 7];
    for port in 1..=420 {
        let number = served_by(&mut lab, "udp", &format!("10.244.7.7:{port}"), "10.96.0.10:53");
        flows[usize::from(number) - 1] += 1;
    }
    assert!(flows.iter().all(|flows| (30..=90).contains(flows)), "{flows:?}");
}

/// §7.6: to the second, from each new flow on, by service port, and never to an endpoint that is gone.
#[test]
fn a_client_stays_with_its_endpoint_for_less_than_the_timeout() {
    let mut lab = lab(Mode::IPTABLES, Scheduler::RoundRobin, Some(100));
    let mut port = 1000;
    let mut dial = |lab: &mut Lab, kind: &str, client: &str, to: &str| {
        port += 1;
        served_by(lab, kind, &format!("{client}:{port}"), to)
    };
    let first = dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80");
    assert_ne!(dial(&mut lab, "S", "10.244.7.8", "10.96.0.10:80"), first, "another client takes the next turn");
    lab.now = 99_999;
    assert_eq!(dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80"), first);
    // The new flow restarted the timer, and every frontend of the port shares the memory.
    lab.now = 99_999 + 99_999;
    assert_eq!(dial(&mut lab, "S", "10.244.7.7", "192.0.2.10:30080"), first);
    assert_eq!(dial(&mut lab, "S", "10.244.7.7", "198.51.100.7:80"), first);
    lab.now += 100_000;
    assert_ne!(dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80"), first, "the time is up: the next turn");
    // The endpoint goes: a new choice is made, and remembered.
    let now = dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80");
    let left: Vec<&str> = THREE.iter().enumerate().filter(|(i, _)| *i as u8 + 1 != now).map(|(_, e)| *e).collect();
    let (service, slice) = web(&left);
    lab.put((Service { affinity: Some(100), ..service }, slice));
    let moved = dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80");
    assert_ne!(moved, now);
    assert_eq!(dial(&mut lab, "S", "10.244.7.7", "10.96.0.10:80"), moved);
}

/// §14.3: persistence is each virtual server's own.
#[test]
fn ipvs_does_not_share_affinity_between_vips() {
    let mut lab = lab(Mode::IPVS, Scheduler::RoundRobin, Some(100));
    assert_eq!(served_by(&mut lab, "S", "10.244.7.7:1", "10.96.0.10:80"), 1);
    assert_eq!(served_by(&mut lab, "S", "10.244.7.7:2", "198.51.100.7:80"), 2);
    assert_eq!(served_by(&mut lab, "S", "10.244.7.7:3", "10.96.0.10:80"), 1);
    assert_eq!(served_by(&mut lab, "S", "10.244.7.7:4", "198.51.100.7:80"), 2);
}

/// §12.5, §6.6, §14.3: a line a case of what a Vip answers apart from its ports.
#[test]
fn pings_and_unmatched_ports_of_vips_by_mode() {
    for (mode, ping, cluster_ip, external_ip) in [
        (Mode::IPTABLES, "pass", "pass", "pass"),
        (Mode::NFTABLES, "unmatched-port", "unmatched-port", "pass"),
        (Mode::IPVS, "accept", "unmatched-port", "unmatched-port"),
        (Mode::KERNELSPACE, "pass", "pass", "pass"),
    ] {
        let mut lab = lab(mode, mode.scheduler, None);
        assert_eq!(lab.send(&frames::ping("10.244.7.7", "10.96.0.10")).to_string(), ping, "{}", mode.name);
        assert_eq!(lab.kind("S", "10.244.7.7:1", "10.96.0.10:81").to_string(), cluster_ip, "{}", mode.name);
        assert_eq!(lab.kind("S", "10.244.7.7:1", "198.51.100.7:81").to_string(), external_ip, "{}", mode.name);
    }
}

/// §14.3: a removed endpoint drains its TCP, and its UDP flows die at their next packet.
#[test]
fn ipvs_drains_tcp_and_cuts_udp() {
    let mut lab = lab(Mode::IPVS, Scheduler::RoundRobin, None);
    assert_eq!(served_by(&mut lab, "S", "10.244.7.7:1", "10.96.0.10:80"), 1);
    assert_eq!(served_by(&mut lab, "udp", "10.244.7.7:1", "10.96.0.10:53"), 1);
    // Terminating, though it still serves: out of the pool while others are ready.
    lab.put(web(&["10.244.1.1 node-a terminating", THREE[1], THREE[2]]));
    assert_eq!(served_by(&mut lab, "A", "10.244.7.7:1", "10.96.0.10:80"), 1);
    assert_ne!(served_by(&mut lab, "udp", "10.244.7.7:1", "10.96.0.10:53"), 1);
    lab.put(web(&[]));
    assert_eq!(lab.kind("udp", "10.244.7.7:1", "10.96.0.10:53").to_string(), "no-endpoints");
    assert_eq!(served_by(&mut lab, "A", "10.244.7.7:1", "10.96.0.10:80"), 1);
}
