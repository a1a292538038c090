//! The wire as smoltcp sees it: a packet in, packets out.

use std::collections::VecDeque;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// What has arrived and is to be read, and what was sent.
pub(super) struct Queue {
    pub(super) arrived: Option<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
    pub(super) mtu: usize,
}

/// A packet to read.
pub(super) struct Arrived(Vec<u8>);
/// Room for a packet to send.
pub(super) struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let written = write(&mut packet);
        self.0.push_back(packet);
        written
    }
}

impl Device for Queue {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Room<'_>)> {
        Some((Arrived(self.arrived.take()?), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // `stray.rs` looks at TCP's first, so that a wrong one is told and not only lost.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
