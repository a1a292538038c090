//! The invariants under operations that nobody would think of. What the fuzzers found runs in `tests/seeds.rs`.

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
