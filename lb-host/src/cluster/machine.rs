//! A host and what runs on it.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};

use lb_core::Instant;

use super::link::Cable;
use super::program::Program;
use crate::host::Host;
use crate::proxy::Proxy;

/// The name of a machine in its cluster, never used again: a pod, a node, or a client outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub(super) usize);

/// Where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a node.
    Node,
    /// It is behind this node.
    Pod(MachineId),
    /// It is outside.
    Outside,
}

pub(super) struct Machine {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) host: Host,
    pub(super) cable: Cable,
    /// By number, never used again.
    programs: BTreeMap<usize, Box<dyn Program>>,
    started: usize,
    /// A node's in userspace mode.
    pub(super) proxy: Option<Proxy>,
    /// When it wants to be asked again.
    pub(super) alarm: Option<Instant>,
}

impl Machine {
    pub(super) fn new(name: String, place: Place, host: Host, cable: Cable) -> Self {
        Self { name, place, host, cable, programs: BTreeMap::new(), started: 0, proxy: None, alarm: None }
    }

    /// Starts a program, and says which it is.
    pub(super) fn run(&mut self, program: Box<dyn Program>) -> usize {
        let number = self.started;
        self.programs.insert(number, program);
        self.started += 1;
        number
    }

    pub(super) fn program<P: Program>(&self, number: usize) -> Option<&P> {
        let program: &dyn Any = self.programs.get(&number)?.as_ref();
        program.downcast_ref()
    }

    pub(super) fn program_mut<P: Program>(&mut self, number: usize) -> Option<&mut P> {
        let program: &mut dyn Any = self.programs.get_mut(&number)?.as_mut();
        program.downcast_mut()
    }

    /// Ends a program from one moment to the next.
    pub(super) fn end(&mut self, number: usize) {
        if let Some(mut program) = self.programs.remove(&number) {
            program.end(&mut self.host);
        }
    }

    /// Asks a program to end.
    pub(super) fn stop(&mut self, number: usize) {
        if let Some(program) = self.programs.get_mut(&number) {
            program.stop(&mut self.host);
        }
    }

    /// Whether a program has nothing left to do.
    pub(super) fn is_over(&self, number: usize) -> bool {
        self.programs.get(&number).is_none_or(|program| program.is_over())
    }

    /// Lets programs and stack do what is to be done by now; what they send.
    pub(super) fn turn(&mut self, now: Instant) -> VecDeque<Vec<u8>> {
        if let Some(proxy) = &mut self.proxy {
            proxy.poll(now, &mut self.host);
        }
        for program in self.programs.values_mut() {
            program.poll(&mut self.host, now);
        }
        self.host.poll(now)
    }

    /// When the next turn is due if nothing comes before.
    pub(super) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let programs = self.programs.values().filter_map(|program| program.next_deadline());
        let proxy = self.proxy.as_ref().and_then(Proxy::next_deadline);
        programs.chain(proxy).chain(self.host.next_deadline(now)).min()
    }
}
