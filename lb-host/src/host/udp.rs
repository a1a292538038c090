//! UDP as programs use it.

use std::collections::VecDeque;

use lb_core::{Address, Instant, Protocol, Tuple};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket as UdpSocket, UdpMetadata};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use super::{EPHEMERAL, Error, Host, Recent, Socket, Strangeness, address, ip};

/// The name of a bound port on its host, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpId(u64);

/// What has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: Socket,
    /// Which of the host's addresses it was sent to.
    pub to: Address,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Datagrams and bytes that wait on each side of a socket.
const WAITING: (usize, usize) = (256, 1 << 16);

/// What is left of smoltcp's fragmentation buffer for a payload, and of a packet without fragments.
const LONGEST_V4: usize = 16_384 - 28;
const HEADERS_V6: usize = 48;

pub(super) struct Bound {
    handle: SocketHandle,
    address: Option<Address>,
    port: u16,
    errors: VecDeque<(Socket, Error)>,
    /// The two ends of what was sent, this host's first.
    asked: Recent,
}

impl Host {
    /// Binds a port, on one address or on all; port 0 is one of the host's own choice.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NoAddress`].
    pub fn bind(&mut self, address: Option<Address>, port: u16) -> Result<UdpId, Error> {
        if address.is_some_and(|address| !self.addresses.contains(&address)) {
            return Err(Error::NoAddress);
        }
        let bound = std::mem::take(&mut self.datagrams);
        let taken = |port: u16| {
            bound.values().any(|other| {
                other.port == port && (other.address.is_none() || address.is_none() || other.address == address)
            })
        };
        let chosen = match port {
            0 => self.ephemeral(taken),
            port => Some(port).filter(|port| !taken(*port)),
        };
        self.datagrams = bound;
        let port = chosen.ok_or(Error::InUse)?;
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; WAITING.0], vec![0; WAITING.1]);
        let mut socket = UdpSocket::new(buffer(), buffer());
        socket.bind(IpListenEndpoint { addr: address.map(ip), port }).map_err(|_| Error::InUse)?;
        let handle = self.sockets.add(socket);
        let id = UdpId(self.fresh_id());
        self.datagrams.insert(id, Bound { handle, address, port, errors: VecDeque::new(), asked: Recent::default() });
        Ok(id)
    }

    /// Gives the port back.
    pub fn unbind(&mut self, id: UdpId) {
        if let Some(bound) = self.datagrams.remove(&id) {
            self.sockets.remove(bound.handle);
            bound.asked.iter().for_each(|(protocol, own, other)| self.ended.insert(protocol, own, other));
        }
    }

    /// The port that a socket is bound to.
    pub fn udp_port(&self, id: UdpId) -> Option<u16> {
        self.datagrams.get(&id).map(|bound| bound.port)
    }

    /// Sends a datagram, from the address it is bound to, from `from`, or from the one towards its destination.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::NoAddress`]; [`Error::InUse`] if too many wait to be sent.
    pub fn send_to(&mut self, id: UdpId, from: Option<Address>, to: Socket, payload: &[u8]) -> Result<(), Error> {
        let towards = self.address_towards(to.0);
        let bound = self.datagrams.get_mut(&id).ok_or(Error::Closed)?;
        let own = bound.address.or(from).or(towards).ok_or(Error::NoAddress)?;
        if !self.addresses.contains(&own) || own.is_v4() != to.0.is_v4() {
            return Err(Error::NoAddress);
        }
        let longest = if own.is_v4() { LONGEST_V4 } else { self.wire.mtu - HEADERS_V6 };
        if payload.len() > longest {
            return Err(Error::TooLong);
        }
        bound.asked.insert(Protocol::UDP, (own, bound.port), to);
        let mut metadata = UdpMetadata::from(IpEndpoint::new(ip(to.0), to.1));
        metadata.local_address = Some(ip(own));
        self.sockets.get_mut::<UdpSocket>(bound.handle).send_slice(payload, metadata).map_err(|_| Error::InUse)
    }

    /// The next datagram that has arrived.
    pub fn recv_from(&mut self, id: UdpId) -> Option<Datagram> {
        let bound = self.datagrams.get(&id)?;
        let (payload, metadata) = self.sockets.get_mut::<UdpSocket>(bound.handle).recv().ok()?;
        Some(Datagram {
            from: (address(metadata.endpoint.addr), metadata.endpoint.port),
            to: metadata.local_address.map_or(Address::UNSPECIFIED, address),
            payload: payload.to_vec(),
        })
    }

    /// The next ICMP error about a datagram that was sent: to whom, and what is wrong.
    pub fn udp_error(&mut self, id: UdpId) -> Option<(Socket, Error)> {
        self.datagrams.get_mut(&id)?.errors.pop_front()
    }

    pub(super) fn receive_datagram(&mut self, now: Instant, tuple: Tuple, packet: Vec<u8>) {
        if self.bound_to((tuple.destination, tuple.destination_port)).is_none() {
            let (own, other) = ((tuple.destination, tuple.destination_port), (tuple.source, tuple.source_port));
            let strangeness = match tuple.destination_port < EPHEMERAL.0 {
                _ if self.ended.contains(Protocol::UDP, own, other) => Strangeness::Late,
                true => Strangeness::Closed,
                false => Strangeness::NoSocket,
            };
            self.note(now, strangeness, tuple, packet.clone());
        }
        self.ingest(now, packet);
    }

    /// The socket that takes what comes to one of this host's addresses.
    pub(super) fn bound_to(&self, own: Socket) -> Option<UdpId> {
        let takes = |bound: &Bound| bound.port == own.1 && bound.address.is_none_or(|address| address == own.0);
        self.datagrams.iter().find(|(_, bound)| takes(bound)).map(|(id, _)| *id)
    }

    pub(super) fn fail_datagram(&mut self, own: Socket, other: Socket, error: Error) {
        if let Some(bound) = self.bound_to(own).and_then(|id| self.datagrams.get_mut(&id)) {
            bound.errors.push_back((other, error));
        }
    }
}
