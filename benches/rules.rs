//! The rule table: deciding about a new flow, following one change, compiling and loading all of it.

mod shared;

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use lb_core::rules::{Fate, Room};
use lb_core::{Origin, Protocol, RuleTable, Tuple};
use shared::{Random, Shape, cluster, short};

/// Tuples asked in one go.
const QUESTIONS: usize = 256;

fn main() {
    let mut criterion = shared::criterion();
    decide(&mut criterion);
    apply(&mut criterion);
    all_of_it(&mut criterion);
    criterion.final_summary();
}

/// From a pod to random services, or to as many addresses that are none.
fn questions(services: usize, hit: bool) -> Vec<Tuple> {
    let mut random = Random(services as u64);
    // Where there are few services, each is asked several times, in another order every time.
    let tuple = |random: &mut Random| Tuple {
        source: shared::client(true, random.next() as u16, true),
        destination: if hit {
            shared::cluster_ip(random.below(services), true)
        } else {
            shared::client(false, random.next() as u16, true)
        },
        source_port: random.next() as u16 | 1024,
        destination_port: shared::TCP_PORT,
        protocol: Protocol::TCP,
        zone: 0,
    };
    (0..QUESTIONS * 64).map(|_| tuple(&mut random)).collect()
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    group.throughput(Throughput::Elements(QUESTIONS as u64));
    for services in [10, 1000, 50_000] {
        let table =
            RuleTable::load(cluster(services, Shape::Plain).image().expect("it compiles")).expect("its own image");
        for (what, hit) in [("hit", true), ("miss", false)] {
            let questions = questions(services, hit);
            let right = |tuple: &Tuple| matches!(table.decide(tuple, Origin::Wire).fate, Fate::Forward { .. }) == hit;
            assert!(questions.iter().all(right), "not what was to be measured");
            let mut batches = questions.chunks_exact(QUESTIONS).cycle();
            group.bench_function(format!("decide/{what}/{}", short(services)), |bencher| {
                bencher.iter(|| {
                    for tuple in batches.next().unwrap_or_default() {
                        black_box(table.decide(tuple, Origin::Wire));
                    }
                });
            });
        }
    }
    group.finish();
}

/// One endpoint of one service is replaced: from the object that came in to the table that follows it.
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    for services in [1000, 50_000] {
        let mut control = cluster(services, Shape::Plain);
        let mut delta = Vec::new();
        control.delta(&mut delta).expect("it compiles");
        let room = Room::for_image(&delta).expect("its own image");
        let mut table = RuleTable::with_room(vec![0; room.bytes()], room).expect("memory as it asks for");
        table.apply(&delta).expect("its own image");
        let (mut random, mut first) = (Random(1), 0);
        let mut changed = vec![0; services];
        group.bench_function(format!("apply/one-endpoint/{}", short(services)), |bencher| {
            let change = || {
                let service = random.below(services);
                first = 1 - changed[service];
                changed[service] = first;
                shared::slice(service, first, Shape::Plain)
            };
            bencher.iter_batched(
                change,
                |slice| {
                    control.put_slice(slice);
                    let changed = control.delta(&mut delta).expect("it compiles");
                    assert!(changed && table.apply(&delta).is_ok(), "no change, or one refused");
                },
                BatchSize::SmallInput,
            );
        });
        let whole = RuleTable::load(control.image().expect("it compiles")).expect("its own image");
        assert_eq!(table.fingerprint(), whole.fingerprint(), "the table did not follow");
    }
    group.finish();
}

fn all_of_it(criterion: &mut Criterion) {
    const SERVICES: usize = 50_000;
    let mut group = criterion.benchmark_group("rules");
    group.sample_size(10);
    // Putting the objects in is part of it: a service is resolved when it is compiled.
    let image = RefCell::new(Vec::new());
    group.bench_function(format!("compile/{}", short(SERVICES)), |bencher| {
        bencher.iter_batched(
            || cluster(SERVICES, Shape::Plain),
            |mut control| {
                *image.borrow_mut() = control.image().expect("it compiles");
                control
            },
            BatchSize::PerIteration,
        );
    });
    let mut image = image.into_inner();
    if image.is_empty() {
        image = cluster(SERVICES, Shape::Plain).image().expect("it compiles");
    }
    group.bench_function(format!("load/{}", short(SERVICES)), |bencher| {
        bencher.iter(|| RuleTable::load(black_box(image.as_slice())).expect("its own image"));
    });
    group.finish();
}
