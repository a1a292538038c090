//! The ladder: which flow gives way to a newcomer when the table is full.
//!
//! Live entries of the classes that may be evicted hang in one list a class and family, in the order in
//! which they entered the class, so that the next victim is found at once. Established flows
//! hang in none and cost nothing.

use super::{Ended, FlowTable};
use crate::flow::clock::Ticks;
use crate::flow::entry::NONE;
use crate::flow::{Class, FlowId};
use crate::tuple::Family;

/// The flows of one class, the longest-standing first.
#[derive(Clone, Copy)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };
}

impl FlowTable<'_> {
    /// Makes room in a full slab, if there is room to be made.
    pub(super) fn evict(&mut self, now: Ticks, family: Family) -> Ended {
        /// Entries that a newcomer's packet pays for to find one expired but not yet swept.
        const GLANCE: usize = 16;
        let before = self.live(family);
        let expired = self.expire(now, GLANCE) as u64;
        if self.live(family) < before {
            return Ended { expired, evicted: 0 };
        }
        let lists = self.slabs.get(family as usize).map_or(&[][..], |slab| &slab.lists);
        let Some(victim) = lists.iter().map(|list| list.head).find(|head| *head != NONE) else {
            return Ended { expired, evicted: 0 };
        };
        let over = self.entry(FlowId(victim)).is_some_and(|entry| entry.is_expired(now));
        self.remove(FlowId(victim));
        Ended { expired: expired + u64::from(over), evicted: u64::from(!over) }
    }

    /// Hangs a flow at the end of its class's list.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub(super) fn enlist(&mut self, family: Family, flow: u32, class: Class) {
        let Some(list) = self.slab(family).and_then(|slab| slab.lists.get_mut(class as usize)) else { return };
        let tail = core::mem::replace(&mut list.tail, flow);
        if tail == NONE {
            list.head = flow;
        }
        if let Some(entry) = self.entry_of(family, tail) {
            entry.next = flow;
        }
        if let Some(entry) = self.entry_of(family, flow) {
            (entry.previous, entry.next) = (tail, NONE);
        }
    }

    /// Takes a flow out of its class's list.
    pub(super) fn delist(&mut self, flow: u32, class: Class) {
        let family = self.family(flow);
        if class as usize >= 3 {
            return;
        }
        let Some((previous, next)) = self.entry(FlowId(flow)).map(|entry| (entry.previous, entry.next)) else { return };
        match self.entry_mut(FlowId(previous)) {
            Some(entry) => entry.next = next,
            None => self.list(family, class, |list| list.head = next),
        }
        match self.entry_mut(FlowId(next)) {
            Some(entry) => entry.previous = previous,
            None => self.list(family, class, |list| list.tail = previous),
        }
    }

    fn list(&mut self, family: Family, class: Class, change: impl FnOnce(&mut List)) {
        if let Some(list) = self.slab(family).and_then(|slab| slab.lists.get_mut(class as usize)) {
            change(list);
        }
    }
}
