//! The server, without sockets: datagrams and streams of octets in, octets out.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::answer::{Pending, Step, answer};
use super::message::{self, Read, Request};
use super::stream::Stream;
use super::upstream::{Reply, Upstream};
use super::zone::Zone;

/// The largest datagram a server sends, whatever the client would take, unless told otherwise.
pub const DATAGRAM: u16 = 4096;

/// How a query came, which bounds its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// Answers for a zone.
#[derive(Debug)]
pub struct Server {
    /// What is served.
    pub zone: Zone,
    /// The largest datagram to send, 512 at least.
    pub datagram: u16,
    /// How many times lists of addresses have been turned; `None` leaves them sorted.
    turns: Option<AtomicUsize>,
}

/// What a query comes to.
#[derive(Debug)]
pub enum Outcome {
    /// No answer.
    Silence,
    /// This answer.
    Reply(Vec<u8>),
    /// An answer once the upstream has said its part.
    Forward(Forward),
}

/// A query whose answer waits for the upstream.
#[derive(Debug)]
pub struct Forward {
    request: Box<Request>,
    pending: Pending,
    limit: u16,
}

impl Forward {
    /// What to ask the upstream.
    pub fn question(&self) -> &super::Question {
        self.pending.question()
    }

    /// The id of the query, which may serve again: it is the client's choice.
    pub fn id(&self) -> u16 {
        self.request.id()
    }

    /// The answer, with what the upstream said; `None` if it said nothing.
    pub fn finish(self, reply: Option<Reply>) -> Vec<u8> {
        self.request.reply(&self.pending.finish(reply), true, self.limit)
    }
}

impl Server {
    /// Serves a zone; addresses are listed in the order of their numbers.
    pub fn new(zone: Zone) -> Self {
        Self { zone, datagram: DATAGRAM, turns: None }
    }

    /// From now on each list of addresses starts with another than the one before, as most clusters have it.
    pub fn turning(mut self) -> Self {
        self.turns = Some(AtomicUsize::new(0));
        self
    }

    /// What a query comes to. `forwards` is whether there is an upstream to ask.
    pub fn take(&self, query: &[u8], transport: Transport, forwards: bool) -> Outcome {
        let request = match message::read(query) {
            Read::Silence => return Outcome::Silence,
            Read::Refusal(bytes) => return Outcome::Reply(bytes),
            Read::Request(request) => request,
        };
        let limit = match transport {
            Transport::Udp => request.datagram(self.datagram),
            Transport::Tcp => u16::MAX,
        };
        let turn = self.turns.as_ref().map_or(0, |turns| turns.fetch_add(1, Ordering::Relaxed));
        match answer(&self.zone, &request.question, forwards, turn) {
            Step::Done(answer) => Outcome::Reply(request.reply(&answer, forwards, limit)),
            Step::Ask(pending) => Outcome::Forward(Forward { request, pending, limit }),
        }
    }

    /// The answer to a query that came in some way, if it gets one.
    pub fn answer(&self, query: &[u8], transport: Transport, upstream: Option<&dyn Upstream>) -> Option<Vec<u8>> {
        match self.take(query, transport, upstream.is_some()) {
            Outcome::Silence => None,
            Outcome::Reply(bytes) => Some(bytes),
            Outcome::Forward(forward) => {
                let reply = upstream.and_then(|upstream| upstream.ask(forward.question()));
                Some(forward.finish(reply))
            }
        }
    }

    /// The datagram that answers a datagram, if one does.
    pub fn datagram(&self, query: &[u8], upstream: Option<&dyn Upstream>) -> Option<Vec<u8>> {
        self.answer(query, Transport::Udp, upstream)
    }

    /// Answers the queries that a stream has gathered, in order. Call it after octets were received, and again
    /// after some were sent.
    pub fn stream(&self, stream: &mut Stream, upstream: Option<&dyn Upstream>) {
        while let Some(query) = stream.message() {
            if let Some(reply) = self.answer(&query, Transport::Tcp, upstream) {
                stream.send(&reply);
            }
        }
    }
}
