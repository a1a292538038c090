//! What the fuzzers start from and all that they ever found: every named seed of every target goes through the function that the
//! target calls, on stable.

#![allow(unreachable_pub, reason = "the fuzz targets use these modules too")]

#[path = "invariants/cluster.rs"]
mod cluster;
#[path = "invariants/mod.rs"]
mod invariants;
#[path = "invariants/packets.rs"]
mod packets;

#[path = "../fuzz/src/c_abi.rs"]
mod c_abi;
#[path = "../fuzz/src/dns.rs"]
mod dns;
#[path = "../fuzz/src/load_rules.rs"]
mod load_rules;
#[path = "../fuzz/src/manifest.rs"]
mod manifest;
#[path = "invariants/model.rs"]
mod model;
#[path = "../fuzz/src/parse.rs"]
mod parse;
#[path = "../fuzz/src/pcap.rs"]
mod pcap;
#[path = "../fuzz/src/process.rs"]
mod process;
#[path = "invariants/ops.rs"]
mod process_ops;
#[path = "../fuzz/src/proxy.rs"]
mod proxy;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 10] = [
    ("c_abi", c_abi::run),
    ("dns", dns::run),
    ("load_rules", load_rules::run),
    ("manifest", manifest::run),
    ("model", model::run),
    ("parse", parse::run),
    ("pcap", pcap::run),
    ("process", process::run),
    ("process_ops", process_ops::run),
    ("proxy", proxy::run),
];

/// The names in a directory below `fuzz/`.
fn names(directory: &str) -> BTreeSet<String> {
    let path = format!("{}/fuzz/{directory}", env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_seed_of_every_target_runs() {
    let of_these: BTreeSet<String> = TARGETS.iter().map(|(target, _)| format!("{target}.rs")).collect();
    assert_eq!(of_these, names("fuzz_targets"), "a target whose seeds nobody replays");
    let mut failed = Vec::new();
    for (target, run) in TARGETS {
        let seeds = names(&format!("seeds/{target}"));
        assert!(seeds.len() > 3, "{target} has {} seeds", seeds.len());
        for seed in &seeds {
            let path = format!("{}/fuzz/seeds/{target}/{seed}", env!("CARGO_MANIFEST_DIR"));
            let octets = fs::read(&path).unwrap();
            // On a stack as a program's main thread has it, as in the fuzzer.
            let tried = std::thread::Builder::new().stack_size(8 << 20).spawn(move || catch_unwind(|| run(&octets)));
            if tried.unwrap().join().unwrap().is_err() {
                failed.push(format!("{target}/{seed}"));
            }
        }
        println!("{target}: {} seeds", seeds.len());
    }
    assert_eq!(failed, [""; 0], "told above");
}
