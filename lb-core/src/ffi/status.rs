//! What a call comes to.

use core::ffi::{CStr, c_char};

/// What a call came to. Anything but `LB_STATUS_OK` leaves every output as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[must_use]
pub enum lb_status {
    /// Done.
    Ok = 0,
    /// Nothing is wrong, but there is nothing to return: no such flow, no deadline, no answer to be sent.
    Nothing = 1,
    /// A pointer that must not be NULL is.
    Null = 2,
    /// A pointer is not aligned as its type, or the layout, asks.
    Alignment = 3,
    /// A `struct_size` is of no version of that struct that this library knows: initialise it with `sizeof`, and use
    /// a library no older than the header.
    StructSize = 4,
    /// A length or count that no memory has.
    Length = 5,
    /// A field holds a number that is none of its enum's, or sizes that no address space has room for.
    Value = 6,
    /// The memory is smaller than the layout says.
    Memory = 7,
    /// More flows of one family than 2^28.
    TooManyFlows = 8,
    /// These rules are in force in a balancer, and only to be reached through it.
    InUse = 9,

    /// The bytes are not a rule image: compile one with `lb compile`.
    NotAnImage = 16,
    /// The image is of another version of its format: compile it again with this release.
    Version = 17,
    /// The image is shorter than it says: fetch it again.
    Truncated = 18,
    /// The image does not match its checksum: fetch it again.
    Corrupt = 19,
    /// The image contradicts itself: its compiler is at fault.
    Unsound = 20,
    /// A delta where a full image is needed.
    NotFull = 21,

    /// The delta was made for other rules than these: apply those in between, or swap in a full image.
    WrongBase = 32,
    /// The delta claims an address that a service of these rules has.
    Conflict = 33,
    /// These rules have no room for so many service ports.
    NoRoomServices = 34,
    /// These rules have no room for so many addresses and ports.
    NoRoomVips = 35,
    /// These rules have no room for a segment of this size.
    NoRoomSegments = 36,
    /// These rules are read in place and can't change: make some with room.
    ReadOnly = 37,

    /// One of the flow's tuples is another flow's already.
    Taken = 48,
    /// The flow table is full of flows that may not be evicted.
    Full = 49,
    /// The two tuples are not of one flow: family, protocol and zone must agree, and the tuples differ.
    Mixed = 50,
    /// The flow's packets are steered to another core than this balancer's.
    Elsewhere = 51,
}

impl lb_status {
    const ALL: &[Self] = &[
        Self::Ok,
        Self::Nothing,
        Self::Null,
        Self::Alignment,
        Self::StructSize,
        Self::Length,
        Self::Value,
        Self::Memory,
        Self::TooManyFlows,
        Self::InUse,
        Self::NotAnImage,
        Self::Version,
        Self::Truncated,
        Self::Corrupt,
        Self::Unsound,
        Self::NotFull,
        Self::WrongBase,
        Self::Conflict,
        Self::NoRoomServices,
        Self::NoRoomVips,
        Self::NoRoomSegments,
        Self::ReadOnly,
        Self::Taken,
        Self::Full,
        Self::Mixed,
        Self::Elsewhere,
    ];

    const fn text(self) -> &'static CStr {
        match self {
            Self::Ok => c"done",
            Self::Nothing => c"nothing to return",
            Self::Null => c"a pointer that must not be NULL is",
            Self::Alignment => c"a pointer is not aligned as it must be",
            Self::StructSize => c"struct_size is of no version of the struct that this library knows: set it to sizeof",
            Self::Length => c"a length or count that no memory has",
            Self::Value => c"a field holds a number that it can't have",
            Self::Memory => c"too little memory: give as much as the layout says",
            Self::TooManyFlows => c"more than 2^28 flows of one family: use smaller sizes, or a balancer a core",
            Self::InUse => c"the rules are in force in a balancer: reach them through it",
            Self::NotAnImage => c"not a rule image: compile one with `lb compile`",
            Self::Version => c"rule image of another version: compile it again with this release",
            Self::Truncated => c"rule image cut short: fetch it again",
            Self::Corrupt => c"rule image does not match its checksum: fetch it again",
            Self::Unsound => c"rule image contradicts itself: its compiler is at fault",
            Self::NotFull => c"a delta, not a full image: load the image it builds on, then apply it",
            Self::WrongBase => c"the delta applies to other rules: apply those in between or swap in a full image",
            Self::Conflict => c"the delta claims an address that another service has: compile it anew",
            Self::NoRoomServices => c"no room for more service ports: make larger rules and swap them in",
            Self::NoRoomVips => c"no room for more addresses: make larger rules and swap them in",
            Self::NoRoomSegments => c"no room for a segment of this size: make larger rules and swap them in",
            Self::ReadOnly => c"these rules are read in place and can't change: make some with room",
            Self::Taken => c"another flow has one of its tuples: leave it out",
            Self::Full => c"the flow table is full: make a larger one",
            Self::Mixed => c"its two tuples are not of one flow",
            Self::Elsewhere => c"its packets go to another core: restore it there",
        }
    }
}

/// A status as C hands it in: any number.
pub(super) type StatusNumber = i32;

/// A sentence for a status, as the cause of a message. NULL if it is none.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn lb_status_text(status: StatusNumber) -> *const c_char {
    let known = lb_status::ALL.iter().find(|known| **known as i32 == status);
    known.map_or(core::ptr::null(), |status| status.text().as_ptr())
}

/// Runs a call's body.
pub(super) fn call(body: impl FnOnce() -> Result<(), lb_status>) -> lb_status {
    match body() {
        Ok(()) => lb_status::Ok,
        Err(status) => status,
    }
}
