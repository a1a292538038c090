//! Flags that several subcommands take: which objects, which node, which output.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use lb_core::control::{Control, Mode, Node};
use lb_core::pick::Scheduler;
use lb_core::{Prefix, RuleTable};

use super::warn;
use crate::k8s::settings::{self, NodePortEntry};
use crate::k8s::{Cluster, Manifests, Problems, Ranges, Settings, Taken, address, config};

/// Which Kubernetes objects.
#[derive(Clone, Debug, Args)]
pub struct ObjectArgs {
    /// Kubernetes objects: YAML or JSON, as `kubectl get -o yaml` prints them; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub filenames: Vec<PathBuf>,
    /// Only objects of this namespace [default: default]
    #[arg(short, long, conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl ObjectArgs {
    /// The objects, read and completed as an API server would; warnings are printed.
    ///
    /// # Errors
    /// None are named, or something is wrong with them.
    pub fn cluster(&self, ranges: &RangeArgs) -> anyhow::Result<Cluster> {
        anyhow::ensure!(!self.filenames.is_empty(), "no Kubernetes objects; name files, directories or - with -f");
        let manifests = Manifests::read(&self.filenames)?;
        let ranges = ranges.ranges(&manifests);
        let cluster = Cluster::new(manifests, &Taken::Applied(ranges))?;
        cluster.warnings.iter().for_each(|warning| warn(warning));
        Ok(cluster)
    }

    /// Whether objects of this namespace are asked for.
    pub fn wants(&self, namespace: &str) -> bool {
        self.all_namespaces || self.namespace.as_deref().unwrap_or("default") == namespace
    }
}

/// From where a cluster takes addresses and ports.
#[derive(Clone, Debug, Args)]
pub struct RangeArgs {
    /// Blocks that ClusterIPs come from, at most one a family [default: those of the ServiceCIDR objects, else 10.96.0.0/12]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = prefix)]
    pub service_cluster_ip_range: Vec<Prefix>,
    /// Ports that NodePorts come from
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = settings::port_range)]
    pub service_node_port_range: (u16, u16),
    /// Decides every draw: the same seed, the same result
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl RangeArgs {
    /// The flags, or what the objects say where a flag is absent.
    pub fn ranges(&self, manifests: &Manifests) -> Ranges {
        let listed = [self.service_cluster_ip_range.clone(), manifests.service_cidrs()];
        let given = listed.into_iter().find(|blocks| !blocks.is_empty());
        Ranges {
            cluster_ips: given.unwrap_or_else(|| Settings::default().service_cidrs),
            node_ports: self.service_node_port_range,
            seed: self.seed,
        }
    }
}

/// Which node, and how it proxies.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// The node whose data plane is asked for [default: the only Node there is]
    #[arg(long)]
    pub node: Option<String>,
    /// kube-proxy's mode [default: iptables]
    #[arg(long, value_parser = PossibleValuesParser::new(Mode::ALL.iter().map(|mode| mode.name)).try_map(|name| settings::mode(&name).ok_or("unknown")))]
    pub mode: Option<Mode>,
    /// How an endpoint is chosen [default: the mode's own]
    #[arg(long, value_parser = PossibleValuesParser::new(scheduler_names()).try_map(|name| scheduler(&name)))]
    pub scheduler: Option<Scheduler>,
    /// Blocks of Pod addresses: a source inside is a Pod; at most one a family
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = prefix)]
    pub cluster_cidr: Vec<Prefix>,
    /// Where NodePorts are open: blocks, `primary`, `localhost` or `all` [default: the mode's own]
    #[arg(long, value_name = "CIDR|WORD", value_delimiter = ',')]
    pub nodeport_addresses: Vec<NodePortEntry>,
    /// Masquerade all traffic to ClusterIPs
    #[arg(long)]
    pub masquerade_all: bool,
    /// A KubeProxyConfiguration; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Refuse unknown fields of the configuration
    #[arg(long)]
    pub strict: bool,
    /// The cluster's key for Maglev tables, 32 hexadecimal digits [default: all zero]
    #[arg(long, value_name = "HEX", value_parser = key)]
    pub key: Option<Key>,
    /// Where ClusterIPs and NodePorts come from
    #[command(flatten)]
    pub ranges: RangeArgs,
}

/// The flags that shape rules: nothing is left for them to do where the rules are compiled already.
pub const RULE_FLAGS: [&str; 10] = [
    "node",
    "mode",
    "scheduler",
    "cluster_cidr",
    "nodeport_addresses",
    "masquerade_all",
    "config",
    "strict",
    "service_cluster_ip_range",
    "service_node_port_range",
];

/// A key as it is given on the command line.
pub type Key = [u8; 16];

impl NodeArgs {
    /// The cluster of `objects`, and the node asked for; warnings are printed.
    ///
    /// # Errors
    /// Something is wrong with the objects or the configuration, or there is no telling which node.
    pub fn cluster_and_node(&self, objects: &ObjectArgs) -> anyhow::Result<(Cluster, Node)> {
        let cluster = objects.cluster(&self.ranges)?;
        let mut settings = self.settings()?;
        settings.service_cidrs = self.ranges.ranges(&cluster.manifests).cluster_ips;
        let node = cluster.node(self.node.as_deref(), &settings)?;
        Ok((cluster, node))
    }

    /// What the flags say, over what the configuration says; warnings are printed.
    ///
    /// # Errors
    /// The configuration cannot be read, or has a value or, if strict, a field that is not known.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = match &self.config {
            None => Settings::default(),
            Some(file) => {
                let config = config::read(file)?;
                if self.strict && !config.unknown.is_empty() {
                    return Err(Problems(config.unknown)).context("--strict");
                }
                config.unknown.iter().for_each(|unknown| warn(&unknown.to_string()));
                config.settings
            }
        };
        if let Some(mode) = self.mode {
            settings.mode = mode;
        }
        settings.scheduler = self.scheduler.or(settings.scheduler);
        if !self.cluster_cidr.is_empty() {
            settings.cluster_cidrs.clone_from(&self.cluster_cidr);
        }
        if !self.nodeport_addresses.is_empty() {
            settings.node_port_addresses.clone_from(&self.nodeport_addresses);
        }
        settings.masquerade_all |= self.masquerade_all;
        settings.node_port_range = self.ranges.service_node_port_range;
        if !self.ranges.service_cluster_ip_range.is_empty() {
            settings.service_cidrs.clone_from(&self.ranges.service_cluster_ip_range);
        }
        settings.key = self.key.unwrap_or(settings.key);
        Ok(settings)
    }
}

/// Rules compiled from a node's objects; service ports that there can be none for are told as warnings.
///
/// # Errors
/// The node itself exceeds what rules can hold.
pub fn compiled(control: &mut Control) -> anyhow::Result<RuleTable<Vec<u8>>> {
    let image = control.image()?;
    control.problems().for_each(|(service, problem)| warn(&format!("Service {service}: {problem}")));
    Ok(RuleTable::load(image)?)
}

/// Compiled rules from a file, `-` for standard input.
///
/// # Errors
/// It cannot be read, or is no rule image.
pub fn image(path: &Path) -> anyhow::Result<RuleTable<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(path).map(|read| bytes = read),
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    RuleTable::load(bytes).with_context(|| path.display().to_string())
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How results that are no Kubernetes objects are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// The forms that kubectl prints in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name, one a line
    Name,
}

fn scheduler_names() -> impl Iterator<Item = PossibleValue> {
    let hidden = settings::CACHE_SCHEDULERS.map(|name| PossibleValue::new(name).hide(true));
    settings::SCHEDULERS.iter().map(|(name, _)| PossibleValue::new(*name)).chain(hidden)
}

fn scheduler(name: &str) -> Result<Scheduler, String> {
    settings::scheduler(name).map_err(|(why, advice)| format!("{why}; {advice}"))
}

pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    address::lenient_prefix(text).ok_or_else(|| "not a block of addresses like 10.244.0.0/16".to_owned())
}

fn key(text: &str) -> Result<Key, String> {
    let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
    number.map(u128::to_be_bytes).ok_or_else(|| "not 32 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use lb_core::control::{Detector, NodePortAddresses};

    use super::*;

    #[derive(Debug, Parser)]
    struct All {
        #[command(flatten)]
        objects: ObjectArgs,
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        output: OutputArgs,
    }

    #[test]
    fn the_flag_groups_fit_together() {
        All::command().debug_assert();
    }

    #[test]
    fn flags_say_how_a_node_proxies() {
        for (flags, expected) in [
            ("", "iptables Random None All false 30000-32767"),
            ("--mode nftables", "nftables Random None Primary false 30000-32767"),
            ("--scheduler rr", "iptables RoundRobin None All false 30000-32767"),
            (
                "--cluster-cidr 10.244.0.0/16,fd00::/48",
                "iptables Random Sources([10.244.0.0/16, fd00::/48]) All false 30000-32767",
            ),
            (
                "--mode nftables --nodeport-addresses 192.0.2.0/24,2001:db8::/32",
                "nftables Random None Inside([192.0.2.0/24, 2001:db8::/32]) false 30000-32767",
            ),
            ("--masquerade-all", "iptables Random None All true 30000-32767"),
            ("--service-node-port-range 1000+99", "iptables Random None All false 1000-1099"),
        ] {
            let all = All::try_parse_from(["lb"].into_iter().chain(flags.split_whitespace())).expect(flags);
            let proxy = all.node.settings().expect(flags).proxy(&[], &[]);
            let (first, last) = proxy.reserved_ports;
            let told = format!(
                "{} {:?} {:?} {:?} {} {first}-{last}",
                proxy.mode.name, proxy.scheduler, proxy.detector, proxy.node_port_addresses, proxy.masquerade_all
            );
            assert_eq!(told, expected, "{flags}");
        }
    }

    #[test]
    fn flags_win_over_the_configuration() {
        let directory = std::env::temp_dir().join(format!("lb-args-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("config.yaml");
        let text = "kind: KubeProxyConfiguration\nmode: nftables\nclusterCIDR: 10.0.0.0/8\nextra: 1\n";
        std::fs::write(&file, text).expect("a file");
        let settings = |flags: &[&str]| {
            let config = ["lb", "--config", file.to_str().expect("a path")];
            All::try_parse_from(config.iter().chain(flags)).expect("flags").node.settings()
        };
        let proxy = settings(&[]).expect("fine").proxy(&[], &[]);
        assert_eq!((proxy.mode, proxy.node_port_addresses), (Mode::NFTABLES, NodePortAddresses::Primary));
        let proxy = settings(&["--mode", "iptables", "--cluster-cidr", "10.244.0.0/16"]).expect("fine").proxy(&[], &[]);
        let sources = Detector::Sources(vec![prefix("10.244.0.0/16").expect("a block")]);
        assert_eq!((proxy.mode, proxy.detector), (Mode::IPTABLES, sources));
        let refused = settings(&["--strict"]).expect_err("an unknown field");
        let Problems(problems) = refused.downcast_ref().expect("problems");
        assert!(
            problems[0]
                .to_string()
                .ends_with("config.yaml:4:8: extra is an unknown field; it is not read: correct or remove it")
        );
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
