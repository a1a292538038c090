//! TCP as programs use it. A connection has a socket of smoltcp's; a listener has none, but one is made for every SYN that
//! comes, as smoltcp's sockets take one connection each.

use std::collections::VecDeque;

use lb_core::wire::{Headers, TcpFlags};
use lb_core::{Address, Instant, Protocol, Tuple};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{self, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use super::{Error, Host, Socket, Strangeness, ip};

/// The name of a connection on its host, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// The name of a listener on its host, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u64);

/// Bytes that each side of a connection holds: with this much and more on its way a window is scaled (RFC 7323 §2).
const BUFFER: usize = 1 << 16;

/// Connections that may wait to be accepted (Linux' `somaxconn` of old).
const BACKLOG: usize = 128;

/// How long a SYN is repeated: Linux' six retries.
const CONNECT: Duration = Duration::from_secs(127);

/// How long one side waits for the other when no program does any more: some of the longest pauses, a minute each,
/// between two repetitions (RFC 6298 §2.5).
const ORPHAN: Duration = Duration::from_secs(300);

pub(super) struct Listener {
    address: Option<Address>,
    port: u16,
    waiting: VecDeque<ConnectionId>,
}

pub(super) struct Connection {
    handle: SocketHandle,
    own: Socket,
    other: Socket,
    failed: Option<Error>,
    /// The newest acknowledgment number that came.
    confirmed: Option<u32>,
    /// Both sides have heard each other.
    established: bool,
    /// This side gave it up.
    aborted: bool,
    /// No program holds it, not yet or not any more.
    released: bool,
}

impl Host {
    /// Listens on a port, on one address or on all; port 0 is one of the host's own choice.
    ///
    /// # Errors
    /// [`Error::InUse`] if somebody does.
    pub fn listen(&mut self, address: Option<Address>, port: u16) -> Result<ListenerId, Error> {
        let listeners = std::mem::take(&mut self.listeners);
        let taken = |port: u16| {
            listeners.values().any(|other| {
                other.port == port && (other.address.is_none() || address.is_none() || other.address == address)
            })
        };
        let chosen = match port {
            0 => self.ephemeral(taken),
            port => Some(port).filter(|port| !taken(*port)),
        };
        self.listeners = listeners;
        let port = chosen.ok_or(Error::InUse)?;
        let id = ListenerId(self.fresh_id());
        self.listeners.insert(id, Listener { address, port, waiting: VecDeque::new() });
        Ok(id)
    }

    /// The port that is listened on.
    pub fn listener_port(&self, id: ListenerId) -> Option<u16> {
        self.listeners.get(&id).map(|listener| listener.port)
    }

    /// Listens no more; connections that nobody has accepted are reset.
    pub fn unlisten(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.remove(&id) {
            for waiting in listener.waiting {
                self.abort(waiting);
            }
        }
    }

    /// The next connection that is established and that nobody has accepted yet.
    pub fn accept(&mut self, id: ListenerId) -> Option<ConnectionId> {
        let connections = &self.connections;
        let waiting = &mut self.listeners.get_mut(&id)?.waiting;
        waiting.retain(|id| connections.contains_key(id));
        let ready = waiting.iter().position(|id| connections.get(id).is_some_and(|waiting| waiting.established))?;
        let id = waiting.remove(ready)?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.released = false;
        }
        Some(id)
    }

    /// Begins to connect, from a port of its own choice or from `from`.
    ///
    /// # Errors
    /// [`Error::NoAddress`], or [`Error::InUse`] if these two ends are connected already.
    pub fn connect(&mut self, _now: Instant, from: Option<Socket>, to: Socket) -> Result<ConnectionId, Error> {
        let own = match from {
            Some(own) if !self.addresses.contains(&own.0) => return Err(Error::NoAddress),
            Some((address, port)) if port != 0 => (address, port),
            _ => {
                let address = match from {
                    Some((address, _)) => address,
                    None => self.address_towards(to.0).ok_or(Error::NoAddress)?,
                };
                let ends = std::mem::take(&mut self.by_ends);
                let port = self.ephemeral(|port| ends.contains_key(&((address, port), to)));
                self.by_ends = ends;
                (address, port.ok_or(Error::InUse)?)
            }
        };
        if self.by_ends.contains_key(&(own, to)) {
            return Err(Error::InUse);
        }
        let mut socket = socket_of(BUFFER);
        socket.set_timeout(Some(CONNECT));
        let (local, remote) = (IpEndpoint::new(ip(own.0), own.1), IpEndpoint::new(ip(to.0), to.1));
        socket.connect(self.interface.context(), remote, local).map_err(|_| Error::NoAddress)?;
        Ok(self.enter(socket, own, to, false))
    }

    /// Whether both sides have heard each other, the connection still being there.
    pub fn is_established(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.established && connection.failed.is_none())
    }

    /// Why the connection failed, if it did.
    pub fn failure(&self, id: ConnectionId) -> Option<Error> {
        self.connections.get(&id)?.failed
    }

    /// This side's address and port.
    pub fn local(&self, id: ConnectionId) -> Option<Socket> {
        self.connections.get(&id).map(|connection| connection.own)
    }

    /// The other side's address and port, as this side sees it.
    pub fn remote(&self, id: ConnectionId) -> Option<Socket> {
        self.connections.get(&id).map(|connection| connection.other)
    }

    /// Hands in bytes to be sent, and says how many there was room for: 0 while connecting and while the buffer is full.
    ///
    /// # Errors
    /// Why the connection failed; [`Error::Closed`] if this side has closed it.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<usize, Error> {
        let connection = self.connections.get(&id).ok_or(Error::Closed)?;
        if let Some(error) = connection.failed {
            return Err(error);
        }
        if !connection.established {
            return Ok(0);
        }
        self.sockets.get_mut::<tcp::Socket>(connection.handle).send_slice(bytes).map_err(|_| Error::Closed)
    }

    /// Takes what has arrived, appending it to `bytes`; `false` once there will be no more, as the other side has closed.
    ///
    /// # Errors
    /// Why the connection failed, when all that arrived before has been taken.
    pub fn recv(&mut self, id: ConnectionId, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let connection = self.connections.get(&id).ok_or(Error::Closed)?;
        let socket = self.sockets.get_mut::<tcp::Socket>(connection.handle);
        while socket.can_recv() {
            let taken = socket.recv(|part| {
                bytes.extend_from_slice(part);
                (part.len(), ())
            });
            if taken.is_err() {
                break;
            }
        }
        match connection.failed {
            Some(error) => Err(error),
            None => Ok(!connection.established || socket.may_recv()),
        }
    }

    /// Bytes handed in that the other side has not confirmed.
    pub fn unsent(&self, id: ConnectionId) -> usize {
        self.socket(id).map_or(0, tcp::Socket::send_queue)
    }

    /// Sends what was handed in and then says that there will be no more; the other side may go on.
    pub fn close(&mut self, id: ConnectionId) {
        self.give_up_connecting(id);
        if let Some(connection) = self.connections.get(&id) {
            self.sockets.get_mut::<tcp::Socket>(connection.handle).close();
        }
    }

    /// Who has heard nothing yet goes in silence (RFC 9293 §3.10.4, §3.10.5); smoltcp would send a reset.
    fn give_up_connecting(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            let socket = self.sockets.get_mut::<tcp::Socket>(connection.handle);
            if socket.state() == State::SynSent {
                *socket = socket_of(0);
            }
        }
    }

    /// Gives the connection up with a reset.
    pub fn abort(&mut self, id: ConnectionId) {
        self.give_up_connecting(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.aborted = true;
            connection.released = true;
            self.sockets.get_mut::<tcp::Socket>(connection.handle).abort();
        }
    }

    /// Closes a connection that the program will not ask about again; the stack sees it to its end.
    pub fn release(&mut self, id: ConnectionId) {
        self.close(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.released = true;
            self.sockets.get_mut::<tcp::Socket>(connection.handle).set_timeout(Some(ORPHAN));
        }
    }

    /// How many connections there are, those that only wait for late segments included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn receive_segment(&mut self, now: Instant, flags: TcpFlags, headers: &Headers, packet: Vec<u8>) {
        let tuple = headers.tuple;
        let (own, other) = ((tuple.destination, tuple.destination_port), (tuple.source, tuple.source_port));
        let begins = flags.syn() && !flags.ack();
        let known = self.by_ends.get(&(own, other)).copied();
        // RFC 9293 §3.6.1: a new SYN may take over a connection that only waits for late segments.
        let over = known.filter(|id| begins && self.socket(*id).is_some_and(|old| old.state() == State::TimeWait));
        over.into_iter().for_each(|id| self.forget(id));
        match known.filter(|_| over.is_none()) {
            Some(id) if self.is_idle_repetition(id, flags, headers, &packet) => {}
            Some(id) => self.continue_connection(now, id, flags, packet),
            None if begins => self.begin_connection(now, own, other, tuple, packet),
            None => {
                let late = self.ended.contains(Protocol::TCP, own, other);
                let strangeness = if late { Strangeness::Late } else { Strangeness::NoSocket };
                self.note(now, strangeness, tuple, packet.clone());
                self.ingest(now, packet);
            }
        }
    }

    fn begin_connection(&mut self, now: Instant, own: Socket, other: Socket, tuple: Tuple, packet: Vec<u8>) {
        let wanted =
            |listener: &Listener| listener.port == own.1 && listener.address.is_none_or(|address| address == own.0);
        let Some((listener, waiting)) =
            self.listeners.iter().find(|(_, listener)| wanted(listener)).map(|(id, found)| (*id, found.waiting.len()))
        else {
            self.note(now, Strangeness::Closed, tuple, packet.clone());
            return self.ingest(now, packet);
        };
        if waiting >= BACKLOG {
            return self.note(now, Strangeness::BacklogFull, tuple, packet);
        }
        let mut socket = socket_of(BUFFER);
        let endpoint = IpListenEndpoint { addr: Some(ip(own.0)), port: own.1 };
        if socket.listen(endpoint).is_err() {
            return;
        }
        socket.set_timeout(Some(ORPHAN));
        let id = self.enter(socket, own, other, true);
        self.ingest(now, packet);
        self.look_at(id, false);
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.waiting.push_back(id);
        }
    }

    fn continue_connection(&mut self, now: Instant, id: ConnectionId, flags: TcpFlags, packet: Vec<u8>) {
        self.ingest(now, packet);
        self.look_at(id, flags.rst());
    }

    /// Whether a segment says once more what it said before, when nothing but this side's FIN is under way. smoltcp 0.14
    /// takes the third such for a loss, finds no data to repeat, and forgets that the FIN was to be repeated; without
    /// them the FIN's own timer does.
    fn is_idle_repetition(&mut self, id: ConnectionId, flags: TcpFlags, headers: &Headers, packet: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        // RFC 9293 §3.1: the acknowledgment number is the third word.
        let at = usize::from(headers.transport) + 8;
        let Some(number) = packet.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes) else {
            return false;
        };
        let socket = self.sockets.get::<tcp::Socket>(connection.handle);
        let closing = matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck);
        let bare = packet.get(at + 4).is_some_and(|word| u32::from(word >> 4) * 4 == headers.transport_length);
        let repeats = connection.confirmed == Some(number);
        // An older one that was overtaken counts for nothing (RFC 9293 §3.4: numbers wrap).
        if connection.confirmed.is_none_or(|newest| number.wrapping_sub(newest) as i32 > 0) {
            connection.confirmed = Some(number);
        }
        repeats && closing && bare && socket.send_queue() == 0 && !flags.fin() && !flags.rst() && !flags.syn()
    }

    /// Sees what a segment has done to a connection.
    fn look_at(&mut self, id: ConnectionId, reset: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let socket = self.sockets.get_mut::<tcp::Socket>(connection.handle);
        match socket.state() {
            // The SYN was no good, or a reset took it back: smoltcp would listen again.
            State::Listen => self.forget(id),
            State::Closed if reset && !connection.aborted => {
                let error = if connection.established { Error::Reset } else { Error::Refused };
                connection.failed = connection.failed.or(Some(error));
            }
            State::SynSent | State::SynReceived | State::Closed => {}
            _ if !connection.established => {
                connection.established = true;
                socket.set_timeout(None);
            }
            _ => {}
        }
    }

    /// An ICMP error ends a connection that is being made; one that is established lives on (RFC 1122 §4.2.3.9).
    pub(super) fn fail_connecting(&mut self, own: Socket, other: Socket, error: Error) {
        let Some(id) = self.by_ends.get(&(own, other)).copied() else { return };
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.established) else {
            return;
        };
        connection.failed = connection.failed.or(Some(error));
        // A socket in its first state sends nothing, no reset either.
        let handle = connection.handle;
        *self.sockets.get_mut::<tcp::Socket>(handle) = socket_of(0);
    }

    /// Tells connections whose time is up.
    pub(super) fn reap(&mut self) {
        let mut over = Vec::new();
        for (id, connection) in &mut self.connections {
            let socket = self.sockets.get::<tcp::Socket>(connection.handle);
            if socket.state() != State::Closed {
                continue;
            }
            if connection.released {
                over.push(*id);
            } else if !connection.established && connection.failed.is_none() {
                connection.failed = Some(Error::TimedOut);
            }
        }
        over.into_iter().for_each(|id| self.forget(id));
    }

    fn enter(&mut self, socket: tcp::Socket<'static>, own: Socket, other: Socket, released: bool) -> ConnectionId {
        let id = ConnectionId(self.fresh_id());
        let handle = self.sockets.add(socket);
        let connection = Connection {
            handle,
            own,
            other,
            failed: None,
            confirmed: None,
            established: false,
            aborted: false,
            released,
        };
        self.connections.insert(id, connection);
        self.by_ends.insert((own, other), id);
        id
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.sockets.remove(connection.handle);
            self.by_ends.remove(&(connection.own, connection.other));
            self.ended.insert(Protocol::TCP, connection.own, connection.other);
        }
    }

    fn socket(&self, id: ConnectionId) -> Option<&tcp::Socket<'static>> {
        self.connections.get(&id).map(|connection| self.sockets.get(connection.handle))
    }
}

/// A socket that holds this many bytes on each side.
fn socket_of(bytes: usize) -> tcp::Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; bytes]);
    tcp::Socket::new(buffer(), buffer())
}
