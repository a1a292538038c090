//! `lb get`: what the objects come to, in kubectl's own columns.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::args::{self, NodeArgs, ObjectArgs, Output, OutputArgs, RULE_FLAGS};
use super::table::{self, NONE, UNKNOWN, list, short_list};
use super::{Outcome, warn};
use crate::k8s::endpoint_controller;
use crate::k8s::manifest::{Manifests, Object, Placed};
use crate::k8s::service::kind;
use crate::listing::Listing;
use crate::rules;

/// Print what the objects come to: allocated addresses and ports, endpoints by selector and readiness
#[derive(Debug, Args)]
pub(super) struct Get {
    /// What to print
    resource: Kind,
    /// Only those of these names
    names: Vec<String>,
    #[command(flatten)]
    objects: ObjectArgs,
    /// Of `rules`: compiled rules in place of objects
    #[arg(long, value_name = "FILE", conflicts_with = "filenames", conflicts_with_all = RULE_FLAGS)]
    image: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    #[value(aliases = ["service", "svc"])]
    Services,
    #[value(aliases = ["endpoint", "ep"])]
    Endpoints,
    #[value(aliases = ["endpointslice", "eps"])]
    Endpointslices,
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// What a node's packets are judged by
    #[value(alias = "rule")]
    Rules,
}

impl Get {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        match self.resource {
            Kind::Services => self.print(out, &self.objects()?.services),
            Kind::Endpointslices => self.print(out, &self.objects()?.slices),
            Kind::Nodes => self.print(out, &self.objects()?.nodes),
            Kind::Endpoints => self.print(out, &endpoint_controller::endpoints(&self.objects()?)),
            Kind::Rules => self.print_rules(out),
        }
    }

    fn objects(&self) -> anyhow::Result<Manifests> {
        ensure!(self.image.is_none(), "an image has rules only; see `lb get rules --image`");
        ensure!(self.node.node.is_none(), "only rules are a node's own; see `lb get rules --node`");
        Ok(self.objects.cluster(&self.node.ranges)?.manifests)
    }

    fn print_rules(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let rules = match &self.image {
            Some(image) => args::image(image)?,
            None => {
                let (cluster, node) = self.node.cluster_and_node(&self.objects)?;
                args::compiled(&mut rules::control(&cluster.services, &cluster.slices, node))?
            }
        };
        let mut listing = Listing::new(&rules);
        // A node has rules of all namespaces.
        let wanted = |service: &str| {
            let (namespace, rest) = service.split_once('/').unwrap_or(("", service));
            let name = rest.split([':', '/']).next().unwrap_or(rest);
            self.objects.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
                && (self.names.is_empty() || self.names.iter().any(|wanted| wanted == name))
        };
        listing.rules.retain(|row| wanted(&row.service));
        super::rules::print(out, &listing, self.output.output)?;
        Ok(Outcome::Fine)
    }

    fn print<T: Row + Clone>(&self, out: &mut dyn Write, objects: &[Placed<T>]) -> anyhow::Result<Outcome> {
        let namespaced = T::namespaced();
        let mut wanted: Vec<_> =
            objects.iter().filter(|object| !namespaced || self.objects.wants(object.namespace())).collect();
        wanted.sort_by_key(|object| object.key());
        for name in &self.names {
            let found = wanted.iter().any(|object| object.name() == name);
            ensure!(found, "{} {name:?} not found; see `lb get {} -A`", T::URL_PATH_SEGMENT, T::URL_PATH_SEGMENT);
        }
        wanted.retain(|object| self.names.is_empty() || self.names.iter().any(|name| name == object.name()));
        match self.output.output {
            Output::Name => {
                for object in wanted {
                    writeln!(out, "{}/{}", T::NAME, object.name())?;
                }
            }
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&json(&self.names, &wanted)?)?)?,
            Output::Yaml => write!(out, "{}", serde_saphyr::to_string(&json(&self.names, &wanted)?)?)?,
            form @ (Output::Table | Output::Wide) => {
                if wanted.is_empty() {
                    match (namespaced && !self.objects.all_namespaces, &self.objects.namespace) {
                        (true, name) => {
                            let name = name.as_deref().unwrap_or("default");
                            warn(&format!("no {} in namespace {name}; -A looks in all", T::URL_PATH_SEGMENT));
                        }
                        (false, _) => warn(&format!("no {}", T::URL_PATH_SEGMENT)),
                    }
                    return Ok(Outcome::Fine);
                }
                self.table(out, form == Output::Wide, namespaced, &wanted)?;
            }
        }
        Ok(Outcome::Fine)
    }

    fn table<T: Row>(
        &self,
        out: &mut dyn Write,
        wide: bool,
        namespaced: bool,
        objects: &[&Placed<T>],
    ) -> std::io::Result<()> {
        let columns = if wide { T::HEADINGS.len() } else { T::NARROW };
        let mut headings: Vec<_> = T::HEADINGS.iter().take(columns).copied().collect();
        let mut rows: Vec<Vec<String>> = objects.iter().map(|object| object.object.row()).collect();
        rows.iter_mut().for_each(|row| row.truncate(columns - 1));
        for (row, object) in rows.iter_mut().zip(objects) {
            row.insert(0, object.name().to_owned());
            if namespaced && self.objects.all_namespaces {
                row.insert(0, object.namespace().to_owned());
            }
        }
        if namespaced && self.objects.all_namespaces {
            headings.insert(0, "NAMESPACE");
        }
        table::write(out, &headings, &rows)
    }
}

/// A List, or the object itself if exactly one was asked for by name, as kubectl prints them.
fn json<T: Serialize>(names: &[String], objects: &[&Placed<T>]) -> serde_json::Result<serde_json::Value> {
    let items = objects.iter().map(|object| serde_json::to_value(&object.object));
    let mut items = items.collect::<Result<Vec<_>, _>>()?;
    if names.len() == 1 && items.len() == 1 {
        return Ok(items.remove(0));
    }
    Ok(serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

/// A kind of object as a row of a table.
trait Row: Object + Serialize {
    /// What `-o name` calls the kind, lower case, singular.
    const NAME: &'static str;
    /// All columns, those of `-o wide` last.
    const HEADINGS: &'static [&'static str];
    /// How many columns there are without `-o wide`.
    const NARROW: usize;

    /// The columns after the name.
    fn row(&self) -> Vec<String>;
}

impl Row for Service {
    const NAME: &'static str = "service";
    const HEADINGS: &'static [&'static str] =
        &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"];
    const NARROW: usize = 6;

    fn row(&self) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port.filter(|port| *port != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        });
        let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && kind(&spec) != "ExternalName");
        let selector = spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        vec![
            kind(&spec).to_owned(),
            cluster_ip.unwrap_or(NONE).to_owned(),
            external_ips(self),
            list(ports),
            UNKNOWN.to_owned(),
            list(selector),
        ]
    }
}

fn external_ips(service: &Service) -> String {
    let Some(spec) = &service.spec else { return NONE.to_owned() };
    let own = spec.external_ips.iter().flatten().cloned();
    match kind(spec) {
        "ExternalName" => spec.external_name.clone().unwrap_or_else(|| NONE.to_owned()),
        "LoadBalancer" => {
            let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
            let entries = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
            let entries = entries.filter_map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone()));
            let all: Vec<_> = entries.chain(own).collect();
            if all.is_empty() { "<pending>".to_owned() } else { list(all) }
        }
        _ => list(own),
    }
}

impl Row for Endpoints {
    const NAME: &'static str = "endpoints";
    const HEADINGS: &'static [&'static str] = &["NAME", "ENDPOINTS", "AGE"];
    const NARROW: usize = 3;

    fn row(&self) -> Vec<String> {
        let mut all = Vec::new();
        for subset in self.subsets.iter().flatten() {
            let ports = subset.ports.as_deref().unwrap_or_default();
            for address in subset.addresses.iter().flatten() {
                let ip = match address.ip.parse() {
                    Ok(IpAddr::V6(ip)) if !ports.is_empty() => format!("[{ip}]"),
                    _ => address.ip.clone(),
                };
                match ports {
                    [] => all.push(ip),
                    ports => all.extend(ports.iter().map(|port| format!("{ip}:{}", port.port))),
                }
            }
        }
        vec![short_list(&all), UNKNOWN.to_owned()]
    }
}

impl Row for EndpointSlice {
    const NAME: &'static str = "endpointslice";
    const HEADINGS: &'static [&'static str] = &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"];
    const NARROW: usize = 5;

    fn row(&self) -> Vec<String> {
        let ports = self.ports.iter().flatten();
        let ports: Vec<_> = ports.map(|port| port.port.map_or("*".to_owned(), |port| port.to_string())).collect();
        let addresses: Vec<_> =
            self.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { short_list(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { short_list(&addresses) };
        vec![self.address_type.clone(), ports, addresses, UNKNOWN.to_owned()]
    }
}

impl Row for Node {
    const NAME: &'static str = "node";
    const HEADINGS: &'static [&'static str] = &[
        "NAME",
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        "INTERNAL-IP",
        "EXTERNAL-IP",
        "OS-IMAGE",
        "KERNEL-VERSION",
        "CONTAINER-RUNTIME",
    ];
    const NARROW: usize = 5;

    fn row(&self) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let mut state = match ready.map(|condition| condition.status.as_str()) {
            Some("True") => "Ready".to_owned(),
            Some("False") => "NotReady".to_owned(),
            _ => "Unknown".to_owned(),
        };
        if self.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
            state.push_str(",SchedulingDisabled");
        }
        let labels = self.metadata.labels.iter().flatten();
        let roles = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
            found.map_or(NONE.to_owned(), |address| address.address.clone())
        };
        let software = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { UNKNOWN.to_owned() } else { text };
        vec![
            state,
            list(roles),
            UNKNOWN.to_owned(),
            known(software.kubelet_version),
            address("InternalIP"),
            address("ExternalIP"),
            known(software.os_image),
            known(software.kernel_version),
            known(software.container_runtime_version),
        ]
    }
}
