//! One small cluster with a service of every kind, compiled as a mode has it.

use lb_core::control::{
    Control, Detector, EmptyUdp, Endpoint, Label, Mode, Node, NodePortAddresses, Proxy, Service, ServicePort, Slice,
    SlicePort, TrafficPolicy,
};
use lb_core::pick::Scheduler;
use lb_core::{Address, Prefix, Protocol};

/// The address that this text is.
pub fn ip(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address in the sources").into()
}

fn prefix(address: &str, length: u8) -> Prefix {
    Prefix::new(ip(address), length)
}

/// The node: both families, NodePorts on loopback where the mode can do that, pods told by their CIDRs.
fn node(mode: Mode, scheduler: Scheduler) -> Node {
    Node {
        name: "here".into(),
        zone: Some("a".into()),
        addresses: ["192.0.2.1", "2001:db8:1::1"].map(ip).into(),
        proxy: Proxy {
            mode,
            scheduler,
            detector: Detector::Sources(vec![prefix("10.244.0.0", 24), prefix("2001:db8:244::", 64)]),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: true,
            service_cidrs: vec![prefix("10.96.0.0", 16), prefix("2001:db8:96::", 112)],
            empty_udp: EmptyUdp::Keep,
            reserved_ports: (30_000, 32_767),
            masquerade: vec![(prefix("10.244.0.0", 16), ip("10.244.0.1"))],
            key: *b"the cluster's ke",
        },
    }
}

/// One port of every protocol, named after it: 8081, 53, 8081; NodePorts from `node_port` on.
fn ports(node_port: Option<u16>) -> Vec<ServicePort> {
    [("tcp", Protocol::TCP, 8081), ("udp", Protocol::UDP, 53), ("sctp", Protocol::SCTP, 8081)]
        .into_iter()
        .zip(0..)
        .map(|((name, protocol, port), n)| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port: node_port.map(|first| first + n),
        })
        .collect()
}

fn service(name: &str, number: u8, node_port: Option<u16>) -> Service {
    Service {
        name: name.into(),
        cluster_ips: vec![ip(&format!("10.96.0.{number}")), ip(&format!("2001:db8:96::{number:x}"))],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        preserve_destination: false,
        health_check_port: None,
        ports: ports(node_port),
    }
}

/// Endpoints of both families: pods of this node where `local`, others elsewhere.
pub fn slice(service: &str, pods: &[(u8, bool)]) -> Slice {
    let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    let endpoint = |address: String, local: bool| Endpoint {
        address: ip(&address),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(if local { "here".into() } else { "there".into() }),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    let subnet = |local: bool| u8::from(!local);
    let v4 = pods.iter().map(|(n, local)| endpoint(format!("10.244.{}.{n}", subnet(*local)), *local));
    let v6 = pods.iter().map(|(n, local)| endpoint(format!("2001:db8:244:{}::{n:x}", subnet(*local)), *local));
    Slice {
        name: Label::from(format!("{service}-1")),
        service: service.into(),
        ports: vec![
            port("tcp", Protocol::TCP, 8080),
            port("udp", Protocol::UDP, 5353),
            port("sctp", Protocol::SCTP, 8080),
        ],
        endpoints: v4.chain(v6).collect(),
    }
}

/// Services of every class of Vip, of both policies, with and without endpoints, in both families.
pub fn cluster(mode: Mode, scheduler: Scheduler) -> Control {
    let mut control = Control::new(node(mode, scheduler));
    // The Vips that the seeds of `parse` dial.
    control.put_service(Service {
        external_ips: ["203.0.113.20", "2001:db8:10::20"].map(ip).into(),
        load_balancer_ips: ["203.0.113.10", "2001:db8:10::10"].map(ip).into(),
        ..service("all/kinds", 10, Some(30_080))
    });
    control.put_slice(slice("all/kinds", &[(2, true), (3, false), (4, false)]));
    control.put_service(Service {
        load_balancer_ips: ["203.0.113.30", "2001:db8:10::30"].map(ip).into(),
        source_ranges: vec![prefix("198.51.100.0", 28), prefix("2001:db8:7::", 64)],
        external_policy: TrafficPolicy::Local,
        internal_policy: TrafficPolicy::Local,
        ..service("local/only", 11, Some(30_090))
    });
    control.put_slice(slice("local/only", &[(5, true), (6, false)]));
    control.put_service(Service {
        external_policy: TrafficPolicy::Local,
        external_ips: ["203.0.113.40", "2001:db8:10::40"].map(ip).into(),
        ..service("local/none-here", 12, Some(30_100))
    });
    control.put_slice(slice("local/none-here", &[(7, false)]));
    control.put_service(Service {
        external_ips: ["203.0.113.50", "2001:db8:10::50"].map(ip).into(),
        ..service("no/endpoints", 13, Some(30_110))
    });
    control
}
