//! Deployments: so many Pods of a template, replaced a few at a time when it changes. As much of the controller as a
//! Service's endpoints can tell: `maxSurge` and `maxUnavailable` are Kubernetes' own 25 %.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use lb_core::Instant;

use super::{Kubernetes, Nobody};
use crate::cluster::api::Api;
use crate::k8s::{Document, Placed, Problem};

/// The annotation by which Pods of one template are told from those of another.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The Deployments there are, by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Deployments(BTreeMap<String, State>);

#[derive(Debug)]
struct State {
    object: Placed<Deployment>,
    revision: u64,
    /// How many Pods this revision has had.
    made: u64,
}

impl Deployments {
    /// The Deployment that a document is, if it says that it is one.
    pub(super) fn read(document: &Document) -> Option<Result<Placed<Deployment>, Problem>> {
        let is_one = document.text("kind") == Some("Deployment") && document.text("apiVersion") == Some("apps/v1");
        is_one.then(|| document.read::<Deployment>().map(|reading| Placed::from(reading.value)))
    }

    pub(super) fn apply(&mut self, object: Placed<Deployment>) {
        match self.0.get_mut(&object.key()) {
            Some(state) => {
                if state.object.object.spec.template != object.object.spec.template {
                    (state.revision, state.made) = (state.revision + 1, 0);
                }
                state.object = object;
            }
            None => drop(self.0.insert(object.key(), State { object, revision: 1, made: 0 })),
        }
    }

    /// Creates and deletes Pods as it is time to.
    pub(super) fn reconcile(&mut self, api: &mut Api, now: Instant) {
        for state in self.0.values_mut() {
            state.reconcile(api, now);
        }
    }
}

impl State {
    fn reconcile(&mut self, api: &mut Api, now: Instant) {
        let spec = self.object.object.spec.clone();
        let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        // A quarter, of those besides rounded up, of those that may lack rounded down.
        let (surge, unavailable) = (replicas.div_ceil(4), replicas / 4);
        let revision = self.revision.to_string();
        let own = |pod: &Placed<Pod>| {
            let owners = pod.object.metadata.owner_references.iter().flatten();
            pod.namespace() == self.object.namespace()
                && owners.into_iter().any(|owner| owner.kind == "Deployment" && owner.name == self.object.name())
        };
        let pods: Vec<_> = api.list::<Pod>().filter(|pod| own(pod) && lives(&pod.object)).cloned().collect();
        let is_current =
            |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)) == Some(&revision);
        let (current, old): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| is_current(&pod.object));
        let limit = if old.is_empty() { replicas } else { replicas + surge };
        let missing = replicas.saturating_sub(current.len()).min(limit.saturating_sub(pods.len()));
        for _ in 0..missing {
            self.made += 1;
            // Its name is its own; a template that is not as it may be makes no Pod.
            let _ = api.create(now, self.pod(&spec.template, &revision));
        }
        let mut ready = pods.iter().filter(|pod| is_ready(&pod.object)).count();
        // Those that serve nobody go first; of the current ones the newest.
        let mut going: Vec<_> = old;
        going.sort_by_key(|pod| is_ready(&pod.object));
        going.extend(current.iter().rev().take(current.len().saturating_sub(replicas)));
        for pod in going {
            let serves = usize::from(is_ready(&pod.object));
            if serves == 1 && ready <= replicas.saturating_sub(unavailable) && current.len() <= replicas {
                continue;
            }
            ready -= serves;
            let _ = api.delete::<Pod>(now, &pod.key(), None);
        }
    }

    fn pod(&self, template: &PodTemplateSpec, revision: &str) -> Placed<Pod> {
        let mut metadata = template.metadata.clone().unwrap_or_default();
        metadata.name = Some(format!("{}-{revision}-{}", self.object.name(), self.made));
        metadata.namespace = Some(self.object.namespace().to_owned());
        metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.to_owned());
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: self.object.name().to_owned(),
            uid: String::new(),
            ..OwnerReference::default()
        }]);
        Placed::from(Pod { metadata, spec: template.spec.clone(), status: None })
    }
}

fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Kubernetes {
    /// Replaces a Deployment's Pods a few at a time, as `kubectl rollout restart` does.
    ///
    /// # Errors
    /// There is no such Deployment.
    pub fn roll(&mut self, key: &str) -> Result<(), Nobody> {
        let state = self.deployments.0.get_mut(key).ok_or_else(|| Nobody(format!("Deployment {key}")))?;
        (state.revision, state.made) = (state.revision + 1, 0);
        self.log.note(self.world.now, format!("Deployment {key}"), format!("rolls to revision {}", state.revision));
        self.stirred = true;
        Ok(())
    }

    /// Gives a Deployment another number of Pods, as `kubectl scale` does.
    ///
    /// # Errors
    /// There is no such Deployment.
    pub fn scale(&mut self, key: &str, replicas: i32) -> Result<(), Nobody> {
        let state = self.deployments.0.get_mut(key).ok_or_else(|| Nobody(format!("Deployment {key}")))?;
        state.object.object.spec.replicas = Some(replicas);
        self.log.note(self.world.now, format!("Deployment {key}"), format!("scales to {replicas}"));
        self.stirred = true;
        Ok(())
    }
}
