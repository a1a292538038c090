//! `lb completions SHELL`.

use std::io::Write;

use clap::{Args, CommandFactory};

use super::{Cli, Outcome};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        // Into memory first: the generator panics on a writer that fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "lb", &mut script);
        out.write_all(&script)?;
        Ok(Outcome::Fine)
    }
}
