//! The engine beside a slow and obvious model of it, `tests/invariants/model.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| matryoshka_fuzz::model::run(input));
