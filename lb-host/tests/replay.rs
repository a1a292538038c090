//! What a replay writes, counts and compares, as a library and as `lb replay`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};
use lb_core::{Balancer, Block, Config, Protocol, Sizes, blocks};
use lb_host::device::capture::{Reader, Record, Side, Writer};
use lb_host::device::link;
use lb_host::replay::{self, Options, golden};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block as NgBlock, PcapNgReader};

mod world;

use world::{Frontend, Reached, replay, rules, v4};

const CLIENT: [u8; 4] = [203, 0, 113, 7];
const VIP: [u8; 4] = [198, 51, 100, 80];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 99];
/// When the captures of this file begin.
const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn services() -> BTreeSet<Frontend> {
    BTreeSet::from([(v4(VIP), Protocol::TCP, 80), (v4(VIP), Protocol::UDP, 53)])
}

/// A UDP datagram of so many bytes, without a link header.
fn udp(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), length: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let payload = vec![0x5a; length];
    PacketBuilder::ipv4(source, destination, 64).udp(ports.0, ports.1).write(&mut packet, &payload).unwrap();
    packet
}

fn question() -> Vec<u8> {
    udp(CLIENT, VIP, (5353, 53), 8)
}

/// A later fragment, the first after the first.
fn fragment(identification: u16) -> Vec<u8> {
    fragment_at(identification, 2)
}

fn fragment_at(identification: u16, eighths: u16) -> Vec<u8> {
    let mut header = etherparse::Ipv4Header::new(8, 64, etherparse::IpNumber::UDP, CLIENT, VIP).unwrap();
    header.identification = identification;
    header.more_fragments = eighths < 3;
    header.fragment_offset = etherparse::IpFragOffset::try_new(eighths).unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &[9; 8]].concat()
}

fn first_fragment(identification: u16) -> Vec<u8> {
    let whole = udp(CLIENT, VIP, (5353, 53), 16);
    let mut header = etherparse::Ipv4Header::new(16, 64, etherparse::IpNumber::UDP, CLIENT, VIP).unwrap();
    header.identification = identification;
    header.more_fragments = true;
    header.header_checksum = header.calc_header_checksum();
    [&header.to_bytes()[..], &whole[20..36]].concat()
}

/// A capture of packets of these times and link types.
fn capture(packets: impl IntoIterator<Item = (u64, u16, Vec<u8>)>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for (time, link_type, data) in packets {
        let record = Record { time: Some(time), link_type, original_length: data.len() as u32, data: &data };
        writer.write(Side::Ingress, &record, "").unwrap();
    }
    writer.finish().unwrap()
}

fn raw(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    capture(packets.into_iter().enumerate().map(|(n, data)| (START + n as u64 * SECOND, link::RAW, data)))
}

/// A packet of an output, by another reader: interface, bytes, comment.
fn told(output: &[u8]) -> Vec<(&'static str, Vec<u8>, String)> {
    let mut reader = PcapNgReader::new(output).unwrap();
    let mut told = Vec::new();
    while let Some(block) = reader.next_block() {
        let (NgBlock::EnhancedPacket(packet), _) = block.unwrap() else { continue };
        let comment = match &packet.options[..] {
            [EnhancedPacketOption::Common(CommonOption::Comment(comment))] => comment.to_string(),
            _ => String::new(),
        };
        let side = if packet.interface_id.is_multiple_of(2) { "ingress" } else { "egress" };
        told.push((side, packet.data.into_owned(), comment));
    }
    told
}

fn sides_and_comments(output: &[u8]) -> Vec<String> {
    told(output).into_iter().map(|(side, _, comment)| format!("{side}: {comment}")).collect()
}

#[test]
fn an_output_tells_what_became_of_each_packet() {
    let input = capture([
        (START, link::RAW, question()),
        (START, link::RAW, udp(CLIENT, ELSEWHERE, (1, 2), 3)),
        (START, link::RAW, vec![0x45, 0, 0]),
        // Four words of header, when no IPv4 header has less than five (RFC 791 §3.1).
        (START, link::RAW, vec![0x44; 40]),
        (START, link::RAW, fragment(7)),
        // LINKTYPE_USB_LINUX, of which the engine knows nothing.
        (START, 189, vec![1, 2, 3]),
    ]);
    let (summary, output) = replay(&input, rules(&services(), Reached::ByClusterIp), false);
    let comments = sides_and_comments(&output);
    let expected = [
        "ingress: ",
        "egress: forward DNAT: udp 203.0.113.7:5353 -> 198.51.100.80:53 => udp 203.0.113.7:5353 -> 198.18.",
        "ingress: ",
        "egress: pass",
        "ingress: truncated: The bytes at hand end before the headers do.",
        "ingress: bad-ip-header: ",
        "ingress: hold",
        "ingress: ",
        "egress: pass",
    ];
    assert_eq!(comments.len(), expected.len(), "{comments:#?}");
    for (comment, expected) in comments.iter().zip(expected) {
        assert!(comment.starts_with(expected), "{comment:?}, expected {expected:?}");
    }
    assert_eq!((summary.packets, summary.forwarded, summary.passed, summary.flows), (6, 1, 2, 1));
    assert_eq!(Vec::from_iter(summary.dropped), [("bad-ip-header", 1), ("hold", 1), ("truncated", 1)]);
    assert_eq!(summary.malformed, 1, "what the capture cut is not malformed");
}

/// The made rules have endpoints behind every frontend; here the service has none.
#[test]
fn a_rejected_packet_is_answered_under_its_own_link_header() {
    use lb_core::control::Control;
    let mut control = Control::new(world::node());
    control.put_service(world::service(v4(VIP), &[(Protocol::UDP, 53)], Reached::ByClusterIp));
    let rules = || lb_core::RuleTable::load(control.image().unwrap()).unwrap();
    let sll = [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0][..], &question()].concat();
    let null = [&[2, 0, 0, 0][..], &question()].concat();
    let mut rules = rules;
    for (link_type, packet, strip) in [(link::RAW, question(), 0), (link::LINUX_SLL, sll, 16), (link::NULL, null, 4)] {
        let (summary, output) = replay(&capture([(START, link_type, packet.clone())]), rules(), false);
        assert_eq!((summary.rejected, summary.passed, summary.forwarded), (1, 0, 0), "{link_type}");
        let [(_, asked, why), (side, reply, comment)] = &told(&output)[..] else { panic!("{link_type}") };
        assert_eq!((*side, asked), ("egress", &packet));
        assert!(why.starts_with("no-endpoints: "), "{why}");
        assert!(comment.starts_with("answer to frame 1\nno-endpoints: "), "{comment}");
        assert_eq!(reply[..strip], packet[..strip]);
        let Some(TransportSlice::Icmpv4(icmp)) = SlicedPacket::from_ip(&reply[strip..]).unwrap().transport else {
            panic!("{link_type}: no ICMP")
        };
        let port = etherparse::icmpv4::DestUnreachableHeader::Port;
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(port));
    }
}

#[test]
fn held_fragments_leave_when_their_first_came() {
    let input = raw([fragment(1), fragment(2), first_fragment(1), fragment_at(1, 3)]);
    let (summary, output) = replay(&input, rules(&services(), Reached::ByClusterIp), false);
    assert_eq!((summary.packets, summary.forwarded), (4, 3));
    assert_eq!(Vec::from_iter(summary.dropped), [("hold", 1)]);
    let egress: Vec<_> = told(&output).into_iter().filter(|(side, ..)| *side == "egress").collect();
    let destinations: BTreeSet<_> = egress.iter().map(|(_, packet, _)| packet[16..20].to_vec()).collect();
    assert_eq!((egress.len(), destinations.len()), (3, 1), "all to one backend");
    assert_eq!(egress[0].1.len(), 36, "the first is first");
}

#[test]
fn the_oldest_of_too_many_held_fragments_are_dropped() {
    let input = raw((0..1500).map(fragment).chain([first_fragment(0), first_fragment(1499)]));
    let (summary, _) = replay(&input, rules(&services(), Reached::ByClusterIp), false);
    assert_eq!(summary.packets, 1502);
    assert_eq!(summary.forwarded, 3, "both firsts and the younger one's rest");
}

/// `lb_host::replay::run` as other projects' tests use it, with a log.
fn log(input: &[u8]) -> Vec<serde_json::Value> {
    let sizes = Sizes { v4_flows: 64, v6_flows: 64, services: 16, affinity: 0, backends: 64, fragments: 16 };
    let mut memory = vec![Block::ZERO; blocks(sizes)];
    let rules = rules(&services(), Reached::ByExternalIp);
    let mut balancer = Balancer::new(Config::new([0; 16], 0), sizes, &mut memory, rules).unwrap();
    let mut log = Vec::new();
    let options = Options { log: Some(&mut log), ..Options::default() };
    replay::run(input, std::io::sink(), &mut balancer, options).unwrap();
    let lines = String::from_utf8(log).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn flows_are_logged_when_they_begin_and_end() {
    let at = |seconds: u64| (START + seconds * SECOND, link::RAW, question());
    // An unanswered UDP flow lives 30 s (Linux: nf_conntrack_udp_timeout). The capture's clock steps back once.
    let lines = log(&capture([at(0), at(10), at(5), at(100)]));
    let fields: Vec<_> = lines.iter().map(|line| (&line["event"], &line["time"], &line["frame"])).collect();
    let expected = serde_json::json!([
        ["new", "1700000000.000000000", 1],
        ["end", "1700000040.000000000", null],
        ["new", "1700000100.000000000", 4],
        ["open", "1700000100.000000000", null]
    ]);
    // The second begins at its packet, the first's end is noticed then or later.
    let mut sorted: Vec<_> = fields.iter().map(|field| serde_json::json!(field)).collect();
    sorted.sort_by_key(|line| line[1].as_str().map(str::to_owned));
    assert_eq!(serde_json::json!(sorted), expected);
    assert_eq!(lines[0]["original"], "udp 203.0.113.7:5353 -> 198.51.100.80:53");
    assert!(lines[0]["translated"].as_str().unwrap().starts_with("udp 192.0.2.1:"), "masqueraded: {}", lines[0]);
    assert_eq!(lines[0]["masqueraded"], true);
    let packets = |event: &str| lines.iter().find(|line| line["event"] == event).map(|line| line["packets"].clone());
    assert_eq!((packets("end"), packets("open")), (Some([3, 0].into()), Some([1, 0].into())));
}

#[test]
fn golden_output_is_compared_by_what_it_says() {
    let (_, output) = replay(&raw([question()]), rules(&services(), Reached::ByClusterIp), false);
    assert_eq!(golden::compare(&*output, &*output).unwrap(), None);
    let (_, longer) = replay(&raw([question(), question()]), rules(&services(), Reached::ByClusterIp), false);
    let text = golden::compare(&*output, &*longer).unwrap().unwrap();
    assert!(text.contains("2 packets differ; expected 2 packets, got 4"), "{text}");

    let at = output.windows(4).position(|window| window == [0x5a; 4]).unwrap();
    let mut other = output.clone();
    other[at] = 0;
    let text = golden::compare(&*output, &*other).unwrap().unwrap();
    assert!(text.contains("packet 1: bytes\n  differs in: payload\n"), "{text}");
    assert!(text.contains("1 packets differ"), "{text}");
    assert!(golden::compare(&b"no capture at all, this"[..], &*output).is_err());
}

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: test}
spec:
  clusterIP: 10.96.0.10
  externalIPs: [198.51.100.80]
  ports: [{name: dns, protocol: UDP, port: 53}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, namespace: test, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: dns, protocol: UDP, port: 5353}]
endpoints: [{addresses: [10.244.0.2]}, {addresses: [10.244.1.2]}, {addresses: [10.244.2.2]}]
";

/// Runs `lb replay` in a directory that has `objects.yaml` and `in.pcapng`.
fn lb(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .arg("replay")
        .args(arguments)
        .args(["-f", "objects.yaml", "--node", "node"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The directory, and what `in.pcapng` holds: questions of 20 clients, and an answer to each.
fn directory() -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let questions = (0..20).map(|client| udp(CLIENT, VIP, (6000 + client, 53), 8));
    let answers = (0..20).map(|client| udp(VIP, CLIENT, (53, 6000 + client), 9));
    let input = raw(questions.zip(answers).flat_map(|(question, answer)| [question, answer]));
    fs::write(directory.path().join("objects.yaml"), OBJECTS).unwrap();
    fs::write(directory.path().join("in.pcapng"), &input).unwrap();
    (directory, input)
}

fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_summary_is_one_object() {
    let (directory, input) = directory();
    let output = lb(
        directory.path(),
        &["in.pcapng", "--reflect", "--summary", "json", "-o", "out.pcapng", "--log", "flows.jsonl"],
        &[],
    );
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let mut summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary.as_object_mut().unwrap().remove("elapsed_s").unwrap().is_f64());
    let expected = serde_json::json!({
        "packets": 40, "forwarded": 40, "passed": 0, "rejected": 0, "dropped": {}, "flows": 20,
        "reflected": 20, "identical": 20, "malformed": 0,
    });
    assert_eq!(summary, expected);
    assert_eq!(listing(directory.path()), ["flows.jsonl", "in.pcapng", "objects.yaml", "out.pcapng"]);
    let out = fs::read(directory.path().join("out.pcapng")).unwrap();
    let comments = sides_and_comments(&out);
    assert_eq!(comments.len(), 80);
    assert_eq!(comments[2], "ingress: reflect of frame 2");

    // The same from standard input, compressed, to standard output; the summary makes room.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&input).unwrap();
    let piped = lb(directory.path(), &["-", "--reflect", "-o", "-"], &gzip.finish().unwrap());
    assert_eq!(piped.status.code(), Some(0));
    assert!(piped.stdout == out, "the same input, the same bytes");
    assert!(String::from_utf8(piped.stderr).unwrap().contains("reflected  20, of which identical 20"));
}

#[test]
fn golden_files_are_blessed_and_compared() {
    let (directory, _) = directory();
    let run = |arguments: &[&str]| {
        let output = lb(directory.path(), &[&["in.pcapng", "--expect", "golden.pcapng"], arguments].concat(), &[]);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&[]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("golden.pcapng: nothing to compare with; --update makes it"), "{error}");
    assert_eq!(run(&["--update"]), (0, String::new()));
    assert_eq!(run(&[]), (0, String::new()));
    let (code, difference) = run(&["--seed", "7"]);
    assert_eq!(code, 1);
    assert!(difference.contains("golden.pcapng: differs\npacket "), "{difference}");
    assert!(difference.contains("differs in: ip checksum"), "{difference}");
    assert_eq!(listing(directory.path()), ["golden.pcapng", "in.pcapng", "objects.yaml"]);
}

#[test]
fn what_cannot_be_done_leaves_nothing_behind() {
    let (directory, input) = directory();
    fs::write(directory.path().join("cut.pcapng"), &input[..input.len() - 9]).unwrap();
    fs::write(directory.path().join("empty.pcap"), []).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&input).unwrap();
    let gzip = gzip.finish().unwrap();
    fs::write(directory.path().join("cut.gz"), &gzip[..gzip.len() / 2]).unwrap();
    fs::write(directory.path().join("bad.zst"), [0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff]).unwrap();
    fs::write(directory.path().join("kept"), "what was there").unwrap();
    fs::hard_link(directory.path().join("in.pcapng"), directory.path().join("linked")).unwrap();
    let names = listing(directory.path());
    for (what, arguments, message) in [
        ("cut input", &["cut.pcapng", "-o", "kept", "--log", "log"][..], "cut.pcapng: after 39 packets: offset "),
        ("empty input", &["empty.pcap", "-o", "kept"], "empty.pcap: after 0 packets: offset 0: the file is empty"),
        ("missing input", &["missing.pcap", "-o", "out"], "cannot read missing.pcap: No such file or directory"),
        ("a directory as input", &[".", "-o", "out"], "cannot read .: is a directory"),
        ("no capture", &["objects.yaml", "-o", "out"], "objects.yaml: after 0 packets: offset 0: not a capture"),
        ("cut gzip", &["cut.gz", "-o", "kept"], "can't be read or decompressed further; was the file copied whole?: "),
        ("bad zstd", &["bad.zst", "-o", "out"], "was the file copied whole?: not valid Zstandard: "),
        (
            "no such directory",
            &["in.pcapng", "-o", "missing/out"],
            "cannot write missing/out: No such file or directory",
        ),
        (
            "the same for a log",
            &["in.pcapng", "-o", "kept", "--log", "missing/log"],
            "cannot write missing/log: No such",
        ),
        (
            "noticed before the capture is read",
            &["cut.pcapng", "-o", "missing/out"],
            "cannot write missing/out: No such",
        ),
        (
            "noticed beside a golden file, too",
            &["in.pcapng", "-o", "missing/out", "--expect", "golden", "--update"],
            "cannot write missing/out: No such",
        ),
        ("a directory", &["in.pcapng", "-o", "."], "cannot write .: is a directory"),
        ("a full disk", &["in.pcapng", "-o", "/dev/full"], "cannot write /dev/full: No space left"),
        ("a full disk for the log", &["in.pcapng", "-o", "kept", "--log", "/dev/full"], "cannot write /dev/full: No"),
        (
            "blessed last",
            &["in.pcapng", "-o", "/dev/full", "--expect", "kept", "--update"],
            "cannot write /dev/full: No space left",
        ),
        ("a golden file that is none", &["in.pcapng", "-o", "kept", "--expect", "bad.zst"], "bad.zst: is not"),
        ("an empty golden file", &["in.pcapng", "-o", "kept", "--expect", "empty.pcap"], "--update makes it anew"),
        (
            "a cut golden file",
            &["in.pcapng", "-o", "kept", "--expect", "cut.pcapng"],
            "cut.pcapng: is not the whole output",
        ),
        ("update of nothing", &["in.pcapng", "--update"], "--expect"),
        ("over the capture", &["in.pcapng", "-o", "in.pcapng"], "-o in.pcapng are the same file"),
        ("over the capture by a link", &["in.pcapng", "-o", "linked"], "-o linked are the same file"),
        ("over the objects", &["in.pcapng", "--log", "./objects.yaml"], "--log ./objects.yaml are the same file"),
        ("a log in the output", &["in.pcapng", "-o", "out", "--log", "./out"], "--log ./out are the same file"),
        ("all to standard output", &["in.pcapng", "-o", "-", "--log", "-"], "--log - are the same file"),
        ("golden is the output", &["in.pcapng", "-o", "kept", "--expect", "kept"], "--expect kept are the same file"),
        (
            "golden is the capture",
            &["in.pcapng", "--expect", "in.pcapng", "--update"],
            "are the same file; give --expect",
        ),
        (
            "more flows than memory",
            &["in.pcapng", "-o", "kept", "--flows", "268435456"],
            "268435456 flows of each family need ",
        ),
    ] {
        let output = lb(directory.path(), arguments, &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
        assert!(stderr.contains(message), "{what}: {stderr}");
        assert!(!stderr.contains(".lb-"), "{what}: a temporary name: {stderr}");
        // Nothing is said twice.
        let parts: Vec<_> = stderr.trim_end().split(": ").collect();
        assert!((1..parts.len()).all(|at| !parts[..at].contains(&parts[at])), "{what}: {stderr}");
        assert_eq!(listing(directory.path()), names, "{what}");
        assert_eq!(fs::read(directory.path().join("kept")).unwrap(), b"what was there", "{what}");
        assert!(fs::read(directory.path().join("in.pcapng")).unwrap() == input, "{what}");
    }
}

#[test]
fn a_full_standard_output_is_named() {
    let (directory, _) = directory();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["replay", "in.pcapng", "-f", "objects.yaml", "--node", "node"])
        .current_dir(directory.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "error: cannot write standard output: No space left on device (os error 28)\n");
}

/// A later fragment of a reply whose first is long forgotten is held for ever: what came out is not what was captured.
#[test]
fn a_contradiction_is_not_blessed() {
    let (directory, _) = directory();
    // Addresses and ports change places; the checksums stay right.
    let (mut first, mut later) = (first_fragment(3), fragment(3));
    first[12..20].rotate_left(4);
    first[20..24].rotate_left(2);
    later[12..20].rotate_left(4);
    let packets = [(0, question()), (1, first), (120, later)];
    let input = capture(packets.map(|(second, packet)| (START + second * 1_000_000_000, link::RAW, packet)));
    fs::write(directory.path().join("in.pcapng"), &input).unwrap();
    fs::write(directory.path().join("golden"), "blessed once").unwrap();
    let arguments = ["in.pcapng", "--reflect", "-o", "out", "--log", "log", "--expect", "golden", "--update"];
    let output = lb(directory.path(), &arguments, &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("golden: not blessed, and nothing else written: 1 of 2 reflected replies"), "{stderr}");
    assert_eq!(listing(directory.path()), ["golden", "in.pcapng", "objects.yaml"]);
    assert_eq!(fs::read(directory.path().join("golden")).unwrap(), b"blessed once");
}

/// Any reader of captures can be wrong about damage; none may panic on it. Every byte of a capture is broken once.
#[test]
fn a_damaged_capture_is_replayed_or_refused() {
    let input = raw([question(), fragment(3), first_fragment(3)]);
    for at in 0..input.len() {
        for byte in [0, 0xff, input[at] ^ 1] {
            let mut damaged = input.clone();
            damaged[at] = byte;
            let Ok(mut reader) = Reader::new(&*damaged) else { continue };
            while let Ok(Some(_)) = reader.next_record() {}
            let sizes = Sizes { v4_flows: 16, v6_flows: 16, services: 16, affinity: 0, backends: 64, fragments: 16 };
            let mut memory = vec![Block::ZERO; blocks(sizes)];
            let rules = rules(&services(), Reached::ByClusterIp);
            let mut balancer = Balancer::new(Config::new([0; 16], 0), sizes, &mut memory, rules).unwrap();
            let options = Options { reflect: true, ..Options::default() };
            let _ = replay::run(&*damaged, std::io::sink(), &mut balancer, options);
        }
    }
}
