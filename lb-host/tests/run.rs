//! The built `lb run` between captures: what needs neither root nor a network.

mod endless;

use std::path::Path;

use assert_cmd::Command;
use endless::Live;
use lb_host::device::capture;

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed");

fn lb(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    command.current_dir(SEED).args(arguments).timeout(std::time::Duration::from_secs(60));
    command
}

fn packets(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = capture::open(path).expect("a capture");
    let mut packets = Vec::new();
    while let Some(record) = reader.next_record().expect("a record") {
        packets.push(record.data.to_vec());
    }
    packets
}

/// What is no answer to a question about links: that is for those who are asked.
fn is_returned(packet: &&Vec<u8>) -> bool {
    packet[0] & 1 == 0 && packet[12..14] != [0x08, 0x06]
}

/// The capture's packets are forwarded as `lb replay` forwards them, but for the links' addresses, which are exchanged.
#[test]
fn a_capture_goes_through_as_in_a_replay() {
    let directory = tempfile::tempdir().expect("a directory");
    let (lived, log) = (directory.path().join("lived.pcapng"), directory.path().join("log"));
    let device = format!("pcap:walk.pcap,{}", lived.display());
    let summary = lb(&["replay", "walk.pcap", "-f", ".", "--node", "worker-1", "--summary", "json"]).assert().success();
    let summary: serde_json::Value = serde_json::from_slice(&summary.get_output().stdout).expect("JSON");
    let assert = lb(&[
        "run",
        "--device",
        &device,
        "-f",
        ".",
        "--node",
        "worker-1",
        "--log-format",
        "json",
        "--log",
        log.to_str().expect("a path"),
    ])
    .assert()
    .success()
    .stdout("");
    let read = packets(Path::new(SEED).join("walk.pcap").as_path());
    let lived = packets(&lived);
    let leaving = |what: &str| summary[what].as_u64().expect("a number");
    let others = read.len() - read.iter().filter(is_returned).count();
    assert_eq!((lived.len() + others) as u64, leaving("forwarded") + leaving("passed"), "{summary}");
    let by_link = |packets: &[Vec<u8>], exchanged: bool| {
        let link = |packet: &Vec<u8>| {
            let (a, b) = (packet[..6].to_vec(), packet[6..12].to_vec());
            if exchanged { [b, a].concat() } else { [a, b].concat() }
        };
        packets.iter().map(link).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(by_link(&lived, true).is_subset(&by_link(&read, false)));

    let log = std::fs::read_to_string(log).expect("a log");
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let count = |event: &str| events.iter().filter(|line| line["event"] == event).count() as u64;
    assert_eq!(count("new"), leaving("flows"));
    assert_eq!(count("end") + count("open"), leaving("flows"), "every beginning has an end");

    let said = String::from_utf8(assert.get_output().stderr.clone()).expect("text");
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
}

#[test]
fn what_cannot_run_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    let (bad, flows) = (place("bad.yaml"), place("flows"));
    std::fs::write(&bad, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80000}]}\n")
        .expect("written");
    std::fs::write(&flows, "nonsense\n").expect("written");
    let device = format!("pcap:walk.pcap,{}", place("out"));
    for (what, arguments, expected) in [
        ("no device", &["-f", "."][..], "--device"),
        (
            "no such kind of device",
            &["--device", "eth0", "-f", "."],
            "a device is tap:NAME, af_packet:INTERFACE or pcap:IN,OUT",
        ),
        (
            "no such interface",
            &["--device", "af_packet:not-there", "-f", ".", "--node", "worker-1"],
            "af_packet:not-there: ",
        ),
        ("no objects", &["--device", &device], "no Kubernetes objects"),
        ("bad objects", &["--device", &device, "-f", &bad], "bad.yaml:4:"),
        ("no such node", &["--device", &device, "-f", ".", "--node", "worker-9"], "worker-9"),
        (
            "a file of other things",
            &["--device", &device, "-f", ".", "--node", "worker-1", "--flow-file", &flows],
            "flows:1: is no flow",
        ),
        ("objects and an image", &["--device", &device, "-f", ".", "--image", "x"], "cannot be used with"),
    ] {
        let assert = lb(&[&["run"], arguments].concat()).assert().code(2).stdout("");
        let said = String::from_utf8(assert.get_output().stderr.clone()).expect("text");
        assert!(said.contains(expected), "{what}: {said}");
        assert!(!directory.path().join("out").exists(), "{what}: something was written");
    }
}

#[test]
fn an_image_serves_as_its_objects_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    let (image, out) = (place("rules.img"), place("out.pcapng"));
    lb(&["compile", "-f", ".", "--node", "worker-1", "-o", &image]).assert().success();
    lb(&["run", "--device", &format!("pcap:walk.pcap,{out}"), "--image", &image]).assert().success();
    let read = packets(Path::new(SEED).join("walk.pcap").as_path());
    let expected = read.iter().filter(is_returned).count();
    assert_eq!(packets(Path::new(&out)).len(), expected, "nothing of this capture is dropped");
}

/// A later fragment, or the first with the UDP header, of a client's datagram to the cluster's DNS; as a capture has it.
fn fragment(client: [u8; 4], later: bool) -> Vec<u8> {
    let udp = [0x9c, 0x40, 0, 53, 0, 32, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
    let mut ip =
        etherparse::Ipv4Header::new(16, 64, etherparse::IpNumber::UDP, client, [10, 96, 0, 10]).expect("a header");
    (ip.identification, ip.dont_fragment, ip.more_fragments) = (7, false, !later);
    ip.fragment_offset = etherparse::IpFragOffset::try_new(if later { 2 } else { 0 }).expect("an offset");
    ip.header_checksum = ip.calc_header_checksum();
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    ip.write(&mut data).expect("a vector has room");
    data.extend(if later { [2; 16] } else { udp });
    let length = data.len() as u32;
    [[0, 0, length, length].map(u32::to_le_bytes).concat(), data].concat()
}

/// Fragments whose first comes after them, beside more than are kept of those whose first never comes.
#[test]
fn fragments_go_through_in_any_order_beside_those_that_never_will() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    let never = (0..1_100u16).map(|n| fragment([198, 51, n.to_be_bytes()[0], n as u8], true));
    let whole = (0..200u8).flat_map(|n| [fragment([203, 0, 113, n], true), fragment([203, 0, 113, n], false)]);
    let packets_in: Vec<u8> = header.into_iter().chain(never.chain(whole).flatten()).collect();
    std::fs::write(place("in.pcap"), packets_in).expect("written");
    std::fs::write(
        place("objects.yaml"),
        "{apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: dns}, spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}},
  ports: [{name: '', port: 5353, protocol: UDP}], endpoints: [{addresses: [10.244.0.5]}]}
",
    )
    .expect("written");
    let device = format!("pcap:{},{}", place("in.pcap"), place("out"));
    lb(&["run", "--device", &device, "-f", &place("objects.yaml")]).assert().success();
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = packets(Path::new(&place("out")))
        .iter()
        .map(|packet| (packet[26..34].to_vec(), packet[20..22].to_vec()))
        .collect();
    out.sort_unstable();
    let expected: Vec<(Vec<u8>, Vec<u8>)> = (0..200u8)
        .flat_map(|n| [[0, 2], [0x20, 0]].map(|place| (vec![203, 0, 113, n, 10, 244, 0, 5], place.to_vec())))
        .collect();
    assert!(out == expected, "{} of {} fragments, or others", out.len(), expected.len());
}

/// A node and these Services, each with the last byte of its address.
fn manifest(services: &[(&str, u8)]) -> String {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: node-a}}\n".to_owned();
    let service = |(name, last): &(&str, u8)| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.96.0.{last}, ports: [{{port: 80}}]}}}}\n"
        )
    };
    node + &services.iter().map(service).collect::<String>()
}

/// However editors, people and Kubernetes' volumes put other objects in place of the old ones.
#[test]
fn files_are_followed_whatever_becomes_of_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let (write, remove) = (
        |path: &str, text: String| std::fs::write(at(path), text).expect("written"),
        |path: &str| std::fs::remove_file(at(path)).expect("removed"),
    );
    let rename = |from: &str, to: &str| std::fs::rename(at(from), at(to)).expect("renamed");
    let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, at(path)).expect("a link");
    for path in ["objects", "volume", "volume/..1", "elsewhere"] {
        std::fs::create_dir(at(path)).expect("a directory");
    }
    write("objects/a.yaml", manifest(&[("first", 1)]));
    write("volume/..1/b.yaml", manifest(&[]).replace("node-a", "node-b"));
    link("..1", "volume/..data");
    link("..data/b.yaml", "volume/b.yaml");
    write("elsewhere/c.yaml", manifest(&[]).replace("node-a", "node-c"));
    link("elsewhere/c.yaml", "c.yaml");
    let device = endless::device(directory.path());
    let mut arguments: Vec<String> = ["--device", &device, "--node", "node-a"].map(str::to_owned).to_vec();
    for path in ["objects", "volume/b.yaml", "c.yaml"] {
        arguments.extend(["-f".to_owned(), at(path).display().to_string()]);
    }
    let live = Live::start(arguments);
    let changes = |what: &str, count: u32| {
        live.until_metric(&format!("kubeproxy_sync_proxy_rules_service_changes_total {count}"));
        live.until_metric("kubeproxy_sync_proxy_rules_service_changes_pending 0");
        println!("{what}: {count}");
    };
    changes("what there is", 1);
    write("objects/new.yaml", manifest(&[("new", 2)]).replace("node-a", "node-d"));
    changes("a new file", 2);
    write("objects/.new.swp", manifest(&[("new", 3)]).replace("node-a", "node-d"));
    rename("objects/.new.swp", "objects/new.yaml");
    changes("another under its name", 3);
    remove("objects/new.yaml");
    changes("it is gone", 4);
    write("objects/new.yaml", "{{{".to_owned());
    live.until_metric("lb_reloads_refused_total 1");
    remove("objects/new.yaml");
    std::fs::create_dir(at("volume/..2")).expect("a directory");
    write("volume/..2/b.yaml", manifest(&[("mapped", 4)]).replace("node-a", "node-b"));
    link("..2", "volume/..data_tmp");
    rename("volume/..data_tmp", "volume/..data");
    std::fs::remove_dir_all(at("volume/..1")).expect("removed");
    changes("a ConfigMap's volume", 5);
    write("elsewhere/c.yaml", manifest(&[("linked", 5)]).replace("node-a", "node-c"));
    changes("where a link leads", 6);
    rename("objects", "away");
    live.until_metric("lb_reloads_refused_total 2");
    std::fs::create_dir(at("objects")).expect("a directory");
    write("objects/a.yaml", manifest(&[("first", 9)]));
    changes("another directory", 7);
    write("objects/a.yaml", manifest(&[("first", 10)]));
    changes("a file in it", 8);
}

/// An interface that goes ends the data plane, which can do nothing without it, with a word.
#[test]
fn an_interface_that_is_removed_is_told() {
    let may = std::process::Command::new("unshare").args(["-n", "true"]).output().is_ok_and(|run| run.status.success());
    if !may {
        assert!(std::env::var_os("CI").is_none(), "CI must make network namespaces");
        return eprintln!("SKIPPED: without the right to make a network namespace no interface was removed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let objects = directory.path().join("objects.yaml");
    std::fs::write(&objects, manifest(&[])).expect("written");
    for (device, made, removed) in [
        (
            "af_packet:v1",
            "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up",
            "ip link del v0",
        ),
        ("tap:t0", "ip tuntap add t0 mode tap vnet_hdr && ip link set t0 up", "ip link del t0"),
    ] {
        let lb = env!("CARGO_BIN_EXE_lb");
        let objects = objects.display();
        let up = device.split(':').next_back().expect("a name");
        // Down and up again, or of another size, is no reason to end.
        let script = format!(
            "{made} && {{ {lb} run --device {device} -f {objects} & }} && sleep 1 && ip link set {up} down && sleep 1 && \
             ip link set {up} up mtu 1400 && sleep 1 && kill -0 $! && {removed} && wait $!"
        );
        let assert = Command::new("unshare").args(["-n", "sh", "-c", &script]).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).expect("text");
        assert!(said.contains(&format!("error: {device}: the interface was removed")), "{said}");
    }
}
