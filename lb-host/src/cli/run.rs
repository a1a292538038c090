//! `lb run`: the live data plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lb_core::Config;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Outcome;
use super::args::{self, NodeArgs, ObjectArgs, RULE_FLAGS};
use crate::clock;
use crate::device::Name;
use crate::k8s::endpoints::triggered;
use crate::k8s::node::is_eligible;
use crate::run::{self, Files, Objects, Options, Origin, Reading};

/// Forward live traffic: the data plane of a node
///
/// Frames come in from devices and go back to where they came from, to Services' backends and from them. Routing stays the
/// kernel's, or the router's, that sends the traffic here; the README shows how. The objects are watched: a change takes
/// effect at once and as a whole, a bad one is refused and all stays as it was.
///
/// SIGHUP reads the objects again, SIGTERM ends: after --drain, and what is queued is finished. Needs CAP_NET_ADMIN (tap) or CAP_NET_RAW
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
    source: SourceArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Where to answer /metrics, /healthz and /livez, like 127.0.0.1:10249
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Where to add a line of JSON for every flow that begins, and one when it ends (`end`) or `lb run` does (`open`)
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Threads that share the traffic, by client, each with a queue of every device; a TAP interface that is there already needs `multi_queue`
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Flows that may be tracked at a time, of each family, by each worker
    #[arg(long, value_name = "COUNT", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    flows: u32,
    /// Where flows are kept, and taken from at the start: whoever is connected stays so across a restart, even after a kill
    #[arg(long, value_name = "FILE")]
    flow_file: Option<PathBuf>,
    /// Where to say, by ARP and neighbour discovery, that the Services' addresses are here (repeatable); one machine of a link at a time
    #[arg(long, value_name = "INTERFACE")]
    answer_arp: Vec<String>,
    /// How many seconds connections may take to end after a SIGTERM; meanwhile health checks are answered with 503
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain: u32,
    /// How to log to standard error
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// Where objects come from, if not from files.
#[derive(Debug, Args)]
struct SourceArgs {
    /// Objects from the API server that this leads to, in place of -f; needs --node
    #[cfg(feature = "watch")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filenames", "image"], requires = "node")]
    kubeconfig: Option<PathBuf>,
    /// Objects from the API server of the cluster that this runs in; needs --node
    #[cfg(feature = "watch")]
    #[arg(long, conflicts_with_all = ["filenames", "image", "kubeconfig"], requires = "node")]
    in_cluster: bool,
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
        let Self { devices, workers, flows, metrics, log, flow_file, answer_arp, drain, .. } = self;
        run::run(Options {
            devices,
            origin: self.source.origin(self.objects, self.image, self.node)?,
            config: Config::new(key, seed),
            workers,
            flows,
            metrics,
            log,
            flow_file,
            answer_arp,
            drain: Duration::from_secs(drain.into()),
        })?;
        Ok(Outcome::Fine)
    }
}

fn read(objects: &ObjectArgs, node: &NodeArgs) -> anyhow::Result<Reading> {
    let (cluster, node) = node.cluster_and_node(objects)?;
    let own = cluster.manifests.nodes.iter().find(|one| one.name() == &*node.name);
    let eligible = own.is_none_or(|own| is_eligible(&own.object));
    let slices = cluster.manifests.slices.iter();
    let triggers = slices.filter_map(|slice| Some((slice.key().into(), triggered(&slice.object)?))).collect();
    let objects =
        Objects::Cluster { services: cluster.services, slices: cluster.slices, node: Box::new(node), eligible };
    Ok(Reading { objects, refused: 0, triggers })
}

impl SourceArgs {
    fn origin(self, objects: ObjectArgs, image: Option<PathBuf>, node: NodeArgs) -> anyhow::Result<Box<dyn Origin>> {
        #[cfg(feature = "watch")]
        if self.in_cluster || self.kubeconfig.is_some() {
            let settings = node.settings()?;
            let name = node.node.context("which node's: give --node")?;
            return Ok(Box::new(Watch { kubeconfig: self.kubeconfig, name, settings, cluster: None }));
        }
        let mut paths = objects.filenames.clone();
        paths.extend(image.clone());
        paths.extend(node.config.clone());
        let mut spent = false;
        let read = move || {
            anyhow::ensure!(!spent, "standard input was read already: name files with -f to have them read again");
            spent = objects.filenames.iter().chain(&image).any(|path| path.as_os_str() == "-");
            match &image {
                Some(path) => {
                    let objects = Objects::Image(Box::new(args::image(path)?));
                    Ok(Reading { objects, refused: 0, triggers: Vec::new() })
                }
                None => read(&objects, &node),
            }
        };
        Ok(Box::new(Files { paths, read }))
    }
}

/// A cluster's API server.
#[cfg(feature = "watch")]
struct Watch {
    kubeconfig: Option<PathBuf>,
    name: String,
    settings: crate::k8s::Settings,
    cluster: Option<run::api::Cluster>,
}

#[cfg(feature = "watch")]
impl Origin for Watch {
    fn watch(&mut self, notice: run::Notice) -> anyhow::Result<()> {
        let settings = self.settings.clone();
        self.cluster = Some(run::api::Cluster::watch(self.kubeconfig.as_deref(), &self.name, settings, notice)?);
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<Reading> {
        self.cluster.as_ref().map(run::api::Cluster::read).context("the API server is not watched")
    }
}

impl LogFormat {
    fn begin(self) {
        // Libraries' words are for those who write with them: what matters of it is said here.
        let ours = Targets::new().with_target("lb_host", Level::INFO);
        // Standard error may be a file on a full disk: to say so there would panic.
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
        // Only whoever set up logging before us can be in the way, and then has it.
        let _ = match self {
            Self::Text => {
                log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).finish().with(ours).try_init()
            }
            Self::Json => log.json().finish().with(ours).try_init(),
        };
    }
}
