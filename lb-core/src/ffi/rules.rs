//! Rule tables: loaded where they lie, or with room for updates.

use core::ffi::c_void;

use super::borrow::{ALIGNMENT, Out, Place, Versioned, handle_mut, read, slice};
use super::layout::lb_layout;
use super::status::{StatusNumber, call, lb_status};
use crate::RuleTable;
use crate::rules::{ApplyError, LoadError, Room, Space, VERSION};

/// Compiled rules. They lie in memory of the caller's, and are either a loaded image, read where it lies and never
/// written (flash will do), or a table with room that takes deltas.
pub struct lb_rules {
    /// `None` while a balancer has it.
    pub(super) table: Option<RuleTable<Bytes>>,
}

/// Where the bytes of rules lie.
pub(super) enum Bytes {
    ReadOnly(&'static [u8]),
    Writable(&'static mut [u8]),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::ReadOnly(bytes) => bytes,
            Self::Writable(bytes) => bytes,
        }
    }
}

impl AsMut<[u8]> for Bytes {
    /// A table that is read in place is never written: `apply` refuses it.
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::ReadOnly(_) => &mut [],
            Self::Writable(bytes) => bytes,
        }
    }
}

/// How much rules with room can hold.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_room {
    /// `sizeof (lb_room)`.
    pub struct_size: u32,
    /// Service ports, both families counted.
    pub services: u32,
    /// What clients dial: addresses with ports, and node ports, both families counted.
    pub vips: u32,
    /// Bytes of segments, each of which is rounded up to a power of two of at least 64.
    pub segments: u32,
}

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_room {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self = Self { struct_size: 0, services: 0, vips: 0, segments: 0 };
}

/// What exactly was wrong with an image or a delta: the two numbers that its status is about.
///
/// | status | expected | found |
/// | --- | --- | --- |
/// | `LB_STATUS_VERSION` | the format's version here | the image's |
/// | `LB_STATUS_TRUNCATED` | bytes there should be | bytes there are |
/// | `LB_STATUS_UNSOUND` | 0 | where the contradiction is, in bytes |
/// | `LB_STATUS_WRONG_BASE` | the fingerprint that the delta applies to | the rules' |
/// | `LB_STATUS_CONFLICT` | 0 | the id of the service port that claims too much |
/// | `LB_STATUS_NO_ROOM_...` | how much would be enough | 0 |
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_fault {
    /// `sizeof (lb_fault)`.
    pub struct_size: u32,
    /// The status that was returned.
    pub status: StatusNumber,
    /// See the table.
    pub expected: u64,
    /// See the table.
    pub found: u64,
}

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_fault {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self = Self { struct_size: 0, status: 0, expected: 0, found: 0 };
}

/// A status and the two numbers of its [`lb_fault`].
pub(super) type Fault = (lb_status, u64, u64);

fn of_image(error: LoadError, length: usize) -> Fault {
    match error {
        LoadError::NotAnImage => (lb_status::NotAnImage, 0, 0),
        LoadError::Version { found } => (lb_status::Version, VERSION.into(), found.into()),
        LoadError::Truncated { expected } => (lb_status::Truncated, expected, length as u64),
        LoadError::Corrupt => (lb_status::Corrupt, 0, 0),
        LoadError::Unsound { at } => (lb_status::Unsound, 0, at.into()),
        LoadError::NotFull => (lb_status::NotFull, 0, 0),
    }
}

pub(super) fn of_delta(error: ApplyError, length: usize) -> Fault {
    match error {
        ApplyError::Delta(error) => of_image(error, length),
        ApplyError::WrongBase { expected, found } => (lb_status::WrongBase, expected, found),
        ApplyError::Conflict { claimed_by } => (lb_status::Conflict, 0, claimed_by),
        ApplyError::NoSpace { what: Space::Memory, needed } => (lb_status::Memory, needed, 0),
        ApplyError::NoSpace { what: Space::Services, needed } => (lb_status::NoRoomServices, needed, 0),
        ApplyError::NoSpace { what: Space::Vips, needed } => (lb_status::NoRoomVips, needed, 0),
        ApplyError::NoSpace { what: Space::Segments, needed } => (lb_status::NoRoomSegments, needed, 0),
        ApplyError::ReadOnly => (lb_status::ReadOnly, 0, 0),
    }
}

/// Where a fault is told, if anybody wants to know: the one output that is written when something is wrong.
pub(super) struct Teller(Option<Out<lb_fault>>);

impl Teller {
    /// # Safety
    /// `to` is NULL, misaligned, or points to a writable struct that begins with its size.
    pub(super) unsafe fn new(to: *mut lb_fault) -> Result<Self, lb_status> {
        // SAFETY: the caller's promise is passed on.
        let told = if to.is_null() { None } else { Some(unsafe { Out::versioned(to) }?) };
        Ok(Self(told))
    }

    pub(super) fn tell(self, (status, expected, found): Fault) -> lb_status {
        if let Some(out) = self.0 {
            let struct_size = out.size();
            out.put(lb_fault { struct_size, status: status as i32, expected, found });
        }
        status
    }
}

/// How much memory rules take.
///
/// @param room   what `lb_rules_with_room` will be asked for; NULL for `lb_rules_load`, which leaves the image where
///               it is
/// @param layout receives size and alignment
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_rules_layout(room: *const lb_room, layout: *mut lb_layout) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let layout = unsafe { Out::versioned(layout) }?;
        let bytes = match room.is_null() {
            true => 0,
            // SAFETY: the same.
            false => room_bytes(unsafe { read(room) }?)?.1,
        };
        let size = Place::<lb_rules>::bytes(bytes).ok_or(lb_status::Value)?;
        let struct_size = layout.size();
        layout.put(lb_layout { struct_size, alignment: ALIGNMENT as u32, size });
        Ok(())
    })
}

/// The room in the engine's words, and the bytes that it takes; refuses what no address space holds.
fn room_bytes(room: lb_room) -> Result<(Room, usize), lb_status> {
    let lb_room { services, vips, segments, .. } = room;
    let room = Room { services, vips, segments };
    // `Room::bytes` multiplies by less than 256.
    let sum = u64::from(services) + u64::from(vips) + u64::from(segments);
    if sum > (usize::MAX / 256) as u64 {
        return Err(lb_status::Value);
    }
    Ok((room, room.bytes().next_multiple_of(ALIGNMENT)))
}

/// Takes an image as rules, where it lies. All of it is checked first, so that no image can do worse than route
/// wrongly. The image is not written, and must stay as it is for as long as the rules are used.
///
/// @param memory       at least `lb_rules_layout(NULL, ...)`; the library's until the rules are no longer used
/// @param length       its bytes
/// @param image        what `lb compile` writes
/// @param image_length its bytes
/// @param rules        receives the handle
/// @param fault        told what is wrong with the image; may be NULL
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_rules_load(
    memory: *mut c_void,
    length: usize,
    image: *const u8,
    image_length: usize,
    rules: *mut *mut lb_rules,
    fault: *mut lb_fault,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid; the image stays as it is while the rules are used.
        let (rules, teller) = unsafe { (Out::plain(rules)?, Teller::new(fault)?) };
        // SAFETY: the same.
        let (place, image) = unsafe { (Place::take(memory.cast(), length, 0)?, slice(image, image_length)?) };
        let table =
            RuleTable::load(Bytes::ReadOnly(image)).map_err(|error| teller.tell(of_image(error, image_length)))?;
        rules.put(place.put(lb_rules { table: Some(table) }));
        Ok(())
    })
}

/// Makes empty rules with room for updates. They pass every packet until an image is applied.
///
/// @param memory at least `lb_rules_layout(room, ...)`; the library's until the rules are no longer used
/// @param length its bytes
/// @param room   how much they can hold
/// @param rules  receives the handle
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_rules_with_room(
    memory: *mut c_void,
    length: usize,
    room: *const lb_room,
    rules: *mut *mut lb_rules,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (rules, room) = unsafe { (Out::plain(rules)?, read(room)?) };
        let (room, bytes) = room_bytes(room)?;
        // SAFETY: NULL or valid, and ours from now on.
        let place = unsafe { Place::take(memory.cast(), length, bytes) }?;
        // SAFETY: called once; bytes are bytes.
        let behind = unsafe { place.behind() };
        let table = RuleTable::with_room(Bytes::Writable(behind), room).map_err(|_| lb_status::Memory)?;
        rules.put(place.put(lb_rules { table: Some(table) }));
        Ok(())
    })
}

/// Applies a delta, or a full image to empty rules: all of it or nothing, at the cost of the change. For rules that
/// are not in force yet, which another core may prepare; `lb_apply` does it to those that are.
///
/// @param fault told what is wrong with the delta; may be NULL
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_rules_apply(
    rules: *mut lb_rules,
    delta: *const u8,
    delta_length: usize,
    fault: *mut lb_fault,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (rules, delta, teller) = unsafe { (handle_mut(rules)?, slice(delta, delta_length)?, Teller::new(fault)?) };
        let table = rules.table.as_mut().ok_or(lb_status::InUse)?;
        table.apply(delta).map_err(|error| teller.tell(of_delta(error, delta_length)))
    })
}
