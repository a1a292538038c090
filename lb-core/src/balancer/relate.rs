//! ICMP errors about packets of known flows.

use super::Balancer;
use crate::flow::{Direction, Flags};
use crate::nat;
use crate::packet::Packet;
use crate::tuple::Tuple;
use crate::tuple::packed::Packed;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Headers, Quoted};

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// An ICMP error travels the way opposite to the packet it quotes, and is translated as a packet of
    /// that way: outside, and in what it quotes (SEMANTICS §11.8). As Linux has it, a router's address
    /// gives way to the Vip's towards the client, so that nothing behind the Vip shows.
    pub(super) fn relate(&mut self, packet: &mut Packet<'_>, headers: &Headers, mut quoted: Quoted) -> Verdict {
        quoted.tuple.zone = packet.meta.zone;
        let answered = quoted.tuple.reversed();
        let key = Packed::from(&answered);
        let Some((flow, direction)) = self.find_live(self.flows.hash(&key), &key) else {
            return if self.dials_a_service(&answered) {
                Verdict::Drop(DropReason::UnrelatedError)
            } else {
                self.unported(packet, headers)
            };
        };
        let stale =
            self.recheck(flow).is_none() || self.flows.entry(flow).is_some_and(|entry| entry.flags().has(Flags::STALE));
        let (Some(to), Some((original, reply))) = (self.translated(flow, direction), self.flows.tuples(flow)) else {
            return Verdict::Drop(DropReason::StaleFlow);
        };
        if stale && direction == Direction::Reply {
            return Verdict::Drop(DropReason::StaleFlow);
        }
        let (original, reply): (Tuple, Tuple) = ((&original).into(), (&reply).into());
        let source_changed = (original.source, original.source_port) != (reply.destination, reply.destination_port);
        let (source, destination) = match direction {
            Direction::Original if source_changed => (to.source, to.destination),
            Direction::Original => (headers.tuple.source, to.destination),
            Direction::Reply if source_changed => (to.source, to.destination),
            Direction::Reply => (to.source, headers.tuple.destination),
        };
        match nat::rewrite_error(
            packet.data,
            headers,
            &quoted,
            source,
            destination,
            &to.reversed(),
            packet.meta.checksum,
        ) {
            Ok(()) => Verdict::Forward { flow, direction },
            Err(_) => Verdict::Drop(DropReason::UntranslatableSctp),
        }
    }
}
