//! Building Maglev's table, the paper's M = 65537, against the crate of that name.

mod shared;

use std::hint::black_box;

use criterion::Criterion;
use lb_core::Address;
use lb_core::pick::maglev::{Turns, populate};

const SIZE: u32 = 65_537;

fn main() {
    let mut criterion = shared::criterion().sample_size(10);
    build(&mut criterion);
    criterion.final_summary();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev");
    for backends in [10u32, 100, 1000] {
        let addresses: Vec<Address> = (0..backends).map(|n| Address::from_v4_bits(0x0a80_0000 + n)).collect();
        let mut table = vec![0u16; SIZE as usize];
        group.bench_function(format!("build/{SIZE}/{backends}"), |bencher| {
            bencher.iter(|| {
                let mut turns: Vec<Turns> =
                    addresses.iter().map(|address| Turns::new(&[3; 16], *address, 8080, SIZE)).collect();
                populate(&mut turns, black_box(&mut table));
            });
        });
        let mut shares = vec![0u32; addresses.len()];
        table.iter().for_each(|backend| shares[usize::from(*backend)] += 1);
        let (least, most) = (shares.iter().min(), shares.iter().max());
        assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "an uneven table");

        group.bench_function(format!("build-by-the-crate/{SIZE}/{backends}"), |bencher| {
            bencher.iter(|| maglev::Maglev::with_capacity(black_box(&addresses), SIZE as usize));
        });
    }
    group.finish();
}
