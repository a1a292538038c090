//! What `curl` does: a name is looked up, a connection made, a path asked for.

use std::fmt;
use std::time::Duration;

use lb_core::{Address, Family, Instant};

use super::http_client::{HttpClient, Reply};
use super::resolver::Resolver;
use super::{Program, seen};
use crate::dns::RecordType;
use crate::dns::client::Outcome;
use crate::host::{self, Host, Socket};
use crate::k8s::address::lenient_address;

/// Whom to ask for what: `http://web.shop:8080/cart`, where all but the name may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address as text.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path.
    pub path: String,
}

impl Target {
    /// The address, if it is one and no name.
    pub fn address(&self) -> Option<Address> {
        lenient_address(&self.host)
    }
}

impl From<Socket> for Target {
    fn from((address, port): Socket) -> Self {
        Self { host: address.to_string(), port, path: "/".to_owned() }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(80), str::parse).map_err(|_| format!("{text:?} has no port from 1 to 65535"))?;
        if host.is_empty() || port == 0 {
            return Err(format!("{text:?} is not like http://web.shop:8080/ or http://[fd00::1]:80/"));
        }
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such name.
    #[error("no such name")]
    NoName,
    /// The name has no address of the families asked for.
    #[error("the name has no address of this family")]
    NoData,
    /// No DNS server could tell.
    #[error("no DNS server answers")]
    NoResolver,
    /// The connection.
    #[error("{0}")]
    Connection(#[from] host::Error),
}

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// When it began, with the lookup.
    pub started: Instant,
    /// When the answer was there, or it was given up.
    pub ended: Instant,
    /// Whom it went to, if that was found out.
    pub to: Option<Socket>,
    /// The answer, or why there is none.
    pub result: Result<Reply, Failure>,
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(reply) => write!(f, "{} from {}, which saw {}", reply.status, reply.served_by, reply.seen_as)?,
            Err(failure) => write!(f, "{failure}")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " (at {})", seen(to)))
    }
}

/// Asks for a target, so many times, one after the other.
pub struct Fetch {
    target: Target,
    resolver: Option<Resolver>,
    families: Vec<Family>,
    timeout: Duration,
    left: u64,
    interval: Duration,
    keep_alive: bool,
    next: Option<Instant>,
    stage: Option<Stage>,
    results: Vec<Fetched>,
}

enum Stage {
    Resolving { started: Instant },
    Asking { started: Instant, to: Socket, client: Box<HttpClient>, taken: usize },
}

impl Fetch {
    /// Once, for at most 5 seconds once the name is known. Without a resolver only addresses are known.
    pub fn new(target: Target, resolver: Option<Resolver>) -> Self {
        Self {
            target,
            resolver,
            families: vec![Family::V4, Family::V6],
            timeout: Duration::from_secs(5),
            left: 1,
            interval: Duration::ZERO,
            keep_alive: false,
            next: None,
            stage: None,
            results: Vec::new(),
        }
    }

    /// By addresses of these families, the first the rather.
    #[must_use]
    pub fn families(self, families: &[Family]) -> Self {
        Self { families: families.to_vec(), ..self }
    }

    /// So many times, each begun no sooner than `interval` after the one before.
    #[must_use]
    pub fn times(self, count: u64, interval: Duration) -> Self {
        Self { left: count, interval, ..self }
    }

    /// Each request given up after this long.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// All to the address that was found first, over one connection as long as that lives.
    #[must_use]
    pub fn keep_alive(self) -> Self {
        Self { keep_alive: true, ..self }
    }

    /// What came of the requests so far.
    pub fn results(&self) -> &[Fetched] {
        &self.results
    }

    /// Whether all requests have come to their end.
    pub const fn is_done(&self) -> bool {
        self.left == 0 && self.stage.is_none()
    }

    /// Asks no more once the request under way has come to its end.
    pub fn finish(&mut self) {
        self.left = 0;
        if let Some(Stage::Asking { client, .. }) = &mut self.stage {
            client.finish();
        }
    }

    fn begin(&mut self, now: Instant) {
        self.left -= 1;
        self.next = Some(now.saturating_add(self.interval));
        if let Some(address) = self.target.address() {
            return self.ask(now, address);
        }
        let types: Vec<_> = self.families.iter().map(|family| record(*family)).collect();
        let starts = self.resolver.as_mut().is_some_and(|resolver| resolver.start(&self.target.host, &types));
        match starts {
            true => self.stage = Some(Stage::Resolving { started: now }),
            false => self.fail(now, now, Failure::NoName),
        }
    }

    fn ask(&mut self, started: Instant, address: Address) {
        let to = (address, self.target.port);
        let mut client = HttpClient::new(to).path(&self.target.path).timeout(self.timeout);
        if self.keep_alive {
            client = client.keep_alive().times(1 + std::mem::take(&mut self.left), self.interval);
        }
        self.stage = Some(Stage::Asking { started, to, client: client.into(), taken: 0 });
    }

    fn resolved(&mut self, started: Instant, now: Instant, outcome: &Outcome) {
        let found: Vec<Address> = outcome.addresses().map(Address::from).collect();
        let of = |family: &Family| found.iter().copied().find(|address| address.family() == *family);
        match (self.families.iter().find_map(of), outcome) {
            (Some(address), _) => self.ask(started, address),
            (None, Outcome::NoName) => self.fail(started, now, Failure::NoName),
            (None, Outcome::Failed(_)) => self.fail(started, now, Failure::NoResolver),
            (None, _) => self.fail(started, now, Failure::NoData),
        }
    }

    fn fail(&mut self, started: Instant, ended: Instant, failure: Failure) {
        self.stage = None;
        self.results.push(Fetched { started, ended, to: None, result: Err(failure) });
    }
}

const fn record(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

impl Program for Fetch {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        loop {
            match &mut self.stage {
                None if self.left == 0 || self.next.is_some_and(|next| now < next) => return,
                None => self.begin(now),
                Some(Stage::Resolving { started }) => {
                    let started = *started;
                    let outcome = self.resolver.as_mut().and_then(|resolver| resolver.poll(host, now));
                    let Some(outcome) = outcome else { return };
                    self.resolved(started, now, &outcome);
                }
                Some(Stage::Asking { started, to, client, taken }) => {
                    client.poll(host, now);
                    for exchange in &client.exchanges()[*taken..] {
                        // The first began with the lookup.
                        let started = if *taken == 0 { *started } else { exchange.started };
                        let result = exchange.result.clone().map_err(Failure::from);
                        self.results.push(Fetched { started, ended: exchange.ended, to: Some(*to), result });
                        *taken += 1;
                    }
                    if !client.is_done() {
                        return;
                    }
                    self.stage = None;
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Some(Stage::Resolving { .. }) => self.resolver.as_ref()?.next_deadline(),
            Some(Stage::Asking { client, .. }) => client.next_deadline(),
            None => (self.left > 0).then(|| self.next.unwrap_or(Instant::ORIGIN)),
        }
    }

    fn end(&mut self, host: &mut Host) {
        self.left = 0;
        if let Some(resolver) = &mut self.resolver {
            resolver.end(host);
        }
        if let Some(Stage::Asking { mut client, .. }) = self.stage.take() {
            Program::end(client.as_mut(), host);
        }
    }
}
