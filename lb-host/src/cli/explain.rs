//! `lb explain`: which pod would this packet reach, and why?

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use lb_core::{Origin, Tuple};

use super::Outcome;
use super::args::{self, Form, NodeArgs, ObjectArgs, RULE_FLAGS};
use crate::explain::{self, Endpoint, Explanation};
use crate::{dialled, rules, table};

/// Tell the fate of a flow's first packet: the path, the rule, every endpoint and why
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The packet, like 'tcp 10.244.0.2:40000 -> 10.96.0.10:80'; IPv6 addresses like [fd00::1]:80
    #[arg(value_parser = dialled::parse)]
    packet: Tuple,
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Compiled rules in place of objects
    #[arg(long, value_name = "FILE", conflicts_with = "filenames", conflicts_with_all = RULE_FLAGS)]
    image: Option<PathBuf>,
    /// It arrives on an interface that only pods use
    #[arg(long)]
    from_pod_interface: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

impl Explain {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let origin = if self.from_pod_interface { Origin::Pod } else { Origin::Wire };
        let seed = self.node.ranges.seed;
        let explanation = if let Some(file) = &self.image {
            let rules = args::image(file)?;
            explain::explain(&rules, None, &self.packet, origin, seed)
        } else {
            let (cluster, node) = self.node.cluster_and_node(&self.objects)?;
            let mut control = rules::control(&cluster.services, &cluster.slices, node);
            let rules = args::compiled(&mut control)?;
            explain::explain(&rules, Some(&control), &self.packet, origin, seed)
        };
        match self.output {
            Form::Json => {
                serde_json::to_writer_pretty(&mut *out, &explanation)?;
                writeln!(out)?;
            }
            Form::Table => print(out, &explanation)?,
        }
        Ok(Outcome::Fine)
    }
}

fn print(out: &mut dyn Write, explanation: &Explanation) -> std::io::Result<()> {
    let row = |out: &mut dyn Write, name: &str, value: &str| writeln!(out, "{name:<12} {value}");
    writeln!(out, "{}", explanation.packet)?;
    if let (Some(node), Some(mode)) = (&explanation.node, explanation.mode) {
        row(out, "node", &format!("{node}, mode {mode}"))?;
    }
    row(out, "verdict", explanation.verdict)?;
    if let Some(path) = &explanation.path {
        row(out, "path", &path.to_string())?;
    }
    if let Some(service) = &explanation.service {
        row(out, "service", service)?;
    }
    row(out, "source", explanation.source)?;
    row(out, "because", &explanation.because)?;
    if let Some(masquerade) = &explanation.masquerade {
        let word = if masquerade.masquerade { "yes" } else { "no" };
        row(out, "masquerade", &format!("{word}: {}", masquerade.because))?;
    }
    if let Some(wire) = &explanation.wire {
        row(out, "there", &format!("{} => {}", wire.original.0, wire.original.1))?;
        row(out, "back", &format!("{} => {}", wire.reply.0, wire.reply.1))?;
    }
    if explanation.endpoints.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let row = |endpoint: &Endpoint| {
        let node = endpoint.node.clone().unwrap_or_else(|| table::UNKNOWN.to_owned());
        vec![endpoint.address.clone(), node, endpoint.outcome.to_string(), endpoint.because.to_owned()]
    };
    let rows: Vec<_> = explanation.endpoints.iter().map(row).collect();
    table::write(out, &["ENDPOINT", "NODE", "OUTCOME", "BECAUSE"], &rows)
}
