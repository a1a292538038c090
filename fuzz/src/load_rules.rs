//! Any bytes as an image, and as a delta onto a table that is in use: refused, or as good as any other.
//!
//! The first input byte says which of the two, and whether lengths, fingerprints and checksum are put
//! right first: they are there to find accidents, and would keep every mutation from the checks behind.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::LazyLock;

use lb_core::control::Mode;
use lb_core::pick::Scheduler;
use lb_core::rules::{ApplyError, Pool, Room, VipClass};
use lb_core::{
    Address, Balancer, Block, Config, Instant, Link, Meta, Origin, Packet, Protocol, RuleTable, Sizes, Tuple, blocks,
};
use siphasher::sip::SipHasher13;

use super::cluster::{cluster, ip, slice};
use super::packets::Spec;

/// The table that deltas come to, its image, and a delta that it takes.
struct Base {
    table: RuleTable<Vec<u8>>,
    image: Vec<u8>,
    delta: Vec<u8>,
}

static BASE: LazyLock<Base> = LazyLock::new(|| {
    let mut control = cluster(Mode::NFTABLES, Scheduler::RoundRobin);
    let [mut image, mut delta] = [Vec::new(), Vec::new()];
    control.delta(&mut image).expect("a small cluster compiles");
    control.put_slice(slice("all/kinds", &[(2, true), (8, false)]));
    control.delta(&mut delta).expect("so does a change of it");
    let room = Room::for_image(&image).expect("its own image");
    let mut table = RuleTable::with_room(vec![0; room.bytes()], room).expect("memory as it asks for");
    table.apply(&image).expect("its own image");
    Base { table, image, delta }
});

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&how, bytes)) = input.split_first() else { return };
    let (as_delta, mended) = (how & 1 != 0, how & 2 == 0);
    let mut bytes = bytes.to_vec();
    if as_delta {
        let Base { table, image, delta } = &*BASE;
        let mut table = table.clone();
        if mended {
            mend(&mut bytes, image);
        }
        let before = table.fingerprint();
        match table.apply(&bytes) {
            Ok(()) => exercise(&table),
            Err(_) => {
                assert_eq!(table.fingerprint(), before, "refused, and changed");
                exercise(&table);
                assert_eq!(table.apply(delta), Ok(()), "a refused delta left a trace");
            }
        }
        exercise(&table);
    } else {
        if mended {
            mend(&mut bytes, &[]);
        }
        let Ok(table) = RuleTable::load(bytes.as_slice()) else { return };
        exercise(&table);
        // What loads, also applies to an empty table, and then decides alike.
        let room = Room::for_image(&bytes).expect("it loads");
        let mut updated = RuleTable::with_room(vec![0; room.bytes()], room).expect("memory as it asks for");
        match updated.apply(&bytes) {
            Ok(()) => tuples(&table).for_each(|tuple| {
                for origin in [Origin::Wire, Origin::Pod, Origin::Node] {
                    let (one, other) = (table.decide(&tuple, origin), updated.decide(&tuple, origin));
                    assert_eq!((one.fate, one.class), (other.fate, other.class), "loaded and applied differ: {tuple}");
                }
            }),
            Err(ApplyError::NoSpace { .. }) => {}
            Err(error) => panic!("it loads, but does not apply: {error}"),
        }
    }
}

/// Reads everything that a table has to say.
fn exercise<M: AsRef<[u8]>>(table: &RuleTable<M>) {
    for tuple in tuples(table) {
        for origin in [Origin::Wire, Origin::Pod, Origin::Node] {
            let _ = table.decide(&tuple, origin);
        }
    }
    judge(table);
    for (_, segment) in table.segments() {
        let _ = (segment.label(), segment.affinity(), segment.has_serving(), segment.ranges().count());
        for pool in [Pool::Cluster, Pool::Local] {
            assert_eq!(segment.pool(pool).count(), segment.pool_size(pool), "a pool with a gap");
            let size = segment.maglev_size(pool);
            assert!((0..size).all(|slot| segment.maglev(pool, slot).is_some()), "a Maglev table with a gap");
        }
        for number in 0..segment.backends() {
            let backend = segment.backend(number).expect("as many as it says");
            assert_eq!(segment.find_backend(backend.address, backend.port), Some(number), "a backend out of order");
        }
    }
    if let Some(node) = table.node() {
        let _ = (node.reserved_ports(), node.pod_sources().count(), node.service_cidrs().count());
        let _ = node.masquerade(Address::v4([10, 244, 0, 2]));
    }
}

/// Packets of all these tuples, judged by a balancer with these rules: libFuzzer's own limit bounds the time that it may take.
fn judge<M: AsRef<[u8]>>(table: &RuleTable<M>) {
    let sizes = Sizes { v4_flows: 4, v6_flows: 4, services: 4, affinity: 4, backends: 4, fragments: 1 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let mut balancer =
        Balancer::new(Config::new([7; 16], 7), sizes, &mut memory, table.view()).expect("memory as it asks for");
    let mut packets = 0;
    for tuple in
        tuples(table).take(64).filter(|tuple| [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&tuple.protocol))
    {
        for tuple in [tuple, tuple.reversed()] {
            let mut data = Spec::new(tuple, 2).packet();
            let meta = Meta { link: Link::Ip, ..Meta::default() };
            let _ = balancer.process(Instant::ORIGIN, &mut Packet::new(&mut data, meta));
            packets += 1;
        }
    }
    assert_eq!(balancer.counters().packets(), packets, "a packet without a verdict");
}

/// A few that dial nothing in particular, and one for each Vip.
fn tuples<M: AsRef<[u8]>>(table: &RuleTable<M>) -> impl Iterator<Item = Tuple> {
    let some = ["10.96.0.10", "10.96.0.99", "192.0.2.1", "127.0.0.1", "203.0.113.30", "2001:db8:96::a", "::1"];
    let some = some.into_iter().map(|text| (ip(text), 8081, Protocol::TCP));
    let vips = table.segments().flat_map(|(_, segment)| segment.vips()).map(|vip| {
        let own = if vip.address.is_v4() { "192.0.2.1" } else { "2001:db8:1::1" };
        let address = if vip.class == VipClass::NodePort { ip(own) } else { vip.address };
        (address, vip.port, vip.protocol)
    });
    some.chain(vips).flat_map(|(destination, destination_port, protocol)| {
        let sources = if destination.is_v4() { ["198.51.100.7", "10.244.0.2"] } else { ["2001:db8:7::7", "::1"] };
        sources.map(|source| Tuple {
            source: ip(source),
            destination,
            source_port: 40_000,
            destination_port,
            protocol,
            zone: 0,
        })
    })
}

// The image format, as far as mending needs it (lb-core/src/rules/image.rs draws it).
const HEADER: usize = 64;
const SLOT: usize = 24;

/// Puts right what only guards the rest: length, base, fingerprint, checksum. `base` is the image of the
/// table that the bytes come to, empty for none.
fn mend(bytes: &mut [u8], base: &[u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let mut fingerprint = u64_at(base, 48);
    let held: BTreeMap<u64, u64> = segments(base).collect();
    for (id, sum) in segments(bytes) {
        fingerprint = fingerprint.wrapping_sub(held.get(&id).copied().unwrap_or(0)).wrapping_add(sum);
    }
    let length = bytes.len() as u32;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    bytes[40..48].copy_from_slice(&u64_at(base, 48).to_le_bytes());
    bytes[48..56].copy_from_slice(&fingerprint.to_le_bytes());
    let checksum = hash(b"lb-rules image 1", &bytes[24..]);
    bytes[16..24].copy_from_slice(&checksum.to_le_bytes());
}

/// Each segment's id, and what it adds to the fingerprint of its set.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let count = u32_at(bytes, 56) as usize;
    let slots = bytes.get(HEADER..).unwrap_or_default().chunks_exact(SLOT).take(count);
    slots.map(|slot| {
        let (id, start, length) = (u64_at(slot, 0), u32_at(slot, 8) as usize, u32_at(slot, 12) as usize);
        let content = bytes.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default();
        let sum = hash(b"lb-rules segment", content).wrapping_mul(id | 1).max(1);
        (id, if content.is_empty() { 0 } else { sum })
    })
}

fn hash(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(bytes);
    hasher.finish()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}
