//! Fragments on their way to their flow.

use super::Balancer;
use crate::flow::fragments::{Piece, Placed};
use crate::packet::Packet;
use crate::tuple::packed::Packed;
use crate::tuple::{Family, Protocol, Tuple};
use crate::verdict::{Datagram, DropReason, Verdict};
use crate::wire::Headers;

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Finds a fragment's protocol and ports: those of its datagram's first.
    pub(super) fn place(&mut self, packet: &mut Packet<'_>, headers: &mut Headers) -> Result<(), Verdict> {
        let Some(fragment) = headers.fragment else { return Ok(()) };
        let tuple = &headers.tuple;
        // RFC 791 §2.3 names a datagram by its protocol too. RFC 8200 §4.5 does not, as a later fragment's
        // header names what the first one's payload begins with, which may be another extension header.
        let protocol = match tuple.source.family() {
            Family::V4 if !tuple.protocol.has_ports() => return Ok(()),
            Family::V4 => tuple.protocol,
            Family::V6 => Protocol(0),
        };
        let datagram = Tuple { source_port: 0, destination_port: 0, protocol, ..*tuple };
        let first = fragment.offset == 0;
        let piece = Piece {
            name: self.key.datagram(&datagram, fragment.identification),
            offset: fragment.offset,
            length: fragment.length,
            more: fragment.more,
            first: first.then_some((tuple.protocol, tuple.source_port, tuple.destination_port)),
        };
        let may_be_ours = first || self.may_be_ours(tuple);
        let placed = self.fragments.place(self.ticks, self.fragment_lifetime, &piece, may_be_ours);
        let name = Datagram(piece.name);
        // What it shows itself counts as well as what the datagram's first one showed: the two may differ.
        let own = headers.tuple;
        if let Placed::Known { first, .. } | Placed::Overlap { first } = placed {
            (headers.tuple.protocol, headers.tuple.source_port, headers.tuple.destination_port) = first;
        }
        let is_flows = |key: &Packed| self.flows.find(self.flows.hash(key), key).is_some();
        let is_ours = |tuple: &Tuple| is_flows(&tuple.into()) || self.dials_a_service(tuple);
        let ours = || is_ours(&headers.tuple) || is_ours(&own);
        match placed {
            Placed::Known { releases, .. } => {
                packet.releases = releases.then_some(name);
                Ok(())
            }
            Placed::Early if may_be_ours => Err(Verdict::Hold(name)),
            Placed::Overlap { .. } if ours() => Err(Verdict::Drop(DropReason::FragmentOverlap)),
            Placed::Full if may_be_ours && (!first || ours()) => Err(Verdict::Drop(DropReason::FragmentTableFull)),
            // Of no service: what its receiver makes of it is the receiver's business.
            Placed::Early | Placed::Overlap { .. } | Placed::Full => Err(Verdict::Pass),
        }
    }

    pub(super) fn dials_a_service(&self, tuple: &Tuple) -> bool {
        self.rules.node().is_some_and(|node| self.rules.owner(tuple, &node).is_some())
    }

    /// Whether a fragment without ports may be of a flow, or dial a service. Backends' replies have any
    /// addresses, so once there has been a flow every fragment may.
    fn may_be_ours(&self, tuple: &Tuple) -> bool {
        self.flows.has_had(tuple.source.family()) || self.rules.may_be_dialled(tuple.destination)
    }
}
