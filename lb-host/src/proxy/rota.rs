//! Whose turn it is: the endpoints of one service port, and which client is whose (SEMANTICS §14.5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_core::{Address, Instant};

use crate::chance::Chance;
use crate::host::Socket;

/// Clients that one service port remembers; of more, the one seen longest ago is forgotten.
pub const REMEMBERED: usize = 16_384;

/// How long a client is remembered if the service says 0.
const TTL: u32 = 10_800;

/// Endpoints in turn, in an order that is shuffled whenever others are there.
pub(super) struct Rota {
    chance: Chance,
    order: Vec<Socket>,
    turn: usize,
    /// How long a client keeps its endpoint after it last connected.
    ttl: Option<Duration>,
    remembered: BTreeMap<Address, Remembered>,
    /// When somebody may have to be forgotten.
    purge: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Remembered {
    endpoint: Socket,
    last_used: Instant,
}

impl Rota {
    pub(super) const fn new(chance: Chance) -> Self {
        Self { chance, order: Vec::new(), turn: 0, ttl: None, remembered: BTreeMap::new(), purge: None }
    }

    /// Takes note of the endpoints and of the affinity in seconds. The same endpoints keep their order and turn.
    pub(super) fn update(&mut self, endpoints: &BTreeSet<Socket>, affinity: Option<u32>) {
        self.ttl = affinity.map(|seconds| Duration::from_secs(if seconds == 0 { TTL } else { seconds }.into()));
        let same = self.order.len() == endpoints.len() && self.order.iter().all(|known| endpoints.contains(known));
        if !same {
            self.order = endpoints.iter().copied().collect();
            // Fisher and Yates.
            for left in (1..self.order.len()).rev() {
                self.order.swap(left, self.chance.below(left as u64 + 1) as usize);
            }
            self.turn = 0;
        }
        let kept = self.ttl.is_some();
        self.remembered.retain(|_, remembered| kept && endpoints.contains(&remembered.endpoint));
    }

    /// The endpoint for a client: its own unless it has none or `anew` is set, else the next one. `None` if there is none.
    pub(super) fn next(&mut self, now: Instant, client: Address, anew: bool) -> Option<Socket> {
        if let Some(ttl) = self.ttl
            && let Some(own) = self.remembered.get_mut(&client)
            && !anew
            && now.saturating_since(own.last_used) < ttl
        {
            own.last_used = now;
            return Some(own.endpoint);
        }
        let endpoint = *self.order.get(self.turn)?;
        self.turn = (self.turn + 1) % self.order.len();
        if let Some(ttl) = self.ttl {
            if self.remembered.len() >= REMEMBERED && !self.remembered.contains_key(&client) {
                let oldest = self.remembered.iter().min_by_key(|(_, remembered)| remembered.last_used);
                let oldest = oldest.map(|(client, _)| *client);
                oldest.and_then(|client| self.remembered.remove(&client));
            }
            self.remembered.insert(client, Remembered { endpoint, last_used: now });
            self.purge.get_or_insert(now.saturating_add(ttl));
        }
        Some(endpoint)
    }

    /// Forgets clients that were not seen for too long.
    pub(super) fn purge(&mut self, now: Instant) {
        if self.purge.is_none_or(|due| now < due) {
            return;
        }
        let ttl = self.ttl.unwrap_or_default();
        self.remembered.retain(|_, remembered| now.saturating_since(remembered.last_used) < ttl);
        let oldest = self.remembered.values().map(|remembered| remembered.last_used).min();
        self.purge = oldest.map(|last_used| last_used.saturating_add(ttl));
    }

    /// When [`purge`](Self::purge) is next due.
    pub(super) const fn next_deadline(&self) -> Option<Instant> {
        self.purge
    }

    /// Clients that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.remembered.len()
    }
}
