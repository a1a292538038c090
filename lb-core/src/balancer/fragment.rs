//! Fragments on their way to their flow.

use super::Balancer;
use crate::flow::fragments::{Piece, Placed};
use crate::flow::{Direction, FlowId};
use crate::packet::Packet;
use crate::rules::Receiver;
use crate::tuple::packed::Packed;
use crate::tuple::{Family, Protocol, Tuple};
use crate::verdict::{Datagram, DropReason, Verdict};
use crate::wire::{Content, Headers};

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Finds a fragment's protocol and ports: those of its datagram's first.
    pub(super) fn complete(&mut self, packet: &mut Packet<'_>, headers: &mut Headers) -> Result<(), Verdict> {
        let Some(fragment) = headers.fragment else { return Ok(()) };
        let tuple = &headers.tuple;
        // RFC 791 §2.3 names a datagram by its protocol too. RFC 8200 §4.5 does not, as a later fragment's
        // header names what the first one's payload begins with, which may be another extension header.
        let protocol = if tuple.source.family() == Family::V4 { tuple.protocol } else { Protocol(0) };
        let portless = !tuple.protocol.has_ports();
        // The pieces of an ICMP error go where it goes, so its first shows whose it is.
        let answered = match headers.content {
            Content::Error(quoted) => Some(quoted.tuple.reversed()),
            _ => None,
        };
        let related =
            answered.and_then(|answered| self.related(headers.tuple.destination, answered, headers.tuple.zone));
        let strange = answered.filter(|_| related.is_none()).and_then(|answered| self.elsewhere(&answered));
        // Of what else has no ports over IPv4 nothing is ours; the later pieces of an error are no longer told from it.
        let is_error = related.is_some()
            || strange.is_some()
            || (tuple.protocol == Protocol::ICMP && headers.content == Content::LaterFragment);
        if portless && tuple.source.is_v4() && !is_error {
            return Ok(());
        }
        let datagram = Tuple { source_port: 0, destination_port: 0, protocol, ..*tuple };
        let first = fragment.offset == 0;
        let piece = Piece {
            name: self.key.datagram(&datagram, fragment.identification),
            offset: fragment.offset,
            length: fragment.length,
            more: fragment.more,
            first: first.then_some(match (related, strange) {
                (Some((flow, direction)), _) => related_ports(tuple.protocol, flow, direction),
                (None, Some(core)) => (tuple.protocol, core, STRANGE),
                (None, None) => (tuple.protocol, tuple.source_port, tuple.destination_port),
            }),
        };
        // Pings in pieces are not held on the chance that they are errors.
        let may_be_ours = first || (self.may_be_ours(tuple) && !(portless && tuple.source.is_v4()));
        let placed = self.fragments.place(self.ticks, self.fragment_lifetime, &piece, may_be_ours);
        let name = Datagram(piece.name);
        // What it shows itself counts as well as what the datagram's first one showed: the two may differ.
        let own = headers.tuple;
        if let (Placed::Known { first, .. } | Placed::Overlap { first }, None) = (placed, related) {
            (headers.tuple.protocol, headers.tuple.source_port, headers.tuple.destination_port) = first;
        }
        let shown = first || !matches!(placed, Placed::Early | Placed::Full);
        if let Some(core) = strange.or_else(|| self.elsewhere_of(headers, shown)) {
            packet.releases = matches!(placed, Placed::Known { releases: true, .. }).then_some(name);
            return Err(Verdict::Elsewhere(core));
        }
        let is_flows = |key: &Packed| self.flows.find(self.flows.spot(key), key).is_some();
        let is_ours = |tuple: &Tuple| is_flows(&tuple.into()) || self.dials_a_service(tuple);
        let ours = || is_ours(&headers.tuple) || is_ours(&own);
        match placed {
            Placed::Known { releases, .. } => {
                packet.releases = releases.then_some(name);
                Ok(())
            }
            Placed::Early if may_be_ours => Err(Verdict::Hold(name)),
            Placed::Early if portless && own.source.is_v4() => Ok(()),
            Placed::Overlap { .. } if ours() => Err(Verdict::Drop(DropReason::FragmentOverlap)),
            Placed::Full if may_be_ours && (!first || ours()) => Err(Verdict::Drop(DropReason::FragmentTableFull)),
            // Of no service: what its receiver makes of it is the receiver's business.
            Placed::Early | Placed::Overlap { .. } | Placed::Full => Err(Verdict::Pass),
        }
    }

    /// The flow that a later fragment's datagram is an ICMP error about, as its first fragment showed, and which way it goes.
    pub(super) fn error_of(&self, headers: &Headers) -> Option<(FlowId, Direction)> {
        let (flow, direction) = match (headers.tuple.source_port, headers.tuple.destination_port) {
            (low, high) if high & RELATED != 0 => {
                let direction = if high & REPLY == 0 { Direction::Original } else { Direction::Reply };
                (FlowId(u32::from(high & !(RELATED | REPLY)) << 16 | u32::from(low)), direction)
            }
            _ => return None,
        };
        // By now another flow may have the name.
        let goes_to = self.flows.tuple(flow, direction)?.destination();
        (goes_to == headers.tuple.destination && self.flows.entry(flow)?.state().is_some()).then_some((flow, direction))
    }

    /// Which core a fragment is for if not for this one, once its datagram's first showed its ports.
    fn elsewhere_of(&self, headers: &Headers, shown: bool) -> Option<u16> {
        match headers.tuple {
            tuple if shown && tuple.protocol.has_ports() => self.elsewhere(&tuple),
            Tuple { source_port: core, destination_port: STRANGE, .. } if shown => Some(core),
            _ => None,
        }
    }

    pub(super) fn dials_a_service(&self, tuple: &Tuple) -> bool {
        self.rules.node().is_some_and(|node| self.rules.owner(tuple, &node, None).is_some())
    }

    /// Whether a fragment without ports may be of a flow, or dial a service. Backends' replies have any
    /// addresses, so once there has been a flow every fragment may.
    fn may_be_ours(&self, tuple: &Tuple) -> bool {
        // Other cores' flows are masqueraded too.
        let may_be_theirs =
            || self.steer.cores() > 1 && self.rules.receiver(tuple.destination) == Receiver::Node { masquerades: true };
        self.flows.has_had(tuple.source.family()) || self.rules.may_be_dialled(tuple.destination) || may_be_theirs()
    }
}

/// In the place of ports, which an ICMP error has none of: the flow that it is about. Names of flows leave these bits free.
const RELATED: u16 = 1 << 15;
const REPLY: u16 = 1 << 14;
/// In the place of the second one: the first is the core that the flow is at.
const STRANGE: u16 = REPLY;

fn related_ports(protocol: Protocol, FlowId(flow): FlowId, direction: Direction) -> (Protocol, u16, u16) {
    let way = if direction == Direction::Reply { REPLY } else { 0 };
    (protocol, flow as u16, (flow >> 16) as u16 | RELATED | way)
}
