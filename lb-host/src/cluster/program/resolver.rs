//! A pod's resolver on its host: `dns::client` over UDP, and over TCP where a datagram was cut.

use std::time::Duration;

use lb_core::{Address, Instant};

use super::Program;
use crate::dns::RecordType;
use crate::dns::client::{Config, Lookup, Outcome, Send};
use crate::dns::server::Transport;
use crate::dns::stream::Stream;
use crate::host::{ConnectionId, Host, Socket, UdpId};

/// Looks names up, one after the other.
pub struct Resolver {
    config: Config,
    /// Its port; 0 for another each time.
    port: u16,
    id: u16,
    socket: Option<UdpId>,
    under_way: Option<UnderWay>,
}

/// A lookup, what was sent last, and until when it is waited for.
struct UnderWay {
    lookup: Lookup,
    sent: Option<(Send, Instant)>,
    stream: Option<(ConnectionId, Stream)>,
}

impl Resolver {
    /// A resolver that asks from `port`, or from one of the host's choice if that is 0.
    pub const fn new(config: Config, port: u16) -> Self {
        Self { config, port, id: 1, socket: None, under_way: None }
    }

    /// Begins to look for a name. False if it can't be one.
    pub fn start(&mut self, name: &str, types: &[RecordType]) -> bool {
        self.id = self.id.wrapping_add(16);
        let lookup = Lookup::new(&self.config, name, types, self.id).ok();
        self.under_way = lookup.map(|lookup| UnderWay { lookup, sent: None, stream: None });
        self.under_way.is_some()
    }

    /// Goes on; what came of it once that is known.
    pub fn poll(&mut self, host: &mut Host, now: Instant) -> Option<Outcome> {
        let mut at = self.under_way.take()?;
        loop {
            if let Some(outcome) = at.lookup.outcome() {
                let outcome = outcome.clone();
                self.hang_up(&mut at, host);
                return Some(outcome);
            }
            let Some((sent, deadline)) = at.sent.clone() else {
                self.ask(&mut at, host, now);
                continue;
            };
            let heard = match sent.transport {
                Transport::Udp => self.hear_datagram(&mut at, host, &sent),
                Transport::Tcp => hear_stream(&mut at, host),
            };
            match heard {
                Some(true) => {}
                Some(false) => at.lookup.timed_out(),
                None if now >= deadline => at.lookup.timed_out(),
                None => {
                    self.under_way = Some(at);
                    return None;
                }
            }
            at.sent = None;
            self.hang_up(&mut at, host);
        }
    }

    /// When it is to be asked again if nothing comes.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.under_way.as_ref()?.sent.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Gives up what is under way, and its port.
    pub fn end(&mut self, host: &mut Host) {
        if let Some(mut at) = self.under_way.take() {
            self.hang_up(&mut at, host);
        }
        self.socket.take().into_iter().for_each(|socket| host.unbind(socket));
    }

    fn ask(&mut self, at: &mut UnderWay, host: &mut Host, now: Instant) {
        let Some(send) = at.lookup.next() else { return };
        let to: Socket = (send.server.ip().into(), send.server.port());
        let sent = match send.transport {
            Transport::Udp => {
                self.socket = self.socket.or_else(|| host.bind(None, self.port).ok());
                self.socket.is_some_and(|socket| host.send_to(socket, None, to, &send.query).is_ok())
            }
            Transport::Tcp => {
                let mut stream = Stream::default();
                stream.send(&send.query);
                at.stream = host.connect(now, None, to).ok().map(|id| (id, stream));
                at.stream.is_some()
            }
        };
        let deadline = if sent { now.saturating_add(send.timeout) } else { now };
        at.sent = Some((send, deadline));
    }

    /// Whether the answer has come; false once there is none to come.
    fn hear_datagram(&self, at: &mut UnderWay, host: &mut Host, sent: &Send) -> Option<bool> {
        let socket = self.socket?;
        let server: Socket = (sent.server.ip().into(), sent.server.port());
        while let Some(datagram) = host.recv_from(socket) {
            if datagram.from == server && at.lookup.response(&datagram.payload) {
                return Some(true);
            }
        }
        // A connected socket is told of refusals.
        let refused = std::iter::from_fn(|| host.udp_error(socket)).any(|(to, _)| to == server);
        refused.then_some(false)
    }

    fn hang_up(&mut self, at: &mut UnderWay, host: &mut Host) {
        at.stream.take().into_iter().for_each(|(id, _)| host.release(id));
        if self.port == 0 {
            self.socket.take().into_iter().for_each(|socket| host.unbind(socket));
        }
    }
}

/// The same over a connection.
fn hear_stream(at: &mut UnderWay, host: &mut Host) -> Option<bool> {
    let (id, stream) = at.stream.as_mut()?;
    let mut arrived = Vec::new();
    let more = host.send(*id, stream.output()).and_then(|sent| {
        stream.sent(sent);
        host.recv(*id, &mut arrived)
    });
    stream.receive(&arrived);
    if let Some(message) = stream.message() {
        return Some(at.lookup.response(&message));
    }
    (more != Ok(true)).then_some(false)
}

/// What came of a [`DnsClient`]'s lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// How.
    pub outcome: Outcome,
}

impl Resolved {
    /// The addresses that were found.
    pub fn addresses(&self) -> Vec<Address> {
        self.outcome.addresses().map(Address::from).collect()
    }
}

/// Looks one name up again and again.
pub struct DnsClient {
    resolver: Resolver,
    name: String,
    types: Vec<RecordType>,
    left: u64,
    interval: Duration,
    next: Option<Instant>,
    started: Option<Instant>,
    lookups: Vec<Resolved>,
}

impl DnsClient {
    /// So many times, each begun no sooner than `interval` after the one before.
    pub fn new(resolver: Resolver, name: &str, types: &[RecordType], times: u64, interval: Duration) -> Self {
        let (next, started, lookups) = Default::default();
        Self { resolver, name: name.to_owned(), types: types.to_vec(), left: times, interval, next, started, lookups }
    }

    /// What came of the lookups so far.
    pub fn lookups(&self) -> &[Resolved] {
        &self.lookups
    }

    /// Looks no more up once the lookup under way has come to its end.
    pub const fn finish(&mut self) {
        self.left = 0;
    }

    /// Whether all have come to their end.
    pub const fn is_done(&self) -> bool {
        self.left == 0 && self.started.is_none()
    }
}

impl Program for DnsClient {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        loop {
            let Some(started) = self.started else {
                if self.left == 0 || self.next.is_some_and(|next| now < next) {
                    return;
                }
                self.left -= 1;
                self.next = Some(now.saturating_add(self.interval));
                self.started = self.resolver.start(&self.name, &self.types).then_some(now);
                if self.started.is_none() {
                    self.lookups.push(Resolved { started: now, ended: now, outcome: Outcome::NoName });
                }
                continue;
            };
            let Some(outcome) = self.resolver.poll(host, now) else { return };
            self.lookups.push(Resolved { started, ended: now, outcome });
            self.started = None;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.started {
            Some(_) => self.resolver.next_deadline(),
            None => (self.left > 0).then(|| self.next.unwrap_or(Instant::ORIGIN)),
        }
    }

    fn end(&mut self, host: &mut Host) {
        (self.left, self.started) = (0, None);
        self.resolver.end(host);
    }
}
