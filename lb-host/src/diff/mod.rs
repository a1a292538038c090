//! What tells two sets of rules apart: what clients can dial, what becomes of their flows, which Maglev slots move.
//!
//! Fates are not read from settings but asked of both tables, packet by packet, so that whatever the engine does
//! differently shows. The words for why are this module's.

mod disruption;
mod established;
mod fate;
mod outcome;
mod probe;
mod reason;
mod trace;
mod vips;

use lb_core::RuleTable;
use lb_core::control::{Mode, Node};
use serde::Serialize;

pub use disruption::{Disruption, Share};
pub use established::Established;
pub use outcome::Outcome;
pub use probe::Sources;
pub use trace::{Moved, Trace, TraceFlow, trace};
pub use vips::{Change, VipChange};

use crate::listing::Listing;

/// One of the two sides that are compared.
pub struct Side<'a> {
    /// Its compiled rules.
    pub rules: &'a RuleTable<Vec<u8>>,
    /// The node that they were compiled for; an image does not tell.
    pub node: Option<&'a Node>,
}

impl Side<'_> {
    fn mode(&self) -> Option<Mode> {
        self.node.map(|node| node.proxy.mode)
    }
}

/// All that differs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Differences {
    /// What holds for the node as a whole.
    pub node: Vec<String>,
    /// What clients dial: what came, what went, what is served otherwise.
    pub vips: Vec<VipChange>,
    /// New flows that meet another fate.
    pub fates: Vec<FateChange>,
    /// Established flows that meet another fate when endpoints go.
    pub established: Vec<Established>,
    /// Maglev tables whose slots moved.
    pub maglev: Vec<Disruption>,
    /// The flows of a capture, if one was given.
    pub trace: Option<Trace>,
}

/// A flow that meets another fate.
#[derive(Clone, Debug, Serialize)]
pub struct FateChange {
    /// Who sends it: node, pod, another node, outside.
    pub source: &'static str,
    /// What it does: dial, ping, dial a port of no service.
    pub does: &'static str,
    /// Its first packet, in words.
    pub packet: String,
    /// Where it goes: protocol, address and port.
    pub destination: String,
    /// Its fate on the first side.
    pub before: Outcome,
    /// Its fate on the second.
    pub after: Outcome,
    /// Why they differ, with the paragraph of the specification.
    pub reason: String,
}

impl Differences {
    /// Compares two sides; `sources` says who sends.
    pub fn new(before: &Side<'_>, after: &Side<'_>, sources: &Sources) -> Self {
        let (old, new) = (Listing::new(before.rules), Listing::new(after.rules));
        Self {
            node: vips::node_changes(old.node.as_ref(), new.node.as_ref()),
            vips: vips::changes(&old, &new, after),
            fates: fate::fates(before, after, sources),
            established: established::changes(before, after),
            maglev: disruption::disruptions(before.rules, after.rules),
            trace: None,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let Self { node, vips, fates, established, maglev, trace } = self;
        node.is_empty()
            && vips.is_empty()
            && fates.is_empty()
            && established.is_empty()
            && maglev.is_empty()
            && trace.as_ref().is_none_or(|trace| trace.differing.is_empty())
    }
}
