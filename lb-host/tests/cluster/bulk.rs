//! Megabytes through every way in, over cables that lose and reorder.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_core::Family::{V4, V6};
use lb_core::control::{Mode, TrafficPolicy};
use lb_host::cluster::program::BulkClient;
use lb_host::cluster::{Link, Physics};

use crate::town::{BULK, By, Town, Who};

/// 2 % lost on the way through two nodes, in and out of the first and into the second; some come twice, and they
/// overtake each other.
pub(crate) fn rough() -> Physics {
    let plain = Physics::default();
    let node = Link { loss: 7_000, duplication: 2_000, jitter: Duration::from_micros(300), ..plain.node };
    Physics { node, ..plain }
}

fn transfer(town: &mut Town, who: Who, to: (lb_core::Address, u16), bytes: (u64, u64)) {
    let client = town.cluster.run(town.machine(who), BulkClient::new(to, bytes.0, bytes.1));
    let limit = town.cluster.now().saturating_add(Duration::from_secs(7200));
    let over = |cluster: &lb_host::cluster::Cluster| cluster.program(client).unwrap().outcome().is_some();
    assert!(town.cluster.run_until_holds(limit, over), "{who:?} {to:?} does not end");
    let outcome = town.cluster.program(client).unwrap().outcome().unwrap();
    assert!(outcome.exact && outcome.received == bytes.1 && outcome.error.is_none(), "{who:?} {to:?}: {outcome:?}");
}

#[test]
fn not_a_byte_is_lost_on_any_way_in() {
    for (mode, family) in [(Mode::IPTABLES, V4), (Mode::NFTABLES, V6), (Mode::IPVS, V4), (Mode::KERNELSPACE, V6)] {
        for (policy, who, by) in [
            (TrafficPolicy::Cluster, Who::Pod, By::ClusterIp),
            (TrafficPolicy::Cluster, Who::Node, By::ClusterIp),
            (TrafficPolicy::Cluster, Who::Outside, By::NodePort(2)),
            (TrafficPolicy::Cluster, Who::Outside, By::ExternalIp),
            (TrafficPolicy::Cluster, Who::Outside, By::LoadBalancer),
            (TrafficPolicy::Local, Who::Outside, By::LoadBalancer),
        ] {
            let mut town = Town::with(11, rough(), mode, policy, 2);
            let to = town.dialled(by, family, BULK);
            transfer(&mut town, who, to, (500_000, 500_000));
            assert_eq!(town.strays(), BTreeSet::new(), "{} {family:?} {policy:?} {who:?} by {by:?}", mode.name);
        }
    }
}

#[test]
fn ten_megabytes_through_the_load_balancer() {
    let mut town = Town::with(12, rough(), Mode::IPTABLES, TrafficPolicy::Cluster, 2);
    let to = town.dialled(By::LoadBalancer, V4, BULK);
    transfer(&mut town, Who::Outside, to, (10_000_000, 0));
    transfer(&mut town, Who::Outside, to, (0, 10_000_000));
}
