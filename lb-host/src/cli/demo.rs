//! `lb demo`: the whole of it, with nothing to set up.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstream::{AutoStream, ColorChoice};
use anyhow::{anyhow, bail};
use clap::Args;
use lb_core::control::Mode;

use super::Outcome;
use crate::clock;
use crate::cluster::Physics;
use crate::demo::{self, Colors, Options};
use crate::device::capture::Output;

/// Watch a Service being opened layer by layer, in a cluster in memory: no root, no cluster needed
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The seed of all that is left to chance
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write all packets as pcapng, an interface a node, each with what became of it as its comment
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How nodes proxy: iptables, nftables, ipvs, kernelspace, userspace; all: in iptables mode, and each in turn at the end
    #[arg(long, default_value = "all", value_parser = mode)]
    mode: Walk,
}

/// In which modes to go.
#[derive(Clone, Copy, Debug)]
enum Walk {
    All,
    One(Mode),
}

fn mode(name: &str) -> Result<Walk, String> {
    let one = Mode::ALL.iter().find(|mode| mode.name == name).copied().map(Walk::One);
    let names: Vec<_> = Mode::ALL.iter().map(|mode| mode.name).collect();
    match name {
        "all" => Ok(Walk::All),
        _ => one.ok_or_else(|| format!("choose one of {}, all", names.join(", "))),
    }
}

impl Demo {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let started = clock::now();
        if self.output.as_deref() == Some(Path::new("-")) {
            bail!("-o -: the story is told on standard output; name a file for the capture");
        }
        let unwritable = |path: &Path, error: io::Error| anyhow!("cannot write {}: {error}", path.display());
        // Before anything is told.
        let capture = match &self.output {
            Some(path) => Some((Output::create(path).map_err(|error| unwritable(path, error))?, path)),
            None => None,
        };
        let options = Options {
            seed: self.seed,
            mode: if let Walk::One(mode) = self.mode { Some(mode) } else { None },
            physics: Physics::default(),
            colors: match AutoStream::choice(&io::stdout()) {
                ColorChoice::Never => Colors::Plain,
                _ => Colors::Ansi,
            },
        };
        let mut progress = Progress { shows: io::stderr().is_terminal() && !io::stdout().is_terminal() };
        let told = demo::run(options, out, &mut |what| progress.show(what));
        progress.clear();
        // Output's own error, which tells a closed pipe from others.
        let told = told.map_err(|error| match error {
            demo::Error::Output(error) => anyhow::Error::from(error),
            error => error.into(),
        })?;
        if let Some((mut output, path)) = capture {
            let written = output.write_all(&told.capture).and_then(|()| output.publish());
            written.map_err(|error| unwritable(path, error))?;
        }
        out.flush()?;
        let elapsed = clock::now() - started;
        let mut stderr = io::stderr().lock();
        let virtual_time = told.time.as_nanos() as f64 / 1e9;
        // Nobody is left to tell when standard error is closed too.
        let _ = writeln!(stderr, "{virtual_time:.0} s of the cluster's time in {:.1} s", elapsed.as_secs_f64());
        if let Some(path) = &self.output {
            let _ = writeln!(stderr, "every packet, with comments: {}", path.display());
        }
        Ok(if told.failed.is_empty() { Outcome::Fine } else { Outcome::Different })
    }
}

/// A line that says what is happening, where only the results go elsewhere.
struct Progress {
    shows: bool,
}

impl Progress {
    fn show(&mut self, what: &str) {
        if self.shows {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K{what} ...");
        }
    }

    fn clear(&mut self) {
        if self.shows {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }
}
