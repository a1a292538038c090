//! The fate of a new flow, as far as two of them can be told apart.

use std::fmt;

use lb_core::rules::{Fate, Pool};
use lb_core::{Origin, RuleTable, Tuple};
use serde::Serialize;

use crate::explain;
use crate::listing::label;

/// What becomes of a new flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The verdict's word: forward, pass, accept, punt, drop, reject.
    pub verdict: &'static str,
    /// The label of what it is dropped or rejected for.
    pub label: Option<&'static str>,
    /// The pool that a backend is chosen from: cluster or local.
    pub pool: Option<&'static str>,
    /// How many are in that pool.
    pub endpoints: usize,
    /// Whether the source becomes the node's own address.
    pub masquerade: bool,
    /// Whether it does if the client is its own backend.
    pub hairpin: bool,
    /// The service port that is dialled, if one is.
    pub service: Option<String>,
    /// The rule that decided.
    pub because: String,
}

impl Outcome {
    /// What these rules do with a flow that begins so.
    pub(super) fn of(rules: &RuleTable<Vec<u8>>, tuple: &Tuple, origin: Origin) -> Self {
        let decision = rules.decide(tuple, origin);
        let mut outcome = Self {
            verdict: "pass",
            label: None,
            pool: None,
            endpoints: 0,
            masquerade: false,
            hairpin: false,
            service: decision.service.map(|(_, segment)| label(&segment)),
            because: explain::because(&decision, rules.node().is_some_and(|node| node.redirects())),
        };
        match decision.fate {
            Fate::Pass => {}
            Fate::Accept => outcome.verdict = "accept",
            Fate::Punt => outcome.verdict = "punt",
            Fate::Drop(reason) => (outcome.verdict, outcome.label) = ("drop", Some(reason.label())),
            Fate::Reject(reason) => (outcome.verdict, outcome.label) = ("reject", Some(reason.label())),
            Fate::Forward { pool, masquerade, hairpin } => {
                outcome.verdict = "forward";
                outcome.pool = Some(if pool == Pool::Cluster { "cluster" } else { "local" });
                outcome.endpoints = decision.service.map_or(0, |(_, segment)| segment.pool_size(pool));
                (outcome.masquerade, outcome.hairpin) = (masquerade, masquerade || hairpin);
            }
        }
        outcome
    }

    /// Whether a client or a backend could tell the two apart. How many endpoints there are is told with the Vips.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let facts = |one: &Self| (one.verdict, one.label, one.pool, one.masquerade, one.hairpin);
        facts(self) == facts(other)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict)?;
        if let Some(label) = self.label {
            write!(f, " {label}")?;
        }
        if let Some(pool) = self.pool {
            write!(f, " to {} of the {pool} pool", self.endpoints)?;
            match (self.masquerade, self.hairpin) {
                (true, _) => write!(f, ", masqueraded")?,
                (false, true) => {}
                (false, false) => write!(f, ", hairpins not masqueraded")?,
            }
        }
        Ok(())
    }
}
