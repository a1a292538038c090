//! Goals of the control arrow and of memory.

use std::hint::black_box;

use lb_core::pick::maglev::{Turns, populate};
use lb_core::rules::Room;
use lb_core::{Address, RuleTable, Sizes, blocks};

use crate::duel::{Row, budget, duel, median, timed};
use crate::shared::{Random, Shape, cluster, short, slice};

/// Services of the large cluster, with five endpoints each.
const SERVICES: usize = 50_000;

/// Everything that a connection's memory is counted among, per connection.
pub(crate) fn memory() -> Vec<Row> {
    const FLOWS: u32 = 1 << 20;
    let bytes = |v4_flows, v6_flows| {
        let sizes = Sizes { v4_flows, v6_flows, services: 1000, affinity: 0, backends: 0, fragments: 1024 };
        blocks(sizes) as f64 * 64.0 / f64::from(FLOWS)
    };
    vec![
        budget("P8", "bytes a v4 connection, all in".into(), bytes(FLOWS, 0), "96 bytes".into(), 96.0),
        budget("P8", "bytes a v6 connection, all in".into(), bytes(0, FLOWS), "160 bytes".into(), 160.0),
    ]
}

/// One endpoint of one service is replaced: from the object that came in to the table that follows it.
struct Changing {
    control: lb_core::control::Control,
    table: RuleTable<Vec<u8>>,
    delta: Vec<u8>,
    first: Vec<usize>,
    random: Random,
}

impl Changing {
    fn new(services: usize) -> Self {
        let mut control = cluster(services, Shape::Plain);
        let mut delta = Vec::new();
        control.delta(&mut delta).expect("it compiles");
        let room = Room::for_image(&delta).expect("its own image");
        let mut table = RuleTable::with_room(vec![0; room.bytes()], room).expect("memory as it asks for");
        table.apply(&delta).expect("its own image");
        Self { control, table, delta, first: vec![0; services], random: Random(1) }
    }

    fn turn(&mut self) -> f64 {
        let change = |_| {
            let service = self.random.below(self.first.len());
            self.first[service] = 1 - self.first[service];
            let slice = slice(service, self.first[service], Shape::Plain);
            timed(|| {
                self.control.put_slice(slice);
                let changed = self.control.delta(&mut self.delta).expect("it compiles");
                assert!(changed && self.table.apply(&self.delta).is_ok(), "no change, or one refused");
            })
        };
        median((0..200).map(change).collect())
    }
}

pub(crate) fn change() -> Vec<Row> {
    let (mut large, mut small) = (Changing::new(SERVICES), Changing::new(1000));
    let what = |services| format!("one endpoint's change, {} services", short(services));
    let row = duel("P9", what(SERVICES), || large.turn(), what(1000), || small.turn(), 2.0);
    let absolute = median((0..15).map(|_| large.turn()).collect());
    vec![budget("P9", what(SERVICES), absolute, "100 us".into(), 100e3), row]
}

pub(crate) fn compile_and_load() -> Vec<Row> {
    let mut image = Vec::new();
    let compile = |_| {
        let mut control = cluster(SERVICES, Shape::Plain);
        timed(|| image = control.image().expect("it compiles"))
    };
    let compile = median((0..3).map(compile).collect());
    let load = || {
        timed(|| {
            black_box(RuleTable::load(image.as_slice()).expect("its own image"));
        })
    };
    let load = median((0..15).map(|_| load()).collect());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    let mut rows = vec![
        budget("P10", "objects compiled, 50k services".into(), compile, "1 s".into(), 1e9),
        budget("P10", "loaded, 50k services".into(), load, "50 ms".into(), 50e6),
    ];
    rows.extend(
        peak.map(|kib: f64| budget("P10", "peak of this process, KiB".into(), kib, "600 MB".into(), 600e6 / 1024.0)),
    );
    rows
}

pub(crate) fn maglev() -> Vec<Row> {
    const SIZE: u32 = 65_537;
    let addresses: Vec<Address> = (0..1000).map(|n| Address::from_v4_bits(0x0a80_0000 + n)).collect();
    let mut table = vec![0u16; SIZE as usize];
    let mut ours = || {
        timed(|| {
            let turns = addresses.iter().map(|address| Turns::new(&[3; 16], *address, 8080, SIZE));
            populate(&mut turns.collect::<Vec<_>>(), black_box(&mut table));
        })
    };
    let absolute = median((0..31).map(|_| ours()).collect());
    let crates = || timed(|| drop(black_box(maglev::Maglev::with_capacity(black_box(&addresses), SIZE as usize))));
    let what = "a table of 65,537 for 1000 backends";
    vec![
        budget("P11", what.into(), absolute, "1 ms".into(), 1e6),
        duel("P11", what.into(), ours, "the crate maglev".into(), crates, 1.0 / 370.0),
    ]
}
