//! The scheduler, as far as it matters where a Pod runs: on some node that takes it, spread evenly.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cluster::api::{Api, Refusal};
use crate::k8s::Placed;

/// Binds Pods to nodes.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    seen: u64,
}

impl Scheduler {
    /// Binds each Pod that has no node to the ready one, of those that its nodeSelector admits, with the fewest
    /// Pods; among equals to the first by name.
    ///
    /// # Errors
    /// The API's.
    pub fn reconcile(&mut self, api: &mut Api) -> Result<(), Refusal> {
        let news = api.watch(self.seen).iter().any(|event| event.of::<Pod>().is_some() || event.of::<Node>().is_some());
        self.seen = api.version();
        if !news {
            return Ok(());
        }
        let mut load: BTreeMap<String, usize> = BTreeMap::new();
        for pod in api.list::<Pod>() {
            if let Some(node) = pod.object.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                *load.entry(node).or_default() += 1;
            }
        }
        let unbound =
            |pod: &&std::sync::Arc<Placed<Pod>>| pod.object.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
        let waiting: Vec<_> = api.list::<Pod>().filter(unbound).cloned().collect();
        for pod in waiting {
            let nodes = api.list::<Node>().filter(|node| takes(node, &pod)).map(|node| node.name().to_owned());
            let Some(node) = nodes.min_by_key(|name| load.get(name).copied().unwrap_or(0)) else { continue };
            *load.entry(node.clone()).or_default() += 1;
            let mut bound = Placed::clone(&pod);
            bound.object.spec.get_or_insert_default().node_name = Some(node);
            api.update(bound)?;
        }
        self.seen = api.version();
        Ok(())
    }
}

fn takes(node: &Placed<Node>, pod: &Placed<Pod>) -> bool {
    let conditions = node.object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let spec = node.object.spec.as_ref();
    let open = spec.is_none_or(|spec| spec.unschedulable != Some(true));
    let taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let repels = taints.into_iter().any(|taint| taint.effect != "PreferNoSchedule");
    let selector = pod.object.spec.iter().flat_map(|spec| spec.node_selector.iter().flatten());
    ready && open && !repels && selector.into_iter().all(|(key, value)| node.label(key) == Some(value.as_str()))
}
