//! `lb-core/examples/firmware` under QEMU: the bytes of the golden traffic, and what a packet costs a Cortex-M4.
//! `cargo test --test firmware -- --nocapture` prints the figures.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lb_core::{Balancer, Block, Config, RuleTable, Sizes, blocks};
use lb_host::replay;

const TARGET: &str = "thumbv7em-none-eabihf";
const QEMU: &str = "qemu-system-arm";

fn core_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lb-core")
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(core_directory().join("tests/golden").join(name)).unwrap()
}

/// Builds the firmware and runs it: what it logged, a line a message.
fn logged(directory: &Path) -> Vec<String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("firmware");
    let cargo = |directory: &Path, arguments: &[&str], input: Stdio| {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(directory).args(arguments).stdin(input).env("CARGO_TARGET_DIR", &target);
        // Flags for the host would be taken for the firmware's.
        let output = cargo.env_remove("RUSTFLAGS").env("DEFMT_LOG", "trace").output().unwrap();
        assert!(output.status.success(), "cargo {arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    cargo(directory, &["build", "--release", "--locked"], Stdio::null());
    let (elf, frames) = (target.join(TARGET).join("release/firmware"), target.join("frames"));
    std::fs::write(&frames, cargo(directory, &["run", "--release", "--locked", "--quiet"], Stdio::null())).unwrap();
    println!("{}", flash(&elf));

    // Where the microcontroller's settings are not found: it runs here.
    let decode = directory.join("decode/Cargo.toml");
    let run = ["run", "--locked", "--quiet", "--manifest-path", decode.to_str().unwrap(), "--", elf.to_str().unwrap()];
    let text = cargo(&std::env::temp_dir(), &run, File::open(&frames).unwrap().into());
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

/// The sizes of what lies in flash, the embedded capture not counted.
fn flash(elf: &Path) -> String {
    let output = Command::new("arm-none-eabi-size").arg("-A").arg(elf).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of = |section: &str| {
        let line = text.lines().find(|line| line.starts_with(section)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|size| size.parse::<usize>().ok()).unwrap_or(0)
    };
    let embedded = golden("rules.image").len() + golden("traffic.pcap").len();
    let (code, constants) = (of(".text"), of(".rodata").saturating_sub(embedded));
    format!("flash: {code} bytes of code, {constants} of constants (logger and start-up included); RAM: {}", of(".bss"))
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Length and hash of everything that `lb replay` lets out.
fn replayed() -> Vec<String> {
    let sizes = Sizes { v4_flows: 4096, v6_flows: 4096, services: 32, affinity: 16, backends: 16, fragments: 16 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let rules = RuleTable::load(golden("rules.image")).unwrap();
    let mut balancer = Balancer::new(Config::new([0; 16], 0), sizes, &mut memory, rules).unwrap();
    let mut output = Vec::new();
    replay::run(&*golden("traffic.pcap"), &mut output, &mut balancer, replay::Options::default()).unwrap();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let (mut rest, mut out) = (&*output, Vec::new());
    while !rest.is_empty() {
        let (block, next) = rest.split_at(word(rest, 4));
        // An enhanced packet block, on `egress`, which is the second interface of each pair.
        if word(block, 0) == 6 && word(block, 8) % 2 == 1 {
            let packet = &block[28..28 + word(block, 20)];
            out.push(format!("{} {:016x}", packet.len(), hash(packet)));
        }
        rest = next;
    }
    out
}

#[test]
fn a_microcontroller_does_what_the_host_does() {
    let here = Command::new(QEMU).arg("--version").output().is_ok()
        && Command::new("arm-none-eabi-size").arg("--version").output().is_ok()
        && Command::new("rustup").args(["target", "add", TARGET]).output().is_ok_and(|added| added.status.success());
    if !here {
        assert!(std::env::var_os("CI").is_none(), "{QEMU}, binutils-arm-none-eabi and the target {TARGET} are needed");
        eprintln!("skipped: {QEMU}, binutils-arm-none-eabi or the target {TARGET} is missing");
        return;
    }
    let lines = logged(&core_directory().join("examples/firmware"));
    let packets: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("packet ")).collect();
    let verdicts = String::from_utf8(golden("verdicts")).unwrap();
    assert_eq!(packets.len(), verdicts.lines().count());
    for (number, (found, expected)) in packets.iter().zip(verdicts.lines()).enumerate() {
        assert_eq!(*found, expected, "packet {}", number + 1);
    }
    let leaves =
        |line: &&str| ["pass ", "accept ", "forward", "no-endpoints "].iter().any(|word| line.starts_with(word));
    let left = packets.iter().copied().filter(leaves).map(|line| line.split_once(' ').unwrap().1.to_owned());
    assert_eq!(left.collect::<Vec<_>>(), replayed(), "what leaves, and what leaves `lb replay`");

    let figures: BTreeMap<&str, u64> = lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, n)| Some((name, n.parse().ok()?)))
        .collect();
    for (name, figure) in &figures {
        println!("{name} {figure}");
    }
    // What .ci/no_panic reads off the code must hold when it runs, too.
    assert!(
        (1..=4096).contains(&figures["packet-stack"]) && (1..=4096).contains(&figures["init-stack"]),
        "{figures:?}"
    );
    assert!((100..20_000).contains(&figures["instructions-mean"]), "{figures:?}");
}
