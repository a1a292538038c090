//! From C's pointers to references: every check that can be made, in one place.
//!
//! What can't be checked is the caller's promise, as for any C function: that a pointer which is neither NULL nor
//! misaligned points to as much memory as is said, that nobody else writes there during the call, and that outputs
//! and inputs do not overlap.

use core::mem::{align_of, size_of};

use super::status::lb_status;

/// A struct that C and this library may know in different versions: it begins with its own size.
///
/// # Safety
/// `repr(C)`, its first field is the `u32` of its size, and any bytes are a value of it.
pub(super) unsafe trait Versioned: Copy {
    /// The size of the oldest version that is still understood.
    const FIRST: usize;
    /// What fields hold that an older caller doesn't know.
    const ABSENT: Self;
}

fn check<T>(pointer: *const T) -> Result<(), lb_status> {
    if pointer.is_null() {
        return Err(lb_status::Null);
    }
    if !pointer.addr().is_multiple_of(align_of::<T>()) {
        return Err(lb_status::Alignment);
    }
    Ok(())
}

/// The size that a struct of the caller's says it has.
///
/// # Safety
/// `pointer` is NULL, misaligned, or points to a readable struct that begins with its size.
pub(super) unsafe fn struct_size<T: Versioned>(pointer: *const T) -> Result<usize, lb_status> {
    check(pointer)?;
    // SAFETY: neither NULL nor misaligned, and `Versioned` says that a u32 comes first.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    let known = (T::FIRST..=size_of::<T>()).contains(&size) && size.is_multiple_of(align_of::<T>());
    if known { Ok(size) } else { Err(lb_status::StructSize) }
}

/// A copy of the caller's struct, completed if it is of an older version.
///
/// # Safety
/// As for [`struct_size`]; all of that size is readable.
pub(super) unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T, lb_status> {
    // SAFETY: the caller's promise is passed on.
    let size = unsafe { struct_size(pointer) }?;
    let mut value = T::ABSENT;
    // SAFETY: `size` bytes are readable by the caller's promise and fit into `value` by `struct_size`; any bytes are a
    // value by `Versioned`.
    unsafe { core::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast::<u8>(), size) };
    Ok(value)
}

/// A place for a result: checked before the work, written after it.
pub(super) struct Out<T> {
    to: *mut T,
    size: usize,
}

impl<T> Out<T> {
    /// # Safety
    /// `to` is NULL, misaligned, or points to a writable `T`.
    pub(super) unsafe fn plain(to: *mut T) -> Result<Self, lb_status> {
        check(to)?;
        Ok(Self { to, size: size_of::<T>() })
    }

    /// A place that may be NULL, for those who don't care.
    ///
    /// # Safety
    /// As for [`Out::plain`].
    pub(super) unsafe fn optional(to: *mut T) -> Result<Option<Self>, lb_status> {
        // SAFETY: the caller's promise is passed on.
        if to.is_null() { Ok(None) } else { unsafe { Self::plain(to) }.map(Some) }
    }

    pub(super) fn put(self, value: T) {
        // SAFETY: writable by the promise made when `self` was; `size` is at most that of a `T`, of which an older
        // caller's struct is the first part.
        unsafe { core::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), self.to.cast::<u8>(), self.size) }
    }
}

impl<T: Versioned> Out<T> {
    /// A place of the size that the struct in it says. The value that is put must say the same, see [`Out::size`].
    ///
    /// # Safety
    /// `to` is NULL, misaligned, or points to a writable struct that begins with its size.
    pub(super) unsafe fn versioned(to: *mut T) -> Result<Self, lb_status> {
        // SAFETY: the caller's promise is passed on.
        Ok(Self { to, size: unsafe { struct_size(to) }? })
    }

    /// What goes into `struct_size`.
    pub(super) fn size(&self) -> u32 {
        self.size as u32
    }
}

/// Bytes or elements of the caller's. NULL is allowed where there are none.
///
/// # Safety
/// `pointer` is NULL, misaligned, or points to `length` readable elements that nobody writes during `'a`.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, length: usize) -> Result<&'a [T], lb_status> {
    if length == 0 {
        return Ok(&[]);
    }
    check(pointer)?;
    fits::<T>(length)?;
    // SAFETY: neither NULL nor misaligned, no longer than half the address space, readable by the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(pointer, length) })
}

/// The same, to be written.
///
/// # Safety
/// `pointer` is NULL, misaligned, or points to `length` elements that are the callee's alone during `'a`.
pub(super) unsafe fn slice_mut<'a, T>(pointer: *mut T, length: usize) -> Result<&'a mut [T], lb_status> {
    if length == 0 {
        return Ok(&mut []);
    }
    check(pointer)?;
    fits::<T>(length)?;
    // SAFETY: as above, and nobody else's by the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, length) })
}

/// A slice may not be longer than half the address space.
fn fits<T>(length: usize) -> Result<(), lb_status> {
    let bytes = length.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX as usize);
    bytes.map(|_| ()).ok_or(lb_status::Length)
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is NULL, misaligned, or was returned by this library for memory that is still there, and no other call
/// uses it during `'a`.
pub(super) unsafe fn handle<'a, T>(handle: *const T) -> Result<&'a T, lb_status> {
    check(handle)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { &*handle })
}

/// The same, to be changed.
///
/// # Safety
/// As for [`handle`].
pub(super) unsafe fn handle_mut<'a, T>(handle: *mut T) -> Result<&'a mut T, lb_status> {
    check(handle)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { &mut *handle })
}

/// Room for an object at the start of the caller's memory and blocks of 64 bytes behind it.
pub(super) struct Place<T> {
    object: *mut T,
    blocks: *mut u8,
    rest: usize,
}

/// What every memory that is given for keeps must be aligned to: a cache line.
pub(super) const ALIGNMENT: usize = 64;

impl<T> Place<T> {
    /// How many bytes an object with `rest` bytes behind it takes.
    pub(super) const fn bytes(rest: usize) -> Option<usize> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let Some(sum) = size_of::<T>().next_multiple_of(ALIGNMENT).checked_add(rest) else { return None };
        if sum <= isize::MAX as usize { Some(sum) } else { None }
    }

    /// Takes over the caller's memory, zeroing `rest` bytes of it behind the object.
    ///
    /// # Safety
    /// `memory` is NULL, misaligned, or points to `length` writable bytes that are the library's from now on.
    pub(super) unsafe fn take(memory: *mut u8, length: usize, rest: usize) -> Result<Self, lb_status> {
        if memory.is_null() {
            return Err(lb_status::Null);
        }
        if !memory.addr().is_multiple_of(ALIGNMENT) {
            return Err(lb_status::Alignment);
        }
        fits::<u8>(length)?;
        if Self::bytes(rest).ok_or(lb_status::Value)? > length {
            return Err(lb_status::Memory);
        }
        // SAFETY: within the caller's memory, as was just checked; zeroed, so that there are no bytes without a value.
        let blocks = unsafe { memory.add(size_of::<T>().next_multiple_of(ALIGNMENT)) };
        // SAFETY: the same.
        unsafe { blocks.write_bytes(0, rest) };
        Ok(Self { object: memory.cast(), blocks, rest })
    }

    /// The blocks behind the object. To be called once, or there would be two owners.
    ///
    /// # Safety
    /// Called once only; any bytes are a value of `B`, whose alignment is at most [`ALIGNMENT`].
    pub(super) unsafe fn behind<B>(&self) -> &'static mut [B] {
        const { assert!(align_of::<B>() <= ALIGNMENT) };
        // SAFETY: the memory was given for keeps, is initialised and aligned by `take`, and nothing else refers to it.
        unsafe { core::slice::from_raw_parts_mut(self.blocks.cast(), self.rest / size_of::<B>()) }
    }

    /// Puts the object in its place and returns its handle.
    pub(super) fn put(self, object: T) -> *mut T {
        // SAFETY: `take` checked that there is room and alignment for it.
        unsafe { self.object.write(object) };
        self.object
    }
}
