//! `lb replay`: a capture through the engine.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
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
    /// Where to write a line of JSON for every flow that begins, and one when it ends (`end`) or the capture does (`open`)
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
        self.places()?;
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
        let mut memory = self.memory(sizes)?;
        let mut balancer = Balancer::new(config, sizes, &mut memory, rules)?;

        let input: Box<dyn Read> = match is_dash(&self.input) {
            true => Box::new(io::stdin()),
            false => Box::new(open(&self.input)?),
        };
        let golden = self.expect.as_deref().filter(|_| !self.update);
        let golden = golden.map(Golden::open).transpose()?;
        let blessed = self.expect.as_deref().filter(|_| self.update);
        let mut produced = Produced {
            output: self.output.as_deref().map(Target::create).transpose()?,
            blessed: blessed.map(Target::create).transpose()?,
            compared: golden.as_ref().map(|_| tempfile::tempfile().map(io::BufWriter::new)).transpose()?,
            failed: None,
        };
        let mut log = self.log.as_deref().map(Target::create).transpose()?;
        let options = Options {
            reflect: self.reflect,
            log: log.as_mut().map(|log| &mut log.output as &mut dyn Write),
            summary_only: self.output.is_none() && self.expect.is_none(),
        };
        let mut summary = replay::run(input, &mut produced, &mut balancer, options)
            .map_err(|error| self.name(error, produced.failed.as_deref()))?;

        let mut difference = match &golden {
            Some(golden) => golden.compare(produced.reread()?)?,
            None => None,
        };
        match &self.expect {
            // Nothing gets its name where something is wrong with what would be blessed.
            Some(path) if self.update && !summary.is_faithful() => {
                let Summary { reflected, identical, .. } = summary;
                let path = path.display();
                difference = Some(format!(
                    "{path}: not blessed, and nothing else written: {identical} of {reflected} reflected replies came out as they were captured\n"
                ));
            }
            _ => {
                // All are complete before any has its name; the blessed one is last.
                let all = [produced.output, log, produced.blessed];
                let mut all: Vec<Target> = all.into_iter().flatten().collect();
                all.iter_mut().try_for_each(Target::complete)?;
                all.into_iter().try_for_each(Target::publish)?;
            }
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
        args::compiled(&mut rules::control(&cluster.services, &cluster.slices, node))
    }

    /// Memory for so many flows.
    fn memory(&self, sizes: Sizes) -> anyhow::Result<Vec<Block>> {
        let count = blocks(sizes);
        let mut memory = Vec::new();
        if memory.try_reserve_exact(count).is_err() {
            let gigabytes = count as f64 * size_of::<Block>() as f64 / 1e9;
            let flows = self.flows;
            bail!("{flows} flows of each family need {gigabytes:.1} GB, which can't be had: give fewer with --flows");
        }
        memory.resize(count, Block::ZERO);
        Ok(memory)
    }

    /// Refuses to write a file that something else is read from or written to.
    fn places(&self) -> anyhow::Result<()> {
        let named = |flag, path: &Option<PathBuf>| path.clone().map(|path| (flag, path));
        let inputs = [("the capture", self.input.clone())].into_iter();
        let inputs = inputs.chain(self.objects.filenames.iter().map(|path| ("-f", path.clone())));
        let inputs = inputs.chain(named("--image", &self.image)).chain(named("--config", &self.node.config));
        let outputs = [named("-o", &self.output), named("--log", &self.log), named("--expect", &self.expect)];
        let mut all: Vec<_> =
            inputs.map(|(what, path)| (what, Place::of(&path, is_dash(&path).then_some(Place::Input)), path)).collect();
        for (what, path) in outputs.into_iter().flatten() {
            let place = Place::of(&path, is_dash(&path).then_some(Place::Output));
            if let Some((other, _, named)) = all.iter().find(|(_, other, _)| place.is_some() && *other == place) {
                let (path, named) = (path.display(), named.display());
                bail!("{other} {named} and {what} {path} are the same file; give {what} another");
            }
            all.push((what, place, path));
        }
        Ok(())
    }

    /// The error with the name of the file it is about.
    fn name(&self, error: replay::Error, failed: Option<&Path>) -> anyhow::Error {
        match error {
            replay::Error::Read { .. } => anyhow::Error::new(error).context(self.input.display().to_string()),
            replay::Error::Write(source) => unwritable(source, failed.unwrap_or(Path::new("a temporary file"))),
            replay::Error::Log(source) => unwritable(source, self.log.as_deref().unwrap_or(Path::new("the log"))),
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

/// What two names can have in common.
#[derive(PartialEq)]
enum Place {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// A file that is there, by device and inode.
    File(u64, u64),
    /// A file to be, by its directory and name.
    New(PathBuf),
}

impl Place {
    /// `None` for what several may use: devices and pipes, and what is nowhere.
    fn of(path: &Path, standard: Option<Self>) -> Option<Self> {
        if standard.is_some() {
            return standard;
        }
        match fs::metadata(path) {
            Ok(found) if found.is_file() => Some(Self::File(found.dev(), found.ino())),
            Ok(_) => None,
            Err(_) => {
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let directory = fs::canonicalize(directory.unwrap_or(Path::new("."))).ok()?;
                Some(Self::New(directory.join(path.file_name()?)))
            }
        }
    }
}

/// An output and its name.
struct Target {
    path: PathBuf,
    output: Output,
}

impl Target {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let output = Output::create(path).map_err(|error| unwritable(error, path))?;
        Ok(Self { path: path.to_path_buf(), output })
    }

    /// Everything is written, under whatever name.
    fn complete(&mut self) -> anyhow::Result<()> {
        self.output.flush().map_err(|error| unwritable(error, &self.path))
    }

    fn publish(self) -> anyhow::Result<()> {
        self.output.publish().map_err(|error| unwritable(error, &self.path))
    }
}

/// Where the replay's output goes: everywhere at once.
struct Produced {
    output: Option<Target>,
    /// To become the golden file.
    blessed: Option<Target>,
    /// To be read again.
    compared: Option<io::BufWriter<File>>,
    /// What could not be written.
    failed: Option<PathBuf>,
}

impl Produced {
    /// What is to be compared, from its beginning.
    fn reread(&mut self) -> io::Result<&File> {
        let Some(compared) = &mut self.compared else { return Err(io::ErrorKind::Unsupported.into()) };
        compared.flush()?;
        compared.rewind()?;
        Ok(compared.get_ref())
    }

    fn each(&mut self, mut act: impl FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        for target in [&mut self.output, &mut self.blessed].into_iter().flatten() {
            if let Err(error) = act(&mut target.output) {
                self.failed = Some(target.path.clone());
                return Err(error);
            }
        }
        self.compared.as_mut().map_or(Ok(()), |compared| act(compared))
    }
}

impl Write for Produced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.each(|out| out.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.each(|out| out.flush())
    }
}

/// Output of an earlier replay.
struct Golden<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Golden<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{}: nothing to compare with; --update makes it", path.display())
            }
            file => file.map_err(|error| unreadable(&error, path))?,
        };
        Ok(Self { path, file })
    }

    fn compare(&self, produced: &File) -> anyhow::Result<Option<String>> {
        let path = self.path.display();
        let difference = golden::compare(&self.file, produced).map_err(|error| {
            anyhow!("{path}: is not the whole output of a replay ({error}); --update makes it anew")
        })?;
        Ok(difference.map(|difference| format!("{path}: differs\n{difference}")))
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).map_err(|error| unreadable(&error, path))?;
    let is_directory = file.metadata().is_ok_and(|found| found.is_dir());
    match is_directory {
        true => Err(unreadable(&io::ErrorKind::IsADirectory.into(), path)),
        false => Ok(file),
    }
}

fn unreadable(error: &io::Error, path: &Path) -> anyhow::Error {
    anyhow!("cannot read {}: {error}", path.display())
}

/// Keeps the cause where it is a closed pipe, which is told apart above.
fn unwritable(error: io::Error, path: &Path) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return error.into();
    }
    let name = if is_dash(path) { "standard output".into() } else { path.display().to_string() };
    anyhow!("cannot write {name}: {error}")
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}
