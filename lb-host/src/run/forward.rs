//! One frame after the other through the engine, and back to where it came from.
//!
//! Routing is not done here. Who sent the frame, a kernel or a router, gets it back with another destination, from its
//! own address to its own: Ethernet's addresses are exchanged, and everything that a router does (neighbours, hop
//! limits, errors about size) is done by the one that is there already.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lb_core::{Balancer, Datagram, Direction, Instant, Meta, Packet, Verdict};

use super::journal::Journal;
use super::lines::Lines;
use crate::device::Frame;
use crate::flow_log::{FlowLog, Moment};

/// Fragments kept until their first comes; the oldest gives way.
const KEPT: usize = 1024;

/// Frames that are made here between two sendings: answers, and fragments that were kept. The rest is dropped.
const EXTRA: usize = 64;

/// The longest answer: RFC 4443 §2.4 (c) and Ethernet's header.
const ANSWER: usize = 1280 + 22;

/// What frames go through.
pub(super) struct Forwarder<'m> {
    pub(super) balancer: Balancer<'m, Vec<u8>>,
    /// Fragments that the engine asked to hold, with their heads.
    held: VecDeque<(Datagram, Vec<u8>)>,
    /// What they are judged again in.
    spare: Option<Frame>,
    extra: Vec<Frame>,
    extras: usize,
    pub(super) log: Option<FlowLog<Lines>>,
    pub(super) journal: Option<Arc<Mutex<Journal>>>,
    /// Whether something was added to the journal that is not handed to the system yet.
    noted: bool,
    /// Frames that turned out to be another worker's, which.
    pub(super) elsewhere: Vec<(u16, Vec<u8>)>,
}

impl<'m> Forwarder<'m> {
    pub(super) fn new(balancer: Balancer<'m, Vec<u8>>) -> Self {
        let extra = (0..EXTRA).map(|_| Frame::new()).collect();
        Self {
            balancer,
            held: VecDeque::new(),
            spare: None,
            extra,
            extras: 0,
            log: None,
            journal: None,
            noted: false,
            elsewhere: Vec::new(),
        }
    }

    /// Judges frames and moves those that leave to the front, in their order; returns how many those are. What else is
    /// to be sent after them is [`extra`](Self::extra).
    pub(super) fn forward(&mut self, now: Instant, frames: &mut [Frame]) -> usize {
        self.extras = 0;
        let mut leaving = 0;
        for at in 0..frames.len() {
            let (leaves, released) = self.judge(now, &mut frames[at]);
            if leaves {
                frames.swap(leaving, at);
                leaving += 1;
            }
            if let Some(datagram) = released {
                self.release(now, datagram);
            }
        }
        // A flow is written down before its first packet leaves: whoever comes after us knows every flow that anybody saw.
        if let Some(journal) = self.journal.as_ref().filter(|_| self.noted) {
            journal.lock().unwrap_or_else(PoisonError::into_inner).flush();
        }
        self.noted = false;
        leaving
    }

    /// What is to be sent besides, since the last call of [`forward`](Self::forward).
    pub(super) fn extra(&self) -> &[Frame] {
        &self.extra[..self.extras]
    }

    /// Has the engine judge a frame. Says whether it leaves, and which held fragments may be judged again.
    fn judge(&mut self, now: Instant, frame: &mut Frame) -> (bool, Option<Datagram>) {
        if !is_returned(frame.data()) {
            return (false, None);
        }
        let meta = Meta { checksum: frame.checksum(), ..Meta::default() };
        let before = self.balancer.counters().flows_created;
        let mut packet = Packet::new(frame.data_mut(), meta);
        let verdict = self.balancer.process(now, &mut packet);
        let released = packet.releases;
        if self.balancer.counters().flows_created != before {
            self.note(now, verdict);
        }
        match verdict {
            Verdict::Pass | Verdict::Accept | Verdict::Forward { .. } => {
                exchange(frame.data_mut());
                return (true, released);
            }
            Verdict::Reject(reason) => {
                if let Some(answer) = self.extra.get_mut(self.extras) {
                    answer.put(&[0; ANSWER]);
                    if let Some(length) = self.balancer.write_reply(now, &packet, reason, answer.data_mut()) {
                        answer.set_length(crate::device::frame::HEAD + length);
                        self.extras += 1;
                    }
                }
            }
            Verdict::Hold(datagram) => {
                if self.held.len() == KEPT {
                    self.held.pop_front();
                }
                self.held.push_back((datagram, frame.with_head().to_vec()));
            }
            Verdict::Elsewhere(core) => self.elsewhere.push((core, frame.with_head().to_vec())),
            Verdict::Drop(_) => {}
        }
        (false, released)
    }

    /// Writes down a flow that has just begun.
    fn note(&mut self, now: Instant, verdict: Verdict) {
        let Verdict::Forward { flow: id, direction: Direction::Original } = verdict else { return };
        let Some(flow) = self.balancer.flow(id) else { return };
        if let Some(journal) = &self.journal {
            journal.lock().unwrap_or_else(PoisonError::into_inner).add(&flow);
            self.noted = true;
        }
        if let Some(log) = &mut self.log {
            log.packet(None, Moment { origin: 0, now }, id, &flow).unwrap_or_else(never_fails);
        }
    }

    /// Judges the held fragments of a datagram again.
    fn release(&mut self, now: Instant, datagram: Datagram) {
        // The others stay where they are, and no frame is made: whoever sends fragments has this happen at every second.
        let (mut released, mut at) = (Vec::new(), 0);
        while let Some((of, _)) = self.held.get(at) {
            if *of == datagram {
                released.extend(self.held.remove(at));
            } else {
                at += 1;
            }
        }
        let mut frame = self.spare.take().unwrap_or_default();
        for (_, bytes) in released {
            frame.copy_from_bytes(&bytes);
            if self.judge(now, &mut frame).0
                && let Some(extra) = self.extra.get_mut(self.extras)
            {
                extra.copy_from(&frame);
                self.extras += 1;
            }
        }
        self.spare = Some(frame);
    }

    /// Writes to the log what ended.
    pub(super) fn log_ends(&mut self, now: Instant) {
        let Self { log: Some(log), balancer, .. } = self else { return };
        let ended = log.ends(Moment { origin: 0, now }, |id| balancer.flow(id));
        ended.and_then(|()| log.flush()).unwrap_or_else(never_fails);
    }

    /// Writes to the log what is still there when all ends.
    pub(super) fn log_open(&mut self, now: Instant) {
        let Self { log: Some(log), .. } = self else { return };
        let open = log.open(Moment { origin: 0, now });
        open.and_then(|()| log.flush()).unwrap_or_else(never_fails);
    }
}

/// [`Lines`] count what they can't write.
fn never_fails(_: io::Error) {}

/// Whether a frame is one that its sender wants to have back: IP, to one receiver. What is said to all is meant for
/// others.
fn is_returned(data: &[u8]) -> bool {
    let Some((addresses, rest)) = data.split_first_chunk::<12>() else { return false };
    let is_group = addresses[0] & 1 != 0;
    !is_group && matches!(rest, [0x08, 0x00, ..] | [0x86, 0xdd, ..] | [0x81, 0x00, ..] | [0x88, 0xa8, ..])
}

/// Sends a frame back to where it came from.
fn exchange(data: &mut [u8]) {
    if let Some(addresses) = data.first_chunk_mut::<12>() {
        let (destination, source) = addresses.split_at_mut(6);
        destination.swap_with_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_to_one_receiver_is_returned() {
        let to = |first: u8, kind: [u8; 2]| [&[first, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind, &[0x45]].concat();
        for (what, frame, returned) in [
            ("IPv4", to(2, [0x08, 0x00]), true),
            ("IPv6", to(2, [0x86, 0xdd]), true),
            ("a VLAN tag", to(2, [0x81, 0x00]), true),
            ("ARP", to(2, [0x08, 0x06]), false),
            ("a neighbour solicitation to a group", to(0x33, [0x86, 0xdd]), false),
            ("a broadcast", to(0xff, [0x08, 0x00]), false),
            ("half a header", vec![2; 11], false),
        ] {
            assert_eq!(is_returned(&frame), returned, "{what}");
        }
    }

    #[test]
    fn what_is_returned_goes_to_its_sender() {
        let mut frame = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00];
        exchange(&mut frame);
        assert_eq!(frame, [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 0x08, 0x00]);
    }
}
