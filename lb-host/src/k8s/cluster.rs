//! The cluster that manifests describe: read, checked, completed and converted.

use std::path::PathBuf;

use lb_core::control::{self, Service, Slice};

use super::allocate::{Ranges, allocate};
use super::check::check;
use super::manifest::{Manifests, Placed};
use super::node::{self, NodeError};
use super::place::{Problem, Problems};
use super::settings::Settings;
use super::{defaults, endpoint_controller, endpoints, service};

/// How manifests are taken.
#[derive(Clone, Debug)]
pub enum Taken {
    /// As an API server and its controllers would: checked, defaulted, with ClusterIPs and NodePorts of
    /// these ranges for Services that lack them, and endpoints by selector and readiness.
    Applied(Ranges),
    /// As they are written, as objects that an API server has stored already; but Pods and v1 Endpoints
    /// are made into slices where a Service has none.
    AsWritten,
}

/// A cluster's objects.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What is proxied.
    pub services: Vec<Service>,
    /// What it is proxied to.
    pub slices: Vec<Slice>,
    /// The objects as Kubernetes would have them, with the places they came from: defaults filled in,
    /// ClusterIPs and NodePorts allocated, slices made for Services that had none.
    pub manifests: Manifests,
    /// What may surprise: fields that were not read, objects passed over.
    pub warnings: Vec<String>,
}

impl Cluster {
    /// Reads files, directories and `-`, standard input.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn load(paths: &[PathBuf], taken: &Taken) -> Result<Self, Problems> {
        Self::new(Manifests::read(paths)?, taken)
    }

    /// The cluster of objects that were read already.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn new(mut manifests: Manifests, taken: &Taken) -> Result<Self, Problems> {
        let mut warnings: Vec<_> = manifests.passed_over().into_iter().collect();
        warnings.extend(manifests.unknown_fields().map(|problem| problem.to_string()));
        if let Taken::Applied(ranges) = taken {
            none(check(&manifests))?;
            manifests.services.iter_mut().for_each(|service| defaults::service(&mut service.object));
            manifests.slices.iter_mut().for_each(|slice| defaults::slice(&mut slice.object));
            allocate(&mut manifests.services, ranges).map_err(Problems)?;
        }
        let made = endpoint_controller::slices(&manifests);
        // Whoever is about to apply a Service is told that it asks in vain; of a stored one it is known.
        let told = |problem: &&Problem| matches!(taken, Taken::Applied(_)) || *problem.field != *"metadata.annotations";
        warnings.extend(made.warnings.iter().filter(told).map(Problem::to_string));
        manifests.slices.extend(made.slices);
        let mut problems = Vec::new();
        let services = converted(&manifests.services, service::service, &mut problems);
        let slices = converted(&manifests.slices, endpoints::slice, &mut problems);
        none(problems)?;
        Ok(Self { services, slices, manifests, warnings })
    }

    /// The node called `name`, or the only one there is, set up as `settings` say. Where there are no
    /// Nodes among the objects it has no addresses.
    ///
    /// # Errors
    /// There are Nodes, but not that one, or no telling which.
    pub fn node(&self, name: Option<&str>, settings: &Settings) -> Result<control::Node, NodeError> {
        node::node(&self.manifests.nodes, name, settings)
    }
}

fn converted<T, U>(
    objects: &[Placed<T>],
    convert: impl Fn(&Placed<T>) -> Result<Option<U>, Problem>,
    problems: &mut Vec<Problem>,
) -> Vec<U> {
    let mut out = Vec::new();
    for object in objects {
        match convert(object) {
            Ok(one) => out.extend(one),
            Err(problem) => problems.push(problem),
        }
    }
    out
}

fn none(problems: Vec<Problem>) -> Result<(), Problems> {
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}
