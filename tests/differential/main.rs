//! The engine beside the Linux kernel. In a network namespace the kernel is a node with kube-proxy's rules, made from the same
//! objects as the engine's; a seed says which objects and which traffic. What the kernel did with each packet, the engine must
//! do, byte for byte; what differs by intent is a named rule (`listed.rs`) and is counted.
//!
//! ```console
//! $ cargo test --test differential                 # 40 scenarios
//! $ SCENARIOS=2000 cargo test --test differential
//! $ SEED=17 cargo test --test differential         # one, and all of its differences
//! ```

#[path = "../common/mod.rs"]
mod common;

mod cleanup;
mod endpoints;
mod iptables;
mod judge;
mod listed;
mod nftables;
mod objects;
mod packets;
mod router;
mod rules;
mod script;
mod talk;
mod world;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use lb_host::chance::Chance;

use objects::Objects;
use router::Router;

/// Set where this program runs in a namespace of its own.
const INSIDE: &str = "DIFFERENTIAL_INSIDE";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("differential: test");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_some() {
        return run();
    }
    let Some(missing) = missing() else { return enter() };
    if std::env::var_os("CI").is_some() {
        eprintln!("FAILED: CI must run the differential test, which lacks {missing}");
        return ExitCode::FAILURE;
    }
    eprintln!("SKIPPED: the engine was NOT compared with the kernel, for want of {missing}");
    ExitCode::SUCCESS
}

/// What the test needs and this machine has not.
fn missing() -> Option<String> {
    let programs = ["unshare", "ip", "nft", "iptables-restore", "ip6tables-restore", "conntrack"];
    let has = |program: &&str| {
        let paths = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
        paths.iter().any(|path| std::path::Path::new(path).join(program).exists())
    };
    if let Some(program) = programs.iter().find(|program| !has(program)) {
        return Some(format!("the program {program} (packages nftables, iptables, conntrack, iproute2)"));
    }
    let probe = "ip tuntap add dev probe mode tun && nft list ruleset && conntrack -L";
    let probed = Command::new("unshare").args(["--net", "--", "sh", "-c", probe]).output();
    (!probed.is_ok_and(|output| output.status.success()))
        .then(|| "the right to make a network namespace: be root".into())
}

/// Runs this program once more, in a namespace that ends with it.
fn enter() -> ExitCode {
    let program = std::env::current_exe().expect("a name");
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(program)
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare starts");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

fn run() -> ExitCode {
    let one = number("SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCENARIOS").unwrap_or(40),
    };
    let router = Router::new();
    let mut totals = judge::Report::default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        let objects = Objects::new(seed, &mut Chance::new(seed).named("objects"));
        let events = script::play(seed, &router, &objects);
        let report = judge::judge(seed, &objects, &events, one.is_some());
        totals.packets += report.packets;
        totals.flows += report.flows;
        totals.forwarded += report.forwarded;
        totals.refused += report.refused;
        totals.dropped += report.dropped;
        for difference in &report.differences {
            match difference.listed {
                Some(listed) => *counts.entry(format!("{listed:?}")).or_default() += 1,
                None => {
                    if failed.last() != Some(&seed) {
                        failed.push(seed);
                    }
                    if failed.len() <= 50 || one.is_some() {
                        println!("SEED={seed}, event {}: {}", difference.at, difference.told);
                    }
                }
            }
            if one.is_some() && difference.listed.is_some() {
                println!("{:?}, event {}: {}", difference.listed, difference.at, difference.told);
            }
        }
    }
    let judge::Report { packets, flows, forwarded, refused, dropped, .. } = totals;
    println!(
        "{} scenarios: {packets} packets, {flows} flows; {forwarded} forwarded, {refused} refused, {dropped} dropped",
        seeds.count()
    );
    println!("deliberate differences (tests/differential/listed.rs):");
    for (name, count) in counts {
        println!("  {count:>6} {name}");
    }
    if failed.is_empty() {
        println!("no other difference from the kernel");
        return ExitCode::SUCCESS;
    }
    println!("FAILED: seeds {failed:?} differ from the kernel; `SEED=n cargo test --test differential` shows one");
    ExitCode::FAILURE
}
