//! Scenarios: objects, a timeline of what happens to them, and what requests are expected to come to; as files.
//!
//! ```yaml
//! apiVersion: matryoshka/v1alpha1
//! kind: Scenario
//! metadata: {name: a rolling update fails no request}
//! spec:
//!   modes: [iptables, ipvs]          # all five unless told otherwise
//!   families: [IPv4]                 # both unless told otherwise
//!   nodes: 2                         # worker-1 and on
//!   clients: [laptop]
//!   objects: [...]                   # as kubectl apply takes them; Deployments too
//!   timeline:
//!   - {at: 20s, requests: {name: shop, from: laptop, to: {node: worker-1, port: 30080}, every: 100ms}}
//!   - {at: 25s, roll: default/web}
//!   - {at: 60s, expect: [{requests: shop, outcome: ok, atLeast: 300}]}
//! ```
//!
//! Each scenario runs once a mode and family, from one seed. Whatever it expects besides, no client may have heard from a
//! stranger, no node may have failed to make its rules, and no controller may have been refused.

mod judge;
mod stage;
mod written;

use std::path::PathBuf;

use lb_core::Family;
use lb_core::control::Mode;

use crate::k8s::manifest::documents;
use crate::k8s::settings::mode;
use crate::k8s::{Document, Problem, Problems};
use stage::Stage;

const VERSION: &str = "matryoshka/v1alpha1";
const KIND: &str = "Scenario";

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows.
    pub name: String,
    /// The modes that it runs in.
    pub modes: Vec<Mode>,
    /// The families that it runs in.
    pub families: Vec<Family>,
    written: written::Spec,
    document: Document,
}

impl Scenario {
    /// Reads files and directories.
    ///
    /// # Errors
    /// All that is wrong with them, each at its place.
    pub fn read(paths: &[PathBuf]) -> Result<Vec<Self>, Problems> {
        let (mut scenarios, mut problems) = (Vec::new(), Vec::new());
        for document in documents(paths) {
            match document.map_err(Problems::from).and_then(|document| Self::of(&document)) {
                Ok(scenario) => scenarios.push(scenario),
                Err(wrong) => problems.extend(wrong.0),
            }
        }
        if problems.is_empty() { Ok(scenarios) } else { Err(Problems(problems)) }
    }

    /// The scenario that a document is.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn of(document: &Document) -> Result<Self, Problems> {
        for (key, value) in [("kind", KIND), ("apiVersion", VERSION)] {
            if document.text(key) != Some(value) {
                let message = format!("{key} is not {value}");
                return Err(Problem::new(document.place(key), message, format!("write {key}: {value}")).into());
            }
        }
        let reading = document.read::<written::Scenario>()?;
        let (written, mut problems) = (reading.value, Vec::new());
        // What Kubernetes objects have is the API's business.
        let own = |field: &str| !field.contains("objects[") && !field.contains("apply[");
        problems.extend(reading.unknown.into_iter().filter(|unknown| own(&unknown.field)).map(Problem::from));
        let mut modes = Vec::new();
        for (index, name) in written.spec.modes.iter().flatten().enumerate() {
            match mode(name) {
                Some(mode) => modes.push(mode),
                None => problems.push(Problem::new(
                    document.place(&format!("spec.modes[{index}]")),
                    format!("{name:?} is no mode"),
                    "take one of iptables, nftables, ipvs, kernelspace, userspace",
                )),
            }
        }
        if written.spec.modes.is_none() {
            modes = Mode::ALL.to_vec();
        }
        let families = written
            .spec
            .families
            .clone()
            .map_or(vec![Family::V4, Family::V6], |families| families.into_iter().map(Family::from).collect());
        problems.extend(written.spec.check(document));
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        Ok(Self { name: written.metadata.name, modes, families, written: written.spec, document: document.clone() })
    }

    /// Plays it, in one mode and family. What was not as expected, each at the place of the expectation; nothing if all was.
    ///
    /// # Errors
    /// A step can't be done: an object is refused, a Pod that is not there is to crash.
    pub fn play(&self, mode: Mode, family: Family, seed: u64) -> Result<Vec<Problem>, Problems> {
        let mut stage = Stage::set(self, mode, family, seed)?;
        for (index, step) in self.written.timeline.iter().enumerate() {
            stage.step(index, step)?;
        }
        Ok(stage.end())
    }
}
