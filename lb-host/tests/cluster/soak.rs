//! Seeds: other cables, other luck, endpoints that come and go under traffic; the same promises.

use std::collections::BTreeSet;

use lb_core::Family::{V4, V6};
use lb_core::control::{Mode, TrafficPolicy};
use lb_host::chance::Chance;
use lb_host::cluster::program::{BulkClient, DatagramClient, HttpClient};

use crate::bulk::rough;
use crate::town::{BULK, By, ECHO, Town, WEB, Who, ms};

#[test]
fn endpoints_come_and_go_and_nobody_hears_from_a_stranger() {
    for seed in 0..24 {
        let mut chance = Chance::new(seed);
        let modes = [Mode::IPTABLES, Mode::NFTABLES, Mode::IPVS, Mode::KERNELSPACE];
        let mode = modes[chance.below(4) as usize];
        // SEMANTICS §14.3: ipvs falls back to another node's endpoint without masquerade, whose answer does not come back this
        // way: a client does hear from a stranger then.
        let policy = match mode == Mode::IPVS {
            true => TrafficPolicy::Cluster,
            false => [TrafficPolicy::Cluster, TrafficPolicy::Local][chance.below(2) as usize],
        };
        let mut town = Town::with(seed, rough(), mode, policy, 2);
        let about = format!("seed {seed}, {} {policy:?}", mode.name);
        let (mut transfers, mut resolvers) = (Vec::new(), Vec::new());
        for family in [V4, V6] {
            for (who, by) in [(Who::Pod, By::ClusterIp), (Who::Node, By::ClusterIp), (Who::Outside, By::LoadBalancer)] {
                let machine = town.machine(who);
                let [web, echo, bulk] = [WEB, ECHO, BULK].map(|port| town.dialled(by, family, port));
                town.cluster.run(machine, HttpClient::new(web).times(40, ms(100)));
                resolvers.push(town.cluster.run(machine, DatagramClient::new(0, echo, 40, ms(100))));
                transfers.push((who, by, town.cluster.run(machine, BulkClient::new(bulk, 60_000, 60_000))));
            }
        }
        town.cluster.run_until(town.cluster.now().saturating_add(ms(300)));
        for _ in 0..6 {
            town.publish(chance.below(3) as usize);
            town.cluster.run_until(town.cluster.now().saturating_add(ms(700)));
        }
        town.publish(2);
        town.cluster.run_until(town.cluster.now().saturating_add(ms(900_000)));
        assert_eq!(town.strays(), BTreeSet::new(), "{about}");
        for resolver in resolvers {
            assert_eq!(town.cluster.program(resolver).unwrap().strangers(), [], "{about}");
        }
        for (who, by, transfer) in transfers {
            // §11.1, §11.2: what was established stays whole, wherever its endpoint went.
            let outcome = town.cluster.program(transfer).unwrap().outcome();
            assert!(outcome.is_some_and(|outcome| outcome.exact), "{about}: {who:?} by {by:?} {outcome:?}");
        }
    }
}
