//! The zone: what the names of a cluster's objects own (SEMANTICS §19). Each object put in or taken out costs
//! the Service it belongs to, not the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::rr::rdata::{self, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_core::{Address, Prefix};

use self::reverse::Spelled;
use self::service::{Data, Subtree};
use crate::k8s::Manifests;
use crate::k8s::address::lenient_address;
use crate::k8s::endpoints::SERVICE_NAME;

mod reverse;
mod service;

/// The version of the specification that `dns-version` tells, and for how long that holds (§19.1).
const VERSION: (&str, u32) = ("1.1.0", 28_800);
/// Namespaces that every cluster has, whether or not its manifests say so.
const SYSTEM: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// Where a cluster's DNS Service is found by custom; `ns.dns` of the zone is its address.
const NAMESERVER: (&str, &str) = ("kube-system", "kube-dns");

/// Which names of the form `a-b-c-d.ns.pod` there are (§19.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNames {
    /// None.
    #[default]
    Disabled,
    /// One for each address there could be, in each namespace there is.
    Insecure,
    /// Those of Pods that there are, in their namespaces.
    Verified,
}

/// What a zone is told that no object says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone's own name.
    pub origin: Name,
    /// How long answers hold, in seconds, negative ones too (§19.7).
    pub ttl: u32,
    /// Names of Pods.
    pub pods: PodNames,
    /// Blocks of addresses whose reverse names are the zone's business, known or not (§19.6).
    pub reverse: Vec<Prefix>,
}

impl Default for Settings {
    /// As CoreDNS is set up in most clusters: `cluster.local`, 5 s, no names of Pods, all reverse names.
    fn default() -> Self {
        let origin = Name::from_labels([&b"cluster"[..], b"local"]).unwrap_or_default();
        let all = |address| Prefix::new(address, 0);
        let reverse = vec![all(Address::v4([0; 4])), all(Address::v6([0; 16]))];
        Self { origin, ttl: 5, pods: PodNames::Disabled, reverse }
    }
}

/// Namespace and name.
type Key = (String, String);

/// A view of the cluster's objects as names. Until [`Zone::set_synced`] it knows that it does not know.
#[derive(Clone, Debug)]
pub struct Zone {
    settings: Settings,
    synced: bool,
    /// Counts changes; the SOA's.
    serial: u32,
    namespaces: BTreeSet<String>,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, BTreeMap<String, EndpointSlice>>,
    /// The Service's name of each slice.
    owners: BTreeMap<Key, String>,
    pods: BTreeMap<Key, Vec<IpAddr>>,
    /// By namespace and address, how many Pods have it: those of the node's network share one.
    pod_addresses: BTreeMap<(String, IpAddr), usize>,
    /// What is below a Service's name.
    subtrees: BTreeMap<Key, Subtree>,
    /// The names of an address: of each Service its own, empty, and its endpoints' hosts.
    reverse: BTreeMap<IpAddr, BTreeMap<Key, BTreeSet<String>>>,
}

/// What a zone has at a name.
#[derive(Clone, Debug)]
pub struct Node {
    /// Whether the name exists; if not, neither does any below it (RFC 8020).
    pub exists: bool,
    /// What it owns of the type asked for, owned by the name in the case it was asked in.
    pub records: Vec<Record>,
    /// The record that tells the zone it is in, for negative answers (RFC 2308 §3).
    pub soa: Record,
}

impl Zone {
    /// A zone that has heard of no object yet.
    pub fn new(settings: Settings) -> Self {
        let settings = Settings { origin: absolute(settings.origin.to_lowercase()), ..settings };
        Self {
            settings,
            synced: false,
            serial: 1,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: BTreeMap::new(),
            pods: BTreeMap::new(),
            pod_addresses: BTreeMap::new(),
            subtrees: BTreeMap::new(),
            reverse: BTreeMap::new(),
        }
    }

    /// The zone of manifests that are all there is: `Cluster::manifests`, with addresses and slices.
    pub fn of(manifests: &Manifests, settings: Settings) -> Self {
        let mut zone = Self::new(settings);
        manifests.namespaces.iter().for_each(|namespace| zone.put_namespace(namespace.name()));
        // Slices first: a Service's names are worked out when it is put, once.
        manifests.slices.iter().for_each(|slice| zone.put_slice(slice.object.clone()));
        manifests.pods.iter().for_each(|pod| zone.put_pod(&pod.object));
        manifests.services.iter().for_each(|service| zone.put_service(service.object.clone()));
        zone.set_synced();
        zone
    }

    /// The zone's own name, in lower case.
    pub fn origin(&self) -> &Name {
        &self.settings.origin
    }

    /// Whether all objects that there were at the start have been put (§19.10).
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// From now on what is not known does not exist.
    pub fn set_synced(&mut self) {
        self.synced = true;
    }

    /// A Namespace exists. Those of other objects exist without.
    pub fn put_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
        self.changed();
    }

    /// A Namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.changed();
    }

    /// A Service was created or updated.
    pub fn put_service(&mut self, service: Service) {
        let key = key(&service.metadata);
        self.services.insert(key.clone(), service);
        self.refresh(&key);
    }

    /// A Service was deleted.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.services.remove(&key);
        self.refresh(&key);
    }

    /// An EndpointSlice was created or updated.
    pub fn put_slice(&mut self, slice: EndpointSlice) {
        let (namespace, name) = key(&slice.metadata);
        self.remove_slice(&namespace, &name);
        let owner = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)).cloned();
        let Some(owner) = owner.filter(|owner| !owner.is_empty()) else { return };
        let service = (namespace.clone(), owner.clone());
        self.owners.insert((namespace, name.clone()), owner);
        self.slices.entry(service.clone()).or_default().insert(name, slice);
        self.refresh(&service);
    }

    /// An EndpointSlice was deleted.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) {
        let Some(owner) = self.owners.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        let service = (namespace.to_owned(), owner);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.refresh(&service);
    }

    /// A Pod was created or updated. Those that are over or about to be have no name.
    pub fn put_pod(&mut self, pod: &Pod) {
        let key = key(&pod.metadata);
        self.remove_pod(&key.0, &key.1);
        let status = pod.status.clone().unwrap_or_default();
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let mut addresses = BTreeSet::new();
        if !over && pod.metadata.deletion_timestamp.is_none() {
            let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
            addresses.extend(all.filter_map(|ip| lenient_address(ip)).map(IpAddr::from));
        }
        for address in &addresses {
            *self.pod_addresses.entry((key.0.clone(), *address)).or_default() += 1;
        }
        self.pods.insert(key, addresses.into_iter().collect());
        self.changed();
    }

    /// A Pod was deleted.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(addresses) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        for address in addresses {
            let key = (namespace.to_owned(), address);
            match self.pod_addresses.get_mut(&key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.pod_addresses.remove(&key)),
            }
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.serial = self.serial.wrapping_add(1);
    }

    /// Works a Service's names out anew.
    fn refresh(&mut self, key: &Key) {
        self.changed();
        for (address, _) in self.subtrees.remove(key).into_iter().flat_map(|subtree| subtree.addresses) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.remove(key);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        let Some(service) = self.services.get(key) else { return };
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let subtree = Subtree::of(service, slices);
        for (address, host) in &subtree.addresses {
            self.reverse.entry(*address).or_default().entry(key.clone()).or_default().insert(host.clone());
        }
        self.subtrees.insert(key.clone(), subtree);
    }

    /// What there is at `name` of a type, all for ANY; a CNAME stands for addresses (§19.5). `None` if the name
    /// is in no zone of ours.
    pub fn node(&self, name: &Name, asked: RecordType) -> Option<Node> {
        if self.settings.origin.zone_of(name) {
            let labels: Vec<_> = name.iter().rev().skip(usize::from(self.settings.origin.num_labels())).collect();
            let labels: Vec<_> = labels.into_iter().map(lower).collect();
            let labels: Vec<_> = labels.iter().map(String::as_str).collect();
            let (exists, records) = self.forward(name, &labels, asked);
            return Some(Node { exists, records, soa: self.soa(&self.settings.origin) });
        }
        let spelled = Spelled::read(name)?;
        let apex_labels = spelled.apex(&self.settings.reverse)?;
        let apex = absolute(name.trim_to(apex_labels));
        let at_apex = usize::from(name.num_labels()) == apex_labels;
        let exists = at_apex || spelled.range().is_some_and(|range| self.reverse.range(range).next().is_some());
        let mut records = if at_apex { self.apex(name, asked) } else { Vec::new() };
        let names = spelled.address().and_then(|address| self.reverse.get(&address)).into_iter().flatten();
        if matches!(asked, RecordType::PTR | RecordType::ANY) {
            let hosts = names.flat_map(|(key, hosts)| hosts.iter().map(move |host| (key, host)));
            let targets = hosts.filter_map(|(key, host)| self.host_name(key, host));
            let record = |target| self.record(name, RData::PTR(rdata::PTR(target)));
            records.extend(targets.map(record));
        }
        Some(Node { exists, records, soa: self.soa(&apex) })
    }

    /// Of a name in the zone itself, by its labels from the zone on: whether it exists, and its records.
    fn forward(&self, name: &Name, labels: &[&str], asked: RecordType) -> (bool, Vec<Record>) {
        let nothing = (false, Vec::new());
        match labels {
            [] => (true, self.apex(name, asked)),
            ["dns-version"] => {
                let text = matches!(asked, RecordType::TXT | RecordType::ANY);
                let record =
                    || Record::from_rdata(name.clone(), VERSION.1, RData::TXT(TXT::new(vec![VERSION.0.into()])));
                (true, text.then(record).into_iter().collect())
            }
            ["dns", rest @ ..] if rest.is_empty() || rest == ["ns"] => {
                let key = (NAMESERVER.0.to_owned(), NAMESERVER.1.to_owned());
                let own = self.subtrees.get(&key).into_iter().flat_map(|subtree| subtree.at(&[]));
                let own: Vec<_> = own.filter(|data| matches!(data, Data::A(_) | Data::Aaaa(_))).collect();
                let data = own.iter().filter(|data| !rest.is_empty() && data.answers(asked));
                (!own.is_empty(), data.filter_map(|data| self.data_record(name, &key, data, 1)).collect())
            }
            ["svc"] => (true, Vec::new()),
            ["svc", namespace] => (self.has_namespace(namespace), Vec::new()),
            ["svc", namespace, service, below @ ..] => {
                let key = ((*namespace).to_owned(), (*service).to_owned());
                let Some(subtree) = self.subtrees.get(&key) else { return nothing };
                let data: Vec<_> = subtree.at(below).filter(|data| data.answers(asked)).collect();
                let shares = data.iter().filter(|data| matches!(data, Data::Srv { .. })).count();
                let records = data.iter().filter_map(|data| self.data_record(name, &key, data, shares));
                (subtree.exists(below), records.collect())
            }
            ["pod", rest @ ..] if self.settings.pods != PodNames::Disabled => match rest {
                [] => (true, Vec::new()),
                [namespace] => (self.has_namespace(namespace), Vec::new()),
                [namespace, dashed] => match self.pod(namespace, dashed) {
                    Some(data) if data.answers(asked) => {
                        let key = Key::default();
                        (true, self.data_record(name, &key, &data, 1).into_iter().collect())
                    }
                    found => (found.is_some(), Vec::new()),
                },
                _ => nothing,
            },
            _ => nothing,
        }
    }

    /// The address that a Pod's name spells, if there is such a name.
    fn pod(&self, namespace: &str, dashed: &str) -> Option<Data> {
        let v4 = dashed.matches('-').count() == 3 && !dashed.contains("--");
        let address: IpAddr = dashed.replace('-', if v4 { "." } else { ":" }).parse().ok()?;
        let known = match self.settings.pods {
            PodNames::Disabled => false,
            PodNames::Insecure => self.has_namespace(namespace),
            PodNames::Verified => self.pod_addresses.contains_key(&(namespace.to_owned(), address)),
        };
        known.then(|| Data::address(address))
    }

    fn has_namespace(&self, name: &str) -> bool {
        fn any<T>(objects: &BTreeMap<Key, T>, namespace: &str) -> bool {
            let first = objects.range((namespace.to_owned(), String::new())..).next();
            first.is_some_and(|((theirs, _), _)| theirs == namespace)
        }
        SYSTEM.contains(&name)
            || self.namespaces.contains(name)
            || any(&self.services, name)
            || any(&self.owners, name)
            || any(&self.pods, name)
    }

    /// What a zone owns at its own name.
    fn apex(&self, name: &Name, asked: RecordType) -> Vec<Record> {
        let soa = || self.soa(name);
        let ns = || Some(self.record(name, RData::NS(rdata::NS(self.nameserver()?))));
        let wants = |kind| asked == kind || asked == RecordType::ANY;
        let soa = wants(RecordType::SOA).then(soa);
        soa.into_iter().chain(wants(RecordType::NS).then(ns).flatten()).collect()
    }

    fn nameserver(&self) -> Option<Name> {
        self.below(["ns", "dns"])
    }

    fn soa(&self, apex: &Name) -> Record {
        let nameserver = self.nameserver().unwrap_or_default();
        let mailbox = self.below(["hostmaster"]).unwrap_or_default();
        let soa = SOA::new(nameserver, mailbox, self.serial, 7200, 1800, 86_400, self.settings.ttl);
        self.record(apex, RData::SOA(soa))
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl, data)
    }

    /// `shares` is how many SRV records share the weight (§19.7).
    fn data_record(&self, name: &Name, key: &Key, data: &Data, shares: usize) -> Option<Record> {
        let data = match data {
            Data::A(address) => RData::A((*address).into()),
            Data::Aaaa(address) => RData::AAAA((*address).into()),
            Data::Cname(target) => RData::CNAME(rdata::CNAME(target.clone())),
            Data::Srv { host, port } => {
                let weight = u16::try_from(100 / shares.max(1)).unwrap_or(1).max(1);
                RData::SRV(rdata::SRV::new(0, weight, *port, self.host_name(key, host)?))
            }
        };
        Some(self.record(name, data))
    }

    /// The name of a Service, or of a host of it. `None` if it is too long for a name.
    fn host_name(&self, (namespace, service): &Key, host: &str) -> Option<Name> {
        let labels = [host, service, namespace, "svc"];
        self.below(labels.into_iter().skip(usize::from(host.is_empty())))
    }

    fn below<'a>(&'a self, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
        let labels = labels.into_iter().map(str::as_bytes).chain(self.settings.origin.iter());
        Name::from_labels(labels).ok().map(absolute)
    }
}

fn absolute(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

/// A label as it is compared. Objects' names are ASCII: what is not matches none.
fn lower(label: &[u8]) -> String {
    String::from_utf8_lossy(label).to_ascii_lowercase()
}

fn key(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
    let namespace = metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    (namespace.to_owned(), metadata.name.clone().unwrap_or_default())
}
