//! The golden traffic comes to the same bytes on every machine: here natively and, by Miri, on a big-endian one
//! (`cargo +nightly miri test -p lb-core --test golden --target s390x-unknown-linux-gnu`). `golden/verdicts` has a line a
//! packet: the verdict's word, how long what came out is, and its hash. `examples/` compares with the same lines.
//!
//! The rules and the traffic are made by `tests/golden.rs` of the workspace; `BLESS=1` writes the verdicts.

use std::fmt::Write;

use lb_core::{Balancer, Block, Config, Instant, Meta, Packet, RuleTable, Sizes, Verdict, blocks};

/// What every machine that runs this traffic uses; `lb replay` has the same key and seed, and more room.
const SIZES: Sizes = Sizes { v4_flows: 256, v6_flows: 256, services: 32, affinity: 16, backends: 16, fragments: 16 };

/// FNV-1a: short enough to be written anew in any language.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn the_same_bytes_everywhere() {
    let image: &[u8] = include_bytes!("golden/rules.image");
    let mut capture: &[u8] = include_bytes!("golden/traffic.pcap");
    let mut memory = vec![Block::ZERO; blocks(SIZES)];
    let rules = RuleTable::load(image).unwrap();
    let mut balancer = Balancer::new(Config::new([0; 16], 0), SIZES, &mut memory, rules).unwrap();
    let mut lines = String::new();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let started = word(&capture[24..], 0);
    capture = &capture[24..];
    while !capture.is_empty() {
        let (header, rest) = capture.split_at(16);
        let (bytes, rest) = rest.split_at(word(header, 8) as usize);
        let now = u64::from(word(header, 0) - started) * 1_000_000_000 + u64::from(word(header, 4)) * 1000;
        let now = Instant::from_nanos(now);
        let mut frame = bytes.to_vec();
        let mut packet = Packet::new(&mut frame, Meta::default());
        let verdict = balancer.process(now, &mut packet);
        let mut reply = [0; 1500];
        let out = match verdict {
            Verdict::Reject(reason) => {
                let length = balancer.write_reply(now, &packet, reason, &mut reply).unwrap_or(0);
                &reply[..length]
            }
            _ => &*packet.data,
        };
        let label = Verdict::label(verdict.code()).unwrap();
        writeln!(lines, "{label} {} {:016x}", out.len(), hash(out)).unwrap();
        capture = rest;
    }
    for word in ["forward ", "forward-reply ", "no-endpoints ", "pass ", "truncated "] {
        assert!(lines.lines().any(|line| line.starts_with(word)), "the traffic has no `{word}`");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/verdicts");
    if option_env!("BLESS").is_some() {
        std::fs::write(path, &lines).unwrap();
        return;
    }
    for (number, (found, expected)) in lines.lines().zip(include_str!("golden/verdicts").lines()).enumerate() {
        assert_eq!(found, expected, "packet {}", number + 1);
    }
    assert_eq!(lines.lines().count(), include_str!("golden/verdicts").lines().count());
}
