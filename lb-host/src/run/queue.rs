//! A worker's queue of a device, and the belts by which frames get to the worker that they are for.
//!
//! A kernel shares frames out by a hash of what they show; which worker has the flow depends on the rules, too
//! (`lb_core::steer`). So each worker takes what its queue gives it, and hands on what is another's.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use anyhow::Context;
use lb_core::{Instant, Link};
use nix::sys::eventfd::EventFd;

use super::forward::Forwarder;
use crate::device::{Device, Frame, Name, Received};
use crate::metrics::DeviceCounts;

/// Frames taken from a device at a time.
pub(super) const BATCH: usize = 64;

/// Frames that may wait on one belt; more are dropped, as by a full queue of a device.
const BELT: usize = 1024;

/// Memory of frames that is kept for the next that are handed on.
const SPARE: usize = 256;

/// The ends of a device's belts that one worker has: from all others, and to each.
pub(super) struct Belts {
    own: usize,
    from: Receiver<Frame>,
    to: Vec<SyncSender<Frame>>,
}

/// The belts of one device between so many workers.
pub(super) fn belts(workers: usize) -> Vec<Belts> {
    let (to, from): (Vec<_>, Vec<_>) = (0..workers).map(|_| sync_channel(BELT)).unzip();
    from.into_iter().enumerate().map(|(own, from)| Belts { own, from, to: to.clone() }).collect()
}

/// A queue at work.
pub(super) struct Queue {
    name: Name,
    device: Box<dyn Device>,
    belts: Belts,
    spare: Vec<Frame>,
    pub(super) counts: DeviceCounts,
    pub(super) ended: bool,
}

impl Queue {
    /// Opens this worker's queue of a device.
    pub(super) fn open(name: Name, belts: Belts) -> anyhow::Result<Self> {
        let device = name.open(belts.to.len()).with_context(|| name.to_string())?;
        Ok(Self { name, device, belts, spare: Vec::new(), counts: DeviceCounts::default(), ended: false })
    }

    pub(super) fn name(&self) -> String {
        self.name.to_string()
    }

    pub(super) fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Takes a batch through the engine and back. Whether there was one. Workers that got something on a belt are woken.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        frames: &mut [Frame],
        forwarder: &mut Forwarder<'_>,
        wakes: &[Arc<EventFd>],
    ) -> anyhow::Result<bool> {
        let received = match self.device.receive(frames).with_context(|| self.name())? {
            Received::End => {
                self.ended = true;
                return Ok(false);
            }
            Received::Frames(received) => received,
        };
        self.counts.received += received as u64;
        let mut woken = vec![false; wakes.len()];
        let mut count = received;
        if wakes.len() > 1 {
            count = self.sort(&mut frames[..received], forwarder, &mut woken);
            while count < frames.len()
                && let Ok(frame) = self.belts.from.try_recv()
            {
                self.keep(std::mem::replace(&mut frames[count], frame));
                count += 1;
            }
        }
        let leaving = forwarder.forward(now, &mut frames[..count]);
        for frames in [&frames[..leaving], forwarder.extra()] {
            let dropped = self.device.send(frames).with_context(|| self.name())?;
            self.counts.sent += (frames.len() - dropped) as u64;
            self.counts.dropped += dropped as u64;
        }
        for (core, bytes) in forwarder.elsewhere.drain(..) {
            let mut frame = self.spare.pop().unwrap_or_default();
            frame.copy_from_bytes(&bytes);
            self.hand_on(usize::from(core), frame, &mut woken);
        }
        for (wake, _) in wakes.iter().zip(woken).filter(|(_, woken)| *woken) {
            // It counts; full is as good as woken.
            let _ = wake.write(1);
        }
        Ok(received > 0 || count > 0)
    }

    /// Hands on what is for other workers and moves the rest to the front, in order; how many those are.
    fn sort(&mut self, frames: &mut [Frame], forwarder: &Forwarder<'_>, woken: &mut [bool]) -> usize {
        let mut own = 0;
        for at in 0..frames.len() {
            let core = usize::from(forwarder.balancer.steer(frames[at].data(), Link::Ethernet));
            if core == self.belts.own {
                frames.swap(own, at);
                own += 1;
            } else {
                let spare = self.spare.pop().unwrap_or_default();
                let frame = std::mem::replace(&mut frames[at], spare);
                self.hand_on(core, frame, woken);
            }
        }
        own
    }

    fn hand_on(&mut self, core: usize, frame: Frame, woken: &mut [bool]) {
        let Some((belt, woken)) = self.belts.to.get(core).zip(woken.get_mut(core)) else { return };
        match belt.try_send(frame) {
            Ok(()) => {
                self.counts.handed_on += 1;
                *woken = true;
            }
            Err(TrySendError::Full(frame) | TrySendError::Disconnected(frame)) => {
                self.counts.dropped += 1;
                self.keep(frame);
            }
        }
    }

    fn keep(&mut self, frame: Frame) {
        if self.spare.len() < SPARE {
            self.spare.push(frame);
        }
    }

    /// What was written is complete.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let name = self.name();
        self.device.finish().context(name)
    }
}
