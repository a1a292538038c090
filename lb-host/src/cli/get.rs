//! `lb get`: what the objects come to, in kubectl's own columns.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{self, NodeArgs, ObjectArgs, Output, OutputArgs, RULE_FLAGS};
use super::{Outcome, warn};
use crate::k8s::endpoint_controller;
use crate::k8s::manifest::{Manifests, Placed};
use crate::listing::Listing;
use crate::rules;
use crate::table::{self, Row};

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
                let namespaces = namespaced && self.objects.all_namespaces;
                table::write_objects(out, form == Output::Wide, namespaces, &wanted, |_| table::UNKNOWN.to_owned())?;
            }
        }
        Ok(Outcome::Fine)
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
