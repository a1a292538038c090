//! Where objects come from: whoever has them gives notice, and is read.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use lb_core::control::{Label, Node, Service, Slice};
use lb_core::{Instant, RuleTable};

use super::{Event, files};
use crate::rules::Change;

/// Where objects come from.
pub trait Origin {
    /// Begins to give notice whenever there is something to read, once for what there is at the beginning.
    ///
    /// # Errors
    /// There will be nothing.
    fn watch(&mut self, notice: Notice) -> anyhow::Result<()>;

    /// The objects as they are now, or what became of them since they were last read.
    ///
    /// # Errors
    /// Something is wrong with them.
    fn read(&mut self) -> anyhow::Result<Reading>;
}

/// Files that objects are read from.
pub struct Files<R> {
    /// Which: changes are noticed.
    pub paths: Vec<PathBuf>,
    /// How.
    pub read: R,
}

impl<R: FnMut() -> anyhow::Result<Reading>> Origin for Files<R> {
    fn watch(&mut self, notice: Notice) -> anyhow::Result<()> {
        notice.give()?;
        files::watch(&self.paths, notice)
    }

    fn read(&mut self) -> anyhow::Result<Reading> {
        (self.read)()
    }
}

/// Gives notice that objects changed.
#[derive(Clone)]
pub struct Notice(pub(super) Sender<Event>);

/// Nobody heeds notices any more.
#[derive(Debug, thiserror::Error)]
#[error("the data plane has ended")]
pub struct Unheeded;

impl Notice {
    /// There is something to read.
    ///
    /// # Errors
    /// [`Unheeded`]
    pub fn give(&self) -> Result<(), Unheeded> {
        self.0.send(Event::Changed).map_err(|_| Unheeded)
    }

    /// A notice for whoever follows objects without a data plane, and what becomes true of it: whether one came in time.
    pub fn alone() -> (Self, impl FnMut(Duration) -> bool) {
        let (sender, receiver) = channel();
        (Self(sender), move |patience| receiver.recv_timeout(patience).is_ok())
    }
}

/// What was read.
pub struct Reading {
    /// The objects.
    pub objects: Objects,
    /// How many others are not as they are to be, so that those of before stay in force.
    pub refused: u64,
    /// Slices, and when what they tell happened (`endpoints.kubernetes.io/last-change-trigger-time`): each at least when it is new.
    pub triggers: Vec<(Label, Instant)>,
}

/// What rules are made from.
pub enum Objects {
    /// A cluster's objects, as one of its nodes sees them.
    Cluster {
        /// What is proxied.
        services: Vec<Service>,
        /// What it is proxied to.
        slices: Vec<Slice>,
        /// The node.
        node: Box<Node>,
        /// Whether load balancers should send it new connections (SEMANTICS §10.6).
        eligible: bool,
    },
    /// What became of objects since they were last read, and whether load balancers should send the node new connections.
    Changes {
        /// One for each object.
        changes: Vec<Change>,
        /// SEMANTICS §10.6.
        eligible: bool,
    },
    /// Rules that are compiled already.
    Image(Box<RuleTable<Vec<u8>>>),
}
