//! One question put to one port: how kubelets and load balancers find out who is well.

use std::ops::RangeInclusive;
use std::time::Duration;

use lb_core::Instant;

use super::{Program, seen};
use crate::host::{ConnectionId, Host, Socket};

/// Connects, and asks for a path if it is to; once.
pub struct Check {
    to: Socket,
    request: Option<(String, RangeInclusive<u16>)>,
    timeout: Duration,
    begun: Option<(ConnectionId, Instant)>,
    arrived: Vec<u8>,
    outcome: Option<bool>,
}

impl Check {
    /// Whether a connection is accepted.
    pub fn connect(to: Socket, timeout: Duration) -> Self {
        Self { to, request: None, timeout, begun: None, arrived: Vec::new(), outcome: None }
    }

    /// Whether a path is answered with one of these status codes. Headers are besides Host and Connection.
    pub fn get(
        to: Socket,
        path: &str,
        headers: &[(String, String)],
        good: RangeInclusive<u16>,
        timeout: Duration,
    ) -> Self {
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{more}Connection: close\r\n\r\n", seen(to));
        Self { request: Some((request, good)), ..Self::connect(to, timeout) }
    }

    /// How it went, once that is known.
    pub const fn outcome(&self) -> Option<bool> {
        self.outcome
    }

    /// `None` while there is no telling.
    fn go_on(&mut self, host: &mut Host, now: Instant) -> Option<bool> {
        let (id, deadline) = match self.begun {
            Some(begun) => begun,
            None => {
                let Ok(id) = host.connect(now, None, self.to) else { return Some(false) };
                *self.begun.insert((id, now.saturating_add(self.timeout)))
            }
        };
        if now >= deadline || host.failure(id).is_some() {
            return Some(false);
        }
        if !host.is_established(id) {
            return None;
        }
        let Some((request, good)) = &mut self.request else { return Some(true) };
        let Ok(sent) = host.send(id, request.as_bytes()) else { return Some(false) };
        request.drain(..sent);
        let more = host.recv(id, &mut self.arrived);
        match status(&self.arrived) {
            Some(status) => Some(good.contains(&status)),
            None if more == Ok(true) => None,
            None => Some(false),
        }
    }
}

/// The status code of an answer whose head is all there.
fn status(bytes: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(bytes).ok().filter(httparse::Status::is_complete)?;
    parsed.code
}

impl Program for Check {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        self.outcome = self.go_on(host, now);
        if self.outcome.is_some() {
            self.end(host);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let (_, deadline) = self.begun?;
        self.outcome.is_none().then_some(deadline)
    }

    fn end(&mut self, host: &mut Host) {
        let Some((id, _)) = self.begun.take() else { return };
        // An answer is taken with good manners; what has not come by now is not waited for.
        if self.outcome == Some(true) { host.release(id) } else { host.abort(id) }
    }
}
