//! A stub resolver, as a Pod has it (SEMANTICS §19.9): a search list, a number of dots, servers that are tried
//! in turn, TCP where a datagram was cut. Without sockets or clock: it says what to send and how long to wait
//! for the answer, and is told what came or that nothing did.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::server::Transport;

/// What a Pod's `resolv.conf` says, and how its C library takes it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who is asked, the first first.
    pub servers: Vec<SocketAddr>,
    /// What relative names may lack.
    pub search: Vec<Name>,
    /// Names with fewer dots are looked for in the search list first, others last.
    pub ndots: usize,
    /// How often each server is asked.
    pub attempts: usize,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// The largest datagram to ask for; `None` does without EDNS and gets 512 octets.
    pub datagram: Option<u16>,
    /// Whether a name that exists without what was asked ends the search (§19.9), as musl has it; glibc goes on.
    pub stops_at_no_data: bool,
}

impl Config {
    /// What kubelet gives a Pod of policy ClusterFirst: `ns.svc.zone svc.zone zone`, ndots 5; and glibc's own
    /// two attempts of 5 s.
    ///
    /// # Errors
    /// The namespace is no label.
    pub fn pod(namespace: &str, zone: &Name, servers: Vec<SocketAddr>) -> Result<Self, ProtoError> {
        let all = zone.prepend_label("svc")?;
        Ok(Self {
            servers,
            search: vec![all.prepend_label(namespace)?, all, zone.clone()],
            ndots: 5,
            attempts: 2,
            timeout: Duration::from_secs(5),
            datagram: None,
            stops_at_no_data: false,
        })
    }

    /// The names that `name` may stand for, in the order they are tried.
    fn candidates(&self, text: &str) -> Result<VecDeque<Name>, ProtoError> {
        let mut own = Name::from_ascii(text)?;
        if own.is_fqdn() {
            return Ok(VecDeque::from([own]));
        }
        // Too long with a suffix: no such name.
        let mut names: VecDeque<_> =
            self.search.iter().filter_map(|suffix| own.clone().append_domain(suffix).ok()).collect();
        own.set_fqdn(true);
        if text.matches('.').count() < self.ndots {
            names.push_back(own)
        } else {
            names.push_front(own)
        }
        Ok(names)
    }
}

/// Something to send, and then to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub server: SocketAddr,
    /// As a datagram or, behind its length, in a stream of its own.
    pub transport: Transport,
    /// The query, without a length before it.
    pub query: Vec<u8>,
    /// How long to wait: then [`Lookup::timed_out`].
    pub timeout: Duration,
}

/// One question, put to servers until one answers it.
#[derive(Clone, Debug)]
pub struct Exchange {
    question: Query,
    id: u16,
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    timeout: Duration,
    /// How many servers are left to ask, the next one included.
    left: usize,
    transport: Transport,
    last: Option<Message>,
    answered: bool,
}

impl Exchange {
    /// A question to the servers of `config`. Answers must carry `id`.
    ///
    /// # Errors
    /// The question is too long for a message.
    pub fn new(config: &Config, question: Query, id: u16) -> Result<Self, ProtoError> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(question.clone());
        if let Some(size) = config.datagram {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        Ok(Self {
            query: message.to_vec()?,
            question,
            id,
            left: config.servers.len() * config.attempts,
            servers: config.servers.clone(),
            timeout: config.timeout,
            transport: Transport::Udp,
            last: None,
            answered: false,
        })
    }

    /// What to send next; `None` when it is over.
    pub fn next(&self) -> Option<Send> {
        let tries = self.left.checked_sub(1).filter(|_| !self.answered)?;
        let count = self.servers.len();
        // The first server is the first to be asked, and again once all have been.
        let server = *self.servers.get((count - 1).checked_sub(tries % count)?)?;
        Some(Send { server, transport: self.transport, query: self.query.clone(), timeout: self.timeout })
    }

    /// Something was received. Returns whether it was an answer; if not, go on waiting.
    pub fn response(&mut self, bytes: &[u8]) -> bool {
        let message = Message::from_vec(bytes).ok().filter(|message| self.is_answer(message));
        let Some(message) = message else { return false };
        let cut = message.metadata.truncation && self.transport == Transport::Udp;
        let code = message.metadata.response_code;
        self.last = Some(message);
        match code {
            _ if cut => self.transport = Transport::Tcp,
            ResponseCode::NoError | ResponseCode::NXDomain => self.answered = true,
            _ => self.timed_out(),
        }
        true
    }

    /// No answer came in time, or the connection failed: the next server's turn.
    pub fn timed_out(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.transport = Transport::Udp;
    }

    /// The answer; or, if all servers failed, the last failure that one of them told.
    pub fn answer(&self) -> Option<&Message> {
        self.last.as_ref()
    }

    fn is_answer(&self, message: &Message) -> bool {
        let header = &message.metadata;
        // A server that cannot read the question answers without it.
        let same = message
            .queries
            .first()
            .map_or(header.response_code != ResponseCode::NoError, |question| *question == self.question);
        self.next().is_some() && header.id == self.id && header.message_type == MessageType::Response && same
    }
}

/// How a lookup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records of this name, aliases and what they lead to included.
    Found {
        /// The name as it was found.
        name: Name,
        /// What answers the questions.
        records: Vec<Record>,
    },
    /// A name exists, but has nothing of what was asked.
    NoData,
    /// There is no such name.
    NoName,
    /// Nobody could tell: try again later. The last server's reason, if it gave one.
    Failed(Option<ResponseCode>),
}

impl Outcome {
    /// The addresses that were found, in the order of the answers.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let records = if let Self::Found { records, .. } = self { records.as_slice() } else { &[] };
        records.iter().filter_map(|record| match record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        })
    }
}

/// A name looked up with a search list. A lookup for several types finds the first name that has any of them.
#[derive(Clone, Debug)]
pub struct Lookup {
    config: Config,
    types: Vec<RecordType>,
    id: u16,
    /// The name at hand, and those to be tried after it.
    candidates: VecDeque<Name>,
    /// The types that are still to be asked of the name at hand.
    left: VecDeque<RecordType>,
    exchange: Exchange,
    found: Vec<Record>,
    no_data: bool,
    outcome: Option<Outcome>,
}

impl Lookup {
    /// Looks for records of `types`, e.g. A for clients of IPv4 and A and AAAA for those of both. A name that ends
    /// in a dot is taken as it is. `id` is that of the first query, counted up after.
    ///
    /// # Errors
    /// The name is none, or no type was given.
    pub fn new(config: &Config, name: &str, types: &[RecordType], id: u16) -> Result<Self, ProtoError> {
        let candidates = config.candidates(name)?;
        let (Some(first), Some(kind)) = (candidates.front(), types.first()) else {
            return Err(ProtoError::Message("no name or no type to look for"));
        };
        let exchange = Exchange::new(config, Query::query(first.clone(), *kind), id)?;
        let mut lookup = Self {
            config: config.clone(),
            types: types.to_vec(),
            id,
            left: types.iter().copied().skip(1).collect(),
            candidates,
            exchange,
            found: Vec::new(),
            no_data: false,
            outcome: None,
        };
        lookup.advance();
        Ok(lookup)
    }

    /// What to send next; `None` when there is an outcome.
    pub fn next(&self) -> Option<Send> {
        self.outcome.is_none().then(|| self.exchange.next())?
    }

    /// Something was received from the server last sent to. Returns whether it was an answer; if not, go on waiting.
    pub fn response(&mut self, bytes: &[u8]) -> bool {
        let answer = self.exchange.response(bytes);
        self.advance();
        answer
    }

    /// No answer came in time, or the connection failed.
    pub fn timed_out(&mut self) {
        self.exchange.timed_out();
        self.advance();
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The last answer, whatever it says.
    pub fn answer(&self) -> Option<&Message> {
        self.exchange.answer()
    }

    /// Goes on to the next type or name once a question is answered.
    fn advance(&mut self) {
        if self.outcome.is_some() || self.exchange.next().is_some() {
            return;
        }
        let code = self.exchange.answer().map(|message| message.metadata.response_code);
        let asked = self.exchange.question.query_type();
        match self.exchange.answer() {
            Some(message) if self.exchange.answered => {
                let fits = |record: &Record| asked == RecordType::ANY || record.record_type() == asked;
                self.no_data |= message.metadata.response_code == ResponseCode::NoError;
                if message.answers.iter().any(fits) {
                    self.found.extend(
                        message
                            .answers
                            .iter()
                            .filter(|record| !self.found.contains(record))
                            .cloned()
                            .collect::<Vec<_>>(),
                    );
                }
            }
            // Going on could find another name's records.
            _ => return self.outcome = Some(Outcome::Failed(code)),
        }
        let exists = code == Some(ResponseCode::NoError);
        let next = match self.left.pop_front() {
            Some(kind) => self.candidates.front().map(|name| (name.clone(), kind)),
            None if !self.found.is_empty() => None,
            None if exists && self.config.stops_at_no_data => None,
            None => {
                self.candidates.pop_front();
                self.left = self.types.iter().copied().skip(1).collect();
                self.candidates.front().cloned().zip(self.types.first().copied())
            }
        };
        let Some((name, kind)) = next else {
            let found = std::mem::take(&mut self.found);
            self.outcome = Some(match self.candidates.pop_front() {
                Some(name) if !found.is_empty() => Outcome::Found { name, records: found },
                _ if self.no_data => Outcome::NoData,
                _ => Outcome::NoName,
            });
            return;
        };
        self.id = self.id.wrapping_add(1);
        match Exchange::new(&self.config, Query::query(name, kind), self.id) {
            Ok(exchange) => self.exchange = exchange,
            Err(_) => self.outcome = Some(Outcome::Failed(None)),
        }
    }
}
