//! What goes wrong: complaints about what was said, and what no orderly client sends.

use super::{Kind, Script};
use crate::objects::one_of;
use crate::packets::{self, Error, TCP, UDP};
use crate::talk::Stage;
use crate::world::{self, OUTSIDE_ROUTER, POD_ROUTER, Place, REMOTE_ROUTER};

impl Script<'_> {
    /// An ICMP error about the last packet that arrived: by its receiver, or by a router on the way to it.
    pub(super) fn complain(&mut self, at: usize) {
        let to_backend = self.happens(60);
        let talk = &self.talks[at];
        let about = if to_backend { &talk.at_backend } else { &talk.at_client };
        let Some(about) = about.clone() else { return };
        let receiver = packets::addresses(&about).1;
        let router = match world::place_of(receiver) {
            Place::Pods => self.of(POD_ROUTER),
            Place::Node => receiver,
            Place::Outside if to_backend => self.of(REMOTE_ROUTER),
            Place::Outside => self.of(OUTSIDE_ROUTER),
        };
        let by_receiver = self.happens(50);
        let kinds =
            [Error::PortUnreachable, Error::HostUnreachable, Error::TooBig, Error::TimeExceeded, Error::BadHeader];
        let kind = if by_receiver { Error::PortUnreachable } else { *one_of(&mut self.chance, &kinds) };
        let from = if by_receiver { receiver } else { router };
        let (odd, quoted) = match self.below(100) {
            0..30 => (Kind::Error, packets::shortest_quote(&about)),
            30..40 => (Kind::ShortError, packets::shortest_quote(&about) - 8 + self.below(8)),
            _ => (Kind::Error, 528),
        };
        let identification = self.identify();
        let packet = packets::error(from, kind, &about, quoted, identification);
        self.give(odd, at, world::place_of(receiver), vec![packet]);
    }

    /// Something that no orderly client sends.
    pub(super) fn odd(&mut self) {
        let Some(at) = self.begin() else { return };
        let protocol = self.talks[at].protocol;
        let place = self.talks[at].place(true);
        let (client, dialled) = (self.talks[at].client, self.talks[at].dialled);
        let identification = self.identify();
        match self.chance.below(6) {
            0 | 1 if protocol == TCP => {
                self.talks[at].stage = Stage::Open;
                self.say(at, true, "A", 100, Kind::MidStream);
            }
            2 if protocol == TCP => {
                self.talks[at].stage = Stage::Over;
                let flags = *one_of(&mut self.chance, &["FA", "R", "RA"]);
                self.say(at, true, flags, 0, Kind::StrayEnd);
            }
            3 if place != Place::Node && protocol == UDP => {
                self.talks[at].stage = Stage::Over;
                let mut packet = packets::udp(client, dialled, identification, b"damaged");
                *packet.last_mut().expect("a payload") ^= 1;
                self.give(Kind::BadChecksum, at, place, vec![packet]);
            }
            4 => {
                self.talks[at].stage = Stage::Over;
                let about = packets::udp(dialled, client, identification, b"never sent");
                let packet = packets::error(client.ip(), Error::PortUnreachable, &about, 528, identification);
                self.give(Kind::UnknownError, at, place, vec![packet]);
            }
            _ => {
                self.talks[at].stage = Stage::Over;
                let packet = packets::ping(client.ip(), dialled.ip(), identification);
                self.give(Kind::Ping, at, place, vec![packet]);
            }
        }
    }
}
