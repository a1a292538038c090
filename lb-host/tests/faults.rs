//! Faults of the host and of its files: processes that are killed, texts that grow without end, captures that lie. Nothing half
//! written stays, and memory is bounded by what was given.
//!
//! `cargo test --release -p lb-host --test faults -- --nocapture --include-ignored` prints what 100,000 services cost.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_host::k8s::{Cluster, Manifests, Taken};

/// `lb` with at most so many mebibytes of address space.
fn limited(mebibytes: u32, arguments: &str, directory: &Path) -> Command {
    let lb = env!("CARGO_BIN_EXE_lb");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v {}; exec {lb} {arguments}", mebibytes * 1024)]).current_dir(directory);
    shell
}

#[test]
fn a_killed_replay_leaves_nothing() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("out.pcapng"), "what was there").unwrap();
    for signal in ["TERM", "INT", "KILL"] {
        // Standard input never ends, so that it is killed in the midst of its work.
        let mut lb = Command::new(env!("CARGO_BIN_EXE_lb"))
            .args(["replay", "-", "-f", examples, "--node", "worker-1", "-o", "out.pcapng", "--log", "log"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let capture = fs::read(format!("{examples}/walk.pcap")).unwrap();
        lb.stdin.as_mut().unwrap().write_all(&capture[..capture.len() / 2]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(lb.try_wait().unwrap().is_none(), "it was to wait for more");
        let kill = Command::new("kill").args(["-s", signal, &lb.id().to_string()]).status().unwrap();
        assert!(kill.success() && !lb.wait().unwrap().success());
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["out.pcapng"], "after SIG{signal}");
        assert_eq!(fs::read(directory.path().join("out.pcapng")).unwrap(), b"what was there");
    }
}

/// On a stack as the main thread's, on which `lb` reads: unoptimised, what serde derives takes some 30 KB a level.
#[test]
fn texts_that_explode_are_refused() {
    std::thread::Builder::new().stack_size(8 << 20).spawn(explode).unwrap().join().unwrap();
}

/// A line a text: what is wrong with it must be said, at once.
fn explode() {
    let laughs: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(10)))
        .fold("a0: &a0 [lol]\n".to_owned(), |text, line| text + &line);
    let merges: String = (1..30)
        .map(|n| format!("a{n}: &a{n} {{<<: *a{}, b{n}: *a{}}}\n", n - 1, n - 1))
        .fold("a0: &a0 {b: c}\n".to_owned(), |text, line| text + &line);
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let indented = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    for (name, text) in [
        ("aliases of aliases", laughs),
        ("merges of merges", merges),
        ("an alias of itself", "a: &a [*a]".to_owned()),
        ("lists in lists", deep("[", "]")),
        ("maps in maps", deep("{a: ", "}")),
        ("lists of dashes", "- ".repeat(100_000)),
        ("ever further to the right", indented),
        ("a key as long as the file", format!("? {}\n: b", "x".repeat(1 << 20))),
        ("documents without end", "---\n".repeat(200_000) + "a"),
    ] {
        let mut manifests = Manifests::default();
        let told = manifests.add("bomb.yaml", &text).map(|()| Cluster::new(manifests, &Taken::AsWritten).map(drop));
        let refused = !matches!(told, Ok(Ok(())));
        assert!(refused || name.starts_with("documents"), "{name}: taken for objects");
    }
}

/// Captures that claim or unpack to more than there is: read to where they lie, in 256 MiB of address space.
#[test]
fn captures_that_lie_take_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed");
    let header = |snap: u32| {
        let words = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, snap, 1];
        words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let claims = [header(u32::MAX), [0, 0, 0x7fff_ffffu32, 0x7fff_ffff].map(u32::to_le_bytes).concat()].concat();
    let zeros = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&header(65_535)).unwrap();
        // Records of no octets, sixteen each.
        (0..4).for_each(|_| packed.write_all(&vec![0; 1 << 20]).unwrap());
        packed.finish().unwrap()
    };
    let block = |kind: u32, length: u32| [kind.to_le_bytes(), length.to_le_bytes()].concat();
    let section = [
        block(0x0a0d_0d0a, 28),
        0x1a2b_3c4du32.to_le_bytes().to_vec(),
        vec![1, 0, 0, 0],
        vec![0xff; 8],
        28u32.to_le_bytes().to_vec(),
    ]
    .concat();
    let long_block = [section.clone(), block(6, 0xffff_fff0)].concat();
    let interfaces = [
        &section[..],
        &[block(1, 20), vec![1, 0, 0, 0, 0, 0, 4, 0], 20u32.to_le_bytes().to_vec()].concat().repeat(50_000),
    ]
    .concat();
    for (name, capture, fails) in [
        ("a record of two gigabytes", claims, true),
        ("much out of little", zeros, false),
        ("a block of four gigabytes", long_block, true),
        ("50,000 interfaces", interfaces, false),
    ] {
        fs::write(directory.path().join("in"), capture).unwrap();
        let command = format!("replay in -f {examples} --node worker-1 -o out");
        let run = limited(256, &command, directory.path()).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.code().is_some_and(|code| (code != 0) == fails), "{name}: {:?}: {said}", run.status);
        assert!(!said.contains("panicked") && !said.contains("memory allocation"), "{name}: {said}");
    }
}

/// So many services with two endpoints each.
fn many_services(count: u32) -> String {
    (0..count)
        .map(|n| {
            let (a, b, c) = (n >> 16, n >> 8 & 255, n & 255);
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{clusterIP: 10.{}.{b}.{c}, ports: [{{port: 80}}]}}}}\n---\n\
                 {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: s{n}-1, labels: \
                 {{kubernetes.io/service-name: s{n}}}}}, ports: [{{name: '', port: 8080, protocol: TCP}}], \
                 endpoints: [{{addresses: [11.{a}.{b}.{c}]}}, {{addresses: [12.{a}.{b}.{c}]}}]}}\n---\n",
                96 + a
            )
        })
        .collect()
}

#[test]
fn a_thousand_services_take_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("many.yaml"), many_services(1000)).unwrap();
    let run = limited(96, "compile -f many.yaml -o out", directory.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let image = fs::read(directory.path().join("out")).unwrap();
    assert_eq!(lb_core::RuleTable::load(image).unwrap().segments().count(), 1000);
}

#[test]
#[ignore = "prints times, and takes long without --release"]
fn a_hundred_thousand_services() {
    const COUNT: u32 = 100_000;
    #[allow(clippy::disallowed_methods, reason = "a stopwatch")]
    let now = std::time::Instant::now;
    let text = many_services(COUNT);
    let start = now();
    let mut manifests = Manifests::default();
    manifests.add("many.yaml", &text).unwrap();
    let cluster = Cluster::new(manifests, &Taken::AsWritten).unwrap();
    let read = now() - start;
    let node = cluster.node(None, &lb_host::k8s::Settings::default()).unwrap();
    let start = now();
    let image = lb_host::rules::control(&cluster.services, &cluster.slices, node).image().unwrap();
    assert_eq!(lb_core::RuleTable::load(image.as_slice()).unwrap().segments().count(), COUNT as usize);
    let compiled = now() - start;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!(
        "100,000 services, 200,000 endpoints in {} MB of YAML: read in {read:.1?}, compiled in {compiled:.1?}, {} MB at most",
        text.len() / 1_000_000,
        peak / 1000
    );
}
