//! One Pod's life on its node, and those of its containers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use lb_core::{Address, Instant};

use super::probe::{Means, ProbeId};
use super::readiness::Readiness;
use super::{Action, Probe, Program};
use crate::k8s::Placed;

/// What a container that crashes waits before its first restart, which is until the kubelet next looks at its
/// containers; before its second, and at most; how long it must have run for its crashes to be forgotten.
const RELIST: Duration = Duration::from_secs(1);
const BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
const FORGIVEN: Duration = Duration::from_secs(600);

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not run yet, or waits to run again, until then.
    Waiting(Instant),
    Running(Instant),
    /// It ended with this code, for good.
    Ended(i32),
}

#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) program: Program,
    pub(super) stage: Stage,
    pub(super) restarts: i32,
    pub(super) readiness: Readiness,
    /// The wait before its next restart.
    back_off: Duration,
}

impl Container {
    fn start(&mut self, now: Instant) {
        self.stage = Stage::Running(now);
        self.readiness.start(now);
    }

    /// It ended by itself; `again` if it is to run once more.
    fn exit(&mut self, code: i32, again: bool, now: Instant) {
        let Stage::Running(since) = self.stage else { return };
        self.readiness.stop();
        if !again {
            self.stage = Stage::Ended(code);
            return;
        }
        if now.saturating_since(since) >= FORGIVEN {
            self.back_off = RELIST;
        }
        self.stage = Stage::Waiting(now.saturating_add(self.back_off));
        self.back_off = (self.back_off * 2).clamp(BACK_OFF, LONGEST);
        self.restarts += 1;
    }

    fn running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }
}

/// How a Pod ends: its programs are asked to stop, then killed.
#[derive(Clone, Copy, Debug)]
struct End {
    stop: Instant,
    kill: Instant,
    asked: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) pod: Arc<Placed<Pod>>,
    pub(super) addresses: Vec<Address>,
    pub(super) containers: Vec<Container>,
    pub(super) started: Option<Instant>,
    end: Option<End>,
    /// Nothing of it is left on the node.
    pub(super) gone: bool,
    /// Its sandbox is gone.
    left: bool,
}

impl Life {
    /// A Pod whose containers start at `start`; `offset` draws where each container's probes do.
    pub(super) fn new(pod: Arc<Placed<Pod>>, start: Instant, offset: impl Fn(&Program) -> u64) -> Self {
        let uid: Arc<str> = pod.object.metadata.uid.as_deref().unwrap_or_default().into();
        let key: Arc<str> = pod.key().into();
        let specs = pod.object.spec.iter().flat_map(|spec| &spec.containers);
        let containers = specs.map(|spec| {
            let program = Program { pod: key.clone(), uid: uid.clone(), container: spec.name.as_str().into() };
            let readiness = Readiness::new(Means::of(spec), offset(&program));
            Container { program, stage: Stage::Waiting(start), restarts: 0, readiness, back_off: RELIST }
        });
        let containers = containers.collect();
        Self { pod, addresses: Vec::new(), containers, started: None, end: None, gone: false, left: false }
    }

    /// Whether it is on its way out.
    pub(super) fn ending(&self) -> bool {
        self.end.is_some()
    }

    /// Whether all of its containers ended by themselves, none to run again.
    pub(super) fn finished(&self) -> bool {
        self.containers.iter().all(|container| matches!(container.stage, Stage::Ended(_)))
    }

    /// It is to end within `grace`, which runs from now. Its programs are asked to once their preStop hooks have
    /// slept; an end that has begun can only come sooner.
    pub(super) fn end(&mut self, grace: Duration, now: Instant) {
        let kill = now.saturating_add(grace);
        let sleep = self.pod.object.spec.iter().flat_map(|spec| &spec.containers).filter_map(|container| {
            let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?.sleep.as_ref()?;
            u64::try_from(hook.seconds).ok()
        });
        let sleep = Duration::from_secs(sleep.max().unwrap_or(0)).min(grace);
        let end = self.end.get_or_insert(End { stop: now.saturating_add(sleep), kill, asked: false });
        end.kill = end.kill.min(kill);
    }

    /// Its sandbox goes, if there is one. The addresses that it had are another's now.
    pub(super) fn leave(&mut self) -> Option<Vec<Address>> {
        let there = self.started.is_some() && !self.left;
        self.left |= there;
        there.then(|| std::mem::take(&mut self.addresses))
    }

    /// A program ended by itself.
    pub(super) fn exited(&mut self, program: &Program, code: i32, now: Instant) {
        let policy = self.pod.object.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let again =
            self.end.is_none() && (policy == Some("OnFailure") && code != 0 || policy.is_none_or(|p| p == "Always"));
        if let Some(container) = self.containers.iter_mut().find(|container| container.program == *program) {
            container.exit(code, again, now);
        }
    }

    /// What its end asks for now. False if it goes on living.
    pub(super) fn ends(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(end) = &mut self.end else { return false };
        let running = self.containers.iter_mut().filter(|container| container.running());
        if end.kill <= now {
            for container in running {
                actions.push(Action::Kill(container.program.clone()));
                // 128 and SIGKILL's number.
                container.exit(137, false, now);
            }
        } else if end.stop <= now && !end.asked {
            end.asked = true;
            actions.extend(running.map(|container| Action::Stop(container.program.clone())));
        }
        if !self.containers.iter().any(Container::running) {
            self.gone = true;
        }
        true
    }

    /// The containers that are to start now do.
    pub(super) fn start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for container in &mut self.containers {
            if matches!(container.stage, Stage::Waiting(until) if until <= now) {
                container.start(now);
                self.started.get_or_insert(now);
                let (program, pod) = (container.program.clone(), self.pod.clone());
                actions.push(Action::Start { program, pod, addresses: self.addresses.clone() });
            }
        }
    }

    /// Whether a container waits for its start, and that has come.
    pub(super) fn wants_start(&self, now: Instant) -> bool {
        self.containers.iter().any(|container| matches!(container.stage, Stage::Waiting(until) if until <= now))
    }

    /// The probes to make now; `ids` gives their numbers.
    pub(super) fn probes(&mut self, now: Instant, ids: &mut u64, actions: &mut Vec<Action>) {
        let Some(own) = self.addresses.first().copied() else { return };
        for container in &mut self.containers {
            let id = ProbeId(*ids);
            if let Some(plan) = container.readiness.due(now, id) {
                *ids += 1;
                actions.push(Action::Probe(Probe {
                    id,
                    program: container.program.clone(),
                    address: plan.address.unwrap_or(own),
                    port: plan.port,
                    question: plan.question.clone(),
                    timeout: plan.timeout,
                }));
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let end = self.end.map(|end| if end.asked { end.kill } else { end.stop.min(end.kill) });
        let starts = self.containers.iter().filter_map(|container| match container.stage {
            Stage::Waiting(until) if self.end.is_none() => Some(until),
            _ => None,
        });
        let probes = self.containers.iter().filter_map(|container| container.readiness.next_deadline());
        starts.chain(probes).chain(end).min().filter(|_| !self.gone)
    }
}
