//! A machine's TCP/IP stack in memory: packets and time in, packets and the next deadline out. No clock, no randomness but
//! a seed, no thread.
//!
//! smoltcp speaks TCP, UDP and ICMP. Around it stands what a machine has besides: a backlog of connections on one port,
//! ephemeral ports, ICMP errors that reach whom they concern, a path's MTU, and a list of what nobody here asked for.
//!
//! ```
//! use lb_core::{Address, Instant};
//! use lb_host::host::Host;
//!
//! let (a, b) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2]));
//! let (mut client, mut server) = (Host::new(&[a], 1), Host::new(&[b], 2));
//! let now = Instant::ORIGIN;
//! let listener = server.listen(None, 80).unwrap();
//! let connection = client.connect(now, None, (b, 80)).unwrap();
//! for _ in 0..3 {
//!     client.poll(now).into_iter().for_each(|packet| server.receive(now, packet));
//!     server.poll(now).into_iter().for_each(|packet| client.receive(now, packet));
//! }
//! assert!(client.is_established(connection));
//! let accepted = server.accept(listener).unwrap();
//! assert_eq!(server.remote(accepted).unwrap().0, a);
//! ```

mod error;
mod ping;
mod queue;
mod recent;
mod stray;
mod tcp;
mod udp;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use lb_core::wire::{Content, Headers, parse};
use lb_core::{Address, Instant, Link, Tuple};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::chance::Chance;
use queue::Queue;
use recent::Recent;

pub use error::Error;
pub use ping::Echo;
pub use stray::{Strangeness, Stray};
pub use tcp::{ConnectionId, ListenerId};
pub use udp::{Datagram, UdpId};

/// An address and a port.
pub type Socket = (Address, u16);

/// What an Ethernet carries.
pub const MTU: usize = 1500;

/// The first port that clients are given, and how many those are: Linux' `ip_local_port_range`, above all NodePorts.
const EPHEMERAL: (u16, u16) = (32_768, 28_232);

/// Addresses that a host may have.
pub const ADDRESSES: usize = 8;

/// A machine's TCP/IP stack. See the module's own words.
pub struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Queue,
    addresses: Vec<Address>,
    any: bool,
    chance: Chance,
    next_id: u64,
    listeners: BTreeMap<ListenerId, tcp::Listener>,
    connections: BTreeMap<ConnectionId, tcp::Connection>,
    /// Connections by their two ends, this host's first.
    by_ends: BTreeMap<(Socket, Socket), ConnectionId>,
    /// The ends of connections that were, and of datagrams sent from ports that were given back.
    ended: Recent,
    datagrams: BTreeMap<UdpId, udp::Bound>,
    pinger: Option<ping::Pinger>,
    strays: VecDeque<Stray>,
    stray_counts: BTreeMap<Strangeness, u64>,
}

impl Host {
    /// A host with these addresses, at most [`ADDRESSES`], the first of each family being the one it speaks under unless
    /// told otherwise.
    ///
    /// # Panics
    /// If there are more.
    pub fn new(addresses: &[Address], seed: u64) -> Self {
        Self::with_mtu(addresses, MTU, seed)
    }

    /// The same on a link with this MTU in bytes, at least 1280 (RFC 8200 §5).
    pub fn with_mtu(addresses: &[Address], mtu: usize, seed: u64) -> Self {
        assert!(addresses.len() <= ADDRESSES, "a host has at most {ADDRESSES} addresses");
        let mut chance = Chance::new(seed).named("host");
        let mut wire = Queue { arrived: None, sent: VecDeque::new(), mtu };
        let interface = interface(&mut wire, addresses, chance.draw());
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            addresses: addresses.to_vec(),
            any: false,
            chance,
            next_id: 0,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            ended: Recent::default(),
            datagrams: BTreeMap::new(),
            pinger: None,
            strays: VecDeque::new(),
            stray_counts: BTreeMap::new(),
        }
    }

    /// Takes packets for any address as its own from now on, and answers in that address's name: whoever hands them in
    /// has seen to it that they are meant.
    pub fn accept_any(&mut self) {
        self.any = true;
        self.interface.set_any_ip(true);
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The address it speaks under to one of `other`'s family; `None` if it has none.
    pub fn address_towards(&self, other: Address) -> Option<Address> {
        self.addresses.iter().copied().find(|own| own.is_v4() == other.is_v4())
    }

    /// Takes a packet from the wire, from its IP header on. What it answers at once is among what [`poll`](Self::poll)
    /// gives.
    pub fn receive(&mut self, now: Instant, packet: Vec<u8>) {
        let Ok(Some(headers)) = parse(&packet, Link::Ip) else {
            return self.note(now, Strangeness::Malformed, Tuple::default(), packet);
        };
        let tuple = headers.tuple;
        if !self.any && !self.addresses.contains(&tuple.destination) {
            return self.note(now, Strangeness::NotAddressed, tuple, packet);
        }
        if !stray::checksum_holds(&packet, &headers) {
            return self.note(now, Strangeness::WrongChecksum, tuple, packet);
        }
        match headers.content {
            Content::Tcp(flags) => self.receive_segment(now, flags, &headers, packet),
            Content::Udp => self.receive_datagram(now, tuple, packet),
            Content::Error(quoted) => self.receive_error(now, &headers, quoted.tuple, packet),
            Content::Other if self.is_error(&headers, &packet) => self.receive_ping_error(now, &headers, packet),
            _ => self.ingest(now, packet),
        }
    }

    /// What is to go out by now, in order.
    pub fn poll(&mut self, now: Instant) -> VecDeque<Vec<u8>> {
        let now = time(now);
        self.interface.poll_maintenance(now);
        // Each round sends at most one packet a socket.
        let mut before = usize::MAX;
        while before != self.wire.sent.len() {
            before = self.wire.sent.len();
            self.interface.poll_egress(now, &mut self.wire, &mut self.sockets);
        }
        self.reap();
        std::mem::take(&mut self.wire.sent)
    }

    /// When [`poll`](Self::poll) is next due if nothing comes before; not after `now` if there is something to be sent.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if !self.wire.sent.is_empty() {
            return Some(now);
        }
        let due = self.interface.poll_at(time(now), &self.sockets)?;
        Some(Instant::from_nanos(u64::try_from(due.total_micros()).unwrap_or(0).saturating_mul(1000)).max(now))
    }

    /// The packets that reached no socket, oldest first; a few are kept whole, all are counted.
    pub fn strays(&self) -> impl Iterator<Item = &Stray> {
        self.strays.iter()
    }

    /// How many of each sort there were.
    pub fn stray_counts(&self) -> &BTreeMap<Strangeness, u64> {
        &self.stray_counts
    }

    /// Lets the stack read a packet.
    fn ingest(&mut self, now: Instant, packet: Vec<u8>) {
        self.wire.arrived = Some(packet);
        self.interface.poll_ingress_single(time(now), &mut self.wire, &mut self.sockets);
    }

    fn note(&mut self, time: Instant, strangeness: Strangeness, tuple: Tuple, packet: Vec<u8>) {
        *self.stray_counts.entry(strangeness).or_default() += 1;
        if self.strays.len() < stray::KEPT {
            self.strays.push_back(Stray { time, strangeness, tuple, packet });
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A port of the ephemeral range that is not `taken`; `None` if all are.
    fn ephemeral(&mut self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        let (first, count) = EPHEMERAL;
        let start = self.chance.below(count.into()) as u16;
        (0..count).map(|step| first + (start + step) % count).find(|port| !taken(*port))
    }

    /// Whether a message of no known flow is an ICMP error all the same.
    fn is_error(&self, headers: &Headers, packet: &[u8]) -> bool {
        packet.get(usize::from(headers.transport)).is_some_and(|kind| error::is_error(headers.tuple.protocol, *kind))
    }

    /// Speaks in packets of at most `mtu` bytes from now on (RFC 1191, RFC 8201), on all paths: a machine in the box
    /// has few.
    fn narrow(&mut self, mtu: usize) {
        if mtu < self.wire.mtu {
            self.wire.mtu = mtu;
            // Sockets live beside the interface, which alone knows the MTU.
            self.interface = interface(&mut self.wire, &self.addresses, self.chance.draw());
            self.interface.set_any_ip(self.any);
        }
    }
}

fn interface(wire: &mut Queue, addresses: &[Address], seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, wire, time(Instant::ORIGIN));
    interface.update_ip_addrs(|own| {
        for address in addresses {
            let length = if address.is_v4() { 32 } else { 128 };
            // `new` has counted them.
            let _ = own.push(IpCidr::new(ip(*address), length));
        }
    });
    // Over Medium::Ip a gateway is only a word: everything goes out on the one wire.
    for address in addresses {
        let _ = match IpAddr::from(*address) {
            IpAddr::V4(own) => interface.routes_mut().add_default_ipv4_route(own),
            IpAddr::V6(own) => interface.routes_mut().add_default_ipv6_route(own),
        };
    }
    interface
}

fn time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn ip(address: Address) -> IpAddress {
    IpAddr::from(address).into()
}

fn address(ip: IpAddress) -> Address {
    IpAddr::from(ip).into()
}
