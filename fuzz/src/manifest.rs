//! Any text as manifests, and objects of any shape as JSON: refused with reasons, or rules that load, the same from files as
//! from a data plane that follows; never a panic.

use arbitrary::{Arbitrary, Unstructured};
use lb_core::{Prefix, RuleTable};
use lb_host::k8s::{Cluster, Manifests, Ranges, Settings, Taken};
use lb_host::rules;
use serde_json::{Value, json};

use super::cluster::ip;

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    let text = if how & 1 == 0 {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        text.to_owned()
    } else {
        let mut octets = Unstructured::new(rest);
        let objects: Vec<Value> = (0..6).map_while(|_| Object::arbitrary(&mut octets).ok()).map(Object::json).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
    };
    let taken = if how & 2 == 0 { Taken::AsWritten } else { Taken::Applied(ranges()) };
    let mut manifests = Manifests::default();
    if manifests.add("fuzz.yaml", &text).is_err() {
        return;
    }
    let Ok(cluster) = Cluster::new(manifests, &taken) else { return };
    let Ok(node) = cluster.node(None, &Settings::default()) else { return };
    let mut control = rules::control(&cluster.services, &cluster.slices, node);
    let Ok(image) = control.image() else { return };
    RuleTable::load(image.as_slice()).expect("its own image");
    rules::grown(&image).expect("its own image");
}

/// So few numbers that they run out.
fn ranges() -> Ranges {
    let blocks = [("10.96.0.0", 28), ("fd00::", 124)];
    let cluster_ips = blocks.map(|(first, length)| Prefix::new(ip(first), length)).into();
    Ranges { cluster_ips, node_ports: (30_000, 30_007), seed: 0 }
}

/// An object with the fields that matter, each left out, right, or anything.
#[derive(Arbitrary, Debug)]
struct Object {
    kind: u8,
    name: u8,
    label: Option<u8>,
    addresses: Vec<u8>,
    ports: Vec<(u8, u8, i32)>,
    policies: (u8, u8, u8),
    conditions: (Option<bool>, Option<bool>, Option<bool>),
    more: Option<(u8, u8)>,
}

const NAMES: [&str; 6] = ["web", "db", "web-1", "", "Not A Name", "a.b"];
const ADDRESSES: [&str; 16] = [
    "10.96.0.10",
    "fd00::10",
    "None",
    "",
    "10.244.1.5",
    "fd01::5",
    "203.0.113.9",
    "127.0.0.1",
    "::ffff:10.0.0.1",
    "172.30.0.041",
    "255.255.255.255",
    "not an address",
    "::",
    "10.0.0.0/8",
    "203.0.113.000/025",
    "fe80::1%eth0",
];
const PROTOCOLS: [&str; 5] = ["TCP", "UDP", "SCTP", "tcp", "GRE"];
const POLICIES: [&str; 6] = ["Cluster", "Local", "", "ClientIP", "None", "PreferClose"];
const TYPES: [&str; 6] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "", "Other"];

impl Object {
    fn json(self) -> Value {
        let of = |list: &[&'static str], n: u8| list[usize::from(n) % list.len()];
        let addresses: Vec<_> = self.addresses.iter().map(|n| of(&ADDRESSES, *n)).collect();
        let label = self.label.map(|n| of(&NAMES, n));
        let metadata = json!({"name": of(&NAMES, self.name), "namespace": "default",
            "labels": {"kubernetes.io/service-name": label, "app": label}});
        let (one, other, third) = self.policies;
        match self.kind % 4 {
            0 => {
                let ports: Vec<_> = self
                    .ports
                    .iter()
                    .map(|(name, protocol, number)| {
                        json!({"name": of(&NAMES, *name),
                    "protocol": of(&PROTOCOLS, *protocol), "port": number, "nodePort": number.wrapping_mul(7),
                    "targetPort": of(&NAMES, *protocol)})
                    })
                    .collect();
                json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
                    "type": of(&TYPES, one), "clusterIPs": addresses, "clusterIP": addresses.first(),
                    "externalIPs": addresses, "loadBalancerSourceRanges": addresses, "ports": ports,
                    "externalTrafficPolicy": of(&POLICIES, other), "internalTrafficPolicy": of(&POLICIES, third),
                    "sessionAffinity": of(&POLICIES, other), "selector": {"app": label},
                    "sessionAffinityConfig": self.more.map(|(a, b)| json!({"clientIP": {"timeoutSeconds": i32::from(a) << (b % 24)}})),
                }, "status": {"loadBalancer": {"ingress": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}}})
            }
            1 => {
                let ports: Vec<_> = self
                    .ports
                    .iter()
                    .map(|(name, protocol, number)| {
                        json!({"name": of(&NAMES, *name),
                    "protocol": of(&PROTOCOLS, *protocol), "port": number})
                    })
                    .collect();
                let (ready, serving, terminating) = self.conditions;
                let endpoints: Vec<_> = addresses
                    .iter()
                    .map(|address| {
                        json!({"addresses": [address], "nodeName": label,
                    "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
                    })
                    .collect();
                let family = ["IPv4", "IPv6", "FQDN"][usize::from(one) % 3];
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                    "addressType": family, "ports": ports, "endpoints": endpoints})
            }
            2 => json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"podCIDRs": addresses},
                "status": {"addresses": addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect::<Vec<_>>()}}),
            _ => {
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": label, "containers": [
                    {"name": "c", "ports": self.ports.iter().map(|(name, protocol, number)| json!({"name": of(&NAMES, *name),
                        "containerPort": number, "protocol": of(&PROTOCOLS, *protocol)})).collect::<Vec<_>>()}]},
                "status": {"phase": "Running", "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                    "conditions": [{"type": "Ready", "status": if self.conditions.0 == Some(true) { "True" } else { "False" }}]}})
            }
        }
    }
}
