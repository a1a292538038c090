//! `lb replay`: a capture through the engine.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use lb_core::{Balancer, Block, Config, RuleTable, Sizes, blocks};

use super::Outcome;
use super::args::{self, NodeArgs, ObjectArgs, RULE_FLAGS};
use crate::device::capture::Output;
use crate::replay::{self, Options, Summary, golden};
use crate::{clock, rules};

/// Run a capture through the data plane, at the capture's own clock
///
/// Reads pcap and pcapng, plain or compressed with gzip or zstd. Writes pcapng with the interfaces `ingress` and
/// `egress`; comments of packets tell what became of them.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The capture; `-` for standard input
    #[arg(value_name = "IN")]
    input: PathBuf,
    #[command(flatten)]
    objects: ObjectArgs,
    /// Compiled rules, in place of objects and a node
    #[arg(long, value_name = "FILE", conflicts_with = "filenames", conflicts_with_all = RULE_FLAGS)]
    image: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    /// Where to write what went in and what came out; `-` for standard output
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Make the backend's own reply of each reply that comes from the VIP; what comes out must be what was captured
    #[arg(long)]
    reflect: bool,
    /// Where to write a line of JSON for every flow that begins or ends
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Compare with this output of an earlier replay
    #[arg(long, value_name = "GOLDEN")]
    expect: Option<PathBuf>,
    /// Write the output to GOLDEN instead of comparing
    #[arg(long, requires = "expect")]
    update: bool,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    summary: Form,
    /// Flows that may be tracked at a time, of each family
    #[arg(long, value_name = "COUNT", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    flows: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    #[default]
    Text,
    Json,
}

/// Clients remembered for session affinity, and fragmented datagrams under way.
const REMEMBERED: u32 = 65_536;

impl Replay {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        if is_dash(&self.input) && self.objects.filenames.iter().any(|file| is_dash(file)) {
            bail!("standard input can't be both the capture and the objects");
        }
        let started = clock::now();
        let rules = self.rules()?;
        let services = rules.segments().map(|(slot, _)| slot + 1).max().unwrap_or(0);
        let sizes = Sizes {
            v4_flows: self.flows,
            v6_flows: self.flows,
            services,
            affinity: REMEMBERED,
            backends: REMEMBERED,
            fragments: REMEMBERED,
        };
        let config = Config::new(self.node.key.unwrap_or_default(), self.node.ranges.seed);
        let mut memory = vec![Block::ZERO; blocks(sizes)];
        let mut balancer = Balancer::new(config, sizes, &mut memory, rules)?;

        let mut produced = Produced::create(self.output.as_deref(), self.expect.is_some())?;
        let mut log = self.log.as_deref().map(|path| create(path).map(|log| (log, path))).transpose()?;
        let options = Options { reflect: self.reflect, log: log.as_mut().map(|(log, _)| log as &mut dyn Write) };
        let input: Box<dyn Read> = match is_dash(&self.input) {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(&self.input).with_context(|| self.input.display().to_string())?),
        };
        let mut summary =
            replay::run(input, &mut produced, &mut balancer, options).map_err(|error| self.name(error))?;

        let difference = match (&self.expect, self.update) {
            (Some(golden), true) => {
                produced.copy_to(golden)?;
                None
            }
            (Some(golden), false) => produced.compare(golden)?,
            (None, _) => None,
        };
        // Both are complete before either has its name.
        if let Some((log, path)) = &mut log {
            log.flush().with_context(|| path.display().to_string())?;
        }
        produced.publish(self.output.as_deref())?;
        if let Some((log, path)) = log {
            log.publish().with_context(|| path.display().to_string())?;
        }
        summary.elapsed = clock::now() - started;

        let mut stderr = io::stderr().lock();
        for difference in summary.differences.iter().chain(&difference) {
            write!(stderr, "{difference}")?;
        }
        // The results' place is taken if the capture goes there.
        match self.output.as_deref().is_some_and(is_dash) {
            true => self.print(&summary, &mut stderr)?,
            false => self.print(&summary, out)?,
        }
        Ok(if summary.is_faithful() && difference.is_none() { Outcome::Fine } else { Outcome::Different })
    }

    fn rules(&self) -> anyhow::Result<RuleTable<Vec<u8>>> {
        if let Some(path) = &self.image {
            return args::image(path);
        }
        let (cluster, node) = self.node.cluster_and_node(&self.objects)?;
        Ok(RuleTable::load(rules::control(&cluster.services, &cluster.slices, node).image()?)?)
    }

    /// The error with the name of the file it is about.
    fn name(&self, error: replay::Error) -> anyhow::Error {
        let path = match error {
            replay::Error::Read { .. } => Some(&self.input),
            replay::Error::Write(_) => self.output.as_ref(),
            replay::Error::Log(_) => self.log.as_ref(),
        };
        let error = anyhow::Error::new(error);
        match path {
            Some(path) => error.context(path.display().to_string()),
            None => error,
        }
    }

    fn print(&self, summary: &Summary, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.summary {
            Form::Text => writeln!(out, "{summary}")?,
            Form::Json => writeln!(out, "{}", serde_json::to_string(summary)?)?,
        }
        Ok(())
    }
}

/// Where the replay's output goes.
enum Produced {
    Nowhere(io::Sink),
    To(Output),
    /// To be read again before it goes anywhere.
    Spooled(io::BufWriter<File>),
}

impl Produced {
    fn create(output: Option<&Path>, is_compared: bool) -> anyhow::Result<Self> {
        Ok(match output {
            _ if is_compared => Self::Spooled(io::BufWriter::new(tempfile::tempfile()?)),
            Some(path) => Self::To(create(path)?),
            None => Self::Nowhere(io::sink()),
        })
    }

    /// What was spooled, from its beginning.
    fn reread(&mut self) -> io::Result<&File> {
        let Self::Spooled(spool) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        spool.flush()?;
        spool.rewind()?;
        Ok(spool.get_ref())
    }

    fn compare(&mut self, golden: &Path) -> anyhow::Result<Option<String>> {
        let path = golden.display();
        let file = File::open(golden).with_context(|| format!("{path}: nothing to compare with; --update makes it"))?;
        Ok(golden::compare(file, self.reread()?)
            .with_context(|| path.to_string())?
            .map(|difference| format!("{path}: differs\n{difference}")))
    }

    fn copy_to(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut output = create(path)?;
        let written = io::copy(&mut self.reread()?, &mut output).and_then(|_| output.publish());
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    fn publish(mut self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        match self {
            Self::Spooled(_) => self.copy_to(path),
            Self::To(output) => output.publish().with_context(|| format!("cannot write {}", path.display())),
            Self::Nowhere(_) => Ok(()),
        }
    }
}

impl Write for Produced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nowhere(sink) => sink.write(bytes),
            Self::To(output) => output.write(bytes),
            Self::Spooled(spool) => spool.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nowhere(sink) => sink.flush(),
            Self::To(output) => output.flush(),
            Self::Spooled(spool) => spool.flush(),
        }
    }
}

fn create(path: &Path) -> anyhow::Result<Output> {
    Output::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}
