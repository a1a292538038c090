//! Operations in any order: packets, changes of the rules, leaps of time, sweeps, restored and ended flows. The invariants
//! (`tests/invariants`) are checked after each; `tests/invariants/ops.rs` says how bytes become operations.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| matryoshka_fuzz::ops::run(input));
