//! What a batch finds out about packets that begin flows, before the first of them does.
//!
//! Memory is asked for step by step, for all packets of a chunk together. What the rules say is settled here already, as
//! they can't change meanwhile. Where a backend depends on the packet and on chance alone it is chosen here too, by a copy of the
//! generator: if that has not moved by the time that the flow begins, it would choose the same again.

use super::begin::{answer, forged};
use super::{AHEAD, Balancer, CHUNK};
use crate::flow::{Name, Place};
use crate::nat::PortRange;
use crate::packet::{Origin, Packet};
use crate::pick::Chooser;
use crate::rng::Rng;
use crate::rules::{Answer, Decision, Fate, NodeRules, RuleTable};
use crate::tuple::packed::Packed;
use crate::tuple::{Family, Tuple};
use crate::wire::plain::Plain;

/// What is known of a new flow before it begins.
pub(super) struct Prospect {
    pub(super) ruling: Ruling,
    pub(super) offer: Option<Offer>,
}

/// What holds for all packets of a chunk.
struct Here<'r> {
    node: NodeRules<'r>,
    /// Those to masquerade with.
    ports: Option<PortRange>,
}

/// A backend for a new flow, as its answers show it.
pub(super) struct Offer {
    /// The tuple of the answers, and its hash.
    pub(super) reply: Packed,
    pub(super) hash: u64,
    /// The source is replaced, by the port that is tried first.
    pub(super) masquerade: bool,
    /// The generator that chose, before it did and after.
    pub(super) before: Rng,
    pub(super) after: Rng,
}

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
    /// The ruling on a flow that begins with this tuple.
    pub(super) fn of<M: AsRef<[u8]>>(rules: &RuleTable<M>, tuple: &Tuple, origin: Origin) -> Self {
        Self::by(&rules.decide(tuple, origin))
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn by(decision: &Decision<'_>) -> Self {
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
        ahead: &mut [Option<Prospect>; AHEAD],
    ) {
        let (mut owners, mut dialling) = ([None; CHUNK], false);
        for (((plain, place), name), owner) in plain.iter().zip(places).zip(&mut *names).zip(&mut owners) {
            let Some(plain) = plain.as_ref().filter(|_| !name.is_flows()) else { continue };
            if let Some(second) = self.flows.unlikely(*place) {
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
        if dialling {
            self.rule_all(packets, plain, names, &owners, ahead);
        }
    }

    fn rule_all(
        &self,
        packets: &[Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        names: &[Name; CHUNK],
        owners: &[Option<Answer<'_>>; CHUNK],
        ahead: &mut [Option<Prospect>; AHEAD],
    ) {
        let Some(node) = self.rules.node() else { return };
        let (here, mut rng) = (Here { ports: self.ports(&node), node }, self.rng.clone());
        let unknown = plain.iter().zip(names).map(|(plain, name)| plain.as_ref().filter(|_| *name == Name::NONE));
        for (((plain, owner), packet), prospect) in unknown.zip(owners).zip(packets).zip(ahead) {
            let Some(Plain { tuple, .. }) = plain else { continue };
            *prospect = Some(match tuple.family {
                Family::V4 => self.rule::<true>(&here, tuple, packet.meta.origin, *owner, &mut rng),
                Family::V6 => self.rule::<false>(&here, tuple, packet.meta.origin, *owner, &mut rng),
            });
        }
        [Family::V4, Family::V6].into_iter().for_each(|family| self.flows.prefetch_free(family));
    }

    /// What becomes of a flow that begins with a packet of this tuple. Each family has a function of its own, in which the
    /// compiler knows of which one addresses are.
    #[inline(never)]
    fn rule<const V4: bool>(
        &self,
        here: &Here<'_>,
        key: &Packed,
        origin: Origin,
        owner: Option<Answer<'_>>,
        rng: &mut Rng,
    ) -> Prospect {
        let key = &key.known_as(if V4 { Family::V4 } else { Family::V6 });
        let tuple = Tuple::from(key);
        let decision = self.rules.decide_of(&here.node, &tuple, origin, owner);
        let offer = match forged(&tuple, origin) {
            None => self.offer(here, key, &tuple, &decision, rng),
            Some(_) => None,
        };
        if let Some(Offer { hash, .. }) = &offer
            && !self.flows.is_small()
        {
            self.flows.prefetch_key(*hash);
        }
        Prospect { ruling: Ruling::by(&decision), offer }
    }

    /// Its backend, if nothing but the packet and chance has a say in that.
    #[inline(always)]
    fn offer(
        &self,
        here: &Here<'_>,
        key: &Packed,
        tuple: &Tuple,
        decision: &Decision<'_>,
        rng: &mut Rng,
    ) -> Option<Offer> {
        let Fate::Forward { pool, masquerade, hairpin } = decision.fate else { return None };
        let (_, segment) = decision.service?;
        let forgets = segment.affinity().is_none() && segment.scheduler().forgets();
        if !forgets || self.steer.client(tuple.source) != self.core {
            return None;
        }
        let before = rng.clone();
        let chooser = Chooser { cursor: &mut 0, rng, key: self.rules.key(), load: |_: &_| 0 };
        let backend = chooser.choose(&segment, pool, tuple)?;
        let masquerade = masquerade || (hairpin && backend.address == tuple.source);
        let mut reply = answer(key, backend.address, backend.port, masquerade, &here.node)?;
        if masquerade {
            let ports = here.ports?;
            reply = reply.to_port(ports.candidates(rng.below(ports.count()), 1).next()?);
        }
        let hash = self.flows.hash(&reply);
        self.suits(key, &reply).then(|| Offer { reply, hash, masquerade, before, after: rng.clone() })
    }
}
