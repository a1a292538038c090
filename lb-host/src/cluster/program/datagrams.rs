//! UDP: a server that answers with its name, and a client that asks from one port of its own as resolvers of old did.

use std::time::Duration;

use lb_core::Instant;

use super::{Program, seen};
use crate::host::{Error, Host, Socket, UdpId};

/// Answers every datagram with `<name> <client>\n` and what the datagram said.
pub struct DatagramServer {
    name: String,
    port: u16,
    socket: Option<UdpId>,
    served: u64,
}

impl DatagramServer {
    /// A server of this name on a port of all addresses.
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port, socket: None, served: 0 }
    }

    /// How many datagrams were answered.
    pub const fn served(&self) -> u64 {
        self.served
    }
}

impl Program for DatagramServer {
    fn poll(&mut self, host: &mut Host, _: Instant) {
        if self.socket.is_none() {
            self.socket = host.bind(None, self.port).ok();
        }
        let Some(socket) = self.socket else { return };
        while let Some(datagram) = host.recv_from(socket) {
            let mut answer = format!("{} {}\n", self.name, seen(datagram.from)).into_bytes();
            answer.extend_from_slice(&datagram.payload);
            // One that can't be sent is lost, as datagrams are.
            let sent = host.send_to(socket, Some(datagram.to), datagram.from, &answer);
            self.served += u64::from(sent.is_ok());
        }
    }

    fn end(&mut self, host: &mut Host) {
        self.socket.take().into_iter().for_each(|socket| host.unbind(socket));
    }
}

/// Asks one server so many times, a datagram each `interval`, without waiting for answers.
pub struct DatagramClient {
    to: Socket,
    port: u16,
    payload: Vec<u8>,
    left: u64,
    interval: Duration,
    next: Option<Instant>,
    socket: Option<UdpId>,
    queries: Vec<Query>,
    strangers: Vec<Socket>,
}

/// One datagram and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// When it was sent.
    pub sent: Instant,
    /// What came back first, and when; `None` while nothing has.
    pub result: Option<(Instant, Result<Answer, Error>)>,
}

/// What a [`DatagramServer`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who.
    pub served_by: String,
    /// The client's address and port as the server saw it.
    pub seen_as: String,
    /// Whether what was asked came back byte by byte.
    pub exact: bool,
}

impl DatagramClient {
    /// From `port`, or from one of the host's choice if that is 0, `count` times.
    pub fn new(port: u16, to: Socket, count: u64, interval: Duration) -> Self {
        let payload = b"query".to_vec();
        Self {
            to,
            port,
            payload,
            left: count,
            interval,
            next: None,
            socket: None,
            queries: Vec::new(),
            strangers: Vec::new(),
        }
    }

    /// With this much to say, which comes back.
    #[must_use]
    pub fn payload(self, payload: Vec<u8>) -> Self {
        Self { payload, ..self }
    }

    /// What came of the queries so far.
    pub fn queries(&self) -> &[Query] {
        &self.queries
    }

    /// Who else sent something to this port: an answer that was not translated back.
    pub fn strangers(&self) -> &[Socket] {
        &self.strangers
    }

    /// A query's own words: its number, so that an answer finds it, and the payload.
    fn words(&self, number: usize) -> Vec<u8> {
        let mut words = (number as u64).to_be_bytes().to_vec();
        words.extend_from_slice(&self.payload);
        words
    }

    fn take(&mut self, now: Instant, payload: &[u8]) {
        let Some(end) = payload.iter().position(|byte| *byte == b'\n') else { return };
        let (line, echoed) = payload.split_at(end);
        let echoed = echoed.get(1..).unwrap_or_default();
        let Some(number) = echoed.first_chunk().map(|number| u64::from_be_bytes(*number) as usize) else { return };
        let exact = echoed == self.words(number);
        let line = String::from_utf8_lossy(line).into_owned();
        let (served_by, seen_as) = line.split_once(' ').unwrap_or_default();
        let answer = Answer { served_by: served_by.to_owned(), seen_as: seen_as.to_owned(), exact };
        if let Some(query) = self.queries.get_mut(number) {
            query.result.get_or_insert((now, Ok(answer)));
        }
    }
}

impl Program for DatagramClient {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        if self.socket.is_none() {
            self.socket = host.bind(None, self.port).ok();
        }
        let Some(socket) = self.socket else { return };
        while let Some(datagram) = host.recv_from(socket) {
            if datagram.from == self.to {
                self.take(now, &datagram.payload);
            } else {
                self.strangers.push(datagram.from);
            }
        }
        while let Some((_, error)) = host.udp_error(socket) {
            // It does not say which: the oldest that waits.
            if let Some(query) = self.queries.iter_mut().find(|query| query.result.is_none()) {
                query.result = Some((now, Err(error)));
            }
        }
        if self.left > 0 && self.next.is_none_or(|next| now >= next) {
            self.left -= 1;
            self.next = Some(now.saturating_add(self.interval));
            let sent = host.send_to(socket, None, self.to, &self.words(self.queries.len()));
            self.queries.push(Query { sent: now, result: sent.err().map(|error| (now, Err(error))) });
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        (self.left > 0).then(|| self.next.unwrap_or(Instant::ORIGIN))
    }

    fn end(&mut self, host: &mut Host) {
        self.left = 0;
        self.socket.take().into_iter().for_each(|socket| host.unbind(socket));
    }
}
