//! What is said in a conversation, by the rules of its protocol.

use lb_core::Family;

use super::{Kind, Script};
use crate::packets::{self, Chunk, Segment};
use crate::talk::Stage;
use crate::world::Place;

impl Script<'_> {
    pub(super) fn advance_tcp(&mut self, at: usize) {
        let draw = self.chance.below(100);
        // The kernel gives a new connection the port of one that has ended; the engine waits until that is forgotten.
        let is_shared = self.talks.iter().filter(|talk| talk.client == self.talks[at].client).count() > 1;
        let talk = &mut self.talks[at];
        let is_met = talk.met.is_some();
        match talk.stage {
            Stage::New => {
                talk.stage = Stage::SynSent;
                self.say(at, true, "S", 0, Kind::Plain);
            }
            Stage::SynSent if !is_met || draw < 10 => {
                // Nobody answers; once more, or no more.
                if !is_met && draw < 60 {
                    talk.stage = Stage::Over;
                } else {
                    talk.client_next = talk.client_next.wrapping_sub(1);
                    self.say(at, true, "S", 0, Kind::Plain);
                }
            }
            Stage::SynSent if draw < 18 => {
                talk.stage = Stage::Done;
                self.say(at, false, "RA", 0, Kind::Plain);
            }
            // Both open at once (RFC 9293 §3.5): the backend asks, too, and each confirms.
            Stage::SynSent if draw < 23 => {
                talk.stage = Stage::Crossing;
                self.say(at, false, "S", 0, Kind::Plain);
            }
            Stage::SynSent => {
                talk.stage = Stage::SynReceived;
                self.say(at, false, "SA", 0, Kind::Plain);
            }
            Stage::Crossing => {
                talk.stage = Stage::SynReceived;
                // What was said is said again, with a confirmation.
                let next = if draw < 50 { &mut talk.client_next } else { &mut talk.server_next };
                *next = next.wrapping_sub(1);
                self.say(at, draw < 50, "SA", 0, Kind::Plain);
            }
            Stage::SynReceived | Stage::Accepting => {
                talk.stage = Stage::Open;
                self.say(at, true, "A", 0, Kind::Plain);
            }
            Stage::Open => self.talk_on(at, draw),
            Stage::Closing => {
                talk.stage = Stage::Done;
                let by_client = !talk.client_closed_last;
                self.say(at, by_client, "A", 0, Kind::Plain);
            }
            Stage::Done if draw < 40 && !is_shared => {
                talk.reopen();
                self.say(at, true, "S", 0, Kind::Plain);
            }
            Stage::Done | Stage::Over => self.talks[at].stage = Stage::Over,
        }
    }

    /// Something in the middle of a connection; one side may have said its last.
    fn talk_on(&mut self, at: usize, draw: u64) {
        let length = self.below(400);
        let talk = &mut self.talks[at];
        let (client_open, server_open) = (!talk.client_closed, !talk.server_closed);
        match draw {
            0..35 if client_open => self.say(at, true, "A", length, Kind::Plain),
            0..70 if server_open => self.say(at, false, "A", length, Kind::Plain),
            70..82 if client_open => self.close(at, true),
            70..92 if server_open => self.close(at, false),
            92..95 => {
                talk.stage = Stage::Done;
                self.say(at, draw == 92, "RA", 0, Kind::Plain);
            }
            95..97 => {
                let by_client = draw == 95;
                let other = talk.client_next.wrapping_add(0x4000_0000);
                let kept = std::mem::replace(&mut talk.client_next, other);
                let other = talk.server_next.wrapping_add(0x4000_0000);
                let kept = (kept, std::mem::replace(&mut talk.server_next, other));
                self.say(at, by_client, "R", 0, Kind::OutOfWindow);
                (self.talks[at].client_next, self.talks[at].server_next) = kept;
            }
            _ => self.say(at, draw.is_multiple_of(2), "A", 0, Kind::Plain),
        }
    }

    fn close(&mut self, at: usize, by_client: bool) {
        let talk = &mut self.talks[at];
        let is_last = talk.client_closed || talk.server_closed;
        if by_client {
            talk.client_closed = true
        } else {
            talk.server_closed = true
        }
        talk.client_closed_last = by_client;
        if is_last {
            talk.stage = Stage::Closing;
        }
        self.say(at, by_client, "FA", 0, Kind::Plain);
    }

    /// A TCP segment of one side, as it is due.
    pub(super) fn say(&mut self, at: usize, by_client: bool, flags: &'static str, length: usize, kind: Kind) {
        let payload = self.payload(length);
        let identification = self.identify();
        let talk = &mut self.talks[at];
        let Some((from, to)) = talk.ends(by_client) else { return };
        let is_stray = !talk.is_translated() && flags.contains(['F', 'R']);
        let kind = if is_stray { Kind::StrayEnd } else { kind };
        let acknowledged = if flags.contains('A') { talk.expected_by(by_client) } else { 0 };
        let segment = Segment { flags, sequence: talk.sequence_of(by_client), acknowledged };
        talk.said(by_client, flags, payload.len());
        let packet = packets::tcp(from, to, identification, segment, &payload);
        let from = self.talks[at].place(by_client);
        let packet = self.dressed(from, packet);
        self.give(kind, at, from, vec![packet]);
    }

    /// An association, from INIT to SHUTDOWN COMPLETE (RFC 9260 §4).
    pub(super) fn advance_sctp(&mut self, at: usize) {
        let draw = self.chance.below(100);
        let length = self.below(300) as u16;
        let talk = &mut self.talks[at];
        let (own, other) = (talk.client_next, talk.server_next);
        let (next, by_client, chunk) = match talk.stage {
            Stage::New => (Stage::SynSent, true, Chunk::Init(own)),
            Stage::SynSent if talk.met.is_none() && draw < 60 => return talk.stage = Stage::Over,
            Stage::SynSent if talk.met.is_none() || draw < 10 => (Stage::SynSent, true, Chunk::Init(own)),
            Stage::SynSent => (Stage::SynReceived, false, Chunk::InitAck(other)),
            Stage::SynReceived => (Stage::Accepting, true, Chunk::CookieEcho),
            Stage::Accepting => (Stage::Open, false, Chunk::CookieAck),
            Stage::Open => match draw {
                0..50 => (Stage::Open, draw < 30, Chunk::Data(length)),
                50..60 => (Stage::Open, draw < 55, Chunk::Sack),
                60..68 => (Stage::Open, draw < 64, Chunk::Heartbeat),
                68..75 => (Stage::Open, draw < 72, Chunk::HeartbeatAck),
                75..92 => (Stage::Closing, true, Chunk::Shutdown),
                _ => (Stage::Over, draw < 96, Chunk::Abort),
            },
            Stage::Closing => (Stage::Done, false, Chunk::ShutdownAck),
            Stage::Done | Stage::Over | Stage::Crossing => (Stage::Over, true, Chunk::ShutdownComplete),
        };
        talk.stage = next;
        // The one that who receives it gave out; nobody has any before the first.
        let tag = match chunk {
            Chunk::Init(_) => 0,
            _ if by_client => other,
            _ => own,
        };
        let Some((from, to)) = talk.ends(by_client) else { return };
        let place = talk.place(by_client);
        let packet = packets::sctp(from, to, self.identify(), tag, chunk);
        let packet = self.dressed(place, packet);
        self.give(Kind::Plain, at, place, vec![packet]);
    }

    pub(super) fn advance_udp(&mut self, at: usize) {
        let draw = self.chance.below(100);
        let by_client = self.talks[at].met.is_none() || draw < 55;
        if draw >= 95 || (self.talks[at].met.is_none() && self.talks[at].stage == Stage::SynSent && draw < 30) {
            self.talks[at].stage = Stage::Over;
            return;
        }
        self.talks[at].stage = Stage::SynSent;
        let is_whole = self.talks[at].place(by_client) == Place::Node || self.happens(85);
        let length = if is_whole && self.happens(8) {
            0
        } else if is_whole {
            self.below(600)
        } else {
            1600 + self.below(1200)
        };
        let payload = self.payload(length);
        let identification = self.identify();
        let Some((from, to)) = self.talks[at].ends(by_client) else { return };
        let mut datagram = packets::udp(from, to, identification, &payload);
        let place = self.talks[at].place(by_client);
        if is_whole {
            // Without a checksum, as IPv4 allows (RFC 768), and IPv6 to tunnels (RFC 6935).
            if place != Place::Node && self.happens(10) {
                let sum = if self.objects.family == Family::V4 { 26..28 } else { 46..48 };
                datagram[sum].fill(0);
            }
            let datagram = self.dressed(place, datagram);
            return self.give(Kind::Plain, at, place, vec![datagram]);
        }
        let size = 8 * (50 + self.below(100));
        let mut pieces = packets::fragments(&datagram, size, u32::from(identification) << 16 | 0xabcd);
        let kind = match self.chance.below(100) {
            0..40 => Kind::Fragments,
            40..80 => {
                for last in (1..pieces.len()).rev() {
                    let other = self.below(last + 1);
                    pieces.swap(last, other);
                }
                Kind::Fragments
            }
            80..90 => {
                let lost = self.below(pieces.len());
                self.unfinished.push((place, vec![pieces.remove(lost)]));
                Kind::Incomplete
            }
            _ => {
                // The kernel gives up all that it had by then, so that these two are missing.
                self.unfinished.push((place, pieces[..2].to_vec()));
                let moved = packets::moved(&pieces[1]);
                pieces.insert(2, moved);
                Kind::Overlapping
            }
        };
        self.give(kind, at, place, pieces);
    }

    /// A packet with what stands before its transport now and then: a class of traffic, options of IPv4, IPv6's extension headers.
    fn dressed(&mut self, from: Place, packet: Vec<u8>) -> Vec<u8> {
        // The node's own stack has ideas about these.
        if from == Place::Node || !self.happens(20) {
            return packet;
        }
        match self.below(3) {
            0 => packets::with_class(packet),
            1 => packets::with_options(&packet, 1),
            _ => packets::with_options(&packet, 1 + self.below(4)),
        }
    }
}
