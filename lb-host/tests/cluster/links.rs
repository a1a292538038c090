//! Cables that carry less than hosts expect.

use std::collections::BTreeSet;

use lb_core::Family::{V4, V6};
use lb_core::control::{Mode, TrafficPolicy};
use lb_host::cluster::program::{BulkClient, DatagramClient};
use lb_host::cluster::{Link, Physics};

use crate::town::{BULK, By, ECHO, Town, Who, ms};

fn narrow(town: &mut Town, mtu: usize) {
    for node in town.nodes.clone() {
        town.cluster.set_link(node, Link { mtu, ..Physics::default().node });
    }
}

#[test]
fn a_narrow_path_is_found_out_through_the_translation() {
    // RFC 1191, RFC 8201: the router on the way quotes a packet that the client never sent like that; the node's engine
    // makes it the client's own again (SEMANTICS §11.8).
    for family in [V4, V6] {
        for (who, by) in [(Who::Pod, By::ClusterIp), (Who::Outside, By::LoadBalancer), (Who::Node, By::ClusterIp)] {
            let mut town = Town::new(21, Mode::IPTABLES, TrafficPolicy::Cluster);
            narrow(&mut town, 1300);
            // Either endpoint: one is on another node for everybody.
            for _ in 0..4 {
                let to = town.dialled(by, family, BULK);
                let client = town.cluster.run(town.machine(who), BulkClient::new(to, 100_000, 100_000));
                town.cluster.run_until(town.cluster.now().saturating_add(ms(60_000)));
                let outcome = town.cluster.program(client).unwrap().outcome();
                assert!(outcome.is_some_and(|outcome| outcome.exact), "{family:?} {who:?} by {by:?}: {outcome:?}");
            }
            assert_eq!(town.strays(), BTreeSet::new(), "{family:?} {who:?} by {by:?}");
        }
    }
}

#[test]
fn datagrams_in_fragments_are_translated_in_any_order() {
    for jitter in [0, 300] {
        for (who, by) in [(Who::Pod, By::ClusterIp), (Who::Outside, By::LoadBalancer), (Who::Outside, By::NodePort(2))]
        {
            let mut physics = Physics::default();
            physics.node.jitter = std::time::Duration::from_micros(jitter);
            let mut town = Town::with(22, physics, Mode::IPTABLES, TrafficPolicy::Cluster, 2);
            let to = town.dialled(by, V4, ECHO);
            let payload = (0..6000u32).map(|n| n as u8).collect();
            let client = DatagramClient::new(5354, to, 20, ms(100)).payload(payload);
            let client = town.cluster.run(town.machine(who), client);
            town.cluster.run_until(town.cluster.now().saturating_add(ms(5_000)));
            let queries = town.cluster.program(client).unwrap().queries();
            assert_eq!(queries.len(), 20);
            for query in queries {
                let answer = query.result.as_ref().map(|(_, answer)| answer.as_ref().unwrap());
                assert!(answer.is_some_and(|answer| answer.exact), "{who:?} by {by:?}, jitter {jitter}: {query:?}");
            }
            assert_eq!(town.strays(), BTreeSet::new());
        }
    }
}

#[test]
fn a_cut_cable_is_a_timeout_and_heals() {
    let mut town = Town::new(23, Mode::IPTABLES, TrafficPolicy::Local);
    let to = town.dialled(By::NodePort(0), V4, crate::town::WEB);
    town.cluster.set_link(town.nodes[0], Link::cut());
    assert_eq!(town.ask(Who::Outside, to, 1), [Err(lb_host::host::Error::TimedOut)]);
    town.cluster.set_link(town.nodes[0], Physics::default().node);
    assert!(town.ask(Who::Outside, to, 1)[0].is_ok());
}
