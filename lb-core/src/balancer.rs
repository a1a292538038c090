//! The data arrow, from a packet to its verdict.
//!
//! ```text
//! frame --wire--> Headers --flow--> hit --------------------------------.
//!                             `-miss--> rules --pick--> Backend --------+--nat--> same frame, rewritten
//! ```

mod ahead;
mod begin;
mod error;
mod express;
mod fragment;
mod limiter;
mod relate;
mod restore;
mod signal;
mod split;
mod terms;

use crate::config::{Config, Sizes};
use crate::counters::Counters;
use crate::flow::affinity::AffinityTable;
use crate::flow::fragments::FragmentTable;
use crate::flow::{Direction, Flags, FlowId, FlowTable, Lifetimes, Name, Signal, Spot, State, Ticks, table};
use crate::hash::{Key, TupleHash};
use crate::memory::Block;
use crate::nat;
use crate::packet::Packet;
use crate::rng::Rng;
use crate::rules::{ApplyError, Fate, Pool, RuleTable, node};
use crate::steer::Steer;
use crate::time::Instant;
use crate::tuple::packed::Packed;
use crate::tuple::{Address, Tuple};
use crate::verdict::{DropReason, RejectReason, Verdict};
use crate::wire::plain::Plain;
use crate::wire::{self, Content, Headers};
use limiter::Limiter;
use signal::{signal, signal_of};

pub use error::{ConfigError, RestoreError};
pub use split::blocks;

/// Packets that go through the stages of a batch together: as many as memory can be asked for at once, less where stack is dear.
const CHUNK: usize = if usize::BITS >= 64 { 32 } else { 4 };

/// Whether a batch looks ahead for packets of no known flow: not where memory is not waited for, and code is dear.
const LOOKS_AHEAD: bool = usize::BITS >= 64;

/// How many packets of a chunk may be offered a backend ahead.
const OFFERS: usize = if LOOKS_AHEAD { CHUNK } else { 0 };

/// How many searches for a source port may be long and find none, in a second: at some 20 us each they take a fiftieth of it.
const SEARCHES_PER_SECOND: u32 = 1000;

/// The packet path of one core: single owner, no locks. Everything it needs is an argument.
pub struct Balancer<'m, M> {
    rules: RuleTable<M>,
    flows: FlowTable<'m>,
    fragments: FragmentTable<'m>,
    affinity: AffinityTable<'m>,
    /// Round-robin turns, two pools a service port.
    cursors: &'m mut [u32],
    rng: Rng,
    key: Key,
    /// Which core it is, of those that the traffic is shared out among.
    core: u16,
    steer: Steer,
    lifetimes: Lifetimes,
    fragment_lifetime: u32,
    replies: Limiter,
    /// Long searches for a port that found none.
    searches: Limiter,
    counters: Counters,
    /// The latest time that a call brought, and the tick that it falls in.
    now: Instant,
    ticks: Ticks,
}

impl<'m, M: AsRef<[u8]>> Balancer<'m, M> {
    /// A balancer with no flows, over the caller's memory of at least [`blocks`](crate::blocks).
    ///
    /// # Errors
    /// [`ConfigError`] if the memory or the sizes don't fit.
    // A balancer is a kilobyte, and each move of one that of stack.
    #[inline(always)]
    pub fn new(
        config: Config,
        sizes: Sizes,
        memory: &'m mut [Block],
        rules: RuleTable<M>,
    ) -> Result<Self, ConfigError> {
        if sizes.v4_flows > table::MAX_FLOWS || sizes.v6_flows > table::MAX_FLOWS {
            return Err(ConfigError::TooManyFlows);
        }
        let share = config.share;
        if share.core >= share.cores {
            return Err(ConfigError::Core);
        }
        let short = ConfigError::Memory { needed: split::blocks(sizes) };
        let parts = split::split(memory, sizes).ok_or(short)?;
        let (key, hash) = (Key::new(&config.hash_key), TupleHash::new(&config.hash_key));
        Ok(Self {
            rules,
            flows: FlowTable::new(hash, parts.flows, parts.loads, sizes.v4_flows, sizes.v6_flows).ok_or(short)?,
            fragments: FragmentTable::new(parts.fragments),
            affinity: AffinityTable::new(parts.affinity),
            cursors: parts.cursors,
            rng: Rng::new(config.seed),
            key,
            core: share.core,
            steer: Steer::new(share.cores, &share.key),
            lifetimes: Lifetimes::new(&config.timeouts),
            fragment_lifetime: Ticks::of(config.timeouts.fragments),
            replies: Limiter::new(config.replies_per_second),
            searches: Limiter::new(SEARCHES_PER_SECOND),
            counters: Counters::new(),
            now: Instant::ORIGIN,
            ticks: Ticks::at(Instant::ORIGIN),
        })
    }

    /// Judges one packet, and rewrites it in place if the verdict is [`Verdict::Forward`]; any other
    /// verdict leaves the bytes alone. The verdict is also left in the packet.
    pub fn process(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        self.set_time(now);
        let plain = wire::plain::read(packet.data, packet.meta.link, packet.meta.zone);
        let spot = plain.as_ref().map(|plain| self.flows.spot(&plain.tuple));
        let name = spot.and_then(|spot| self.flows.candidate(spot)).unwrap_or(Name::NONE);
        self.conclude(packet, &plain, name, self.flows.begun());
        packet.verdict
    }

    /// [`process`](Self::process) for each packet in order.
    ///
    /// Each stage asks for the memory that the next one reads, for all packets of a chunk before the first of them
    /// goes on, so that they wait for it together. What a stage finds is only a guess by the time that it is used, as packets
    /// before may have begun and ended flows; the last stage verifies it.
    pub fn process_batch(&mut self, now: Instant, packets: &mut [Packet<'_>]) {
        self.set_time(now);
        for packets in packets.chunks_mut(CHUNK) {
            let (mut plain, mut spots, mut names) = ([None; CHUNK], [Spot::default(); CHUNK], [Name::NONE; CHUNK]);
            for ((packet, plain), spot) in packets.iter().zip(&mut plain).zip(&mut spots) {
                let _ = wire::plain::read_and(packet.data, packet.meta.link, packet.meta.zone, |read| {
                    *spot = self.flows.spot(&read.tuple);
                    self.flows.prefetch_bucket(*spot);
                    *plain = Some(read);
                });
            }
            let mut unknown = false;
            for ((name, spot), plain) in names.iter_mut().zip(&spots).zip(&plain) {
                let found = if LOOKS_AHEAD { self.flows.likely(*spot) } else { self.flows.candidate(*spot) };
                match (found, plain) {
                    (Some(found), _) => {
                        *name = found;
                        self.flows.prefetch_entry(found);
                    }
                    (None, Some(plain)) if LOOKS_AHEAD => {
                        unknown = true;
                        *name = self.unknown(plain, *spot);
                    }
                    (None, _) => {}
                }
            }
            if self.flows.has_wide() {
                names.iter().for_each(|name| self.flows.prefetch_rest(*name));
            }
            let begun = self.flows.begun();
            if unknown {
                self.conclude_newcomers(packets, &plain, &spots, &mut names, begun);
                continue;
            }
            for ((packet, plain), name) in packets.iter_mut().zip(&plain).zip(&names) {
                self.conclude(packet, plain, *name, begun);
            }
        }
    }

    /// Judges a chunk that has packets of no known flow. Apart from chunks that have none, so that those are all the quicker.
    #[inline(never)]
    fn conclude_newcomers(
        &mut self,
        packets: &mut [Packet<'_>],
        plain: &[Option<Plain>; CHUNK],
        spots: &[Spot; CHUNK],
        names: &mut [Name; CHUNK],
        begun: u64,
    ) {
        let Some(offers) = self.look_ahead(packets, plain, spots, names) else {
            for ((packet, plain), name) in packets.iter_mut().zip(plain).zip(names) {
                self.conclude(packet, plain, *name, begun);
            }
            return;
        };
        let read = plain.iter().zip(spots).zip(names);
        for ((packet, ((plain, spot), name)), offer) in packets.iter_mut().zip(read).zip(&offers) {
            match (plain, offer) {
                (Some(plain), Some(offer)) if self.take_up(packet, plain, *spot, offer) => {}
                _ => self.conclude(packet, plain, *name, begun),
            }
        }
    }

    fn set_time(&mut self, now: Instant) {
        (self.now, self.ticks) = (now, Ticks::at(now));
    }

    /// Judges a packet. A plain one takes a short way if it is of a known flow that is in order, as nearly all are, or of
    /// no flow and no service. `name` was looked up when as many flows had `begun`.
    #[inline(always)]
    fn conclude(&mut self, packet: &mut Packet<'_>, plain: &Option<Plain>, name: Name, begun: u64) {
        packet.releases = None;
        if let Some(plain) = plain
            && (self.forward_plain(packet, plain, name, false) || self.pass_plain(packet, plain, name, begun))
        {
            return;
        }
        self.judge(packet, plain, name == Name::NONE && self.flows.begun() == begun);
    }

    /// Judges a packet by the long way. A plain one that is `unknown` is surely of no flow.
    // Not so cold, but what is not judged is all the quicker.
    #[cold]
    #[inline(never)]
    fn judge(&mut self, packet: &mut Packet<'_>, plain: &Option<Plain>, unknown: bool) {
        let verdict = match plain {
            Some(plain) => match self.flow_of(packet, &plain.tuple, signal_of(plain), unknown) {
                Ok((flow, direction)) if self.forward_plain(packet, plain, Name::new(flow.0, direction), true) => {
                    return;
                }
                Ok((flow, direction)) => self.forward_any(packet, flow, direction),
                Err(verdict) => verdict,
            },
            None => self.judge_any(packet),
        };
        self.counters.count(verdict);
        packet.verdict = verdict;
    }

    /// The verdict on a packet that is not plain.
    fn judge_any(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let mut headers = match wire::parse(packet.data, packet.meta.link) {
            Ok(Some(headers)) => headers,
            Ok(None) => return Verdict::Pass,
            Err(malformed) => return Verdict::Drop(malformed.into()),
        };
        headers.tuple.zone = packet.meta.zone;
        if let Err(verdict) = self.complete(packet, &mut headers) {
            return verdict;
        }
        match headers.content {
            Content::Error(quoted) => return self.relate(packet, &headers, quoted),
            Content::Other | Content::EchoRequest => return self.unported(packet, &headers),
            Content::LaterFragment if !headers.tuple.protocol.has_ports() => {
                return match self.error_of(&headers) {
                    Some((flow, direction)) => self.relate_rest(packet, &headers, flow, direction),
                    None => self.unported(packet, &headers),
                };
            }
            Content::Tcp(_) | Content::Udp | Content::Sctp(_) | Content::LaterFragment => {}
        }
        let tuple = Packed::from(&headers.tuple);
        match self.flow_of(packet, &tuple, signal(headers.content), false) {
            Ok((flow, direction)) => self.forward(packet, &headers, flow, direction),
            Err(verdict) => verdict,
        }
    }

    /// The flow that a packet belongs to, begun if it is the first, and which way the packet goes; or what becomes of the
    /// packet instead.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn flow_of(
        &mut self,
        packet: &Packet<'_>,
        tuple: &Packed,
        signal: Signal,
        unknown: bool,
    ) -> Result<(FlowId, Direction), Verdict> {
        let spot = self.flows.spot(tuple);
        let hit = if unknown { Hit::None } else { self.hit(tuple, spot, signal) };
        match hit {
            Hit::Flow(flow, direction) => Ok((flow, direction)),
            Hit::Stale => Err(Verdict::Drop(DropReason::StaleFlow)),
            Hit::None | Hit::Released => {
                let begun = self.begin(packet, tuple, spot, signal);
                if matches!(hit, Hit::Released) {
                    self.counters.flows_reselected += u64::from(begun.is_ok());
                    self.counters.flows_cut += u64::from(begun.is_err());
                }
                begun.map(|flow| (flow, Direction::Original))
            }
        }
    }

    /// The live flow that a packet belongs to, checked against the rules of today.
    fn hit(&mut self, tuple: &Packed, spot: Spot, signal: Signal) -> Hit {
        let Some((flow, direction)) = self.find_live(spot, tuple) else { return Hit::None };
        let Some(state) = self.recheck(flow) else { return Hit::None };
        let anew = state.ends_with(signal, direction);
        let stale = self.flows.entry(flow).is_some_and(|entry| entry.flags().has(Flags::STALE));
        match (anew || stale, direction) {
            (false, _) => Hit::Flow(flow, direction),
            (true, Direction::Reply) => Hit::Stale,
            (true, Direction::Original) => {
                self.flows.remove(flow);
                if stale { Hit::Released } else { Hit::None }
            }
        }
    }

    /// The flow of a tuple of this spot. One whose deadline has passed is forgotten on the way.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn find_live(&mut self, spot: Spot, tuple: &Packed) -> Option<(FlowId, Direction)> {
        if LOOKS_AHEAD && self.flows.lacks(spot) { None } else { self.find_near(spot, tuple) }
    }

    #[cfg_attr(target_pointer_width = "64", inline(never))]
    fn find_near(&mut self, spot: Spot, tuple: &Packed) -> Option<(FlowId, Direction)> {
        let (flow, direction) = self.flows.find(spot, tuple)?;
        if self.flows.entry(flow)?.is_expired(self.ticks) {
            self.flows.remove(flow);
            self.counters.flows_expired += 1;
            return None;
        }
        Some((flow, direction))
    }

    /// Compares a flow with the rules if they changed since it was last compared: a flow of a service
    /// that changed must find its backend among those serving, or it is stale (SEMANTICS §11.5).
    #[inline]
    fn recheck(&mut self, flow: FlowId) -> Option<State> {
        let generation = self.rules.generation();
        let entry = self.flows.entry_mut(flow)?;
        let state = entry.state()?;
        if entry.checked == generation {
            return Some(state);
        }
        let unchanged = |epoch: u32| epoch.wrapping_sub(entry.checked) as i32 <= 0;
        if self.rules.epoch(entry.slot).is_none_or(|epoch| !unchanged(epoch)) {
            self.compare(flow)?;
        }
        self.flows.entry_mut(flow)?.checked = generation;
        Some(state)
    }

    #[cold]
    fn compare(&mut self, flow: FlowId) -> Option<()> {
        let (original, reply) = self.tuples(flow)?;
        let node = self.rules.node();
        let owner = self.rules.owner_of_flow(&original);
        let bound = node.is_some_and(|node| node.stale(original.protocol) == node::Stale::Reselect);
        let cut_empty = node.is_some_and(|node| node.has(node::flag::CUT_EMPTY));
        let by_pool = node.is_some_and(|node| node.has(node::flag::STALE_BY_POOL));
        let stale = match owner {
            None => cut_empty,
            Some((_, segment)) => {
                let (address, port) = (reply.source, reply.source_port);
                let backend = || segment.find_backend(address, port).and_then(|number| segment.backend(number));
                let kept = match by_pool {
                    true => {
                        segment.pool_has(Pool::Cluster, address, port) || segment.pool_has(Pool::Local, address, port)
                    }
                    false => backend().is_some_and(|backend| backend.serving),
                };
                !kept && (cut_empty || segment.has_serving())
            }
        };
        let slot = owner.map_or(u32::MAX, |(slot, _)| slot);
        let entry = self.flows.entry_mut(flow)?;
        entry.slot = slot;
        if bound && stale {
            entry.flag(Flags::STALE);
        }
        Some(())
    }

    /// As [`forward`](Self::forward), for a packet whose headers were not read in full.
    fn forward_any(&mut self, packet: &mut Packet<'_>, flow: FlowId, direction: Direction) -> Verdict {
        let Ok(Some(mut headers)) = wire::parse(packet.data, packet.meta.link) else { return Verdict::Pass };
        headers.tuple.zone = packet.meta.zone;
        self.forward(packet, &headers, flow, direction)
    }

    /// Rewrites any packet of a flow, and notes that it came by.
    fn forward(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowId, direction: Direction) -> Verdict {
        let Some(to) = self.translated(flow, direction) else { return Verdict::Drop(DropReason::StaleFlow) };
        if nat::rewrite(packet.data, headers, &to, packet.meta.checksum).is_err() {
            return Verdict::Drop(DropReason::UntranslatableSctp);
        }
        if let Some(entry) = self.flows.entry_mut(flow) {
            entry.count(direction);
            if let Some(state) = entry.state() {
                let state = state.next(signal(headers.content), direction);
                self.flows.touch(flow, state, self.ticks.plus(self.lifetimes.of(state)));
            }
        }
        Verdict::Forward { flow, direction }
    }

    /// The tuple that a packet of this direction leaves with: the other direction's, reversed; its own if the flow's
    /// destination is kept.
    fn translated(&self, flow: FlowId, direction: Direction) -> Option<Tuple> {
        let direct = || self.flows.entry(flow).is_some_and(|entry| entry.flags().has(Flags::DIRECT));
        let to = match direction {
            Direction::Original if direct() => self.flows.tuple(flow, Direction::Original)?,
            _ => self.flows.tuple(flow, direction.other())?.reversed(),
        };
        Some((&to).into())
    }

    /// Both tuples of a flow, the original first.
    fn tuples(&self, flow: FlowId) -> Option<(Tuple, Tuple)> {
        self.flows.tuples(flow).map(|(original, reply)| ((&original).into(), (&reply).into()))
    }

    /// A packet without ports can't be a flow's; its destination may still be a service's.
    fn unported(&mut self, packet: &Packet<'_>, headers: &Headers) -> Verdict {
        match self.rules.decide(&headers.tuple, packet.meta.origin).fate {
            Fate::Pass | Fate::Forward { .. } => Verdict::Pass,
            Fate::Accept | Fate::Punt => Verdict::Accept,
            Fate::Drop(reason) => Verdict::Drop(reason),
            Fate::Reject(reason) => Verdict::Reject(reason),
        }
    }

    /// Writes the ICMP error that answers a rejected packet into `out`, as a packet of the same link, and
    /// returns its length; 1280 bytes and the link header always suffice. `None` if there is to be no
    /// answer: too many already in this second, a packet that must not be answered (RFC 1122 §3.2.2,
    /// RFC 4443 §2.4), or too little room.
    pub fn write_reply(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        reason: RejectReason,
        out: &mut [u8],
    ) -> Option<usize> {
        // Every reason there is has the same answer (SEMANTICS §6.4).
        let (RejectReason::NoEndpoints | RejectReason::UnmatchedPort) = reason;
        let headers = wire::parse(packet.data, packet.meta.link).ok()??;
        if !self.replies.admits(now) {
            self.counters.replies_limited += 1;
            return None;
        }
        let length = nat::write_unreachable(packet.data, packet.meta.link, &headers, out);
        if length.is_none() {
            self.replies.give_back();
        }
        length
    }

    /// Which core a packet is for, of those of [`Config::share`]: this one if any may have it. See [`Steer::core`].
    pub fn steer(&self, data: &[u8], link: wire::Link) -> u16 {
        self.steer.core(&self.rules, data, link).unwrap_or(self.core)
    }

    /// Which core a packet of this tuple, which came here by its addresses alone, is for, if it is not for this one.
    fn elsewhere(&self, tuple: &Tuple) -> Option<u16> {
        if self.steer.cores() == 1 {
            return None;
        }
        let (core, key) = (self.steer.tuple(&self.rules, tuple), Packed::from(tuple));
        (core != self.core && self.flows.find(self.flows.spot(&key), &key).is_none()).then_some(core)
    }

    /// Puts other rules in the place of these, which come back. Every flow is compared with them at its
    /// next packet.
    pub fn swap_rules(&mut self, mut next: RuleTable<M>) -> RuleTable<M> {
        next.succeed(self.rules.generation());
        core::mem::replace(&mut self.rules, next)
    }

    /// The rules in force.
    pub fn rules(&self) -> &RuleTable<M> {
        &self.rules
    }

    /// Forgets flows whose deadline has passed, looking at `budget` entries. Returns how many those were.
    /// When this is called changes no verdict, as a packet never finds a flow past its deadline; but for a full table's, and
    /// those of the schedulers lc, sed and nq, which count a flow until it is forgotten.
    ///
    /// Whatever time goes in, `now` here and elsewhere, all entries must have been looked at within the four years before it:
    /// deadlines are compared modulo 8.5 years, so that a flow that is left longer may seem to live again.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.set_time(now);
        let forgotten = self.flows.expire(self.ticks, budget);
        self.counters.flows_expired += forgotten as u64;
        forgotten
    }

    /// A time before which nothing can expire; `None` if there is no flow.
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(self.flows.soonest()?.instant(self.now))
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Balancer<'_, M> {
    /// Applies a delta to the rules: all of it or nothing, at the cost of the change. Flows of services
    /// that changed are compared with them at their next packet.
    ///
    /// # Errors
    /// [`ApplyError`]; the rules are then as they were.
    pub fn apply_rules(&mut self, delta: &[u8]) -> Result<(), ApplyError> {
        self.rules.apply(delta)
    }
}

/// What the flow table knows of a packet.
enum Hit {
    Flow(FlowId, Direction),
    /// A reply of a flow whose backend may no longer serve it.
    Stale,
    /// A client's packet of such a flow, which has ended.
    Released,
    None,
}

fn flags(masqueraded: bool, direct: bool) -> Flags {
    let all = [(masqueraded, Flags::MASQUERADED), (direct, Flags::DIRECT)];
    all.into_iter().filter(|(set, _)| *set).fold(Flags::default(), |flags, (_, flag)| flags.with(flag))
}

/// Under what a backend's live flows are counted.
fn load_key(key: &Key, service: u64, address: Address, port: u16) -> u64 {
    key.address(address, service ^ u64::from(port))
}
