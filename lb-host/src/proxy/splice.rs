//! One client's TCP connection and the one to its endpoint: dialled with patience that grows, then joined both ways.

use std::time::Duration;

use lb_core::{Address, Instant};

use super::{Counters, Key};
use crate::host::{ConnectionId, Error, Host, Socket};

/// How long each try to connect may take (SEMANTICS §14.5).
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A client's connection and what it is joined to.
pub(super) struct Splice {
    /// The service port it is of, there or not.
    pub(super) key: Key,
    client: ConnectionId,
    address: Address,
    stage: Stage,
}

enum Stage {
    /// So many tries were begun; the last of them may be under way until then.
    Dialling { tries: usize, under_way: Option<(ConnectionId, Instant)> },
    /// Bytes go from the client to the endpoint, and back.
    Joined { endpoint: ConnectionId, there: Pipe, back: Pipe },
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Over,
}

impl Splice {
    pub(super) fn new(key: Key, client: ConnectionId, host: &Host) -> Option<Self> {
        let (address, _) = host.remote(client)?;
        Some(Self { key, client, address, stage: Stage::Dialling { tries: 0, under_way: None } })
    }

    /// Goes as far as can be gone now. `next` names the endpoint for a client, another than before if told so.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        host: &mut Host,
        counters: &mut Counters,
        next: impl FnMut(Address, bool) -> Option<Socket>,
    ) -> Progress {
        if matches!(self.stage, Stage::Dialling { .. }) && self.dial(now, host, counters, next) == Progress::Over {
            return Progress::Over;
        }
        let Stage::Joined { endpoint, there, back } = &mut self.stage else { return Progress::GoesOn };
        let (client, endpoint) = (self.client, *endpoint);
        // What came before a reset goes with it, as it may anywhere on the way.
        let failed = host.failure(client).is_some() || host.failure(endpoint).is_some();
        let moved = if failed { Err(Error::Reset) } else { there.pump(host, client, endpoint) };
        let moved = moved.and_then(|sent| Ok((sent, back.pump(host, endpoint, client)?)));
        let Ok((sent, received)) = moved else {
            host.abort(client);
            host.abort(endpoint);
            return Progress::Over;
        };
        counters.bytes_sent += sent as u64;
        counters.bytes_received += received as u64;
        if !(there.closed && back.closed) {
            return Progress::GoesOn;
        }
        host.release(client);
        host.release(endpoint);
        Progress::Over
    }

    /// Tries one endpoint after the other until one answers.
    fn dial(
        &mut self,
        now: Instant,
        host: &mut Host,
        counters: &mut Counters,
        mut next: impl FnMut(Address, bool) -> Option<Socket>,
    ) -> Progress {
        let Stage::Dialling { tries, under_way } = &mut self.stage else { return Progress::GoesOn };
        let gone = host.failure(self.client).is_some();
        loop {
            if let Some((endpoint, deadline)) = under_way.take() {
                if !gone && host.is_established(endpoint) {
                    self.stage = Stage::Joined { endpoint, there: Pipe::default(), back: Pipe::default() };
                    return Progress::GoesOn;
                }
                if !gone && host.failure(endpoint).is_none() && now < deadline {
                    *under_way = Some((endpoint, deadline));
                    return Progress::GoesOn;
                }
                host.abort(endpoint);
            }
            if gone {
                host.abort(self.client);
                return Progress::Over;
            }
            let endpoint = PATIENCE.get(*tries).and_then(|patience| Some((patience, next(self.address, *tries > 0)?)));
            let Some((patience, endpoint)) = endpoint else {
                counters.refused += 1;
                hang_up(host, self.client);
                return Progress::Over;
            };
            counters.retries += u64::from(*tries > 0);
            *tries += 1;
            *under_way = host.connect(now, None, endpoint).ok().map(|id| (id, now.saturating_add(*patience)));
        }
    }

    /// Gives both connections up.
    pub(super) fn close(self, host: &mut Host) {
        let endpoint = match self.stage {
            Stage::Dialling { under_way, .. } => under_way.map(|(endpoint, _)| endpoint),
            Stage::Joined { endpoint, .. } => Some(endpoint),
        };
        [Some(self.client), endpoint].into_iter().flatten().for_each(|connection| host.abort(connection));
    }

    /// When [`poll`](Self::poll) is due if nothing comes before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Dialling { under_way, .. } => under_way.map(|(_, deadline)| deadline),
            Stage::Joined { .. } => None,
        }
    }

    /// Bytes held between the two connections' own buffers.
    pub(super) fn held(&self) -> usize {
        match &self.stage {
            Stage::Dialling { .. } => 0,
            Stage::Joined { there, back, .. } => there.waiting.len() + back.waiting.len(),
        }
    }
}

/// Closes a connection of which nothing was read: with a reset if there was something to read, as Linux does (RFC 2525 §2.17).
fn hang_up(host: &mut Host, client: ConnectionId) {
    let mut unread = Vec::new();
    let _ = host.recv(client, &mut unread);
    if unread.is_empty() { host.release(client) } else { host.abort(client) }
}

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Read and not yet passed on: at most what the connection it came from may hold, as nothing is read before all of it
    /// is gone.
    waiting: Vec<u8>,
    /// There will be no more to read.
    ended: bool,
    /// The other side was told so.
    closed: bool,
}

impl Pipe {
    /// Passes on what can be, and says how much that was.
    fn pump(&mut self, host: &mut Host, from: ConnectionId, to: ConnectionId) -> Result<usize, Error> {
        if self.waiting.is_empty() && !self.ended {
            self.ended = !host.recv(from, &mut self.waiting)?;
        }
        let mut sent = 0;
        if !self.waiting.is_empty() {
            sent = host.send(to, &self.waiting)?;
            self.waiting.drain(..sent);
        }
        if self.ended && self.waiting.is_empty() && !self.closed {
            host.close(to);
            self.closed = true;
        }
        Ok(sent)
    }
}
