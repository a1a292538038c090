//! `lb demo`: what happens between a client and a Pod, told while it happens in a cluster in memory.
//!
//! Nothing here is recited. A chapter applies objects, lets machines talk, and then reads what came of it: tables from
//! the API's objects, answers from the servers, every header from the packets as routers saw them. What the story
//! claims is checked against that, and a claim that does not hold is told and counted.

mod chapters;
mod journey;
mod ledger;
mod lookups;
mod page;
mod stage;

use std::io::{self, Write};

use lb_core::Instant;
use lb_core::control::Mode;

use crate::cluster::api::Refusal;
use crate::cluster::kubernetes::{Nobody, Plan, Trouble};
use crate::cluster::{EngineError, Physics};
use stage::Stage;

pub use page::Colors;

/// What to tell.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed of all that is drawn.
    pub seed: u64,
    /// The mode of kube-proxy; without one the walk is in iptables mode and the last chapter goes through all of them.
    pub mode: Option<Mode>,
    /// The cables.
    pub physics: Physics,
    /// Whether to print in colours.
    pub colors: Colors,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// How many claims were checked.
    pub checks: usize,
    /// Those that did not hold.
    pub failed: Vec<String>,
    /// How many requests were made.
    pub requests: usize,
    /// The box's time at the end.
    pub time: Instant,
    /// All that routers saw, as pcapng.
    pub capture: Vec<u8>,
}

/// Why the story could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was told could not be written.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// The box refuses something.
    #[error(transparent)]
    Box(#[from] Trouble),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Self::Box(error.into())
    }
}

impl From<Nobody> for Error {
    fn from(error: Nobody) -> Self {
        Self::Box(error.into())
    }
}

impl From<Refusal> for Error {
    fn from(error: Refusal) -> Self {
        Self::Box(error.into())
    }
}

/// Tells the story, each chapter as soon as it has happened; `progress` hears what is happening.
///
/// # Errors
/// [`Error`]; a claim that does not hold is none.
pub fn run(options: Options, out: &mut dyn Write, progress: &mut dyn FnMut(&str)) -> Result<Told, Error> {
    let plan = Plan { physics: options.physics, ..Plan::of(options.seed, options.mode.unwrap_or(Mode::IPTABLES)) };
    let mut stage = Stage::new(plan, out, options.colors)?;
    chapters::tell(&mut stage, options, progress)?;
    stage.close()
}
