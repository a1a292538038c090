//! Masquerade: which source port and address a flow gets (SEMANTICS §8), and what happens when there is none left.

mod common;

use common::cluster::{node, web};
use common::lab::{Lab, SIZES, config};
use lb_core::Sizes;
use lb_core::control::{Node, Proxy, Service, Slice};

fn one_pod() -> Vec<(Service, Slice)> {
    vec![web(&["10.244.1.2 node-a"])]
}

#[test]
fn the_masquerade_port_of_a_flow_stays_and_differs_between_flows() {
    let mut lab = Lab::web(&["10.244.1.2 node-a"]);
    let mut ports = Vec::new();
    for client in 1..=50 {
        let from = format!("203.0.113.{client}:40000");
        let first = lab.kind("S", &from, "198.51.100.7:80").source_port();
        assert_eq!(lab.kind("S", &from, "198.51.100.7:80").source_port(), first);
        ports.push(first);
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 50);
    assert_eq!(lab.engine.counters().ports_changed, 50);
}

#[test]
fn every_masquerade_port_towards_a_backend_taken() {
    let sizes = Sizes { v4_flows: 256, ..SIZES };
    // One port is left to choose from: 65535.
    let narrow = Node { proxy: Proxy { reserved_ports: (1024, 65534), ..node().proxy }, ..node() };
    let mut lab = Lab::with(config(), sizes, narrow, one_pod());
    let vip = "198.51.100.7:80";
    assert_eq!(lab.kind("S", "203.0.113.5:40000", vip).to_string(), "-> 192.0.2.10:65535 > 10.244.1.2:8080");
    assert_eq!(lab.kind("S", "203.0.113.6:40000", vip).to_string(), "no-port");
    // Another backend port, another protocol: the same port again.
    let udp = lab.kind("udp", "203.0.113.6:40000", "198.51.100.7:53");
    assert_eq!(udp.to_string(), "-> 192.0.2.10:65535 > 10.244.1.2:5353");
    // When the first flow is over, its port is free, swept or not.
    lab.now = 120_000;
    assert_eq!(lab.kind("S", "203.0.113.6:40000", vip).to_string(), "-> 192.0.2.10:65535 > 10.244.1.2:8080");
}

/// A run of taken ports is no reason to give up while others are free, and no packet waits for all of them to be tried.
#[test]
fn nearly_every_masquerade_port_towards_a_backend_taken() {
    let sizes = Sizes { v4_flows: 1024, ..SIZES };
    // 1,000 ports to choose from.
    let narrow = Node { proxy: Proxy { reserved_ports: (1024, 64535), ..node().proxy }, ..node() };
    let mut lab = Lab::with(config(), sizes, narrow, one_pod());
    let mut most = 0;
    for client in 0..970u16 {
        let tried = lab.engine.counters().port_tries;
        let from = format!("203.0.113.{}:{}", client % 250 + 1, 40_000 + client / 250);
        let sent = lab.kind("S", &from, "198.51.100.7:80").to_string();
        assert!(sent.starts_with("-> 192.0.2.10:"), "client {client}: {sent}");
        most = most.max(lab.engine.counters().port_tries - tried);
    }
    assert!((129..=248).contains(&most), "one run at least was all taken: {most}");
}

#[test]
fn no_address_to_masquerade_with() {
    let bare = Node { addresses: vec![], ..node() };
    let mut lab = Lab::new(bare, one_pod());
    let sent = lab.kind("S", "203.0.113.5:40000", "198.51.100.7:80");
    assert_eq!(sent.to_string(), "no-masquerade-address");
    assert_eq!(lab.engine.flows().count(), 0);
}
