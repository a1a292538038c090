//! Cluster DNS in the box: a pair of Pods behind a Service, so that names come through the balancer, and a table of the
//! rest of the world behind them.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use lb_core::Address;

use super::{Kubernetes, Trouble};
use crate::cluster::MachineId;
use crate::cluster::program::HttpServer;
use crate::dns::client::Config;
use crate::dns::{Name, RData};
use crate::k8s::service::cluster_ips;

/// The Service that Pods ask.
const SERVICE: &str = "kube-system/kube-dns";

/// As most clusters have it.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: kube-dns, namespace: kube-system}, spec: {
  selector: {k8s-app: kube-dns}, ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6],
  clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:10:96::a'],
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: coredns, namespace: kube-system}, spec: {replicas: 2,
  selector: {matchLabels: {k8s-app: kube-dns}},
  template: {metadata: {labels: {k8s-app: kube-dns}}, spec: {containers: [{name: coredns, image: coredns,
    readinessProbe: {tcpSocket: {port: 53}, periodSeconds: 1, failureThreshold: 1},
    ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53, protocol: TCP}]}]}}}}
";

impl Kubernetes {
    /// Adds cluster DNS, and lets it come up.
    ///
    /// # Errors
    /// [`Trouble`], if its addresses are another's.
    pub fn add_dns(&mut self) -> Result<(), Trouble> {
        self.apply(MANIFESTS)
    }

    /// Adds a machine outside, with an address of each family.
    pub fn add_client(&mut self, name: &str) -> MachineId {
        let id = self.world.add_client(name);
        self.outside.insert(name.to_owned(), id);
        id
    }

    /// Adds a machine outside that is known to everybody's DNS by `name`, and serves HTTP on a port.
    ///
    /// # Errors
    /// `name` is none.
    pub fn add_site(&mut self, name: &str, port: u16) -> Result<MachineId, String> {
        let known = Name::from_ascii(name).map_err(|error| format!("{name:?}: {error}"))?;
        let id = self.add_client(name);
        self.world.run(id, HttpServer::new(name, port));
        for address in self.world.addresses(id).to_vec() {
            let data = match IpAddr::from(address) {
                IpAddr::V4(own) => RData::A(own.into()),
                IpAddr::V6(own) => RData::AAAA(own.into()),
            };
            self.names.put(known.clone(), 300, data);
        }
        // Servers that run already ask the same world.
        let names = self.names.clone();
        self.pods.values().for_each(|pod| pod.tell_upstream(&mut self.world, &names));
        Ok(id)
    }

    /// What kubelet writes into a Pod's resolv.conf, with the servers of both families; `None` as long as there is no cluster DNS.
    pub fn resolver_config(&self, namespace: &str) -> Option<Config> {
        let service = self.api.get::<Service>(SERVICE)?;
        let servers = cluster_ips(service.object.spec.as_ref()?);
        let servers = servers.into_iter().map(|server| SocketAddr::from((IpAddr::from(server), 53)));
        let zone = Name::from_ascii("cluster.local.").ok()?;
        Config::pod(namespace, &zone, servers.collect()).ok()
    }

    /// What somebody outside finds under a name.
    pub(super) fn outside_address(&self, name: &str, families: &[lb_core::Family]) -> Option<Address> {
        let machine = self.outside.get(name.trim_end_matches('.'))?;
        let own = self.world.addresses(*machine);
        families.iter().find_map(|family| own.iter().copied().find(|address| address.family() == *family))
    }
}
