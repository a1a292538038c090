//! What is below one Service's name (SEMANTICS §19.2 to §19.5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::k8s::address::lenient_address;
use crate::k8s::endpoints::family;
use crate::k8s::service::{cluster_ips, headless, kind};

/// What a name owns, short of its zone, owner and times. In the order of the answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// An alias.
    Cname(Name),
    /// The Service's own name if the host is empty, else the name of a host of it.
    Srv { host: String, port: u16 },
}

impl Data {
    pub(super) fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }

    /// Whether a question of this type is answered by this. An alias answers questions for addresses and for
    /// itself alone (§19.5).
    pub(super) fn answers(&self, asked: RecordType) -> bool {
        let own = match self {
            Self::A(_) => asked == RecordType::A,
            Self::Aaaa(_) => asked == RecordType::AAAA,
            Self::Cname(_) => matches!(asked, RecordType::A | RecordType::AAAA | RecordType::CNAME),
            Self::Srv { .. } => asked == RecordType::SRV,
        };
        own || asked == RecordType::ANY
    }
}

/// The names below a Service's, as labels away from it, and what they own.
#[derive(Clone, Debug, Default)]
pub(super) struct Subtree {
    names: BTreeMap<Vec<String>, BTreeSet<Data>>,
    /// What addresses are called: the Service itself if empty, else a host of it.
    pub(super) addresses: BTreeSet<(IpAddr, String)>,
}

impl Subtree {
    pub(super) fn of<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let mut subtree = Self::default();
        let Some(spec) = &service.spec else { return subtree };
        if kind(spec) == "ExternalName" {
            subtree.alias(spec);
            return subtree;
        }
        let own = cluster_ips(spec);
        if own.is_empty() && !headless(spec) {
            // No address was allocated yet.
            return subtree;
        }
        if !headless(spec) {
            for address in own.into_iter().map(IpAddr::from) {
                subtree.put(&[], [Data::address(address)]);
                subtree.addresses.insert((address, String::new()));
            }
            for port in spec.ports.iter().flatten() {
                subtree.port("", port.name.as_deref(), port.protocol.as_deref(), Some(port.port));
            }
        }
        for slice in slices {
            for endpoint in slice.endpoints.iter().flatten() {
                subtree.endpoint(headless(spec), slice, endpoint);
            }
        }
        subtree
    }

    /// An ExternalName, unless it is an address after all.
    fn alias(&mut self, spec: &ServiceSpec) {
        let text = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        let name = Name::from_ascii(text).ok().filter(|name| name.num_labels() > 0);
        if let Some(mut name) = name
            && lenient_address(text).is_none()
        {
            name.set_fqdn(true);
            self.put(&[], [Data::Cname(name)]);
        }
    }

    /// A ready endpoint (§19.4): a host of the Service; if that is headless, one more address and target of it.
    fn endpoint(&mut self, headless: bool, slice: &EndpointSlice, endpoint: &Endpoint) {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let address = endpoint.addresses.first().and_then(|ip| lenient_address(ip));
        let address = address.filter(|address| ready && family(slice) == Some(address.family()));
        let Some(address) = address.map(IpAddr::from) else { return };
        let host = match endpoint.hostname.as_deref() {
            Some(name) if !name.is_empty() => name.to_ascii_lowercase(),
            _ => dashed(address),
        };
        self.put(&[&host], [Data::address(address)]);
        self.addresses.insert((address, host.clone()));
        if headless {
            self.put(&[], [Data::address(address)]);
            // A port without a name in the object is none (§4.2); an empty name is a name.
            for port in slice.ports.iter().flatten().filter(|port| port.name.is_some()) {
                self.port(&host, port.name.as_deref(), port.protocol.as_deref(), port.port);
            }
        }
    }

    /// A port of `host`: a target of the Service's own name (§19.8), and of the port's if it has one.
    fn port(&mut self, host: &str, name: Option<&str>, protocol: Option<&str>, port: Option<i32>) {
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0) else { return };
        let srv = || Data::Srv { host: host.to_owned(), port };
        self.put(&[], [srv()]);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let protocol = format!("_{}", protocol.unwrap_or("TCP").to_ascii_lowercase());
            self.put(&[&protocol, &format!("_{}", name.to_ascii_lowercase())], [srv()]);
        }
    }

    fn put(&mut self, labels: &[&str], data: impl IntoIterator<Item = Data>) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.names.entry(labels).or_default().extend(data);
    }

    /// What the name that is `labels` away owns.
    pub(super) fn at(&self, labels: &[&str]) -> impl Iterator<Item = &Data> {
        let labels: Vec<_> = labels.iter().map(|label| (*label).to_owned()).collect();
        self.names.get(&labels).into_iter().flatten()
    }

    /// Whether the name that is `labels` away, or one below it, owns anything (RFC 8020).
    pub(super) fn exists(&self, labels: &[&str]) -> bool {
        let labels: Vec<_> = labels.iter().map(|label| (*label).to_owned()).collect();
        self.names.range(labels.clone()..).next().is_some_and(|(name, _)| name.starts_with(&labels))
    }
}

/// An address as a host's name (§19.3): `10-0-0-1`, `2001-db8--1`, and a `0` where a dash would end it.
fn dashed(address: IpAddr) -> String {
    let dashed = address.to_string().replace(['.', ':'], "-");
    if dashed.ends_with('-') { format!("{dashed}0") } else { dashed }
}
