//! Applying a delta: everything is checked and all room taken first, then nothing can fail.

use super::bytes::{put_bytes, put_u32, put_u64, u32_at};
use super::directory::{self, ENTRY, Hash, Question};
use super::image::{self, Image, LoadError, SLOT, Slot};
use super::segment::{Segment, Vip};
use super::{Filled, NONE, RuleTable};

/// Why a delta was not applied. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ApplyError {
    /// The delta itself is at fault.
    Delta(LoadError),
    /// It was made for another state of the table: apply those in between, or swap in a full image.
    WrongBase {
        /// The fingerprint it applies to.
        expected: u64,
        /// The table's.
        found: u64,
    },
    /// It claims a Vip that another service port of the table has.
    Conflict {
        /// The service port's id.
        claimed_by: u64,
    },
    /// The table has no room for it: make one with more and swap it in.
    NoSpace {
        /// What there is too little of.
        what: Space,
        /// How much of it would be enough.
        needed: u64,
    },
    /// The table is a loaded image, which can't be updated: make one with room.
    ReadOnly,
}

/// What a table may run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Space {
    /// Bytes of the caller's memory.
    Memory,
    /// [`Room::services`](super::Room::services).
    Services,
    /// [`Room::vips`](super::Room::vips).
    Vips,
    /// [`Room::segments`](super::Room::segments): the one that found no place has this many bytes.
    Segments,
}

impl core::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Delta(error) => write!(f, "{error}"),
            Self::WrongBase { expected, found } => write!(
                f,
                "the delta applies to rules {expected:016x}, the table holds {found:016x}: apply those in between or swap in a full image"
            ),
            Self::Conflict { claimed_by } => {
                write!(f, "service port {claimed_by:016x} claims an address that another one has: compile it anew")
            }
            Self::NoSpace { what, needed } => write!(
                f,
                "no room in the rule table: {needed} {} needed: make a larger one and swap it in",
                match what {
                    Space::Memory => "bytes of memory",
                    Space::Services => "service ports",
                    Space::Vips => "Vips",
                    Space::Segments => "bytes for one segment",
                }
            ),
            Self::ReadOnly => {
                f.write_str("a loaded image can't be updated: make a table with room and apply the image to it")
            }
        }
    }
}

impl core::error::Error for ApplyError {}

impl From<LoadError> for ApplyError {
    fn from(error: LoadError) -> Self {
        Self::Delta(error)
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> RuleTable<M> {
    /// Applies a delta; an empty table takes a full image. All of it happens or nothing; the cost is
    /// that of the change. Flows re-check themselves at their next packet.
    ///
    /// # Errors
    /// [`ApplyError`]; the table then is as it was.
    pub fn apply(&mut self, delta: &[u8]) -> Result<(), ApplyError> {
        let delta = Image::verify(delta)?;
        if self.room.is_none() {
            return Err(ApplyError::ReadOnly);
        }
        let same_key = self.fingerprint == 0 || self.key == delta.key();
        if delta.base() != self.fingerprint || !same_key {
            return Err(ApplyError::WrongBase { expected: delta.base(), found: self.fingerprint });
        }
        self.check_result(&delta)?;
        self.check_room(&delta)?;
        let last = self.take_runs(&delta)?;
        if self.fingerprint == 0 {
            self.key = delta.key();
            self.hash = Hash::new(&self.key);
        }
        self.generation = self.generation.wrapping_add(1);
        delta.slots().for_each(|slot| self.clear(&slot));
        self.fill(&delta, last);
        if delta.slots().next().is_some_and(|slot| slot.id == 0) {
            let mut screen = self.screen.clone();
            if let Some(node) = self.node() {
                screen.set_node(&node);
            }
            self.screen = screen;
        }
        self.fingerprint = delta.fingerprint();
        Ok(())
    }

    /// The number of the slot that a delta's slot changes, if it has one already.
    fn number_of(&self, id: u64) -> Option<u32> {
        if id == 0 { Some(0) } else { Some(self.ask(Question::Segment(id))?.number()) }
    }

    /// Whether the delta leads to the fingerprint it promises, and takes no Vip from a third.
    fn check_result(&self, delta: &Image<'_>) -> Result<(), ApplyError> {
        let mut sum = self.fingerprint;
        let ids = Hash::new(&delta.key());
        for slot in delta.slots() {
            if let Some(old) = self.number_of(slot.id).and_then(|number| self.slot(number)).filter(|old| old.length > 0)
            {
                sum = sum.wrapping_sub(image::fingerprint(old.id, self.content(&old).unwrap_or(&[])));
            }
            let content = delta.content(&slot).unwrap_or(&[]);
            if slot.length > 0 {
                sum = sum.wrapping_add(image::fingerprint(slot.id, content));
            }
            for vip in vips(&slot, content) {
                let owner = self.ask(image::question(&vip)).and_then(|owner| self.slot(owner.number()));
                let stays =
                    |owner: &Slot| directory::find(delta.directory, &ids, Question::Segment(owner.id)).is_none();
                if owner.as_ref().is_some_and(stays) {
                    return Err(ApplyError::Conflict { claimed_by: slot.id });
                }
            }
        }
        if sum != delta.fingerprint() {
            return Err(ApplyError::Delta(LoadError::Unsound { at: 48 }));
        }
        Ok(())
    }

    /// Whether slots and directory have room, addresses that go not counted.
    fn check_room(&self, delta: &Image<'_>) -> Result<(), ApplyError> {
        let Some(room) = &self.room else { return Err(ApplyError::ReadOnly) };
        let (mut slots, mut entries) =
            (i64::from(room.slots_used) - i64::from(room.slots_free_count), i64::from(room.entries));
        for slot in delta.slots().filter(|slot| slot.id != 0) {
            let old = self.number_of(slot.id).and_then(|number| self.segment(number));
            let services = i64::from(slot.length > 0) - i64::from(old.is_some());
            slots += services;
            entries += services - old.map_or(0, |old| old.vips().count() as i64);
            for vip in vips(&slot, delta.content(&slot).unwrap_or(&[])) {
                entries += 1 + i64::from(image::address_question(&vip).is_some());
            }
        }
        let no_space = |what, needed: i64| Err(ApplyError::NoSpace { what, needed: needed.max(0) as u64 });
        if slots > (self.parts.slots.1 / SLOT) as i64 {
            return no_space(Space::Services, slots - 1);
        }
        // Seven eighths full, look-ups still take few steps.
        if entries * 8 > (self.parts.directory.1 / ENTRY) as i64 * 7 {
            return no_space(Space::Vips, entries);
        }
        Ok(())
    }

    /// Takes a run of memory for each segment that comes. They are chained by their first four bytes,
    /// the last one first, as there is nowhere else to note them.
    fn take_runs(&mut self, delta: &Image<'_>) -> Result<u32, ApplyError> {
        let Some((room, arena)) = self.room_and_arena() else { return Err(ApplyError::ReadOnly) };
        let mut last = NONE;
        for slot in delta.slots().filter(|slot| slot.length > 0) {
            let Some(start) = room.arena.take(arena, slot.length as usize) else {
                while last != NONE {
                    let before = u32_at(arena, last as usize).unwrap_or(NONE);
                    room.arena.give_back(arena, last);
                    last = before;
                }
                return Err(ApplyError::NoSpace { what: Space::Segments, needed: u64::from(slot.length) });
            };
            put_u32(arena, start as usize, last);
            last = start;
        }
        Ok(last)
    }

    fn room_and_arena(&mut self) -> Option<(&mut Filled, &mut [u8])> {
        let arena = self.memory.as_mut().get_mut(self.parts.segments..)?;
        Some((self.room.as_mut()?, arena))
    }

    /// Takes a slot's old content away, and the slot too if nothing replaces it.
    fn clear(&mut self, slot: &Slot) {
        let Some(number) = self.number_of(slot.id) else { return };
        let Some(old) = self.slot(number).filter(|old| old.length > 0) else { return };
        if old.id != 0 {
            self.unlist(number);
        }
        if let Some((room, arena)) = self.room_and_arena() {
            room.arena.give_back(arena, old.start);
        }
        if slot.length == 0 {
            self.forget(Question::Segment(slot.id));
            let next = self.room.as_mut().map_or(NONE, |room| {
                room.slots_free_count += 1;
                core::mem::replace(&mut room.slots_free, number)
            });
            self.put_slot(number, Slot { id: 0, start: next, length: 0, epoch: 0 });
        } else {
            self.put_slot(number, Slot { start: 0, length: 0, ..old });
        }
    }

    /// Copies every new content into its run, from the last to the first as they are chained.
    fn fill(&mut self, delta: &Image<'_>, mut run: u32) {
        let count = delta.slots().count();
        for slot in (0..count).rev().filter_map(|number| delta.slot(number)).filter(|slot| slot.length > 0) {
            let content = delta.content(&slot).unwrap_or(&[]);
            let start = run;
            if let Some((_, arena)) = self.room_and_arena() {
                run = u32_at(arena, start as usize).unwrap_or(NONE);
                put_bytes(arena, start as usize, content);
            }
            let number = self.number_of(slot.id).or_else(|| self.new_slot(slot.id));
            let Some(number) = number else { continue };
            self.put_slot(number, Slot { id: slot.id, start, length: slot.length, epoch: 0 });
            for vip in vips(&slot, content) {
                self.list(image::question(&vip), number, directory::target(start, vip.class));
                if let Some(question) = image::address_question(&vip) {
                    let claims = self.ask(question).map_or(0, |claims| claims.number());
                    self.list(question, claims + 1, 0);
                    self.screen.claim(vip.address);
                }
            }
        }
    }

    /// A slot for a segment that is new.
    fn new_slot(&mut self, id: u64) -> Option<u32> {
        let free = self.room.as_ref()?.slots_free;
        let next = self.slot(free).map(|slot| slot.start);
        let room = self.room.as_mut()?;
        let number = match next {
            Some(next) => {
                room.slots_free = next;
                room.slots_free_count -= 1;
                free
            }
            None => {
                room.slots_used += 1;
                room.slots_used - 1
            }
        };
        self.list(Question::Segment(id), number, 0);
        Some(number)
    }

    /// Writes a slot, stamped with this generation.
    fn put_slot(&mut self, number: u32, slot: Slot) {
        let at = self.parts.slots.0 + number as usize * SLOT;
        let epoch = self.generation.wrapping_sub(self.epochs_from);
        let bytes = self.memory.as_mut();
        put_u64(bytes, at, slot.id);
        put_u32(bytes, at + 8, slot.start);
        put_u32(bytes, at + 12, slot.length);
        put_u32(bytes, at + 16, epoch);
    }

    /// Takes the Vips of a slot out of the directory.
    fn unlist(&mut self, number: u32) {
        let mut i = 0;
        while let Some(vip) = self.segment(number).and_then(|segment| segment.vips().nth(i)) {
            self.forget(image::question(&vip));
            if let Some(question) = image::address_question(&vip) {
                match self.ask(question).map(|claims| claims.number()) {
                    Some(claims) if claims > 1 => self.list(question, claims - 1, 0),
                    _ => self.forget(question),
                }
            }
            i += 1;
        }
    }

    fn list(&mut self, question: Question, number: u32, target: u32) {
        let news = self.ask(question).is_none();
        let (at, length) = self.parts.directory;
        let hash = self.hash;
        if let Some(bytes) = self.memory.as_mut().get_mut(at..).and_then(|rest| rest.get_mut(..length)) {
            directory::insert(bytes, &hash, question, number, target);
        }
        if let Some(room) = self.room.as_mut().filter(|_| news) {
            room.entries += 1;
        }
    }

    fn forget(&mut self, question: Question) {
        if self.ask(question).is_none() {
            return;
        }
        let (at, length) = self.parts.directory;
        let hash = self.hash;
        if let Some(bytes) = self.memory.as_mut().get_mut(at..).and_then(|rest| rest.get_mut(..length)) {
            directory::remove(bytes, &hash, question);
        }
        if let Some(room) = self.room.as_mut() {
            room.entries -= 1;
        }
    }
}

/// The Vips of a slot's content: none of the node's section.
fn vips<'i>(slot: &Slot, content: &'i [u8]) -> impl Iterator<Item = Vip> + use<'i> {
    let segment = (slot.id != 0 && slot.length > 0).then(|| Segment::new(content));
    segment.into_iter().flat_map(|segment| segment.vips())
}
