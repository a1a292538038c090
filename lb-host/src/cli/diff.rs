//! `lb diff`: what a change of objects, or of the mode, does to a node.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lb_core::control::{Mode, Node};
use lb_core::{Address, RuleTable};

use super::Outcome;
use super::args::{self, Form, NodeArgs, ObjectArgs};
use crate::diff::{self, Change, Differences, Disruption, FateChange, Share, Side, Sources, TraceFlow};
use crate::k8s::{Cluster, address, node, settings};
use crate::rules;
use crate::table;

/// Tell what changes for clients between two sets of objects or images, or between two modes
///
/// Exit code 0 if nothing does, 1 if something does, 2 if it cannot be told.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The two sides: files or directories of objects, or rule images
    #[arg(value_names = ["A", "B"], num_args = 2, required_unless_present = "modes", conflicts_with_all = ["filenames", "modes"])]
    sides: Vec<PathBuf>,
    /// Kubernetes objects: YAML or JSON, as `kubectl get -o yaml` prints them; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", requires = "modes")]
    filenames: Vec<PathBuf>,
    /// The two modes to compare for the same objects
    #[arg(
        long,
        value_name = "A,B",
        value_delimiter = ',',
        requires = "filenames",
        conflicts_with = "mode",
        value_parser = PossibleValuesParser::new(Mode::ALL.iter().map(|mode| mode.name)).try_map(|name| settings::mode(&name).ok_or("unknown"))
    )]
    modes: Vec<Mode>,
    /// A capture whose flows are judged by both sides
    #[arg(long, value_name = "IN")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// A side, and where its rules come from.
struct Compiled {
    name: String,
    rules: RuleTable<Vec<u8>>,
    node: Option<Node>,
    sources: Sources,
}

impl Compiled {
    fn side(&self) -> Side<'_> {
        Side { rules: &self.rules, node: self.node.as_ref() }
    }
}

impl Diff {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let [before, after] = self.sides()?;
        let mut sources = before.sources.clone();
        sources.pods.extend(&after.sources.pods);
        sources.nodes.extend(&after.sources.nodes);
        let mut differences = Differences::new(&before.side(), &after.side(), &sources);
        if let Some(path) = &self.trace {
            let input: Box<dyn Read> = match path.to_str() {
                Some("-") => Box::new(std::io::stdin()),
                _ => Box::new(File::open(path).with_context(|| path.display().to_string())?),
            };
            let trace = diff::trace(input, &before.side(), &after.side(), self.node.ranges.seed);
            differences.trace = Some(trace.with_context(|| path.display().to_string())?);
        }
        match self.output {
            Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&differences)?)?,
            Form::Table => print(out, &differences, [&before.name, &after.name])?,
        }
        Ok(if differences.is_empty() { Outcome::Fine } else { Outcome::Different })
    }

    fn sides(&self) -> anyhow::Result<[Compiled; 2]> {
        match (self.sides.as_slice(), self.modes.as_slice()) {
            ([before, after], []) => {
                if [before, after].iter().all(|path| path.as_os_str() == "-") {
                    bail!("standard input can't be both sides");
                }
                Ok([self.read(before)?, self.read(after)?])
            }
            ([], [before, after]) => {
                let objects = objects(self.filenames.clone());
                let cluster = objects.cluster(&self.node.ranges)?;
                Ok([self.in_mode(&cluster, *before)?, self.in_mode(&cluster, *after)?])
            }
            (_, modes) => bail!("{} modes; name two to compare, like --modes ipvs,nftables", modes.len()),
        }
    }

    /// A side from a file or directory: a rule image if it begins as one.
    fn read(&self, path: &Path) -> anyhow::Result<Compiled> {
        let name = path.display().to_string();
        if is_image(path) {
            let rules = args::image(path)?;
            return Ok(Compiled { name, rules, node: None, sources: Sources::default() });
        }
        let (cluster, node) = self.node.cluster_and_node(&objects(vec![path.to_owned()]))?;
        compile(name, &cluster, node)
    }

    fn in_mode(&self, cluster: &Cluster, mode: Mode) -> anyhow::Result<Compiled> {
        let flags = NodeArgs { mode: Some(mode), ..self.node.clone() };
        let mut settings = flags.settings()?;
        settings.service_cidrs = flags.ranges.ranges(&cluster.manifests).cluster_ips;
        let node = cluster.node(flags.node.as_deref(), &settings)?;
        compile(mode.name.to_owned(), cluster, node)
    }
}

fn objects(filenames: Vec<PathBuf>) -> ObjectArgs {
    ObjectArgs { filenames, namespace: None, all_namespaces: true }
}

fn is_image(path: &Path) -> bool {
    let mut magic = [0; 8];
    path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"lb-rules"
}

fn compile(name: String, cluster: &Cluster, node: Node) -> anyhow::Result<Compiled> {
    let sources = sources(cluster);
    let rules = args::compiled(&mut rules::control(&cluster.services, &cluster.slices, node.clone()))?;
    ensure!(rules.node().is_some(), "no rules for the node");
    Ok(Compiled { name, rules, node: Some(node), sources })
}

/// Whose packets are asked about.
fn sources(cluster: &Cluster) -> Sources {
    let nodes = cluster.manifests.nodes.iter().flat_map(|node| node::addresses(&node.object)).collect();
    let statuses = cluster.manifests.pods.iter().filter_map(|pod| pod.object.status.as_ref());
    let ips = statuses.flat_map(|status| {
        status
            .pod_ip
            .iter()
            .chain(status.pod_ips.iter().flatten().map(|ip| &ip.ip))
            .filter_map(|ip| address::lenient_address(ip))
    });
    let endpoints = cluster.slices.iter().flat_map(|slice| slice.endpoints.iter().map(|endpoint| endpoint.address));
    let mut pods: Vec<Address> = ips.chain(endpoints).collect();
    pods.sort_unstable();
    Sources { pods, nodes }
}

fn print(out: &mut dyn Write, differences: &Differences, [before, after]: [&str; 2]) -> std::io::Result<()> {
    let Differences { node, vips, fates, established, maglev, trace } = differences;
    for change in node {
        writeln!(out, "~ node  {change}")?;
    }
    for vip in vips {
        let sign = match vip.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        let class = vip.class.unwrap_or(table::NONE);
        let address = vip.address.as_deref().unwrap_or(table::NONE);
        writeln!(out, "{sign} {class} {address}  {}", vip.service)?;
        for detail in &vip.details {
            writeln!(out, "    {detail}")?;
        }
    }
    let headings = ["SOURCES", "WHAT-THEY-DO", before, after, "BECAUSE"];
    section(out, "New flows that meet another fate:", &headings, &by_destination(fates))?;
    let rows = established.iter().map(|flow| {
        vec![
            flow.protocol.to_owned(),
            flow.event.to_owned(),
            flow.before.clone(),
            flow.after.clone(),
            flow.reason.clone(),
        ]
    });
    let headings = ["PROTOCOL", "WHEN", before, after, "BECAUSE"];
    section(out, "Established flows that meet another fate:", &headings, &rows.collect::<Vec<_>>())?;
    let headings = ["SERVICE-PORT", "POOL", "SLOTS", "FORCED", "COLLATERAL", "TO-NEW-ENDPOINTS"];
    section(out, "Maglev tables that moved:", &headings, &maglev.iter().map(slots).collect::<Vec<_>>())?;
    let Some(trace) = trace else { return Ok(()) };
    let title = format!("{} of {} flows of the capture meet another fate:", trace.differing.len(), trace.flows);
    let headings = ["FRAME", "PACKET", before, after, "BECAUSE"];
    section(out, &title, &headings, &trace.differing.iter().map(traced).collect::<Vec<_>>())
}

/// A table under a title, if it has rows.
fn section(out: &mut dyn Write, title: &str, headings: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    table::write(out, headings, rows)
}

/// A row for what several sources have in common.
fn by_destination(fates: &[FateChange]) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for fate in fates {
        let dials = format!("{} {}", fate.does, fate.destination);
        let rest = [dials, fate.before.to_string(), fate.after.to_string(), fate.reason.clone()];
        match rows.iter_mut().find(|row| row[1..] == rest) {
            Some(row) => row[0].push_str(&format!(", {}", fate.source)),
            None => rows.push([vec![fate.source.to_owned()], rest.to_vec()].concat()),
        }
    }
    rows
}

fn slots(moved: &Disruption) -> Vec<String> {
    let share = |share: Share| match share.slots {
        Some(slots) => format!("{slots} ({:.2} %)", share.percent),
        None => format!("{:.2} %", share.percent),
    };
    let sizes = match moved.slots {
        (old, new) if old == new => old.to_string(),
        (old, new) => format!("{old} -> {new}"),
    };
    vec![
        moved.service.clone(),
        moved.pool.to_owned(),
        sizes,
        share(moved.forced),
        share(moved.collateral),
        share(moved.collateral_to_new),
    ]
}

fn traced(flow: &TraceFlow) -> Vec<String> {
    let frame = flow.frame.to_string();
    if let Some(fate) = &flow.fate {
        return vec![frame, fate.packet.clone(), fate.before.to_string(), fate.after.to_string(), fate.reason.clone()];
    }
    let Some(moved) = &flow.moved else { return vec![frame] };
    let because = if moved.forced { "forced: its endpoint is gone" } else { "collateral: its endpoint still serves" };
    vec![frame, moved.packet.clone(), moved.before.clone(), moved.after.clone(), because.to_owned()]
}
