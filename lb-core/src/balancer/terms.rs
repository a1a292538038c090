//! On what terms a flow may begin: who may send its first packet, and by which tuple it may be answered.

use super::Balancer;
use crate::nat::PortRange;
use crate::packet::Origin;
use crate::rules::NodeRules;
use crate::tuple::packed::Packed;
use crate::tuple::{Address, Tuple};
use crate::verdict::DropReason;

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Ports that masquerading may use.
    pub(super) fn ports(&self, node: &NodeRules<'_>) -> Option<PortRange> {
        let (first, last) = node.reserved_ports();
        PortRange::new(1024..=u16::MAX, first..=last)?.share(self.core, self.steer.cores())
    }

    /// Whether a flow that no other is in the way of may have this reply tuple: its packets come to this core.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn suits(&self, original: &Packed, reply: &Packed) -> bool {
        let comes_here = self.steer.cores() == 1 || self.steer.tuple(&self.rules, &reply.into()) == self.core;
        comes_here && !reply.is(original)
    }
}

/// The tuple of answers from the backend at this address and port, until it has a port of its own. `None` if there is no
/// address to masquerade with.
#[cfg_attr(target_pointer_width = "64", inline(always))]
pub(super) fn answer(
    original: &Packed,
    address: Address,
    port: u16,
    masquerade: bool,
    node: &NodeRules<'_>,
) -> Option<Packed> {
    let to = if masquerade { Some(node.masquerade(address)?) } else { None };
    Some(original.answered_by(address, port, to))
}

/// Why nobody can have sent this in good faith to what it dials. Loopback addresses are the node's own (SEMANTICS §1), and
/// must not come from elsewhere (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3); from one of them to another they were
/// received where only the node sends (§9.5).
#[cfg_attr(target_pointer_width = "64", inline(always))]
pub(super) fn forged(tuple: &Tuple, origin: Origin) -> Option<DropReason> {
    let its_own = match origin {
        Origin::Node => true,
        Origin::Wire => tuple.destination.is_loopback(),
        Origin::Pod => false,
    };
    if !tuple.source.is_unicast() || (tuple.source.is_loopback() && !its_own) {
        return Some(DropReason::MartianSource);
    }
    // CERT CA-1997-28: answered, it would go round between balancer and backend.
    let to_itself = (tuple.source, tuple.source_port) == (tuple.destination, tuple.destination_port);
    to_itself.then_some(DropReason::Land)
}
