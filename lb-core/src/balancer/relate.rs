//! ICMP errors about packets of known flows.

use super::Balancer;
use crate::flow::{Direction, Flags, FlowId};
use crate::nat;
use crate::packet::Packet;
use crate::tuple::packed::Packed;
use crate::tuple::{Address, Tuple};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Headers, Quoted, icmp, view};

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// An ICMP error travels the way opposite to the packet it quotes, and is translated as a packet of
    /// that way: outside, and in what it quotes (SEMANTICS §11.8). As Linux has it, a router's address
    /// gives way to the Vip's towards the client, so that nothing behind the Vip shows.
    pub(super) fn relate(&mut self, packet: &mut Packet<'_>, headers: &Headers, mut quoted: Quoted) -> Verdict {
        quoted.tuple.zone = packet.meta.zone;
        let answered = quoted.tuple.reversed();
        let Some((flow, direction)) = self.related(headers.tuple.destination, answered, packet.meta.zone) else {
            return if let Some(core) = self.elsewhere(&answered) {
                Verdict::Elsewhere(core)
            } else if self.dials_a_service(&answered) {
                Verdict::Drop(DropReason::UnrelatedError)
            } else {
                // It begins nothing, and only new flows are refused (SEMANTICS §6.6).
                match self.unported(packet, headers) {
                    Verdict::Reject(_) | Verdict::Drop(DropReason::UnallocatedClusterIp) => Verdict::Pass,
                    verdict => verdict,
                }
            };
        };
        if is_redirect(packet, headers) {
            return Verdict::Drop(DropReason::Redirect);
        }
        let Some((to, source, destination)) = self.outer(headers, flow, direction) else {
            return Verdict::Drop(DropReason::StaleFlow);
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

    /// The flow that an error to `receiver` is about that quotes the packet which `answered` would answer. An error goes to
    /// whoever sent what it quotes (RFC 792, RFC 4443 §2.4); one to somebody else is forged.
    pub(super) fn related(&mut self, receiver: Address, answered: Tuple, zone: u16) -> Option<(FlowId, Direction)> {
        if receiver != answered.destination {
            return None;
        }
        let key = Packed::from(&Tuple { zone, ..answered });
        self.find_live(self.flows.spot(&key), &key)
    }

    /// A later fragment of an error about this flow: there is nothing in it but addresses.
    pub(super) fn relate_rest(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        flow: FlowId,
        direction: Direction,
    ) -> Verdict {
        let Some((_, source, destination)) = self.outer(headers, flow, direction) else {
            return Verdict::Drop(DropReason::StaleFlow);
        };
        let to = Tuple { source, destination, ..headers.tuple };
        match nat::rewrite(packet.data, headers, &to, packet.meta.checksum) {
            Ok(()) => Verdict::Forward { flow, direction },
            Err(_) => self.unported(packet, headers),
        }
    }

    /// What a packet of this flow becomes, and the addresses that an error about it leaves with; `None` if nobody there can use it
    /// any more.
    fn outer(&mut self, headers: &Headers, flow: FlowId, direction: Direction) -> Option<(Tuple, Address, Address)> {
        let stale =
            self.recheck(flow).is_none() || self.flows.entry(flow).is_some_and(|entry| entry.flags().has(Flags::STALE));
        let (to, (original, reply)) = (self.translated(flow, direction)?, self.tuples(flow)?);
        if stale && direction == Direction::Reply {
            return None;
        }
        let source_changed = (original.source, original.source_port) != (reply.destination, reply.destination_port);
        Some(match direction {
            _ if source_changed => (to, to.source, to.destination),
            Direction::Original => (to, headers.tuple.source, to.destination),
            Direction::Reply => (to, to.source, headers.tuple.destination),
        })
    }
}

/// Whether an error names another gateway. Translated it would seem to come from the receiver's own, whose address masquerading
/// lends; Linux drops it too, as whoever goes another way is not translated.
fn is_redirect(packet: &Packet<'_>, headers: &Headers) -> bool {
    let message: Option<&icmp::Header> = view(packet.data, headers.transport.into());
    headers.tuple.source.is_v4() && message.is_some_and(|message| message.kind == icmp::REDIRECT_V4)
}
