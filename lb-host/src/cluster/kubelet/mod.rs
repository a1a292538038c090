//! The kubelet: Pods' life on one node. It starts and ends their programs, gives them addresses, finds out
//! whether they are ready, and says so to the API. All that it does itself is count time: whoever owns it makes the
//! probes and runs the programs.
//!
//! ```text
//! observe(api) -> due(now): start, stop, kill, probe ... -> result, exited -> report(api)
//! ```
//!
//! A node cut off from the API is one that neither observes nor reports; a lost node does nothing at all.

mod addresses;
mod life;
mod probe;
mod readiness;
pub(super) mod status;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use lb_core::{Address, Family, Instant};
use siphasher::sip::SipHasher13;

use self::addresses::Pool;
use self::life::Life;
use super::api::{Api, Change, Refusal};
use crate::k8s::{Placed, node};

pub use self::addresses::Reuse;
pub use self::probe::{Probe, ProbeId, Question};

/// How a kubelet goes about it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From a Pod's arrival on the node to its programs' start: pulling the image, making the sandbox.
    pub start_delay: Duration,
    /// Which free address a Pod gets.
    pub reuse: Reuse,
    /// Whether the ticks of probes start at a drawn moment of their period, or with the container.
    pub jitter: bool,
    /// How often it tells the API that it is there.
    pub heartbeat: Duration,
    /// What is drawn is drawn from this.
    pub seed: u64,
}

impl Default for Settings {
    /// The kubelet's own, and a second to start.
    fn default() -> Self {
        Self {
            start_delay: Duration::from_secs(1),
            reuse: Reuse::default(),
            jitter: true,
            heartbeat: Duration::from_secs(10),
            seed: 0,
        }
    }
}

/// A container's program. One of a later Pod of the same name is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The Pod's namespace and name.
    pub pod: Arc<str>,
    /// The Pod's identity.
    pub uid: Arc<str>,
    /// The container's name.
    pub container: Arc<str>,
}

/// What is to be done on the node.
#[derive(Clone, Debug)]
pub enum Action {
    /// Start the program.
    Start {
        /// Which.
        program: Program,
        /// Its Pod.
        pod: Arc<Placed<Pod>>,
        /// The Pod's addresses, at most one a family; the node's for a Pod on the host's network.
        addresses: Vec<Address>,
    },
    /// Ask the program to stop, SIGTERM: it goes on as long as it has to, or until it is killed.
    Stop(Program),
    /// End the program, SIGKILL: its connections are gone without a word.
    Kill(Program),
    /// Make the probe, and tell its [`result`](Kubelet::result).
    Probe(Probe),
    /// Nothing of the Pod of this identity is left; its addresses may be another's from now on.
    Remove {
        /// The Pod's namespace and name.
        pod: String,
        /// The Pod's identity.
        uid: Arc<str>,
        /// The addresses that it had to itself.
        addresses: Vec<Address>,
    },
}

/// One node's kubelet.
#[derive(Clone, Debug)]
pub struct Kubelet {
    node: String,
    addresses: Vec<Address>,
    pools: Vec<Pool>,
    settings: Settings,
    /// By the Pods' identities.
    lives: BTreeMap<Arc<str>, Life>,
    /// The resource version that was read last.
    seen: u64,
    /// The next probe's number.
    probes: u64,
    /// When the next heartbeat is due.
    heartbeat: Instant,
    /// Whether a status may not be as the API has it.
    changed: bool,
}

impl Kubelet {
    /// The kubelet of a node, which gives its Pods addresses of the node's blocks.
    pub fn new(node: &Placed<Node>, settings: Settings) -> Self {
        Self {
            node: node.name().to_owned(),
            addresses: node::addresses(&node.object),
            pools: node::pod_cidrs(&node.object).into_iter().map(Pool::new).collect(),
            settings,
            lives: BTreeMap::new(),
            seen: 0,
            probes: 0,
            heartbeat: Instant::ORIGIN,
            changed: true,
        }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Takes in what happened to this node's Pods.
    pub fn observe(&mut self, api: &Api, now: Instant) {
        let mut latest = BTreeMap::new();
        for event in api.watch(self.seen) {
            let Some(pod) = event.of::<Pod>() else { continue };
            let bound = pod.object.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let (true, Some(uid)) = (bound == Some(self.node.as_str()), pod.object.metadata.uid.as_deref()) else {
                continue;
            };
            latest.insert(uid, (event.change, pod));
        }
        self.seen = api.version();
        for (uid, (change, pod)) in latest {
            self.changed = true;
            self.take_in(uid, change, pod, now);
        }
    }

    fn take_in(&mut self, uid: &str, change: Change, pod: &Arc<Placed<Pod>>, now: Instant) {
        let phase = pod.object.status.as_ref().and_then(|status| status.phase.as_deref());
        if !self.lives.contains_key(uid) {
            if change == Change::Deleted || matches!(phase, Some("Succeeded" | "Failed")) {
                return;
            }
            let seed = self.settings.seed;
            let jitter = self.settings.jitter;
            let offset = |program: &Program| {
                let mut hasher = SipHasher13::new_with_keys(seed, 1);
                [&program.pod, &program.container].into_iter().for_each(|name| hasher.write(name.as_bytes()));
                if jitter { hasher.finish() } else { 0 }
            };
            let life = Life::new(pod.clone(), now.saturating_add(self.settings.start_delay), offset);
            self.lives.insert(uid.into(), life);
        }
        let Some(life) = self.lives.get_mut(uid) else { return };
        life.pod = pod.clone();
        let metadata = &pod.object.metadata;
        if change == Change::Deleted || metadata.deletion_timestamp.is_some() {
            // The least that a program gets is a second, also of a Pod that was deleted by force.
            let seconds = metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok());
            life.end(Duration::from_secs(seconds.unwrap_or(0).max(1)), now);
        }
    }

    /// A program ended, by itself or as it was asked to.
    pub fn exited(&mut self, program: &Program, code: i32, now: Instant) {
        if let Some(life) = self.lives.get_mut(&program.uid) {
            life.exited(program, code, now);
            self.changed = true;
        }
    }

    /// How a probe went. One that is not heard of within its timeout has failed.
    pub fn result(&mut self, probe: ProbeId, success: bool) {
        for container in self.lives.values_mut().flat_map(|life| &mut life.containers) {
            container.readiness.result(probe, success);
        }
        self.changed = true;
    }

    /// What is to be done now.
    pub fn due(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        // Probes fail by the mere passing of time.
        self.changed = true;
        for (uid, life) in self.lives.iter_mut().filter(|(_, life)| !life.gone) {
            let ends = life.ends(now, &mut actions);
            if life.gone || life.finished() {
                if let Some(addresses) = life.leave() {
                    let addresses = if on_host_network(&life.pod) { Vec::new() } else { addresses };
                    free(&mut self.pools, &addresses);
                    actions.push(Action::Remove { pod: life.pod.key(), uid: uid.clone(), addresses });
                }
            } else if !ends && life.wants_start(now) {
                if life.addresses.is_empty() {
                    life.addresses = match on_host_network(&life.pod) {
                        true => self.addresses.clone(),
                        false => take(&mut self.pools, self.settings.reuse),
                    };
                }
                // Without an address there is no sandbox: the Pod waits for one to be freed.
                if !life.addresses.is_empty() {
                    life.start(now, &mut actions);
                }
            }
            life.probes(now, &mut self.probes, &mut actions);
        }
        actions
    }

    /// Writes to the API what is not there as it is here, and that the node is alive.
    ///
    /// # Errors
    /// The API's; only a fault of the kubelet itself brings one about.
    pub fn report(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        if self.heartbeat <= now {
            self.heartbeat = now.saturating_add(self.settings.heartbeat);
            api.renew_lease(now, &self.node);
            if let Some(node) = api.get::<Node>(&self.node) {
                let mut node = Placed::clone(node);
                node.object.status = Some(status::node(&node.object.status.unwrap_or_default(), now));
                api.update_status(node)?;
            }
        }
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        for life in self.lives.values() {
            let key = life.pod.key();
            let uid = &life.pod.object.metadata.uid;
            let Some(stored) = api.get::<Pod>(&key).filter(|stored| stored.object.metadata.uid == *uid) else {
                continue;
            };
            if life.gone {
                api.delete::<Pod>(now, &key, Some(0))?;
                continue;
            }
            let mut pod = Placed::clone(stored);
            let before = pod.object.status.take().unwrap_or_default();
            pod.object.status = Some(status::of(life, &self.addresses, &before, now));
            api.update_status(pod)?;
        }
        self.lives.retain(|_, life| !life.gone);
        Ok(())
    }

    /// When there is something to do next, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        // A Pod that waits for an address does so until another's is freed, which is an event of its own.
        let exhausted = families(&self.pools).is_empty();
        let starved = |life: &&Life| exhausted && life.started.is_none() && !life.ending();
        let lives = self.lives.values().filter(|life| !starved(life)).filter_map(Life::next_deadline);
        lives.chain([self.heartbeat]).min()
    }
}

fn on_host_network(pod: &Placed<Pod>) -> bool {
    pod.object.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// A pool with a free address for each family that there are pools of; none if one of them is exhausted.
fn families(pools: &[Pool]) -> Vec<usize> {
    let some = |family| pools.iter().position(|pool| pool.family() == family && !pool.is_empty());
    let there = |family| pools.iter().any(|pool| pool.family() == family);
    let found = [Family::V4, Family::V6].into_iter().filter(|family| there(*family)).map(some);
    found.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// An address of each family; none if one of them has none free.
fn take(pools: &mut [Pool], reuse: Reuse) -> Vec<Address> {
    let chosen = families(pools);
    chosen.into_iter().filter_map(|index| pools.get_mut(index)?.take(reuse)).collect()
}

fn free(pools: &mut [Pool], addresses: &[Address]) {
    for address in addresses {
        if let Some(pool) = pools.iter_mut().find(|pool| pool.holds(*address)) {
            pool.give_back(*address);
        }
    }
}
