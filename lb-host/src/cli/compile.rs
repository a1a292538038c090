//! `lb compile`: objects into a rule image.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Outcome;
use super::args::{self, NodeArgs, ObjectArgs};
use crate::device::capture::Output;
use crate::rules;

/// Compile a node's rules into an image, for firmware and for --image
#[derive(Debug, Args)]
pub(super) struct Compile {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Where to write the image; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Compile {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        let (cluster, node) = self.node.cluster_and_node(&self.objects)?;
        let name = node.name.clone();
        let rules = args::compiled(&mut rules::control(&cluster.services, &cluster.slices, node))?;
        let path = self.output.display();
        let mut output = Output::create(&self.output).with_context(|| format!("cannot write {path}"))?;
        output.write_all(rules.memory()).with_context(|| format!("cannot write {path}"))?;
        output.publish().with_context(|| format!("cannot write {path}"))?;
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "node {name}: {}", super::inspect::sizes(&rules));
        Ok(Outcome::Fine)
    }
}
