//! The directory: from what a packet dials to the segment that says what becomes of it.
//!
//! Robin Hood linear probing (Celis, 1986) over 32-byte entries, ties broken by the entry itself, so
//! that the same set in the same room is laid out the same whatever the order of insertion
//! (Blelloch, Golovin: "Strongly history-independent hashing", FOCS 2007, §4).

use super::bytes::{put_u16, put_u32, put_u128, u16_at, u32_at, u128_at};
use super::segment::VipClass;
use crate::hash::AddressHash;
use crate::processor::prefetch;
use crate::tuple::{Address, Protocol};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 32;

/// Kinds of entries that [`claims`] looks for.
const CLUSTER_IP: u8 = 3;
const OTHER_IP: u8 = 5;

/// What the directory finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// The service port of a Vip.
    Vip(Address, u16, Protocol),
    /// The service port of a node port, of either family: the address tells which.
    NodePort(Address, u16, Protocol),
    /// How many service ports have this ClusterIP.
    ClusterIp(Address),
    /// How many service ports have this external IP or load balancer's IP.
    OtherIp(Address),
    /// The slot of the segment with this id.
    Segment(u64),
}

impl Question {
    /// A NodePort's key holds no address but its family's "any".
    pub(crate) fn node_port(address: Address, port: u16, protocol: Protocol) -> Self {
        let any = if address.is_v4() { Address::from_v4_bits(0) } else { Address::UNSPECIFIED };
        Self::NodePort(any, port, protocol)
    }

    #[inline(always)]
    fn parts(self) -> (u128, u16, u8, u8) {
        match self {
            Self::Vip(address, port, protocol) => (address.bits(), port, protocol.0, 1),
            Self::NodePort(address, port, protocol) => (address.bits(), port, protocol.0, 2),
            Self::ClusterIp(address) => (address.bits(), 0, 0, CLUSTER_IP),
            Self::Segment(id) => (u128::from(id), 0, 0, 4),
            Self::OtherIp(address) => (address.bits(), 0, 0, OTHER_IP),
        }
    }
}

/// What it says to one: an entry, where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'d>(&'d Bytes);

impl Answer<'_> {
    /// A slot, or how many service ports.
    #[inline]
    pub(crate) fn number(self) -> u32 {
        u32_at(self.0, 4).unwrap_or(0)
    }

    /// To a Vip or node port: where its segment begins, and its class ([`target`]).
    #[inline]
    pub(crate) fn target(self) -> u32 {
        u32_at(self.0, 12).unwrap_or(0)
    }

    /// Where the segment begins of the service port that has the Vip.
    #[inline]
    pub(crate) fn start(self) -> usize {
        (self.target() & !3) as usize
    }

    /// The class of the Vip.
    #[inline]
    pub(crate) fn class(self) -> VipClass {
        VipClass::from_bits(self.target() as u8 & 3)
    }
}

/// What whoever dials a Vip or a node port need not read a slot and a list of Vips for: where the segment begins, which is at
/// a multiple of four, and in the two bits that this leaves, the Vip's class.
pub(crate) const fn target(start: u32, class: VipClass) -> u32 {
    start & !3 | class as u32
}

/// One entry as it lies in memory.
///
/// ```text
///  0        4        8      10    11    12        16                32
///  | hash   | number | port |proto|kind | target  | address or id   |
/// ```
/// `kind` 0 is an empty entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: u32,
    key: (u128, u16, u8, u8),
    number: u32,
    target: u32,
}

/// An entry's bytes.
type Bytes = [u8; ENTRY];

/// The entries that these bytes are.
#[inline(always)]
fn entries(bytes: &[u8]) -> &[Bytes] {
    bytes.as_chunks().0
}

impl Entry {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        Self::of(entries(bytes).get(at)?)
    }

    #[inline(always)]
    fn of(bytes: &Bytes) -> Option<Self> {
        let kind = bytes[11];
        (kind != 0).then_some(())?;
        Some(Self {
            hash: u32_at(bytes, 0)?,
            key: (u128_at(bytes, 16)?, u16_at(bytes, 8)?, bytes[10], kind),
            number: u32_at(bytes, 4)?,
            target: u32_at(bytes, 12)?,
        })
    }

    fn write(self, bytes: &mut [u8], at: usize) {
        let Some(bytes) = bytes.get_mut(at * ENTRY..).and_then(|rest| rest.first_chunk_mut::<ENTRY>()) else { return };
        bytes.fill(0);
        put_u32(bytes, 0, self.hash);
        put_u32(bytes, 4, self.number);
        put_u16(bytes, 8, self.key.1);
        bytes[10] = self.key.2;
        bytes[11] = self.key.3;
        put_u32(bytes, 12, self.target);
        put_u128(bytes, 16, self.key.0);
    }

    fn clear(bytes: &mut [u8], at: usize) {
        if let Some(bytes) = bytes.get_mut(at * ENTRY..).and_then(|rest| rest.first_chunk_mut::<ENTRY>()) {
            bytes.fill(0);
        }
    }
}

/// A hasher for directories under a rule table's key.
#[derive(Clone, Copy)]
pub(crate) struct Hash(AddressHash);

impl Hash {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self(AddressHash::new(key))
    }

    #[inline(always)]
    fn of(&self, question: Question) -> (u32, (u128, u16, u8, u8)) {
        let key @ (bits, port, protocol, kind) = question.parts();
        // Whatever an address is, it is at one place: most packets ask no more than that, and of no address.
        let kind = if matches!(question, Question::OtherIp(_)) { CLUSTER_IP } else { kind };
        let rest = u64::from(port) << 16 | u64::from(protocol) << 8 | u64::from(kind);
        (self.0.of(bits, rest), key)
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// It is a service's ClusterIP.
    pub(crate) cluster_ip: bool,
    /// It is a service's external IP or load balancer's IP.
    pub(crate) other_ip: bool,
}

impl Claims {
    pub(crate) const fn any(self) -> bool {
        self.cluster_ip || self.other_ip
    }
}

/// How many entries fit in these bytes.
fn room(bytes: &[u8]) -> usize {
    bytes.len() / ENTRY
}

/// Where an entry of this hash would like to be.
fn home(hash: u32, room: usize) -> usize {
    ((u64::from(hash) * room as u64) >> 32) as usize
}

/// How far from home an entry at `at` is.
fn displacement(hash: u32, at: usize, room: usize) -> usize {
    let home = home(hash, room);
    if at >= home { at - home } else { at + room - home }
}

fn after(at: usize, room: usize) -> usize {
    if at + 1 < room { at + 1 } else { 0 }
}

/// What the directory says to this question.
#[cfg_attr(target_pointer_width = "64", inline(always))]
pub(crate) fn find<'d>(bytes: &'d [u8], hash: &Hash, question: Question) -> Option<Answer<'d>> {
    Some(Answer(locate(bytes, hash, question)?.1))
}

#[cfg_attr(target_pointer_width = "64", inline(always))]
fn locate<'d>(bytes: &'d [u8], hash: &Hash, question: Question) -> Option<(usize, &'d Bytes)> {
    let (hash, (bits, port, protocol, kind)) = hash.of(question);
    let rest = u32::from(port) | u32::from(protocol) << 16 | u32::from(kind) << 24;
    run(bytes, hash).find(|(_, entry)| u32_at(*entry, 8) == Some(rest) && u128_at(*entry, 16) == Some(bits))
}

/// What is known of this address.
#[inline]
pub(crate) fn claims(bytes: &[u8], hash: &Hash, address: Address) -> Claims {
    let (hash, (bits, ..)) = hash.of(Question::ClusterIp(address));
    let mut claims = Claims::default();
    for (_, entry) in run(bytes, hash).filter(|(_, entry)| u128_at(*entry, 16) == Some(bits)) {
        claims.cluster_ip |= entry[11] == CLUSTER_IP;
        claims.other_ip |= entry[11] == OTHER_IP;
    }
    claims
}

/// Every address that services have.
pub(crate) fn addresses(bytes: &[u8]) -> impl Iterator<Item = Address> {
    let addresses = entries(bytes).iter().filter(|entry| matches!(entry[11], CLUSTER_IP | OTHER_IP));
    addresses.filter_map(|entry| Some(Address::from_bits(u128_at(entry, 16)?)))
}

/// Asks for the memory that nearly all look-ups read: two lines from an entry's home on.
#[inline]
pub(crate) fn ask_for(bytes: &[u8], hash: &Hash, question: Question) {
    let (hash, _) = hash.of(question);
    let entries = entries(bytes);
    let at = home(hash, entries.len());
    for near in [at, at + 64 / ENTRY] {
        if let Some(entry) = entries.get(near) {
            prefetch(entry);
        }
    }
}

/// The entries of this hash, which lie from its home on, until one is nearer to its own.
#[inline(always)]
fn run(bytes: &[u8], hash: u32) -> impl Iterator<Item = (usize, &Bytes)> {
    let entries = entries(bytes);
    let room = entries.len();
    let mut at = home(hash, room);
    let mut distance = 0;
    core::iter::from_fn(move || {
        while distance < room {
            let bytes = entries.get(at)?;
            let other = u32_at(bytes, 0)?;
            if bytes[11] == 0 || (other != hash && displacement(other, at, room) < distance) {
                return None;
            }
            let here = at;
            (at, distance) = (after(at, room), distance + 1);
            if other == hash {
                return Some((here, bytes));
            }
        }
        None
    })
}

/// Sets the answer to this question; false if there was no room.
pub(crate) fn insert(bytes: &mut [u8], hash: &Hash, question: Question, number: u32, target: u32) -> bool {
    let known = locate(bytes, hash, question).map(|(at, _)| at);
    let room = room(bytes);
    let (hash, key) = hash.of(question);
    let mut carried = Entry { hash, key, number, target };
    if let Some(at) = known {
        carried.write(bytes, at);
        return true;
    }
    let mut at = home(hash, room);
    // Whoever is further from home stays; of two equally far, the lesser.
    for _ in 0..room {
        let Some(found) = Entry::read(bytes, at) else {
            carried.write(bytes, at);
            return true;
        };
        let (far, farther) = (displacement(found.hash, at, room), displacement(carried.hash, at, room));
        if farther > far || (farther == far && (carried.hash, carried.key) < (found.hash, found.key)) {
            carried.write(bytes, at);
            carried = found;
        }
        at = after(at, room);
    }
    false
}

/// Forgets this question.
pub(crate) fn remove(bytes: &mut [u8], hash: &Hash, question: Question) {
    let Some((mut at, _)) = locate(bytes, hash, question) else { return };
    let room = room(bytes);
    // Those behind move up until one is at home.
    for _ in 0..room {
        let next = after(at, room);
        match Entry::read(bytes, next) {
            Some(entry) if displacement(entry.hash, next, room) > 0 => entry.write(bytes, at),
            _ => {
                Entry::clear(bytes, at);
                return;
            }
        }
        at = next;
    }
}

/// Whether every entry's hash is its own and stands where a look-up finds it, no two alike; and how
/// many there are of Vips and node ports, of addresses' counts added up, of segments.
pub(crate) fn check(bytes: &[u8], hash: &Hash) -> Option<Totals> {
    let mut totals = Totals { frontends: 0, addresses: 0, segments: 0 };
    for at in 0..room(bytes) {
        let Some(entry) = Entry::read(bytes, at) else {
            let empty = bytes.get(at * ENTRY..)?.first_chunk::<ENTRY>()?;
            if empty.iter().any(|byte| *byte != 0) {
                return None;
            }
            continue;
        };
        let (address, port, protocol, kind) = entry.key;
        let question = match kind {
            1 => Question::Vip(Address::from_bits(address), port, Protocol(protocol)),
            2 => Question::NodePort(Address::from_bits(address), port, Protocol(protocol)),
            3 => Question::ClusterIp(Address::from_bits(address)),
            4 => Question::Segment(u64::try_from(address).ok()?),
            5 => Question::OtherIp(Address::from_bits(address)),
            _ => return None,
        };
        if locate(bytes, hash, question).map(|(found, _)| found) != Some(at) {
            return None;
        }
        match question {
            Question::Vip(..) | Question::NodePort(..) => totals.frontends += 1,
            _ if entry.target != 0 => return None,
            Question::ClusterIp(_) | Question::OtherIp(_) => totals.addresses += u64::from(entry.number),
            Question::Segment(_) => totals.segments += 1,
        }
    }
    Some(totals)
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) frontends: u64,
    pub(crate) addresses: u64,
    pub(crate) segments: u64,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;
    use std::vec;

    fn question(n: u32) -> Question {
        match n % 4 {
            0 => Question::Vip(Address::from_v4_bits(n), 80, Protocol::TCP),
            1 => Question::node_port(Address::from_v4_bits(0), n as u16, Protocol::UDP),
            2 => Question::ClusterIp(Address::from_bits(u128::from(n) << 64)),
            _ => Question::Segment(u64::from(n)),
        }
    }

    #[test]
    fn it_agrees_with_a_map_and_its_bytes_depend_on_the_set_alone() {
        let hash = Hash::new(&[7; 16]);
        let mut rng = Rng::new(1);
        let mut bytes = vec![0; 32 * 100];
        let mut model = BTreeMap::new();
        for step in 0..if cfg!(miri) { 300 } else { 20_000 } {
            let n = rng.below(120);
            if rng.below(3) > 0 && model.len() < 99 {
                let answer = (rng.below(1000), if n % 4 < 2 { rng.below(1000) } else { 0 });
                assert!(insert(&mut bytes, &hash, question(n), answer.0, answer.1));
                model.insert(n, answer);
            } else {
                remove(&mut bytes, &hash, question(n));
                model.remove(&n);
            }
            if step % 50 == 0 {
                for n in 0..120 {
                    let found = find(&bytes, &hash, question(n)).map(|answer| (answer.number(), answer.target()));
                    assert_eq!(found, model.get(&n).copied());
                }
                let mut fresh = vec![0; 32 * 100];
                for (n, answer) in model.iter().rev() {
                    insert(&mut fresh, &hash, question(*n), answer.0, answer.1);
                }
                assert!(bytes == fresh, "laid out otherwise at step {step}");
                let count = check(&bytes, &hash).unwrap();
                assert_eq!((count.frontends + count.segments) as usize, model.keys().filter(|n| *n % 4 != 2).count());
            }
        }
    }

    #[test]
    fn a_full_or_empty_directory_answers_and_refuses() {
        let hash = Hash::new(&[0; 16]);
        assert!(find(&[], &hash, question(1)).is_none());
        assert!(!insert(&mut [], &hash, question(1), 1, 0));
        let mut bytes = vec![0; 64];
        assert!(insert(&mut bytes, &hash, question(1), 1, 0) && insert(&mut bytes, &hash, question(2), 2, 0));
        let full = bytes.clone();
        assert!(find(&bytes, &hash, question(3)).is_none());
        assert_eq!(bytes, full);
    }
}
