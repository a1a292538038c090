//! The cloud: external load balancers, which its controller makes for Services of type LoadBalancer, some time after
//! they ask for one, and those that users point at NodePorts by hand.
//!
//! A load balancer keeps the client's address and sends to a node's NodePort. It checks its nodes: by the Service's
//! health-check port where only nodes with endpoints of their own serve (externalTrafficPolicy Local), else by a
//! connection to the NodePort; a Service without a TCP port has nothing to connect to, and its nodes are taken to be
//! well. loadBalancerSourceRanges are kept at the load balancer ([`Cloud::admits`]), as nothing behind it can.

mod balancer;
mod health;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceSpec};
use lb_core::{Address, Family, Instant, Prefix, Protocol, control};

pub use self::balancer::{Empty, Listener, LoadBalancer};
pub use self::health::{Check, CheckId, Checks, Question};
use super::api::{Api, Refusal};
use crate::k8s::address::lenient_prefix;
use crate::k8s::service::kind;
use crate::k8s::{Placed, node};

/// What holds a Service until its load balancer is gone.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The label of nodes that no load balancer sends to, whatever its value.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Whether nodes capture what is sent to the load balancer's address (SEMANTICS §3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMode {
    /// They do.
    #[default]
    Vip,
    /// They leave it to the load balancer.
    Proxy,
}

/// How a cloud is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long it takes to make a load balancer, and to take one down.
    pub delay: Duration,
    /// The blocks that its load balancers' addresses come from.
    pub pools: Vec<Prefix>,
    /// What it says of its addresses.
    pub ip_mode: IpMode,
    /// The loadBalancerClass that it serves: `None` for Services that name none.
    pub class: Option<String>,
    /// What its load balancers do without a healthy node.
    pub empty: Empty,
    /// How they check nodes.
    pub checks: Checks,
    /// Whether they keep loadBalancerSourceRanges.
    pub source_ranges: bool,
}

impl Default for Settings {
    /// Four seconds, and addresses for documentation (RFC 5737, RFC 3849).
    fn default() -> Self {
        let v6 = Address::v6([0x20, 0x01, 0x0d, 0xb8, 0, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self {
            delay: Duration::from_secs(4),
            pools: vec![Prefix::new(Address::v4([203, 0, 113, 0]), 24), Prefix::new(v6, 120)],
            ip_mode: IpMode::Vip,
            class: None,
            empty: Empty::Open,
            checks: Checks::default(),
            source_ranges: true,
        }
    }
}

/// A Service's load balancer, from the moment on at which it was asked for.
#[derive(Clone, Debug)]
struct Provision {
    /// When the cloud will be done with making it, or with taking it down; `None` if it is at neither.
    done: Option<Instant>,
    leaving: bool,
    balancer: LoadBalancer,
}

/// The cloud and its controller.
#[derive(Clone, Debug)]
pub struct Cloud {
    settings: Settings,
    seen: u64,
    /// By the Services' namespaces and names.
    provisions: BTreeMap<String, Provision>,
    /// By name.
    by_hand: BTreeMap<String, LoadBalancer>,
    checks: u64,
}

impl Cloud {
    /// A cloud without load balancers.
    pub fn new(settings: Settings) -> Self {
        Self { settings, seen: 0, provisions: BTreeMap::new(), by_hand: BTreeMap::new(), checks: 0 }
    }

    /// Adds a load balancer of one's own, or replaces the one of its name.
    pub fn add(&mut self, balancer: LoadBalancer) {
        self.by_hand.insert(balancer.name().to_owned(), balancer);
    }

    /// Takes a load balancer of one's own away.
    pub fn take(&mut self, name: &str) -> Option<LoadBalancer> {
        self.by_hand.remove(name)
    }

    /// Those that are there: the Services' by their names, then the users' own.
    pub fn balancers(&self) -> impl Iterator<Item = &LoadBalancer> {
        let made = self.provisions.values().map(|provision| &provision.balancer);
        made.filter(|balancer| !balancer.addresses().is_empty()).chain(self.by_hand.values())
    }

    /// Whether the load balancer of this address lets this client in.
    pub fn admits(&self, address: Address, client: Address) -> bool {
        self.balancers().filter(|balancer| balancer.addresses().contains(&address)).all(|one| one.admits(client))
    }

    /// What the data plane of all load balancers is to be made of: Services whose VIPs are theirs and whose
    /// endpoints are the nodes, a healthy one ready.
    pub fn objects(&self) -> (Vec<control::Service>, Vec<control::Slice>) {
        self.balancers().map(LoadBalancer::objects).unzip()
    }

    /// Makes, changes and takes down load balancers as Services and nodes have it by now.
    ///
    /// # Errors
    /// The API's.
    pub fn reconcile(&mut self, api: &mut Api, now: Instant) -> Result<(), Refusal> {
        let news =
            api.watch(self.seen).iter().any(|event| event.of::<Service>().is_some() || event.of::<Node>().is_some());
        let due = self.provisions.values().any(|provision| provision.done.is_some_and(|done| done <= now));
        self.seen = api.version();
        if !news && !due {
            return Ok(());
        }
        // What is taken down makes room in the pools for what comes.
        let known: Vec<_> = self.provisions.keys().cloned().collect();
        for key in known {
            if !api.get::<Service>(&key).is_some_and(|service| self.serves(service)) {
                self.take_down(api, &key, now)?;
            }
        }
        let nodes = listeners(api);
        let wanted: Vec<_> = api.list::<Service>().filter(|service| self.serves(service)).cloned().collect();
        for service in wanted {
            self.serve(api, &service, &nodes, now)?;
        }
        self.seen = api.version();
        Ok(())
    }

    /// Whether the Service is to have a load balancer of this cloud's.
    fn serves(&self, service: &Placed<Service>) -> bool {
        let spec = service.object.spec.as_ref().filter(|spec| kind(spec) == "LoadBalancer");
        let here = service.object.metadata.deletion_timestamp.is_none();
        here && spec.is_some_and(|spec| spec.load_balancer_class == self.settings.class)
    }

    fn serve(
        &mut self,
        api: &mut Api,
        service: &Placed<Service>,
        nodes: &[(String, Address)],
        now: Instant,
    ) -> Result<(), Refusal> {
        let key = service.key();
        if !self.provisions.contains_key(&key) {
            let done = Some(now.saturating_add(self.settings.delay));
            let balancer = LoadBalancer::new(key.clone(), self.settings.empty);
            self.provisions.insert(key.clone(), Provision { done, leaving: false, balancer });
            hold(api, service, true)?;
        }
        let Some(spec) = &service.object.spec else { return Ok(()) };
        let Some(provision) = self.provisions.get(&key) else { return Ok(()) };
        if provision.done.is_some_and(|done| done > now) && !provision.leaving {
            return Ok(());
        }
        let addresses = self.addresses(spec, &provision.balancer.addresses);
        let (listeners, question) = (ports(spec), question(spec));
        let ranges = spec.load_balancer_source_ranges.iter().flatten().filter(|_| self.settings.source_ranges);
        let source_ranges = ranges.filter_map(|range| lenient_prefix(range)).collect();
        let Some(provision) = self.provisions.get_mut(&key) else { return Ok(()) };
        // It may have been on its way out, for a Service that was of another type for a while.
        (provision.done, provision.leaving) = (None, false);
        let balancer = &mut provision.balancer;
        balancer.addresses = addresses;
        balancer.listeners = listeners;
        balancer.source_ranges = source_ranges;
        balancer.point_at(nodes, now);
        balancer.ask(question, now);
        let addresses = balancer.addresses.clone();
        self.publish(api, &key, &addresses)
    }

    /// A Service that is not to have a load balancer any more, or is gone.
    fn take_down(&mut self, api: &mut Api, key: &str, now: Instant) -> Result<(), Refusal> {
        let service = api.get::<Service>(key).is_some();
        let Some(provision) = self.provisions.get_mut(key) else { return Ok(()) };
        if !provision.leaving {
            provision.leaving = true;
            provision.done = Some(now.saturating_add(self.settings.delay));
        }
        if service && provision.done.is_some_and(|done| done > now) {
            return Ok(());
        }
        self.provisions.remove(key);
        self.publish(api, key, &[])?;
        let service = api.get::<Service>(key).cloned();
        service.map_or(Ok(()), |service| hold(api, &service, false))
    }

    /// An address of each family of the Service, those that it has first; none until there is one of each.
    fn addresses(&self, spec: &ServiceSpec, own: &[Address]) -> Vec<Address> {
        let named = spec.ip_families.iter().flatten();
        let families = named.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 });
        let mut taken = BTreeSet::new();
        let chosen = families.map(|family| {
            let kept = own.iter().copied().find(|address| address.family() == family);
            let address = kept.or_else(|| self.free(family, &taken));
            taken.extend(address);
            address
        });
        chosen.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The lowest address of a family that no load balancer has.
    fn free(&self, family: Family, besides: &BTreeSet<Address>) -> Option<Address> {
        let all = self.provisions.values().map(|provision| &provision.balancer).chain(self.by_hand.values());
        let taken: BTreeSet<_> = all.flat_map(|balancer| balancer.addresses()).chain(besides).copied().collect();
        let blocks = self.settings.pools.iter().filter(|block| block.address().family() == family);
        let mut free = blocks.flat_map(|block| {
            let first = block.address().bits() + 1;
            // One more than are taken is enough. In IPv4 the block's last is for broadcasts.
            let some = (first..=first + taken.len() as u128).map(Address::from_bits);
            some.filter(move |address| {
                let next = Address::from_bits(address.bits() + u128::from(address.is_v4()));
                block.contains(*address) && block.contains(next)
            })
        });
        free.find(|address| !taken.contains(address))
    }

    /// Writes a load balancer's addresses into its Service's status.
    fn publish(&self, api: &mut Api, key: &str, addresses: &[Address]) -> Result<(), Refusal> {
        let Some(service) = api.get::<Service>(key) else { return Ok(()) };
        let mode = match self.settings.ip_mode {
            IpMode::Vip => "VIP",
            IpMode::Proxy => "Proxy",
        };
        let ingress = addresses.iter().map(|ip| LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some(mode.to_owned()),
            ..LoadBalancerIngress::default()
        });
        let ingress: Vec<_> = ingress.collect();
        let mut service = Placed::clone(service);
        let status = service.object.status.get_or_insert_default();
        let before = status.load_balancer.as_ref().and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        if before == ingress {
            return Ok(());
        }
        status.load_balancer = Some(LoadBalancerStatus { ingress: (!ingress.is_empty()).then_some(ingress) });
        api.update_status(service).map(drop)
    }

    /// The checks of nodes that are to be made now.
    pub fn due(&mut self, now: Instant) -> Vec<Check> {
        let mut out = Vec::new();
        let made = self.provisions.values_mut().map(|provision| &mut provision.balancer);
        for balancer in made.chain(self.by_hand.values_mut()) {
            balancer.due(now, &mut self.checks, &self.settings.checks, &mut out);
        }
        out
    }

    /// How a check went. One that is not heard of within its timeout has failed.
    pub fn result(&mut self, check: CheckId, success: bool) {
        let made = self.provisions.values_mut().map(|provision| &mut provision.balancer);
        for balancer in made.chain(self.by_hand.values_mut()) {
            balancer.result(check, success, &self.settings.checks);
        }
    }

    /// When there is something to reconcile or to check, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.provisions.values().filter_map(|provision| provision.done);
        let checks = self.balancers().filter_map(LoadBalancer::next_deadline);
        waiting.chain(checks).min()
    }
}

/// The nodes that load balancers send to, with their addresses.
fn listeners(api: &Api) -> Vec<(String, Address)> {
    let ready = |node: &Placed<Node>| {
        let status = node.object.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let nodes = api.list::<Node>().filter(|node| ready(node) && node.label(EXCLUDED).is_none());
    let of = |node: &Placed<Node>| {
        let all = node::addresses(&node.object);
        let first = |family| all.iter().copied().find(|address: &Address| address.family() == family);
        let name = node.name().to_owned();
        [Family::V4, Family::V6].into_iter().filter_map(first).map(move |address| (name.clone(), address)).collect()
    };
    nodes.flat_map(|node| -> Vec<_> { of(node) }).collect()
}

/// The Service's ports that have a NodePort: the others cannot be reached.
fn ports(spec: &ServiceSpec) -> Vec<Listener> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Listener {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(port.protocol.as_deref()),
            port: u16::try_from(port.port).ok()?,
            node_port: u16::try_from(port.node_port?).ok().filter(|number| *number != 0)?,
        })
    });
    ports.collect()
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        _ => Protocol::TCP,
    }
}

/// What nodes are asked about a Service.
fn question(spec: &ServiceSpec) -> Option<Question> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let health = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let first = || ports(spec).into_iter().find(|listener| listener.protocol == Protocol::TCP);
    match health {
        Some(port) if local => Some(Question::Healthz(port)),
        _ => first().map(|listener| Question::Connect(listener.node_port)),
    }
}

/// Holds the Service until its load balancer is gone, or lets it go.
fn hold(api: &mut Api, service: &Placed<Service>, held: bool) -> Result<(), Refusal> {
    let mut next = service.clone();
    let finalizers = next.object.metadata.finalizers.get_or_insert_default();
    finalizers.retain(|name| name != FINALIZER);
    finalizers.extend(held.then(|| FINALIZER.to_owned()));
    next.object.metadata.finalizers.take_if(|finalizers| finalizers.is_empty());
    api.update(next).map(drop)
}
