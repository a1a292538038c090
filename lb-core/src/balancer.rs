//! The data arrow, from a packet to its verdict.
//!
//! ```text
//! frame --wire--> Headers --flow--> hit --------------------------------.
//!                             `-miss--> rules --pick--> Backend --------+--nat--> same frame, rewritten
//! ```

mod error;
mod fragment;
mod limiter;
mod relate;
mod share;

use core::time::Duration;

use crate::config::{Config, Sizes};
use crate::counters::Counters;
use crate::flow::affinity::{AffinityTable, Visitor};
use crate::flow::fragments::FragmentTable;
use crate::flow::table::Full;
use crate::flow::{Direction, Flags, Flow, FlowId, FlowTable, Lifetimes, Signal, State, Ticks, table};
use crate::hash::Key;
use crate::memory::Block;
use crate::nat::{self, PortRange};
use crate::packet::Packet;
use crate::pick::Chooser;
use crate::rng::Rng;
use crate::rules::{ApplyError, Backend, Fate, Pool, RuleTable, node};
use crate::time::Instant;
use crate::tuple::{Address, Tuple};
use crate::verdict::{DropReason, RejectReason, Verdict};
use crate::wire::{self, Content, Headers, Malformed};
use limiter::Limiter;

pub use error::{ConfigError, RestoreError};
pub use share::blocks;

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
    lifetimes: Lifetimes,
    fragment_lifetime: u32,
    replies: Limiter,
    counters: Counters,
    /// The latest time that a call brought.
    now: Instant,
}

impl<'m, M: AsRef<[u8]>> Balancer<'m, M> {
    /// A balancer with no flows, over the caller's memory of at least [`blocks`](crate::blocks).
    ///
    /// # Errors
    /// [`ConfigError`] if the memory or the sizes don't fit.
    pub fn new(
        config: Config,
        sizes: Sizes,
        memory: &'m mut [Block],
        rules: RuleTable<M>,
    ) -> Result<Self, ConfigError> {
        if sizes.v4_flows > table::MAX_FLOWS || sizes.v6_flows > table::MAX_FLOWS {
            return Err(ConfigError::TooManyFlows);
        }
        let short = ConfigError::Memory { needed: share::blocks(sizes) };
        let parts = share::split(memory, sizes).ok_or(short)?;
        let key = Key::new(&config.hash_key);
        Ok(Self {
            rules,
            flows: FlowTable::new(key, parts.flows, parts.loads, sizes.v4_flows, sizes.v6_flows).ok_or(short)?,
            fragments: FragmentTable::new(parts.fragments),
            affinity: AffinityTable::new(parts.affinity),
            cursors: parts.cursors,
            rng: Rng::new(config.seed),
            key,
            lifetimes: Lifetimes::new(&config.timeouts),
            fragment_lifetime: Ticks::of(config.timeouts.fragments),
            replies: Limiter::new(config.replies_per_second),
            counters: Counters::new(),
            now: Instant::ORIGIN,
        })
    }

    /// Judges one packet, and rewrites it in place if the verdict is [`Verdict::Forward`]; any other
    /// verdict leaves the bytes alone. The verdict is also left in the packet.
    pub fn process(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        self.now = now;
        packet.releases = None;
        let verdict = self.judge(now, packet);
        self.counters.count(verdict);
        packet.verdict = verdict;
        verdict
    }

    /// [`process`](Self::process) for each packet in order.
    pub fn process_batch(&mut self, now: Instant, packets: &mut [Packet<'_>]) {
        for packet in packets {
            let _ = self.process(now, packet);
        }
    }

    fn judge(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        let mut headers = match wire::parse(packet.data, packet.meta.link) {
            Ok(Some(headers)) => headers,
            Ok(None) => return Verdict::Pass,
            Err(malformed) => return Verdict::Drop(malformed.into()),
        };
        headers.tuple.zone = packet.meta.zone;
        if let Err(verdict) = self.place(now, packet, &mut headers) {
            return verdict;
        }
        match headers.content {
            Content::Error(quoted) => return self.relate(now, packet, &headers, quoted),
            Content::Other | Content::EchoRequest => return self.unported(packet, &headers),
            Content::LaterFragment if !headers.tuple.protocol.has_ports() => {
                return match self.error_of(&headers) {
                    Some((flow, direction)) => self.relate_rest(packet, &headers, flow, direction),
                    None => self.unported(packet, &headers),
                };
            }
            Content::Tcp(_) | Content::Udp | Content::Sctp(_) | Content::LaterFragment => {}
        }
        let hit = self.hit(now, &headers);
        match hit {
            Hit::Flow(flow, direction) => self.forward(now, packet, &headers, flow, direction),
            Hit::Stale => Verdict::Drop(DropReason::StaleFlow),
            Hit::None | Hit::Released => {
                let begun = self.begin(now, packet, &headers.tuple, signal(headers.content));
                if matches!(hit, Hit::Released) {
                    self.counters.flows_reselected += u64::from(begun.is_ok());
                    self.counters.flows_cut += u64::from(begun.is_err());
                }
                match begun {
                    Ok(flow) => self.forward(now, packet, &headers, flow, Direction::Original),
                    Err(verdict) => verdict,
                }
            }
        }
    }

    /// The live flow that a packet belongs to, checked against the rules of today.
    fn hit(&mut self, now: Instant, headers: &Headers) -> Hit {
        let Some((flow, direction)) = self.find_live(now, &headers.tuple) else { return Hit::None };
        let Some(state) = self.recheck(flow) else { return Hit::None };
        let anew = direction == Direction::Original && signal(headers.content) == Signal::Syn && state.is_over();
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

    /// The flow of a tuple. One whose deadline has passed is forgotten on the way.
    fn find_live(&mut self, now: Instant, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let (flow, direction) = self.flows.find(tuple)?;
        if self.flows.entry(flow)?.is_expired(Ticks::at(now)) {
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
        let (original, reply) = self.flows.tuples(flow)?;
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

    /// Begins a flow for its first packet, or says what becomes of the packet instead.
    fn begin(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        original: &Tuple,
        signal: Signal,
    ) -> Result<FlowId, Verdict> {
        let decision = self.rules.decide(original, packet.meta.origin);
        let (pool, masquerade, hairpin) = match decision.fate {
            Fate::Pass => return Err(Verdict::Pass),
            Fate::Accept | Fate::Punt => return Err(Verdict::Accept),
            Fate::Drop(reason) => return Err(Verdict::Drop(reason)),
            Fate::Reject(reason) => return Err(Verdict::Reject(reason)),
            Fate::Forward { pool, masquerade, hairpin } => (pool, masquerade, hairpin),
        };
        let (Some((slot, segment)), Some(node)) = (decision.service, self.rules.node()) else {
            return Err(Verdict::Pass);
        };
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
        let mut reply = Tuple {
            source: address,
            source_port: port,
            destination: original.source,
            destination_port: original.source_port,
            ..*original
        };
        let (first, last) = node.reserved_ports();
        let ports = PortRange::new(1024..=u16::MAX, first..=last);
        if masquerade {
            reply.destination = node.masquerade(address).ok_or(Verdict::Drop(DropReason::NoMasqueradeAddress))?;
        }
        let counted = segment.scheduler().counts().then(|| load_key(&self.key, segment.id(), address, port));
        let direct = decision.class.is_some_and(|class| segment.keeps_destination(class));
        let checked = self.rules.generation();
        reply.destination_port =
            self.free_port(now, original, reply, masquerade, ports).ok_or(Verdict::Drop(DropReason::NoPort))?;
        let flags = flags(masquerade, direct);
        let flow = self.insert(now, original, &reply, State::first(signal, original.protocol), flags)?;
        if let Some(entry) = self.flows.entry_mut(flow) {
            (entry.slot, entry.checked) = (slot, checked);
        }
        if let Some(key) = counted {
            self.flows.count(flow, key);
        }
        if let Some((visitor, _)) = seat {
            self.affinity.remember(now, &visitor, address, port);
        }
        Ok(flow)
    }

    fn insert(
        &mut self,
        now: Instant,
        original: &Tuple,
        reply: &Tuple,
        state: State,
        flags: Flags,
    ) -> Result<FlowId, Verdict> {
        let now = Ticks::at(now);
        let inserted = self.flows.insert(now, original, reply, state, flags);
        let (Ok((_, ended)) | Err(Full(ended))) = inserted;
        self.counters.flows_expired += ended.expired;
        self.counters.flows_evicted += ended.evicted;
        let (flow, _) = inserted.map_err(|_| Verdict::Drop(DropReason::FlowTableFull))?;
        self.flows.touch(flow, state, now.plus(self.lifetimes.of(state)));
        self.counters.flows_created += 1;
        Ok(flow)
    }

    /// A source port under which the backend's replies belong to no other flow: the client's own unless
    /// the flow is masqueraded or that one is taken.
    fn free_port(
        &mut self,
        now: Instant,
        original: &Tuple,
        reply: Tuple,
        masquerade: bool,
        ports: Option<PortRange>,
    ) -> Option<u16> {
        if !masquerade && self.is_free(now, original, &reply) {
            return Some(reply.destination_port);
        }
        let ports = ports?;
        for tries in PortRange::ROUNDS {
            let start = self.rng.below(ports.count());
            for port in ports.candidates(start, tries) {
                self.counters.port_tries += 1;
                if self.is_free(now, original, &Tuple { destination_port: port, ..reply }) {
                    self.counters.ports_changed += 1;
                    return Some(port);
                }
            }
            if tries >= ports.count() {
                break;
            }
        }
        None
    }

    fn is_free(&mut self, now: Instant, original: &Tuple, reply: &Tuple) -> bool {
        reply != original && self.find_live(now, reply).is_none()
    }

    /// Rewrites a packet of a flow, and notes that it came by.
    fn forward(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        headers: &Headers,
        flow: FlowId,
        direction: Direction,
    ) -> Verdict {
        let Some(to) = self.translated(flow, direction) else { return Verdict::Drop(DropReason::StaleFlow) };
        if nat::rewrite(packet.data, headers, &to, packet.meta.checksum).is_err() {
            return Verdict::Drop(DropReason::UntranslatableSctp);
        }
        if let Some(entry) = self.flows.entry_mut(flow) {
            if let Some(count) = entry.packets.get_mut(direction as usize) {
                *count = count.wrapping_add(1);
            }
            if let Some(state) = entry.state() {
                let state = state.next(signal(headers.content), direction);
                self.flows.touch(flow, state, Ticks::at(now).plus(self.lifetimes.of(state)));
            }
        }
        Verdict::Forward { flow, direction }
    }

    /// The tuple that a packet of this direction leaves with: the other direction's, reversed; its own if the flow's
    /// destination is kept.
    fn translated(&self, flow: FlowId, direction: Direction) -> Option<Tuple> {
        let direct = || self.flows.entry(flow).is_some_and(|entry| entry.flags().has(Flags::DIRECT));
        let other = match direction {
            Direction::Original if direct() => return self.flows.tuple(flow, Direction::Original),
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        };
        Some(self.flows.tuple(flow, other)?.reversed())
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
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        self.now = now;
        let forgotten = self.flows.expire(Ticks::at(now), budget);
        self.counters.flows_expired += forgotten as u64;
        forgotten
    }

    /// A time before which nothing can expire; `None` if there is no flow.
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(self.flows.soonest()?.instant(self.now))
    }

    /// A flow by its name; `None` once it has ended.
    pub fn flow(&self, id: FlowId) -> Option<Flow> {
        self.flows.flow(self.now, id)
    }

    /// Every flow, those past their deadline but not yet forgotten included.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.flows.ids().filter_map(|id| self.flow(id))
    }

    /// Every flow whose name is this one or a later one, by rising names.
    #[cfg(feature = "ffi")]
    pub(crate) fn flows_from(&self, first: FlowId) -> impl Iterator<Item = (FlowId, Flow)> {
        self.flows.ids().skip_while(move |id| *id < first).filter_map(|id| Some((id, self.flow(id)?)))
    }

    /// Puts a flow in that another balancer, or this one before a restart, had; its next packet is
    /// compared with the rules.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing has changed then.
    pub fn restore(&mut self, flow: &Flow) -> Result<FlowId, RestoreError> {
        let (original, reply) = (&flow.original, &flow.reply);
        let alike = |tuple: &Tuple| (tuple.source.family(), tuple.destination.family(), tuple.protocol, tuple.zone);
        if alike(original) != alike(reply)
            || original.source.family() != original.destination.family()
            || original == reply
        {
            return Err(RestoreError::Mixed);
        }
        if [original, reply].into_iter().any(|tuple| self.find_live(self.now, tuple).is_some()) {
            return Err(RestoreError::Taken);
        }
        let flags = flags(flow.masqueraded, flow.direct);
        let id = self.insert(self.now, original, reply, flow.state, flags).map_err(|_| RestoreError::Full)?;
        self.flows.touch(id, flow.state, Ticks::at(flow.deadline));
        if let Some(entry) = self.flows.entry_mut(id) {
            entry.packets = flow.packets;
            entry.checked = self.rules.generation().wrapping_sub(1);
        }
        let service = self.rules.owner_of_flow(original).map(|(_, segment)| segment);
        if let Some(segment) = service.filter(|segment| segment.scheduler().counts()) {
            self.flows.count(id, load_key(&self.key, segment.id(), reply.source, reply.source_port));
        }
        Ok(id)
    }

    /// Ends a flow and says what it was, as an operator does who deletes it from Linux' table with `conntrack -D`; `None` if
    /// it has ended already. The client's next packet chooses anew.
    pub fn forget(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flow(id)?;
        self.flows.remove(id);
        Some(flow)
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

/// What a packet says about its flow.
fn signal(content: Content) -> Signal {
    match content {
        Content::Tcp(flags) if flags.rst() => Signal::Reset,
        Content::Tcp(flags) if flags.syn() && flags.ack() => Signal::SynAck,
        Content::Tcp(flags) if flags.syn() => Signal::Syn,
        Content::Tcp(flags) if flags.fin() => Signal::Fin,
        Content::Tcp(_) => Signal::Segment,
        Content::Udp => Signal::Datagram,
        // Chunk types of RFC 9260 §3.2.
        Content::Sctp(1) => Signal::SctpInit,
        Content::Sctp(2 | 10) => Signal::SctpHandshake,
        Content::Sctp(6 | 7 | 8 | 14) => Signal::SctpClose,
        Content::Sctp(_) => Signal::SctpData,
        Content::LaterFragment | Content::Error(_) | Content::EchoRequest | Content::Other => Signal::Silent,
    }
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated => Self::Truncated,
            Malformed::IpHeader => Self::BadIpHeader,
            Malformed::TransportHeader => Self::BadTransportHeader,
            Malformed::TooManyExtensions => Self::TooManyExtensions,
            Malformed::Fragment => Self::BadFragment,
            Malformed::MappedAddress => Self::MappedAddress,
        }
    }
}
