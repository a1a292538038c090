//! What the API server does to Pods.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::k8s::{Placed, Problem};

/// The node that the scheduler chose stays chosen.
pub(super) fn carry(new: &mut Pod, old: &Pod) {
    let before = old.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let spec = new.spec.get_or_insert_default();
    spec.node_name = spec.node_name.take().or(before);
}

/// Of a Pod's spec only the images change, and the node once, when it is bound to one.
pub(super) fn change(new: &Placed<Pod>, old: &Placed<Pod>) -> Vec<Problem> {
    let bound = |pod: &Placed<Pod>| pod.object.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let fixed = |pod: &Placed<Pod>| {
        let mut spec: PodSpec = pod.object.spec.clone().unwrap_or_default();
        spec.node_name = None;
        spec.containers.iter_mut().for_each(|container| container.image = None);
        spec
    };
    let advice = "delete the Pod, and create it anew";
    let mut problems = Vec::new();
    if let Some(before) = bound(old).filter(|before| bound(new).as_ref() != Some(before)) {
        problems.push(new.problem("spec.nodeName", format_args!("was {before}: it cannot change"), advice));
    }
    if fixed(new) != fixed(old) {
        problems.push(new.problem("spec", "cannot change but for its images", advice));
    }
    problems
}

/// The grace period of a Pod's deletion: none for one that no node runs.
pub(super) fn grace(pod: &Pod) -> i64 {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let spec = pod.spec.as_ref().filter(|spec| spec.node_name.is_some());
    match spec {
        Some(spec) if !matches!(phase, Some("Succeeded" | "Failed")) => {
            spec.termination_grace_period_seconds.unwrap_or(30)
        }
        _ => 0,
    }
}
