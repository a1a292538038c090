//! The short way of nearly all packets: plain ones, of known flows that are in order.

use super::Balancer;
use super::signal::signal_of;
use crate::flow::{Direction, FlowId, Name};
use crate::nat::{self, Change};
use crate::packet::Packet;
use crate::tuple::Family;
use crate::verdict::Verdict;
use crate::wire::plain::Plain;

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Rewrites a plain packet of the flow that `name` is said to be of, and notes that it came by. False, and nothing
    /// done, if it is not, if the flow keeps its destination, or unless it is `begun` just now or else such that [`flow_of`](Self::flow_of) would find it
    /// and change nothing.
    #[inline(always)]
    pub(super) fn forward_plain(&mut self, packet: &mut Packet<'_>, plain: &Plain, name: Name, begun: bool) -> bool {
        match plain.tuple.family {
            Family::V4 => self.forward_of(Family::V4, packet, plain, name, begun),
            Family::V6 => self.forward_of(Family::V6, packet, plain, name, begun),
        }
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn forward_of(&mut self, family: Family, packet: &mut Packet<'_>, plain: &Plain, name: Name, begun: bool) -> bool {
        let (direction, signal) = (name.direction(), signal_of(plain));
        let Some((entry, to)) = self.flows.known(family, name, &plain.tuple) else { return false };
        let in_order = entry.checked == self.rules.generation() && !entry.is_expired(self.ticks);
        if !begun && !in_order {
            return false;
        }
        let Some(next) = entry.next(signal, direction) else { return false };
        let changes = Change::undone_if(direction == Direction::Reply, entry.changes.map(Change));
        if nat::rewrite_plain(packet.data, plain, family, &to, changes, &packet.meta.checksum).is_none() {
            return false;
        }
        entry.count(direction);
        let deadline = self.ticks.plus(self.lifetimes.of(next));
        if !entry.is_in(next) || !entry.prolong(deadline) {
            self.flows.touch(FlowId(name.flow()), next, deadline);
        }
        self.counters.count_forwarded(direction);
        packet.verdict = Verdict::Forward { flow: FlowId(name.flow()), direction };
        true
    }

    /// Lets a plain packet pass that is of no flow and no service. False, and nothing done, if it may be of one: of a flow
    /// if its look-up found a name, or more flows have begun since.
    #[inline(always)]
    pub(super) fn pass_plain(&mut self, packet: &mut Packet<'_>, plain: &Plain, name: Name, begun: u64) -> bool {
        let nobodys = match name {
            Name::NOBODYS => true,
            Name::NONE => self.rules.is_nobodys(plain.tuple.destination()),
            _ => false,
        };
        let passes = nobodys && self.flows.begun() == begun;
        if passes {
            self.counters.count(Verdict::Pass);
            packet.verdict = Verdict::Pass;
        }
        passes
    }
}
