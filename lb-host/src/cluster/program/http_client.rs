//! An HTTP/1.1 client that asks again and again and keeps what came of it.

use std::time::Duration;

use lb_core::Instant;

use super::Program;
use crate::host::{ConnectionId, Error, Host, Socket};

/// Asks one server for one path, so many times, one after the other.
pub struct HttpClient {
    to: Socket,
    path: String,
    left: u64,
    interval: Duration,
    timeout: Duration,
    keep_alive: bool,
    connection: Option<ConnectionId>,
    running: Option<Running>,
    next: Option<Instant>,
    exchanges: Vec<Exchange>,
}

struct Running {
    started: Instant,
    unsent: Vec<u8>,
    arrived: Vec<u8>,
}

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When it began, connecting included.
    pub started: Instant,
    /// When the answer was there, or it was given up.
    pub ended: Instant,
    /// The answer, or why there is none.
    pub result: Result<Reply, Error>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// `X-Served-By`.
    pub served_by: String,
    /// `X-Seen-As`: the client's address and port as the server saw it.
    pub seen_as: String,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpClient {
    /// Asks for `/` once, for at most 5 seconds.
    pub fn new(to: Socket) -> Self {
        Self {
            to,
            path: "/".into(),
            left: 1,
            interval: Duration::ZERO,
            timeout: Duration::from_secs(5),
            keep_alive: false,
            connection: None,
            running: None,
            next: None,
            exchanges: Vec::new(),
        }
    }

    /// For another path.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: path.into(), ..self }
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

    /// All over one connection, as long as that lives.
    #[must_use]
    pub fn keep_alive(self) -> Self {
        Self { keep_alive: true, ..self }
    }

    /// What came of the requests so far.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// Whether all requests have come to their end.
    pub const fn is_done(&self) -> bool {
        self.left == 0 && self.running.is_none()
    }

    /// Asks no more once the request under way has come to its end.
    pub const fn finish(&mut self) {
        self.left = 0;
    }

    fn begin(&mut self, host: &mut Host, now: Instant) -> Result<(), Error> {
        let usable =
            self.connection.filter(|id| host.is_established(*id) && host.recv(*id, &mut Vec::new()) == Ok(true));
        if usable.is_none() {
            self.connection.take().into_iter().for_each(|id| host.release(id));
            self.connection = Some(host.connect(now, None, self.to)?);
        }
        Ok(())
    }

    /// What came of the request under way, if it has.
    fn go_on(&mut self, host: &mut Host, now: Instant) -> Option<Result<Reply, Error>> {
        let (Some(id), Some(running)) = (self.connection, &mut self.running) else { return None };
        let more = match host.send(id, &running.unsent) {
            Ok(sent) => {
                running.unsent.drain(..sent);
                host.recv(id, &mut running.arrived)
            }
            Err(error) => Err(error),
        };
        match (reply(&running.arrived), more) {
            (Ok(Some(reply)), _) => Some(Ok(reply)),
            (Err(()), _) => Some(Err(Error::Reset)),
            (Ok(None), Err(error)) => Some(Err(error)),
            (Ok(None), Ok(false)) => Some(Err(Error::Reset)),
            (Ok(None), Ok(true)) if now >= running.started.saturating_add(self.timeout) => Some(Err(Error::TimedOut)),
            (Ok(None), Ok(true)) => None,
        }
    }
}

impl Program for HttpClient {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        loop {
            if self.running.is_none() {
                if self.left == 0 || self.next.is_some_and(|next| now < next) {
                    return;
                }
                self.left -= 1;
                self.next = Some(now.saturating_add(self.interval));
                let connection = if self.keep_alive { "keep-alive" } else { "close" };
                let request = format!(
                    "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
                    self.path,
                    super::seen(self.to)
                );
                self.running = Some(Running { started: now, unsent: request.into_bytes(), arrived: Vec::new() });
                if let Err(error) = self.begin(host, now) {
                    self.end(host, now, Err(error));
                    continue;
                }
            }
            match self.go_on(host, now) {
                Some(result) => self.end(host, now, result),
                None => return,
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.started.saturating_add(self.timeout)),
            None if self.left > 0 => Some(self.next.unwrap_or(Instant::ORIGIN)),
            None => None,
        }
    }

    fn end(&mut self, host: &mut Host) {
        self.left = 0;
        self.running = None;
        self.connection.take().into_iter().for_each(|id| host.abort(id));
    }
}

impl HttpClient {
    fn end(&mut self, host: &mut Host, now: Instant, result: Result<Reply, Error>) {
        let Some(running) = self.running.take() else { return };
        if !self.keep_alive || result.is_err() {
            let given_up = result == Err(Error::TimedOut);
            self.connection.take().into_iter().for_each(|id| if given_up { host.abort(id) } else { host.release(id) });
        }
        self.exchanges.push(Exchange { started: running.started, ended: now, result });
    }
}

/// The answer if it is all there.
fn reply(bytes: &[u8]) -> Result<Option<Reply>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(bytes).map_err(drop)? else { return Ok(None) };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        String::from_utf8_lossy(found.map_or(&[][..], |header| header.value)).into_owned()
    };
    let length: usize = header("content-length").parse().map_err(drop)?;
    let Some(body) = bytes.get(head..).and_then(|rest| rest.get(..length)) else { return Ok(None) };
    Ok(Some(Reply {
        status: parsed.code.ok_or(())?,
        served_by: header("x-served-by"),
        seen_as: header("x-seen-as"),
        body: body.to_vec(),
    }))
}
