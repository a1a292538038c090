//! Which backend a client had last: ClientIP session affinity (SEMANTICS §7.6).
//!
//! What is remembered is that a client was served by an endpoint of a service port, so one client may be
//! remembered for several; and only new flows are noted, so that is what the time-out counts from.

use core::time::Duration;

use bytemuck::{Pod, Zeroable};

use crate::memory::Block;
use crate::time::Instant;
use crate::tuple::Address;

/// One client of one endpoint: a cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Memory {
    client: u128,
    backend: u128,
    /// Nanoseconds of an [`Instant`].
    seen: u64,
    service: u64,
    port: u16,
    live: u8,
    reserved: [u8; 13],
}

/// A client of a service port: the key under which endpoints are remembered.
#[derive(Clone, Copy)]
pub(crate) struct Visitor {
    /// The identity of the service port, or of one of its Vips where they don't share.
    pub(crate) service: u64,
    pub(crate) client: Address,
    /// A keyed hash of the two.
    pub(crate) hash: u64,
}

/// Blocks for a table of this many clients.
pub(crate) const fn blocks(clients: u32) -> usize {
    clients as usize
}

pub(crate) struct AffinityTable<'m> {
    memories: &'m mut [Memory],
}

/// Entries that a look-up reads at most; in a full neighbourhood the one not seen for longest gives way.
const WINDOW: usize = 16;

impl<'m> AffinityTable<'m> {
    pub(crate) fn new(memory: &'m mut [Block]) -> Self {
        memory.fill(Block::ZERO);
        Self { memories: bytemuck::must_cast_slice_mut(memory) }
    }

    fn window(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let n = self.memories.len();
        let start = ((u128::from(hash) * n as u128) >> 64) as usize;
        (0..WINDOW.min(n)).map(move |i| if start + i < n { start + i } else { start + i - n })
    }

    /// The endpoint that serves this visitor, if one that `may` serve was seen less than `timeout` ago; of
    /// several the first by address, as rules are tried in the order of endpoints.
    pub(crate) fn find(
        &self,
        now: Instant,
        visitor: &Visitor,
        timeout: Duration,
        may: impl Fn(Address, u16) -> bool,
    ) -> Option<(Address, u16)> {
        let known = self
            .window(visitor.hash)
            .filter_map(|at| self.memories.get(at))
            .filter(|memory| memory.is_of(visitor) && now.saturating_since(Instant::from_nanos(memory.seen)) < timeout);
        known.map(Memory::endpoint).filter(|(address, port)| may(*address, *port)).min()
    }

    /// Notes that this visitor begins a flow to this endpoint.
    pub(crate) fn remember(&mut self, now: Instant, visitor: &Visitor, address: Address, port: u16) {
        let rank = |memory: &Memory| match (memory.is_of(visitor) && memory.endpoint() == (address, port), memory.live)
        {
            (true, _) => (0, 0),
            (false, 0) => (1, 0),
            (false, _) => (2, memory.seen),
        };
        let place = self.window(visitor.hash).min_by_key(|at| self.memories.get(*at).map(rank));
        if let Some(memory) = place.and_then(|at| self.memories.get_mut(at)) {
            *memory = Memory {
                client: visitor.client.bits(),
                backend: address.bits(),
                seen: now.as_nanos(),
                service: visitor.service,
                port,
                live: 1,
                reserved: [0; 13],
            };
        }
    }
}

impl Memory {
    fn is_of(&self, visitor: &Visitor) -> bool {
        self.live != 0 && self.client == visitor.client.bits() && self.service == visitor.service
    }

    fn endpoint(&self) -> (Address, u16) {
        (Address::from_bits(self.backend), self.port)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    const A: Address = Address::v4([10, 0, 0, 1]);
    const B: Address = Address::v4([10, 0, 0, 2]);

    fn visitor(service: u64) -> Visitor {
        Visitor { service, client: Address::v4([192, 0, 2, 1]), hash: 7 }
    }

    #[test]
    fn a_client_is_remembered_for_less_than_the_timeout_by_service_and_endpoint() {
        let mut memory = vec![Block::ZERO; 4];
        let mut table = AffinityTable::new(&mut memory);
        table.remember(Instant::from_secs(100), &visitor(1), B, 80);
        let find = |table: &AffinityTable<'_>, at: u64, service, may: fn(Address, u16) -> bool| {
            table.find(Instant::from_secs(at), &visitor(service), Duration::from_secs(10), may)
        };
        assert_eq!(find(&table, 109, 1, |_, _| true), Some((B, 80)));
        assert_eq!(find(&table, 110, 1, |_, _| true), None, "the time is up");
        assert_eq!(find(&table, 101, 2, |_, _| true), None, "another service");
        assert_eq!(find(&table, 101, 1, |address, _| address != B), None, "the endpoint is gone");
        table.remember(Instant::from_secs(101), &visitor(1), A, 80);
        assert_eq!(find(&table, 105, 1, |_, _| true), Some((A, 80)), "of two, the first by address");
        assert_eq!(find(&table, 105, 1, |address, _| address == B), Some((B, 80)), "each is remembered");
        for address in [A, B] {
            table.remember(Instant::from_secs(101), &visitor(3), address, 80);
        }
        assert_eq!(find(&table, 105, 3, |_, _| true), Some((A, 80)), "whichever was noted first");
        for n in 0..4 {
            table.remember(Instant::from_secs(102 + n), &visitor(10 + n), A, 80);
        }
        assert_eq!(find(&table, 106, 1, |_, _| true), None, "the oldest gave way");
        assert_eq!(find(&table, 106, 13, |_, _| true), Some((A, 80)));
    }
}
