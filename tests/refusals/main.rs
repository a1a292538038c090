//! Refusals (SEMANTICS §6.4) as a real TCP/IP stack takes them: Linux' own, in a network namespace, behind a TUN device
//! whose packets the engine judges. A refused connection must fail at once, which takes right addresses, checksums and quotes.

#[path = "../common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use common::cluster::{node, service, slice, twins};
use common::lab::Lab;
use lb_core::control::{Mode, Node, Proxy};
use lb_core::{Link, Meta, Packet, Verdict};

/// Where every answer is damaged on its way back.
const DAMAGED: u16 = 54;

/// A way to a namespace of one's own: root has it, others may.
fn unshare(arguments: &[&str]) -> Option<Command> {
    let own = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(flags).arg("--");
        command
    };
    [&["--net"][..], &["--user", "--map-root-user", "--net"]].into_iter().find_map(|flags| {
        let works = own(flags).args(["ip", "tuntap", "add", "dev", "probe", "mode", "tun"]).output();
        works.is_ok_and(|output| output.status.success()).then(|| {
            let mut command = own(flags);
            command.args(arguments);
            command
        })
    })
}

fn destination_port(packet: &[u8]) -> u16 {
    let ports = if packet[0] >> 4 == 4 { 20 } else { 40 };
    u16::from_be_bytes([packet[ports + 2], packet[ports + 3]])
}

#[test]
fn a_real_stack_takes_a_refusal_for_one() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/refusals/dial.py");
    // No endpoint; no such port of a Service, which nftables mode refuses; and a refusal that is damaged underway.
    let attempts = [
        ("tcp 10.96.0.10 80", "ECONNREFUSED"),
        ("udp 10.96.0.10 53", "ECONNREFUSED"),
        ("tcp 10.96.0.10 81", "ECONNREFUSED"),
        ("udp 10.96.0.10 55", "ECONNREFUSED"),
        ("tcp 198.51.100.7 80", "ECONNREFUSED"),
        ("udp 10.96.0.10 54", "silence"),
    ];
    let attempts: Vec<(String, &str)> =
        attempts.iter().flat_map(|(what, told)| [((*what).to_owned(), *told), (twins(what), *told)]).collect();
    let Some(mut command) = unshare(&["python3", script]) else {
        assert!(std::env::var_os("CI").is_none(), "CI must run this: unshare, ip and /dev/net/tun are needed");
        eprintln!("SKIPPED: needs root, or user namespaces, and iproute2");
        return;
    };
    command.args(attempts.iter().map(|(what, _)| what)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = command.stderr(Stdio::piped()).spawn().expect("python3 starts");
    let (mut to, mut from) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());

    let mut web = service("web", "10.96.0.10", &["tcp:80", "udp:53"]);
    web.external_ips = common::cluster::both("198.51.100.7");
    let nftables = Node { proxy: Proxy { mode: Mode::NFTABLES, ..node().proxy }, ..node() };
    let mut lab = Lab::new(nftables, [(web, slice("web", &["tcp:8080", "udp:5353"], &[]))]);
    let meta = Meta { link: Link::Ip, ..Meta::default() };
    let mut length = [0; 2];
    while from.read_exact(&mut length).is_ok() {
        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
        from.read_exact(&mut bytes).unwrap();
        let sent = lab.send_as(&bytes, meta);
        let Verdict::Reject(reason) = sent.verdict else { continue };
        let mut answer = [0; 1280];
        let packet = Packet::new(&mut bytes, meta);
        // A second on, so that no answer is one too many.
        lab.now += 1000;
        let now = lab.instant();
        let length = lab.engine.write_reply(now, &packet, reason, &mut answer).expect("an answer");
        if destination_port(&bytes) == DAMAGED {
            answer[length - 1] ^= 1;
        }
        to.write_all(&(length as u16).to_be_bytes()).unwrap();
        to.write_all(&answer[..length]).unwrap();
        to.flush().unwrap();
    }
    let output = client.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected: Vec<_> = attempts.iter().map(|(what, told)| format!("{what} {told}")).collect();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}
