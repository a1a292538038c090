#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| matryoshka_fuzz::load_rules::run(input));
