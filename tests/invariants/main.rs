//! The invariants under operations that nobody would think of, and under all that the fuzzers ever found: every named seed of
//! `process_ops` is lived through here, on stable.

#![allow(unreachable_pub, reason = "the fuzz targets use these modules too")]

mod cluster;
#[path = "mod.rs"]
mod invariants;
mod ops;
mod packets;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn hold_for_any_operations(
        mode in any::<u8>(),
        operations in prop::collection::vec(any::<[u8; ops::OPERATION]>(), 1..60),
    ) {
        ops::run(&[vec![mode], operations.concat()].concat());
    }
}

#[test]
fn hold_for_every_seed() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/process_ops");
    let mut lived = 0;
    for seed in std::fs::read_dir(seeds).expect(seeds) {
        ops::run(&std::fs::read(seed.expect(seeds).path()).expect(seeds));
        lived += 1;
    }
    assert!(lived > 5, "{lived} seeds");
}
