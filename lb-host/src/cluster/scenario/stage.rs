//! A scenario on stage: the box that it is played in, and what its steps do there.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::control::Mode;
use lb_core::{Address, Family, Instant, Protocol};

use super::Scenario;
use super::written::{Balance, Link as WrittenLink, Lookups, Named, Requests, Step, To, Transfer};
use crate::cluster::kubernetes::{FetchId, Kubernetes, Nobody, Plan, Trouble};
use crate::cluster::program::{BulkClient, DnsClient, Resolver};
use crate::cluster::{Link, MachineId, ProgramId};
use crate::dns::RecordType;
use crate::host::{Socket, Strangeness};
use crate::k8s::address::lenient_address;
use crate::k8s::service::cluster_ips;
use crate::k8s::{Document, Place, Problem, Problems};

/// Traffic that a step began.
#[derive(Clone, Copy)]
pub(super) enum Traffic {
    Requests(FetchId),
    Lookups(ProgramId<DnsClient>),
    Transfer(ProgramId<BulkClient>),
}

pub(super) struct Stage<'s> {
    document: &'s Document,
    pub(super) mode: Mode,
    pub(super) family: Family,
    pub(super) kubernetes: Kubernetes,
    /// By name, with the machine that it comes from.
    pub(super) traffic: BTreeMap<String, (MachineId, Traffic)>,
    pub(super) wrong: Vec<Problem>,
}

fn link(usual: Link, written: Option<WrittenLink>) -> Link {
    let written = written.unwrap_or_default();
    let share = |percent: f64| (percent * 10_000.0) as u32;
    Link {
        latency: written.latency.map_or(usual.latency, |span| span.0),
        jitter: written.jitter.map_or(usual.jitter, |span| span.0),
        loss: written.loss.map_or(usual.loss, share),
        duplication: written.duplication.map_or(usual.duplication, share),
        mtu: written.mtu.unwrap_or(usual.mtu),
    }
}

/// Trouble at a place of the scenario, unless it has one of its own.
fn at(place: Place, trouble: Trouble) -> Problems {
    match trouble {
        Trouble::Problems(problems) => problems,
        other => Problem::new(place, other.to_string(), "correct the step, or what is before it").into(),
    }
}

impl<'s> Stage<'s> {
    pub(super) fn set(scenario: &'s Scenario, mode: Mode, family: Family, seed: u64) -> Result<Self, Problems> {
        let (spec, document) = (&scenario.written, &scenario.document);
        let mut plan = Plan::of(seed, mode);
        plan.physics.pod = link(plan.physics.pod, spec.links.pod);
        plan.physics.node = link(plan.physics.node, spec.links.node);
        plan.physics.gateway = link(plan.physics.gateway, spec.links.gateway);
        plan.physics.client = link(plan.physics.client, spec.links.client);
        let nowhere = |trouble: Trouble| at(document.place("spec"), trouble);
        let mut kubernetes = Kubernetes::new(plan).map_err(|error| nowhere(error.into()))?;
        kubernetes.add_nodes(spec.nodes).map_err(nowhere)?;
        if spec.dns {
            kubernetes.add_dns().map_err(nowhere)?;
        }
        for name in &spec.clients {
            kubernetes.add_client(name);
        }
        for (name, port) in &spec.sites {
            let place = || document.place(&format!("spec.sites.{name}"));
            kubernetes.add_site(name, *port).map_err(|why| Problem::new(place(), why, "give a DNS name"))?;
        }
        kubernetes.apply_documents(document.items("spec.objects")).map_err(nowhere)?;
        Ok(Self { document, mode, family, kubernetes, traffic: BTreeMap::new(), wrong: Vec::new() })
    }

    pub(super) fn place(&self, field: &str) -> Place {
        self.document.place(field)
    }

    pub(super) fn step(&mut self, index: usize, step: &Step) -> Result<(), Problems> {
        let now = Instant::ORIGIN.saturating_add(step.at.0);
        self.kubernetes.run_until_holds(now, |_| false);
        let field = format!("spec.timeline[{index}]");
        self.perform(&field, step).map_err(|trouble| at(self.document.place(&field), trouble))?;
        for (number, expectation) in step.expect.iter().flatten().enumerate() {
            self.judge(&format!("{field}.expect[{number}]"), expectation);
        }
        Ok(())
    }

    fn perform(&mut self, field: &str, step: &Step) -> Result<(), Trouble> {
        let it = &mut self.kubernetes;
        if step.apply.is_some() {
            it.apply_documents(self.document.items(&format!("{field}.apply")))?;
        }
        if let Some(named) = &step.delete {
            delete(it, named)?;
        }
        step.ready.iter().try_for_each(|pod| it.set_ready(pod, true))?;
        step.unready.iter().try_for_each(|pod| it.set_ready(pod, false))?;
        step.crash.iter().try_for_each(|pod| it.crash(pod))?;
        step.roll.iter().try_for_each(|deployment| it.roll(deployment))?;
        step.scale.iter().try_for_each(|scale| it.scale(&scale.deployment, scale.replicas))?;
        step.power_off.iter().try_for_each(|node| it.power_off(node))?;
        step.power_on.iter().try_for_each(|node| it.power_on(node))?;
        step.cut.iter().try_for_each(|node| it.cut(node))?;
        step.mend.iter().try_for_each(|node| it.mend(node))?;
        step.balance.iter().try_for_each(|balance| self.balance(balance))?;
        step.requests.iter().try_for_each(|requests| self.request(requests))?;
        step.lookups.iter().try_for_each(|lookups| self.look_up(lookups))?;
        step.transfer.iter().try_for_each(|transfer| self.transfer(transfer))?;
        step.stop.iter().try_for_each(|name| self.stop(name))?;
        Ok(())
    }

    fn balance(&mut self, balance: &Balance) -> Result<(), Nobody> {
        let addresses = balance.addresses.iter().filter_map(|address| lenient_address(address));
        let address = addresses.into_iter().find(|address| address.family() == self.family);
        let address = address.ok_or_else(|| Nobody(format!("address for {} of {:?}", balance.name, self.family)))?;
        self.kubernetes.balance_by_hand(&balance.name, (address, balance.port), Protocol::TCP, balance.node_port)
    }

    /// The address that is dialled; `None` for a URL.
    fn dialled(&self, to: &To) -> Result<Option<Socket>, Nobody> {
        let of = |own: Vec<Address>| own.into_iter().find(|address| address.family() == self.family);
        let address = if let Some(node) = &to.node {
            self.kubernetes.node_address(node, self.family).ok_or_else(|| node.clone())
        } else if let Some(name) = &to.load_balancer {
            self.kubernetes.load_balancer_address(name, self.family).ok_or_else(|| format!("load balancer {name}"))
        } else if let Some(name) = &to.service {
            let service = self.kubernetes.api().get::<Service>(name);
            let own = service.and_then(|service| service.object.spec.as_ref()).map(cluster_ips);
            own.and_then(of).ok_or_else(|| format!("Service {name}"))
        } else {
            return Ok(None);
        };
        let port = to.port.ok_or_else(|| Nobody("port to ask at".to_owned()))?;
        Ok(Some((address.map_err(Nobody)?, port)))
    }

    fn request(&mut self, requests: &Requests) -> Result<(), Nobody> {
        let families = [self.family];
        let (machine, fetch) = match self.dialled(&requests.to)? {
            Some(socket) => self.kubernetes.prepare(&requests.from, socket, &families)?,
            None => {
                let url = requests.to.url.as_deref().unwrap_or_default();
                self.kubernetes.prepare(&requests.from, url, &families)?
            }
        };
        let every = requests.every.map_or(Duration::ZERO, |span| span.0);
        let times = requests.times.unwrap_or(if requests.every.is_some() { u64::MAX } else { 1 });
        let mut fetch = fetch.times(times, every);
        if let Some(timeout) = requests.timeout {
            fetch = fetch.timeout(timeout.0);
        }
        if requests.keep_alive {
            fetch = fetch.keep_alive();
        }
        let id = self.kubernetes.world_mut().run(machine, fetch);
        self.traffic.insert(requests.name.clone(), (machine, Traffic::Requests(id)));
        Ok(())
    }

    fn look_up(&mut self, lookups: &Lookups) -> Result<(), Nobody> {
        let machine = self.kubernetes.machine(&lookups.from)?;
        let config = self.kubernetes.resolver_config("default").ok_or_else(|| Nobody("cluster DNS".to_owned()))?;
        let mut config = config;
        config.servers.retain(|server| server.is_ipv4() == (self.family == Family::V4));
        let types = [if self.family == Family::V4 { RecordType::A } else { RecordType::AAAA }];
        let resolver = Resolver::new(config, lookups.port);
        let client = DnsClient::new(resolver, &lookups.host, &types, u64::MAX, lookups.every.0);
        let id = self.kubernetes.world_mut().run(machine, client);
        self.traffic.insert(lookups.name.clone(), (machine, Traffic::Lookups(id)));
        Ok(())
    }

    fn transfer(&mut self, transfer: &Transfer) -> Result<(), Nobody> {
        let machine = self.kubernetes.machine(&transfer.from)?;
        let to = self.dialled(&transfer.to)?.ok_or_else(|| Nobody("address: a transfer knows no URL".to_owned()))?;
        let client = BulkClient::new(to, transfer.upload, transfer.download);
        let id = self.kubernetes.world_mut().run(machine, client);
        self.traffic.insert(transfer.name.clone(), (machine, Traffic::Transfer(id)));
        Ok(())
    }

    fn stop(&mut self, name: &str) -> Result<(), Nobody> {
        match self.traffic.get(name) {
            Some((_, Traffic::Requests(id))) => self.kubernetes.finish(*id),
            Some((_, Traffic::Lookups(id))) => {
                let client = self.kubernetes.world_mut().program_mut(*id);
                client.into_iter().for_each(DnsClient::finish);
            }
            Some((_, Traffic::Transfer(_))) | None => return Err(Nobody(format!("traffic called {name}"))),
        }
        Ok(())
    }

    /// What was wrong, and what always is.
    pub(super) fn end(mut self) -> Vec<Problem> {
        let place = self.document.place("metadata.name");
        let strange = |strangeness| !matches!(strangeness, Strangeness::Late | Strangeness::Closed);
        let world = self.kubernetes.world();
        let strays = world.strays().filter(|(_, stray)| strange(stray.strangeness));
        let strays = strays.map(|(name, stray)| format!("{name} heard {} ({:?})", stray.tuple, stray.strangeness));
        let failures = world.failures().iter().map(ToString::to_string);
        let refused = self.kubernetes.log().iter().filter(|entry| entry.what.starts_with("was refused"));
        let all: Vec<String> = strays.chain(failures).chain(refused.map(ToString::to_string)).collect();
        self.wrong.extend(all.into_iter().map(|what| Problem::new(place.clone(), what, "this must never be")));
        self.wrong
    }
}

fn delete(it: &mut Kubernetes, named: &Named) -> Result<(), Trouble> {
    match named.kind.as_str() {
        "Service" => it.delete::<Service>(&named.name)?,
        "Pod" => it.delete::<Pod>(&named.name)?,
        "EndpointSlice" => it.delete::<EndpointSlice>(&named.name)?,
        "Endpoints" => it.delete::<Endpoints>(&named.name)?,
        "Node" => it.delete::<Node>(&named.name)?,
        other => return Err(Nobody(format!("kind {other} to delete")).into()),
    }
    Ok(())
}

/// The row of an object in `kubectl get`'s table.
pub(super) fn row(it: &Kubernetes, named: &Named) -> Option<String> {
    use crate::cluster::kubectl::get;
    let (namespace, name) = named.name.split_once('/').map_or((None, named.name.as_str()), |(a, b)| (Some(a), b));
    let (api, now) = (it.api(), it.now());
    let table = match named.kind.as_str() {
        "Service" => get::<Service>(api, namespace, true, now),
        "Pod" => get::<Pod>(api, namespace, true, now),
        "EndpointSlice" => get::<EndpointSlice>(api, namespace, true, now),
        "Endpoints" => get::<Endpoints>(api, namespace, true, now),
        "Node" => get::<Node>(api, None, true, now),
        _ => return None,
    };
    table.lines().find(|line| line.split_whitespace().next() == Some(name)).map(str::to_owned)
}
