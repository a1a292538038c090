//! The controllers: each reads what happened since it last looked, and writes what follows from it.

mod endpoints;
mod lifecycle;
mod scheduler;
mod slices;

use lb_core::Instant;

pub use self::endpoints::EndpointsController;
pub use self::lifecycle::{NodeLifecycle, Patience};
pub use self::scheduler::Scheduler;
pub use self::slices::EndpointSlices;
use super::api::{Api, Refusal};

/// All controllers of the control plane, in one process as the controller manager has them.
#[derive(Clone, Debug)]
pub struct Controllers {
    scheduler: Scheduler,
    slices: EndpointSlices,
    endpoints: EndpointsController,
    lifecycle: NodeLifecycle,
    /// The resource version at which all of them had nothing more to say.
    settled: u64,
}

impl Controllers {
    /// The controllers of a new cluster; `seed` draws the names of what they make.
    pub fn new(patience: Patience, seed: u64) -> Self {
        Self {
            scheduler: Scheduler::default(),
            slices: EndpointSlices::new(seed),
            endpoints: EndpointsController::default(),
            lifecycle: NodeLifecycle::new(patience),
            settled: 0,
        }
    }

    /// Writes all that follows from what happened.
    ///
    /// # Errors
    /// The API's, of what no controller should have asked for.
    pub fn reconcile(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        loop {
            self.settled = api.version();
            self.lifecycle.reconcile(api, now)?;
            self.scheduler.reconcile(api)?;
            self.slices.reconcile(api, now)?;
            self.endpoints.reconcile(api, now)?;
            if self.settled == api.version() {
                return Ok(());
            }
        }
    }

    /// Whether something happened that the controllers have not looked at.
    pub fn behind(&self, api: &Api) -> bool {
        self.settled != api.version()
    }

    /// When one of them has something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lifecycle.next_deadline()
    }

    /// What they could not make of the objects, each once.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.slices.warnings()
    }
}
