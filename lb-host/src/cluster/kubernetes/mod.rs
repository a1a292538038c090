//! Kubernetes in a box: the API and its controllers, kubelets, the cloud, cluster DNS and a proxy on every node, with the
//! machines and cables of a [`Cluster`] below them, on one clock and from one seed.
//!
//! ```text
//! apply --> Api --watch--> each node's proxy (rules), each DNS server (names), kubelets (programs), the cloud
//!            ^--write-- kubelets (readiness), controllers (endpoints), the cloud (addresses)
//! ```
//!
//! Whoever watches does so at a pace of its own (SEMANTICS §15.3). Probes, health checks, lookups and requests are packets.
//!
//! ```
//! use std::time::Duration;
//! use lb_host::cluster::kubernetes::{Kubernetes, Plan};
//!
//! let mut box_ = Kubernetes::new(Plan::of_seed(7))?;
//! box_.add_nodes(2)?;
//! box_.add_dns()?;
//! box_.apply("
//! {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}},
//!   template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}}}}
//! ---
//! {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
//! ---
//! {apiVersion: v1, kind: Pod, metadata: {name: shell}, spec: {containers: [{name: shell, image: shell}]}}
//! ")?;
//! box_.run_for(Duration::from_secs(10));
//! let reply = box_.get("default/shell", "http://web/")?.result?;
//! assert!(reply.served_by.starts_with("web-"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clouds;
mod deployments;
mod log;
mod names;
mod nodes;
mod pods;
mod traffic;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use lb_core::Instant;
use lb_core::control::Mode;

use super::api::{Api, Kind, Refusal};
use super::cloud::{self, Cloud};
use super::controllers::{Controllers, Patience};
use super::{Cluster, EngineError, MachineId, Physics, SERVICES, kubelet, settings};
use crate::chance::Chance;
use crate::dns::Outside;
use crate::k8s::{Document, Manifests, Placed, Problem, Problems, Ranges, Settings};

use clouds::Gateway;
use deployments::Deployments;
use nodes::Node;
use pods::Pod;

pub use log::Entry;
pub use traffic::{FetchId, Nobody};

/// What a box is built to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of all that is drawn.
    pub seed: u64,
    /// How nodes proxy.
    pub proxy: Settings,
    /// The cables, and how quick those are that watch.
    pub physics: Physics,
    /// How long nodes may be silent.
    pub patience: Patience,
    /// How kubelets go about it.
    pub kubelet: kubelet::Settings,
    /// How the cloud is.
    pub cloud: cloud::Settings,
}

impl Plan {
    /// Nodes in iptables mode, and everything else as usual.
    pub fn of_seed(seed: u64) -> Self {
        Self::of(seed, Mode::IPTABLES)
    }

    /// Nodes in this mode, and everything else as usual.
    pub fn of(seed: u64, mode: Mode) -> Self {
        Self {
            seed,
            proxy: settings(mode),
            physics: Physics::default(),
            patience: Patience::default(),
            kubelet: kubelet::Settings { seed, ..kubelet::Settings::default() },
            cloud: cloud::Settings::default(),
        }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// What was read is not as it may be.
    #[error("{0}")]
    Problems(#[from] Problems),
    /// The API refuses it; what else was in it is applied.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refusal>),
    /// A node's rules.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Whom it names is not there.
    #[error("{0}")]
    Nobody(#[from] Nobody),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Problems(problem.into())
    }
}

/// Kubernetes in a box. See the module's own words.
pub struct Kubernetes {
    plan: Plan,
    chance: Chance,
    world: Cluster,
    api: Api,
    controllers: Controllers,
    deployments: Deployments,
    cloud: Cloud,
    gateway: Gateway,
    nodes: BTreeMap<String, Node>,
    /// By the Pods' identities.
    pods: BTreeMap<Arc<str>, Pod>,
    /// Machines outside, by name.
    outside: BTreeMap<String, MachineId>,
    /// Names of the rest of the world.
    names: Outside,
    log: log::Log,
    /// When the control plane has something to do, if nothing happens before.
    next: Option<Instant>,
    /// The control plane has something to do now.
    stirred: bool,
}

impl Kubernetes {
    /// A box without nodes.
    ///
    /// # Errors
    /// [`EngineError`], if the load balancer's engine won't be made.
    pub fn new(plan: Plan) -> Result<Self, EngineError> {
        let chance = Chance::new(plan.seed);
        let mut world = Cluster::new(plan.seed, plan.physics)?;
        let gateway = Gateway::new(&mut world);
        let draw = |name: &str| chance.named(name).draw();
        let ranges =
            Ranges { cluster_ips: SERVICES.to_vec(), node_ports: plan.proxy.node_port_range, seed: draw("api") };
        Ok(Self {
            api: Api::new(&ranges),
            controllers: Controllers::new(plan.patience, draw("controllers")),
            deployments: Deployments::default(),
            cloud: Cloud::new(plan.cloud.clone()),
            gateway,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            outside: BTreeMap::new(),
            names: Outside::default(),
            log: log::Log::default(),
            next: None,
            stirred: true,
            world,
            chance,
            plan,
        })
    }

    /// The time.
    pub const fn now(&self) -> Instant {
        self.world.now()
    }

    /// The API server's store.
    pub const fn api(&self) -> &Api {
        &self.api
    }

    /// The API server's store, for writes that no method here has; whoever watches will see.
    pub const fn api_mut(&mut self) -> &mut Api {
        self.stirred = true;
        &mut self.api
    }

    /// The machines and cables.
    pub const fn world(&self) -> &Cluster {
        &self.world
    }

    /// The machines and cables, for programs and links of one's own.
    pub const fn world_mut(&mut self) -> &mut Cluster {
        self.stirred = true;
        &mut self.world
    }

    /// How nodes proxy.
    pub const fn proxy(&self) -> &Settings {
        &self.plan.proxy
    }

    /// The cloud.
    pub const fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// Who did what so far, in order.
    pub fn log(&self) -> &[Entry] {
        self.log.entries()
    }

    /// Applies all objects of a YAML or JSON text, as `kubectl apply` does. A Node that is new is a machine from then on, a
    /// Deployment keeps its Pods.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn apply(&mut self, text: &str) -> Result<(), Trouble> {
        self.apply_documents(Document::parse("apply", text)?)
    }

    /// The same with documents that were read already, whose places are known.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn apply_documents(&mut self, documents: Vec<Document>) -> Result<(), Trouble> {
        let now = self.now();
        let (mut manifests, mut problems, mut deployments) = (Manifests::default(), Vec::new(), Vec::new());
        for document in documents {
            match Deployments::read(&document) {
                Some(Ok(deployment)) => deployments.push(deployment),
                Some(Err(problem)) => problems.push(problem),
                None => problems.extend(manifests.add_document(document)),
            }
        }
        if !problems.is_empty() {
            return Err(Problems(problems).into());
        }
        self.stirred = true;
        let mut joining = Vec::new();
        for node in &mut manifests.nodes {
            if !self.nodes.contains_key(node.name()) {
                self.place(&mut node.object, joining.len());
                joining.push(node.name().to_owned());
            }
        }
        self.api.apply_all(now, manifests).map_err(Trouble::Refused)?;
        joining.iter().try_for_each(|name| self.join(name))?;
        deployments.into_iter().for_each(|deployment| self.deployments.apply(deployment));
        self.settle();
        Ok(())
    }

    /// Deletes an object, as `kubectl delete` does: `delete::<Pod>("default/web-1")`. A Node's machine is left running.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete<T: Kind>(&mut self, key: &str) -> Result<(), Refusal> {
        self.stirred = true;
        self.api.delete::<T>(self.world.now(), key, None)?;
        self.settle();
        Ok(())
    }

    /// Adds so many nodes, `worker-1` and on.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn add_nodes(&mut self, count: usize) -> Result<(), Trouble> {
        (0..count).try_for_each(|_| self.add_node(&format!("worker-{}", self.nodes.len() + 1), None))
    }

    /// Adds a node, in a zone if that is told.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn add_node(&mut self, name: &str, zone: Option<&str>) -> Result<(), Trouble> {
        let mut node = NodeObject::default();
        node.metadata.name = Some(name.to_owned());
        let labels = zone.map(|zone| (crate::k8s::node::ZONE.to_owned(), zone.to_owned()));
        node.metadata.labels = Some(labels.into_iter().collect());
        self.place(&mut node, 0);
        self.api.create(self.world.now(), Placed::from(node))?;
        self.join(name)?;
        self.settle();
        Ok(())
    }

    /// Lets everything happen that does in this time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now().saturating_add(time);
        self.run_until_holds(end, |_| false);
    }

    /// Lets things happen until `condition` holds, but nothing after `limit`. Whether it holds; if not, it is `limit` then.
    pub fn run_until_holds(&mut self, limit: Instant, mut condition: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.settle();
            if condition(self) {
                return true;
            }
            let planned = self.next.filter(|next| *next <= limit);
            if self.world.step(planned.unwrap_or(limit)) {
                self.world.take_turns();
                self.stirred |= self.heard();
            } else if let Some(planned) = planned {
                self.world.now = self.world.now.max(planned);
                self.stirred = true;
            } else {
                self.world.now = self.world.now.max(limit);
                return false;
            }
        }
    }

    /// The same for so long.
    pub fn run_for_until(&mut self, time: Duration, condition: impl FnMut(&Self) -> bool) -> bool {
        let limit = self.now().saturating_add(time);
        self.run_until_holds(limit, condition)
    }

    /// Lets the control plane do all that it has to do now.
    fn settle(&mut self) {
        self.world.take_turns();
        while std::mem::take(&mut self.stirred) || self.next.is_some_and(|next| next <= self.now()) {
            let before = self.api.version();
            self.tend_nodes();
            self.deployments.reconcile(&mut self.api, self.world.now);
            let reconciled = self.controllers.reconcile(&mut self.api, self.world.now);
            self.log.fault("controllers", self.world.now, reconciled.err());
            self.tend_cloud();
            self.tend_watches();
            self.log.tell(&self.api, self.world.now);
            self.world.take_turns();
            self.next = self.next_deadline();
            self.stirred = self.api.version() != before || self.heard();
        }
    }

    /// Whether something that the control plane waits for has happened.
    fn heard(&self) -> bool {
        self.nodes.values().any(|node| node.heard(&self.world))
            || self.gateway.heard(&self.world)
            || self.pods.values().any(|pod| pod.heard(&self.world))
    }

    /// When the control plane has something to do; always after now.
    fn next_deadline(&self) -> Option<Instant> {
        let nodes = self.nodes.values().filter_map(Node::next_deadline);
        let watches = self.pods.values().filter_map(Pod::next_deadline);
        let others = [self.controllers.next_deadline(), self.cloud.next_deadline()];
        let all = nodes.chain(watches).chain(others.into_iter().flatten());
        all.filter(|next| *next > self.world.now).min()
    }
}
