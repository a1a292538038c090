//! Many bytes each way over one connection, of which every single one is compared.

use lb_core::Instant;

use super::Program;
use crate::chance::Chance;
use crate::host::{ConnectionId, Error, Host, ListenerId, Socket};

/// The bytes that are sent: a block of chance, of a length that shares no divisor with any buffer or segment, over and
/// over, so that a byte in another place than its own is seen.
struct Pattern(Vec<u8>);

/// A prime.
const BLOCK: usize = 65_521;

/// The most that is handed in or compared at once.
const PART: usize = 1 << 14;

impl Pattern {
    fn new() -> Self {
        let mut chance = Chance::new(0);
        let mut block: Vec<u8> = (0..BLOCK.div_ceil(8)).flat_map(|_| chance.draw().to_le_bytes()).collect();
        block.truncate(BLOCK);
        // So that a part never wraps.
        block.extend_from_within(..PART);
        Self(block)
    }

    fn part(&self, at: u64, length: usize) -> &[u8] {
        let start = (at % BLOCK as u64) as usize;
        &self.0[start..start + length.min(PART)]
    }

    fn holds(&self, mut at: u64, bytes: &[u8]) -> bool {
        bytes.chunks(PART).all(|part| {
            let same = self.part(at, part.len()) == part;
            at += part.len() as u64;
            same
        })
    }
}

/// One side of a transfer.
struct Side {
    id: ConnectionId,
    header: Vec<u8>,
    /// Bytes to send and to come, of which so many are through.
    send: (u64, u64),
    expect: (u64, u64),
    exact: bool,
    closed: bool,
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that came.
    pub received: u64,
    /// Whether all came that should, and each was right.
    pub exact: bool,
    /// When the last one came.
    pub ended: Instant,
    /// Why it broke off, if it did.
    pub error: Option<Error>,
}

/// The two lengths that a client begins with, what it will send and what it wants.
const HEADER: usize = 16;

impl Side {
    fn new(id: ConnectionId) -> Self {
        Self { id, header: Vec::new(), send: (0, 0), expect: (0, 0), exact: true, closed: false }
    }

    /// Sends and compares; true once the other side has closed.
    fn go_on(&mut self, host: &mut Host, pattern: &Pattern, arrived: &mut Vec<u8>) -> Result<bool, Error> {
        while self.send.1 < self.send.0 {
            let left = usize::try_from(self.send.0 - self.send.1).unwrap_or(usize::MAX);
            let sent = host.send(self.id, pattern.part(self.send.1, left))?;
            if sent == 0 {
                break;
            }
            self.send.1 += sent as u64;
        }
        let more = host.recv(self.id, arrived)?;
        self.exact &= pattern.holds(self.expect.1, arrived);
        self.expect.1 += arrived.len() as u64;
        arrived.clear();
        Ok(!more)
    }

    fn close_when_sent(&mut self, host: &mut Host) {
        if !self.closed && self.send.1 == self.send.0 {
            self.closed = true;
            host.close(self.id);
        }
    }
}

/// Takes what clients send, and sends what they want.
pub struct BulkServer {
    port: u16,
    pattern: Pattern,
    listener: Option<ListenerId>,
    open: Vec<Side>,
    outcomes: Vec<Outcome>,
}

impl BulkServer {
    /// A server on a port of all addresses.
    pub fn new(port: u16) -> Self {
        Self { port, pattern: Pattern::new(), listener: None, open: Vec::new(), outcomes: Vec::new() }
    }

    /// What came of the transfers that are over, as this side saw them.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }
}

impl Program for BulkServer {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        if self.listener.is_none() {
            self.listener = host.listen(None, self.port).ok();
        }
        let Some(listener) = self.listener else { return };
        while let Some(id) = host.accept(listener) {
            self.open.push(Side::new(id));
        }
        let (pattern, outcomes) = (&self.pattern, &mut self.outcomes);
        self.open.retain_mut(|side| {
            let mut arrived = Vec::new();
            let ended = serve(host, side, pattern, &mut arrived);
            if let Ok(false) = ended {
                return true;
            }
            host.release(side.id);
            let exact = side.exact && side.expect.0 == side.expect.1;
            outcomes.push(Outcome { received: side.expect.1, exact, ended: now, error: ended.err() });
            false
        });
    }

    fn end(&mut self, host: &mut Host) {
        self.listener.take().into_iter().for_each(|listener| host.unlisten(listener));
        self.open.drain(..).for_each(|side| host.abort(side.id));
    }
}

fn serve(host: &mut Host, side: &mut Side, pattern: &Pattern, arrived: &mut Vec<u8>) -> Result<bool, Error> {
    if side.header.len() < HEADER {
        let more = host.recv(side.id, arrived)?;
        let rest = arrived.split_off(arrived.len().min(HEADER - side.header.len()));
        side.header.append(arrived);
        *arrived = rest;
        let &[upload, download] = side.header.as_chunks::<8>().0 else { return Ok(!more) };
        (side.expect.0, side.send.0) = (u64::from_be_bytes(upload), u64::from_be_bytes(download));
    }
    let ended = side.go_on(host, pattern, arrived)?;
    // A client that sees the end knows that all it sent has come.
    if side.expect.1 >= side.expect.0 {
        side.close_when_sent(host);
    }
    Ok(ended && (side.closed || side.expect.1 < side.expect.0))
}

/// Sends so much to a [`BulkServer`] and takes so much from it, at the same time.
pub struct BulkClient {
    to: Socket,
    upload: u64,
    download: u64,
    pattern: Pattern,
    side: Option<Side>,
    outcome: Option<Outcome>,
}

impl BulkClient {
    /// A transfer of so many bytes each way.
    pub fn new(to: Socket, upload: u64, download: u64) -> Self {
        Self { to, upload, download, pattern: Pattern::new(), side: None, outcome: None }
    }

    /// Bytes that were handed in and bytes that came, so far.
    pub fn progress(&self) -> (u64, u64) {
        self.side.as_ref().map_or((0, 0), |side| (side.send.1, side.expect.1))
    }

    /// What came of it, once it is over.
    pub const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    fn go_on(&mut self, host: &mut Host, now: Instant) -> Result<bool, Error> {
        let side = match &mut self.side {
            Some(side) => side,
            None => {
                let mut side = Side::new(host.connect(now, None, self.to)?);
                side.header = [self.upload.to_be_bytes(), self.download.to_be_bytes()].concat();
                (side.send.0, side.expect.0) = (self.upload, self.download);
                self.side.insert(side)
            }
        };
        if !side.header.is_empty() {
            let sent = host.send(side.id, &side.header)?;
            side.header.drain(..sent);
            if !side.header.is_empty() {
                return Ok(false);
            }
        }
        let ended = side.go_on(host, &self.pattern, &mut Vec::new())?;
        side.close_when_sent(host);
        if ended && !side.closed {
            return Err(Error::Closed);
        }
        Ok(ended)
    }
}

impl Program for BulkClient {
    fn poll(&mut self, host: &mut Host, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        let ended = self.go_on(host, now);
        if let Ok(false) = ended {
            return;
        }
        let side = self.side.as_ref();
        side.into_iter().for_each(|side| host.release(side.id));
        let received = side.map_or(0, |side| side.expect.1);
        let exact = ended.is_ok() && side.is_some_and(|side| side.exact) && received == self.download;
        self.outcome = Some(Outcome { received, exact, ended: now, error: ended.err() });
    }

    fn end(&mut self, host: &mut Host) {
        self.side.take().into_iter().for_each(|side| host.abort(side.id));
    }
}
