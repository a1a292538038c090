//! Rules from objects to decisions: images, deltas, damaged ones, claims.

mod common;

use std::collections::BTreeMap;
use std::hash::Hasher;

use common::cluster::{address, both, node, prefix, service, slice, web};
use common::lab::ROOM;
use lb_core::control::{Control, Endpoint, Mode, Node, NodePortAddresses, Proxy, Service, Slice, TrafficPolicy};
use lb_core::pick::Scheduler;
use lb_core::rules::{ApplyError, LoadError, Pool, Room};
use lb_core::{Address, Origin, Protocol, RuleTable, Tuple};
use proptest::prelude::*;
use siphasher::sip::SipHasher13;

type Table = RuleTable<Vec<u8>>;

fn empty() -> Table {
    RuleTable::with_room(vec![0; ROOM.bytes()], ROOM).unwrap()
}

fn control(node: Node, objects: &[(Service, Slice)]) -> Control {
    let mut control = Control::new(node);
    for (service, slice) in objects {
        control.put_service(service.clone());
        control.put_slice(slice.clone());
    }
    control
}

fn delta(control: &mut Control) -> Vec<u8> {
    let mut out = Vec::new();
    control.delta(&mut out).unwrap();
    out
}

/// Packets of every sort that the small cluster knows.
fn questions() -> Vec<(Tuple, Origin)> {
    let sources = ["192.0.2.10", "10.244.1.9", "203.0.113.5", "198.51.100.7", "127.0.0.1"];
    let destinations =
        ["10.96.0.10", "10.96.0.11", "10.96.0.12", "198.51.100.7", "198.51.100.8", "192.0.2.10", "203.0.113.9"];
    let mut questions = Vec::new();
    for (source, destination) in sources.iter().flat_map(|s| destinations.map(|d| (*s, d))) {
        for (port, protocol) in [80, 53, 30080, 30053].iter().flat_map(|p| [(*p, Protocol::TCP), (*p, Protocol::UDP)]) {
            for (source, destination) in both_or_loopback(source).into_iter().zip(both(destination)) {
                let tuple =
                    Tuple { source, destination, source_port: 40000, destination_port: port, protocol, zone: 0 };
                questions.push((tuple, Origin::Wire));
            }
        }
    }
    questions
}

fn both_or_loopback(v4: &str) -> Vec<lb_core::Address> {
    if v4 == "127.0.0.1" { vec![address(v4), address("::1")] } else { both(v4) }
}

/// Everything that the table decides, slots aside.
fn decisions(table: &Table) -> Vec<String> {
    let decide = |(tuple, origin): (Tuple, Origin)| {
        let decision = table.decide(&tuple, origin);
        let service = decision.service.map(|(_, segment)| {
            let pools = [Pool::Cluster, Pool::Local].map(|pool| segment.pool(pool).collect::<Vec<_>>());
            let label = String::from_utf8_lossy(segment.label()).into_owned();
            (label, segment.scheduler(), segment.affinity(), pools)
        });
        let (class, aside) = (decision.class, decision.short_circuit);
        format!("{tuple}: {:?} {:?} {class:?} {aside} {service:?}", decision.fate, decision.source)
    };
    questions().into_iter().map(decide).collect()
}

#[test]
fn a_full_image_is_the_delta_against_the_empty_table() {
    let mut control = control(node(), &[web(&["10.244.1.2 node-a", "10.244.2.3 node-b"])]);
    let image = control.image().unwrap();
    assert_eq!(delta(&mut control), image);
    assert_eq!(delta(&mut control), [], "nothing has changed since");
    let loaded = Table::load(image.clone()).unwrap();
    let mut applied = empty();
    applied.apply(&image).unwrap();
    assert_eq!(decisions(&loaded), decisions(&applied));
    assert_eq!(loaded.fingerprint(), applied.fingerprint());
    assert_ne!(loaded.fingerprint(), 0);
    // The questions ask enough to be worth comparing.
    let fates = decisions(&loaded).join("\n");
    for fate in ["pool: Cluster, masquerade: true", "pool: Cluster, masquerade: false", "Pass"] {
        assert!(fates.contains(fate), "{fate}");
    }
}

#[test]
fn only_full_images_load_and_only_tables_with_room_take_deltas() {
    let mut control = control(node(), &[web(&["10.244.1.2 node-a"])]);
    let image = delta(&mut control);
    control.put_slice(web(&["10.244.1.3 node-a"]).1);
    let change = delta(&mut control);
    assert_eq!(Table::load(change.clone()).err(), Some(LoadError::NotFull));
    let mut loaded = Table::load(image.clone()).unwrap();
    assert_eq!(loaded.apply(&change), Err(ApplyError::ReadOnly));
    let mut table = empty();
    assert!(matches!(table.apply(&change), Err(ApplyError::WrongBase { found: 0, .. })));
    table.apply(&image).unwrap();
    let before = table.fingerprint();
    assert_eq!(table.apply(&image), Err(ApplyError::WrongBase { expected: 0, found: before }));
    table.apply(&change).unwrap();
    assert!(matches!(table.apply(&change), Err(ApplyError::WrongBase { expected, .. }) if expected == before));
    assert!(change.len() < image.len(), "the node and the other family's ports were not sent again");
}

#[test]
fn a_change_undone_before_it_was_handed_out_is_none() {
    let mut control = control(node(), &[web(&["10.244.1.2 node-a"])]);
    delta(&mut control);
    control.put_slice(web(&["10.244.1.3 node-a"]).1);
    control.image().unwrap();
    control.put_slice(web(&["10.244.1.2 node-a"]).1);
    assert_eq!(delta(&mut control), []);
}

/// A service of so many endpoints.
fn crowd(size: u32) -> (Service, Slice) {
    let mut objects = (service("crowd", "10.96.0.99", &["tcp:80", "udp:53"]), slice("crowd", &["tcp:8080"], &[]));
    let endpoint = web(&["10.244.1.2 node-a"]).1.endpoints[0].clone();
    let at = |number| Endpoint { address: Address::from_v4_bits(0x0a80_0000 + number), ..endpoint.clone() };
    objects.1.endpoints = (1..=size).map(at).collect();
    objects
}

#[test]
fn a_service_port_that_no_image_holds_takes_no_other_down() {
    let (web, crowded, fitting) = (web(&["10.244.1.2 node-a"]), crowd(65_536), crowd(65_535));
    let backends = |image: Vec<u8>, id: &str| {
        let table = Table::load(image).unwrap();
        let ports = table.segments().filter(|(_, segment)| segment.label() == id.as_bytes());
        ports.map(|(_, segment)| segment.backends()).sum::<usize>()
    };
    let told = |control: &Control| {
        control.problems().map(|(service, problem)| format!("{service}: {problem}")).collect::<Vec<_>>()
    };
    let mut control = control(node(), &[web.clone(), crowded.clone()]);
    let image = delta(&mut control);
    let expected = "default/crowd: default/crowd:tcp/TCP has more than 65,535 endpoints, which a rule image can't hold: \
                    split it";
    assert_eq!(told(&control), [expected]);
    assert_eq!(backends(image.clone(), "default/web:tcp/TCP"), 2, "one in each family");
    assert_eq!(backends(image.clone(), "default/crowd:tcp/TCP"), 0);
    assert_eq!(
        Table::load(image).unwrap().segments().filter(|(_, s)| s.label() == b"default/crowd:udp/UDP").count(),
        2
    );
    // Nor does it keep what comes after from being told, and it is served as soon as it fits.
    control.put_slice(self::web(&["10.244.1.2 node-a", "10.244.2.3 node-b"]).1);
    assert_ne!(delta(&mut control), []);
    assert_eq!(told(&control), [expected]);
    assert_eq!(backends(control.image().unwrap(), "default/web:tcp/TCP"), 4);
    control.put_slice(fitting.1);
    assert_ne!(delta(&mut control), []);
    assert_eq!(told(&control), [""; 0]);
    assert_eq!(backends(control.image().unwrap(), "default/crowd:tcp/TCP"), 65_535);
    control.put_slice(crowded.1);
    assert_ne!(delta(&mut control), [], "what no longer fits goes");
    control.remove_service(&"default/crowd".into());
    delta(&mut control);
    assert_eq!(told(&control), [""; 0]);
}

/// An edit of the objects, made of a few small numbers so that names, addresses and ports meet often.
#[derive(Clone, Debug)]
enum Edit {
    Service(u8, u8, u8),
    NoService(u8),
    Slice(u8, u8, u8),
    NoSlice(u8, u8),
    Node(u8),
    /// The engine is handed what changed.
    HandOut,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (0..4u8, any::<u8>(), any::<u8>()).prop_map(|(name, a, b)| Edit::Service(name, a, b)),
        2 => (0..4u8).prop_map(Edit::NoService),
        4 => (0..4u8, 0..2u8, any::<u8>()).prop_map(|(name, slice, a)| Edit::Slice(name, slice, a)),
        2 => (0..4u8, 0..2u8).prop_map(|(name, slice)| Edit::NoSlice(name, slice)),
        1 => (0..8u8).prop_map(Edit::Node),
        2 => Just(Edit::HandOut),
    ];
    prop::collection::vec(edit, 1..40)
}

fn some_service(name: u8, a: u8, b: u8) -> Service {
    let ports: &[&str] = match a % 4 {
        0 => &["tcp:80"],
        1 => &["tcp:80:30080", "udp:53"],
        2 => &["udp:53:30053"],
        _ => &["tcp:80:30080", "udp:53:30053", "sctp:99"],
    };
    let policy = |bit: u8| if b & bit != 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let cluster_ip = ["10.96.0.10", "10.96.0.11", "10.96.0.12"][usize::from(a / 4 % 3)];
    let mut made = service(&format!("s{name}"), cluster_ip, ports);
    (made.internal_policy, made.external_policy) = (policy(1), policy(2));
    if b & 4 != 0 {
        made.external_ips = both("198.51.100.7");
    }
    if b & 8 != 0 {
        made.load_balancer_ips = both("198.51.100.8");
        made.source_ranges = if b & 16 != 0 { vec![prefix("203.0.113.0/24"), prefix("10.244.0.0/16")] } else { vec![] };
    }
    made.affinity = (b & 32 != 0).then_some(10_800);
    made
}

fn some_slice(name: u8, number: u8, a: u8) -> Slice {
    let states = ["", " terminating", " down"];
    let endpoints: Vec<String> = (0..a % 4)
        .map(|n| {
            let (node, state) = ([1, 2][usize::from((a >> 2) + n) % 2], states[usize::from((a >> 3) + n) % 3]);
            format!("10.244.{node}.{} node-{}{state}", number + n + 2, ["a", "b"][node - 1])
        })
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut made = slice(&format!("s{name}"), &["tcp:8080", "udp:5353", "sctp:99"], &endpoints);
    made.name = format!("s{name}-{number}").as_str().into();
    made
}

fn some_node(a: u8) -> Node {
    let proxy = node().proxy;
    Node {
        proxy: Proxy {
            mode: if a & 1 != 0 { Mode::NFTABLES } else { Mode::IPTABLES },
            scheduler: if a & 2 != 0 { Scheduler::Maglev } else { Scheduler::Random },
            node_port_addresses: if a & 4 != 0 { NodePortAddresses::Primary } else { NodePortAddresses::All },
            ..proxy
        },
        ..node()
    }
}

/// The objects after some edits.
#[derive(Default)]
struct World {
    node: u8,
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<(u8, u8), Slice>,
}

impl World {
    fn edit(&mut self, control: &mut Control, edit: &Edit) {
        match *edit {
            Edit::Service(name, a, b) => {
                self.services.insert(name, some_service(name, a, b));
                control.put_service(some_service(name, a, b));
            }
            Edit::NoService(name) => {
                self.services.remove(&name);
                control.remove_service(&format!("default/s{name}").as_str().into());
            }
            Edit::Slice(name, number, a) => {
                self.slices.insert((name, number), some_slice(name, number, a));
                control.put_slice(some_slice(name, number, a));
            }
            Edit::NoSlice(name, number) => {
                self.slices.remove(&(name, number));
                control.remove_slice(&format!("s{name}-{number}").as_str().into());
            }
            Edit::Node(a) => {
                self.node = a;
                control.put_node(some_node(a));
            }
            Edit::HandOut => {}
        }
    }

    /// A control plane that never saw anything else, told in an order of its own.
    fn retold(&self) -> Control {
        let mut control = Control::new(some_node(self.node));
        self.slices.values().rev().for_each(|slice| control.put_slice(slice.clone()));
        self.services.values().rev().for_each(|service| control.put_service(service.clone()));
        control
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_the_way_the_same_objects_give_the_same_bytes_and_decisions(edits in edits()) {
        let mut world = World::default();
        let mut control = Control::new(some_node(0));
        let mut table = empty();
        for edit in edits.iter().chain([&Edit::HandOut]) {
            world.edit(&mut control, edit);
            if let Edit::HandOut = edit {
                let change = delta(&mut control);
                if !change.is_empty() {
                    prop_assert_eq!(table.apply(&change), Ok(()));
                }
            }
        }
        let image = control.image().unwrap();
        prop_assert!(image == world.retold().image().unwrap(), "other bytes by update than from scratch");
        let room = Room::for_image(&image).unwrap();
        let mut grown = RuleTable::with_room(vec![0xee; room.bytes()], room).unwrap();
        prop_assert_eq!(grown.apply(&image), Ok(()));
        let loaded = Table::load(image).unwrap();
        prop_assert_eq!(loaded.fingerprint(), table.fingerprint());
        prop_assert_eq!(decisions(&loaded), decisions(&grown));
        prop_assert_eq!(decisions(&loaded), decisions(&table));
        let labels = |table: &Table| {
            let mut labels: Vec<_> = table.segments().map(|(_, segment)| (segment.id(), segment.label().to_vec())).collect();
            labels.sort();
            labels
        };
        prop_assert_eq!(labels(&loaded), labels(&table));
    }
}

/// Who owns 10.96.0.10:80/TCP.
fn owner(table: &Table) -> String {
    let tuple = Tuple {
        source: address("10.244.2.9"),
        destination: address("10.96.0.10"),
        source_port: 40000,
        destination_port: 80,
        protocol: Protocol::TCP,
        zone: 0,
    };
    let (_, segment) = table.decide(&tuple, Origin::Wire).service.expect("owned");
    String::from_utf8(segment.label().to_vec()).unwrap()
}

#[test]
fn of_two_claims_to_a_vip_the_lower_name_has_it_whoever_came_first() {
    let claim =
        |name: &str| (service(name, "10.96.0.10", &["tcp:80"]), slice(name, &["tcp:8080"], &["10.244.1.2 node-a"]));
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let mut control = Control::new(node());
        let mut table = empty();
        for (n, name) in order.iter().enumerate() {
            control.put_service(claim(name).0);
            control.put_slice(claim(name).1);
            table.apply(&delta(&mut control)).unwrap();
            let lowest = order[..=n].iter().min().unwrap();
            assert_eq!(owner(&table), format!("default/{lowest}:tcp/TCP"), "{order:?}");
        }
        for (gone, heir) in [("a", "b"), ("b", "c")] {
            control.remove_service(&format!("default/{gone}").as_str().into());
            table.apply(&delta(&mut control)).unwrap();
            assert_eq!(owner(&table), format!("default/{heir}:tcp/TCP"), "{order:?}");
        }
    }
}

/// A table with `web`, and a delta that moves an endpoint, adds a service and takes one away.
fn table_and_change() -> (Table, Vec<u8>) {
    let old = (service("old", "10.96.0.11", &["tcp:80"]), slice("old", &["tcp:8080"], &["10.244.1.2 node-a"]));
    let new = (service("new", "10.96.0.12", &["tcp:80"]), slice("new", &["tcp:8080"], &["10.244.1.2 node-a"]));
    let mut control = control(node(), &[web(&["10.244.1.2 node-a"]), old]);
    let mut table = empty();
    table.apply(&delta(&mut control)).unwrap();
    control.put_slice(web(&["10.244.1.3 node-a"]).1);
    control.put_service(new.0);
    control.put_slice(new.1);
    control.remove_service(&"default/old".into());
    control.remove_slice(&"default/old-1".into());
    (table, delta(&mut control))
}

#[test]
fn a_damaged_delta_changes_nothing() {
    let (mut table, change) = table_and_change();
    let (before, fingerprint) = (decisions(&table), table.fingerprint());
    for length in 0..change.len() {
        assert!(table.apply(&change[..length]).is_err(), "cut to {length} bytes");
    }
    for at in 0..change.len() {
        for bit in [1, 0x80] {
            let mut damaged = change.clone();
            damaged[at] ^= bit;
            assert!(table.apply(&damaged).is_err(), "byte {at} ^ {bit:#x}");
        }
        assert_eq!(table.fingerprint(), fingerprint);
    }
    assert_eq!(decisions(&table), before);
    table.apply(&change).unwrap();
    assert_ne!(decisions(&table), before);
}

/// The checksum of an image: SipHash-1-3 of all that follows it, under a fixed key.
fn sealed(mut image: Vec<u8>) -> Vec<u8> {
    let mut hasher = SipHasher13::new_with_key(b"lb-rules image 1");
    hasher.write(&image[24..]);
    let checksum = hasher.finish().to_le_bytes();
    image[16..24].copy_from_slice(&checksum);
    image
}

/// Damage under a checksum that is right, as whoever forges a delta would have it.
#[test]
fn a_forged_delta_is_applied_in_whole_or_not_at_all() {
    let (table, change) = table_and_change();
    assert!(sealed(change.clone()) == change, "the checksum is as this test computes it");
    let before = decisions(&table);
    let after = {
        let mut table = table.clone();
        table.apply(&change).unwrap();
        decisions(&table)
    };
    let (mut refused, mut taken) = (0, 0);
    for at in 24..change.len() {
        let mut forged = change.clone();
        forged[at] ^= 1;
        let mut table = table.clone();
        match table.apply(&sealed(forged)) {
            Ok(()) => {
                taken += 1;
                assert_eq!(decisions(&table), after, "byte {at}");
            }
            Err(_) => {
                refused += 1;
                assert_eq!(decisions(&table), before, "byte {at}");
            }
        }
    }
    // Only bytes without a meaning may differ: four in every slot and every directory entry.
    assert!(taken * 4 < refused, "{taken} taken, {refused} refused");
}

#[test]
fn a_delta_that_takes_anothers_vip_changes_nothing() {
    let claim =
        |name: &str| (service(name, "10.96.0.10", &["tcp:80"]), slice(name, &["tcp:8080"], &["10.244.1.2 node-a"]));
    let image = |objects: &[(Service, Slice)]| control(node(), objects).image().unwrap();
    let fingerprint = |image: &[u8]| Table::load(image.to_vec()).unwrap().fingerprint();
    let (bare, first, second) = (image(&[]), image(&[claim("b")]), image(&[claim("a")]));
    let mut table = empty();
    table.apply(&first).unwrap();
    let before = decisions(&table);
    // A full image of the other service, made out as a delta on the table of the first.
    let (base, both) = (fingerprint(&first), fingerprint(&first).wrapping_add(fingerprint(&second)));
    let mut forged = second;
    forged[40..48].copy_from_slice(&base.to_le_bytes());
    forged[48..56].copy_from_slice(&both.wrapping_sub(fingerprint(&bare)).to_le_bytes());
    assert!(matches!(table.apply(&sealed(forged)), Err(ApplyError::Conflict { .. })));
    assert_eq!(decisions(&table), before);
}

#[test]
fn without_room_nothing_changes_and_the_error_says_how_much_would_do() {
    let many = |count: u8| -> Vec<String> { (0..count).map(|n| format!("10.244.1.{n} node-a")).collect() };
    let (small, large) = (many(2), many(200));
    let [small, large] = [&small, &large].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
    for room in [
        Room { services: 4, vips: 64, segments: 1 << 15 },
        Room { services: 32, vips: 12, segments: 1 << 15 },
        Room { services: 32, vips: 64, segments: 4096 },
    ] {
        let mut table = Table::with_room(vec![0; room.bytes()], room).unwrap();
        let mut control = control(node(), &[web(&small)]);
        table.apply(&delta(&mut control)).unwrap();
        let before = decisions(&table);
        for n in 0..8 {
            let name = format!("s{n}");
            control.put_service(service(&name, &format!("10.96.0.{}", 20 + n), &["tcp:80"]));
            control.put_slice(slice(&name, &["tcp:8080"], &large));
        }
        let change = delta(&mut control);
        let Err(ApplyError::NoSpace { needed, .. }) = table.apply(&change) else { panic!("{room:?} was enough") };
        assert!(needed > 0);
        assert_eq!(decisions(&table), before);
        // What failed took no room for good: a smaller change still goes.
        let mut smaller = self::control(node(), &[web(&small)]);
        delta(&mut smaller);
        smaller.put_slice(web(&small[..1]).1);
        table.apply(&delta(&mut smaller)).unwrap();
    }
    assert!(matches!(Table::with_room(vec![0; ROOM.bytes() - 1], ROOM), Err(ApplyError::NoSpace { .. })));
}
