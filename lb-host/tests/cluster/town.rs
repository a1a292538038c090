//! The cluster of these tests: three nodes, a Service with an endpoint on the first two, and those who ask.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_core::control::{Endpoint, Mode, Service, ServicePort, Slice, SlicePort, TrafficPolicy};
use lb_core::{Address, Family, Instant, Prefix, Protocol};
use lb_host::cluster::program::{BulkServer, DatagramServer, HttpClient, HttpServer, Reply};
use lb_host::cluster::{Change, Cluster, MachineId, Physics, ProgramId, settings};
use lb_host::host::{Error, Strangeness, Stray};

pub(crate) const WEB: u16 = 80;
pub(crate) const ECHO: u16 = 7;
pub(crate) const BULK: u16 = 9000;
/// What each is opened as on every node.
pub(crate) const NODE_PORTS: [(u16, u16); 3] = [(WEB, 30080), (ECHO, 30007), (BULK, 30900)];

pub(crate) struct Town {
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<MachineId>,
    pub(crate) webs: Vec<MachineId>,
    pub(crate) servers: Vec<ProgramId<HttpServer>>,
    /// A pod on the first node that asks.
    pub(crate) shell: MachineId,
    /// Somebody outside.
    pub(crate) client: MachineId,
    pub(crate) service: Service,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Pod,
    Node,
    Outside,
    /// The first endpoint itself.
    Server,
}

/// By which of the Service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    ClusterIp,
    /// Of the n-th node.
    NodePort(usize),
    ExternalIp,
    LoadBalancer,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn of(addresses: &[Address], family: Family) -> Address {
    *addresses.iter().find(|address| address.family() == family).unwrap()
}

/// A ClusterIP, a load balancer's IP and an external IP of each family.
fn vips(host: u8) -> [[Address; 2]; 3] {
    let v6 = |prefix: u128| Address::from_bits(prefix | u128::from(host));
    [
        [Address::v4([10, 96, 0, host]), v6(0xfd00_0010_0096 << 80)],
        [Address::v4([203, 0, 113, host]), v6(0x2001_0db8_0000_0002 << 64)],
        [Address::v4([198, 18, 0, host]), v6(0x2001_0002 << 96)],
    ]
}

impl Town {
    pub(crate) fn new(seed: u64, mode: Mode, external: TrafficPolicy) -> Self {
        Self::with(seed, Physics::default(), mode, external, 2)
    }

    /// With so many endpoints, 0 to 2.
    pub(crate) fn with(seed: u64, physics: Physics, mode: Mode, external: TrafficPolicy, endpoints: usize) -> Self {
        let mut cluster = Cluster::new(seed, physics).unwrap();
        let nodes: Vec<_> =
            (1..=3).map(|n| cluster.add_node(&format!("worker-{n}"), None, &settings(mode)).unwrap()).collect();
        let webs: Vec<_> = (0..2).map(|n| cluster.add_pod(&format!("web-{}", n + 1), nodes[n])).collect();
        let mut servers = Vec::new();
        for web in &webs {
            let name = cluster.name(*web).to_owned();
            servers.push(cluster.run(*web, HttpServer::new(&name, 8080)));
            cluster.run(*web, DatagramServer::new(&name, 7007));
            cluster.run(*web, BulkServer::new(9001));
        }
        let shell = cluster.add_pod("shell", nodes[0]);
        let client = cluster.add_client("client");
        let [cluster_ips, load_balancer_ips, external_ips] = vips(10).map(Vec::from);
        external_ips.iter().for_each(|ip| cluster.route(Prefix::host(*ip), nodes[2]));
        let ports = NODE_PORTS.map(|(port, node_port)| ServicePort {
            name: port.to_string().into(),
            protocol: if port == ECHO { Protocol::UDP } else { Protocol::TCP },
            port,
            node_port: Some(node_port),
        });
        let service = Service {
            name: "default/web".into(),
            cluster_ips,
            external_ips,
            load_balancer_ips,
            source_ranges: vec![],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: external,
            affinity: None,
            health_check_port: None,
            preserve_destination: false,
            ports: ports.to_vec(),
        };
        let mut town = Self { cluster, nodes, webs, servers, shell, client, service };
        town.cluster.observe(&Change::Service(town.service.clone()));
        town.publish(endpoints);
        // As a cloud controller would have it: every node, or those that have endpoints.
        let healthy = if external == TrafficPolicy::Local { endpoints } else { 3 };
        let balanced = Service { cluster_ips: vec![], external_ips: vec![], ..town.service.clone() };
        town.cluster.balance(Change::Service(balanced));
        for family in [Family::V4, Family::V6] {
            let nodes = town.nodes[..healthy].iter().map(|node| of(town.cluster.addresses(*node), family));
            let endpoints = nodes.map(|address| endpoint(address, None)).collect();
            town.cluster.balance(Change::Slice(slice("nodes", family, NODE_PORTS, endpoints)));
        }
        town.cluster.run_until(Instant::from_secs(1));
        town
    }

    /// Makes the first so many web pods the Service's endpoints.
    pub(crate) fn publish(&mut self, endpoints: usize) {
        const TARGETS: [(u16, u16); 3] = [(WEB, 8080), (ECHO, 7007), (BULK, 9001)];
        for family in [Family::V4, Family::V6] {
            let pods = self.webs[..endpoints].iter().zip(&self.nodes);
            let endpoints = pods
                .map(|(web, node)| endpoint(of(self.cluster.addresses(*web), family), Some(self.cluster.name(*node))))
                .collect();
            self.cluster.observe(&Change::Slice(slice("pods", family, TARGETS, endpoints)));
        }
    }

    pub(crate) fn machine(&self, who: Who) -> MachineId {
        match who {
            Who::Pod => self.shell,
            Who::Node => self.nodes[0],
            Who::Outside => self.client,
            Who::Server => self.webs[0],
        }
    }

    pub(crate) fn address(&self, who: Who, family: Family) -> Address {
        of(self.cluster.addresses(self.machine(who)), family)
    }

    pub(crate) fn dialled(&self, by: By, family: Family, port: u16) -> (Address, u16) {
        let node_port = NODE_PORTS.iter().find(|(known, _)| *known == port).unwrap().1;
        match by {
            By::ClusterIp => (of(&self.service.cluster_ips, family), port),
            By::ExternalIp => (of(&self.service.external_ips, family), port),
            By::LoadBalancer => (of(&self.service.load_balancer_ips, family), port),
            By::NodePort(n) => (of(self.cluster.addresses(self.nodes[n]), family), node_port),
        }
    }

    /// Asks so many times over HTTP; gives a second for each.
    pub(crate) fn ask(&mut self, who: Who, to: (Address, u16), times: u64) -> Vec<Result<Reply, Error>> {
        let client = HttpClient::new(to).times(times, ms(10)).timeout(ms(3000));
        let asked = self.cluster.run(self.machine(who), client);
        let limit = self.cluster.now().saturating_add(Duration::from_secs(4 * times));
        let done = self.cluster.run_until_holds(limit, |cluster| cluster.program(asked).unwrap().is_done());
        assert!(done, "not done");
        let exchanges = self.cluster.program(asked).unwrap().exchanges();
        exchanges.iter().map(|exchange| exchange.result.clone()).collect()
    }

    /// What reached somebody who had not asked for it.
    pub(crate) fn strays(&self) -> BTreeSet<String> {
        assert!(self.cluster.failures().is_empty(), "{:?}", self.cluster.failures());
        let strange = |stray: &Stray| !matches!(stray.strangeness, Strangeness::Late | Strangeness::Closed);
        let strange = self.cluster.strays().filter(|(_, stray)| strange(stray));
        strange.map(|(name, stray)| format!("{name}: {:?} {}", stray.strangeness, stray.tuple)).collect()
    }
}

fn endpoint(address: Address, node: Option<&str>) -> Endpoint {
    Endpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: node.map(Into::into),
        zone_hints: vec![],
        node_hints: vec![],
    }
}

fn slice(name: &str, family: Family, targets: [(u16, u16); 3], endpoints: Vec<Endpoint>) -> Slice {
    let ports = targets.map(|(port, target)| SlicePort {
        name: port.to_string().into(),
        protocol: if port == ECHO { Protocol::UDP } else { Protocol::TCP },
        port: target,
    });
    Slice { name: format!("{name}-{family:?}").into(), service: "default/web".into(), ports: ports.to_vec(), endpoints }
}
