//! Where packets come from and go to.

pub mod af_packet;
pub mod capture;
pub mod file;
pub mod frame;
pub mod link;
pub mod name;
pub mod neighbour;
pub mod tap;

use std::io;
use std::os::fd::BorrowedFd;

pub use frame::Frame;
pub use name::Name;

/// What a live data plane takes frames from and gives them back to.
pub trait Device {
    /// Fills frames from the first one on, as many as are there, without waiting.
    ///
    /// # Errors
    /// The device is not usable any more.
    fn receive(&mut self, frames: &mut [Frame]) -> io::Result<Received>;

    /// Sends frames, in order. Returns how many of them it had to drop, as a wire does that is full.
    ///
    /// # Errors
    /// The device is not usable any more.
    fn send(&mut self, frames: &[Frame]) -> io::Result<usize>;

    /// What becomes readable when there are frames; `None` if there are some at any time.
    fn readable(&self) -> Option<BorrowedFd<'_>>;

    /// No frame comes or goes any more: what was written is complete.
    ///
    /// # Errors
    /// It could not be completed.
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

/// What a device had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many frames; none at the moment if 0.
    Frames(usize),
    /// There will never be more.
    End,
}

/// Whether an error of a device is about the moment (its queue is full or empty, its link is down), not about the
/// device.
fn passes(error: &io::Error) -> bool {
    const MOMENTS: [i32; 7] =
        [libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::ENOMEM, libc::ENETDOWN, libc::EIO, libc::EMSGSIZE];
    error.raw_os_error().is_some_and(|code| MOMENTS.contains(&code))
}

/// Why a device is not usable any more whose interface was removed.
fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the interface was removed; start again once it is back")
}
