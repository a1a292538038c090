//! The engine beside the Linux kernel. In a network namespace the kernel is a node with kube-proxy's rules, made from the same
//! objects as the engine's; a seed says which objects and which traffic. What the kernel did with each packet, the engine must
//! do, byte for byte; what differs by intent is a named rule (`listed.rs`) and is counted.
//!
//! ```console
//! $ cargo test --test differential                 # 40 scenarios
//! $ SCENARIOS=2000 cargo test --test differential
//! $ SEED=17 cargo test --test differential         # one, and all of its differences
//! $ KEEP=DIR cargo test --test differential        # and what happened in each, to be judged again
//! $ JUDGE=DIR/17.scenario cargo test --test differential
//! ```
//!
//! The kernel draws ports and has a clock, so a seed does not say all. What happened is kept of each scenario that fails, and `JUDGE`
//! judges it again as often as it takes: without the kernel, and by anybody.

#![allow(unreachable_pub, reason = "its modules are one program")]

#[path = "../common/mod.rs"]
mod common;

mod cleanup;
mod collision;
mod endpoints;
mod iptables;
mod judge;
mod listed;
mod nftables;
mod objects;
mod packets;
mod record;
mod router;
mod rules;
mod script;
mod talk;
mod visits;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use lb_host::chance::Chance;
use nix::sched::{CloneFlags, unshare};

use judge::Report;
use objects::Objects;
use router::Router;

/// Much of a scenario is waiting for the kernel to put rules into force.
const ROUTERS: usize = 6;
/// How many failing scenarios are told in full.
const TOLD: usize = 5;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("differential: test");
        return ExitCode::SUCCESS;
    }
    collision::the_kernels_flow_has_the_port();
    if let Some(kept) = std::env::var_os("JUDGE") {
        return judge_again(Path::new(&kept));
    }
    let Some(missing) = missing() else { return run() };
    if std::env::var_os("CI").is_some() {
        eprintln!("FAILED: CI must run the differential test, which lacks {missing}");
        return ExitCode::FAILURE;
    }
    eprintln!("SKIPPED: the engine was NOT compared with the kernel, for want of {missing}");
    ExitCode::SUCCESS
}

/// What the test needs and this machine has not.
fn missing() -> Option<String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&paths).any(|path| path.join(program).exists());
    let programs = ["ip", "nft", "iptables-restore", "ip6tables-restore", "conntrack"];
    if let Some(program) = programs.into_iter().find(|program| !has(program)) {
        return Some(format!("the program {program} (packages iproute2, nftables, iptables, conntrack)"));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun".into());
    }
    if !nix::unistd::geteuid().is_root() {
        become_root();
    }
    let may = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().expect("an answer");
    (!may).then(|| "the right to make a network namespace: be root, or allow user namespaces".into())
}

/// Tries to be root in a user namespace of its own, as `unshare --map-root-user`. Only a program without threads may.
fn become_root() {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if unshare(CloneFlags::CLONE_NEWUSER).is_ok() {
        for (file, text) in
            [("setgroups", "deny".into()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
        {
            // Where this fails the question for a network namespace does as well.
            let _ = std::fs::write(Path::new("/proc/self").join(file), text);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Plays and judges every scenario, each on one of several routers.
fn run() -> ExitCode {
    let one = number("SEED");
    let seeds = one.map_or(0..number("SCENARIOS").unwrap_or(40), |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..ROUTERS.min(seeds.clone().count()) {
            scope.spawn(|| {
                // Of this thread alone, and of the programs that it starts.
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
                let router = Router::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        break;
                    }
                    let objects = Objects::new(seed, &mut Chance::new(seed).named("objects"));
                    let kept = record::write(seed, &script::play(seed, &router, &objects));
                    let (_, objects, events) = record::read(&kept);
                    let report = judge::judge(seed, &objects, &events, one.is_some());
                    if report.differs() || std::env::var_os("KEEP").is_some() {
                        keep(seed, &kept);
                    }
                    reports.lock().expect("no panic").insert(seed, report);
                }
            });
        }
    });
    tell(&reports.into_inner().expect("no panic"), one.is_some())
}

/// What is left of a scenario.
fn kept(seed: u64) -> PathBuf {
    let directory = std::env::var_os("KEEP").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    directory.join(format!("{seed}.scenario"))
}

fn keep(seed: u64, text: &str) {
    let path = kept(seed);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Judges what was kept of a scenario.
fn judge_again(kept: &Path) -> ExitCode {
    let text = std::fs::read_to_string(kept).unwrap_or_else(|error| panic!("{}: {error}", kept.display()));
    let (seed, objects, events) = record::read(&text);
    tell(&BTreeMap::from([(seed, judge::judge(seed, &objects, &events, true))]), true)
}

fn tell(reports: &BTreeMap<u64, Report>, in_full: bool) -> ExitCode {
    let mut totals = Report::default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for (seed, report) in reports {
        totals.add(report);
        for difference in &report.differences {
            match difference.listed {
                Some(listed) => *counts.entry(format!("{listed:?}")).or_default() += 1,
                None if failed.last() == Some(seed) => {}
                None => failed.push(*seed),
            }
            let is_told = difference.listed.is_none() && failed.len() <= TOLD;
            if in_full || is_told {
                let what = difference.listed.map_or(String::new(), |listed| format!("{listed:?}, deliberate: "));
                println!("SEED={seed}, event {}: {what}{}", difference.at, difference.told);
            }
        }
    }
    let Report { packets, flows, forwarded, refused, dropped, clashes, given_way, .. } = totals;
    let Report { returned, expired, stayed, .. } = totals;
    let scenarios = reports.len();
    println!(
        "{scenarios} scenarios: {packets} packets, {flows} flows; {forwarded} forwarded, {refused} refused, {dropped} dropped; {clashes} ports changed, {given_way} given up"
    );
    println!(
        "affinity: {returned} clients came back in time; {expired} too late, {stayed} of them to the same endpoint by chance"
    );
    println!("deliberate differences (tests/differential/listed.rs):");
    for (name, count) in counts {
        println!("  {count:>6} {name}");
    }
    // By chance alone, of so many at least one finds another endpoint.
    let remembers_forever = expired >= 30 && stayed == expired;
    if remembers_forever {
        println!("FAILED: who is forgotten by the kernel is remembered by the engine");
    } else if failed.is_empty() {
        println!("no other difference from the kernel");
        return ExitCode::SUCCESS;
    }
    for seed in &failed {
        let kept = kept(*seed);
        println!("FAILED: seed {seed}; once more: JUDGE={} cargo test --test differential", kept.display());
    }
    ExitCode::FAILURE
}
