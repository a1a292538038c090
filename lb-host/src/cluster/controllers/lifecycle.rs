//! The node lifecycle controller: a node that is not heard of is not ready, neither are its Pods, and after a while
//! they are to leave it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use lb_core::Instant;

use crate::cluster::api::{Api, Refusal};
use crate::cluster::calendar::time;
use crate::cluster::kubelet::status;
use crate::k8s::Placed;

/// The taint of a node that is not heard of.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often nodes are looked at.
    pub period: Duration,
    /// For how long a node may be silent.
    pub grace: Duration,
    /// For how long its Pods then stay, unless they tolerate it longer or shorter.
    pub eviction: Duration,
}

impl Default for Patience {
    /// The controller manager's: `--node-monitor-period`, `--node-monitor-grace-period`, and the toleration that
    /// admission gives to every Pod.
    fn default() -> Self {
        Self { period: Duration::from_secs(5), grace: Duration::from_secs(50), eviction: Duration::from_secs(300) }
    }
}

/// The controller.
#[derive(Clone, Debug)]
pub struct NodeLifecycle {
    patience: Patience,
    /// When nodes are looked at next.
    next: Instant,
    /// When each node was first seen: what counts until it is first heard of.
    first: BTreeMap<String, Instant>,
    /// Nodes that are not heard of, and since when that is known.
    lost: BTreeMap<String, Instant>,
    /// The next eviction.
    eviction: Option<Instant>,
}

impl NodeLifecycle {
    /// The controller of a new cluster.
    pub fn new(patience: Patience) -> Self {
        let (first, lost) = Default::default();
        Self { patience, next: Instant::ORIGIN, first, lost, eviction: None }
    }

    /// Looks at the nodes if it is time to, takes back those that are heard of again, evicts.
    ///
    /// # Errors
    /// The API's.
    pub fn reconcile(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        let nodes: Vec<_> = api.list::<Node>().map(|node| node.name().to_owned()).collect();
        self.first.retain(|name, _| nodes.contains(name));
        self.lost.retain(|name, _| nodes.contains(name));
        let looks = self.next <= now;
        while self.next <= now {
            self.next = self.next.saturating_add(self.patience.period);
        }
        for name in &nodes {
            let first = *self.first.entry(name.clone()).or_insert(now);
            let silent = now.saturating_since(api.lease(name).unwrap_or(first)) >= self.patience.grace;
            match (silent, self.lost.contains_key(name)) {
                (true, false) if looks => {
                    self.lost.insert(name.clone(), now);
                    lose(api, name, now)?;
                }
                (false, true) => {
                    self.lost.remove(name);
                    recover(api, name)?;
                }
                _ => {}
            }
        }
        self.evict(api, now)
    }

    /// When there is something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.eviction.into_iter().chain([self.next]).min()
    }

    /// Deletes the Pods of lost nodes that stayed as long as they tolerate it.
    fn evict(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        self.eviction = None;
        let mut due = Vec::new();
        for pod in api.list::<Pod>().filter(|pod| pod.object.metadata.deletion_timestamp.is_none()) {
            let since = node_of(pod).and_then(|node| self.lost.get(node));
            let (Some(since), Some(stays)) = (since, stays(pod, self.patience.eviction)) else { continue };
            let end = since.saturating_add(stays);
            if end <= now {
                due.push(pod.key());
            } else {
                self.eviction = self.eviction.into_iter().chain([end]).min();
            }
        }
        due.into_iter().try_for_each(|key| api.delete::<Pod>(now, &key, None))
    }
}

fn node_of(pod: &Placed<Pod>) -> Option<&str> {
    pod.object.spec.as_ref()?.node_name.as_deref()
}

/// For how long a Pod tolerates that its node is unreachable; `None` for ever.
fn stays(pod: &Placed<Pod>, otherwise: Duration) -> Option<Duration> {
    let tolerations = pod.object.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut matching = tolerations.filter(|toleration| {
        toleration.key.as_deref().is_none_or(|key| key == UNREACHABLE)
            && toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "NoExecute")
    });
    match matching.next() {
        None => Some(otherwise),
        Some(toleration) => Some(Duration::from_secs(u64::try_from(toleration.toleration_seconds?).unwrap_or(0))),
    }
}

/// A node is not heard of any more: its state is unknown, and its Pods are not ready.
fn lose(api: &mut Api, name: &str, now: Instant) -> Result<(), Refusal> {
    let Some(node) = api.get::<Node>(name) else { return Ok(()) };
    let mut node = Placed::clone(node);
    let conditions = node.object.status.get_or_insert_default().conditions.get_or_insert_default();
    status::ready(conditions, "Unknown", "NodeStatusUnknown", now);
    let mut node = Placed::clone(&*api.update_status(node)?);
    let taints = node.object.spec.get_or_insert_default().taints.get_or_insert_default();
    taints.retain(|taint| taint.key != UNREACHABLE);
    taints.extend(["NoSchedule", "NoExecute"].map(|effect| Taint {
        key: UNREACHABLE.to_owned(),
        effect: effect.to_owned(),
        time_added: (effect == "NoExecute").then(|| time(now)),
        value: None,
    }));
    api.update(node)?;
    let pods: Vec<Arc<Placed<Pod>>> = api.list::<Pod>().filter(|pod| node_of(pod) == Some(name)).cloned().collect();
    for pod in pods {
        let mut pod = Placed::clone(&pod);
        let conditions = pod.object.status.get_or_insert_default().conditions.get_or_insert_default();
        if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            status::set(conditions, "Ready", false, Some("NodeNotReady"), now);
            api.update_status(pod)?;
        }
    }
    Ok(())
}

/// A node is heard of again; its kubelet says itself that it is ready, and which of its Pods are.
fn recover(api: &mut Api, name: &str) -> Result<(), Refusal> {
    let Some(node) = api.get::<Node>(name) else { return Ok(()) };
    let mut node = Placed::clone(node);
    if let Some(spec) = &mut node.object.spec {
        spec.taints.iter_mut().for_each(|taints| taints.retain(|taint| taint.key != UNREACHABLE));
        spec.taints.take_if(|taints| taints.is_empty());
    }
    api.update(node)?;
    Ok(())
}
