//! Maglev tables against the paper's own pseudo code, and how evenly each scheduler spreads new flows.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4 and §5.3.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::Ipv4Addr;

use common::cluster::{node, web};
use common::frames::frame;
use common::lab::{Lab, SIZES, config};
use lb_core::control::{Control, Endpoint, Node, Proxy, Slice};
use lb_core::pick::Scheduler;
use lb_core::pick::maglev::{Turns, populate, table_size};
use lb_core::rules::Pool;
use lb_core::{Address, Protocol, RuleTable, Sizes};
use siphasher::sip::SipHasher13;

const KEY: &[u8; 16] = b"the cluster's ke";

/// SipHash-1-3 of the address in sixteen octets, and the port with bit 16 for the second hash, as eight
/// little-endian ones.
fn hash(address: Address, port: u16, second: bool) -> u64 {
    let mut hasher = SipHasher13::new_with_key(KEY);
    let number = u64::from(port) + if second { 1 << 16 } else { 0 };
    hasher.write(&[&address.octets()[..], &number.to_le_bytes()].concat());
    hasher.finish()
}

/// The paper's Pseudocode 1, as it stands there: whole permutations, then the turns.
fn papers_table(backends: &[(Address, u16)], m: u64) -> Vec<u16> {
    let permutation: Vec<Vec<u64>> = backends
        .iter()
        .map(|(address, port)| {
            let offset = hash(*address, *port, false) % m;
            let skip = hash(*address, *port, true) % (m - 1) + 1;
            (0..m).map(|j| (offset + j * skip) % m).collect()
        })
        .collect();
    let mut next = vec![0; backends.len()];
    let mut entry: Vec<Option<u16>> = vec![None; m as usize];
    let mut n = 0;
    loop {
        for i in 0..backends.len() {
            let mut c = permutation[i][next[i]];
            while entry[c as usize].is_some() {
                next[i] += 1;
                c = permutation[i][next[i]];
            }
            entry[c as usize] = Some(i as u16);
            next[i] += 1;
            n += 1;
            if n == m {
                return entry.into_iter().flatten().collect();
            }
        }
    }
}

fn engines_table(backends: &[(Address, u16)], size: u32) -> Vec<u16> {
    let mut turns: Vec<Turns> = backends.iter().map(|(address, port)| Turns::new(KEY, *address, *port, size)).collect();
    let mut table = vec![0; size as usize];
    populate(&mut turns, &mut table);
    table
}

fn backends(count: u32) -> Vec<(Address, u16)> {
    (0..count).map(|n| (Address::v4(Ipv4Addr::from_bits(0x0af4_0002 + n).octets()), 8080)).collect()
}

#[test]
fn a_table_is_the_papers() {
    for count in [1, 2, 3, 5, 10, 50] {
        for size in [7, 251, 1009] {
            let backends = backends(count);
            assert_eq!(engines_table(&backends, size), papers_table(&backends, size.into()), "{count} in {size}");
        }
    }
}

/// What must never move between releases: nodes of two releases would send one client to two backends.
/// The digest is of the table that [`papers_table`] gives for five backends.
#[test]
fn a_table_never_changes() {
    let table = papers_table(&backends(5), 503);
    assert_eq!(table_size(5), 503, "the smallest prime above 100 a backend");
    assert_eq!(engines_table(&backends(5), 503), table);
    assert_eq!(table[..16], FIRST);
    let bytes: Vec<u8> = table.iter().flat_map(|backend| backend.to_le_bytes()).collect();
    assert_eq!(crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes), DIGEST);
}

const FIRST: [u16; 16] = [1, 3, 4, 4, 4, 1, 4, 2, 2, 2, 2, 0, 0, 1, 0, 0];
const DIGEST: u32 = 2_890_847_687;

fn shares(table: &[u16], count: usize) -> Vec<u32> {
    let mut shares = vec![0; count];
    table.iter().for_each(|backend| shares[usize::from(*backend)] += 1);
    shares
}

/// Turns are taken in order, so that no two backends' shares differ by more than one slot. When a backend
/// goes, its slots must move; of the others few do, 4 % at most with a hundred slots a backend.
#[test]
fn shares_are_even_and_disruption_is_small_from_2_to_1000_backends() {
    for count in [2, 3, 4, 5, 7, 10, 16, 31, 64, 100, 255, 256, 500, 1000] {
        let all = backends(count);
        let size = table_size(all.len());
        assert!(
            size >= count * 100 && (2..size).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)),
            "{size}"
        );
        let before = engines_table(&all, size);
        let shares = shares(&before, all.len());
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{count}: {shares:?}");
        // The one in the middle goes; the table keeps its size.
        let gone = count / 2;
        let left: Vec<_> = all.iter().enumerate().filter(|(n, _)| *n as u32 != gone).map(|(_, b)| *b).collect();
        let after = engines_table(&left, size);
        let (mut forced, mut collateral) = (0u32, 0u32);
        for (one, other) in before.iter().zip(&after) {
            let other = u32::from(*other) + u32::from(u32::from(*other) >= gone);
            match (u32::from(*one), other) {
                (one, _) if one == gone => forced += 1,
                (one, other) if one != other => collateral += 1,
                _ => {}
            }
        }
        assert!(forced.abs_diff(size / count) <= 1, "{count}: {forced} slots had to move");
        assert!(collateral * 100 <= size * 4, "{count}: {collateral} of {size} slots moved without need");
    }
}

fn maglev_node() -> Node {
    Node { proxy: Proxy { scheduler: Scheduler::Maglev, key: *KEY, ..node().proxy }, ..node() }
}

/// The table in the image of `web` with these endpoints, spread over slices of three.
fn image_table(endpoints: &[Endpoint]) -> Vec<(Address, u16)> {
    let mut control = Control::new(maglev_node());
    let (service, slice) = web(&[]);
    control.put_service(service);
    for (n, some) in endpoints.chunks(3).enumerate() {
        control.put_slice(Slice { name: format!("s{n}").as_str().into(), endpoints: some.to_vec(), ..slice.clone() });
    }
    let table = RuleTable::load(control.image().unwrap()).unwrap();
    let is_tcp4 = |protocol, family| protocol == Protocol::TCP && family == lb_core::Family::V4;
    let (_, segment) = table.segments().find(|(_, s)| is_tcp4(s.protocol(), s.family())).unwrap();
    let slots = 0..segment.maglev_size(Pool::Cluster);
    slots.map(|slot| segment.maglev(Pool::Cluster, slot).unwrap()).map(|b| (b.address, b.port)).collect()
}

fn endpoint((address, _): &(Address, u16)) -> Endpoint {
    let (zone_hints, node_hints) = (Vec::new(), Vec::new());
    Endpoint { address: *address, ready: true, serving: true, terminating: false, node: None, zone_hints, node_hints }
}

#[test]
fn the_image_holds_the_papers_table_whatever_the_order_of_endpoints() {
    let sorted = backends(7);
    let expected: Vec<_> = papers_table(&sorted, 701).iter().map(|n| sorted[usize::from(*n)]).collect();
    assert_eq!(table_size(7), 701);
    let mut endpoints: Vec<Endpoint> = sorted.iter().map(endpoint).collect();
    for _ in 0..7 {
        assert!(image_table(&endpoints) == expected);
        endpoints.rotate_left(2);
        endpoints.swap(0, 3);
    }
}

/// Where each of these UDP clients of `web` goes: as many picks as clients.
fn picks(
    scheduler: Scheduler,
    seed: u64,
    endpoints: &[&str],
    clients: impl Iterator<Item = String>,
) -> BTreeMap<String, u32> {
    let sizes = Sizes { v4_flows: 512, ..SIZES };
    let proxy = Proxy { scheduler, key: *KEY, ..node().proxy };
    let config = lb_core::Config { seed, ..config() };
    let mut lab = Lab::with(config, sizes, Node { proxy, ..node() }, [web(endpoints)]);
    let mut counts = BTreeMap::new();
    for client in clients {
        let sent = lab.send(&frame("udp", &client, "10.96.0.10:53")).to_string();
        *counts.entry(sent.rsplit_once(' ').expect("forwarded").1.to_owned()).or_insert(0) += 1;
    }
    counts
}

const TEN: [&str; 10] = [
    "10.244.1.2 node-a",
    "10.244.1.3 node-a",
    "10.244.1.4 node-a",
    "10.244.1.5 node-a",
    "10.244.1.6 node-a",
    "10.244.1.7 node-a",
    "10.244.1.8 node-a",
    "10.244.1.9 node-a",
    "10.244.1.10 node-a",
    "10.244.1.11 node-a",
];

/// `count` clients of distinct addresses and ports.
fn clients(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("10.244.{}.{}:{}", 100 + n / 250 % 100, 1 + n % 250, 1024 + n % 50_000))
}

/// Pearson's chi-square over ten backends: 9 degrees of freedom, of which 27.88 is the 0.1 % point. (SEMANTICS
/// §7.5: uniformly at random.)
#[test]
fn a_million_picks_are_uniform() {
    for (scheduler, seed, flows) in [(Scheduler::Random, 1, 1_000_000), (Scheduler::Maglev, 1, 100_000)] {
        let counts = picks(scheduler, seed, &TEN, clients(flows));
        assert_eq!((counts.len(), counts.values().sum::<u32>()), (10, flows));
        let share = f64::from(flows) / 10.0;
        let chi_square: f64 = counts.values().map(|n| (f64::from(*n) - share).powi(2) / share).sum();
        // Maglev's shares themselves differ by a slot in a thousand, which adds far less than that.
        assert!(chi_square < 27.88, "{scheduler:?}: {chi_square}, {counts:?}");
    }
}

#[test]
fn round_robin_is_exact() {
    let counts = picks(Scheduler::RoundRobin, 1, &TEN, clients(1000));
    assert!(counts.len() == 10 && counts.values().all(|n| *n == 100), "{counts:?}");
    let proxy = Proxy { scheduler: Scheduler::RoundRobin, ..node().proxy };
    let mut lab = Lab::new(Node { proxy, ..node() }, [web(&TEN[..3])]);
    let order: Vec<String> = clients(7)
        .map(|client| lab.kind("udp", &client, "10.96.0.10:53").to_string())
        .map(|text| text.rsplit_once(' ').unwrap().1.to_owned())
        .collect();
    let [a, b, c] = ["10.244.1.2:5353", "10.244.1.3:5353", "10.244.1.4:5353"];
    assert_eq!(order, [a, b, c, a, b, c, a]);
    // A port's turns are its own.
    assert!(lab.kind("S", "10.244.9.9:1", "10.96.0.10:80").to_string().ends_with("10.244.1.2:8080"));
}

#[test]
fn two_nodes_and_a_restart_pick_alike_by_maglev() {
    let choices = |seed| -> BTreeSet<String> {
        let config = lb_core::Config { seed, hash_key: [seed as u8; 16], ..config() };
        let mut lab = Lab::with(config, SIZES, maglev_node(), [web(&TEN)]);
        clients(50).map(|client| lab.kind("udp", &client, "10.96.0.10:53").to_string()).collect()
    };
    assert_eq!(choices(1), choices(2));
}
