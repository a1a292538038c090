//! What is kept of one flow: one cache line, and a second for IPv6's longer addresses.

use bytemuck::{Pod, Zeroable};

use super::clock::Ticks;
use super::{Direction, State};
use crate::time::Instant;
use crate::tuple::{Address, Protocol, Tuple};

/// "No entry" in lists.
pub(super) const NONE: u32 = u32::MAX;

/// One flow. Indices 0 and 1 of quadruples are source and destination of the original tuple, 2 and 3 those
/// of the reply tuple.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    /// IPv4 addresses; unused in a [`WideEntry`].
    addresses: [u32; 4],
    ports: [u16; 4],
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
    zone: u16,
    protocol: u8,
    /// A [`State`]; 0 if the entry is free.
    state: u8,
    flags: u8,
    reserved: [u8; 3],
    /// Where it is counted among its backend's live flows; [`NONE`] if it is not.
    pub(super) load: u32,
}

/// An IPv6 flow: an entry, and its four addresses in a second line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct WideEntry {
    pub(super) entry: Entry,
    pub(super) addresses: [u128; 4],
}

/// What else is known of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The source was replaced by the node's own address.
    pub(crate) const MASQUERADED: Self = Self(1);
    /// The backend may no longer serve it: replies are dropped, the client's next packet chooses anew.
    pub(crate) const STALE: Self = Self(2);
    /// The client's packets go to the backend as they are.
    pub(crate) const DIRECT: Self = Self(4);

    pub(crate) const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    #[must_use]
    pub(crate) const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

impl Entry {
    /// An entry for this pair of tuples; its addresses only where they are IPv4.
    pub(super) fn new(original: &Tuple, reply: &Tuple, state: State, flags: Flags) -> Self {
        Self {
            addresses: quadruple(original, reply).map(Address::v4_bits),
            ports: [original.source_port, original.destination_port, reply.source_port, reply.destination_port],
            slot: NONE,
            checked: 0,
            deadline: 0,
            previous: NONE,
            next: NONE,
            packets: [0; 2],
            zone: original.zone,
            protocol: original.protocol.0,
            state: state as u8,
            flags: flags.0,
            reserved: [0; 3],
            load: NONE,
        }
    }

    /// Where the flow stands; `None` if the entry is free.
    pub(crate) fn state(&self) -> Option<State> {
        State::from_u8(self.state)
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    pub(super) fn free(&mut self) {
        self.state = 0;
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags(self.flags)
    }

    pub(crate) fn flag(&mut self, flag: Flags) {
        self.flags |= flag.0;
    }

    pub(crate) fn is_expired(&self, now: Ticks) -> bool {
        Ticks(self.deadline).after(now) <= 0
    }

    /// Whether the tuple of this direction is `tuple`, both of IPv4.
    #[inline]
    pub(super) fn matches(&self, direction: Direction, tuple: &Tuple) -> bool {
        let (source, destination) = ends(&self.addresses, direction);
        source == tuple.source.v4_bits()
            && destination == tuple.destination.v4_bits()
            && self.matches_rest(direction, tuple)
    }

    #[inline]
    fn matches_rest(&self, direction: Direction, tuple: &Tuple) -> bool {
        ends(&self.ports, direction) == (tuple.source_port, tuple.destination_port)
            && self.protocol == tuple.protocol.0
            && self.zone == tuple.zone
    }

    /// The tuple of this direction, of an IPv4 flow.
    #[inline]
    pub(super) fn tuple(&self, direction: Direction) -> Tuple {
        let (source, destination) = ends(&self.addresses, direction);
        self.tuple_between(direction, Address::from_v4_bits(source), Address::from_v4_bits(destination))
    }

    fn tuple_between(&self, direction: Direction, source: Address, destination: Address) -> Tuple {
        let (source_port, destination_port) = ends(&self.ports, direction);
        Tuple { source, destination, source_port, destination_port, protocol: Protocol(self.protocol), zone: self.zone }
    }
}

impl WideEntry {
    pub(super) fn new(original: &Tuple, reply: &Tuple, state: State, flags: Flags) -> Self {
        let addresses = quadruple(original, reply).map(Address::bits);
        Self { entry: Entry::new(original, reply, state, flags), addresses }
    }

    #[inline]
    pub(super) fn matches(&self, direction: Direction, tuple: &Tuple) -> bool {
        ends(&self.addresses, direction) == (tuple.source.bits(), tuple.destination.bits())
            && self.entry.matches_rest(direction, tuple)
    }

    #[inline]
    pub(super) fn tuple(&self, direction: Direction) -> Tuple {
        let (source, destination) = ends(&self.addresses, direction);
        self.entry.tuple_between(direction, Address::from_bits(source), Address::from_bits(destination))
    }
}

fn quadruple(original: &Tuple, reply: &Tuple) -> [Address; 4] {
    [original.source, original.destination, reply.source, reply.destination]
}

/// Source and destination of one direction's tuple.
#[inline]
fn ends<T: Copy>(pairs: &[T; 4], direction: Direction) -> (T, T) {
    let [a, b, c, d] = *pairs;
    match direction {
        Direction::Original => (a, b),
        Direction::Reply => (c, d),
    }
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
