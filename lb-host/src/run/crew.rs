//! All workers as one: each has a balancer and rules of its own, and all get the same.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use lb_core::rules::ApplyError;
use lb_core::{Flow, RuleTable};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Event;
use super::journal::Journal;
use super::queue::{Belts, belts};
use super::worker::{Command, Ended, Place, Setup, Worker};
use crate::metrics::Counts;

/// The workers of a data plane.
pub(super) struct Crew {
    workers: Vec<Worker>,
    journal: Option<Arc<Mutex<Journal>>>,
}

impl Crew {
    /// Starts so many; devices are open and flows are back when this returns. Says how many flows are.
    ///
    /// # Errors
    /// A device can't be opened, or there is not enough memory.
    pub(super) fn start(count: u16, setup: &Setup, events: &Sender<Event>) -> anyhow::Result<(Self, usize)> {
        let count = usize::from(count);
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wakes = (0..count).map(|_| EventFd::from_flags(flags).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let mut all_belts: Vec<Vec<Belts>> = setup.devices.iter().map(|_| belts(count)).collect();
        let mut crew = Self { workers: Vec::new(), journal: setup.journal.clone() };
        let mut restored = 0;
        // The last belts of each device are the last worker's.
        for number in (0..count).rev() {
            let belts = all_belts.iter_mut().filter_map(Vec::pop).collect();
            let place = Place { number, belts, wakes: wakes.clone() };
            match Worker::start(setup.clone(), place, events.clone()) {
                Ok((worker, flows)) => {
                    crew.workers.push(worker);
                    restored += flows;
                }
                Err(error) => {
                    let _ = crew.end();
                    return Err(error);
                }
            }
        }
        crew.workers.reverse();
        Ok((crew, restored))
    }

    /// Applies a delta to the rules of each; packets see all of it or nothing.
    ///
    /// # Errors
    /// [`Ended`]; or within, why it was not applied by all: then all rules are to be [swapped](Self::swap).
    pub(super) fn apply(&self, delta: &[u8]) -> Result<Result<(), ApplyError>, Ended> {
        let outcomes = self.ask(|answer| Command::Apply(delta.to_vec(), answer))?;
        Ok(outcomes.into_iter().collect())
    }

    /// Puts other rules in place of those in force.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn swap(&self, rules: &RuleTable<Vec<u8>>) -> Result<(), Ended> {
        self.workers.iter().try_for_each(|worker| worker.send(Command::Swap(Box::new(rules.clone()))))
    }

    /// What all of them counted.
    ///
    /// # Errors
    /// [`Ended`]
    pub(super) fn counts(&self) -> Result<Counts, Ended> {
        let counts = self.ask(Command::Counts)?;
        counts.into_iter().reduce(Counts::plus).ok_or(Ended)
    }

    /// Every flow; those that begin later are in the journal.
    ///
    /// # Errors
    /// A new journal can't be begun; or [`Ended`].
    pub(super) fn flows(&self) -> anyhow::Result<Vec<Flow>> {
        if let Some(journal) = &self.journal {
            journal.lock().unwrap_or_else(PoisonError::into_inner).turn().context("the journal of flows")?;
        }
        Ok(self.ask(Command::Flows)?.concat())
    }

    /// Has them finish what is queued and stop; the flows that they had.
    ///
    /// # Errors
    /// Why one had ended before.
    pub(super) fn end(self) -> anyhow::Result<Vec<Flow>> {
        // One that has ended already says why in the end.
        self.workers.iter().for_each(|worker| drop(worker.send(Command::End)));
        let mut flows = Ok(Vec::new());
        for worker in self.workers {
            let own = worker.joined();
            flows = flows.and_then(|flows: Vec<Flow>| Ok([flows, own?].concat()));
        }
        flows
    }

    /// Asks all at once and waits for each.
    fn ask<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Result<Vec<T>, Ended> {
        let asked = self.workers.iter().map(|worker| worker.ask(&command)).collect::<Result<Vec<_>, _>>()?;
        asked.into_iter().map(|answered| answered.recv().map_err(|_| Ended)).collect()
    }
}
