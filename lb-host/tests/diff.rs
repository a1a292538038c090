//! `lb diff`, run as it is built.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn lb(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).args(arguments);
    command
}

/// What `lb diff` finds, as JSON. The exit code must fit.
fn diff(arguments: &[&str]) -> Value {
    let arguments = [&["diff", "-o", "json"], arguments].concat();
    let output = lb(&arguments).output().expect("lb runs");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let lists = ["node", "vips", "fates", "established", "maglev"].map(|list| &found[list]);
    let differs = lists.into_iter().chain(found["trace"].get("differing")).any(|list| list != &Value::Array(vec![]));
    assert_eq!(output.status.code(), Some(i32::from(differs)), "{arguments:?}");
    found
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A service whose policy is Local without an endpoint here, one without endpoints, one that remembers clients.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 192.0.2.101}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30999, clusterIP: 10.96.0.1, loadBalancerSourceRanges: [203.0.113.0/24], ports: [{port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 198.18.0.1}]}}
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {type: NodePort, externalIPs: [198.18.0.2], clusterIP: 10.96.0.2, ports: [{port: 81, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.3, sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: local-1, labels: {kubernetes.io/service-name: local}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [{addresses: [10.244.2.1], nodeName: n2}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}, addressType: IPv4, ports: [{name: "", port: 53, protocol: UDP}], endpoints: [{addresses: [10.244.2.2], nodeName: n2}]}
"#;

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("a path").to_owned()
}

/// `source: destination: before => after (paragraph)` for the new flows of `--modes`.
fn fates(modes: &str) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write(directory.path(), "cluster.yaml", CLUSTER);
    let arguments = ["-f", &file, "--node", "n1", "--cluster-cidr", "10.244.0.0/16", "--modes", modes];
    let outcome = |outcome: &Value| {
        let masquerade = if outcome["masquerade"] == true { " as the node" } else { "" };
        let verdict = ["verdict", "label", "pool"].map(|key| text(outcome, key)).join(" ");
        format!("{}{masquerade}", verdict.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let fate = |fate: &Value| {
        format!(
            "{}: {}: {} => {}: {}",
            text(fate, "source"),
            text(fate, "destination"),
            outcome(&fate["before"]),
            outcome(&fate["after"]),
            text(fate, "reason")
        )
    };
    list(&diff(&arguments), "fates").iter().map(fate).collect()
}

#[test]
fn modes_part_where_the_specification_says() {
    // (modes, source, destination, before => after, the paragraph in the reason)
    for (modes, source, destination, change, paragraph) in [
        // §6.6, §12.5, §14.2
        ("iptables,nftables", "anyone", "tcp 10.96.0.1:1", "pass => reject unmatched-port", "§6.6"),
        ("iptables,nftables", "anyone", "icmp 10.96.0.1", "pass => reject unmatched-port", "§12.5"),
        ("iptables,nftables", "anyone", "tcp 10.111.255.254:80", "pass => drop unallocated-cluster-ip", "§6.6"),
        // §9.1: nftables opens them on primary addresses; §9.5: iptables on loopback too.
        ("iptables,nftables", "pod", "tcp 192.0.2.101:30080", "forward cluster => pass", "§9.1"),
        ("iptables,nftables", "outside", "tcp 192.0.2.101:30080", "drop no-local-endpoint => pass", "§9.1"),
        ("iptables,nftables", "node", "tcp 127.0.0.1:30080", "forward cluster as the node => pass", "§9.5"),
        // §6.9, §6.8
        ("iptables,nftables", "outside", "tcp 192.0.2.101:30081", "reject no-endpoints => pass", "§6.9"),
        ("iptables,nftables", "node", "tcp 198.18.0.2:81", "pass => reject no-endpoints", "§6.8"),
        // §14.3: no short circuit, the cluster's endpoints instead of dropping, pings answered.
        ("iptables,ipvs", "outside", "tcp 192.0.2.1:30080", "drop no-local-endpoint => forward cluster", "§14.3"),
        ("iptables,ipvs", "node", "tcp 192.0.2.1:30080", "forward cluster as the node => forward cluster", "§8.1"),
        ("iptables,ipvs", "anyone", "icmp 198.18.0.1", "pass => accept", "§12.5"),
        ("iptables,ipvs", "anyone", "tcp 198.18.0.2:1", "pass => reject unmatched-port", "§6.6"),
        ("ipvs,nftables", "anyone", "icmp 10.96.0.3", "accept => reject unmatched-port", "§14.3"),
        // §14.4: no source ranges, nothing rejected.
        ("iptables,kernelspace", "outside", "tcp 198.18.0.1:80", "drop source-range => pass", "§14.4"),
        ("iptables,kernelspace", "outside", "tcp 10.96.0.2:81", "reject no-endpoints => pass", "§14.4"),
        (
            "iptables,kernelspace",
            "another node",
            "udp 10.96.0.3:53",
            "forward cluster as the node => forward cluster",
            "§8.1",
        ),
        // §14.5
        ("iptables,userspace", "pod", "udp 10.96.0.3:53", "forward cluster => punt", "§14.5"),
    ] {
        let fates = fates(modes);
        let expected = format!("{source}: {destination}: {change}: ");
        let found = fates.iter().any(|fate| fate.starts_with(&expected) && fate.contains(paragraph));
        assert!(found, "{modes}: {expected}{paragraph}, not among\n{}", fates.join("\n"));
    }
}

#[test]
fn what_modes_agree_on_is_not_told() {
    for (modes, prefix) in [
        // ClusterIP traffic is the same in all that translate in the kernel.
        ("iptables,nftables", ": udp 10.96.0.3:53:"),
        ("iptables,ipvs", ": udp 10.96.0.3:53:"),
        // Both reject where there are no endpoints at all, on the primary address.
        ("iptables,nftables", ": tcp 192.0.2.1:30081:"),
        ("ipvs,nftables", ": tcp 10.96.0.1:1:"),
    ] {
        let fates = fates(modes);
        assert!(!fates.iter().any(|fate| fate.contains(prefix)), "{modes}: {prefix}\n{}", fates.join("\n"));
    }
    assert!(fates("nftables,nftables").is_empty());
}

#[test]
fn established_flows_part_as_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = write(directory.path(), "cluster.yaml", CLUSTER);
    for (modes, expected) in [
        ("iptables,nftables", &[][..]),
        // §14.3: UDP to a removed endpoint dies at its next packet, affinity is each virtual server's own.
        (
            "iptables,ipvs",
            &[
                "TCP its client, remembered at the ClusterIP, dials another address of the service port: meets the same endpoint => is a new client there",
                "UDP its endpoint terminates but still serves, another is ready: stays => chooses anew",
                "UDP the Service goes: stays => ends: pass",
                "UDP the last endpoint goes: stays => ends: no-endpoints",
            ],
        ),
        // §14.4: no conntrack cleanup.
        ("iptables,kernelspace", &["UDP its endpoint goes, another serves: chooses anew => stays"]),
    ] {
        let found = diff(&["-f", &file, "--node", "n1", "--modes", modes]);
        let words = |flow: &Value| {
            let [protocol, event, before, after] = ["protocol", "event", "before", "after"].map(|key| text(flow, key));
            format!("{protocol} {event}: {before} => {after}")
        };
        let mut found: Vec<_> = list(&found, "established").iter().map(words).collect();
        found.sort();
        assert_eq!(found, expected, "{modes}");
    }
}

/// The seed example, changed.
fn changed(directory: &Path, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed/cluster.yaml"));
    let text = text.expect("the example");
    assert!(text.contains(from), "{from}");
    write(directory, "cluster.yaml", &text.replace(from, to))
}

#[test]
fn vips_come_go_and_change() {
    let directory = tempfile::tempdir().expect("a directory");
    for (from, to, expected) in [
        ("labels:\n    app: alpha  #", "labels:\n    app: beta  #", &[][..]),
        (
            "nodePort: 32255",
            "nodePort: 32256",
            &["removed NodePort 0.0.0.0:32255/TCP ", "added NodePort 0.0.0.0:32256/TCP "],
        ),
        (
            "podIP: 10.244.1.11\n",
            "podIP: 10.244.1.12\n",
            &[
                "changed ClusterIP 10.96.100.50:8081/TCP cluster pool: -10.244.1.11:8080 +10.244.1.12:8080",
                "changed LoadBalancer 203.0.113.10:8081/TCP cluster pool: -10.244.1.11:8080 +10.244.1.12:8080",
                "changed NodePort 0.0.0.0:32255/TCP cluster pool: -10.244.1.11:8080 +10.244.1.12:8080",
            ],
        ),
        (
            "  type: LoadBalancer\n",
            "  type: LoadBalancer\n  sessionAffinity: ClientIP\n",
            &[
                "changed ClusterIP 10.96.100.50:8081/TCP affinity: none -> 10800s",
                "changed LoadBalancer 203.0.113.10:8081/TCP affinity: none -> 10800s",
                "changed NodePort 0.0.0.0:32255/TCP affinity: none -> 10800s",
            ],
        ),
    ] {
        let file = changed(directory.path(), from, to);
        let found = diff(&["seed", &file, "--node", "worker-1"]);
        let words = |vip: &Value| {
            let [change, class, address] = ["change", "class", "address"].map(|key| text(vip, key));
            let detail = list(vip, "details").first().and_then(Value::as_str).unwrap_or_default();
            format!("{change} {class} {address} {detail}")
        };
        let v4 = |words: &String| !words.contains('[');
        let mut found: Vec<_> = list(&found, "vips").iter().map(words).filter(v4).collect();
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{from} -> {to}");
    }
}

/// Maglev's slots are shared evenly to within one (NSDI 2016, §3.4), so what must move is known.
#[test]
fn forced_and_collateral_slots() {
    let directory = tempfile::tempdir().expect("a directory");
    let third = 100.0 / 3.0;
    for (name, from, to, slots, forced, to_new) in [
        ("another address", "podIP: 10.244.1.11\n", "podIP: 10.244.1.12\n", (307, 307), third, None),
        ("one less", "Running\n  podIP: 10.244.1.11\n", "Failed\n  podIP: 10.244.1.11\n", (307, 251), third, Some(0.0)),
        // The one that was not ready becomes the fourth, and takes a quarter.
        ("one more", "type: Ready, status: \"False\"", "type: Ready, status: \"True\"", (307, 401), 0.0, Some(25.0)),
    ] {
        let file = changed(directory.path(), from, to);
        let found = diff(&["seed", &file, "--node", "worker-1", "--scheduler", "maglev"]);
        let [v4, ..] = list(&found, "maglev") else { panic!("{name}: {found:#}") };
        assert_eq!(v4["slots"], serde_json::json!([slots.0, slots.1]), "{name}");
        let percent = |part: &str| v4[part]["percent"].as_f64().expect("a number");
        assert!((percent("forced") - forced).abs() < 0.5, "{name}: {v4:#}");
        assert!(percent("collateral") >= percent("collateral_to_new"), "{name}: {v4:#}");
        if let Some(to_new) = to_new {
            assert!((percent("collateral_to_new") - to_new).abs() < 0.5, "{name}: {v4:#}");
        }
        assert_eq!(v4["forced"]["slots"].is_null(), slots.0 != slots.1, "{name}");
    }
}

#[test]
fn the_flows_of_a_capture() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = changed(directory.path(), "nodePort: 32255", "nodePort: 32256");
    let found = diff(&["seed", &file, "--node", "worker-1", "--trace", "seed/walk.pcap"]);
    let trace = &found["trace"];
    assert_eq!(trace["flows"], 9);
    let [flow] = list(trace, "differing") else { panic!("{trace:#}") };
    assert_eq!(flow["fate"]["destination"], "tcp 192.0.2.11:32255");
    let same = diff(&["seed", "seed", "--node", "worker-1", "--trace", "seed/walk.pcap"]);
    assert_eq!((&same["trace"]["flows"], list(&same["trace"], "differing").len()), (&Value::from(9), 0));
    let modes = ["-f", "seed", "--node", "worker-1", "--modes", "iptables,ipvs", "--trace", "seed/walk.pcap"];
    assert_eq!(diff(&modes)["trace"]["flows"], 9);
}

#[test]
fn images_are_compared_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("rules.img");
    let image = image.to_str().expect("a path");
    lb(&["compile", "-f", "seed", "--node", "worker-1", "-o", image]).assert().success();
    lb(&["diff", image, "seed", "--node", "worker-1"]).assert().code(0).stdout("");
    lb(&["diff", image, image]).assert().code(0).stdout("");
    let output = lb(&["diff", image, "seed", "--node", "worker-2"]).assert().code(1).get_output().stdout.clone();
    assert!(String::from_utf8_lossy(&output).starts_with("~ node  addresses: -192.0.2.11"));
}

#[test]
fn trouble_is_exit_code_2() {
    for (arguments, expected) in [
        (&["diff", "seed", "missing.yaml", "--node", "worker-1"][..], "missing.yaml: cannot be read"),
        (&["diff", "seed"], "2 values required"),
        (&["diff"], "required"),
        (&["diff", "-", "-"], "can't be both sides"),
        (&["diff", "seed", "seed"], "several Nodes"),
        (&["diff", "-f", "seed", "--modes", "ipvs", "--node", "worker-1"], "name two to compare"),
        (&["diff", "-f", "seed", "--modes", "ipvs,xtables", "--node", "worker-1"], "invalid value 'xtables'"),
        (&["diff", "-f", "seed", "--node", "worker-1"], "--modes"),
        (&["diff", "-f", "seed", "--modes", "ipvs,nftables", "--mode", "ipvs"], "cannot be used with"),
        (&["diff", "seed", "seed", "--node", "worker-1", "--trace", "missing.pcap"], "missing.pcap"),
        (&["diff", "seed", "seed", "--node", "worker-1", "--trace", "seed/cluster.yaml"], "not a capture"),
    ] {
        let output = lb(arguments).assert().code(2).stdout("").get_output().stderr.clone();
        let stderr = String::from_utf8_lossy(&output).into_owned();
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}
