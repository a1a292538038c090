//! Userspace mode in the box (SEMANTICS §14.5): through the node's own proxy, whichever way in.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_core::Family::{V4, V6};
use lb_core::control::{Mode, Node, TrafficPolicy};
use lb_host::cluster::program::{BulkClient, DatagramClient};
use lb_host::cluster::{Change, settings};
use lb_host::host::Error;

use crate::bulk::rough;
use crate::town::{self, BULK, By, ECHO, Town, WEB, Who, ms};

fn address_of(seen_as: &str) -> &str {
    seen_as.rsplit_once(':').unwrap().0.trim_matches(['[', ']'])
}

#[test]
fn every_way_in_is_served_in_turn_and_the_node_is_seen() {
    use By::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    // A line a case: who, by which address, and which nodes the server may see. No policy counts.
    let ways: &[(Who, By, &[usize])] = &[
        (Who::Pod, ClusterIp, &[0]),
        (Who::Server, ClusterIp, &[0]),
        (Who::Node, ClusterIp, &[0]),
        (Who::Node, NodePort(0), &[0]),
        (Who::Pod, NodePort(0), &[0]),
        (Who::Outside, NodePort(0), &[0]),
        (Who::Outside, NodePort(2), &[2]),
        (Who::Outside, ExternalIp, &[2]),
        (Who::Pod, ExternalIp, &[0]),
        (Who::Outside, LoadBalancer, &[0, 1, 2]),
        (Who::Pod, LoadBalancer, &[0]),
    ];
    for (family, policy) in [(V4, TrafficPolicy::Cluster), (V6, TrafficPolicy::Cluster), (V4, TrafficPolicy::Local)] {
        let mut town = Town::new(1, Mode::USERSPACE, policy);
        for (who, by, nodes) in ways {
            let about = format!("{family:?} {policy:?} {who:?} by {by:?}");
            let to = town.dialled(*by, family, WEB);
            let replies = town.ask(*who, to, 6);
            let nodes: Vec<_> = nodes
                .iter()
                .map(|node| town::of(town.cluster.addresses(town.nodes[*node]), family).to_string())
                .collect();
            let mut served = Vec::new();
            for reply in replies {
                let reply = reply.unwrap_or_else(|error| panic!("{about}: {error}"));
                let seen = address_of(&reply.seen_as);
                assert!(nodes.iter().any(|node| node == seen), "{about}: {seen}");
                served.push(reply.served_by);
            }
            assert_eq!(served.iter().collect::<BTreeSet<_>>().len(), 2, "{about}: {served:?}");
            let in_turn = served.windows(2).all(|two| two[0] != two[1]);
            assert!(in_turn || nodes.len() > 1, "{about}: {served:?}");
        }
        assert_eq!(town.strays(), BTreeSet::new(), "{family:?} {policy:?}");
        let connections = town.nodes.iter().map(|node| town.cluster.proxy(*node).unwrap().counters().connections);
        assert_eq!(connections.sum::<u64>(), ways.len() as u64 * 6);
    }
}

#[test]
fn bytes_and_datagrams_come_through_rough_cables() {
    for (family, who, by) in
        [(V4, Who::Outside, By::LoadBalancer), (V6, Who::Pod, By::ClusterIp), (V4, Who::Node, By::ClusterIp)]
    {
        let mut town = Town::with(5, rough(), Mode::USERSPACE, TrafficPolicy::Cluster, 2);
        let to = town.dialled(by, family, BULK);
        let client = town.cluster.run(town.machine(who), BulkClient::new(to, 500_000, 500_000));
        let limit = town.cluster.now().saturating_add(Duration::from_secs(3600));
        let over = |cluster: &lb_host::cluster::Cluster| cluster.program(client).unwrap().outcome().is_some();
        assert!(town.cluster.run_until_holds(limit, over), "{who:?} by {by:?} does not end");
        let outcome = town.cluster.program(client).unwrap().outcome().unwrap();
        assert!(outcome.exact && outcome.received == 500_000 && outcome.error.is_none(), "{outcome:?}");

        let mut town = Town::new(6, Mode::USERSPACE, TrafficPolicy::Cluster);
        let to = town.dialled(by, family, ECHO);
        let client = town.cluster.run(town.machine(who), DatagramClient::new(0, to, 10, ms(100)));
        town.cluster.run_until(town.cluster.now().saturating_add(ms(3000)));
        let queries = town.cluster.program(client).unwrap().queries();
        assert!(queries.len() == 10 && queries.iter().all(|query| query.result.is_some()), "{queries:?}");
        assert_eq!(town.strays(), BTreeSet::new());
    }
}

#[test]
fn without_endpoints_connections_are_accepted_and_closed() {
    for family in [V4, V6] {
        let mut town = Town::with(3, Default::default(), Mode::USERSPACE, TrafficPolicy::Cluster, 0);
        for (who, by) in [(Who::Pod, By::ClusterIp), (Who::Node, By::ClusterIp), (Who::Outside, By::NodePort(1))] {
            let to = town.dialled(by, family, WEB);
            // Told by a reset, as the request was never read; a refusal would not be a connection.
            assert_eq!(town.ask(who, to, 1), [Err(Error::Reset)], "{who:?} by {by:?}");
        }
        town.publish(1);
        town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
        let to = town.dialled(By::ClusterIp, family, WEB);
        assert_eq!(town.ask(Who::Pod, to, 1)[0].as_ref().unwrap().served_by, "web-1");
        // The service goes, and its ports with it.
        town.cluster.observe(&Change::NoService("default/web".into()));
        town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
        assert_eq!(town.cluster.proxy(town.nodes[0]).unwrap().ports().count(), 0);
        let to = town.dialled(By::NodePort(1), family, WEB);
        assert_eq!(town.ask(Who::Outside, to, 1), [Err(Error::Refused)]);
    }
}

#[test]
fn a_node_that_is_gone_is_a_try_that_failed() {
    for family in [V4, V6] {
        let mut town = Town::new(4, Mode::USERSPACE, TrafficPolicy::Cluster);
        town.cluster.remove(town.nodes[1]);
        let to = town.dialled(By::ClusterIp, family, WEB);
        let replies = town.ask(Who::Pod, to, 4);
        assert!(replies.iter().all(|reply| reply.as_ref().unwrap().served_by == "web-1"), "{replies:?}");
        assert!(town.cluster.proxy(town.nodes[0]).unwrap().counters().retries >= 2);
    }
}

#[test]
fn a_node_may_change_its_mode() {
    for (before, after) in [(Mode::IPTABLES, Mode::USERSPACE), (Mode::USERSPACE, Mode::NFTABLES)] {
        let mut town = Town::new(7, before, TrafficPolicy::Cluster);
        let to = town.dialled(By::ClusterIp, V4, WEB);
        assert!(town.ask(Who::Pod, to, 2).iter().all(Result::is_ok));
        let addresses = town.cluster.addresses(town.nodes[0]).to_vec();
        let proxy = settings(after).proxy(&addresses, &[]);
        let node = Node { name: "worker-1".into(), zone: None, addresses, proxy };
        town.cluster.observe(&Change::Node(node));
        town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
        assert_eq!(town.cluster.proxy(town.nodes[0]).is_some(), after == Mode::USERSPACE);
        assert!(town.ask(Who::Pod, to, 2).iter().all(Result::is_ok), "{} after {}", after.name, before.name);
        town.publish(1);
        town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
        let replies = town.ask(Who::Pod, to, 3);
        assert!(replies.iter().all(|reply| reply.as_ref().unwrap().served_by == "web-1"), "{replies:?}");
        assert_eq!(town.strays(), BTreeSet::new());
    }
}
