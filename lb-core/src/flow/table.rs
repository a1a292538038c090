//! The flow table: an index of keys over slabs of entries, all in the caller's memory.
//!
//! Expired flows are forgotten when a packet hits them or the sweep passes by.

mod ladder;
mod sweep;

use super::clock::Ticks;
use super::entry::{Entry, NONE, WideEntry};
use super::index::{self, Index, Name, Spot};
use super::loads::Loads;
use super::{Direction, Flags, Flow, FlowId, State};
use crate::hash::TupleHash;
use crate::memory::Block;
use crate::processor::prefetch;
use crate::time::Instant;
use crate::tuple::Family;
use crate::tuple::packed::Packed;
use ladder::List;

/// Names of flows must leave one bit for the direction, and one value for "none".
pub(crate) const MAX_FLOWS: u32 = 1 << 28;

/// Blocks for a table of this many flows.
pub(crate) const fn blocks(v4: u32, v6: u32) -> usize {
    let (v4, v6) = (v4 as usize, v6 as usize);
    let (keys, entries) = (v4.saturating_add(v6).saturating_mul(2), v4.saturating_add(v6.saturating_mul(2)));
    index::buckets(keys).saturating_add(entries)
}

pub(crate) struct FlowTable<'m> {
    hash: TupleHash,
    index: Index<'m>,
    loads: Loads<'m>,
    v4: &'m mut [Entry],
    v6: &'m mut [WideEntry],
    slabs: [Slab; 2],
    /// Flows begun so far: while this stays, no tuple is found that was not there.
    begun: u64,
    /// Where the sweep goes on, over the entries of both families.
    hand: u32,
    /// No live flow's deadline is before this one, as far as is known.
    soonest: Option<Ticks>,
    /// The same for the entries that the sweep has passed and those touched since it began.
    sweep_soonest: Option<Ticks>,
}

/// The book-keeping of one family's entries.
#[derive(Clone, Copy)]
struct Slab {
    /// Entries below this one have been used.
    used: u32,
    /// The first of the used ones that are free again.
    free: u32,
    live: u32,
    /// Evictable flows by class, the longest-standing first.
    lists: [List; 3],
}

/// All that is known of a flow when it begins.
pub(crate) struct Beginning<'t> {
    /// The original one, and the reply's.
    pub(crate) tuples: [&'t Packed; 2],
    /// Of each tuple.
    pub(crate) spots: [Spot; 2],
    /// What rewriting adds to checksums.
    pub(crate) changes: [u16; 2],
    /// The service port's slot in the rule table, and the generation of the rules that it was chosen by.
    pub(crate) slot: u32,
    pub(crate) checked: u32,
    pub(crate) state: State,
    pub(crate) flags: Flags,
    pub(crate) deadline: Ticks,
}

/// How many flows made room for a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Their deadline had passed.
    pub(crate) expired: u64,
    /// They gave way before it.
    pub(crate) evicted: u64,
}

/// No room, and none to be made; flows may have ended for it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) Ended);

impl<'m> FlowTable<'m> {
    /// An empty table over [`blocks`] of memory.
    pub(crate) fn new(
        hash: TupleHash,
        memory: &'m mut [Block],
        loads: &'m mut [Block],
        v4: u32,
        v6: u32,
    ) -> Option<Self> {
        let (buckets, entries) = memory.split_at_mut_checked(index::buckets((v4 as usize + v6 as usize) * 2))?;
        entries.fill(Block::ZERO);
        let (narrow, wide) = entries.split_at_mut_checked(v4 as usize)?;
        let (wide, _) = wide.split_at_mut_checked(v6 as usize * 2)?;
        let empty = Slab { used: 0, free: NONE, live: 0, lists: [List::EMPTY; 3] };
        Some(Self {
            hash,
            index: Index::new(buckets),
            loads: Loads::new(loads),
            v4: bytemuck::must_cast_slice_mut(narrow),
            v6: bytemuck::must_cast_slice_mut(wide.as_chunks_mut::<2>().0),
            slabs: [empty; 2],
            begun: 0,
            hand: 0,
            soonest: None,
            sweep_soonest: None,
        })
    }

    /// Where a tuple is looked up.
    #[inline(always)]
    pub(crate) fn spot(&self, tuple: &Packed) -> Spot {
        self.index.spot(self.hash.of(tuple))
    }

    /// Asks for what a look-up reads first, and where a new key nearly always goes.
    #[inline(always)]
    pub(crate) fn prefetch_bucket(&self, spot: Spot) {
        self.index.prefetch(spot);
    }

    /// Asks for the entry that the next new flow of this family takes.
    #[inline]
    pub(crate) fn prefetch_free(&self, family: Family) {
        let Some(slab) = self.slabs.get(family as usize) else { return };
        let base = if family == Family::V4 { 0 } else { self.v4.len() as u32 };
        let next = if slab.free == NONE { base + slab.used } else { slab.free };
        let next = Name::new(next, Direction::Original);
        self.prefetch_entry(next);
        self.prefetch_rest(next);
    }

    /// The name that a tuple of this spot has, if it has one: to be believed by [`Self::known`] alone.
    #[inline(always)]
    pub(crate) fn candidate(&self, spot: Spot) -> Option<Name> {
        self.index.first(spot).or_else(|| self.index.second(spot))
    }

    /// The name that a tuple of this spot has in its first bucket, where nearly all are; in either if that costs no wait.
    #[inline(always)]
    pub(crate) fn likely(&self, spot: Spot) -> Option<Name> {
        if self.is_small() { self.candidate(spot) } else { self.index.first(spot) }
    }

    /// The name that it has where [`likely`](Self::likely) did not look.
    #[inline(always)]
    pub(crate) fn unlikely(&self, spot: Spot) -> Option<Name> {
        if self.is_small() { None } else { self.index.second(spot) }
    }

    /// Asks for a tuple's second bucket.
    #[inline(always)]
    pub(crate) fn prefetch_second(&self, spot: Spot) {
        self.index.prefetch_second(spot);
    }

    /// Whether the cache has the index anyhow.
    #[inline(always)]
    pub(crate) fn is_small(&self) -> bool {
        self.index.is_small()
    }

    /// Asks for the entry of a candidate, or the first line of it.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, name: Name) {
        match name.flow().checked_sub(self.v4.len() as u32) {
            None => prefetch(self.v4.as_ptr().wrapping_add(name.flow() as usize)),
            Some(wide) => prefetch(self.v6.as_ptr().wrapping_add(wide as usize)),
        }
    }

    /// Whether there is room for entries of two lines.
    #[inline(always)]
    pub(crate) fn has_wide(&self) -> bool {
        !self.v6.is_empty()
    }

    /// Asks for the rest of a candidate's entry if it has two lines. Asking for the second lines of a batch after all of the first
    /// ones is measured to be quicker than line by line.
    #[inline(always)]
    pub(crate) fn prefetch_rest(&self, name: Name) {
        if let Some(wide) = name.flow().checked_sub(self.v4.len() as u32)
            && let Some(wide) = self.v6.get(wide as usize)
        {
            wide.prefetch_rest();
        }
    }

    /// The entry of this name if the tuple's flow has it, and the tuple that its packets leave with.
    #[inline(always)]
    pub(crate) fn known(&mut self, family: Family, name: Name, tuple: &Packed) -> Option<(&mut Entry, Packed)> {
        let (direction, other) = (name.direction(), name.direction().other());
        match family {
            Family::V4 => {
                let entry = self.v4.get_mut(name.flow() as usize)?;
                let to = entry.tuple(other).reversed();
                if entry.matches(direction, tuple) { Some((entry, to)) } else { None }
            }
            Family::V6 => {
                let wide = name.flow().wrapping_sub(self.v4.len() as u32);
                let wide = self.v6.get_mut(wide as usize)?;
                let to = wide.tuple(other).reversed();
                if wide.matches(direction, tuple) { Some((&mut wide.entry, to)) } else { None }
            }
        }
    }

    /// Whether no tuple of this spot has a flow, as a glance at the index tells nearly always.
    #[inline(always)]
    pub(crate) fn lacks(&self, spot: Spot) -> bool {
        self.index.lacks(spot)
    }

    /// The flow that a packet of this tuple, of this spot, belongs to, expired or not.
    #[inline]
    pub(crate) fn find(&self, spot: Spot, tuple: &Packed) -> Option<(FlowId, Direction)> {
        let v4_flows = self.v4.len() as u32;
        let name = self.index.find(spot, |name| match tuple.family {
            Family::V4 => self.v4.get(name.flow() as usize).is_some_and(|entry| entry.matches(name.direction(), tuple)),
            Family::V6 => self
                .v6
                .get(name.flow().wrapping_sub(v4_flows) as usize)
                .is_some_and(|entry| entry.matches(name.direction(), tuple)),
        })?;
        Some((FlowId(name.flow()), name.direction()))
    }

    /// Begins a flow whose keys, of these spots, are not in the table. In a full one an expired flow goes
    /// first, then the longest-standing one of the lowest class.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(crate) fn insert(&mut self, now: Ticks, beginning: &Beginning<'_>) -> Result<(FlowId, Ended), Full> {
        let ([one, other], family) = (beginning.spots, beginning.tuples[0].family);
        let mut ended = Ended::default();
        let flow = match self.take_free(family) {
            Some(flow) => flow,
            None => {
                ended = self.evict(now, family);
                self.take_free(family).ok_or(Full(ended))?
            }
        };
        match family {
            Family::V4 => {
                if let Some(entry) = self.v4.get_mut(flow as usize) {
                    *entry = Entry::new(beginning);
                }
            }
            Family::V6 => {
                if let Some(entry) = self.wide_mut(flow) {
                    *entry = WideEntry::new(beginning);
                }
            }
        }
        if !self.index.insert(one, Name::new(flow, Direction::Original)) {
            self.give_back(flow);
            return Err(Full(ended));
        }
        if !self.index.insert(other, Name::new(flow, Direction::Reply)) {
            self.index.remove(one, Name::new(flow, Direction::Original));
            self.give_back(flow);
            return Err(Full(ended));
        }
        if let Some(slab) = self.slab(family) {
            slab.live += 1;
        }
        self.begun += 1;
        self.enlist(family, flow, beginning.state.class());
        self.await_end(beginning.deadline);
        Ok((FlowId(flow), ended))
    }

    /// How many flows have begun.
    #[inline(always)]
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// How many flows are counted under this key of a service port's backend.
    pub(crate) fn load(&self, key: u64) -> u32 {
        self.loads.of(key)
    }

    /// Counts a flow, until it ends, under the key of its service port's backend.
    pub(crate) fn count(&mut self, id: FlowId, key: u64) {
        let cell = self.loads.count(key);
        if let Some(entry) = self.entry_mut(id) {
            entry.load = cell;
        }
    }

    /// Ends a flow.
    pub(crate) fn remove(&mut self, id: FlowId) {
        let Some(flow) = self.tuples(id) else { return };
        let Some(class) = self.entry(id).and_then(Entry::state).map(State::class) else { return };
        self.index.remove(self.spot(&flow.0), Name::new(id.0, Direction::Original));
        self.index.remove(self.spot(&flow.1), Name::new(id.0, Direction::Reply));
        self.delist(id.0, class);
        self.loads.give_back(self.entry(id).map_or(NONE, |entry| entry.load));
        if let Some(slab) = self.slab(self.family(id.0)) {
            slab.live = slab.live.saturating_sub(1);
        }
        self.give_back(id.0);
    }

    #[inline]
    pub(crate) fn entry(&self, id: FlowId) -> Option<&Entry> {
        match id.0.checked_sub(self.v4.len() as u32) {
            None => self.v4.get(id.0 as usize),
            Some(wide) => self.v6.get(wide as usize).map(|wide| &wide.entry),
        }
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, id: FlowId) -> Option<&mut Entry> {
        match id.0.checked_sub(self.v4.len() as u32) {
            None => self.v4.get_mut(id.0 as usize),
            Some(wide) => self.v6.get_mut(wide as usize).map(|wide| &mut wide.entry),
        }
    }

    /// The entry of a flow of this family; `None` for no flow.
    #[inline(always)]
    pub(crate) fn entry_of(&mut self, family: Family, flow: u32) -> Option<&mut Entry> {
        match family {
            Family::V4 => self.v4.get_mut(flow as usize),
            Family::V6 => self.wide_mut(flow).map(|wide| &mut wide.entry),
        }
    }

    #[inline(always)]
    fn wide_mut(&mut self, flow: u32) -> Option<&mut WideEntry> {
        self.v6.get_mut(flow.wrapping_sub(self.v4.len() as u32) as usize)
    }

    /// Both tuples of a flow, the original first.
    pub(crate) fn tuples(&self, id: FlowId) -> Option<(Packed, Packed)> {
        Some((self.tuple(id, Direction::Original)?, self.tuple(id, Direction::Reply)?))
    }

    /// The tuple of one direction.
    #[inline]
    pub(crate) fn tuple(&self, id: FlowId, direction: Direction) -> Option<Packed> {
        match id.0.checked_sub(self.v4.len() as u32) {
            None => self.v4.get(id.0 as usize).map(|entry| entry.tuple(direction)),
            Some(wide) => self.v6.get(wide as usize).map(|wide| wide.tuple(direction)),
        }
    }

    /// Notes a packet: the flow's state, and when it will be forgotten.
    #[cold]
    pub(crate) fn touch(&mut self, id: FlowId, state: State, deadline: Ticks) {
        let Some(entry) = self.entry_mut(id) else { return };
        let Some(before) = entry.state() else { return };
        entry.deadline = deadline.0;
        if before != state {
            entry.set_state(state);
            if before.class() != state.class() {
                self.delist(id.0, before.class());
                self.enlist(self.family(id.0), id.0, state.class());
            }
        }
        self.await_end(deadline);
    }

    /// A flow as it can be shown.
    pub(crate) fn flow(&self, now: Instant, id: FlowId) -> Option<Flow> {
        let entry = self.entry(id)?;
        let (original, reply) = self.tuples(id)?;
        Some(Flow {
            original: (&original).into(),
            reply: (&reply).into(),
            state: entry.state()?,
            deadline: Ticks(entry.deadline).instant(now),
            masqueraded: entry.flags().has(Flags::MASQUERADED),
            direct: entry.flags().has(Flags::DIRECT),
            packets: entry.packets,
            slot: entry.slot,
        })
    }

    /// Every name that a live flow may have.
    pub(crate) fn ids(&self) -> impl Iterator<Item = FlowId> + use<> {
        (0..self.capacity()).map(FlowId)
    }

    /// Live flows of a family.
    pub(crate) fn live(&self, family: Family) -> u32 {
        self.slabs.get(family as usize).map_or(0, |slab| slab.live)
    }

    /// Whether there has ever been a flow of this family; when the sweep comes by does not change it.
    pub(crate) fn has_had(&self, family: Family) -> bool {
        self.slabs.get(family as usize).is_some_and(|slab| slab.used > 0)
    }

    fn capacity(&self) -> u32 {
        (self.v4.len() + self.v6.len()) as u32
    }

    fn family(&self, flow: u32) -> Family {
        if (flow as usize) < self.v4.len() { Family::V4 } else { Family::V6 }
    }

    fn slab(&mut self, family: Family) -> Option<&mut Slab> {
        self.slabs.get_mut(family as usize)
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn take_free(&mut self, family: Family) -> Option<u32> {
        let (base, capacity) = match family {
            Family::V4 => (0, self.v4.len() as u32),
            Family::V6 => (self.v4.len() as u32, self.v6.len() as u32),
        };
        let free = self.slab(family)?.free;
        let next = self.entry_of(family, free).map(|entry| entry.next);
        let slab = self.slab(family)?;
        if let Some(next) = next {
            slab.free = next;
            return Some(free);
        }
        let fresh = slab.used;
        (fresh < capacity).then(|| {
            slab.used += 1;
            base + fresh
        })
    }

    fn give_back(&mut self, flow: u32) {
        let family = self.family(flow);
        let Some(slab) = self.slab(family) else { return };
        let next = core::mem::replace(&mut slab.free, flow);
        if let Some(entry) = self.entry_mut(FlowId(flow)) {
            entry.free();
            entry.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::tuple::{Address, Protocol, Tuple};
    use std::vec;
    use std::vec::Vec;

    const NOW: Ticks = Ticks(1000);

    fn tuples(number: u32) -> (Packed, Packed) {
        let address = |last| Address::v4([10, 0, 0, last]);
        let source_port = number as u16;
        let original = Tuple {
            source: address((number >> 16) as u8),
            destination: address(100),
            source_port,
            destination_port: 80,
            protocol: Protocol::TCP,
            zone: 0,
        };
        let (source, source_port) = (address(101), 8080);
        ((&original).into(), (&Tuple { source, source_port, ..original.reversed() }).into())
    }

    /// Keys that only fit two buckets of the index fill them, while a flow of other buckets gives way for the last of them in
    /// vain: it is counted all the same.
    #[test]
    fn a_flow_that_gave_way_for_nobody_is_counted() {
        let mut memory = vec![Block::ZERO; blocks(9, 0)];
        let hash = TupleHash::new(b"a key for tests.");
        let mut table = FlowTable::new(hash, &mut memory, &mut [], 9, 0).unwrap();
        let buckets = |table: &FlowTable<'_>, tuple: &Packed| {
            let mut both = table.index.both(table.spot(tuple));
            both.sort_unstable();
            both
        };
        let both_in = |table: &FlowTable<'_>, (original, reply): (Packed, Packed), wanted: fn([usize; 2]) -> bool| {
            wanted(buckets(table, &original)) && wanted(buckets(table, &reply))
        };
        let crowded = (0..).filter(|n| both_in(&table, tuples(*n), |both| both == [0, 1]));
        let crowded: Vec<u32> = crowded.take(9).collect();
        let aside = (0..).find(|n| both_in(&table, tuples(*n), |[one, other]| one > 1 && other > 1)).unwrap();
        let mut insert = |number: u32, state| {
            let (original, reply) = tuples(number);
            let spots = [&original, &reply].map(|tuple| table.spot(tuple));
            let inserted = table.insert(
                NOW,
                &Beginning {
                    tuples: [&original, &reply],
                    spots,
                    changes: [0; 2],
                    slot: 0,
                    checked: 0,
                    state,
                    flags: Flags::default(),
                    deadline: NOW.plus(1600),
                },
            );
            inserted.map(|(_, ended)| ended)
        };
        assert_eq!(insert(aside, State::SynSent), Ok(Ended::default()));
        for number in &crowded[..8] {
            assert_eq!(insert(*number, State::Established), Ok(Ended::default()));
        }
        assert_eq!(insert(crowded[8], State::SynSent), Err(Full(Ended { expired: 0, evicted: 1 })));
        assert_eq!(table.live(Family::V4), 8);
    }
}
