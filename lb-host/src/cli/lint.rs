//! `lb lint`: what an API server would refuse, and what will surprise.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use lb_core::{Family, Prefix};
use serde::Serialize;

use super::Outcome;
use super::args::{self, Form};
use crate::k8s::lint::{Assumed, Finding, Severity, lint};
use crate::k8s::{Problems, manifest, settings};

/// Tell what an API server would refuse (error), and what will surprise (warning)
///
/// Exit code 1 if there is an error. What no manifest tells about the cluster is given by flags.
#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Kubernetes objects: YAML or JSON, as `kubectl get -o yaml` prints them; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    filenames: Vec<PathBuf>,
    /// Address families that the cluster serves [default: those of --service-cluster-ip-range or the ServiceCIDR objects, else both]
    #[arg(long, value_name = "FAMILY", value_delimiter = ',')]
    ip_families: Vec<FamilyName>,
    /// Blocks that ClusterIPs come from, at most one a family [default: those of the ServiceCIDR objects]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = args::prefix)]
    service_cluster_ip_range: Vec<Prefix>,
    /// Ports that NodePorts come from
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = settings::port_range)]
    service_node_port_range: (u16, u16),
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Clone, Copy, Debug)]
struct FamilyName(Family);

impl ValueEnum for FamilyName {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self(Family::V4), Self(Family::V6)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            Family::V4 => PossibleValue::new("IPv4").aliases(["ipv4", "v4", "4"]),
            Family::V6 => PossibleValue::new("IPv6").aliases(["ipv6", "v6", "6"]),
        })
    }
}

/// A finding as JSON has it.
#[derive(Serialize)]
struct Item<'a> {
    severity: Severity,
    object: &'a str,
    field: &'a str,
    message: String,
    file: &'a str,
    line: u64,
    column: u64,
}

impl Lint {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        ensure!(!self.filenames.is_empty(), "no Kubernetes objects; name files, directories or - with -f");
        let (mut documents, mut unreadable) = (Vec::new(), Vec::new());
        for document in manifest::documents(&self.filenames) {
            match document {
                Ok(document) => documents.push(document),
                Err(problem) => unreadable.push(problem),
            }
        }
        if !unreadable.is_empty() {
            return Err(Problems(unreadable).into());
        }
        let assumed = Assumed {
            families: self.ip_families.iter().map(|family| family.0).collect(),
            cluster_ips: self.service_cluster_ip_range,
            node_ports: self.service_node_port_range,
        };
        let findings = lint(documents, &assumed);
        match self.output {
            Form::Json => {
                let items: Vec<_> = findings.iter().map(item).collect();
                writeln!(out, "{}", serde_json::to_string_pretty(&items)?)?;
            }
            Form::Table => findings.iter().try_for_each(|finding| print(out, finding))?,
        }
        let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
        Ok(if refused { Outcome::Different } else { Outcome::Fine })
    }
}

fn item(Finding { severity, problem }: &Finding) -> Item<'_> {
    Item {
        severity: *severity,
        object: &problem.object,
        field: &problem.field,
        message: format!("{}; {}", problem.message, problem.advice),
        file: &problem.place.file,
        line: problem.place.line,
        column: problem.place.column,
    }
}

fn print(out: &mut dyn Write, Finding { severity, problem }: &Finding) -> std::io::Result<()> {
    let word = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    write!(out, "{}: {word}: ", problem.place)?;
    for part in [&problem.object, &problem.field] {
        if !part.is_empty() {
            write!(out, "{part}: ")?;
        }
    }
    writeln!(out, "{}; {}", problem.message, problem.advice)
}
