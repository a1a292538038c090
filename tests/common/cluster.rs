//! A small cluster as objects. Its IPv4 addresses have IPv6 twins, see [`twin`].
//!
//! | who | addresses |
//! | --- | --- |
//! | this node, `node-a` | 192.0.2.10 |
//! | its pods, those of `node-b` | 10.244.1.0/24, 10.244.2.0/24 |
//! | ClusterIPs | 10.96.0.0/12 |
//! | external IPs | 198.51.100.0/24 |
//! | clients | 203.0.113.0/24 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::control::{
    Detector, EmptyUdp, Endpoint, Mode, Node, NodePortAddresses, Proxy, Service, ServicePort, Slice, SlicePort,
    TrafficPolicy,
};
use lb_core::pick::Scheduler;
use lb_core::{Address, Prefix, Protocol};

pub fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect(text).into()
}

pub fn prefix(text: &str) -> Prefix {
    let (start, length) = text.split_once('/').expect(text);
    Prefix::new(address(start), length.parse().expect(text))
}

pub fn protocol(name: &str) -> Protocol {
    match name {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => panic!("{name}: not a service's protocol"),
    }
}

/// The IPv6 address that plays the part of this IPv4 one.
pub fn twin(address: IpAddr) -> IpAddr {
    let IpAddr::V4(v4) = address else { return address };
    let [a, b, c, d] = v4.octets().map(u16::from);
    let head: [u16; 4] = match (a, b) {
        (10, 244) => [0xfd00, 0x244, c, 0],
        (10, 96) => [0xfd00, 0x96, 0, c],
        (198, 51) => [0x2001, 0xdb8, 0xe, 0],
        (192, 0) => [0x2001, 0xdb8, 0xa, 0],
        (203, 0) => [0x2001, 0xdb8, 0xc, 0],
        _ => panic!("{v4} has no twin"),
    };
    Ipv6Addr::new(head[0], head[1], head[2], head[3], 0, 0, 0, d).into()
}

/// The text with every IPv4 address and socket address replaced by its twin; a port may be `*`.
pub fn twins(text: &str) -> String {
    let word = |word: &str| {
        if let Ok(socket) = word.parse::<SocketAddr>() {
            return SocketAddr::new(twin(socket.ip()), socket.port()).to_string();
        }
        if let Some(address) = word.strip_suffix(":*").and_then(|address| address.parse::<Ipv4Addr>().ok()) {
            return format!("[{}]:*", twin(address.into()));
        }
        word.parse::<Ipv4Addr>().map_or(word.to_owned(), |address| twin(address.into()).to_string())
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The node in iptables mode, its detector knowing every pod.
pub fn node() -> Node {
    Node {
        name: "node-a".into(),
        zone: Some("zone-1".into()),
        addresses: vec![address("192.0.2.10"), address("2001:db8:a::a")],
        proxy: Proxy {
            mode: Mode::IPTABLES,
            scheduler: Scheduler::Random,
            detector: Detector::Sources(vec![prefix("10.244.0.0/16"), prefix("fd00:244::/32")]),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: true,
            service_cidrs: vec![prefix("10.96.0.0/12"), prefix("fd00:96::/64")],
            empty_udp: EmptyUdp::Keep,
            reserved_ports: (30000, 32767),
            masquerade: Vec::new(),
            key: *b"the cluster's ke",
        },
    }
}

/// A service of this name with both families of this ClusterIP, and ports `protocol:port` or
/// `protocol:port:node port`, each named by its protocol.
pub fn service(name: &str, cluster_ip: &str, ports: &[&str]) -> Service {
    let number = |text: &str| text.parse::<u16>().expect(text);
    let port = |text: &&str| {
        let parts: Vec<_> = text.split(':').collect();
        ServicePort {
            name: parts[0].into(),
            protocol: protocol(parts[0]),
            port: number(parts[1]),
            node_port: parts.get(2).map(|text| number(text)),
        }
    };
    Service {
        name: format!("default/{name}").as_str().into(),
        cluster_ips: both(cluster_ip),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        preserve_destination: false,
        health_check_port: None,
        ports: ports.iter().map(port).collect(),
    }
}

/// An IPv4 address and its twin.
pub fn both(v4: &str) -> Vec<Address> {
    let v4: IpAddr = v4.parse().expect(v4);
    vec![v4.into(), twin(v4).into()]
}

/// A service's slice with backend ports `protocol:port` and these endpoints in both families:
/// `address node` and, unless ready, `terminating` (still serving) or `down`.
pub fn slice(service: &str, ports: &[&str], endpoints: &[&str]) -> Slice {
    let port = |text: &&str| {
        let (name, number) = text.split_once(':').expect(text);
        SlicePort { name: name.into(), protocol: protocol(name), port: number.parse().expect(number) }
    };
    let endpoint = |text: &&str| {
        let parts: Vec<_> = text.split(' ').collect();
        let (ready, serving, terminating) = match parts.get(2) {
            None => (true, true, false),
            Some(&"terminating") => (false, true, true),
            Some(&"down") => (false, false, false),
            Some(other) => panic!("{other}: not a state"),
        };
        let node = Some(parts[1].into());
        let (zone_hints, node_hints) = (Vec::new(), Vec::new());
        both(parts[0]).into_iter().map(move |address| Endpoint {
            address,
            ready,
            serving,
            terminating,
            node: node.clone(),
            zone_hints: zone_hints.clone(),
            node_hints: node_hints.clone(),
        })
    };
    Slice {
        name: format!("default/{service}-1").as_str().into(),
        service: format!("default/{service}").as_str().into(),
        ports: ports.iter().map(port).collect(),
        endpoints: endpoints.iter().flat_map(endpoint).collect(),
    }
}

/// `web`: 10.96.0.10 and external IP 198.51.100.7, TCP 80 (node port 30080) and UDP 53 (node port 30053),
/// served by these endpoints on TCP 8080 and UDP 5353.
pub fn web(endpoints: &[&str]) -> (Service, Slice) {
    let service = Service {
        external_ips: both("198.51.100.7"),
        ..service("web", "10.96.0.10", &["tcp:80:30080", "udp:53:30053"])
    };
    (service, slice("web", &["tcp:8080", "udp:5353"], endpoints))
}
