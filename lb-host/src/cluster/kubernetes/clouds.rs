//! The cloud's part: its checks of nodes are packets, its load balancers the gateway's rules.

use std::collections::BTreeMap;

use lb_core::control::{Label, Service, Slice};
use lb_core::{Address, Family, Protocol};

use super::{Kubernetes, Nobody};
use crate::cluster::cloud::{CheckId, LoadBalancer, Question};
use crate::cluster::engine::Change;
use crate::cluster::fabric::Station;
use crate::cluster::machine::Place;
use crate::cluster::program::Check;
use crate::cluster::{Cluster, MachineId, ProgramId, addresses, load_balancer};

/// The gateway as the cloud uses it.
pub(super) struct Gateway {
    /// Beside the load balancer, where its health checks come from.
    checker: MachineId,
    checks: Vec<(CheckId, ProgramId<Check>)>,
    /// What the gateway's engine was told.
    told: BTreeMap<Label, (Service, Slice)>,
    admitted: BTreeMap<Address, Vec<lb_core::Prefix>>,
}

impl Gateway {
    pub(super) fn new(world: &mut Cluster) -> Self {
        let link = world.physics.gateway;
        let checker = world.enter("health-checks", Place::Outside, &addresses::checker(), link);
        Self { checker, checks: Vec::new(), told: BTreeMap::new(), admitted: BTreeMap::new() }
    }

    pub(super) fn heard(&self, world: &Cluster) -> bool {
        self.checks.iter().any(|(_, check)| world.program(*check).is_none_or(|check| check.outcome().is_some()))
    }
}

impl Kubernetes {
    /// Points a load balancer of one's own at a NodePort of all nodes that there are now: no controller knows of it.
    ///
    /// # Errors
    /// There is no node with power.
    pub fn balance_by_hand(
        &mut self,
        name: &str,
        at: (Address, u16),
        protocol: Protocol,
        node_port: u16,
    ) -> Result<(), Nobody> {
        let family = at.0.family();
        let address = |node: &String| Some((node.clone(), self.node_address(node, family)?));
        let nodes: Vec<_> = self.nodes.keys().filter_map(address).collect();
        if nodes.is_empty() {
            return Err(Nobody("no node".to_owned()));
        }
        self.cloud.add(LoadBalancer::by_hand(name, at, protocol, node_port, &nodes, self.world.now));
        self.stirred = true;
        Ok(())
    }

    /// The address in a family of the load balancer of a Service, or of one's own by its name.
    pub fn load_balancer_address(&self, name: &str, family: Family) -> Option<Address> {
        let balancer = self.cloud.balancers().find(|balancer| balancer.name() == name)?;
        balancer.addresses().iter().copied().find(|address| address.family() == family)
    }

    /// The cloud hears of its checks, makes new ones, and tells its load balancers.
    pub(super) fn tend_cloud(&mut self) {
        let now = self.world.now;
        let (waiting, heard) = self.gateway.checks.drain(..).partition::<Vec<_>, _>(|(_, check)| {
            self.world.program(*check).is_some_and(|check| check.outcome().is_none())
        });
        self.gateway.checks = waiting;
        for (id, check) in heard {
            let well = self.world.program(check).is_some_and(|check| check.outcome() == Some(true));
            self.cloud.result(id, well);
            self.world.kill(check);
        }
        let reconciled = self.cloud.reconcile(&mut self.api, now);
        self.log.fault("cloud", now, reconciled.err());
        for check in self.cloud.due(now) {
            let timeout = check.timeout.saturating_sub(std::time::Duration::from_micros(1));
            let program = match check.question {
                Question::Healthz(port) => Check::get((check.address, port), "/healthz", &[], 200..=200, timeout),
                Question::Connect(port) => Check::connect((check.address, port), timeout),
            };
            let program = self.world.run(self.gateway.checker, program);
            self.gateway.checks.push((check.id, program));
        }
        self.tell_gateway();
    }

    /// Makes the gateway's rules what the cloud's load balancers are.
    fn tell_gateway(&mut self) {
        let (services, slices) = self.cloud.objects();
        let wanted: BTreeMap<Label, (Service, Slice)> =
            services.into_iter().zip(slices).map(|(service, slice)| (service.name.clone(), (service, slice))).collect();
        if wanted == self.gateway.told {
            return;
        }
        self.log.balancers(self.world.now, &self.cloud);
        let mut changes = Vec::new();
        for gone in self.gateway.told.keys().filter(|name| !wanted.contains_key(*name)) {
            changes.extend([Change::NoService(gone.clone()), Change::NoSlice(gone.clone())]);
        }
        for (name, (service, slice)) in &wanted {
            let before = self.gateway.told.get(name);
            if before.is_none_or(|(before, _)| before != service) {
                changes.push(Change::Service(service.clone()));
            }
            if before.is_none_or(|(_, before)| before != slice) {
                changes.push(Change::Slice(slice.clone()));
            }
        }
        self.gateway.told = wanted;
        let admitted: BTreeMap<_, _> = self
            .cloud
            .balancers()
            .flat_map(|balancer| {
                balancer.addresses().iter().map(|address| (*address, balancer.source_ranges().to_vec()))
            })
            .collect();
        for gone in self.gateway.admitted.keys().filter(|address| !admitted.contains_key(address)) {
            self.world.admission.set(*gone, Vec::new());
        }
        admitted.iter().for_each(|(address, sources)| self.world.admission.set(*address, sources.clone()));
        self.gateway.admitted = admitted;
        if let Some(router) = self.world.routers.get_mut(&Station::Gateway) {
            changes.into_iter().for_each(|change| router.engine.learn(load_balancer::adopted(change)));
        }
        if let Err(failure) = self.world.sync(Station::Gateway) {
            self.world.failures.push(failure);
        }
    }
}
