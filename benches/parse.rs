//! Reading headers: named frames, those that the fuzzer starts from.

mod shared;

use std::hint::black_box;

use criterion::Throughput;
use lb_core::Link;
use lb_core::wire::parse;
use shared::frames::{BATCH, Ring};

const FRAMES: &[(&str, &[u8])] = &[
    ("tcp4", include_bytes!("../fuzz/seeds/parse/tcp4-syn")),
    ("tcp6", include_bytes!("../fuzz/seeds/parse/tcp6-syn")),
    ("udp4", include_bytes!("../fuzz/seeds/parse/udp4")),
    ("vlan", include_bytes!("../fuzz/seeds/parse/tcp4-vlan")),
    ("extension-header", include_bytes!("../fuzz/seeds/parse/tcp6-hop-by-hop-router-alert")),
    ("icmp-error", include_bytes!("../fuzz/seeds/parse/icmp4-unreachable-quotes-udp")),
    ("not-ip", include_bytes!("../fuzz/seeds/parse/arp")),
];

fn main() {
    let mut criterion = shared::criterion();
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, frame) in FRAMES {
        let mut ring = Ring::new(BATCH);
        let frames: Vec<&mut [u8]> = ring.frames(frame.len()).collect();
        let frames: Vec<&[u8]> = frames
            .into_iter()
            .map(|place| {
                place.copy_from_slice(frame);
                &*place
            })
            .collect();
        assert_eq!(parse(frame, Link::Ethernet).map(|headers| headers.is_some()), Ok(*name != "not-ip"), "{name}");
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for frame in &frames {
                    let _ = black_box(&parse(black_box(frame), Link::Ethernet));
                }
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
