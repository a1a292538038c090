//! The invariants under operations that nobody would think of, and under all that the fuzzers ever found: every named seed of
//! `process_ops` and `model` is lived through here, on stable.

#![allow(unreachable_pub, reason = "the fuzz targets use these modules too")]

mod cluster;
#[path = "mod.rs"]
mod invariants;
mod model;
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

    #[test]
    fn the_model_says_the_same(operations in prop::collection::vec(any::<[u8; model::OPERATION]>(), 1..100)) {
        model::run(&operations.concat());
    }
}

#[test]
fn hold_for_every_seed() {
    assert!(replay("process_ops", ops::run) > 5);
    assert!(replay("model", model::run) > 0);
}

/// Gives every named seed of a target to it, and says how many there are.
fn replay(target: &str, run: fn(&[u8])) -> usize {
    let seeds = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let seeds = std::fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{seeds}: {error}"));
    seeds.map(|seed| run(&std::fs::read(seed.expect("a seed").path()).expect("a seed"))).count()
}
