//! What a batch finds out about packets that begin flows, before the first of them does.
//!
//! Memory is asked for step by step, for all packets of a chunk together. Where a backend depends on rules, packet and chance alone
//! it is chosen here already, as rules can't change meanwhile, by a copy of the generator: if that has not moved by the time that the flow
//! begins, it would choose the same again. Such a flow begins, and its packet is rewritten, by what is known of it.

use super::signal::signal_of;
use super::terms::{answer, forged};
use super::{Balancer, CHUNK, OFFERS, flags};
use crate::flow::{Direction, Name, Spot, State};
use crate::nat::{self, Change, PortRange};
use crate::packet::{Origin, Packet};
use crate::pick::Chooser;
use crate::rng::Rng;
use crate::rules::{Answer, Fate, NodeRules};
use crate::tuple::packed::Packed;
use crate::tuple::{Family, Tuple};
use crate::verdict::Verdict;
use crate::wire::plain::Plain;

/// What holds for all packets of a chunk.
struct Here<'r> {
    node: NodeRules<'r>,
    /// Those to masquerade with.
    ports: Option<PortRange>,
}

/// A backend for a new flow, as its answers show it.
pub(super) struct Offer {
    /// The tuple of the answers, and its spot.
    reply: Packed,
    spot: Spot,
    /// The source is replaced, by the port that is tried first.
    masquerade: bool,
    /// Of the service port.
    slot: u32,
    /// The generator that chose, before it did and after.
    before: Rng,
    after: Rng,
}

/// What the packets of a chunk are offered.
type Offers = [Option<Offer>; OFFERS];

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// What is known of a packet that its first bucket does not know; what tells more is asked for.
    #[inline(always)]
    pub(super) fn unknown(&self, plain: &Plain, spot: Spot) -> Name {
        if !self.flows.is_small() {
            self.flows.prefetch_second(spot);
        }
        if self.rules.is_far_from_all(plain.tuple.destination()) {
            return Name::NOBODYS;
        }
        if !self.rules.is_small() {
            self.rules.prefetch_vip(plain.tuple.dialled());
        }
        Name::NONE
    }

    /// Finds the names that second buckets have, notes which packets are nobody's, and says what those left are offered;
    /// `None` if none is left.
    #[inline(never)]
    pub(super) fn look_ahead(
        &self,
        packets: &[Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        spots: &[Spot; CHUNK],
        names: &mut [Name; CHUNK],
    ) -> Option<Offers> {
        let (mut owners, mut dialling) = ([None; CHUNK], false);
        for (((plain, spot), name), owner) in plain.iter().zip(spots).zip(&mut *names).zip(&mut owners) {
            let Some(plain) = plain.as_ref().filter(|_| !name.is_flows()) else { continue };
            if let Some(second) = self.flows.unlikely(*spot) {
                *name = second;
                self.flows.prefetch_entry(second);
                self.flows.prefetch_rest(second);
                continue;
            }
            if *name == Name::NOBODYS {
                continue;
            }
            // A Vip is looked for first, as nearly all that dials a service's address dials a port of it.
            *owner = self.rules.dialled(plain.tuple.dialled());
            match *owner {
                Some(owner) if !self.rules.is_small() => self.rules.prefetch_segment(owner),
                None if self.rules.is_nobodys(plain.tuple.destination()) => {
                    *name = Name::NOBODYS;
                    continue;
                }
                _ => {}
            }
            dialling = true;
        }
        let node = if dialling { self.rules.node() } else { None };
        Some(self.offers(&node?, packets, plain, spots, names, &owners))
    }

    #[inline(always)]
    fn offers(
        &self,
        node: &NodeRules<'_>,
        packets: &[Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        spots: &[Spot; CHUNK],
        names: &[Name; CHUNK],
        owners: &[Option<Answer<'_>>; CHUNK],
    ) -> Offers {
        let (here, mut rng) = (Here { ports: self.ports(node), node: *node }, self.rng.clone());
        let mut seen = [0u64; 8];
        [Family::V4, Family::V6].into_iter().for_each(|family| self.flows.prefetch_free(family));
        core::array::from_fn(|i| {
            let (packet, plain, spot) = (packets.get(i)?, plain.get(i)?.as_ref()?, *spots.get(i)?);
            if *names.get(i)? != Name::NONE {
                return None;
            }
            // By the time of a flow's second packet there is the flow, and nothing is left to chance.
            let (word, bit) = spot.bit();
            let seen = seen.get_mut(word)?;
            if *seen & bit != 0 && spots.iter().take(i).any(|before| *before == spot) {
                return None;
            }
            *seen |= bit;
            let (origin, owner) = (packet.meta.origin, *owners.get(i)?);
            match plain.tuple.family {
                Family::V4 => self.offer::<true>(&here, &plain.tuple, origin, owner, &mut rng),
                Family::V6 => self.offer::<false>(&here, &plain.tuple, origin, owner, &mut rng),
            }
        })
    }

    /// The backend of a flow that begins with a packet of this tuple, if nothing but the packet and chance has a say in it. Each
    /// family has a function of its own, in which the compiler knows of which one addresses are.
    #[inline(never)]
    fn offer<const V4: bool>(
        &self,
        here: &Here<'_>,
        key: &Packed,
        origin: Origin,
        owner: Option<Answer<'_>>,
        rng: &mut Rng,
    ) -> Option<Offer> {
        let key = &key.known_as(if V4 { Family::V4 } else { Family::V6 });
        let tuple = &Tuple::from(key);
        let owner @ (slot, segment, class) = self.rules.owner(tuple, &here.node, owner)?;
        let forgets = segment.affinity().is_none() && segment.scheduler().forgets();
        if !forgets || segment.keeps_destination(class) || forged(tuple, origin).is_some() {
            return None;
        }
        let decision = self.rules.decide_for(&here.node, tuple, origin, owner);
        let Fate::Forward { pool, masquerade, hairpin } = decision.fate else { return None };
        if self.steer.client(tuple.source) != self.core {
            return None;
        }
        let before = rng.clone();
        let chooser = Chooser { cursor: &mut 0, rng, key: self.rules.key(), load: |_: &_| 0 };
        let backend = chooser.choose(&segment, pool, tuple)?;
        let masquerade = masquerade || (hairpin && backend.address == tuple.source);
        let mut reply = answer(key, backend.address, backend.port, masquerade, &here.node)?;
        if masquerade {
            let ports = here.ports?;
            reply = reply.to_port(ports.candidate(rng.below(ports.count())));
        }
        let spot = self.flows.spot(&reply);
        if !self.flows.is_small() {
            self.flows.prefetch_bucket(spot);
        }
        self.suits(key, &reply).then(|| Offer { reply, spot, masquerade, slot, before, after: rng.clone() })
    }

    /// Begins the flow that was offered a backend and rewrites its first packet. False, and nothing done, if
    /// chance has been asked since, or if there may be a flow of either tuple: the long way then comes to something else.
    #[inline(always)]
    pub(super) fn take_up(&mut self, packet: &mut Packet<'_>, plain: &Plain, spot: Spot, offer: &Offer) -> bool {
        match plain.tuple.family {
            Family::V4 => self.start::<true>(packet, plain, spot, offer),
            Family::V6 => self.start::<false>(packet, plain, spot, offer),
        }
    }

    #[inline(never)]
    fn start<const V4: bool>(&mut self, packet: &mut Packet<'_>, plain: &Plain, spot: Spot, offer: &Offer) -> bool {
        if self.rng != offer.before || !self.flows.lacks(spot) || !self.flows.lacks(offer.spot) {
            return false;
        }
        let family = if V4 { Family::V4 } else { Family::V6 };
        packet.releases = None;
        self.rng = offer.after.clone();
        self.counters.port_tries += u64::from(offer.masquerade);
        self.counters.ports_changed += u64::from(offer.masquerade);
        let (original, reply) = (plain.tuple.known_as(family), offer.reply.known_as(family));
        let signal = signal_of(plain);
        let first = State::first(signal, original.protocol());
        let flags = flags(offer.masquerade, false);
        let flow = match self.insert([&original, &reply], [spot, offer.spot], offer.slot, first, flags) {
            Ok(flow) => flow,
            Err(verdict) => {
                self.counters.count(verdict);
                packet.verdict = verdict;
                return true;
            }
        };
        if !self.flows.is_small() {
            self.flows.prefetch_free(family);
        }
        if let Some(entry) = self.flows.entry_of(family, flow.0) {
            let changes = entry.changes.map(Change);
            // Nothing leaves as it came: what could not be rewritten here goes the long way, to the flow that there is by now.
            if nat::rewrite_plain(packet.data, plain, family, &reply.reversed(), changes, &packet.meta.checksum)
                .is_none()
            {
                return false;
            }
            entry.count(Direction::Original);
        }
        let next = first.next(signal, Direction::Original);
        if next != first {
            self.flows.touch(flow, next, self.ticks.plus(self.lifetimes.of(next)));
        }
        self.counters.count_forwarded(Direction::Original);
        packet.verdict = Verdict::Forward { flow, direction: Direction::Original };
        true
    }
}
