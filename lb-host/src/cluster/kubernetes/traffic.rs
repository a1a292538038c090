//! Requests, from whoever to whatever.

use std::time::Duration;

use lb_core::Family;

use super::Kubernetes;
use crate::cluster::program::{Failure, Fetch, Fetched, Resolver, Target};
use crate::cluster::{MachineId, ProgramId};
use crate::k8s::Problem;

/// A request, or many, under way.
pub type FetchId = ProgramId<Fetch>;

/// Whom somebody named is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {0}")]
pub struct Nobody(pub String);

impl Kubernetes {
    /// The machine of a Pod (`default/web-1`, or `web-1` of namespace default), a node, or somebody outside.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn machine(&self, name: &str) -> Result<MachineId, Nobody> {
        let pod = if name.contains('/') { self.pod(name) } else { self.pod(&format!("default/{name}")) };
        let found = pod.ok().or_else(|| self.node(name)).or_else(|| self.outside.get(name).copied());
        found.ok_or_else(|| Nobody(name.to_owned()))
    }

    /// Prepares requests of `from`, who resolves names as it would: a Pod by cluster DNS, others by what everybody knows.
    /// What comes of it depends on what is asked for then: [`Fetch::times`], [`Fetch::families`], [`Fetch::timeout`].
    ///
    /// # Errors
    /// `from` is not there, or `to` is no target.
    pub fn prepare(&self, from: &str, to: impl AsTarget, families: &[Family]) -> Result<(MachineId, Fetch), Nobody> {
        let machine = self.machine(from)?;
        let mut target = to.target().map_err(Nobody)?;
        let namespace = from.split_once('/').map_or("default", |(namespace, _)| namespace);
        let is_pod = self.pods.values().any(|pod| pod.machine == machine && self.node(&pod.node) != Some(machine));
        let resolver = is_pod.then(|| self.resolver_config(namespace)).flatten();
        if !is_pod && let Some(address) = self.outside_address(&target.host, families) {
            target.host = address.to_string();
        }
        let resolver = resolver.map(|mut config| {
            // A cluster of one family would have one server.
            let preferred = families.first().is_none_or(|family| *family == Family::V4);
            config.servers.retain(|server| server.is_ipv4() == preferred);
            Resolver::new(config, 0)
        });
        Ok((machine, Fetch::new(target, resolver).families(families)))
    }

    /// Begins a request. [`fetched`](Self::fetched) tells what came of it.
    ///
    /// # Errors
    /// `from` is not there, or `to` is no target.
    pub fn fetch(&mut self, from: &str, to: impl AsTarget) -> Result<FetchId, Nobody> {
        let (machine, fetch) = self.prepare(from, to, &[Family::V4, Family::V6])?;
        Ok(self.world.run(machine, fetch))
    }

    /// Begins requests without end, each `interval` after the one before; [`finish`](Self::finish) ends them.
    ///
    /// # Errors
    /// `from` is not there, or `to` is no target.
    pub fn keep_fetching(&mut self, from: &str, to: impl AsTarget, interval: Duration) -> Result<FetchId, Nobody> {
        let (machine, fetch) = self.prepare(from, to, &[Family::V4, Family::V6])?;
        Ok(self.world.run(machine, fetch.times(u64::MAX, interval)))
    }

    /// What came of requests so far; nothing if whoever asked is gone.
    pub fn fetched(&self, id: FetchId) -> &[Fetched] {
        self.world.program(id).map_or(&[], Fetch::results)
    }

    /// Whether all of them have come to their end.
    pub fn is_done(&self, id: FetchId) -> bool {
        self.world.program(id).is_none_or(Fetch::is_done)
    }

    /// Asks no more once the request under way has come to its end.
    pub fn finish(&mut self, id: FetchId) {
        self.world.program_mut(id).into_iter().for_each(Fetch::finish);
    }

    /// Asks once, and lets things happen until it is done.
    ///
    /// # Errors
    /// `from` is not there, or `to` is no target.
    pub fn get(&mut self, from: &str, to: impl AsTarget) -> Result<Fetched, Nobody> {
        let id = self.fetch(from, to)?;
        let started = self.now();
        self.run_for_until(Duration::from_secs(60), |this| this.is_done(id));
        let nothing = || Fetched { started, ended: self.now(), to: None, result: Err(Failure::NoResolver) };
        Ok(self.fetched(id).first().cloned().unwrap_or_else(nothing))
    }
}

/// What a request can be sent to: text like `http://web.shop:8080/`, or an address and a port.
pub trait AsTarget {
    /// The target.
    ///
    /// # Errors
    /// It is none, and why.
    fn target(self) -> Result<Target, String>;
}

impl AsTarget for &str {
    fn target(self) -> Result<Target, String> {
        self.parse()
    }
}

impl AsTarget for crate::host::Socket {
    fn target(self) -> Result<Target, String> {
        Ok(self.into())
    }
}

impl AsTarget for Target {
    fn target(self) -> Result<Target, String> {
        Ok(self)
    }
}

impl Nobody {
    /// As a problem at a place of a file.
    pub fn at(self, place: crate::k8s::Place) -> Problem {
        Problem::new(place, self.to_string(), "name a Pod, a node or a client that is there by then")
    }
}
