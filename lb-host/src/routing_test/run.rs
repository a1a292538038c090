//! A case from its first step to its last.

use lb_core::{Origin, RuleTable, Tuple};
use serde::Serialize;

use super::data_plane::DataPlane;
use super::format::{Case, FlowCheck, Step};
use super::judge::{self, Judged};
use super::observe::{Observed, observe};
use crate::k8s::Problem;
use crate::path::socket;
use crate::{explain, rules};

/// How a case ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: String,
    /// The mode it is of.
    pub mode: &'static str,
    /// All that was checked.
    pub checks: Vec<Judged>,
    /// Service ports that there can be no rules for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Outcome {
    /// Whether everything was as expected.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(Judged::holds)
    }
}

/// Runs a case.
///
/// # Errors
/// A state cannot be compiled, or a flow that there should have been before cannot be.
pub fn run(case: &Case) -> Result<Outcome, Problem> {
    let (mut checks, mut warnings) = (Vec::new(), Vec::new());
    let mut before = None;
    for step in &case.steps {
        let trouble = Problem::new(case.place.clone(), "", "correct the objects");
        let (plane, survivors) = DataPlane::enter(before.take().filter(|_| !step.fresh), step, &trouble)?;
        let mut alone = rules::control(&step.services, &step.slices, step.node.clone());
        let wrong = |error: &dyn std::fmt::Display| Problem { message: error.to_string(), ..trouble.clone() };
        let image = alone.image().map_err(|error| wrong(&error))?;
        let left_out =
            |(service, problem)| format!("{}: step {:?}: Service {service}: {problem}", case.place, step.name);
        warnings.extend(alone.problems().map(left_out));
        let from_scratch = RuleTable::load(image.as_slice()).map_err(|error| wrong(&error))?;
        let world = World { step, plane: &plane, from_scratch: &from_scratch };
        world.flows(&mut checks);
        world.endpoints(&mut checks);
        world.health(&mut checks);
        for (check, survivor) in step.conntrack.iter().zip(&survivors) {
            let name = format!("conntrack {} to {}", check.flow, socket(check.to.0, check.to.1));
            let judged = Judged::new(&step.name, name, &check.place, judge::conntrack(check, survivor));
            checks.push(world.explained(judged, &check.flow, Origin::Wire));
        }
        before = Some(plane);
    }
    let mode = case.steps.first().map_or("", |step| step.node.proxy.mode.name);
    Ok(Outcome { name: case.name.clone(), place: case.place.to_string(), mode, checks, warnings })
}

/// A step's state: as it was reached, and as it is from scratch.
struct World<'a> {
    step: &'a Step,
    plane: &'a DataPlane,
    from_scratch: &'a RuleTable<&'a [u8]>,
}

impl World<'_> {
    fn flows(&self, checks: &mut Vec<Judged>) {
        for check in &self.step.flows {
            let mut reached = observe(self.plane.rules.clone(), &check.packet, check.origin);
            let mut from_scratch = observe(self.from_scratch.clone(), &check.packet, check.origin);
            if Observed::is_hashed(self.from_scratch, &check.packet, check.origin) {
                let keys = 1..=reached.draws();
                for key in keys {
                    let Some(seen) = reached.lacks().then(|| self.under_key(key, check)).flatten() else { break };
                    reached.join(&seen);
                    from_scratch.join(&seen);
                }
            }
            let differences = judge::flow(check, &reached, &from_scratch);
            let judged = Judged::new(&self.step.name, format!("flow {}", check.name), &check.place, differences);
            checks.push(self.explained(judged, &check.packet, check.origin));
        }
    }

    /// What becomes of the flow in a cluster of another key.
    fn under_key(&self, key: u64, check: &FlowCheck) -> Option<Observed> {
        let mut node = self.step.node.clone();
        node.proxy.key = u128::from(key).to_be_bytes();
        let image = rules::control(&self.step.services, &self.step.slices, node).image().ok()?;
        Some(observe(RuleTable::load(image).ok()?, &check.packet, check.origin))
    }

    fn endpoints(&self, checks: &mut Vec<Judged>) {
        for check in &self.step.endpoints {
            let (differences, notes) = judge::endpoints(check, &self.plane.objects.control);
            let name = format!("endpoints of {}", check.service.text);
            let mut judged = Judged::new(&self.step.name, name, &check.place, differences);
            if !judged.holds() {
                judged.notes = notes;
            }
            checks.push(judged);
        }
    }

    fn health(&self, checks: &mut Vec<Judged>) {
        for check in &self.step.health {
            let differences = judge::health(check, &self.step.services, &self.step.slices, &self.plane.objects.control);
            let name = format!("healthCheck of {}", check.service);
            checks.push(Judged::new(&self.step.name, name, &check.place, differences));
        }
    }

    /// Adds to what does not hold why it came about.
    fn explained(&self, mut judged: Judged, packet: &Tuple, origin: Origin) -> Judged {
        if !judged.holds() {
            let seed = 0;
            let explanation =
                explain::explain(self.from_scratch, Some(&self.plane.objects.control), packet, origin, seed);
            judged.explanation = Some(explanation);
        }
        judged
    }
}
