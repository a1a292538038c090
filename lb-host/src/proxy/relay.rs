//! UDP behind a proxy port: a socket of its own towards an endpoint for every client, as long as one of them speaks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use lb_core::{Address, Direction, Instant};

use super::Counters;
use super::rota::Rota;
use crate::host::{Datagram, Host, Socket, UdpId};

/// Bytes of a datagram that are passed on; the rest is cut off (SEMANTICS §14.5).
pub const DATAGRAM: usize = 4096;

/// The sockets of one service port.
pub(super) struct Relay {
    /// What clients send to.
    sockets: Vec<UdpId>,
    clients: BTreeMap<(UdpId, Socket), Client>,
}

/// A client and its way to an endpoint.
struct Client {
    /// The address that it sends to, and that answers come from.
    own: Address,
    upstream: UdpId,
    endpoint: Socket,
    idle_at: Instant,
}

/// What a relay works with.
pub(super) struct Round<'a> {
    pub(super) now: Instant,
    pub(super) idle: Duration,
    /// Clients that may still come.
    pub(super) room: usize,
    pub(super) host: &'a mut Host,
    pub(super) rota: &'a mut Rota,
    pub(super) counters: &'a mut Counters,
}

impl Relay {
    pub(super) const fn new(sockets: Vec<UdpId>) -> Self {
        Self { sockets, clients: BTreeMap::new() }
    }

    /// Another socket that clients send to.
    pub(super) fn add(&mut self, socket: UdpId) {
        self.sockets.push(socket);
    }

    /// Passes on what has come from either side, and closes what has been silent for too long.
    pub(super) fn poll(&mut self, round: &mut Round<'_>) {
        let now = round.now;
        self.forget(round.host, |_, client| client.idle_at <= now);
        for socket in self.sockets.clone() {
            // Nobody reads what goes wrong with answers.
            while round.host.udp_error(socket).is_some() {}
            while let Some(datagram) = round.host.recv_from(socket) {
                self.forth(round, socket, &datagram);
            }
        }
        for ((socket, client), way) in &mut self.clients {
            while let Some(datagram) = round.host.recv_from(way.upstream) {
                // It is as if connected: nobody else is heard.
                if datagram.from != way.endpoint {
                    continue;
                }
                way.idle_at = now.saturating_add(round.idle);
                let payload = round.counters.cut(&datagram.payload);
                let sent = round.host.send_to(*socket, Some(way.own), *client, payload);
                round.counters.count_datagram(Direction::Reply, sent);
            }
        }
        // Nobody is there: the client's next datagram is for another.
        self.forget(round.host, |host, client| {
            std::iter::from_fn(|| host.udp_error(client.upstream)).any(|(about, _)| about == client.endpoint)
        });
    }

    fn forth(&mut self, round: &mut Round<'_>, socket: UdpId, datagram: &Datagram) {
        let client = match self.clients.entry((socket, datagram.from)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let Some((upstream, endpoint)) = round.way(datagram.from.0) else {
                    round.counters.refused += 1;
                    return;
                };
                vacant.insert(Client { own: datagram.to, upstream, endpoint, idle_at: round.now })
            }
        };
        client.idle_at = round.now.saturating_add(round.idle);
        let payload = round.counters.cut(&datagram.payload);
        let sent = round.host.send_to(client.upstream, None, client.endpoint, payload);
        round.counters.count_datagram(Direction::Original, sent);
    }

    fn forget(&mut self, host: &mut Host, over: impl Fn(&mut Host, &Client) -> bool) {
        self.clients.retain(|_, client| {
            let over = over(host, client);
            if over {
                host.unbind(client.upstream);
            }
            !over
        });
    }

    /// Closes every socket.
    pub(super) fn close(mut self, host: &mut Host) {
        self.forget(host, |_, _| true);
        self.sockets.drain(..).for_each(|socket| host.unbind(socket));
    }

    /// Clients that have a way to an endpoint.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// When the first of them will have been silent for too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.clients.values().map(|client| client.idle_at).min()
    }
}

impl Round<'_> {
    /// A socket towards the next endpoint for this client, and that one.
    fn way(&mut self, client: Address) -> Option<(UdpId, Socket)> {
        self.room = self.room.checked_sub(1)?;
        self.counters.connections += 1;
        let endpoint = self.rota.next(self.now, client, false)?;
        let own = self.host.address_towards(endpoint.0)?;
        Some((self.host.bind(Some(own), 0).ok()?, endpoint))
    }
}
