//! The rule table: what becomes of a new flow, and which backends may serve it.
//!
//! A table is bytes. Loaded from an image it is read where it lies, flash included; made with room it
//! starts empty and is updated in place, at the cost of the change. It holds no state of flows or of
//! selection: the same bytes give the same decisions everywhere.

mod apply;
mod arena;
pub(crate) mod bytes;
mod decide;
pub(crate) mod directory;
pub(crate) mod image;
pub(crate) mod node;
mod screen;
pub(crate) mod segment;

use arena::Arena;
use bytes::u32_at;
use directory::{Claims, ENTRY, Hash, Question};
use image::{Image, LINE, SLOT, Slot};
use screen::Screen;

use crate::processor::prefetch;
use crate::tuple::{Address, Protocol};

pub use apply::{ApplyError, Space};
pub(crate) use decide::Receiver;
pub use decide::{Decision, Fate, Source};
pub(crate) use directory::Answer;
pub use image::{LoadError, VERSION};
pub use node::{NodeRules, SourceKind, Stale};
pub use segment::{Backend, Pool, Segment, Vip, VipClass};

/// What a packet dials.
pub(crate) type Dialled = (Address, u16, Protocol);

/// Compiled rules over memory that the caller gives: flash, static RAM, a `Box`.
#[derive(Clone)]
pub struct RuleTable<M> {
    memory: M,
    parts: Parts,
    key: [u8; 16],
    hash: Hash,
    screen: Screen,
    fingerprint: u64,
    /// Rises with every change; what a flow was checked under is compared with it.
    generation: u32,
    /// Added to the epochs in the slots, so that those of a table swapped in are news to every flow.
    epochs_from: u32,
    /// `None` if the table is an image and can't be updated.
    room: Option<Filled>,
}

/// Where the parts of a table lie in its memory.
#[derive(Clone, Copy, Debug)]
struct Parts {
    slots: (usize, usize),
    directory: (usize, usize),
    /// What a slot's start counts from.
    segments: usize,
}

/// How far an updatable table is filled.
#[derive(Clone, Debug)]
struct Filled {
    arena: Arena,
    /// Slots below this one have been used.
    slots_used: u32,
    /// The first of the used ones that are free again; its start is the next one.
    slots_free: u32,
    slots_free_count: u32,
    entries: u32,
}

const NONE: u32 = u32::MAX;

/// How much an updatable table can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Service ports, both families counted.
    pub services: u32,
    /// What clients dial: Vips and node ports, both families counted.
    pub vips: u32,
    /// Bytes of segments, each of which is rounded up to a power of two of at least 64.
    pub segments: u32,
}

impl Room {
    /// Room for what is in this image three times over, which leaves updates space to move.
    pub fn for_image(image: &[u8]) -> Result<Self, LoadError> {
        let image = Image::verify(image)?;
        let (mut services, mut segments) = (1u64, 0u64);
        for slot in image.slots() {
            services += 1;
            segments += arena::rounded(slot.length as usize) as u64;
        }
        let vips = (image.directory.len() / ENTRY) as u64;
        let thrice = |n: u64| u32::try_from(n.saturating_mul(3)).unwrap_or(u32::MAX / 2);
        Ok(Self { services: thrice(services), vips: thrice(vips), segments: thrice(segments).max(1 << 16) })
    }

    const fn slots(self) -> usize {
        self.services as usize + 1
    }

    /// A directory entry for each Vip, each service, and at most one address for each Vip; and a
    /// third of it empty, so that look-ups stay short.
    const fn entries(self) -> usize {
        (self.services as usize + self.vips as usize * 2) * 3 / 2 + 8
    }

    const fn units(self) -> u32 {
        self.segments.div_ceil(arena::UNIT as u32)
    }

    /// How many bytes of memory [`RuleTable::with_room`] wants.
    pub const fn bytes(self) -> usize {
        self.fixed() + arena::bytes(self.units())
    }

    /// Bytes of slots and directory, each up to the end of a line.
    const fn fixed(self) -> usize {
        self.directory_at() + (self.entries() * ENTRY).next_multiple_of(LINE)
    }

    const fn directory_at(self) -> usize {
        (self.slots() * SLOT).next_multiple_of(LINE)
    }
}

impl<M: AsRef<[u8]>> RuleTable<M> {
    /// The table that is an image, read where it lies. All of it is checked first. It can't be updated;
    /// [`RuleTable::with_room`] makes one that can.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the bytes, where, and what to do.
    pub fn load(memory: M) -> Result<Self, LoadError> {
        let image = Image::verify(memory.as_ref())?;
        if image.base() != 0 {
            return Err(LoadError::NotFull);
        }
        let (slots, directory_at) = (image.slots().count() * SLOT, image::directory_at(image.slots().count()));
        let (key, fingerprint, directory) = (image.key(), image.fingerprint(), image.directory.len());
        let mut table = Self {
            parts: Parts { slots: (image::HEADER, slots), directory: (directory_at, directory), segments: 0 },
            memory,
            key,
            hash: Hash::new(&key),
            screen: Screen::EMPTY,
            fingerprint,
            generation: 1,
            epochs_from: 0,
            room: None,
        };
        let mut screen = Screen::EMPTY;
        if let Some(node) = table.node() {
            screen.set_node(&node);
        }
        directory::addresses(table.directory()).for_each(|address| screen.claim(address));
        table.screen = screen;
        Ok(table)
    }

    /// The same table, borrowed: rules that somebody else may ask while they stay where they are. It can't be updated.
    pub fn view(&self) -> RuleTable<&[u8]> {
        let (memory, hash, screen) = (self.memory.as_ref(), self.hash, self.screen.clone());
        let Self { parts, key, fingerprint, generation, epochs_from, .. } = *self;
        RuleTable { memory, parts, key, hash, screen, fingerprint, generation, epochs_from, room: None }
    }

    /// The memory that it lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    fn part(&self, (at, length): (usize, usize)) -> &[u8] {
        self.memory.as_ref().get(at..).and_then(|rest| rest.get(..length)).unwrap_or(&[])
    }

    fn directory(&self) -> &[u8] {
        self.part(self.parts.directory)
    }

    #[cfg_attr(target_pointer_width = "64", inline(never))]
    fn ask(&self, question: Question) -> Option<Answer<'_>> {
        directory::find(self.directory(), &self.hash, question)
    }

    #[inline]
    fn claims(&self, address: Address) -> Claims {
        directory::claims(self.directory(), &self.hash, address)
    }

    /// Whether the cache has what packets read of it anyhow, so that asking for it ahead is not worth its while.
    pub(crate) fn is_small(&self) -> bool {
        const CACHE: usize = 256 << 10;
        self.memory.as_ref().len() <= CACHE
    }

    /// Asks for the memory that tells which service port a packet dials. [`prefetch_segment`](Self::prefetch_segment) waits for
    /// what this asked for.
    pub(crate) fn prefetch_vip(&self, (address, port, protocol): Dialled) {
        directory::ask_for(self.directory(), &self.hash, Question::Vip(address, port, protocol));
    }

    /// Asks for what a new flow reads of a service port.
    pub(crate) fn prefetch_segment(&self, owner: Answer<'_>) {
        /// As much as lies before the Vips of most.
        const BEGINNING: usize = 192;
        let segment = self.memory.as_ref().get(self.parts.segments + owner.start()..).unwrap_or_default();
        segment.iter().take(BEGINNING).step_by(64).for_each(|byte| prefetch(byte));
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn slot(&self, number: u32) -> Option<Slot> {
        Slot::read(self.part(self.parts.slots), number as usize)
    }

    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn content(&self, slot: &Slot) -> Option<&[u8]> {
        let at = self.parts.segments + slot.start as usize;
        self.memory.as_ref().get(at..)?.get(..slot.length as usize)
    }

    /// The segment in a slot; `None` if the slot is empty.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    pub fn segment(&self, slot: u32) -> Option<Segment<'_>> {
        let slot = self.slot(slot).filter(|slot| slot.id != 0 && slot.length > 0)?;
        Some(Segment::new(self.content(&slot)?))
    }

    /// The service port that the directory names as the owner of a Vip, and the Vip's class.
    #[cfg_attr(target_pointer_width = "64", inline(always))]
    fn owned(&self, owner: Answer<'_>) -> Option<(u32, Segment<'_>, VipClass)> {
        let bytes = self.memory.as_ref().get(self.parts.segments + owner.start()..)?;
        let length = u32_at(bytes, 0)?;
        Some((owner.number(), Segment::new(bytes.get(..length as usize)?), owner.class()))
    }

    /// Every segment with its slot.
    pub fn segments(&self) -> impl Iterator<Item = (u32, Segment<'_>)> {
        let slots = (self.parts.slots.1 / SLOT) as u32;
        (1..slots).chain([0]).filter_map(|slot| Some((slot, self.segment(slot)?)))
    }

    /// What holds for the node; `None` while the table is empty.
    pub fn node(&self) -> Option<NodeRules<'_>> {
        let slot = self.slot(0).filter(|slot| slot.id == 0 && slot.length > 0)?;
        Some(NodeRules::new(self.content(&slot)?))
    }

    /// A number for the set of rules, the same for the same set; 0 for none.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The key of its directory and Maglev tables.
    pub(crate) fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// Rises with every change.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The generation in which a slot's content was last changed, its going included.
    pub(crate) fn epoch(&self, slot: u32) -> Option<u32> {
        Some(self.slot(slot)?.epoch.wrapping_add(self.epochs_from))
    }

    /// Makes this table the successor of one of generation `before`: all of it is news.
    pub(crate) fn succeed(&mut self, before: u32) {
        let step = before.wrapping_add(1).wrapping_sub(self.epochs_from);
        self.epochs_from = self.epochs_from.wrapping_add(step);
        self.generation = self.generation.wrapping_add(step);
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> RuleTable<M> {
    /// An empty table with room to grow, in at least [`Room::bytes`] of memory. It passes every packet
    /// until an image is [applied](RuleTable::apply).
    ///
    /// # Errors
    /// [`ApplyError::NoSpace`] if the memory is too small.
    pub fn with_room(mut memory: M, room: Room) -> Result<Self, ApplyError> {
        let bytes = memory.as_mut();
        let (slots, entries) = (room.slots() * SLOT, room.entries() * ENTRY);
        let short = ApplyError::NoSpace { what: apply::Space::Memory, needed: room.bytes() as u64 };
        let rest = bytes.get_mut(..room.bytes()).ok_or(short)?;
        let (fixed, arena) = rest.split_at_mut_checked(room.fixed()).ok_or(short)?;
        fixed.fill(0);
        let filled = Filled {
            arena: Arena::new(arena, room.units()),
            slots_used: 1,
            slots_free: NONE,
            slots_free_count: 0,
            entries: 0,
        };
        Ok(Self {
            memory,
            parts: Parts { slots: (0, slots), directory: (room.directory_at(), entries), segments: room.fixed() },
            key: [0; 16],
            hash: Hash::new(&[0; 16]),
            screen: Screen::EMPTY,
            fingerprint: 0,
            generation: 0,
            epochs_from: 0,
            room: Some(filled),
        })
    }
}
