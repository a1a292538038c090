//! `lb inspect`: what a rule image says.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use lb_core::RuleTable;
use lb_core::rules::VERSION;
use serde::Serialize;

use super::Outcome;
use super::args::{self, Output, OutputArgs};
use crate::listing::Listing;

/// Print what a rule image says: its header, its counts and its rules
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The image; `-` for standard input
    image: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// An image's header and counts, and its rules.
#[derive(Serialize)]
struct Inspected {
    version: u32,
    bytes: usize,
    segments: usize,
    vips: usize,
    backends: usize,
    #[serde(flatten)]
    listing: Listing,
}

impl Inspect {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let rules = args::image(&self.image)?;
        let listing = Listing::new(&rules);
        let (segments, vips, backends) = counts(&rules);
        match self.output.output {
            form @ (Output::Table | Output::Wide) => {
                writeln!(out, "rule image of version {VERSION}, {}\n", sizes(&rules))?;
                super::rules::print(out, &listing, form)?;
            }
            Output::Name => super::rules::print(out, &listing, Output::Name)?,
            form @ (Output::Json | Output::Yaml) => {
                let bytes = rules.memory().len();
                let inspected = Inspected { version: VERSION, bytes, segments, vips, backends, listing };
                match form {
                    Output::Yaml => write!(out, "{}", serde_saphyr::to_string(&inspected)?)?,
                    _ => writeln!(out, "{}", serde_json::to_string_pretty(&inspected)?)?,
                }
            }
        }
        Ok(Outcome::Fine)
    }
}

/// Service ports, Vips and backends, both families counted.
fn counts<M: AsRef<[u8]>>(rules: &RuleTable<M>) -> (usize, usize, usize) {
    rules.segments().fold((0, 0, 0), |(segments, vips, backends), (_, segment)| {
        (segments + 1, vips + segment.vips().count(), backends + segment.backends())
    })
}

/// Fingerprint and sizes in a line.
pub(super) fn sizes<M: AsRef<[u8]>>(rules: &RuleTable<M>) -> String {
    let (segments, vips, backends) = counts(rules);
    let bytes = rules.memory().as_ref().len();
    let fingerprint = rules.fingerprint();
    format!("fingerprint {fingerprint:016x}, {bytes} bytes: {segments} service ports, {vips} Vips, {backends} backends")
}
