//! A flow begins: its first packet finds a pool, a backend, and a reply tuple that no other flow has.

use core::time::Duration;

use super::ahead::{Prospect, Ruling};
use super::{Balancer, flags, load_key};
use crate::flow::affinity::Visitor;
use crate::flow::table::{Beginning, Full};
use crate::flow::{Flags, FlowId, Signal, State};
use crate::nat::{self, PortRange};
use crate::packet::{Origin, Packet};
use crate::pick::Chooser;
use crate::rules::{Backend, Fate, NodeRules, Pool, node};
use crate::tuple::packed::Packed;
use crate::tuple::{Address, Tuple};
use crate::verdict::{DropReason, Verdict};

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Begins a flow for its first packet, or says what becomes of the packet instead.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn begin(
        &mut self,
        packet: &Packet<'_>,
        key: &Packed,
        hash: u64,
        signal: Signal,
        ahead: Option<&Prospect>,
    ) -> Result<FlowId, Verdict> {
        match ahead.and_then(|prospect| self.take_up(key, hash, signal, prospect)) {
            Some(begun) => begun,
            None => self.begin_by(packet, key, hash, signal, ahead.map(|prospect| prospect.ruling)),
        }
    }

    #[inline(never)]
    fn begin_by(
        &mut self,
        packet: &Packet<'_>,
        key: &Packed,
        hash: u64,
        signal: Signal,
        ruling: Option<Ruling>,
    ) -> Result<FlowId, Verdict> {
        let (now, original) = (self.now, &Tuple::from(key));
        let ruling = ruling.unwrap_or_else(|| Ruling::of(&self.rules, original, packet.meta.origin));
        let (pool, masquerade, hairpin) = match ruling.fate {
            Fate::Pass => return Err(Verdict::Pass),
            Fate::Accept | Fate::Punt => return Err(Verdict::Accept),
            Fate::Drop(reason) => return Err(Verdict::Drop(reason)),
            Fate::Reject(reason) => return Err(Verdict::Reject(reason)),
            Fate::Forward { pool, masquerade, hairpin } => (pool, masquerade, hairpin),
        };
        if let Some(reason) = forged(original, packet.meta.origin) {
            return Err(Verdict::Drop(reason));
        }
        let slot = ruling.slot.ok_or(Verdict::Pass)?;
        let (Some(segment), Some(node)) = (self.rules.segment(slot), self.rules.node()) else {
            return Err(Verdict::Pass);
        };
        // Its replies will go to the client's core, and so must the flow.
        let owner = self.steer.client(original.source);
        if owner != self.core {
            return Err(Verdict::Elsewhere(owner));
        }
        let seat = segment.affinity().map(|seconds| {
            let vip = || self.key.address(original.destination, original.destination_port.into());
            let service = segment.id() ^ if node.has(node::flag::AFFINITY_BY_VIP) { vip() } else { 0 };
            let client = original.source;
            let visitor = Visitor { service, client, hash: self.key.address(client, service) };
            (visitor, Duration::from_secs(seconds.into()))
        });
        // §7.6: after the policy has named the pool, before chance has its say.
        let remembered = seat.and_then(|(visitor, timeout)| {
            self.affinity.find(now, &visitor, timeout, |address, port| segment.pool_has(pool, address, port))
        });
        let (address, port) = match remembered {
            Some(endpoint) => endpoint,
            None => {
                let turns = self.cursors.len();
                let at = slot as usize * 2 + usize::from(pool == Pool::Local);
                // A table swapped in may have more slots than there are cursors: they then share.
                let at = if at < turns { at } else { at.checked_rem(turns).unwrap_or(0) };
                let cursor = self.cursors.get_mut(at).ok_or(Verdict::Pass)?;
                let load = |backend: &Backend| {
                    self.flows.load(load_key(&self.key, segment.id(), backend.address, backend.port))
                };
                let chooser = Chooser { cursor, rng: &mut self.rng, key: self.rules.key(), load };
                let chosen = chooser.choose(&segment, pool, original);
                chosen
                    .map(|backend| (backend.address, backend.port))
                    .ok_or(Verdict::Drop(DropReason::NoLocalEndpoint))?
            }
        };
        // §8.2: who is served by itself must see another's address, or it would answer itself directly.
        let masquerade = masquerade || (hairpin && address == original.source);
        let reply = answer(key, address, port, masquerade, &node);
        let reply = reply.ok_or(Verdict::Drop(DropReason::NoMasqueradeAddress))?;
        let ports = self.ports(&node);
        let counted = segment.scheduler().counts().then(|| load_key(&self.key, segment.id(), address, port));
        let (reply, reply_hash) =
            self.free_reply(key, reply, masquerade, ports).ok_or(Verdict::Drop(DropReason::NoPort))?;
        let first = State::first(signal, original.protocol);
        let flow = self.insert([key, &reply], [hash, reply_hash], slot, first, flags(masquerade, ruling.direct))?;
        if let Some(key) = counted {
            self.flows.count(flow, key);
        }
        if let Some((visitor, _)) = seat {
            self.affinity.remember(now, &visitor, address, port);
        }
        Ok(flow)
    }

    /// Begins the flow that was prepared ahead. `None`, and no flow begun, if chance has been asked or the reply tuple taken
    /// since: [`begin`](Self::begin) then comes to something else.
    #[inline(always)]
    fn take_up(
        &mut self,
        key: &Packed,
        hash: u64,
        signal: Signal,
        prospect: &Prospect,
    ) -> Option<Result<FlowId, Verdict>> {
        let (slot, offer) = (prospect.ruling.slot?, prospect.offer.as_ref()?);
        if self.rng != offer.before || self.find_live(offer.hash, &offer.reply).is_some() {
            return None;
        }
        self.rng = offer.after.clone();
        self.counters.port_tries += u64::from(offer.masquerade);
        self.counters.ports_changed += u64::from(offer.masquerade);
        let first = State::first(signal, key.protocol());
        let flags = flags(offer.masquerade, prospect.ruling.direct);
        let begun = self.insert([key, &offer.reply], [hash, offer.hash], slot, first, flags);
        self.flows.prefetch_free(key.family);
        Some(begun)
    }

    /// Puts a flow in the table that is in order by the rules of now, and is of the service port in this slot.
    #[cfg_attr(target_pointer_width = "64", inline)]
    pub(super) fn insert(
        &mut self,
        tuples @ [original, reply]: [&Packed; 2],
        hashes: [u64; 2],
        slot: u32,
        state: State,
        flags: Flags,
    ) -> Result<FlowId, Verdict> {
        let changes = nat::changes(original, &reply.reversed()).map(|change| change.0);
        let (checked, deadline) = (self.rules.generation(), self.ticks.plus(self.lifetimes.of(state)));
        let beginning = Beginning { tuples, hashes, changes, slot, checked, state, flags, deadline };
        let inserted = self.flows.insert(self.ticks, &beginning);
        let (Ok((_, ended)) | Err(Full(ended))) = inserted;
        self.counters.flows_expired += ended.expired;
        self.counters.flows_evicted += ended.evicted;
        let (flow, _) = inserted.map_err(|_| Verdict::Drop(DropReason::FlowTableFull))?;
        self.counters.flows_created += 1;
        Ok(flow)
    }

    /// The reply tuple and its hash, with a port to which replies belong to no other flow: the client's own unless
    /// the flow is masqueraded or that one is taken.
    fn free_reply(
        &mut self,
        original: &Packed,
        reply: Packed,
        masquerade: bool,
        ports: Option<PortRange>,
    ) -> Option<(Packed, u64)> {
        if !masquerade && let Some(hash) = self.free_hash(original, &reply) {
            return Some((reply, hash));
        }
        let ports = ports?;
        for (round, tries) in PortRange::ROUNDS.into_iter().enumerate() {
            // Whoever uses up the ports towards a backend must not make all newcomers dear.
            if round == 1 && !self.searches.admits(self.now) {
                return None;
            }
            let start = self.rng.below(ports.count());
            for port in ports.candidates(start, tries) {
                self.counters.port_tries += 1;
                let reply = reply.to_port(port);
                if let Some(hash) = self.free_hash(original, &reply) {
                    self.counters.ports_changed += 1;
                    if round > 0 {
                        self.searches.give_back();
                    }
                    return Some((reply, hash));
                }
            }
            if tries >= ports.count() {
                break;
            }
        }
        None
    }

    /// Ports that masquerading may use.
    pub(super) fn ports(&self, node: &NodeRules<'_>) -> Option<PortRange> {
        let (first, last) = node.reserved_ports();
        PortRange::new(1024..=u16::MAX, first..=last)?.share(self.core, self.steer.cores())
    }

    /// The hash of a reply tuple if no flow has it, and its packets come to this core.
    fn free_hash(&mut self, original: &Packed, reply: &Packed) -> Option<u64> {
        let hash = self.flows.hash(reply);
        (self.suits(original, reply) && self.find_live(hash, reply).is_none()).then_some(hash)
    }

    /// Whether a flow that no other is in the way of may have this reply tuple: its packets come to this core.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn suits(&self, original: &Packed, reply: &Packed) -> bool {
        let comes_here = self.steer.cores() == 1 || self.steer.tuple(&self.rules, &reply.into()) == self.core;
        comes_here && reply != original
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
