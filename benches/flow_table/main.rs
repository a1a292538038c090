//! Which layout a flow table should have: the same connections, keys and hash under each.
//!
//! Every connection has two keys, one a direction, and one entry of 64 bytes. Keys are looked up 32 at a
//! time, in random order, by plain loops, one a stage. Between stages all lines that the next one needs are
//! loaded, whatever it will find there: otherwise it would guess, guess wrong in the shadow of a cache miss,
//! and begin the next misses too late. The floors: hashing alone, in three ways, and touching as many random lines as there are entries.

#[path = "../shared/mod.rs"]
mod shared;

mod hashes;
mod inline;
mod tag_buckets;
mod words;

use std::hash::Hasher;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use shared::{Random, short};
use siphasher::sip::SipHasher13;

/// Keys looked up at once.
const BULK: usize = 32;

fn main() {
    let mut criterion = shared::criterion();
    let mut group = criterion.benchmark_group("flow_table");
    group.throughput(Throughput::Elements(BULK as u64));
    hashes::contest(&mut group);
    floors(&mut group);
    for connections in [1000, 64_000, 1_000_000] {
        compare::<tag_buckets::TagBuckets>(&mut group, connections);
        compare::<inline::Inline>(&mut group, connections);
        compare::<words::Words<75>>(&mut group, connections);
        compare::<words::Words<50>>(&mut group, connections);
    }
    group.finish();
    criterion.final_summary();
}

/// A tuple: addresses, ports, protocol and zone.
type Key = [u32; 4];

/// What is kept of a connection: its two keys, and as much again of its state.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Entry {
    keys: [Key; 2],
    state: [u32; 8],
}

/// A connection's number, and in the lowest bit which of its keys.
type Name = u32;
const NOBODY: Name = u32::MAX;

/// A layout in the ring.
trait Contender {
    /// As ids name it.
    fn name() -> String;
    /// Room for this many connections.
    fn new(connections: usize) -> Self;
    fn insert(&mut self, number: u32, keys: [Key; 2]);
    /// The name that belongs to each key, verified against the whole key.
    fn find(&self, keys: &[Key; BULK], names: &mut [Name; BULK]);
    /// All memory that it takes.
    fn bytes(&self) -> usize;
}

/// SipHash-1-3 under a fixed key, as lb-core hashes an IPv4 tuple.
#[inline]
fn hash(key: &Key) -> u64 {
    let [a, b, c, d] = key.map(u64::from);
    let mut hasher = SipHasher13::new_with_key(b"sixteen byte key");
    hasher.write_u64(a << 32 | b);
    hasher.write_u64(c << 32 | d);
    hasher.finish()
}

/// Maps the upper half of a hash onto `n` places.
#[inline]
fn home(hash: u64, n: usize) -> usize {
    (((hash >> 32) * n as u64) >> 32) as usize
}

/// Loads something from each line that the next stage needs, so that their misses overlap.
#[inline]
fn touch(loads: impl Iterator<Item = u32>) {
    black_box(loads.fold(0, u32::wrapping_add));
}

/// Loads the entries of candidates.
#[inline]
fn touch_entries(slab: &[Entry], names: &[Name; BULK]) {
    touch(names.iter().map(|name| slab.get(*name as usize >> 1).map_or(0, |entry| entry.state[0])));
}

/// The keys of a connection. `there` tells those in the table from others.
fn keys(number: u32, there: bool) -> [Key; 2] {
    let mut random = Random(u64::from(number) << 1 | u64::from(there));
    let [client, backend, ports] = [0; 3].map(|_| random.next());
    let (service, rest) = (0x0a60_0000 | (number % 1000), 6 << 16 | u32::from(!there));
    [[client as u32, service, ports as u32, rest], [backend as u32, client as u32, (ports >> 32) as u32, rest]]
}

fn compare<C: Contender>(group: &mut BenchmarkGroup<'_, WallTime>, connections: usize) {
    let mut table = None;
    for (what, there) in [("hit", true), ("miss", false)] {
        let mut order = None;
        group.bench_function(format!("{}/{what}/{}", C::name(), short(connections)), |bencher| {
            let table = table.get_or_insert_with(|| {
                let mut table = C::new(connections);
                (0..connections as u32).for_each(|number| table.insert(number, keys(number, true)));
                println!("{} takes {:.1} bytes a connection", C::name(), table.bytes() as f64 / connections as f64);
                table
            });
            let order = order.get_or_insert_with(|| {
                let mut order: Vec<(Key, Name)> = (0..connections as u32)
                    .flat_map(|number| keys(number, there).into_iter().zip([number << 1, number << 1 | 1]))
                    .collect();
                Random(3).shuffle(&mut order);
                let (keys, names): (Vec<Key>, Vec<Name>) = order.into_iter().unzip();
                for (keys, names) in keys.as_chunks::<BULK>().0.iter().zip(names.as_chunks::<BULK>().0) {
                    let mut found = [0; BULK];
                    table.find(keys, &mut found);
                    let expected = if there { *names } else { [NOBODY; BULK] };
                    assert_eq!(found, expected, "{} is wrong", C::name());
                }
                keys
            });
            let mut bulks = order.as_chunks::<BULK>().0.iter().cycle();
            let mut names = [0; BULK];
            bencher.iter(|| {
                if let Some(keys) = bulks.next() {
                    table.find(keys, black_box(&mut names));
                }
            });
        });
    }
}

fn floors(group: &mut BenchmarkGroup<'_, WallTime>) {
    for connections in [1000, 64_000, 1_000_000] {
        let mut lines = vec![Entry::default(); connections];
        let mut random = Random(4);
        let order: Vec<u32> = (0..connections * 2).map(|_| random.below(connections) as u32).collect();
        let mut bulks = order.as_chunks::<BULK>().0.iter().cycle();
        group.bench_function(format!("floor/random-line/{}", short(connections)), |bencher| {
            bencher.iter(|| {
                for number in bulks.next().into_iter().flatten() {
                    lines[*number as usize].state[0] += 1;
                }
            });
        });
    }
}
