//! `abi.c`, compiled as C11 and as C++17 under sanitizers, against what the Rust API makes of the same steps.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_core::control::{Control, Service, Slice};
use lb_core::{Balancer, Block, Counters, Direction, Instant, Meta, Origin, Packet, RuleTable, Verdict, blocks};

use crate::common::{cluster, frames, lab};

/// One step of both programs.
enum Step {
    Frame(Vec<u8>, Origin),
    Process(u64),
    Delta,
    Restart,
}

/// The objects before and after the change.
fn services(later: bool) -> Vec<(Service, Slice)> {
    let endpoints: &[&str] = if later { &["10.244.2.2 node-b"] } else { &["10.244.1.2 node-a", "10.244.2.2 node-b"] };
    let empty = (cluster::service("empty", "10.96.0.11", &["tcp:80"]), cluster::slice("empty", &["tcp:80"], &[]));
    vec![cluster::web(endpoints), empty]
}

fn image_and_delta() -> (Vec<u8>, Vec<u8>) {
    let mut control = Control::new(cluster::node());
    let put = |control: &mut Control, later| {
        for (service, slice) in services(later) {
            control.put_service(service);
            control.put_slice(slice);
        }
    };
    put(&mut control, false);
    let (mut image, mut delta) = (Vec::new(), Vec::new());
    assert!(control.delta(&mut image).unwrap());
    put(&mut control, true);
    assert!(control.delta(&mut delta).unwrap());
    (image, delta)
}

fn both(kind: &str, from: &str, to: &str) -> [Vec<u8>; 2] {
    let twin = |text: &str| cluster::twins(text);
    [frames::frame(kind, from, to), frames::frame(kind, &twin(from), &twin(to))]
}

/// New flows, replies, refusals, malformed packets, pings, strangers, fragments; more than a burst of them.
fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut frames_of = |frames: &[Vec<u8>]| {
        steps.extend(frames.iter().map(|frame| Step::Frame(frame.clone(), Origin::Wire)));
    };
    for client in 1..10 {
        frames_of(&both("S", &format!("203.0.113.{client}:4000"), "10.96.0.10:80"));
        frames_of(&both("udp", &format!("10.244.2.{client}:5000"), "198.51.100.7:53"));
    }
    steps.push(Step::Process(1_000_000_000));
    let mut frames_of = |frames: &[Vec<u8>]| {
        steps.extend(frames.iter().map(|frame| Step::Frame(frame.clone(), Origin::Pod)));
    };
    frames_of(&both("S", "203.0.113.1:4001", "10.96.0.11:80"));
    frames_of(&both("S", "203.0.113.1:4002", "10.96.0.10:81"));
    frames_of(&both("S", "203.0.113.1:4003", "203.0.113.2:81"));
    frames_of(&both("udp", "10.244.1.2:5353", "10.244.2.1:5000"));
    frames_of(&both("udp", "10.244.2.2:5353", "10.244.2.1:5000"));
    frames_of(&[
        frames::ping("203.0.113.1", "10.96.0.10"),
        frames::tagged(&both("SA", "10.244.1.2:8080", "192.0.2.10:4000")[0]),
    ]);
    let [datagram, _] = both("udp", "10.244.2.77:5000", "10.96.0.10:53");
    let mut later = datagram.clone();
    // More fragments come, this one begins at 8; the header's checksum is not the engine's business.
    (later[20], later[21]) = (0x20, 1);
    let mut first = datagram.clone();
    (first[20], first[21]) = (0x20, 0);
    frames_of(&[later, first, datagram[..20].to_vec(), vec![]]);
    steps.push(Step::Process(2_000_000_000));
    steps.push(Step::Delta);
    for client in 1..5 {
        for frame in both("udp", &format!("10.244.2.{client}:5000"), "198.51.100.7:53") {
            steps.push(Step::Frame(frame, Origin::Node));
        }
    }
    steps.extend([Step::Process(3_000_000_000), Step::Restart]);
    for frame in both("A", "203.0.113.3:4000", "10.96.0.10:80") {
        steps.push(Step::Frame(frame, Origin::Wire));
    }
    steps.push(Step::Process(4_000_000_000));
    steps
}

/// What `abi.c` reads.
fn written(steps: &[Step], image: &[u8], delta: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let chunk = |file: &mut Vec<u8>, head: &[u8], bytes: &[u8]| {
        file.extend_from_slice(head);
        file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        file.extend_from_slice(bytes);
    };
    chunk(&mut file, b"I", image);
    for step in steps {
        match step {
            Step::Frame(frame, origin) => chunk(&mut file, &[b'F', *origin as u8], frame),
            Step::Delta => chunk(&mut file, b"D", delta),
            Step::Process(now) => {
                file.push(b'P');
                file.extend_from_slice(&now.to_le_bytes());
            }
            Step::Restart => file.push(b'R'),
        }
    }
    file
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What becomes of the steps by the Rust API, in the words of `abi.c`.
fn expected(steps: &[Step], image: &[u8], delta: &[u8]) -> String {
    let mut out = String::new();
    let mut engine = lab::engine(lab::config(), lab::SIZES);
    engine.apply_rules(image).unwrap();
    let mut waiting: Vec<(Vec<u8>, Origin)> = Vec::new();
    for step in steps {
        match step {
            Step::Frame(frame, origin) => waiting.push((frame.clone(), *origin)),
            Step::Delta => engine.apply_rules(delta).unwrap(),
            Step::Process(now) => {
                let now = Instant::from_nanos(*now);
                let mut packets: Vec<_> = waiting
                    .iter_mut()
                    .map(|(frame, origin)| Packet::new(frame, Meta { origin: *origin, ..Meta::default() }))
                    .collect();
                engine.process_batch(now, &mut packets);
                packets.iter().for_each(|packet| tell(&mut out, &mut engine, now, packet));
                waiting.clear();
            }
            Step::Restart => {
                let rules = RuleTable::load(image.to_vec()).unwrap();
                let memory = vec![Block::ZERO; blocks(lab::SIZES)].leak();
                let mut next = Balancer::new(lab::config(), lab::SIZES, memory, rules).unwrap();
                for flow in engine.flows() {
                    let (from, to) = (flow.original, flow.reply);
                    let id = next.restore(&flow).unwrap().as_u32();
                    let state = flow.state as u8;
                    writeln!(
                        out,
                        "flow {id} {}:{} {}:{} protocol {} state {state} masqueraded {} deadline {} packets {}",
                        hex(&from.source.octets()),
                        from.source_port,
                        hex(&to.source.octets()),
                        to.source_port,
                        to.protocol.0,
                        u8::from(flow.masqueraded),
                        flow.deadline.as_nanos(),
                        flow.packets[0],
                    )
                    .unwrap();
                }
                engine = next;
            }
        }
    }
    tell_counters(&mut out, engine.counters());
    writeln!(out, "forgotten {}", engine.expire(Instant::from_secs(365 * 86400), 1000)).unwrap();
    out
}

fn tell(out: &mut String, engine: &mut lab::Engine, now: Instant, packet: &Packet<'_>) {
    let verdict = packet.verdict;
    let (action, flow, way, datagram) = match verdict {
        Verdict::Pass => (0, 0, 0, 0),
        Verdict::Accept => (1, 0, 0, 0),
        Verdict::Forward { flow, direction } => (2, flow.as_u32(), u8::from(direction == Direction::Reply), 0),
        Verdict::Hold(datagram) => (3, 0, 0, datagram.as_u64()),
        Verdict::Drop(_) => (4, 0, 0, 0),
        Verdict::Reject(_) => (5, 0, 0, 0),
        Verdict::Elsewhere(_) => (6, 0, 0, 0),
    };
    let releases = packet.releases.map_or(0, |datagram| datagram.as_u64());
    let label = Verdict::label(verdict.code()).unwrap();
    let bytes = hex(packet.data);
    writeln!(
        out,
        "{label} action {action} flow {flow} direction {way} datagram {datagram:x} releases {releases:x} {bytes}"
    )
    .unwrap();
    if let Verdict::Reject(reason) = verdict {
        let mut reply = [0; 2048];
        let length = engine.write_reply(now, packet, reason, &mut reply).unwrap();
        writeln!(out, "reply {}", hex(&reply[..length])).unwrap();
    }
}

fn tell_counters(out: &mut String, counters: &Counters) {
    let named = [
        ("packets", counters.packets()),
        ("flows-created", counters.flows_created),
        ("flows-expired", counters.flows_expired),
        ("flows-evicted", counters.flows_evicted),
        ("flows-reselected", counters.flows_reselected),
        ("flows-cut", counters.flows_cut),
        ("ports-changed", counters.ports_changed),
        ("port-tries", counters.port_tries),
        ("replies-limited", counters.replies_limited),
    ];
    let codes = (0..=255).filter_map(|code| Some((Verdict::label(code)?, counters.verdict(code))));
    for (name, count) in named.into_iter().chain(codes) {
        writeln!(out, "{name} {count}").unwrap();
    }
}

/// Runs a command to its end; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The static library by its documented command, and a directory beside it for what is made with it.
fn library() -> (PathBuf, PathBuf) {
    let said = run(Command::new("make").arg("-s").arg("-C").arg(top().join("lb-core")));
    let library = PathBuf::from(said.lines().last().unwrap());
    let place = library.parent().unwrap().join("c_abi");
    std::fs::create_dir_all(&place).unwrap();
    (library, place)
}

/// Whether a C compiler is here; in CI it must be.
fn has_compilers() -> bool {
    let here = ["cc", "c++", "make", "nm"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    assert!(here || std::env::var_os("CI").is_none(), "cc, c++, make and nm are needed");
    if !here {
        eprintln!("skipped: cc, c++, make or nm is missing (Debian: gcc g++ make binutils)");
    }
    here
}

#[test]
fn c_and_cpp_get_what_rust_gets() {
    if !has_compilers() {
        return;
    }
    let (library, place) = library();
    let (image, delta) = image_and_delta();
    let steps = steps();
    let file = place.join("steps");
    std::fs::write(&file, written(&steps, &image, &delta)).unwrap();
    let expected = expected(&steps, &image, &delta);
    for word in
        ["forward ", "forward-reply ", "no-endpoints ", "unmatched-port ", "pass ", "hold ", "truncated ", "reply "]
    {
        assert!(expected.lines().any(|line| line.starts_with(word)), "no step leads to `{word}`\n{expected}");
    }
    for (compiler, standard) in [("cc", ["-xc", "-std=c11"]), ("c++", ["-xc++", "-std=c++17"])] {
        let program = place.join(standard[1].trim_start_matches("-std="));
        run(Command::new(compiler)
            .args(standard)
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-fsanitize=address,undefined"])
            .arg("-fno-sanitize-recover=all")
            .arg("-I")
            .arg(top().join("lb-core/include"))
            .arg(top().join("tests/c_abi/abi.c"))
            .args(["-xnone".as_ref(), library.as_os_str(), "-o".as_ref(), program.as_os_str()]));
        // The memory of balancers and rules is never given back, as there would be no point.
        let found = run(Command::new(&program).arg(&file).env("ASAN_OPTIONS", "detect_leaks=0"));
        for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "{standard:?}, line {}", line + 1);
        }
        assert_eq!(found.lines().count(), expected.lines().count());
    }
}

#[test]
fn the_library_exports_what_the_header_says_and_nothing_else_of_ours() {
    if !has_compilers() {
        return;
    }
    let (library, _) = library();
    let header = std::fs::read_to_string(top().join("lb-core/include/lb_core.h")).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|line| !line.trim_start().starts_with(['*', '/', '#']))
        .flat_map(|line| line.match_indices('(').map(move |(at, _)| &line[..at]))
        .filter_map(|before| before.rsplit(|c| !is_name(c)).next())
        .filter(|name| name.starts_with("lb_"))
        .collect();
    let symbols = Command::new("nm").args(["-g", "--defined-only"]).arg(&library).output().unwrap();
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    let mut exported: Vec<&str> = Vec::new();
    let mut ours = false;
    for line in symbols.lines() {
        if let Some(member) = line.strip_suffix(':') {
            ours = member.starts_with("lb_core");
        } else if let (true, [_, _, name]) = (ours, line.split(' ').collect::<Vec<_>>().as_slice()) {
            exported.push(name);
        }
    }
    // What Rust itself asks for, for whoever links several Rust libraries.
    exported.retain(|name| !name.starts_with("_R") || !name.contains("___rustc"));
    declared.sort_unstable();
    exported.sort_unstable();
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(exported, declared);
}
