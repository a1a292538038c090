//! A balancer as a device: whatever a stack sends through it to a Vip goes to a backend, and the backend's answers come
//! back from the Vip. The stack above and the device below know nothing of it.

use std::collections::VecDeque;

use lb_core::{Balancer, Datagram, Instant, Link, Meta, Packet, Verdict};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::time::Instant as Time;

/// Fragments that are kept until their first comes; the oldest gives way.
const HELD: usize = 16;

/// Flows that are forgotten between two packets.
const EXPIRE: usize = 16;

/// The longest answer to a refused packet, Ethernet's header with two tags included.
const ANSWER: usize = 1280 + 22;

/// A device with a balancer in front of it.
pub(crate) struct Balanced<'m, D> {
    device: D,
    ends: Ends<'m>,
}

/// Everything but the device, so that the device's tokens can be had beside it.
struct Ends<'m> {
    balancer: Balancer<'m, &'static [u8]>,
    link: Link,
    /// What the stack above is to receive.
    arrived: VecDeque<Vec<u8>>,
    held: VecDeque<(Datagram, Vec<u8>)>,
}

/// A packet for the stack.
pub(crate) struct Arrived(Vec<u8>);

/// Room for a packet from the stack.
pub(crate) struct Leaving<'a, 'm, T> {
    token: T,
    now: Time,
    ends: &'a mut Ends<'m>,
}

impl<'m, D: Device> Balanced<'m, D> {
    /// Puts a balancer in front of a device, whose packets begin with this header.
    pub(crate) fn new(device: D, link: Link, balancer: Balancer<'m, &'static [u8]>) -> Self {
        Self { device, ends: Ends { balancer, link, arrived: VecDeque::new(), held: VecDeque::new() } }
    }

    /// The device itself.
    pub(crate) fn device(&mut self) -> &mut D {
        &mut self.device
    }
}

impl Ends<'_> {
    /// Whether a packet of the stack's goes on, translated. One that is refused is answered.
    fn goes_on(&mut self, now: Time, bytes: &mut [u8]) -> bool {
        let now = instant(now);
        let mut packet = Packet::new(bytes, Meta { link: self.link, ..Meta::default() });
        match self.balancer.process(now, &mut packet) {
            Verdict::Pass | Verdict::Accept | Verdict::Forward { .. } => return true,
            Verdict::Reject(reason) => {
                let mut answer = vec![0; ANSWER];
                if let Some(length) = self.balancer.write_reply(now, &packet, reason, &mut answer) {
                    answer.truncate(length);
                    self.arrived.push_back(answer);
                }
            }
            // A stack sends fragments in order: one without a first is one whose first was dropped.
            Verdict::Hold(_) | Verdict::Drop(_) | Verdict::Elsewhere(_) => {}
        }
        false
    }

    /// Takes a packet from the device, and the fragments that waited for it.
    fn take(&mut self, now: Time, mut bytes: Vec<u8>) {
        let mut packet = Packet::new(&mut bytes, Meta { link: self.link, ..Meta::default() });
        let verdict = self.balancer.process(instant(now), &mut packet);
        let releases = packet.releases;
        match verdict {
            Verdict::Pass | Verdict::Accept | Verdict::Forward { .. } => self.arrived.push_back(bytes),
            Verdict::Hold(datagram) => {
                if self.held.len() == HELD {
                    self.held.pop_front();
                }
                self.held.push_back((datagram, bytes));
            }
            // Who is not the stack has no Vips here, and is told nothing.
            Verdict::Reject(_) | Verdict::Drop(_) | Verdict::Elsewhere(_) => {}
        }
        let Some(datagram) = releases else { return };
        let (again, waiting): (Vec<_>, Vec<_>) = self.held.drain(..).partition(|(of, _)| *of == datagram);
        self.held.extend(waiting);
        again.into_iter().for_each(|(_, bytes)| self.take(now, bytes));
    }
}

impl<'m, D: Device> Device for Balanced<'m, D> {
    type RxToken<'a>
        = Arrived
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a, 'm, D::TxToken<'a>>
    where
        Self: 'a;

    fn receive(&mut self, now: Time) -> Option<(Arrived, Self::TxToken<'_>)> {
        if self.ends.balancer.next_deadline().is_some_and(|deadline| deadline <= instant(now)) {
            self.ends.balancer.expire(instant(now), EXPIRE);
        }
        // Dropped and held packets are no reason to stop.
        while self.ends.arrived.is_empty() {
            let (packet, _) = self.device.receive(now)?;
            let bytes = packet.consume(<[u8]>::to_vec);
            self.ends.take(now, bytes);
        }
        let token = self.device.transmit(now)?;
        let packet = self.ends.arrived.pop_front()?;
        Some((Arrived(packet), Leaving { token, now, ends: &mut self.ends }))
    }

    fn transmit(&mut self, now: Time) -> Option<Self::TxToken<'_>> {
        let token = self.device.transmit(now)?;
        Some(Leaving { token, now, ends: &mut self.ends })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = self.device.capabilities();
        // Translation keeps a checksum right; it must be there, so the stack computes it, whatever the device could do.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl<T: TxToken> TxToken for Leaving<'_, '_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let written = write(&mut packet);
        if self.ends.goes_on(self.now, &mut packet) {
            self.token.consume(length, |room| room.copy_from_slice(&packet));
        }
        written
    }
}

fn instant(now: Time) -> Instant {
    Instant::from_nanos(u64::try_from(now.total_micros()).unwrap_or(0).saturating_mul(1000))
}
