//! What a batch finds out about packets that begin flows, before the first of them does.
//!
//! Memory is asked for step by step, for all packets of a chunk together. What the rules say is settled here already, as
//! they can't change meanwhile; which backend a flow gets is guessed, only to ask for the index buckets of its answers.

use super::begin::answer;
use super::{Balancer, CHUNK};
use crate::flow::{Name, Place};
use crate::packet::{Origin, Packet};
use crate::pick::Chooser;
use crate::rng::Rng;
use crate::rules::{Fate, RuleTable};
use crate::tuple::Tuple;
use crate::tuple::packed::Packed;
use crate::wire::plain::Plain;

/// What the rules say of a new flow.
#[derive(Clone, Copy)]
pub(super) struct Ruling {
    pub(super) fate: Fate,
    /// Of the service port that it dials.
    pub(super) slot: Option<u32>,
    /// Its destination is kept.
    pub(super) direct: bool,
}

impl Ruling {
    /// The ruling on a flow that begins with this tuple; `slot` is whose address it dials, if that is known.
    pub(super) fn of<M: AsRef<[u8]>>(rules: &RuleTable<M>, tuple: &Tuple, origin: Origin, slot: Option<u32>) -> Self {
        let decision = rules.decide_of(tuple, origin, slot);
        let keeps = decision.service.zip(decision.class);
        Self {
            fate: decision.fate,
            slot: decision.service.map(|(slot, _)| slot),
            direct: keeps.is_some_and(|((_, segment), class)| segment.keeps_destination(class)),
        }
    }
}

impl<M: AsRef<[u8]>> Balancer<'_, M> {
    /// What is known of a packet that its first bucket does not know; what tells more is asked for.
    #[inline(always)]
    pub(super) fn unknown(&self, plain: &Plain, place: Place) -> Name {
        if !self.flows.is_small() {
            self.flows.prefetch_second(place);
        }
        if self.rules.is_far_from_all(plain.tuple.destination()) {
            return Name::NOBODYS;
        }
        if !self.rules.is_small() {
            self.rules.prefetch_vip(plain.tuple.dialled());
        }
        Name::NONE
    }

    /// Finds the names that second buckets have, notes which packets are nobody's, and what the rules say of those left.
    #[inline(never)]
    pub(super) fn look_ahead(
        &self,
        packets: &[Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        places: &[Place; CHUNK],
        names: &mut [Name; CHUNK],
        rulings: &mut [Option<Ruling>; CHUNK],
    ) {
        let (mut slots, mut dialling) = ([None; CHUNK], false);
        for (((plain, place), name), slot) in plain.iter().zip(places).zip(&mut *names).zip(&mut slots) {
            let Some(plain) = plain.as_ref().filter(|_| !name.is_flows()) else { continue };
            let second = self.flows.unlikely(*place);
            if second.is_flows() {
                *name = second;
                self.flows.prefetch_entry(second);
                continue;
            }
            if *name == Name::NOBODYS {
                continue;
            }
            // A Vip is looked for first, as nearly all that dials a service's address dials a port of it.
            *slot = self.rules.dialled(plain.tuple.dialled());
            match *slot {
                Some(slot) => self.rules.prefetch_slot(slot),
                None if self.rules.is_nobodys(plain.tuple.destination()) => {
                    *name = Name::NOBODYS;
                    continue;
                }
                None => {}
            }
            dialling = true;
        }
        if dialling {
            self.rule(packets, plain, names, &slots, rulings);
        }
    }

    fn rule(
        &self,
        packets: &[Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        names: &[Name; CHUNK],
        slots: &[Option<u32>; CHUNK],
        rulings: &mut [Option<Ruling>; CHUNK],
    ) {
        if !self.rules.is_small() {
            slots.iter().flatten().for_each(|slot| self.rules.prefetch_segment(*slot));
        }
        let (mut rng, guesses) = (self.rng.clone(), !self.flows.is_small());
        let unknown = plain.iter().zip(names).map(|(plain, name)| plain.as_ref().filter(|_| *name == Name::NONE));
        for (((plain, slot), packet), ruling) in unknown.zip(slots).zip(packets).zip(rulings) {
            let Some(plain) = plain else { continue };
            let tuple = Tuple::from(&plain.tuple);
            let ruled = Ruling::of(&self.rules, &tuple, packet.meta.origin, *slot);
            *ruling = Some(ruled);
            if guesses && let Some(reply) = self.guess(&tuple, &ruled, &mut rng) {
                self.flows.prefetch_both(self.flows.hash(&Packed::from(&reply)));
            }
        }
    }

    /// The tuple that a new flow's answers may have: right where chance alone chooses, and all flows before are new as well.
    fn guess(&self, tuple: &Tuple, ruling: &Ruling, rng: &mut Rng) -> Option<Tuple> {
        let Fate::Forward { pool, masquerade, hairpin } = ruling.fate else { return None };
        let (segment, node) = (self.rules.segment(ruling.slot?)?, self.rules.node()?);
        let chooser = Chooser { cursor: &mut 0, rng, key: self.rules.key(), load: |_: &_| 0 };
        let backend = chooser.choose(&segment, pool, tuple)?;
        let masquerade = masquerade || (hairpin && backend.address == tuple.source);
        let mut reply = answer(tuple, backend.address, backend.port, masquerade, &node)?;
        if masquerade {
            let ports = self.ports(&node)?;
            reply.destination_port = ports.candidates(rng.below(ports.count()), 1).next()?;
        }
        Some(reply)
    }
}
