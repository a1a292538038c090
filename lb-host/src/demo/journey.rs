//! One exchange followed from machine to machine: every header before and after, and the layers that were opened.

use lb_core::wire::{self, Content};
use lb_core::{Direction, Link, Protocol, Tuple, Verdict};

use crate::cluster::Passage;
use crate::host::Socket;
use crate::path::{Kind, Layer, Path, socket};

/// A packet's way, and the way of what answers it.
#[derive(Clone, Debug, Default)]
pub(super) struct Journey {
    /// The layers, outermost first.
    pub(super) doll: Vec<Layer>,
    /// From the client; in userspace mode a second leg begins at the proxy.
    pub(super) there: Vec<Leg>,
    /// From the server.
    pub(super) back: Vec<Leg>,
}

/// From a machine that sends a packet to the one that takes it.
#[derive(Clone, Debug)]
pub(super) struct Leg {
    /// Its header as it was sent.
    pub(super) sent: Tuple,
    /// The routers in between.
    pub(super) hops: Vec<Hop>,
}

/// A router that a packet came through.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) router: String,
    /// What it did.
    pub(super) deed: &'static str,
    /// The header as it left; `None` if the packet went no further.
    pub(super) left: Option<Tuple>,
}

/// A packet by which journeys are known, at one router.
struct Seen<'p> {
    passage: &'p Passage,
    came: Tuple,
    left: Option<Tuple>,
    mark: Mark<'p>,
}

/// What stays the same from router to router.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark<'p> {
    /// A connection's first packet.
    Opens,
    /// The answer to that.
    Answers,
    /// What it says.
    Datagram(&'p [u8]),
}

impl Journey {
    /// The journey that begins with the first packet `from` a client's address `to` what it dials. `seen_as` is whom
    /// the server saw, if anybody answered.
    pub(super) fn of(
        passages: &[Passage],
        from: lb_core::Address,
        to: Socket,
        protocol: Protocol,
        seen_as: Option<Socket>,
    ) -> Self {
        let all: Vec<Seen<'_>> = passages.iter().filter_map(read).collect();
        let begins = |seen: &Seen<'_>| {
            let tuple = &seen.came;
            tuple.source == from && destination(tuple) == to && tuple.protocol == protocol && seen.mark != Mark::Answers
        };
        let mut journey = Self::default();
        let Some(first) = all.iter().position(begins) else { return journey };
        let (leg, mut last) = journey.follow(&all, first);
        journey.there.push(leg);
        let Some(seen_as) = seen_as else { return journey };
        // A proxy dials in a name of its own.
        let arrived = all[last].left.map(|tuple| source(&tuple));
        if arrived != Some(seen_as)
            && let Some(dials) = all.iter().position(|seen| source(&seen.came) == seen_as && seen.mark != Mark::Answers)
        {
            let (leg, end) = journey.follow(&all, dials);
            journey.there.push(leg);
            last = end;
            journey.doll.extend(all[last].left.map(|tuple| layer(Kind::Pod, destination(&tuple))));
        }
        let Some(reached) = all[last].left else { return journey };
        if journey.doll.is_empty() {
            journey.doll.push(layer(Kind::Pod, destination(&reached)));
        }
        let answers = |seen: &Seen<'_>| seen.came == reached.reversed() && seen.mark != Mark::Opens;
        let Some(answer) = all.iter().position(answers) else { return journey };
        let (leg, _) = Self::default().follow(&all, answer);
        let home = |leg: &Leg| leg.hops.last().and_then(|hop| hop.left).is_some_and(|left| source(&left) == to);
        let is_home = home(&leg);
        journey.back.push(leg);
        let client = journey.there.first().map(|leg| leg.sent.reversed());
        let proxy_answers = |seen: &Seen<'_>| {
            seen.mark != Mark::Opens && client.is_some_and(|client| destination(&seen.came) == destination(&client))
        };
        if !is_home && let Some(answer) = all.iter().position(proxy_answers) {
            journey.back.push(Self::default().follow(&all, answer).0);
        }
        journey
    }

    /// The routers that changed the packet on its way there.
    pub(super) fn translators(&self) -> Vec<&str> {
        let hops = self.there.iter().flat_map(|leg| &leg.hops);
        hops.filter(|hop| hop.deed.contains("NAT")).map(|hop| hop.router.as_str()).collect()
    }

    /// Follows a packet through all routers, and adds the layers that they opened. The last place where it was seen.
    fn follow(&mut self, all: &[Seen<'_>], first: usize) -> (Leg, usize) {
        let mut leg = Leg { sent: all[first].came, hops: Vec::new() };
        let mut at = first;
        loop {
            let seen = &all[at];
            leg.hops.push(Hop { router: seen.passage.router.clone(), deed: deed(seen), left: seen.left });
            self.open(seen.passage.path.as_ref());
            let next = all.iter().enumerate().skip(at + 1).find(|(_, next)| {
                Some(next.came) == seen.left
                    && next.mark == seen.mark
                    && leg.hops.iter().all(|hop| hop.router != next.passage.router)
            });
            match next {
                Some((next, _)) => at = next,
                None => return (leg, at),
            }
        }
    }

    fn open(&mut self, path: Option<&Path>) {
        for layer in path.iter().flat_map(|path| &path.0) {
            if self.doll.last() != Some(layer) {
                self.doll.push(layer.clone());
            }
        }
    }
}

fn read(passage: &Passage) -> Option<Seen<'_>> {
    let headers = wire::parse(&passage.came, Link::Ip).ok()??;
    let mark = match headers.content {
        Content::Tcp(flags) if flags.syn() => {
            if flags.ack() {
                Mark::Answers
            } else {
                Mark::Opens
            }
        }
        // The UDP header is 8 bytes long.
        Content::Udp => Mark::Datagram(passage.came.get(usize::from(headers.transport) + 8..)?),
        _ => return None,
    };
    let left = match &passage.left {
        Some(left) => Some(wire::parse(left, Link::Ip).ok()??.tuple),
        None => None,
    };
    Some(Seen { passage, came: headers.tuple, left, mark })
}

fn deed(seen: &Seen<'_>) -> &'static str {
    let Some(left) = seen.left else {
        return if matches!(seen.passage.verdict, Verdict::Reject(_)) { "refuses" } else { "drops" };
    };
    let reply = matches!(seen.passage.verdict, Verdict::Forward { direction: Direction::Reply, .. });
    match (source(&seen.came) != source(&left), destination(&seen.came) != destination(&left), reply) {
        (false, false, _) => "passes on",
        (false, true, false) => "DNAT",
        (true, false, false) => "SNAT",
        (true, true, false) => "DNAT, SNAT",
        // The other way round what was the destination is the source.
        (true, false, true) => "undoes DNAT",
        (false, true, true) => "undoes SNAT",
        (true, true, true) => "undoes both",
    }
}

pub(super) fn source(tuple: &Tuple) -> Socket {
    (tuple.source, tuple.source_port)
}

pub(super) fn destination(tuple: &Tuple) -> Socket {
    (tuple.destination, tuple.destination_port)
}

fn layer(kind: Kind, at: Socket) -> Layer {
    Layer { kind, address: socket(at.0, at.1) }
}
