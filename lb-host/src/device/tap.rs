//! TAP: the kernel's routing on one side, frames in a file descriptor on the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::frame::HEAD;
use super::{Device, Frame, Received, passes};

/// A TAP interface with checksum and segmentation offload (`IFF_VNET_HDR`), so that a TCP segment of 64 KiB costs as
/// much as one packet.
pub struct Tap {
    device: SyncDevice,
}

impl Tap {
    /// Attaches to the interface of this name, or makes it: one that is made here goes with the process, one from `ip
    /// tuntap add` stays. Where there are to be several queues this is one of them; the kernel sends a flow's frames to the
    /// queue that its last one came from.
    ///
    /// # Errors
    /// The system's: there is no `/dev/net/tun`, the name is another interface's, the right `CAP_NET_ADMIN` is missing,
    /// another process is attached, or the interface was not made for several queues.
    pub fn open(name: &str, queues: usize) -> io::Result<Self> {
        let build = |multi_queue| {
            DeviceBuilder::new()
                .name(name)
                .layer(Layer::L2)
                .with(|options| {
                    options.multi_queue(multi_queue).offload(true);
                })
                .build_sync()
        };
        // An interface with queues takes them only from those who ask for them.
        let device = match (build(queues > 1), queues) {
            (Err(error), 1) if is(&error, libc::EINVAL) => build(true).map_err(|error| explained(name, error))?,
            (Err(error), 2..) if is(&error, libc::EINVAL) => {
                let why = format!("it has one queue: make it by `ip tuntap add {name} mode tap vnet_hdr multi_queue`");
                return Err(io::Error::new(error.kind(), why));
            }
            (device, _) => device.map_err(|error| explained(name, error))?,
        };
        device.set_nonblocking(true)?;
        Ok(Self { device })
    }
}

fn is(error: &io::Error, code: i32) -> bool {
    error.raw_os_error() == Some(code)
}

/// What the system means by it.
fn explained(name: &str, error: io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => format!("{error}: is another `lb run` attached, or the device named twice?"),
        Some(libc::EINVAL) => format!("is no TAP interface ({error}): `ip link show {name}` tells what it is"),
        Some(libc::EPERM) => format!("{error}: it takes CAP_NET_ADMIN"),
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}

impl Device for Tap {
    fn receive(&mut self, frames: &mut [Frame]) -> io::Result<Received> {
        for (number, frame) in frames.iter_mut().enumerate() {
            match self.device.recv(frame.room()) {
                Ok(length) => frame.set_length(length),
                Err(error) if passes(&error) => return Ok(Received::Frames(number)),
                Err(error) if is(&error, libc::EBADFD) => return Err(super::removed()),
                Err(error) => return Err(error),
            }
        }
        Ok(Received::Frames(frames.len()))
    }

    fn send(&mut self, frames: &[Frame]) -> io::Result<usize> {
        let mut dropped = 0;
        for frame in frames {
            match self.device.send(frame.with_head()) {
                Ok(length) => debug_assert!(length >= HEAD),
                // The kernel refuses a frame whose head makes no sense to it, which is the sender's doing.
                Err(error) if passes(&error) || is(&error, libc::EINVAL) => dropped += 1,
                Err(error) if is(&error, libc::EBADFD) => return Err(super::removed()),
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }
}
