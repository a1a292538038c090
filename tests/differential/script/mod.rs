//! The traffic of one seed: who dials whom, what they say, what goes wrong. The script plays everybody but the node, and what it
//! sends next is an answer to what the kernel let through.

mod dial;
mod speak;
mod trouble;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_host::chance::Chance;
use lb_host::clock;

use crate::endpoints::{self, Port};
use crate::objects::{Objects, SHORT_AFFINITY, chance_of};
use crate::packets::{SCTP, TCP};
use crate::router::Router;
use crate::rules::Rules;
use crate::talk::Talk;
use crate::visits::Visits;
use crate::world::{self, Place};

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
