//! What a kubelet writes into the status of its Pods and of its Node.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    NodeCondition, NodeStatus, PodCondition, PodIP, PodStatus,
};
use lb_core::{Address, Instant};

use super::life::{Container, Life, Stage};
use crate::cluster::calendar::time;

/// A Pod's status, of which `before` is in the API.
pub(super) fn of(life: &Life, node: &[Address], before: &PodStatus, now: Instant) -> PodStatus {
    let finished = life.finished();
    let failed = life.containers.iter().any(|container| matches!(container.stage, Stage::Ended(code) if code != 0));
    let phase = match life.started {
        Some(_) if finished && !life.ending() && failed => "Failed",
        Some(_) if finished && !life.ending() => "Succeeded",
        Some(_) => "Running",
        None => "Pending",
    };
    let containers = !life.containers.is_empty() && life.containers.iter().all(|container| container.readiness.ready());
    let holds = |kind: &str| {
        let known = before.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        known.is_some_and(|condition| condition.status == "True")
    };
    let gates = life.pod.object.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let ready = containers && gates.into_iter().all(|gate| holds(&gate.condition_type));
    let mut conditions = before.conditions.clone().unwrap_or_default();
    for (kind, status, reason) in [
        ("PodScheduled", true, None),
        ("Initialized", true, None),
        ("ContainersReady", containers, Some("ContainersNotReady")),
        ("Ready", ready, Some(if containers { "ReadinessGatesNotReady" } else { "ContainersNotReady" })),
    ] {
        set(&mut conditions, kind, status, reason.filter(|_| !status), now);
    }
    let images = life.pod.object.spec.iter().flat_map(|spec| &spec.containers).map(|spec| spec.image.clone());
    let host: Vec<_> = node.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    let own: Vec<_> = life.addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(
            life.containers.iter().zip(images).map(|(one, image)| container(one, image)).collect(),
        ),
        host_ip: host.first().map(|ip| ip.ip.clone()),
        host_ips: (!host.is_empty()).then_some(host),
        // A Pod that came to its end shows the addresses that it had.
        pod_ip: own.first().map(|ip| ip.ip.clone()).or_else(|| before.pod_ip.clone()),
        pod_ips: Some(own).filter(|own| !own.is_empty()).or_else(|| before.pod_ips.clone()),
        start_time: life.started.map(time),
        ..before.clone()
    }
}

/// Sets a condition; its time of transition is that at which its status changed.
pub(in crate::cluster) fn set(
    conditions: &mut Vec<PodCondition>,
    kind: &str,
    status: bool,
    reason: Option<&str>,
    now: Instant,
) {
    let status = if status { "True" } else { "False" };
    let known = conditions.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let since = known.and_then(|condition| condition.last_transition_time.clone()).unwrap_or_else(|| time(now));
    let next = PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        last_transition_time: Some(since),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(condition) => *condition = next,
        None => conditions.push(next),
    }
}

fn container(container: &Container, image: Option<String>) -> ContainerStatus {
    let mut state = ContainerState::default();
    match container.stage {
        Stage::Waiting(_) => {
            let reason = if container.restarts == 0 { "ContainerCreating" } else { "CrashLoopBackOff" };
            state.waiting = Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: None });
        }
        Stage::Running(since) => {
            state.running = Some(ContainerStateRunning { started_at: Some(time(since)) });
        }
        Stage::Ended(exit_code) => {
            let reason = Some(if exit_code == 0 { "Completed" } else { "Error" }.to_owned());
            state.terminated =
                Some(ContainerStateTerminated { exit_code, reason, ..ContainerStateTerminated::default() });
        }
    }
    ContainerStatus {
        name: container.program.container.to_string(),
        image: image.unwrap_or_default(),
        ready: container.readiness.ready(),
        restart_count: container.restarts,
        started: Some(matches!(container.stage, Stage::Running(_))),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// The status of a Node that is well, of which `before` is in the API.
pub(super) fn node(before: &NodeStatus, now: Instant) -> NodeStatus {
    let mut status = before.clone();
    ready(status.conditions.get_or_insert_default(), "True", "KubeletReady", now);
    status
}

/// Sets a Node's Ready condition, unless its status is that already.
pub(in crate::cluster) fn ready(conditions: &mut Vec<NodeCondition>, status: &str, reason: &str, now: Instant) {
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status) {
        return;
    }
    conditions.retain(|condition| condition.type_ != "Ready");
    conditions.push(NodeCondition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        last_transition_time: Some(time(now)),
        last_heartbeat_time: Some(time(now)),
        ..NodeCondition::default()
    });
}
