//! A flow begins: its first packet finds a pool, a backend, and a reply tuple that no other flow has.

use core::time::Duration;

use super::terms::{answer, forged};
use super::{Balancer, flags, load_key};
use crate::flow::affinity::Visitor;
use crate::flow::table::{Beginning, Full};
use crate::flow::{Flags, FlowId, Signal, Spot, State};
use crate::nat::{self, PortRange};
use crate::packet::Packet;
use crate::pick::Chooser;
use crate::rules::{Backend, Decision, Fate, Pool, node};
use crate::tuple::Tuple;
use crate::tuple::packed::Packed;
use crate::verdict::{DropReason, Verdict};

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// Begins a flow for its first packet, or says what becomes of the packet instead.
    #[inline(never)]
    pub(super) fn begin(
        &mut self,
        packet: &Packet<'_>,
        key: &Packed,
        spot: Spot,
        signal: Signal,
    ) -> Result<FlowId, Verdict> {
        let (now, original) = (self.now, &Tuple::from(key));
        let Decision { fate, service, class, .. } = self.rules.decide(original, packet.meta.origin);
        let (pool, masquerade, hairpin) = match fate {
            Fate::Pass => return Err(Verdict::Pass),
            Fate::Accept | Fate::Punt => return Err(Verdict::Accept),
            Fate::Drop(reason) => return Err(Verdict::Drop(reason)),
            Fate::Reject(reason) => return Err(Verdict::Reject(reason)),
            Fate::Forward { pool, masquerade, hairpin } => (pool, masquerade, hairpin),
        };
        if let Some(reason) = forged(original, packet.meta.origin) {
            return Err(Verdict::Drop(reason));
        }
        let (Some((slot, segment)), Some(class), Some(node)) = (service, class, self.rules.node()) else {
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
        let flags = flags(masquerade, segment.keeps_destination(class));
        let counted = segment.scheduler().counts().then(|| load_key(&self.key, segment.id(), address, port));
        let (reply, reply_spot) =
            self.free_reply(key, reply, masquerade, ports).ok_or(Verdict::Drop(DropReason::NoPort))?;
        let first = State::first(signal, original.protocol);
        let flow = self.insert([key, &reply], [spot, reply_spot], slot, first, flags)?;
        if let Some(key) = counted {
            self.flows.count(flow, key);
        }
        if let Some((visitor, _)) = seat {
            self.affinity.remember(now, &visitor, address, port);
        }
        Ok(flow)
    }

    /// Puts a flow in the table that is in order by the rules of now, and is of the service port in this slot.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn insert(
        &mut self,
        tuples @ [original, reply]: [&Packed; 2],
        spots: [Spot; 2],
        slot: u32,
        state: State,
        flags: Flags,
    ) -> Result<FlowId, Verdict> {
        let changes = nat::changes(original, &reply.reversed()).map(|change| change.0);
        let (checked, deadline) = (self.rules.generation(), self.ticks.plus(self.lifetimes.of(state)));
        let beginning = Beginning { tuples, spots, changes, slot, checked, state, flags, deadline };
        let inserted = self.flows.insert(self.ticks, &beginning);
        let (Ok((_, ended)) | Err(Full(ended))) = inserted;
        self.counters.flows_expired += ended.expired;
        self.counters.flows_evicted += ended.evicted;
        let (flow, _) = inserted.map_err(|_| Verdict::Drop(DropReason::FlowTableFull))?;
        self.counters.flows_created += 1;
        Ok(flow)
    }

    /// The reply tuple and its spot, with a port to which replies belong to no other flow: the client's own unless
    /// the flow is masqueraded or that one is taken.
    fn free_reply(
        &mut self,
        original: &Packed,
        reply: Packed,
        masquerade: bool,
        ports: Option<PortRange>,
    ) -> Option<(Packed, Spot)> {
        if !masquerade && let Some(spot) = self.free_spot(original, &reply) {
            return Some((reply, spot));
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
                if let Some(spot) = self.free_spot(original, &reply) {
                    self.counters.ports_changed += 1;
                    if round > 0 {
                        self.searches.give_back();
                    }
                    return Some((reply, spot));
                }
            }
            if tries >= ports.count() {
                break;
            }
        }
        None
    }

    /// The spot of a reply tuple if no flow has it, and its packets come to this core.
    fn free_spot(&mut self, original: &Packed, reply: &Packed) -> Option<Spot> {
        let spot = self.flows.spot(reply);
        (self.suits(original, reply) && self.find_live(spot, reply).is_none()).then_some(spot)
    }
}
