//! A DNS server on a host: UDP and TCP on one port, `dns::Server` behind both.

use std::time::Duration;

use lb_core::Instant;

use super::Program;
use crate::dns::stream::Stream;
use crate::dns::{Outside, Server, Zone};
use crate::host::{ConnectionId, Host, ListenerId, UdpId};

/// How long it goes on answering datagrams once it was asked to end: CoreDNS' `lameduck`, as kubeadm sets it.
const LAME: Duration = Duration::from_secs(5);

/// Serves a zone, and asks nobody about the rest of the world: it knows that as a table. Asked to end, it takes no more
/// connections, so that whoever asks whether it is ready is told, and goes on answering datagrams until all have heard.
pub struct DnsServer {
    server: Server,
    upstream: Outside,
    port: u16,
    socket: Option<UdpId>,
    listener: Option<ListenerId>,
    open: Vec<(ConnectionId, Stream)>,
    answered: u64,
    stage: Stage,
}

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// It was asked to end, and has not had its turn since.
    Asked,
    /// It ends then.
    Lame(Instant),
    Over,
}

impl DnsServer {
    /// A server on a port of all addresses.
    pub fn new(zone: Zone, upstream: Outside, port: u16) -> Self {
        let (socket, listener, open) = Default::default();
        Self { server: Server::new(zone), upstream, port, socket, listener, open, answered: 0, stage: Stage::Serving }
    }

    /// The zone that is served.
    pub const fn zone(&mut self) -> &mut Zone {
        &mut self.server.zone
    }

    /// The rest of the world.
    pub const fn upstream(&mut self) -> &mut Outside {
        &mut self.upstream
    }

    /// How many datagrams were answered.
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// False when the connection is done with; `None` when it has failed.
    fn serve(&self, host: &mut Host, id: ConnectionId, stream: &mut Stream) -> Option<bool> {
        let mut arrived = Vec::new();
        let more = host.recv(id, &mut arrived).ok()?;
        let mut rest = arrived.as_slice();
        loop {
            let taken = stream.receive(rest);
            rest = &rest[taken..];
            self.server.stream(stream, Some(&self.upstream));
            let sent = host.send(id, stream.output()).ok()?;
            stream.sent(sent);
            if rest.is_empty() || taken == 0 {
                // A client that asks so much and reads so little is not served.
                return Some(rest.is_empty() && (more || !stream.output().is_empty()));
            }
        }
    }
}

impl Program for DnsServer {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        match self.stage {
            Stage::Serving => {
                self.socket = self.socket.or_else(|| host.bind(None, self.port).ok());
                self.listener = self.listener.or_else(|| host.listen(None, self.port).ok());
            }
            Stage::Asked => self.stage = Stage::Lame(now.saturating_add(LAME)),
            Stage::Lame(end) if end <= now => self.end(host),
            Stage::Lame(_) | Stage::Over => {}
        }
        while let Some((socket, datagram)) = self.socket.and_then(|socket| Some((socket, host.recv_from(socket)?))) {
            if let Some(answer) = self.server.datagram(&datagram.payload, Some(&self.upstream)) {
                let sent = host.send_to(socket, Some(datagram.to), datagram.from, &answer);
                self.answered += u64::from(sent.is_ok());
            }
        }
        while let Some(id) = self.listener.and_then(|listener| host.accept(listener)) {
            self.open.push((id, Stream::default()));
        }
        let mut open = std::mem::take(&mut self.open);
        open.retain_mut(|(id, stream)| {
            let goes_on = self.serve(host, *id, stream).unwrap_or(false);
            if !goes_on {
                host.release(*id);
            }
            goes_on
        });
        self.open = open;
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Lame(end) => Some(end),
            Stage::Asked => Some(Instant::ORIGIN),
            Stage::Serving | Stage::Over => None,
        }
    }

    fn stop(&mut self, host: &mut Host) {
        self.stage = Stage::Asked;
        self.listener.take().into_iter().for_each(|listener| host.unlisten(listener));
    }

    fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    fn end(&mut self, host: &mut Host) {
        self.stage = Stage::Over;
        self.socket.take().into_iter().for_each(|socket| host.unbind(socket));
        self.listener.take().into_iter().for_each(|listener| host.unlisten(listener));
        self.open.drain(..).for_each(|(id, _)| host.abort(id));
    }
}
