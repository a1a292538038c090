//! Every real capture through the built `lb`, judged by tshark: through the shipped example, which serves none of them,
//! and through manifests in which every server of the capture is a load balancer's address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

mod real;

use real::tshark::{self, CHECKED, End, Ends, Packet};

/// Runs `lb replay` on a capture in a directory, to `out.pcapng`, and returns its summary.
fn replay(directory: &Path, capture: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lb"))
        .arg("replay")
        .arg(capture)
        .args(["--summary", "json", "--flows", "16384", "-o", "out.pcapng"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("lb runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", capture.display());
    serde_json::from_slice(&output.stdout).expect("a summary")
}

/// Servers: the destinations of openings, as tshark sees them, that were not heard of as a source before.
fn servers(packets: &[Packet]) -> BTreeSet<(&'static str, End)> {
    let mut seen: BTreeSet<Ends> = BTreeSet::new();
    let mut servers = BTreeSet::new();
    for packet in packets {
        let Some((protocol, source, destination)) = packet.ends else { continue };
        let is_later = packet.fragment.as_ref().is_some_and(|(_, offset)| *offset > 0);
        let is_answer = seen.contains(&(protocol, destination, source));
        if packet.is_opening && !is_later && !is_answer && !packet.is_to_group && is_unicast(destination) {
            servers.insert((protocol, destination));
        }
        seen.insert((protocol, source, destination));
    }
    servers
}

/// Whether an address and port can be a Service's.
fn is_unicast((address, port): End) -> bool {
    let is_group = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    port != 0 && !is_group && !address.is_multicast() && !address.is_unspecified()
}

/// The manifest in which each server is a LoadBalancer Service without selector, of three endpoints.
fn manifest(servers: &BTreeSet<(&'static str, End)>) -> String {
    let mut text = String::from(
        "apiVersion: v1
kind: Node
metadata: {name: node}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: '2001:db8:ff::1'}]}
",
    );
    for (number, (protocol, (vip, port))) in servers.iter().enumerate() {
        let protocol = protocol.to_uppercase();
        let (family, cluster_ip, backends) = match vip {
            IpAddr::V4(_) => ("IPv4", format!("10.96.{}.{}", number / 200, number % 200 + 1), "10.244.0."),
            IpAddr::V6(_) => ("IPv6", format!("fd00:10:96::{:x}", number + 1), "fd00:10:244::"),
        };
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: server-{number}}}
spec:
  type: LoadBalancer
  clusterIP: '{cluster_ip}'
  ipFamilies: [{family}]
  allocateLoadBalancerNodePorts: false
  ports: [{{name: main, protocol: {protocol}, port: {port}, targetPort: {port}}}]
status: {{loadBalancer: {{ingress: [{{ip: '{vip}'}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: server-{number}-1, labels: {{kubernetes.io/service-name: server-{number}}}}}
addressType: {family}
ports: [{{name: main, protocol: {protocol}, port: {port}}}]
endpoints: [{{addresses: ['{backends}2']}}, {{addresses: ['{backends}3']}}, {{addresses: ['{backends}4']}}]
"
        )
        .expect("text");
    }
    text
}

/// What tshark counts of a capture.
#[derive(Debug, Default, PartialEq)]
struct Replies {
    /// Packets from a server to a client that dialled it before.
    all: u64,
    /// Those of them that come when the flow is forgotten.
    late: u64,
}

/// When a flow last had a packet, and when it was reset, in nanoseconds.
#[derive(Default)]
struct Dialled {
    last: u64,
    reset: Option<u64>,
}

const SECOND: u64 = 1_000_000_000;

impl Dialled {
    /// Whether a balancer may have forgotten it: conntrack's ten seconds after a reset, five days of silence.
    fn is_forgotten(&self, now: u64) -> bool {
        self.reset.is_some_and(|reset| now > reset + 10 * SECOND) || now > self.last + 5 * 86_400 * SECOND
    }
}

fn replies(packets: &[Packet], servers: &BTreeSet<(&'static str, End)>) -> Replies {
    let mut dialled: BTreeMap<Ends, Dialled> = BTreeMap::new();
    let mut datagrams = BTreeSet::new();
    let mut replies = Replies::default();
    let mut now = 0;
    for packet in packets {
        // A clock that steps back stands still.
        now = packet.time.map_or(now, |time| now.max(time));
        let datagram = packet.addresses.zip(packet.fragment.as_ref().map(|(identification, _)| identification.clone()));
        let is_later = packet.fragment.as_ref().is_some_and(|(_, offset)| *offset > 0);
        if is_later {
            replies.all += u64::from(datagram.is_some_and(|datagram| datagrams.contains(&datagram)));
            continue;
        }
        if let Some(quoted) = packet.quoted {
            let (_, (client, _), (server, _)) = quoted;
            let is_reply = dialled.contains_key(&quoted) && packet.addresses == Some((server, client));
            replies.all += u64::from(is_reply);
        }
        let Some((protocol, source, destination)) = packet.ends else { continue };
        let flow = match dialled.get_mut(&(protocol, destination, source)) {
            Some(flow) => {
                replies.all += 1;
                replies.late += u64::from(flow.is_forgotten(now));
                datagrams.extend(datagram);
                flow
            }
            None if servers.contains(&(protocol, destination)) => {
                dialled.entry((protocol, source, destination)).or_default()
            }
            None => continue,
        };
        flow.last = now;
        if packet.is_reset {
            flow.reset.get_or_insert(now);
        }
    }
    replies
}

/// Wrong checksums by protocol and time, at which a capture rarely has two packets.
fn wrong<'p>(packets: impl Iterator<Item = &'p Packet>) -> BTreeMap<(u64, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for packet in packets {
        for (protocol, count) in CHECKED.into_iter().zip(packet.wrong).filter(|(_, count)| *count > 0) {
            *counts.entry((packet.time.unwrap_or_default(), protocol)).or_default() += count;
        }
    }
    counts
}

/// No egress packet of `output` has a wrong checksum that the captured packet had not.
fn assert_sums_are_no_worse(name: &str, captured: &[Packet], output: &[Packet]) {
    let before = wrong(captured.iter());
    for (place, count) in wrong(output.iter().filter(|packet| packet.interface == "egress")) {
        let was = before.get(&place).copied().unwrap_or_default();
        assert!(count <= was, "{name} {place:?}: {count} wrong checksums on egress, {was} in the capture");
    }
}

/// Captures with replies that come too late, and why.
const LATE: &[(&str, &str)] = &[
    ("suricata-verify__decode-teredo-01__input.pcap", "a reset 18 s after the other side's"),
    ("suricata-verify__transform-base64-7296__input.pcap", "a reset 2.6 years after the packet before"),
];

#[test]
fn every_server_as_a_load_balancer() {
    let (Some(captures), true) = (real::directory(), real::tshark()) else { return };
    let (mut total, mut families) = (0, BTreeSet::new());
    for (name, count) in real::CAPTURES {
        let capture = captures.join(name).canonicalize().expect("a path");
        let packets = tshark::packets(&capture);
        assert_eq!(packets.len(), *count, "{name}: tshark reads as many");
        let servers = servers(&packets);
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("objects.yaml"), manifest(&servers)).expect("written");
        let ranges = "10.96.0.0/12,fd00:10:96::/112";
        let objects = ["-f", "objects.yaml", "--node", "node", "--service-cluster-ip-range", ranges];
        let summary = replay(directory.path(), &capture, &[&["--reflect"][..], &objects].concat());
        let reflected = summary["reflected"].as_u64().expect("a count");
        assert_eq!(summary["identical"].as_u64(), Some(reflected), "{name}");
        let Replies { all, late } = replies(&packets, &servers);
        assert_eq!(late, u64::from(LATE.iter().any(|(of, _)| of == name)), "{name}: late replies");
        assert!(
            (all - late..=all).contains(&reflected),
            "{name}: {reflected} reflected, tshark counts {all}, {late} late"
        );
        assert_sums_are_no_worse(name, &packets, &tshark::packets(&directory.path().join("out.pcapng")));
        total += reflected;
        families.extend(servers.iter().map(|(protocol, (vip, _))| (*protocol, vip.is_ipv6())));
    }
    assert!(total > 1300, "{total} replies");
    let expected = [("sctp", false), ("tcp", false), ("tcp", true), ("udp", false), ("udp", true)];
    assert_eq!(families, BTreeSet::from(expected), "what the captures show");
}

/// The bytes of each packet of a pcapng in this machine's byte order: those of its Enhanced Packet Blocks. Written out,
/// because the reader at hand refuses what tshark copies of packets longer than they were.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("there");
    let (mut frames, mut rest) = (Vec::new(), &file[..]);
    while !rest.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        match word(0) {
            6 => frames.push(rest[28..28 + word(20) as usize].to_vec()),
            3 => panic!("{}: a Simple Packet Block", path.display()),
            _ => {}
        }
        rest = &rest[word(4) as usize..];
    }
    frames
}

/// Words of comments for packets whose headers contradict themselves.
const MALFORMED: [&str; 4] = ["bad-ip-header", "bad-transport-header", "bad-fragment", "mapped-address"];

#[test]
fn the_shipped_example_leaves_strangers_alone() {
    let (Some(captures), true) = (real::directory(), real::tshark()) else { return };
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed");
    let (mut total, mut malformed) = (0, 0);
    for (name, count) in real::CAPTURES {
        let capture = captures.join(name).canonicalize().expect("a path");
        let packets = tshark::packets(&capture);
        let directory = tempfile::tempdir().expect("a directory");
        let summary = replay(directory.path(), &capture, &["-f", seed, "--node", "worker-1"]);
        let output = directory.path().join("out.pcapng");
        let told = tshark::packets(&output);
        assert_sums_are_no_worse(name, &packets, &told);

        // What went in, in order, is what was captured, by tshark's copy of it; what passed is that again.
        let copy = directory.path().join("copy.pcapng");
        let copied = Command::new("tshark").arg("-r").arg(&capture).args(["-F", "pcapng", "-w"]).arg(&copy).output();
        copied.expect("tshark runs");
        let captured = frames(&copy);
        let out = frames(&output);
        assert_eq!((out.len(), captured.len()), (told.len(), *count), "{name}");
        let (mut number, mut refused) = (0, 0);
        for (data, packet) in out.iter().zip(&told) {
            if packet.interface == "egress" {
                assert_eq!(packet.comment, "pass", "{name} frame {number}");
                assert!(*data == captured[number - 1], "{name} frame {number}: changed");
                total += 1;
                continue;
            }
            number += 1;
            assert!(*data == captured[number - 1], "{name} frame {number}: not as captured");
            if MALFORMED.iter().any(|word| packet.comment.starts_with(word)) {
                refused += 1;
                assert!(packets[number - 1].is_flagged, "{name} frame {number}: {}, says lb alone", packet.comment);
            }
        }
        assert_eq!(summary["malformed"], refused, "{name}");
        assert_eq!(summary["passed"].as_u64(), Some(out.len() as u64 - *count as u64), "{name}");
        assert_eq!(summary["forwarded"], 0, "{name}");
        malformed += refused;
    }
    assert!(total > 5000 && malformed > 0, "{total} passed, {malformed} malformed");
}
