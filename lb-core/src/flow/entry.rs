//! What is kept of one flow: one cache line, and a second for IPv6's longer addresses.

use bytemuck::{Pod, Zeroable};

use super::clock::Ticks;
use super::table::Beginning;
use super::{Direction, Signal, State};
use crate::processor::prefetch;
use crate::time::Instant;
use crate::tuple::packed::{LABEL, Packed};
use crate::tuple::{Family, Tuple};

/// "No entry" in lists.
pub(super) const NONE: u32 = u32::MAX;

/// One flow. Of pairs the first is the original tuple's, the second the reply's.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    /// IPv4 addresses as in a [`Packed`] tuple; unused in a [`WideEntry`].
    addresses: [u64; 2],
    ports: [u32; 2],
    /// The tuples' label; above it [`Flags`], and among them a [`State`] in four bits, 0 if the entry is free.
    label: u32,
    /// What rewriting a packet of the original direction adds to its sums. Only those who compute it know how.
    pub(crate) changes: [u16; 2],
    /// The service port's slot in the rule table.
    pub(crate) slot: u32,
    /// The generation of the rule table under which this flow was last found in order.
    pub(crate) checked: u32,
    /// When it is forgotten, in [`Ticks`].
    pub(super) deadline: u32,
    /// The neighbours in the list of its class; `next` alone in the list of free entries.
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Packets seen each way, wrapping.
    pub(crate) packets: [u32; 2],
    /// Where it is counted among its backend's live flows; [`NONE`] if it is not.
    pub(super) load: u32,
}

/// An IPv6 flow: an entry, and its four addresses in a second line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct WideEntry {
    pub(super) entry: Entry,
    addresses: [[u64; 4]; 2],
}

const FLAGS_FROM: u32 = 24;
const STATE_FROM: u32 = 25;

/// What else is known of a flow: below its state what every packet may ignore, above it what none may, so that state and those
/// together are the number of a state that there is if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The source was replaced by the node's own address.
    pub(crate) const MASQUERADED: Self = Self(1);
    /// The backend may no longer serve it: replies are dropped, the client's next packet chooses anew.
    pub(crate) const STALE: Self = Self(1 << 5);
    /// The client's packets go to the backend as they are.
    pub(crate) const DIRECT: Self = Self(1 << 6);

    const ALL: u8 = Self::MASQUERADED.with(Self::STALE).with(Self::DIRECT).0;

    /// Whether any of those is set.
    pub(crate) const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    #[must_use]
    pub(crate) const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

impl Entry {
    /// An entry for this flow; its addresses only where they are IPv4.
    #[inline(always)]
    pub(super) fn new(flow: &Beginning<'_>) -> Self {
        let [original, reply] = flow.tuples;
        let (state, flags) = (flow.state as u32, u32::from(flow.flags.0));
        Self {
            addresses: flow.tuples.map(|tuple| tuple.addresses[0]),
            ports: [original.ports(), reply.ports()],
            label: original.label() | state << STATE_FROM | flags << FLAGS_FROM,
            changes: flow.changes,
            slot: flow.slot,
            checked: flow.checked,
            deadline: flow.deadline.0,
            previous: NONE,
            next: NONE,
            packets: [0; 2],
            load: NONE,
        }
    }

    /// Where the flow stands; `None` if the entry is free.
    #[inline(always)]
    pub(crate) fn state(&self) -> Option<State> {
        State::from_u8((self.label >> STATE_FROM & 15) as u8)
    }

    /// Where it stands after this packet; `None` if it is free, stale or direct, or if the packet ends it.
    #[inline(always)]
    pub(crate) fn next(&self, signal: Signal, direction: Direction) -> Option<State> {
        State::next_of((self.label >> STATE_FROM) as u8, signal, direction)
    }

    /// Whether it stands there, and is neither stale nor direct.
    #[inline(always)]
    pub(crate) fn is_in(&self, state: State) -> bool {
        self.label >> STATE_FROM == state as u32
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.free();
        self.label |= (state as u32) << STATE_FROM;
    }

    pub(super) fn free(&mut self) {
        self.label &= !(15 << STATE_FROM);
    }

    #[inline(always)]
    pub(crate) fn flags(&self) -> Flags {
        Flags((self.label >> FLAGS_FROM) as u8 & Flags::ALL)
    }

    pub(crate) fn flag(&mut self, flag: Flags) {
        self.label |= u32::from(flag.0) << FLAGS_FROM;
    }

    #[inline(always)]
    pub(crate) fn is_expired(&self, now: Ticks) -> bool {
        Ticks(self.deadline).after(now) <= 0
    }

    /// Counts a packet.
    #[inline(always)]
    pub(crate) fn count(&mut self, direction: Direction) {
        if let Some(count) = self.packets.get_mut(direction as usize) {
            *count = count.wrapping_add(1);
        }
    }

    /// Puts off the deadline. False, and nothing done, if this one is earlier.
    #[inline(always)]
    pub(crate) fn prolong(&mut self, deadline: Ticks) -> bool {
        let later = deadline.after(Ticks(self.deadline)) >= 0;
        if later {
            self.deadline = deadline.0;
        }
        later
    }

    /// Whether the tuple of this direction is `tuple`, both of IPv4.
    #[inline(always)]
    pub(super) fn matches(&self, direction: Direction, tuple: &Packed) -> bool {
        self.matches_rest(direction, tuple) & (of(&self.addresses, direction) == tuple.addresses[0])
    }

    #[inline(always)]
    fn matches_rest(&self, direction: Direction, tuple: &Packed) -> bool {
        (of(&self.ports, direction) == tuple.ports()) & ((self.label ^ tuple.label()) & LABEL == 0)
    }

    /// The tuple of this direction, of an IPv4 flow.
    #[inline(always)]
    pub(super) fn tuple(&self, direction: Direction) -> Packed {
        self.tuple_between(direction, [of(&self.addresses, direction), 0, 0, 0], Family::V4)
    }

    #[inline(always)]
    fn tuple_between(&self, direction: Direction, addresses: [u64; 4], family: Family) -> Packed {
        Packed::new(family, addresses, of(&self.ports, direction), self.label & LABEL)
    }
}

impl WideEntry {
    #[inline(always)]
    pub(super) fn new(flow: &Beginning<'_>) -> Self {
        Self { entry: Entry::new(flow), addresses: flow.tuples.map(|tuple| tuple.addresses) }
    }

    #[inline(always)]
    pub(super) fn matches(&self, direction: Direction, tuple: &Packed) -> bool {
        let [[a, b, c, d], [e, f, g, h]] = [of(&self.addresses, direction), tuple.addresses];
        self.entry.matches_rest(direction, tuple) & (((a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)) == 0)
    }

    #[inline(always)]
    pub(super) fn tuple(&self, direction: Direction) -> Packed {
        self.entry.tuple_between(direction, of(&self.addresses, direction), Family::V6)
    }

    /// Asks for the second of its lines, ahead of their being read.
    #[inline(always)]
    pub(super) fn prefetch_rest(&self) {
        prefetch(&self.addresses);
    }
}

/// What a pair has for this direction. Directions come at random, so it is not to be a branch.
#[inline(always)]
fn of<T: Copy>(pair: &[T; 2], direction: Direction) -> T {
    pair.get(direction as usize).copied().unwrap_or(pair[0])
}

/// A flow as it can be shown, saved, and [restored](crate::Balancer::restore).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As the client sends: from itself to the Vip.
    pub original: Tuple,
    /// As the backend answers: from itself to the client, or to the masquerade address. What leaves
    /// for the backend is this, reversed.
    pub reply: Tuple,
    /// Where it stands.
    pub state: State,
    /// When it will be forgotten if no packet comes.
    pub deadline: Instant,
    /// Whether its source was replaced by the node's own address.
    pub masqueraded: bool,
    /// Whether the client's packets are left as they are, to be handed to the backend (`reply`'s source) all the same: it
    /// answers the client directly (SEMANTICS §14.4).
    pub direct: bool,
    /// Packets seen from the client and from the backend, each wrapping at 2^32.
    pub packets: [u32; 2],
    /// The slot of its service port in the rule table that last decided about it.
    pub slot: u32,
}

impl Flow {
    /// The client's packet as it leaves for the backend.
    pub const fn leaves(&self) -> Tuple {
        if self.direct { self.original } else { self.reply.reversed() }
    }

    /// The backend's answer as it comes back.
    pub const fn answer(&self) -> Tuple {
        if self.direct { self.original.reversed() } else { self.reply }
    }
}
