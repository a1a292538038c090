//! `lb run`: the live data plane.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lb_core::Config;
use tracing::Level;

use super::Outcome;
use super::args::{self, NodeArgs, ObjectArgs, RULE_FLAGS};
use crate::clock;
use crate::device::Name;
use crate::k8s::node::is_eligible;
use crate::run::{self, Objects, Options};

/// Forward live traffic: the data plane of a node
///
/// Frames come in from devices and go back to where they came from, to Services' backends and from them. Routing stays the
/// kernel's, or the router's, that sends the traffic here; the README shows how. The objects are watched: a change takes
/// effect at once and as a whole, a bad one is refused and all stays as it was.
///
/// SIGHUP reads the objects again, SIGTERM finishes what is queued and ends. Needs CAP_NET_ADMIN (tap) or CAP_NET_RAW
/// (af_packet).
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Where frames come from and go back to: tap:NAME, af_packet:INTERFACE or pcap:IN,OUT
    #[arg(long = "device", value_name = "DEVICE", required = true)]
    devices: Vec<Name>,
    #[command(flatten)]
    objects: ObjectArgs,
    /// Compiled rules, in place of objects and a node
    #[arg(long, value_name = "FILE", conflicts_with = "filenames", conflicts_with_all = RULE_FLAGS)]
    image: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    /// Where to answer /metrics, /healthz and /livez, like 127.0.0.1:10249
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Where to add a line of JSON for every flow that begins, and one when it ends (`end`) or `lb run` does (`open`)
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Flows that may be tracked at a time, of each family
    #[arg(long, value_name = "COUNT", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    flows: u32,
    /// Where flows are kept, and taken from at the start: whoever is connected stays so across a restart, even after a kill
    #[arg(long, value_name = "FILE")]
    flow_file: Option<PathBuf>,
    /// How to log to standard error
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs: an object a line
    Json,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        self.log_format.begin();
        let seed = u64::from_ne_bytes(clock::random().context("a seed")?);
        let key = match self.node.key {
            Some(key) => key,
            None => clock::random().context("a key")?,
        };
        let mut watched: Vec<PathBuf> = self.objects.filenames.clone();
        watched.extend(self.image.clone());
        watched.extend(self.node.config.clone());
        let (objects, node, image) = (self.objects, self.node, self.image);
        let read = move || match &image {
            Some(path) => Ok(Objects::Image(args::image(path)?)),
            None => read(&objects, &node),
        };
        run::run(Options {
            devices: self.devices,
            read: Box::new(read),
            watched,
            config: Config::new(key, seed),
            flows: self.flows,
            metrics: self.metrics,
            log: self.log,
            flow_file: self.flow_file,
        })?;
        Ok(Outcome::Fine)
    }
}

fn read(objects: &ObjectArgs, node: &NodeArgs) -> anyhow::Result<Objects> {
    let (cluster, node) = node.cluster_and_node(objects)?;
    let own = cluster.manifests.nodes.iter().find(|one| one.name() == &*node.name);
    let eligible = own.is_none_or(|own| is_eligible(&own.object));
    Ok(Objects::Cluster { services: cluster.services, slices: cluster.slices, node, eligible })
}

impl LogFormat {
    fn begin(self) {
        let log = tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(std::io::stderr).with_target(false);
        // Only whoever set up logging before us can be in the way, and then has it.
        let _ = match self {
            Self::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
            Self::Json => log.json().try_init(),
        };
    }
}
