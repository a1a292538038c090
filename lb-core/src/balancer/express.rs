//! The short way of nearly all packets: plain ones, of known flows that are in order.

use super::{Balancer, tcp_signal};
use crate::flow::{Direction, Flags, FlowId, Name, Signal};
use crate::nat::{self, Change};
use crate::packet::Packet;
use crate::verdict::{DropReason, Verdict};
use crate::wire::plain::Plain;

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// The verdict on a packet of the flow that `name` is said to be of. `None`, and nothing done, unless it is, and
    /// is such that [`flow_of`](Self::flow_of) would find it and change nothing.
    #[inline(always)]
    pub(super) fn express(&mut self, packet: &mut Packet<'_>, plain: &Plain, name: Name) -> Option<Verdict> {
        let generation = self.rules.generation();
        let (entry, _) = self.flows.known(name, &plain.tuple)?;
        let anew = entry.state()?.ends_with(signal_of(plain), name.direction());
        let in_order =
            entry.checked == generation && !entry.is_expired(self.ticks) && !entry.flags().has(Flags::STALE) && !anew;
        in_order.then(|| self.forward_plain(packet, plain, name))
    }

    /// Rewrites a plain packet of a flow, and notes that it came by.
    #[inline(always)]
    pub(super) fn forward_plain(&mut self, packet: &mut Packet<'_>, plain: &Plain, name: Name) -> Verdict {
        let (flow, direction) = (FlowId(name.flow()), name.direction());
        let gone = Verdict::Drop(DropReason::StaleFlow);
        let Some((entry, to)) = self.flows.known(name, &plain.tuple) else { return gone };
        let Some(state) = entry.state() else { return gone };
        let changes = match direction {
            Direction::Original => entry.changes.map(Change),
            Direction::Reply => entry.changes.map(|change| Change(change).undone()),
        };
        if nat::rewrite_plain(packet.data, plain, &to, changes, packet.meta.checksum).is_none() {
            return gone;
        }
        entry.count(direction);
        let next = state.next(signal_of(plain), direction);
        let deadline = self.ticks.plus(self.lifetimes.of(next));
        if next != state || !entry.prolong(deadline) {
            self.flows.touch(flow, next, deadline);
        }
        Verdict::Forward { flow, direction }
    }
}

/// What a plain packet says about its flow.
#[inline(always)]
pub(super) fn signal_of(plain: &Plain) -> Signal {
    plain.tcp.map_or(Signal::Datagram, tcp_signal)
}
