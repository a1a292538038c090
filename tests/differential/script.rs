//! The traffic of one seed: who dials whom, what they say, what goes wrong. The script plays everybody but the node, and what it
//! sends next is an answer to what the kernel let through.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_core::Family;
use lb_host::chance::Chance;
use lb_host::clock;

use crate::endpoints::{self, Port};
use crate::objects::{Objects, SHORT_AFFINITY, chance_of, one_of};
use crate::packets::{self, Chunk, Error, SCTP, Segment, TCP, UDP};
use crate::router::Router;
use crate::rules::Rules;
use crate::talk::{Stage, Talk};
use crate::visits::Visits;
use crate::world::{
    self, CLIENTS, GATEWAY, LOCAL_PODS, LOOPBACK, NODE, OUTSIDE_ROUTER, POD_ROUTER, Place, REMOTE_PODS, REMOTE_ROUTER,
};

/// How many conversations a scenario has room for.
const TALKS: u16 = 48;
const FIRST_PORT: u16 = 20_000;

/// The source ports of clients, one a conversation.
pub fn client_ports() -> impl Iterator<Item = u16> {
    FIRST_PORT..FIRST_PORT + TALKS
}

/// The source ports of which a masqueraded flow from this client port is given one by the kernel: far from it, and no other's.
pub fn masqueraded(port: u16) -> String {
    let first = 40_000 + ((u32::from(port - FIRST_PORT) * 7919) % 20_000) as u16;
    format!("{first}-{}", first + 15)
}

/// What is odd about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Plain,
    /// A segment of a connection that the node never saw begin.
    MidStream,
    /// A FIN or RST of one.
    StrayEnd,
    /// A reset whose sequence number is nowhere near.
    OutOfWindow,
    BadChecksum,
    /// An ICMP error about a packet of a known flow.
    Error,
    /// One that quotes too little of it to tell which: not all of its ports.
    ShortError,
    /// An ICMP error about a packet that nobody sent.
    UnknownError,
    Ping,
    Fragments,
    /// Fragments one of which is missing.
    Incomplete,
    /// Fragments two of which overlap.
    Overlapping,
}

impl Kind {
    pub const ALL: [Self; 12] = [
        Self::Plain,
        Self::MidStream,
        Self::StrayEnd,
        Self::OutOfWindow,
        Self::BadChecksum,
        Self::Error,
        Self::ShortError,
        Self::UnknownError,
        Self::Ping,
        Self::Fragments,
        Self::Incomplete,
        Self::Overlapping,
    ];
}

/// What the script gave and what the kernel made of it.
pub struct Step {
    pub kind: Kind,
    pub talk: usize,
    /// There was a reset before the backend said anything, so that the kernel has forgotten the flow.
    pub is_forgotten: bool,
    /// The backend of an earlier connection over the same ports.
    pub before: Option<SocketAddr>,
    pub from: Place,
    /// One packet, or the fragments of one.
    pub given: Vec<Vec<u8>>,
    pub taken: Vec<(Place, Vec<u8>)>,
}

pub enum Event {
    Step(Step),
    /// From here on the cluster is another.
    Change(Objects),
}

pub struct Script<'r> {
    chance: Chance,
    router: &'r Router,
    objects: Objects,
    rules: Rules,
    ports: Vec<Port>,
    talks: Vec<Talk>,
    identification: u16,
    /// What makes an end of the datagrams that the kernel waits for the rest of.
    unfinished: Vec<(Place, Vec<Vec<u8>>)>,
    visits: Visits,
    begun: Instant,
    events: Vec<(Duration, Event)>,
}

/// Plays a scenario with the kernel in the middle, and returns all that happened, and when.
pub fn play(seed: u64, router: &Router, objects: &Objects) -> Vec<(Duration, Event)> {
    router.clear();
    let rules = Rules::default();
    let chance = Chance::new(seed).named("traffic");
    let (objects, ports) = (objects.clone(), endpoints::ports(objects));
    let mut script = Script {
        chance,
        router,
        objects,
        rules,
        ports,
        talks: Vec::new(),
        identification: (seed % 128) as u16 * 512,
        unfinished: Vec::new(),
        visits: Visits::default(),
        begun: clock::now(),
        events: Vec::new(),
    };
    script.rules.load(&script.objects, &script.ports);
    for _ in 0..120 {
        script.act();
    }
    // Else the next scenario's might be taken for the rest, until the kernel's patience ends.
    for (from, pieces) in &script.unfinished {
        for piece in pieces {
            let _ = script.router.give(*from, piece);
        }
    }
    script.events
}

impl Script<'_> {
    fn of(&self, text: &str) -> IpAddr {
        world::of(self.objects.family, text)
    }

    fn happens(&mut self, percent: u32) -> bool {
        chance_of(&mut self.chance, percent)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.chance.below(bound as u64) as usize
    }

    /// Since the scenario began.
    fn now(&self) -> Duration {
        clock::now() - self.begun
    }

    fn act(&mut self) {
        if self.ports.iter().any(is_short) && self.happens(4) {
            return self.come_back();
        }
        match self.chance.below(100) {
            0..25 => self.open(),
            25..31 => self.change(),
            31..40 => self.odd(),
            _ => self.go_on(),
        }
    }

    fn change(&mut self) {
        self.objects.churn(&mut self.chance);
        self.ports = endpoints::ports(&self.objects);
        self.rules.load(&self.objects, &self.ports);
        let now = self.now();
        self.events.push((now, Event::Change(self.objects.clone())));
    }

    /// What a client may dial, a service's or not.
    fn dialled(&mut self, protocol: u8) -> SocketAddr {
        let is_its = |port: &&Port| port.protocol == packets::name(protocol);
        let ports: Vec<&Port> = self.ports.iter().filter(is_its).collect();
        let port = *one_of(&mut self.chance, &ports);
        let vips: Vec<IpAddr> = port.external_ips.iter().chain(&port.load_balancer_ips).copied().collect();
        let mut all = vec![SocketAddr::new(port.cluster_ip, port.port)];
        all.extend(vips.iter().map(|ip| SocketAddr::new(*ip, port.port)));
        let family = self.objects.family;
        for node in [NODE, GATEWAY] {
            all.extend(port.node_port.map(|number| SocketAddr::new(world::of(family, node), number)));
        }
        if !chance_of(&mut self.chance, 92) {
            let unknown = if vips.is_empty() { port.cluster_ip } else { *one_of(&mut self.chance, &vips) };
            let pod = *one_of(&mut self.chance, &REMOTE_PODS);
            all = vec![
                SocketAddr::new(port.cluster_ip, 81),
                SocketAddr::new(unknown, 81),
                SocketAddr::new(world::of(family, "10.96.0.200"), port.port),
                SocketAddr::new(world::of(family, pod), 9000),
            ];
        }
        *one_of(&mut self.chance, &all)
    }

    fn client(&mut self) -> IpAddr {
        let text = match self.chance.below(100) {
            0..40 => *one_of(&mut self.chance, &CLIENTS),
            40..75 => *one_of(&mut self.chance, &LOCAL_PODS),
            75..85 => *one_of(&mut self.chance, &REMOTE_PODS),
            85..96 => NODE,
            _ => GATEWAY,
        };
        self.of(text)
    }

    fn begin(&mut self) -> Option<usize> {
        let port = FIRST_PORT + self.talks.len() as u16;
        if self.talks.len() >= usize::from(TALKS) {
            return None;
        }
        let protocol = match self.below(100) {
            0..55 => TCP,
            55..85 => UDP,
            _ => SCTP,
        };
        let (client, dialled) = (self.client(), self.dialled(protocol));
        let sequences = (self.chance.draw() as u32, self.chance.draw() as u32);
        let (client, dialled) = match self.own_loopback(protocol, port) {
            Some(ends) => ends,
            None => (self.same_port(protocol, dialled).unwrap_or(SocketAddr::new(client, port)), dialled),
        };
        let mut talk = Talk::new(protocol, client, dialled, sequences);
        talk.is_service = self.ports.iter().any(|port| port.is_dialled_by(dialled));
        self.talks.push(talk);
        Some(self.talks.len() - 1)
    }

    /// At times, the node itself, by a loopback address and a node port.
    fn own_loopback(&mut self, protocol: u8, port: u16) -> Option<(SocketAddr, SocketAddr)> {
        if self.objects.family != Family::V4 || !self.objects.is_iptables() || !self.happens(8) {
            return None;
        }
        let is_its = |one: &&Port| one.protocol == packets::name(protocol);
        let numbers: Vec<u16> = self.ports.iter().filter(is_its).filter_map(|one| one.node_port).collect();
        let own = self.of(LOOPBACK);
        let number = (!numbers.is_empty()).then(|| *one_of(&mut self.chance, &numbers))?;
        Some((SocketAddr::new(own, port), SocketAddr::new(own, number)))
    }

    /// At times, a client that is connected already and dials something else from the same port: if that has the same
    /// endpoint, the endpoint must see two ports.
    fn same_port(&mut self, protocol: u8, dialled: SocketAddr) -> Option<SocketAddr> {
        let connected = |talk: &&Talk| {
            let is_known = talk.is_answered && !talk.is_forgotten;
            protocol == TCP
                && talk.protocol == TCP
                && talk.stage == Stage::Open
                && talk.is_translated()
                && is_known
                && !talk.client.ip().is_loopback()
        };
        let clients: Vec<SocketAddr> = self.talks.iter().filter(connected).map(|talk| talk.client).collect();
        if clients.is_empty() || !self.happens(15) {
            return None;
        }
        let client = *one_of(&mut self.chance, &clients);
        // Two conversations between the same ends would be one; of three it may be one that has ended which is in the way.
        let mut own = self.talks.iter().filter(|talk| talk.client == client);
        let is_second = own.next().is_some_and(|talk| talk.dialled != dialled) && own.next().is_none();
        is_second.then_some(client)
    }

    /// A client whom a Service remembers for a short while dials it anew: at once, or when it is forgotten.
    fn come_back(&mut self) {
        let visitors: Vec<_> = self
            .talks
            .iter()
            .filter(|talk| talk.is_translated() && self.short_of(talk).is_some())
            .map(|talk| (talk.protocol, talk.client.ip(), talk.dialled))
            .collect();
        if visitors.is_empty() || self.talks.len() >= usize::from(TALKS) {
            return self.open();
        }
        let (protocol, client, dialled) = *one_of(&mut self.chance, &visitors);
        let client = SocketAddr::new(client, FIRST_PORT + self.talks.len() as u16);
        let sequences = (self.chance.draw() as u32, self.chance.draw() as u32);
        let mut talk = Talk::new(protocol, client, dialled, sequences);
        talk.is_service = true;
        if self.happens(40) {
            let port = self.short_of(&talk).expect("a service port that forgets");
            std::thread::sleep(self.visits.until_forgotten(port, client.ip(), self.now()));
        }
        self.talks.push(talk);
        self.advance(self.talks.len() - 1);
    }

    /// The service port with a short affinity that a conversation is with.
    fn short_of(&self, talk: &Talk) -> Option<&str> {
        let is_its = |port: &&Port| port.protocol == packets::name(talk.protocol) && port.is_dialled_by(talk.dialled);
        self.ports.iter().filter(|port| is_short(port)).find(is_its).map(|port| port.name.as_str())
    }

    fn open(&mut self) {
        if let Some(talk) = self.begin() {
            self.advance(talk);
        }
    }

    fn go_on(&mut self) {
        let live: Vec<usize> = (0..self.talks.len()).filter(|at| !self.talks[*at].is_over()).collect();
        if live.is_empty() {
            return self.open();
        }
        // The latest are the likeliest, so that some get far.
        let near = live.len().min(6);
        let back = if self.happens(80) { self.below(near) } else { self.below(live.len()) };
        self.advance(live[live.len() - 1 - back]);
    }

    fn advance(&mut self, talk: usize) {
        if self.talks[talk].met.is_some() && self.happens(6) {
            return self.complain(talk);
        }
        match self.talks[talk].protocol {
            TCP => self.advance_tcp(talk),
            SCTP => self.advance_sctp(talk),
            _ => self.advance_udp(talk),
        }
    }

    fn advance_tcp(&mut self, at: usize) {
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
            Stage::SynSent => {
                talk.stage = Stage::SynReceived;
                self.say(at, false, "SA", 0, Kind::Plain);
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
    fn say(&mut self, at: usize, by_client: bool, flags: &'static str, length: usize, kind: Kind) {
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
        self.give(kind, at, from, vec![packet]);
    }

    /// An association, from INIT to SHUTDOWN COMPLETE (RFC 9260 §4).
    fn advance_sctp(&mut self, at: usize) {
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
                0..75 => (Stage::Open, draw < 40, Chunk::Data(length)),
                75..92 => (Stage::Closing, true, Chunk::Shutdown),
                _ => (Stage::Over, draw < 96, Chunk::Abort),
            },
            Stage::Closing => (Stage::Done, false, Chunk::ShutdownAck),
            Stage::Done | Stage::Over => (Stage::Over, true, Chunk::ShutdownComplete),
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
        self.give(Kind::Plain, at, place, vec![packet]);
    }

    fn advance_udp(&mut self, at: usize) {
        let draw = self.chance.below(100);
        let by_client = self.talks[at].met.is_none() || draw < 55;
        if draw >= 95 || (self.talks[at].met.is_none() && self.talks[at].stage == Stage::SynSent && draw < 30) {
            self.talks[at].stage = Stage::Over;
            return;
        }
        self.talks[at].stage = Stage::SynSent;
        let is_whole = self.talks[at].place(by_client) == Place::Node || self.happens(85);
        let length = if is_whole { self.below(600) } else { 1600 + self.below(1200) };
        let payload = self.payload(length);
        let identification = self.identify();
        let Some((from, to)) = self.talks[at].ends(by_client) else { return };
        let mut datagram = packets::udp(from, to, identification, &payload);
        let place = self.talks[at].place(by_client);
        if is_whole {
            // Without a checksum, as IPv4 allows (RFC 768).
            if self.objects.family == Family::V4 && place != Place::Node && self.happens(10) {
                datagram[26..28].fill(0);
            }
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

    /// An ICMP error about the last packet that arrived: by its receiver, or by a router on the way to it.
    fn complain(&mut self, at: usize) {
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
        let kinds = [Error::PortUnreachable, Error::HostUnreachable, Error::TooBig, Error::TimeExceeded];
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
    fn odd(&mut self) {
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

    fn payload(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.chance.draw() as u8).collect()
    }

    fn identify(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// Gives packets to the kernel, and keeps what came of them.
    fn give(&mut self, kind: Kind, talk: usize, from: Place, given: Vec<Vec<u8>>) {
        if let Some(port) = self.short_of(&self.talks[talk]).map(str::to_owned) {
            let client = self.talks[talk].client.ip();
            std::thread::sleep(self.visits.until_clear(&port, client, self.now()));
            self.visits.note(&port, client, self.now());
        }
        let at = self.now();
        let taken: Vec<_> = given.iter().flat_map(|packet| self.router.give(from, packet)).collect();
        let now = self.talks[talk].is_forgotten;
        let is_forgotten = std::mem::replace(&mut self.talks[talk].was_forgotten, now);
        self.talks[talk].saw(&given, &taken);
        let before = self.talks[talk].before;
        self.events.push((at, Event::Step(Step { kind, talk, is_forgotten, before, from, given, taken })));
    }
}

fn is_short(port: &Port) -> bool {
    port.affinity == Some(SHORT_AFFINITY)
}
