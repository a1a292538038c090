//! Replies as the backend sent them, made from replies as the client received them.
//!
//! Captures are mostly taken at the client or at the Vip, so replies in them come from the Vip. Here the packet is
//! made that the chosen backend must have sent for the captured one to arrive; the engine's translation of it must
//! then be the captured one, byte for byte. To be a test of the engine, nothing here asks the engine how a packet is
//! rewritten: what a flow's packets look like on its far side is learnt by looking at a packet before and after, with
//! another parser, and checksums are computed, not run backwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use lb_core::{FlowId, Link};

use super::outline::{DatagramName, Ends, Outline};
use super::sums::{translate, translate_from};

/// What a captured packet is, as far as reflecting goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reflection {
    /// No reply of a flow seen: to be replayed as it is.
    None,
    /// A reply; this is what the backend sent.
    Made(Vec<u8>),
    /// A later fragment from a Vip, whose first, which would tell whose it is, has not come: to be kept until
    /// [`Reflector::ask`] names the datagram.
    Wait(DatagramName),
}

/// A flow's packets in the client's direction, before and after the engine, as someone outside sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// As the client sent them.
    pub(super) ingress: Ends,
    /// As they left for the backend.
    pub(super) egress: Ends,
    /// The engine's name for the flow.
    pub(super) flow: FlowId,
}

/// What is known of the flows replayed so far.
pub(super) struct Reflector {
    seen: HashMap<Ends, Seen>,
    /// Vip, client and protocol of each, by which a later fragment may be a reply's.
    pairs: HashSet<(IpAddr, IpAddr, u8)>,
    /// The addresses that the backend's fragments of a datagram have, if it is a reply's.
    datagrams: Recent<DatagramName, Option<(IpAddr, IpAddr)>>,
    /// Above this many flows, those that the engine has forgotten are forgotten here.
    sweep_above: usize,
}

/// Datagrams remembered, as a receiver remembers them: for a while.
const DATAGRAMS: usize = 1024;

impl Reflector {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), pairs: HashSet::new(), datagrams: Recent::new(DATAGRAMS), sweep_above: 1 << 16 }
    }

    /// Learns from a packet of the original direction, as it came and as it left.
    pub(super) fn learn(
        &mut self,
        before: &[u8],
        after: &[u8],
        link: Link,
        flow: FlowId,
        is_live: impl Fn(&Seen) -> bool,
    ) {
        let ends = |packet| Outline::of(packet, link)?.ends();
        let (Some(ingress), Some(egress)) = (ends(before), ends(after)) else { return };
        let seen = Seen { ingress, egress, flow };
        self.seen.insert(ingress, seen);
        self.pairs.insert((ingress.destination.ip(), ingress.source.ip(), ingress.protocol));
        if self.seen.len() > self.sweep_above {
            self.seen.retain(|_, seen| is_live(seen));
            let pair = |seen: &Seen| (seen.ingress.destination.ip(), seen.ingress.source.ip(), seen.ingress.protocol);
            self.pairs = self.seen.values().map(pair).collect();
            self.sweep_above = (self.seen.len() * 2).max(1 << 16);
        }
    }

    /// Makes what the backend sent, if the captured packet is a reply of a flow that the engine still knows. Also names
    /// the datagram that the packet is the first fragment of: kept ones of that name can be asked about again.
    pub(super) fn ask(
        &mut self,
        captured: &[u8],
        link: Link,
        is_live: impl Fn(&Seen) -> bool,
    ) -> (Reflection, Option<DatagramName>) {
        let Some(outline) = Outline::of(captured, link) else { return (Reflection::None, None) };
        if let (Some(datagram), Some((_, false))) = (outline.datagram(), outline.fragment) {
            return (self.later_fragment(captured, &outline, datagram), None);
        }
        let mut made = captured.to_vec();
        let addresses = match outline.quoted(captured) {
            Some(quoted) => self.error(&mut made, captured, &outline, &quoted, is_live),
            None => self.segment(&mut made, &outline, is_live),
        };
        let first_of = outline.datagram();
        if let Some(datagram) = first_of {
            self.datagrams.insert(datagram, addresses);
        }
        (addresses.map_or(Reflection::None, |_| Reflection::Made(made)), first_of)
    }

    /// A packet with ports: the backend's ends in the place of the Vip's, and those that it answers in the place of the
    /// client's.
    fn segment(&self, made: &mut [u8], outline: &Outline, is_live: impl Fn(&Seen) -> bool) -> Option<(IpAddr, IpAddr)> {
        let seen = self.seen.get(&outline.ends()?.reversed()).filter(|seen| is_live(seen))?;
        let from_backend = seen.egress.reversed();
        let addresses = (from_backend.source.ip(), from_backend.destination.ip());
        let ports = (from_backend.source.port(), from_backend.destination.port());
        translate(made, outline, addresses, Some(ports))?;
        Some(addresses)
    }

    /// An ICMP error from the Vip that the client received about its own packet: the backend quoted what it saw, and sent
    /// it to whom that came from. (An error from elsewhere did not pass here: a router's behind the Vip would bear the
    /// Vip's address as well.)
    fn error(
        &self,
        made: &mut [u8],
        captured: &[u8],
        outline: &Outline,
        quoted: &Outline,
        is_live: impl Fn(&Seen) -> bool,
    ) -> Option<(IpAddr, IpAddr)> {
        let seen = self.seen.get(&quoted.ends()?).filter(|seen| is_live(seen))?;
        if (outline.source, outline.destination) != (seen.ingress.destination.ip(), seen.ingress.source.ip()) {
            return None;
        }
        let Ends { source, destination, .. } = seen.egress;
        translate(made, quoted, (source.ip(), destination.ip()), Some((source.port(), destination.port())))?;
        let addresses = (destination.ip(), source.ip());
        translate_from(captured, made, outline, addresses, None)?;
        Some(addresses)
    }

    fn later_fragment(&mut self, captured: &[u8], outline: &Outline, datagram: DatagramName) -> Reflection {
        match self.datagrams.get(&datagram) {
            Some(Some(addresses)) => {
                let mut made = captured.to_vec();
                match translate(&mut made, outline, *addresses, None) {
                    Some(()) => Reflection::Made(made),
                    None => Reflection::None,
                }
            }
            Some(None) => Reflection::None,
            None if self.pairs.contains(&(datagram.source, datagram.destination, datagram.protocol)) => {
                Reflection::Wait(datagram)
            }
            None => Reflection::None,
        }
    }
}

/// A map that keeps its youngest entries.
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Copy + Eq + std::hash::Hash, V> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), limit }
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }
}
