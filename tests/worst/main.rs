//! The packets that cost most: every loop that a packet can make longer ends at a bound that can be seen from outside, and what the
//! worst of each comes to is counted, in instructions, by callgrind. `cargo test --test worst -- --nocapture` prints
//! the table that ARCHITECTURE.md has.

#[path = "../common/mod.rs"]
mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::cluster::{both, node, prefix, service, slice, twins, web};
use common::frames::{self, ETHERNET, fragments, frame, frame_with, tagged};
use common::lab::{Lab, SIZES, config};
use etherparse::IpNumber;
use lb_core::control::{Control, Node, Proxy, Service, Slice};
use lb_core::pick::Scheduler;
use lb_core::{Sizes, Verdict};

const CLIENT: &str = "10.244.2.9:40000";
const VIP: &str = "10.96.0.10:80";
const DNS: &str = "10.96.0.10:53";
const PODS: [&str; 3] = ["10.244.1.2 node-a", "10.244.1.3 node-a", "10.244.2.7 node-b"];

/// An IPv6 frame with this many Destination Options headers (RFC 8200 §4.6) of this many bytes each.
fn extended(frame: &[u8], count: usize, length: usize) -> Vec<u8> {
    const OPTIONS: u8 = 60;
    let (head, payload) = frame.split_at(ETHERNET + 40);
    let mut out = head.to_vec();
    let next = std::mem::replace(&mut out[ETHERNET + 6], if count > 0 { OPTIONS } else { head[ETHERNET + 6] });
    let total = (payload.len() + count * length) as u16;
    out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&total.to_be_bytes());
    for n in 1..=count {
        out.extend([if n == count { next } else { OPTIONS }, (length / 8 - 1) as u8]);
        // Padding options of six bytes at most (§4.2).
        let mut rest = length - 2;
        while rest > 0 {
            let option = rest.min(8);
            out.extend([1, option as u8 - 2]);
            out.extend(vec![0; option - 2]);
            rest -= option;
        }
    }
    out.extend(payload);
    out
}

/// What a router says of a packet, and quotes all of it.
fn error(about: &[u8], v6: bool) -> Vec<u8> {
    let sender = frames::addresses(&frames::sliced(about, true)).0;
    let router = if v6 { "2001:db8:c::1" } else { "203.0.113.1" };
    let ip = frames::ethernet(frames::ip_headers(router.parse().unwrap(), sender));
    let mut out = Vec::new();
    if v6 {
        ip.icmpv6_raw(3, 0, [0; 4]).write(&mut out, &about[ETHERNET..])
    } else {
        ip.icmpv4_raw(11, 0, [0; 4]).write(&mut out, &about[ETHERNET..])
    }
    .unwrap();
    out
}

/// An SCTP packet with one chunk of this type and as much padding.
fn sctp(kind: u8, from: &str, to: &str, length: usize) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut payload = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    payload.extend([0, 0, 0, 1, 0, 0, 0, 0, kind, 0]);
    payload.extend((length as u16 - 12).to_be_bytes());
    payload.resize(length, 0);
    let mut out = Vec::new();
    let ip = frames::ethernet(frames::ip_headers(from.ip(), to.ip()));
    ip.write(&mut out, IpNumber::SCTP, &payload).unwrap();
    out
}

/// Pieces of 8 bytes at every other place: nothing joins them.
fn scattered(to: &str, identification: u32, count: usize) -> Vec<Vec<u8>> {
    let cuts: Vec<usize> = (1..40).map(|n| n * 8).collect();
    let pieces = fragments(&frame_with("udp", CLIENT, to, &[7; 600]), &cuts, identification);
    pieces.into_iter().step_by(2).take(count).collect()
}

fn word(verdict: Verdict) -> &'static str {
    Verdict::label(verdict.code()).unwrap()
}

#[test]
fn what_is_walked_over_has_an_end_with_a_name() {
    let v6 = |kind| frame(kind, &twins(CLIENT), &twins(VIP));
    let v4 = frame("S", CLIENT, VIP);
    for (what, frame, expected) in [
        ("no tag", v4.clone(), "forward"),
        ("two VLAN tags", tagged(&tagged(&v4)), "forward"),
        ("three are no IP", tagged(&tagged(&tagged(&v4))), "pass"),
        ("eight extension headers", extended(&v6("S"), 8, 8), "forward"),
        ("eight of the longest there are", extended(&v6("S"), 8, 2048), "forward"),
        ("nine", extended(&v6("S"), 9, 8), "too-many-extensions"),
        ("a thousand", extended(&v6("S"), 1000, 8), "too-many-extensions"),
    ] {
        let mut lab = Lab::web(&PODS);
        assert_eq!(word(lab.send(&frame).verdict), expected, "{what}");
    }
    // What an error quotes is walked over as far, and no error within an error.
    for (outer, quoted, expected) in
        [(0, 0, "forward-reply"), (8, 8, "forward-reply"), (0, 9, "pass"), (9, 0, "too-many-extensions")]
    {
        let mut lab = Lab::web(&PODS);
        let sent = lab.send(&v6("S"));
        let told = extended(&error(&extended(&sent.frame, quoted, 8), true), outer, 8);
        assert_eq!(word(lab.send(&told).verdict), expected, "{outer} headers, and {quoted} quoted");
        assert_eq!(word(lab.send(&error(&told, true)).verdict), "pass", "an error about an error");
    }
}

#[test]
fn a_datagram_may_have_so_many_gaps_and_the_store_so_many_datagrams() {
    let mut lab = Lab::web(&PODS);
    let words: Vec<_> = scattered(DNS, 1, 9).iter().map(|piece| word(lab.send(piece).verdict)).collect();
    assert_eq!(words[..8], ["forward"; 8]);
    assert_eq!(words[8], "fragment-table-full");
    let sizes = Sizes { fragments: 16, ..SIZES };
    let mut lab = Lab::with(config(), sizes, node(), [web(&PODS)]);
    let words: Vec<_> = (0..17).map(|n| word(lab.send(&scattered(DNS, n, 1)[0]).verdict)).collect();
    assert_eq!(words[..16], ["forward"; 16]);
    assert_eq!(words[16], "fragment-table-full");
}

/// A node with so few ports to masquerade with that they can be used up.
fn narrow(ports: u16) -> Node {
    Node { proxy: Proxy { reserved_ports: (1024 + ports, u16::MAX), ..node().proxy }, ..node() }
}

fn outsider(n: u16) -> String {
    format!("203.0.113.{}:{}", 1 + n % 250, 2000 + n)
}

#[test]
fn ports_are_looked_for_so_often_and_no_oftener() {
    for (ports, tries) in [(1, 1), (100, 8 + 100), (200, 248), (1000, 248)] {
        let sizes = Sizes { v4_flows: 2048, ..SIZES };
        let mut lab = Lab::with(config(), sizes, narrow(ports), [web(&PODS[..1])]);
        // Random starts leave gaps that a search may miss: dialled again and again until every port is taken.
        let mut client = 0;
        while lab.engine.counters().flows_created < u64::from(ports) {
            lab.send(&frame("udp", &outsider(client), DNS));
            client += 1;
            assert!(client < 20_000, "{ports} ports never fill up");
        }
        let tries_of_one = |lab: &mut Lab| {
            let before = lab.engine.counters().port_tries;
            assert_eq!(word(lab.send(&frame("udp", &outsider(client), DNS)).verdict), "no-port");
            lab.engine.counters().port_tries - before
        };
        lab.now += 1000;
        for _ in 0..1000 {
            assert_eq!(tries_of_one(&mut lab), tries, "of {ports} ports");
        }
        // A second has no more long searches that find nothing.
        assert_eq!(tries_of_one(&mut lab), tries.min(8), "of {ports} ports, once more");
        lab.now += 1;
        assert_eq!(
            [(); 2].map(|()| tries_of_one(&mut lab)),
            [tries, tries.min(8)],
            "of {ports} ports, a thousandth later"
        );
    }
}

#[test]
fn a_sweep_looks_at_its_budget() {
    let mut lab = Lab::web(&PODS);
    for n in 0..50 {
        assert_eq!(word(lab.send(&frame("udp", &format!("10.244.2.9:{}", 1000 + n), DNS)).verdict), "forward");
    }
    lab.now = 86_400_000;
    for budget in [0, 1, 7, 42] {
        let flows = lab.engine.flows().count();
        let forgotten = lab.engine.expire(lab.instant(), budget);
        assert!(forgotten <= budget && flows - lab.engine.flows().count() == forgotten, "{forgotten} of {budget}");
    }
}

/// Packets that bring a balancer into some state, and then the one that is counted.
struct Case {
    what: &'static str,
    node: Node,
    objects: Vec<(Service, Slice)>,
    sizes: Sizes,
    before: Vec<Vec<u8>>,
    packet: Vec<u8>,
    verdict: &'static str,
    /// What is counted: `lb_process_batch`, or `lb_steer` as one of two cores calls it.
    call: &'static str,
    /// As many packets' worth of a known flow's as it may cost.
    times: u64,
}

const ROOMY: Sizes = Sizes { v4_flows: 4096, v6_flows: 4096, affinity: 64, ..SIZES };

fn case(what: &'static str, before: Vec<Vec<u8>>, packet: Vec<u8>, verdict: &'static str, times: u64) -> Case {
    let (node, objects, call) = (node(), vec![web(&PODS[..1])], "lb_process_batch");
    Case { what, node, objects, sizes: ROOMY, before, packet, verdict, call, times }
}

/// A packet whose core is to be told.
fn steered(what: &'static str, packet: Vec<u8>, times: u64) -> Case {
    Case { call: "lb_steer", ..case(what, vec![], packet, "", times) }
}

fn scheduled(scheduler: Scheduler) -> Node {
    Node { proxy: Proxy { scheduler, ..node().proxy }, ..node() }
}

fn pods(count: usize) -> (Service, Slice) {
    let pods: Vec<_> = (0..count).map(|n| format!("10.244.{}.{} node-a", 1 + n / 200, 1 + n % 200)).collect();
    web(&pods.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What is told to whoever sent a packet that left for the one pod of `PODS[..1]`.
fn told(kind: &str, from: &str, to: &str, headers: usize) -> Vec<u8> {
    let v6 = from.starts_with('[');
    let mut about = frame(kind, from, to);
    if v6 {
        about = extended(&about, headers, 8);
    }
    let told = error(&about, v6);
    if v6 { extended(&told, headers, 8) } else { told }
}

fn cases() -> Vec<Case> {
    let (syn, syn6) = (frame("S", CLIENT, VIP), frame("S", &twins(CLIENT), &twins(VIP)));
    let (ack, ack6) = (frame("A", CLIENT, VIP), frame("A", &twins(CLIENT), &twins(VIP)));
    let mut options = ack.clone();
    // 40 bytes of them, all "no operation" (RFC 791 §3.1).
    options[ETHERNET] = 0x4f;
    options.splice(ETHERNET + 20..ETHERNET + 20, [1; 40]);
    let length = (options.len() - ETHERNET) as u16;
    options[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
    let udp = frame("udp", CLIENT, DNS);
    let strangers = |count: u16| (0..count).map(|n| frame("udp", &outsider(n), DNS)).collect::<Vec<_>>();
    let affine = |(service, slice)| (Service { affinity: Some(100), ..service }, slice);
    let guarded = {
        let (service, slice) = web(&PODS[..1]);
        let source_ranges = (0..100).map(|n| prefix(&format!("10.{n}.0.0/24"))).collect();
        (Service { load_balancer_ips: both("198.51.100.8"), source_ranges, ..service }, slice)
    };
    let stream = (service("web", "10.96.0.10", &["sctp:80"]), slice("web", &["sctp:8080"], &PODS[..1]));
    let full = |n: u32| (0..n).map(|n| scattered(DNS, n, 1).remove(0)).collect::<Vec<_>>();
    let tight = Sizes { v4_flows: 8, v6_flows: 8, ..SIZES };
    vec![
        case("a known flow, v4", vec![syn.clone()], ack.clone(), "forward", 1),
        case("a known flow, v6", vec![syn6.clone()], ack6.clone(), "forward", 2),
        case("two VLAN tags, 40 bytes of IPv4 options", vec![syn.clone()], tagged(&tagged(&options)), "forward", 10),
        case("8 extension headers", vec![syn6.clone()], extended(&ack6, 8, 8), "forward", 10),
        case("8 of 2048 bytes each", vec![syn6.clone()], extended(&ack6, 8, 2048), "forward", 10),
        case("9 of them", vec![syn6.clone()], extended(&ack6, 9, 8), "too-many-extensions", 10),
        case("an ICMP error", vec![syn.clone()], told("S", CLIENT, "10.244.1.2:8080", 0), "forward-reply", 20),
        case(
            "an ICMPv6 error, 8 headers, 8 more in its quote",
            vec![syn6.clone()],
            told("S", &twins(CLIENT), &twins("10.244.1.2:8080"), 8),
            "forward-reply",
            20,
        ),
        case("a first fragment", vec![frame("udp", CLIENT, DNS)], scattered(DNS, 1, 1).remove(0), "forward", 20),
        case("the eighth piece, joined to none", scattered(DNS, 1, 7), scattered(DNS, 1, 8).remove(7), "forward", 20),
        case("the ninth", scattered(DNS, 1, 8), scattered(DNS, 1, 9).remove(8), "fragment-table-full", 20),
        case("a fragment, the store full", full(16), scattered(DNS, 99, 1).remove(0), "fragment-table-full", 20),
        Case {
            objects: vec![stream],
            ..case("SCTP, 1400 bytes", vec![sctp(1, CLIENT, VIP, 40)], sctp(0, CLIENT, VIP, 1400), "forward", 20)
        },
        case("a new flow", vec![syn.clone()], frame("S", "10.244.2.9:40001", VIP), "forward", 20),
        Case {
            node: scheduled(Scheduler::Maglev),
            objects: vec![pods(250)],
            ..case("a new flow, maglev, 250 endpoints", vec![], syn6.clone(), "forward", 20)
        },
        Case {
            node: scheduled(Scheduler::LeastConnections),
            objects: vec![pods(1)],
            ..case("a new flow, lc, 1 endpoint", vec![], syn.clone(), "forward", 20)
        },
        Case {
            node: scheduled(Scheduler::LeastConnections),
            objects: vec![pods(250)],
            ..case("a new flow, lc, 250 endpoints, each busy", strangers(250), udp, "forward", 1000)
        },
        Case {
            objects: vec![affine(pods(250))],
            sizes: Sizes { affinity: 16, ..ROOMY },
            ..case("a new flow, affinity full, 250 endpoints", strangers(64), syn.clone(), "forward", 40)
        },
        Case {
            objects: vec![guarded],
            ..case("in none of 100 source ranges", vec![], frame("S", CLIENT, "198.51.100.8:80"), "source-range", 60)
        },
        Case { sizes: tight, ..case("a new flow for one evicted", strangers(64), syn.clone(), "forward", 30) },
        Case {
            node: narrow(2000),
            ..case("a new flow, masqueraded", vec![syn], frame("udp", &outsider(7), DNS), "forward", 20)
        },
        Case {
            node: narrow(300),
            ..case("a new flow, no port among 248", strangers(700), frame("udp", &outsider(9999), DNS), "no-port", 400)
        },
        Case {
            node: narrow(300),
            ..case("the same after 1000 of them", strangers(4000), frame("udp", &outsider(9999), DNS), "no-port", 20)
        },
        Case {
            node: narrow(300),
            ..case(
                "a new flow, no port among 248, v6",
                (0..700).map(|n| frame("udp", &twins(&outsider(n)), &twins(DNS))).collect(),
                frame("udp", &twins(&outsider(9999)), &twins(DNS)),
                "no-port",
                500,
            )
        },
        steered("steered: a client's, v4", ack.clone(), 2),
        steered("steered: a client's, v6", ack6, 2),
        steered("steered: to the node", frame("A", "10.244.1.2:8080", "192.0.2.10:5000"), 3),
        steered("steered: a fragment", scattered(DNS, 1, 2).remove(1), 3),
        steered("steered: an error", told("S", CLIENT, "10.244.1.2:8080", 0), 4),
    ]
}

/// Instructions of one call, its verdict and the ports looked at.
fn counted(case: &Case, place: &Path, program: &Path) -> (u64, String) {
    let mut control = Control::new(case.node.clone());
    for (service, slice) in &case.objects {
        control.put_service(service.clone());
        control.put_slice(slice.clone());
    }
    let _ = std::fs::remove_dir_all(place);
    std::fs::create_dir_all(place).unwrap();
    let (image, batches, out) = (place.join("image"), place.join("batches"), place.join("out"));
    std::fs::write(&image, control.image().unwrap()).unwrap();
    let number = |n: usize| (n as u32).to_le_bytes();
    let mut bytes = Vec::new();
    for batch in [&case.before[..], std::slice::from_ref(&case.packet)].into_iter().filter(|batch| !batch.is_empty()) {
        bytes.extend(number(batch.len()));
        for packet in batch {
            bytes.extend(number(packet.len()));
            bytes.extend(packet);
        }
    }
    std::fs::write(&batches, bytes).unwrap();
    let Sizes { v4_flows, v6_flows, affinity, fragments, .. } = case.sizes;
    let said = run(Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", &format!("--toggle-collect={}", case.call)])
        .args([format!("--dump-after={}", case.call), format!("--callgrind-out-file={}", out.display())])
        .arg(program)
        .args([&image, &batches])
        .args([v4_flows, v6_flows, affinity, fragments].map(|n| n.to_string()))
        .arg(if case.call == "lb_steer" { "2" } else { "1" }));
    let dump = place.join(format!("out.{}", said.lines().count()));
    let dump = std::fs::read_to_string(&dump).unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
    let total = dump.lines().find_map(|line| line.strip_prefix("totals: ")).expect("callgrind's sum");
    (total.trim().parse().unwrap(), said.lines().last().unwrap().to_owned())
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_worst_packets_cost() {
    let here = ["valgrind", "cc", "make"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !here {
        assert!(std::env::var_os("CI").is_none(), "valgrind, cc and make are needed");
        eprintln!("skipped: valgrind, cc or make is missing (Debian: valgrind gcc make)");
        return;
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = run(Command::new("make").arg("-s").arg("-C").arg(top.join("lb-core")));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("worst");
    std::fs::create_dir_all(&place).unwrap();
    let program = place.join("program");
    run(Command::new("cc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(top.join("lb-core/include"))
        .arg(top.join("tests/worst/worst.c"))
        .arg(made.lines().last().unwrap())
        .arg("-o")
        .arg(&program));
    let mut known = 0;
    println!("{:>12} {:>6}  packet and its verdict, of a call with this packet alone", "instructions", "times");
    for (number, case) in cases().iter().enumerate() {
        let (cost, said) = counted(case, &place.join(number.to_string()), &program);
        if number == 0 {
            known = cost;
        }
        let (verdict, tries) = said.split_once(' ').unwrap();
        let tries = if tries == "0" { String::new() } else { format!(", {tries} ports looked at") };
        let outcome = if case.call == "lb_steer" { String::new() } else { format!(": {verdict}{tries}") };
        println!("{cost:>12} {:>6.1}  {}{outcome}", cost as f64 / known as f64, case.what);
        assert!(case.call == "lb_steer" || verdict == case.verdict, "{}: {verdict}", case.what);
        assert!(cost <= known * case.times, "{}: {cost} instructions, {} times {known} allowed", case.what, case.times);
    }
}
