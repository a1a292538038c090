//! What the box leaves behind: the same bytes for the same seed, and nothing in them that tshark objects to.

use lb_core::Family::{V4, V6};
use lb_core::control::{Mode, TrafficPolicy};
use lb_host::cluster::program::{BulkClient, DatagramClient};

use crate::bulk::rough;
use crate::real;
use crate::town::{BULK, By, ECHO, Town, WEB, Who, ms};

/// A bit of everything, over bad cables.
fn busy(seed: u64) -> Vec<u8> {
    let mut town = Town::with(seed, rough(), Mode::IPTABLES, TrafficPolicy::Cluster, 2);
    town.cluster.record().unwrap();
    for family in [V4, V6] {
        for (who, by) in [(Who::Pod, By::ClusterIp), (Who::Outside, By::LoadBalancer), (Who::Outside, By::NodePort(2))]
        {
            let to = town.dialled(by, family, WEB);
            let _ = town.ask(who, to, 3);
            let (machine, bulk) = (town.machine(who), town.dialled(by, family, BULK));
            town.cluster.run(machine, BulkClient::new(bulk, 20_000, 20_000));
        }
        let to = town.dialled(By::NodePort(2), family, ECHO);
        let payload = vec![b'x'; if family == V4 { 4000 } else { 400 }];
        town.cluster.run(town.client, DatagramClient::new(0, to, 5, ms(50)).payload(payload));
        town.cluster.run_until(town.cluster.now().saturating_add(ms(5_000)));
    }
    town.publish(0);
    town.cluster.run_until(town.cluster.now().saturating_add(ms(1_000)));
    for family in [V4, V6] {
        let to = town.dialled(By::ClusterIp, family, WEB);
        let _ = town.ask(Who::Pod, to, 1);
    }
    town.cluster.capture().unwrap()
}

#[test]
fn a_seed_is_a_capture() {
    let first = busy(31);
    assert!(first.len() > 100_000);
    assert!(first == busy(31), "the same seed, other bytes");
    assert!(first != busy(32), "another seed, the same bytes");
}

#[test]
fn tshark_finds_nothing_wrong() {
    if !real::tshark() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("box.pcapng");
    std::fs::write(&file, busy(33)).unwrap();
    let packets = real::tshark::packets(&file);
    assert!(packets.len() > 500, "{}", packets.len());
    for (number, packet) in packets.iter().enumerate() {
        assert!(packet.wrong.iter().all(|wrong| *wrong == 0), "frame {}: {packet:?}", number + 1);
        assert!(!packet.is_flagged, "frame {}: {packet:?}", number + 1);
    }
    let interfaces: std::collections::BTreeSet<_> = packets.iter().map(|packet| packet.interface.as_str()).collect();
    assert_eq!(interfaces.into_iter().collect::<Vec<_>>(), ["load-balancer", "worker-1", "worker-2", "worker-3"]);
    let comments: Vec<_> = packets.iter().map(|packet| packet.comment.as_str()).collect();
    for words in
        ["forward DNAT SNAT: tcp", "lb 203.0.113.10:80 -> node 192.0.2.", "no-endpoints: ", "rule default/web:80/TCP"]
    {
        assert!(comments.iter().any(|comment| comment.contains(words)), "no comment says {words:?}");
    }
}
