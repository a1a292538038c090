//! What a proxy has done so far.

use lb_core::Direction;

use super::relay::DATAGRAM;
use crate::host::Error;

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TCP connections accepted, and UDP clients heard that had no socket towards an endpoint.
    pub connections: u64,
    /// Those of them that found no endpoint, or no room.
    pub refused: u64,
    /// Tries to connect after a first one failed.
    pub retries: u64,
    /// TCP bytes passed on from clients to endpoints.
    pub bytes_sent: u64,
    /// TCP bytes passed on from endpoints to clients.
    pub bytes_received: u64,
    /// Datagrams passed on from clients to endpoints.
    pub datagrams_sent: u64,
    /// Datagrams passed on from endpoints to clients.
    pub datagrams_received: u64,
    /// Datagrams that lost what they had over [`DATAGRAM`] bytes.
    pub datagrams_cut: u64,
    /// Datagrams that the host could not send on.
    pub datagrams_dropped: u64,
}

impl Counters {
    /// As much of a datagram as is passed on.
    pub(super) fn cut<'p>(&mut self, payload: &'p [u8]) -> &'p [u8] {
        let part = payload.get(..DATAGRAM).unwrap_or(payload);
        self.datagrams_cut += u64::from(part.len() < payload.len());
        part
    }

    /// Counts a datagram that went from the client or back to it, if it did.
    pub(super) fn count_datagram(&mut self, direction: Direction, sent: Result<(), Error>) {
        let counter = match (sent, direction) {
            (Err(_), _) => &mut self.datagrams_dropped,
            (Ok(()), Direction::Original) => &mut self.datagrams_sent,
            (Ok(()), Direction::Reply) => &mut self.datagrams_received,
        };
        *counter += 1;
    }
}
