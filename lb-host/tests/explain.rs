//! `lb explain`, from outside: the fate of single packets to the seed's cluster, as SEMANTICS has it.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn explain(arguments: &str, packet: &str) -> Value {
    let mut lb = Command::cargo_bin("lb").unwrap();
    lb.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"));
    let run = lb.arg("explain").args(arguments.split_whitespace()).arg(packet).args(["-o", "json"]).output().unwrap();
    assert!(run.status.success(), "{packet}: {}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

fn layers(explanation: &Value) -> String {
    let layers = explanation["path"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = layers.iter().map(|layer| format!("{} {}", layer["kind"], layer["address"]).replace('"', ""));
    words.collect::<Vec<_>>().join(" -> ")
}

/// A line a case: flags, packet, verdict, masquerade, the layers but the last, the paragraph that decided.
#[test]
fn the_seeds_cluster() {
    let pod = "--cluster-cidr 10.244.0.0/16,fd00:10:244::/48";
    let lb = "lb 203.0.113.10:8081 -> node 192.0.2.11:32255 -> service 10.96.100.50:8081 -> pod ";
    let node = "node 192.0.2.11:32255 -> service 10.96.100.50:8081 -> pod ";
    let service = "service 10.96.100.50:8081 -> pod ";
    let lb6 = "lb [2001:db8:10::10]:8081 -> node [2001:db8:2::11]:32255 -> service [fd00:10:96::50]:8081 -> pod ";
    for (flags, packet, verdict, masquerade, path, because) in [
        ("", "tcp 198.51.100.7 -> 203.0.113.10:8081", "forward", Some(true), lb, "§6.3"),
        ("", "tcp 198.51.100.7 -> 192.0.2.11:32255", "forward", Some(true), node, "§6.3"),
        ("", "tcp [2001:db8:7::7]:4 -> [2001:db8:10::10]:8081", "forward", Some(true), lb6, "§6.3"),
        (pod, "tcp 10.244.1.77 -> 10.96.100.50:8081", "forward", Some(false), service, "§6.3"),
        (pod, "tcp 198.51.100.7 -> 10.96.100.50:8081", "forward", Some(true), service, "§6.3"),
        ("", "tcp 198.51.100.7 -> 10.96.100.50:8081", "forward", Some(false), service, "§6.3"),
        ("", "tcp 198.51.100.7 -> 10.96.100.50:80", "pass", None, "", "§6.6"),
        ("--mode nftables", "tcp 198.51.100.7 -> 10.96.100.50:80", "reject", None, "", "§6.6"),
        ("--mode nftables", "tcp 198.51.100.7 -> 10.96.100.51:80", "drop", None, "", "§6.6"),
        ("", "udp 198.51.100.7 -> 203.0.113.10:8081", "pass", None, "", "§6.1"),
        // Refused for what they are, whatever the rules have to say of where they go.
        ("", "tcp 224.0.0.1 -> 10.96.100.50:8081", "drop", None, "service 10.96.100.50:8081", "no host can have"),
        ("", "tcp 10.96.100.50:8081 -> 10.96.100.50:8081", "drop", None, "service 10.96.100.50:8081", "very address"),
        // The node itself (§1), not somebody outside who says so.
        ("", "tcp 127.0.0.1 -> 10.96.100.50:8081", "forward", Some(false), service, "§6.3"),
    ] {
        let got = explain(&format!("-f seed --node worker-1 {flags}"), packet);
        let case = format!("{flags} {packet}: {got:#}");
        assert_eq!(got["verdict"], verdict, "{case}");
        assert_eq!(got["masquerade"]["masquerade"].as_bool(), masquerade, "{case}");
        assert!(layers(&got).starts_with(path) && layers(&got).is_empty() == path.is_empty(), "{case}");
        assert!(got["because"].as_str().unwrap().contains(because), "{case}");
    }
}

#[test]
fn every_endpoint_is_accounted_for() {
    let got = explain("-f seed --node worker-1", "tcp 198.51.100.7 -> 203.0.113.10:8081");
    let endpoints = got["endpoints"].as_array().unwrap();
    let outcome = |address: &str| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == address).unwrap();
        endpoint["outcome"].as_str().unwrap()
    };
    let ready = ["10.244.1.10:8080", "10.244.1.11:8080", "10.244.2.10:8080"].map(outcome);
    assert_eq!(ready.iter().filter(|outcome| **outcome == "chosen").count(), 1);
    assert_eq!(ready.iter().filter(|outcome| **outcome == "possible").count(), 2);
    assert_eq!(outcome("10.244.2.11:8080"), "out", "it is not ready");
    assert_eq!(endpoints.len(), 4);
    let chosen = endpoints.iter().find(|endpoint| endpoint["outcome"] == "chosen").unwrap();
    assert!(layers(&got).ends_with(chosen["address"].as_str().unwrap()));
}

#[test]
fn nobody_could_have_served_a_packet_that_is_refused_for_what_it_is() {
    let got = explain("-f seed --node worker-1", "tcp 224.0.0.1 -> 203.0.113.10:8081");
    let endpoints = got["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().all(|endpoint| endpoint["outcome"] == "out"), "{got:#}");
}

#[test]
fn a_packet_that_can_not_be_read_is_bad_usage() {
    let mut lb = Command::cargo_bin("lb").unwrap();
    let run = lb.args(["explain", "-f", "x.yaml", "tcp 10.0.0.1 to 10.0.0.2"]).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("there is no -> in it"));
}

/// Rules that changes come to lie otherwise in memory than an image does, and mean the same.
#[test]
fn a_table_with_room_to_change_is_explained_as_its_image_is() {
    let mut lb = Command::cargo_bin("lb").unwrap();
    lb.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"));
    let run = lb.args(["compile", "-f", "seed", "--node", "worker-1", "-o", "-"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let image = run.stdout;
    let (loaded, grown) = (lb_core::RuleTable::load(image.as_slice()).unwrap(), lb_host::rules::grown(&image).unwrap());
    let packet = lb_host::dialled::parse("tcp 198.51.100.7 -> 203.0.113.10:8081").unwrap();
    let said = |explanation| serde_json::to_value::<lb_host::explain::Explanation>(explanation).unwrap();
    let one = said(lb_host::explain::explain(&loaded, None, &packet, lb_core::Origin::Wire, 7));
    let other = said(lb_host::explain::explain(&grown, None, &packet, lb_core::Origin::Wire, 7));
    assert_eq!(one["verdict"], "forward");
    assert_eq!(one, other);
}
