//! The objects that the lab's node serves, as YAML.

use std::fmt::Write;
use std::path::Path;

use crate::lab::pod_number;

/// A Pod that serves on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pod: usize,
    pub(crate) port: u16,
    pub(crate) terminating: bool,
}

pub(crate) fn backend(pod: usize, port: u16) -> Backend {
    Backend { pod, port, terminating: false }
}

/// What clients dial for the Service on port 80: by ClusterIP, NodePort and load balancer's IP.
pub(crate) const V4: [&str; 3] = ["10.96.0.10:80", "192.0.2.1:30080", "203.0.113.10:80"];
pub(crate) const V6: [&str; 3] = ["[fd00:96::10]:80", "[2001:db8::1]:30080", "[2001:db8:1::10]:80"];

const NODE: &str = r#"apiVersion: v1
kind: Node
metadata: {name: worker-1}
spec: {podCIDRs: [10.244.0.0/24, "fd00:244::/64"], taints: [TAINTS]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: InternalIP, address: "2001:db8::1"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ports:
  - {name: main, port: 80, nodePort: 30080}
  - {name: datagrams, port: 80, nodePort: 30080, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}, {ip: "2001:db8:1::10"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {type: ClusterIP, clusterIP: 10.96.0.99, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  clusterIP: 10.96.0.11
  ports: [{name: main, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: local-1, labels: {kubernetes.io/service-name: local}}
addressType: IPv4
ports: [{name: main, port: 80, protocol: TCP}]
endpoints: [{addresses: [10.244.0.11], nodeName: worker-1}]
"#;

/// The objects with these backends of the Service.
pub(crate) fn manifests(backends: &[Backend], taints: &str) -> String {
    let mut text = NODE.replace("TAINTS", taints);
    for Backend { pod, port, terminating } in backends {
        for (family, prefix) in [("IPv4", "10.244.0."), ("IPv6", "fd00:244::")] {
            let (number, ready) = (pod_number(*pod), !terminating);
            write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: web-{pod}-{port}-{}, labels: {{kubernetes.io/service-name: web}}}}\n\
                 addressType: {family}\n\
                 ports: [{{name: main, port: {port}, protocol: TCP}}, {{name: datagrams, port: {port}, protocol: UDP}}]\n\
                 endpoints:\n- addresses: [\"{prefix}{number}\"]\n  nodeName: worker-1\n  \
                 conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}\n",
                family.to_lowercase(),
            )
            .expect("a string");
        }
    }
    text
}

/// Puts the objects in place at once, as whoever cares does.
pub(crate) fn write(path: &Path, backends: &[Backend]) {
    put(path, &manifests(backends, ""));
}

pub(crate) fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(beside, path).expect("renamed");
}
