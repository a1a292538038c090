//! Whom a host has lately dealt with: what comes from them is late, but not strange.

use std::collections::{BTreeSet, VecDeque};

use lb_core::Protocol;

use super::Socket;

/// As many as are remembered; then the oldest is forgotten for each new one. A host that ends connections by the thousand every
/// second still knows those of the last minute, by when nothing of them is under way.
const KEPT: usize = 1 << 16;

/// Both ends of a conversation, this host's first.
type Ends = (Protocol, Socket, Socket);

/// The ends that were put in last, at most [`KEPT`].
#[derive(Default)]
pub(super) struct Recent {
    known: BTreeSet<Ends>,
    order: VecDeque<Ends>,
}

impl Recent {
    pub(super) fn insert(&mut self, protocol: Protocol, own: Socket, other: Socket) {
        let ends = (protocol, own, other);
        if !self.known.insert(ends) {
            return;
        }
        self.order.push_back(ends);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, protocol: Protocol, own: Socket, other: Socket) -> bool {
        self.known.contains(&(protocol, own, other))
    }

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Ends> {
        self.order.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use lb_core::Address;

    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_protocols_are_told_apart() {
        let (own, other) = ((Address::v4([10, 0, 0, 1]), 53), Address::v4([10, 0, 0, 2]));
        let ends = |n: usize| (Address::v4([10, 1, (n >> 16) as u8, (n >> 8) as u8]), n as u16);
        let mut recent = Recent::default();
        recent.insert(Protocol::UDP, own, (other, 7));
        for n in 0..KEPT - 1 {
            recent.insert(Protocol::TCP, own, ends(n));
        }
        assert!(recent.contains(Protocol::UDP, own, (other, 7)) && !recent.contains(Protocol::TCP, own, (other, 7)));
        recent.insert(Protocol::TCP, own, ends(0));
        assert!(recent.contains(Protocol::UDP, own, (other, 7)), "what is known takes no room");
        recent.insert(Protocol::TCP, own, ends(KEPT));
        assert!(!recent.contains(Protocol::UDP, own, (other, 7)), "the oldest");
        assert_eq!((recent.known.len(), recent.order.len()), (KEPT, KEPT));
    }
}
