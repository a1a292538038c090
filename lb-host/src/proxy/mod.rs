//! kube-proxy's userspace mode (SEMANTICS §14.5): a process on the node that accepts its clients' connections on a port for
//! each service port, and makes others to the endpoints.
//!
//! ```text
//! client -> Vip  --engine-->  node:proxy-port  --this-->  endpoint, which sees the node
//! ```
//!
//! It owns no packets: its sockets are a [`Host`]'s that has the node's addresses, and time is an argument. What the engine
//! needs to know is in [`Redirect`]. On a node:
//!
//! ```
//! use lb_core::Instant;
//! use lb_core::control::{Control, Node};
//! use lb_host::host::Host;
//! use lb_host::proxy::{Proxy, Redirect};
//!
//! /// When objects have changed: `control` is in mode userspace; the delta is the engine's.
//! fn settle(now: Instant, control: &Control, host: &mut Host, proxy: &mut Proxy, redirect: &mut Redirect) -> Vec<u8> {
//!     let mut delta = Vec::new();
//!     proxy.sync(now, host, control);
//!     redirect.delta(control, proxy, &mut delta).expect("it is small enough");
//!     delta
//! }
//!
//! /// When packets have been received, and when `proxy.next_deadline()` has come.
//! fn turn(now: Instant, host: &mut Host, proxy: &mut Proxy) -> impl Iterator<Item = Vec<u8>> {
//!     proxy.poll(now, host);
//!     host.poll(now).into_iter()
//! }
//! ```
//!
//! # Memory
//! A joined connection holds what its two host connections hold, 64 KiB a side and direction, and at most 64 KiB more each
//! way: 384 KiB. A UDP client holds a host's socket. [`Options`] says how many of each there may be; further connections
//! wait in the host's backlog, and further UDP clients are not heard. A service port remembers [`REMEMBERED`] clients.

mod counters;
mod ports;
mod redirect;
mod relay;
mod rota;
mod splice;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use lb_core::control::{Control, Label, Node, Resolved, ServicePort};
use lb_core::rules::Pool;
use lb_core::{Address, Family, Instant, Protocol};

use crate::chance::Chance;
use crate::host::{self, Host, ListenerId, Socket};
use ports::Range;
use relay::{Relay, Round};
use rota::Rota;
use splice::{Progress, Splice};

pub use counters::Counters;
pub use redirect::{Redirect, redirect};
pub use relay::DATAGRAM;
pub use rota::REMEMBERED;

/// How long a service port waits for one of the range's ports to become free.
const WAIT: Duration = Duration::from_secs(1);

/// How a proxy works.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--proxy-port-range`; without it the host chooses.
    pub ports: Option<RangeInclusive<u16>>,
    /// `--udp-timeout`: how long a UDP client's socket is kept when both sides are silent.
    pub udp_idle: Duration,
    /// TCP connections that there may be at once.
    pub connections: usize,
    /// UDP clients that there may be at once.
    pub udp_clients: usize,
    /// What ports and orders are drawn from.
    pub seed: u64,
}

impl Options {
    /// kube-proxy's defaults, 1024 connections, 1024 UDP clients.
    pub const fn new(seed: u64) -> Self {
        Self { ports: None, udp_idle: Duration::from_millis(250), connections: 1024, udp_clients: 1024, seed }
    }
}

/// A service port in one family: what has a proxy port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The service's namespace and name.
    pub service: Label,
    /// The port's name.
    pub port: Label,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

impl Key {
    /// The key of this port of a service.
    pub fn new(service: &Label, port: &ServicePort, family: Family) -> Self {
        Self { service: service.clone(), port: port.name.clone(), protocol: port.protocol, family }
    }
}

/// Why a service port is not, or not wholly, served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It has waited a second for a proxy port.
    #[error("every port of the proxy port range is in use: widen --proxy-port-range, or remove services")]
    NoPortLeft,
    /// The proxy port can't be opened.
    #[error("its proxy port can't be opened: {0}")]
    ProxyPort(host::Error),
    /// Its NodePort can't be opened on an address of the node; the engine redirects it all the same.
    #[error("NodePort {port} can't be opened on {address}: {error}")]
    NodePort {
        /// The address.
        address: Address,
        /// The port.
        port: u16,
        /// Why not.
        error: host::Error,
    },
    /// It is no TCP or UDP port.
    #[error("this mode knows TCP and UDP alone")]
    Protocol,
}

/// The proxy of one node.
pub struct Proxy {
    options: Options,
    range: Option<Range>,
    chance: Chance,
    served: BTreeMap<Key, Served>,
    splices: Vec<Splice>,
    troubles: BTreeMap<Key, Trouble>,
    counters: Counters,
}

/// A service port that is proxied, or is to be.
struct Served {
    rota: Rota,
    /// The NodePort on each of the node's addresses, and which of them are open.
    node_ports: BTreeSet<Socket>,
    open_node_ports: BTreeSet<Socket>,
    /// Its proxy port, once it has one.
    port: Option<u16>,
    /// When it gives up waiting for one.
    waits_until: Option<Instant>,
    sockets: Sockets,
}

enum Sockets {
    Closed,
    Tcp(Vec<ListenerId>),
    Udp(Relay),
}

impl Proxy {
    /// A proxy of nothing yet.
    pub fn new(options: Options) -> Self {
        let chance = Chance::new(options.seed).named("proxy");
        let range = options.ports.clone().map(|range| Range::new(range, chance.named("ports")));
        let (served, splices, troubles) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { options, range, chance, served, splices, troubles, counters: Counters::default() }
    }

    /// Opens and closes ports and learns endpoints, as `control` has them, which is in mode userspace. Connections that are
    /// there stay as they are.
    pub fn sync(&mut self, now: Instant, host: &mut Host, control: &Control) {
        let resolved = control.services().flat_map(|service| control.resolve(&service.name));
        let wanted: BTreeMap<Key, Resolved> =
            resolved.map(|port| (Key::new(&port.service, &port.port, port.family), port)).collect();
        self.troubles.retain(|key, trouble| wanted.contains_key(key) && *trouble == Trouble::NoPortLeft);
        self.note_protocols(control);
        // Whatever is released may be taken at once.
        let gone: Vec<Key> = self.served.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            if let Some(mut served) = self.served.remove(&key) {
                served.sockets.close(host);
                self.release(served.port);
            }
        }
        for (key, port) in wanted {
            self.serve(now, host, control.node(), key, &port);
        }
    }

    /// What the mode leaves out (SEMANTICS §12.1).
    fn note_protocols(&mut self, control: &Control) {
        for service in control.services() {
            for port in service.ports.iter().filter(|port| ![Protocol::TCP, Protocol::UDP].contains(&port.protocol)) {
                for ip in &service.cluster_ips {
                    self.troubles.insert(Key::new(&service.name, port, ip.family()), Trouble::Protocol);
                }
            }
        }
    }

    fn serve(&mut self, now: Instant, host: &mut Host, node: &Node, key: Key, resolved: &Resolved) {
        let own = node.addresses.iter().copied().filter(|own| own.family() == key.family && !own.is_loopback());
        let node_ports: BTreeSet<Socket> = resolved
            .port
            .node_port
            .into_iter()
            .flat_map(|port| own.clone().filter(|own| node.opens_node_ports_on(*own)).map(move |own| (own, port)))
            .collect();
        let mut served = self.served.remove(&key).unwrap_or_else(|| Served {
            rota: Rota::new(self.chance.named(&format!("{} {:?}", resolved.label(), key.family))),
            node_ports: BTreeSet::new(),
            open_node_ports: BTreeSet::new(),
            port: None,
            waits_until: None,
            sockets: Sockets::Closed,
        });
        let members = resolved.pool(Pool::Cluster).into_iter().flatten();
        served.rota.update(&members.map(|member| (member.address, member.port)).collect(), resolved.affinity);
        if served.port.is_some() && served.node_ports != node_ports {
            // As kube-proxy does when more than endpoints has changed: it begins anew.
            served.sockets.close(host);
            served.open_node_ports.clear();
            self.release(served.port.take());
        }
        served.node_ports = node_ports;
        if served.port.is_none()
            && let Some(address) = node.primary(key.family)
        {
            self.open(now, host, &key, address, &mut served);
        }
        if served.port.is_some() {
            self.open_node_ports(host, &key, &mut served);
        }
        self.served.insert(key, served);
    }

    /// Opens the proxy port of a service port that has none.
    fn open(&mut self, now: Instant, host: &mut Host, key: &Key, address: Address, served: &mut Served) {
        let port = match &mut self.range {
            None => Some(0),
            Some(range) => range.take(),
        };
        let Some(port) = port else {
            // A wait that has failed is over, and this is another.
            served.waits_until.get_or_insert(now.saturating_add(WAIT));
            return;
        };
        served.waits_until = None;
        self.troubles.remove(key);
        match Sockets::open(host, key.protocol, (address, port)) {
            Ok((sockets, opened)) => (served.sockets, served.port) = (sockets, Some(opened)),
            Err(error) => {
                self.release(Some(port));
                self.troubles.insert(key.clone(), Trouble::ProxyPort(error));
            }
        }
    }

    /// Opens its NodePorts that are not open: nobody else on the node can then have them, whoever redirects.
    fn open_node_ports(&mut self, host: &mut Host, key: &Key, served: &mut Served) {
        for (address, port) in served.node_ports.difference(&served.open_node_ports.clone()).copied() {
            match served.sockets.add(host, (address, port)) {
                Ok(()) => drop(served.open_node_ports.insert((address, port))),
                Err(error) => drop(self.troubles.insert(key.clone(), Trouble::NodePort { address, port, error })),
            }
        }
    }

    fn release(&mut self, port: Option<u16>) {
        if let (Some(range), Some(port)) = (&mut self.range, port) {
            range.release(port);
        }
    }

    /// Goes on with every connection, as far as can be gone now.
    pub fn poll(&mut self, now: Instant, host: &mut Host) {
        let Self { options, served, splices, troubles, counters, .. } = self;
        let clients: usize = served.values().map(Served::udp_clients).sum();
        let mut room = options.udp_clients.saturating_sub(clients);
        for (key, served) in served.iter_mut() {
            if served.waits_until.is_some_and(|until| until <= now) {
                served.waits_until = None;
                troubles.insert(key.clone(), Trouble::NoPortLeft);
            }
            served.rota.purge(now);
            match &mut served.sockets {
                Sockets::Closed => {}
                Sockets::Tcp(listeners) => {
                    for listener in listeners {
                        while splices.len() < options.connections
                            && let Some(client) = host.accept(*listener)
                        {
                            counters.connections += 1;
                            splices.extend(Splice::new(key.clone(), client, host));
                        }
                    }
                }
                Sockets::Udp(relay) => {
                    let (idle, rota) = (options.udp_idle, &mut served.rota);
                    let mut round = Round { now, idle, room, host, rota, counters };
                    relay.poll(&mut round);
                    room = round.room;
                }
            }
        }
        splices.retain_mut(|splice| {
            let mut rota = served.get_mut(&splice.key).map(|served| &mut served.rota);
            let next = |client, anew| rota.as_mut()?.next(now, client, anew);
            splice.poll(now, host, counters, next) == Progress::GoesOn
        });
    }

    /// Ends: every port is closed and every connection reset.
    pub fn close(self, host: &mut Host) {
        self.served.into_values().for_each(|mut served| served.sockets.close(host));
        self.splices.into_iter().for_each(|splice| splice.close(host));
    }

    /// When [`poll`](Self::poll) is next due if no packet comes before. The host has deadlines of its own.
    pub fn next_deadline(&self) -> Option<Instant> {
        let splices = self.splices.iter().filter_map(Splice::next_deadline);
        splices.chain(self.served.values().filter_map(Served::next_deadline)).min()
    }

    /// The proxy port of a service port, if it has one.
    pub fn port(&self, key: &Key) -> Option<u16> {
        self.served.get(key)?.port
    }

    /// The proxy ports of all service ports that have one.
    pub fn ports(&self) -> impl Iterator<Item = (&Key, u16)> {
        self.served.iter().filter_map(|(key, served)| Some((key, served.port?)))
    }

    /// The service ports that are not, or not wholly, served, and why. The next [`sync`](Self::sync) tries again.
    pub const fn troubles(&self) -> &BTreeMap<Key, Trouble> {
        &self.troubles
    }

    /// What was done so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// TCP connections, joined or being so.
    pub fn connections(&self) -> usize {
        self.splices.len()
    }

    /// UDP clients with a socket of their own.
    pub fn udp_clients(&self) -> usize {
        self.served.values().map(Served::udp_clients).sum()
    }

    /// Bytes held between connections' own buffers.
    pub fn held(&self) -> usize {
        self.splices.iter().map(Splice::held).sum()
    }

    /// Clients that are remembered for ClientIP affinity.
    pub fn remembered(&self) -> usize {
        self.served.values().map(|served| served.rota.remembered()).sum()
    }
}

impl Served {
    fn udp_clients(&self) -> usize {
        match &self.sockets {
            Sockets::Udp(relay) => relay.clients(),
            Sockets::Closed | Sockets::Tcp(_) => 0,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let relay = match &self.sockets {
            Sockets::Udp(relay) => relay.next_deadline(),
            Sockets::Closed | Sockets::Tcp(_) => None,
        };
        [self.waits_until, self.rota.next_deadline(), relay].into_iter().flatten().min()
    }
}

impl Sockets {
    /// Opens a first socket, on a port of the host's choice if it is 0, and says which.
    fn open(host: &mut Host, protocol: Protocol, at: Socket) -> Result<(Self, u16), host::Error> {
        if protocol == Protocol::UDP {
            let socket = host.bind(Some(at.0), at.1)?;
            return Ok((Self::Udp(Relay::new(vec![socket])), host.udp_port(socket).unwrap_or(at.1)));
        }
        let listener = host.listen(Some(at.0), at.1)?;
        Ok((Self::Tcp(vec![listener]), host.listener_port(listener).unwrap_or(at.1)))
    }

    /// Opens another.
    fn add(&mut self, host: &mut Host, at: Socket) -> Result<(), host::Error> {
        match self {
            Self::Closed => {}
            Self::Tcp(listeners) => listeners.push(host.listen(Some(at.0), at.1)?),
            Self::Udp(relay) => relay.add(host.bind(Some(at.0), at.1)?),
        }
        Ok(())
    }

    /// Closes them all.
    fn close(&mut self, host: &mut Host) {
        match std::mem::replace(self, Self::Closed) {
            Self::Closed => {}
            Self::Tcp(listeners) => listeners.into_iter().for_each(|listener| host.unlisten(listener)),
            Self::Udp(relay) => relay.close(host),
        }
    }
}
