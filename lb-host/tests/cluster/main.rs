//! The cluster in a box, from outside: real TCP through every way into a Service.

use std::collections::BTreeSet;

use lb_core::Family::{self, V4, V6};
use lb_core::Prefix;
use lb_core::control::{Mode, TrafficPolicy};
use lb_host::cluster::program::{DatagramClient, HttpClient, HttpServer};
use lb_host::cluster::settings;
use lb_host::host::Error;
use lb_host::path::socket;

mod bulk;
mod capture;
mod links;
mod proxy;
#[path = "../real/mod.rs"]
#[allow(dead_code, reason = "the shared captures are not for these tests")]
mod real;
mod soak;
mod town;

use town::{By, ECHO, Town, WEB, Who, ms};

/// Whom the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The client's own address.
    Client,
    /// The n-th node's.
    Node(usize),
    /// One of several nodes'.
    SomeNode,
}

fn address_of(seen_as: &str) -> String {
    seen_as.rsplit_once(':').unwrap().0.trim_matches(['[', ']']).to_owned()
}

#[test]
fn every_way_in_is_served_and_the_right_client_seen() {
    use By::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    use Seen::{Client, Node, SomeNode};
    use TrafficPolicy::{Cluster, Local};
    #[rustfmt::skip]
    let ways: &[(TrafficPolicy, Who, By, Seen, &[&str])] = &[
        // eTP,    who,          by,           the server sees, who serves
        (Cluster, Who::Pod,     ClusterIp,    Client,   &["web-1", "web-2"]), // §8.1
        (Cluster, Who::Node,    ClusterIp,    Client,   &["web-1", "web-2"]), // masqueraded as itself
        (Cluster, Who::Pod,     NodePort(1),  SomeNode, &["web-1", "web-2"]), // its own node masquerades, if it is its own address
        (Cluster, Who::Outside, NodePort(0),  Node(0),  &["web-1", "web-2"]),
        (Cluster, Who::Outside, NodePort(1),  Node(1),  &["web-1", "web-2"]),
        (Cluster, Who::Outside, NodePort(2),  Node(2),  &["web-1", "web-2"]), // no endpoint there
        (Cluster, Who::Outside, ExternalIp,   Node(2),  &["web-1", "web-2"]),
        (Cluster, Who::Pod,     ExternalIp,   Node(0),  &["web-1", "web-2"]), // captured where it starts (§7.7)
        (Cluster, Who::Outside, LoadBalancer, SomeNode, &["web-1", "web-2"]),
        (Cluster, Who::Pod,     LoadBalancer, Node(0),  &["web-1", "web-2"]),
        (Local,   Who::Outside, NodePort(0),  Client,   &["web-1"]),          // §7.3
        (Local,   Who::Outside, NodePort(1),  Client,   &["web-2"]),
        (Local,   Who::Outside, LoadBalancer, Client,   &["web-1", "web-2"]), // the balancer knows who is healthy
    ];
    for mode in [Mode::IPTABLES, Mode::NFTABLES, Mode::IPVS, Mode::KERNELSPACE] {
        for family in [V4, V6] {
            for policy in [Cluster, Local] {
                let mut town = Town::new(1, mode, policy);
                for (_, who, by, seen, servers) in ways.iter().filter(|way| way.0 == policy) {
                    let about = format!("{} {family:?} {policy:?} {who:?} by {by:?}", mode.name);
                    let to = town.dialled(*by, family, WEB);
                    let replies = town.ask(*who, to, 12);
                    let own = town.address(*who, family).to_string();
                    let nodes: Vec<_> = town
                        .nodes
                        .iter()
                        .map(|node| town::of(town.cluster.addresses(*node), family).to_string())
                        .collect();
                    let mut served = BTreeSet::new();
                    for reply in replies {
                        let reply = reply.unwrap_or_else(|error| panic!("{about}: {error}"));
                        let address = address_of(&reply.seen_as);
                        match seen {
                            Client => assert_eq!(address, own, "{about}"),
                            Node(n) => assert_eq!(address, nodes[*n], "{about}"),
                            SomeNode => assert!(nodes.contains(&address), "{about}: {address}"),
                        }
                        served.insert(reply.served_by);
                    }
                    assert_eq!(served.iter().map(String::as_str).collect::<Vec<_>>(), *servers, "{about}");
                }
                assert_eq!(town.strays(), BTreeSet::new(), "{} {family:?} {policy:?}", mode.name);
            }
        }
    }
}

#[test]
fn an_endpoint_reaches_itself_under_the_nodes_name() {
    for mode in [Mode::IPTABLES, Mode::NFTABLES, Mode::IPVS] {
        for family in [V4, V6] {
            let mut town = Town::with(2, Default::default(), mode, TrafficPolicy::Cluster, 1);
            let to = town.dialled(By::ClusterIp, family, WEB);
            let reply = town.ask(Who::Server, to, 1).remove(0).unwrap();
            let node = town.address(Who::Node, family).to_string();
            assert_eq!((reply.served_by.as_str(), address_of(&reply.seen_as)), ("web-1", node), "{}", mode.name);
            assert_eq!(town.strays(), BTreeSet::new());
        }
    }
}

#[test]
fn nobody_to_serve_is_refused_or_met_with_silence() {
    use By::{ClusterIp, NodePort};
    use Error::{Refused, TimedOut};
    #[rustfmt::skip]
    let cases: &[(Mode, TrafficPolicy, usize, Who, By, Error)] = &[
        // mode,             eTP,                endpoints, who, by,      the client is told (§6.4)
        (Mode::IPTABLES,    TrafficPolicy::Cluster, 0, Who::Pod,     ClusterIp,   Refused),
        (Mode::IPTABLES,    TrafficPolicy::Cluster, 0, Who::Node,    ClusterIp,   Refused),
        (Mode::IPTABLES,    TrafficPolicy::Cluster, 0, Who::Outside, NodePort(0), Refused),
        (Mode::IPTABLES,    TrafficPolicy::Local,   2, Who::Outside, NodePort(2), TimedOut),
        (Mode::IPTABLES,    TrafficPolicy::Local,   0, Who::Outside, NodePort(2), Refused),
        (Mode::NFTABLES,    TrafficPolicy::Cluster, 0, Who::Pod,     ClusterIp,   Refused),
        (Mode::NFTABLES,    TrafficPolicy::Local,   2, Who::Outside, NodePort(2), TimedOut),
        (Mode::IPVS,        TrafficPolicy::Cluster, 0, Who::Pod,     ClusterIp,   Refused),
        (Mode::KERNELSPACE, TrafficPolicy::Cluster, 0, Who::Pod,     ClusterIp,   TimedOut), // no policy: routed away (§14.4)
    ];
    for (mode, policy, endpoints, who, by, expected) in cases {
        for family in [V4, V6] {
            let mut town = Town::with(3, Default::default(), *mode, *policy, *endpoints);
            let to = town.dialled(*by, family, WEB);
            let about = format!("{} {policy:?} {endpoints} {who:?} by {by:?} {family:?}", mode.name);
            assert_eq!(town.ask(*who, to, 1), [Err(*expected)], "{about}");
            assert_eq!(town.strays(), BTreeSet::new(), "{about}");
        }
    }
}

#[test]
fn a_node_answers_for_itself_where_no_service_does() {
    let mut town = Town::new(4, Mode::IPTABLES, TrafficPolicy::Cluster);
    for family in [V4, V6] {
        let node = town.address(Who::Node, family);
        for who in [Who::Pod, Who::Outside] {
            assert_eq!(town.ask(who, (node, 9999), 1), [Err(Error::Refused)], "a closed port");
        }
        let server = HttpServer::new("kubelet", if family == V4 { 10250 } else { 10251 });
        let port = if family == V4 { 10250 } else { 10251 };
        town.cluster.run(town.nodes[0], server);
        for who in [Who::Pod, Who::Outside, Who::Node] {
            let reply = town.ask(who, (node, port), 1).remove(0).unwrap();
            let own = town.address(who, family);
            assert_eq!((reply.served_by.as_str(), address_of(&reply.seen_as)), ("kubelet", own.to_string()));
        }
    }
}

#[test]
fn a_resolver_that_never_changes_its_port_follows_the_endpoints() {
    // SEMANTICS §11.5: the flow that binds the port to a backend that is gone must not outlive the sync.
    for mode in [Mode::IPTABLES, Mode::NFTABLES, Mode::IPVS] {
        for family in [V4, V6] {
            let mut town = Town::with(5, Default::default(), mode, TrafficPolicy::Cluster, 1);
            let to = town.dialled(By::ClusterIp, family, ECHO);
            let client = town.cluster.run(town.shell, DatagramClient::new(5354, to, 60, ms(100)));
            town.cluster.run_until(town.cluster.now().saturating_add(ms(2000)));
            town.webs.swap(0, 1);
            town.nodes.swap(0, 1);
            town.publish(1);
            town.cluster.run_until(town.cluster.now().saturating_add(ms(6000)));
            assert_eq!(town.cluster.program(client).unwrap().strangers(), []);
            let queries = town.cluster.program(client).unwrap().queries();
            let answers: Vec<_> = queries.iter().map(|query| query.result.clone().unwrap().1.unwrap()).collect();
            assert_eq!(answers.len(), 60);
            let own = socket(town.address(Who::Pod, family), 5354);
            assert!(answers.iter().all(|answer| answer.exact && answer.seen_as == own));
            let moved = answers.iter().position(|answer| answer.served_by == "web-2").unwrap();
            assert!((20..=25).contains(&moved), "at most half a second later, not at {moved}");
            assert!(answers[moved..].iter().all(|answer| answer.served_by == "web-2"));
            assert_eq!(town.strays(), BTreeSet::new(), "{} {family:?}", mode.name);
        }
    }
}

#[test]
fn a_ping_is_answered_as_the_mode_has_it() {
    // SEMANTICS §12.5.
    for (mode, answered) in
        [(Mode::IPTABLES, None), (Mode::NFTABLES, Some(Some(Error::Refused))), (Mode::IPVS, Some(None))]
    {
        for family in [V4, V6] {
            let mut town = Town::new(6, mode, TrafficPolicy::Cluster);
            let vip = town.dialled(By::ClusterIp, family, WEB).0;
            let web = town.address(Who::Server, family);
            let mut ping = |to| {
                town.cluster.host_mut(town.shell).unwrap().ping(to, 1).unwrap();
                town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
                town.cluster.host_mut(town.shell).unwrap().echo()
            };
            assert_eq!(
                ping(vip).map(|echo| (echo.from, echo.error)),
                answered.map(|error| (vip, error)),
                "{}",
                mode.name
            );
            assert_eq!(ping(web).map(|echo| (echo.from, echo.error)), Some((web, None)), "a pod");
        }
    }
}

#[test]
fn a_node_that_is_gone_takes_its_pods_along() {
    let mut town = Town::new(7, Mode::IPTABLES, TrafficPolicy::Cluster);
    let to = town.dialled(By::ClusterIp, Family::V4, WEB);
    town.cluster.remove(town.nodes[1]);
    let results = town.ask(Who::Pod, to, 12);
    assert!(results.contains(&Err(Error::TimedOut)), "web-2 is still an endpoint: {results:?}");
    town.publish(1);
    town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
    assert!(
        town.ask(Who::Pod, to, 12).iter().all(|result| result.as_ref().is_ok_and(|reply| reply.served_by == "web-1"))
    );
}

#[test]
fn a_killed_server_resets_and_is_refused_until_it_is_back() {
    let mut town = Town::with(8, Default::default(), Mode::IPTABLES, TrafficPolicy::Cluster, 1);
    let to = town.dialled(By::ClusterIp, Family::V4, WEB);
    let client = town.cluster.run(town.shell, HttpClient::new(to).times(30, ms(100)).keep_alive());
    town.cluster.run_until(town.cluster.now().saturating_add(ms(950)));
    let server = town.servers[0];
    town.cluster.kill(server);
    town.cluster.run_until(town.cluster.now().saturating_add(ms(1000)));
    town.cluster.run(town.webs[0], HttpServer::new("again", 8080));
    town.cluster.run_until(town.cluster.now().saturating_add(ms(2000)));
    let exchanges = town.cluster.program(client).unwrap().exchanges();
    let told: Vec<_> = exchanges.iter().map(|one| one.result.as_ref().map(|reply| reply.served_by.as_str())).collect();
    assert_eq!(told[..10], [Ok("web-1"); 10]);
    assert_eq!(told[10..20], [Err(&Error::Refused); 10]);
    assert_eq!(told[20..], [Ok("again"); 10]);
}

#[test]
fn a_load_balancer_lets_in_whom_it_should() {
    let mut town = Town::new(9, Mode::IPTABLES, TrafficPolicy::Cluster);
    for family in [V4, V6] {
        let to = town.dialled(By::LoadBalancer, family, WEB);
        let client = town.address(Who::Outside, family);
        for (sources, expected) in [
            (vec![], true),
            (vec![Prefix::host(client)], true),
            (vec![Prefix::host(town.address(Who::Pod, family))], false),
            (vec![Prefix::host(town.address(Who::Pod, if family == V4 { V6 } else { V4 }))], true),
        ] {
            town.cluster.admit(to.0, sources.clone());
            assert_eq!(town.ask(Who::Outside, to, 1)[0].is_ok(), expected, "{sources:?}");
        }
    }
}

#[test]
fn a_node_that_comes_later_knows_all_from_the_start() {
    let mut town = Town::new(10, Mode::IPTABLES, TrafficPolicy::Cluster);
    let late = town.cluster.add_node("late", Some("zone-b"), &settings(Mode::NFTABLES)).unwrap();
    let address = town::of(town.cluster.addresses(late), V4);
    assert!(town.ask(Who::Outside, (address, 30080), 1)[0].is_ok());
    assert!(town.cluster.counters(late).unwrap().flows_created == 1);
}
