//! `lb man DIR`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::{Cli, Outcome};

/// Write the manual pages, one a subcommand
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory to write them in
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        let directory = self.directory.display();
        clap_mangen::generate_to(Cli::command(), &self.directory)
            .with_context(|| format!("cannot write manual pages to {directory}; name a directory that exists"))?;
        Ok(Outcome::Fine)
    }
}
