#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| matryoshka_fuzz::proxy::run(input));
