//! The image: rules as bytes, position-independent, the same for the same objects.
//!
//! ```text
//!  0        8         12       16         24     40     48           56      60        64
//!  | magic  | version | length | checksum | key  | base | fingerprint| slots | entries | slots, directory, segments
//! ```
//! A delta has the same form: `base` is the fingerprint of the table it applies to, a slot of no bytes
//! removes a segment. A full image is the delta against the empty table, whose fingerprint is 0.
//! Slots lie by rising id, the node's section first under id 0; segments lie in the order of their slots.
//! Zeros fill up the line of memory before the directory and before each segment.

use super::bytes::{u32_at, u64_at};
use super::directory::{self, ENTRY, Hash, Question};
use super::node::NodeRules;
use super::segment::{Segment, Vip, VipClass};
use crate::hash::Key;
use crate::processor;

pub(crate) const MAGIC: [u8; 8] = *b"lb-rules";
/// The version of the image format: raised when the meaning of any byte changes; the engine reads its own only.
pub const VERSION: u32 = 3;
pub(crate) const HEADER: usize = 64;
/// The directory and every section begin at a multiple of this, with zeros before: what a packet reads lies in as few lines of
/// memory as may be.
pub(crate) const LINE: usize = 64;
/// Bytes of a slot: id, where its bytes begin and how many they are, the generation they came with.
pub(crate) const SLOT: usize = 24;
/// While one slot is checked, what the one this many behind it needs is asked for, for as many Vips as most have.
const CHECKED_AHEAD: usize = 8;
const MOST_VIPS: usize = 4;
/// The checksum covers what follows it.
pub(crate) const CHECKED_FROM: usize = 24;

/// What is wrong with an image or delta, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LoadError {
    /// It does not begin as an image does: other bytes were handed in.
    NotAnImage,
    /// It was compiled for another version of the format: compile it again with this release.
    Version {
        /// The image's version.
        found: u32,
    },
    /// It is shorter than it says: the rest was not written or received.
    Truncated {
        /// Bytes that there should be.
        expected: u64,
    },
    /// The bytes are not the ones that were written: fetch or compile it again.
    Corrupt,
    /// A part contradicts itself or another: a fault in whatever compiled it.
    Unsound {
        /// Where the part begins, in bytes from the start.
        at: u32,
    },
    /// It is a delta, and there is no table to apply it to: load a full image first.
    NotFull,
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("not a rule image: compile one from the cluster's objects"),
            Self::Version { found } => {
                write!(f, "rule image of version {found}, this engine reads version {VERSION}: compile it again")
            }
            Self::Truncated { expected } => write!(f, "rule image cut short of its {expected} bytes: fetch it again"),
            Self::Corrupt => f.write_str("rule image does not match its checksum: fetch or compile it again"),
            Self::Unsound { at } => write!(f, "rule image contradicts itself at byte {at}: its compiler is at fault"),
            Self::NotFull => f.write_str("a delta, not a full image: load the image it builds on, then apply it"),
        }
    }
}

impl core::error::Error for LoadError {}

/// One slot of an image or of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: u64,
    pub(crate) start: u32,
    pub(crate) length: u32,
    /// The generation of the table when these bytes were applied; 0 in an image.
    pub(crate) epoch: u32,
}

impl Slot {
    pub(crate) fn read(slots: &[u8], number: usize) -> Option<Self> {
        let bytes = slots.get(number * SLOT..)?.first_chunk::<SLOT>()?;
        Some(Self {
            id: u64_at(bytes, 0)?,
            start: u32_at(bytes, 8)?,
            length: u32_at(bytes, 12)?,
            epoch: u32_at(bytes, 16)?,
        })
    }
}

/// The parts of an image, none of them looked into yet.
#[derive(Clone, Copy)]
pub(crate) struct Image<'i> {
    bytes: &'i [u8],
    slots: &'i [u8],
    pub(crate) directory: &'i [u8],
}

impl<'i> Image<'i> {
    /// Checks all of an image or delta, so that whoever reads it later can trust it.
    pub(crate) fn verify(bytes: &'i [u8]) -> Result<Self, LoadError> {
        let header = bytes.get(..HEADER).ok_or(LoadError::NotAnImage)?;
        if header.first_chunk() != Some(&MAGIC) {
            return Err(LoadError::NotAnImage);
        }
        let field = |at| u32_at(header, at).unwrap_or(0);
        if field(8) != VERSION {
            return Err(LoadError::Version { found: field(8) });
        }
        let length = field(12);
        let bytes = bytes.get(..length as usize).ok_or(LoadError::Truncated { expected: u64::from(length) })?;
        let covered = bytes.get(CHECKED_FROM..).ok_or(LoadError::NotAnImage)?;
        if u64_at(header, 16) != Some(checksum(covered)) {
            return Err(LoadError::Corrupt);
        }
        let unsound = |at: usize| LoadError::Unsound { at: at as u32 };
        let slots = bytes.get(HEADER..).and_then(|rest| rest.get(..(field(56) as usize).checked_mul(SLOT)?));
        let slots = slots.ok_or(unsound(56))?;
        let directory = bytes.get(directory_at(slots.len() / SLOT)..);
        let directory =
            directory.and_then(|rest| rest.get(..(field(60) as usize).checked_mul(ENTRY)?)).ok_or(unsound(60))?;
        let image = Self { bytes, slots, directory };
        image.check_segments()?;
        Ok(image)
    }

    fn check_segments(&self) -> Result<(), LoadError> {
        let unsound = |at: usize| LoadError::Unsound { at: at as u32 };
        let hash = Hash::new(&self.key());
        let (mut last, mut sum) = (None, 0u64);
        let slots_end = HEADER + self.slots.len();
        let mut end = self.zeros_from(slots_end).ok_or(unsound(slots_end))? + self.directory.len();
        let mut counted = directory::Totals { frontends: 0, addresses: 0, segments: 0 };
        let mut ahead = self.slots();
        ahead.by_ref().take(CHECKED_AHEAD).for_each(|slot| self.ask_for(&slot, &hash));
        for (number, slot) in self.slots().enumerate() {
            if let Some(slot) = ahead.next() {
                self.ask_for(&slot, &hash);
            }
            let at = HEADER + number * SLOT;
            end = self.zeros_from(end).ok_or(unsound(end))?;
            if last.is_some_and(|last| last >= slot.id) || slot.start as usize != end || slot.epoch != 0 {
                return Err(unsound(at));
            }
            let content = self.content(&slot).ok_or(unsound(at))?;
            end += content.len();
            last = Some(slot.id);
            if slot.length > 0 {
                sum = sum.wrapping_add(fingerprint(slot.id, content));
            }
            if slot.id == 0 {
                // A delta may leave the node's section alone, none takes it away.
                if !NodeRules::new(content).is_sound() {
                    return Err(unsound(slot.start as usize));
                }
                continue;
            }
            let segment = Segment::new(content);
            if slot.length > 0 && (!segment.is_sound() || segment.id() != slot.id) {
                return Err(unsound(slot.start as usize));
            }
            counted.segments += 1;
            let says = |question| Some(directory::find(self.directory, &hash, question)?.number());
            if says(Question::Segment(slot.id)) != Some(number as u32) {
                return Err(unsound(at));
            }
            for vip in if slot.length > 0 { Some(segment.vips()) } else { None }.into_iter().flatten() {
                counted.frontends += 1;
                let owner = directory::find(self.directory, &hash, question(&vip));
                let owner = owner.map(|owner| (owner.number(), owner.target()));
                if owner != Some((number as u32, directory::target(slot.start, vip.class))) {
                    return Err(unsound(slot.start as usize));
                }
                if let Some(question) = address_question(&vip) {
                    counted.addresses += 1;
                    if says(question).is_none_or(|count| count == 0) {
                        return Err(unsound(slot.start as usize));
                    }
                }
            }
        }
        let whole = end == self.bytes.len() && directory::check(self.directory, &hash) == Some(counted);
        let full = self.base() == 0;
        if !whole || (full && sum != self.fingerprint()) || (full && self.slots().any(|slot| slot.length == 0)) {
            return Err(unsound(HEADER));
        }
        Ok(())
    }

    /// Asks for what checking a slot will read of the directory, which lies all over it.
    fn ask_for(&self, slot: &Slot, hash: &Hash) {
        if !processor::ASKS {
            return;
        }
        directory::ask_for(self.directory, hash, Question::Segment(slot.id));
        let segment = Segment::new(self.content(slot).unwrap_or(&[]));
        for vip in segment.vips().take(MOST_VIPS) {
            directory::ask_for(self.directory, hash, question(&vip));
            if let Some(question) = address_question(&vip) {
                directory::ask_for(self.directory, hash, question);
            }
        }
    }

    /// Where the line ends that this place is in or at the end of, if there are zeros to there.
    fn zeros_from(&self, at: usize) -> Option<usize> {
        let end = at.next_multiple_of(LINE);
        self.bytes.get(at..end)?.iter().all(|byte| *byte == 0).then_some(end)
    }

    /// The key of its directory and its Maglev tables.
    pub(crate) fn key(&self) -> [u8; 16] {
        self.bytes.get(24..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
    }

    /// The fingerprint of the table it applies to; 0 is the empty one.
    pub(crate) fn base(&self) -> u64 {
        u64_at(self.bytes, 40).unwrap_or(0)
    }

    /// The fingerprint of the table that results.
    pub(crate) fn fingerprint(&self) -> u64 {
        u64_at(self.bytes, 48).unwrap_or(0)
    }

    /// Its slots, by rising id.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<'i> {
        let slots = self.slots;
        (0..slots.len() / SLOT).map_while(move |number| Slot::read(slots, number))
    }

    pub(crate) fn slot(&self, number: usize) -> Option<Slot> {
        Slot::read(self.slots, number)
    }

    pub(crate) fn content(&self, slot: &Slot) -> Option<&'i [u8]> {
        self.bytes.get(slot.start as usize..)?.get(..slot.length as usize)
    }
}

/// Where the directory begins behind so many slots.
pub(crate) const fn directory_at(slots: usize) -> usize {
    (HEADER + slots * SLOT).next_multiple_of(LINE)
}

/// The directory's question for a Vip.
pub(crate) fn question(vip: &Vip) -> Question {
    match vip.class {
        VipClass::NodePort => Question::node_port(vip.address, vip.port, vip.protocol),
        _ => Question::Vip(vip.address, vip.port, vip.protocol),
    }
}

/// The directory's question for a Vip's address, which several Vips may share; a node port has none.
pub(crate) fn address_question(vip: &Vip) -> Option<Question> {
    match vip.class {
        VipClass::ClusterIp => Some(Question::ClusterIp(vip.address)),
        VipClass::ExternalIp | VipClass::LoadBalancer => Some(Question::OtherIp(vip.address)),
        VipClass::NodePort => None,
    }
}

/// The checksum of an image: it finds accidents, not forgeries.
pub(crate) fn checksum(covered: &[u8]) -> u64 {
    Key::new(b"lb-rules image 1").bytes(covered)
}

/// What one segment adds to the fingerprint of the set it is in; sums of these depend on the set alone.
/// Never 0 in practice, as only the empty set's fingerprint may be.
pub(crate) fn fingerprint(id: u64, content: &[u8]) -> u64 {
    Key::new(b"lb-rules segment").bytes(content).wrapping_mul(id | 1).max(1)
}
