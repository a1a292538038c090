//! How fast, beside the kernel doing the same between the same machines, in turns. No figure is a test: it is printed, as
//! lines for `benches/record/`.

use crate::lab::{self, Lab, Lb, Stick, until};
use crate::objects::{backend, write};

/// Who carries the traffic from the client to the Pod.
const WAYS: [(&str, Stick, &str); 4] = [
    ("kernel forwarding", Stick::None, "10.244.0.11"),
    ("kernel nftables DNAT, masquerade", Stick::None, "203.0.113.10"),
    ("lb run, TAP", Stick::Tap, "203.0.113.10"),
    ("lb run, AF_PACKET on veth", Stick::Veth, "203.0.113.10"),
];

const NFTABLES: &str = "table ip nat {
    chain in { type nat hook prerouting priority dstnat; ip daddr 203.0.113.10 meta l4proto { tcp, udp } th dport 80 dnat to 10.244.0.11:5201; }
    chain out { type nat hook postrouting priority srcnat; oifname pod0 masquerade; }
}";

#[test]
#[ignore = "measures; alone and optimised: cargo test --release -p lb-host --test live -- --ignored --nocapture"]
fn beside_the_kernel() {
    if !lab::possible(&["iperf3", "nft", "ss"]) {
        return;
    }
    const ROUNDS: usize = 3;
    let mut labs: Vec<(Lab, Option<Lb>)> = WAYS.iter().map(|way| carried(*way)).collect();
    let mut figures = vec![[const { Vec::new() }; 3]; WAYS.len()];
    for _ in 0..ROUNDS {
        for ((way, (lab, _)), figures) in WAYS.iter().zip(&mut labs).zip(&mut figures) {
            let port = if way.2 == "203.0.113.10" { "80" } else { "5201" };
            let to = ["-c", way.2, "-p", port, "-t", "2"];
            let small = iperf(lab, &[&to[..], &["-u", "-b", "0", "-l", "64"]].concat());
            let received =
                small["sum"]["packets"].as_f64().unwrap_or(0.0) - small["sum"]["lost_packets"].as_f64().unwrap_or(0.0);
            figures[0].push(received / small["sum"]["seconds"].as_f64().unwrap_or(1.0));
            for (at, mss) in [(1, &["-M", "536"][..]), (2, &[])] {
                let bulk = iperf(lab, &[&to[..], mss].concat());
                figures[at].push(bulk["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9);
            }
        }
    }
    println!("way,udp64_packets_per_second,tcp_mss536_gbit_per_second,tcp_gbit_per_second");
    for (way, figures) in WAYS.iter().zip(&mut figures) {
        let [packets, short, bulk] = figures.each_mut().map(|figures| {
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        });
        println!("{},{packets:.0},{short:.2},{bulk:.2}", way.0.replace(',', " +"));
    }
}

/// A lab in which the traffic goes this way.
fn carried((_, stick, address): (&str, Stick, &str)) -> (Lab, Option<Lb>) {
    let mut lab = Lab::new(stick, 1500);
    let path = lab.path("cluster.yaml");
    write(&path, &[backend(0, 5201)]);
    lab.start("pod0", "iperf3", &["-s"]);
    lab.await_port("pod0", 5201);
    let lb = (stick != Stick::None).then(|| Lb::start(&lab, &path, &[]));
    if stick == Stick::None && address == "203.0.113.10" {
        let rules = lab.path("rules.nft");
        std::fs::write(&rules, NFTABLES).expect("written");
        lab::text(lab.command("node", "nft").arg("-f").arg(rules).output().expect("nft")).expect("rules");
    }
    (lab, lb)
}

/// What iperf3 says at its end, once its server, which needs a moment between two tests, takes us.
pub(crate) fn iperf(lab: &Lab, arguments: &[&str]) -> serde_json::Value {
    let mut report = serde_json::Value::Null;
    until("iperf3's server", || {
        let output = lab.command("client", "iperf3").args(arguments).arg("-J").output().expect("iperf3");
        report = serde_json::from_slice(&output.stdout).expect("JSON");
        !report["error"].as_str().is_some_and(|error| error.contains("busy"))
    });
    assert_eq!(report["error"], serde_json::Value::Null, "iperf3 {arguments:?}");
    report["end"].take()
}
