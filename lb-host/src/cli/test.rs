//! `lb test`: routing tests.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::args::Form;
use super::{Outcome, warn};
use crate::k8s::Problems;
use crate::routing_test;

/// Run routing tests: objects in, verdicts out, no cluster needed
///
/// A routing test states a cluster's objects, one node, and what must become of the first packet of some flows. The
/// last line counts the tests that passed and that failed. Exit codes: 0 if all passed, 1 if one did not, 2 if a file
/// cannot be read.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// Files with documents of kind RoutingTest; of a directory those that have some, at any depth
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Tell what holds too
    #[arg(short, long)]
    verbose: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Also write the results as JUnit's XML to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Test {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let mut tests = routing_test::read(&self.paths);
        let mut outcomes = Vec::new();
        for case in &tests.cases {
            case.warnings.iter().for_each(|warning| warn(warning));
            match routing_test::run(case) {
                Ok(outcome) => {
                    outcome.warnings.iter().for_each(|warning| warn(warning));
                    outcomes.push(outcome);
                }
                Err(problem) => tests.problems.push(problem),
            }
        }
        match self.output {
            Form::Table => routing_test::text(out, &outcomes, self.verbose)?,
            Form::Json => routing_test::json(out, &outcomes)?,
        }
        out.flush()?;
        if let Some(file) = &self.junit {
            let mut xml = Vec::new();
            routing_test::junit(&mut xml, &outcomes)?;
            std::fs::write(file, xml).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !tests.problems.is_empty() {
            return Err(Problems(tests.problems).into());
        }
        Ok(if outcomes.iter().all(routing_test::Outcome::passed) { Outcome::Fine } else { Outcome::Different })
    }
}
