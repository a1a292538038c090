//! Disks that are full and processes that are killed under `lb run` and `lb replay`: traffic goes on, what is lost is told and
//! counted, nothing half-written has a name, and whoever is started next knows every flow that anybody saw.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lb_host::device::capture::Reader;

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDRs: [10.244.0.0/24]}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}},
  ports: [{name: '', port: 8080, protocol: TCP}], endpoints: [BACKENDS]}
";

/// So many that a flow which is chosen for anew is seldom lucky.
const BACKENDS: u8 = 200;

/// A directory with objects, and what runs there.
fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let backends = (1..=BACKENDS).map(|n| format!("{{addresses: [10.244.1.{n}]}}")).collect::<Vec<_>>().join(", ");
    fs::write(directory.path().join("objects.yaml"), OBJECTS.replace("BACKENDS", &backends)).unwrap();
    directory
}

/// Starts a shell's command in which `lb` is us: standard input and output are captures.
fn start(directory: &Path, command: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", &command.replace("lb ", concat!(env!("CARGO_BIN_EXE_lb"), " "))]).current_dir(directory);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

const RUN: &str = "lb run --device pcap:/dev/stdin,/dev/stdout -f objects.yaml --flow-file flows --log log";

/// Files may be of so many blocks of 512 octets, and one that would grow past that is as on a full disk.
fn full(blocks: u32, command: &str) -> String {
    format!("trap '' XFSZ; ulimit -S -f {blocks}; exec {command}")
}

/// The beginning of a capture.
fn header() -> Vec<u8> {
    [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A client's packet as a capture has it. Each number is a client of its own.
fn record(client: u32, syn: bool) -> Vec<u8> {
    let [.., high, low] = (client >> 14).to_be_bytes();
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 244, high, low], [10, 96, 0, 10], 64)
        .tcp((client % (1 << 14)) as u16 + 1024, 80, 1, 1000);
    let packet = if syn { packet.syn() } else { packet.ack(1) };
    let mut data = Vec::new();
    packet.write(&mut data, &[]).unwrap();
    let length = data.len() as u32;
    [[0, 0, length, length].map(u32::to_le_bytes).concat(), data].concat()
}

/// Which backend each client's packet went to, as far as a capture goes.
fn backends(capture: &[u8]) -> BTreeMap<u32, u8> {
    let mut seen = BTreeMap::new();
    let Ok(mut reader) = Reader::new(capture) else { return seen };
    while let Ok(Some(record)) = reader.next_record() {
        let packet = SlicedPacket::from_ethernet(record.data).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
            panic!("another packet");
        };
        let ([.., high, low], [.., backend]) = (ip.header().source(), ip.header().destination());
        assert_eq!(
            (&ip.header().destination()[..3], tcp.destination_port()),
            (&[10, 244, 1][..], 8080),
            "untranslated"
        );
        let client = (u32::from(u16::from_be_bytes([high, low])) << 14) + u32::from(tcp.source_port()) - 1024;
        assert_eq!(*seen.entry(client).or_insert(backend), backend, "client {client} has moved");
    }
    seen
}

/// New clients, one after the other, for as long as somebody listens.
struct Clients {
    enough: Arc<AtomicBool>,
    next: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Clients {
    fn of(child: &mut Child, first: u32) -> Self {
        let (enough, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(first)));
        let mut input = child.stdin.take().unwrap();
        let (told, counted) = (enough.clone(), next.clone());
        let thread = thread::spawn(move || {
            let mut written = input.write_all(&header());
            while written.is_ok() && !told.load(Ordering::Relaxed) {
                let client = counted.load(Ordering::Relaxed);
                let some: Vec<u8> = (client..client + 64).flat_map(|client| record(client, true)).collect();
                written = input.write_all(&some);
                counted.store(client + 64, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { enough, next, thread }
    }

    /// No more of them; the number of the next.
    fn stop(self) -> u32 {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.next.load(Ordering::Relaxed)
    }
}

/// Collects what comes, until it ends or as far as it came when the process was killed.
fn collect(source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    let mut source = source;
    thread::spawn(move || {
        let mut all = Vec::new();
        source.read_to_end(&mut all).unwrap();
        all
    })
}

fn text(collected: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8(collected.join().unwrap()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Gives it these clients' packets, and no more; which backends they went to, and what was said.
fn run_through(
    directory: &Path,
    command: &str,
    clients: impl Iterator<Item = u32>,
    syn: bool,
) -> (i32, BTreeMap<u32, u8>, String) {
    let mut child = start(directory, command);
    let (out, said) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let mut input = child.stdin.take().unwrap();
    let packets: Vec<u8> = header().into_iter().chain(clients.flat_map(|client| record(client, syn))).collect();
    // Whoever refuses to start doesn't read.
    let _ = input.write_all(&packets);
    drop(input);
    let code = child.wait().unwrap().code().expect("an end of its own");
    (code, backends(&out.join().unwrap()), text(said))
}

#[test]
fn whoever_follows_a_killed_one_knows_every_flow_that_anybody_saw() {
    let directory = place();
    let directory = directory.path();
    let mut seen: BTreeMap<u32, u8> = BTreeMap::new();
    let mut next = 0;
    let ours = ["flows", "flows.journal", "flows.journal.old", "log", "objects.yaml", "one.pcap"];
    fs::write(directory.join("one.pcap"), [header(), record(0, true)].concat()).unwrap();
    // Milliseconds: while it starts, reads and writes the flows of those before, takes in new ones, and saves them after five seconds.
    for patience in [900, 40, 70, 110, 160, 230, 330, 700, 5_400, 130] {
        let mut child = start(directory, &format!("exec {RUN} --device pcap:one.pcap,whole.pcapng"));
        let (out, said) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        let clients = Clients::of(&mut child, next);
        thread::sleep(Duration::from_millis(patience));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "killed, not ended: {}", text(said));
        next = clients.stop();
        seen.append(&mut backends(&out.join().unwrap()));
        let names = names(directory);
        // Complete but not yet in its place, if the kill came in between.
        let strange = names.iter().find(|name| !ours.contains(&name.as_str()) && !name.starts_with(".lb-"));
        assert_eq!(strange, None, "after {patience} ms");
    }
    assert!(seen.len() > 5_000, "only {} flows were seen", seen.len());
    let (code, after, said) = run_through(directory, RUN, seen.keys().copied(), false);
    assert_eq!((code, after.len()), (0, seen.len()), "{said}");
    let moved = seen.iter().filter(|(client, backend)| after[client] != **backend).count();
    assert_eq!(moved, 0, "of {} flows", seen.len());
    println!("ten kills, {} flows that were seen, all known to the next", seen.len());
}

#[test]
fn traffic_goes_on_where_nothing_can_be_written() {
    for (what, command, code, expected) in [
        (
            "the log, after some",
            full(16, &RUN.replace("--flow-file flows", "")),
            2,
            "lines about flows could not be written: File too large",
        ),
        ("log and flow file", full(16, RUN), 2, "error: flows: File too large (os error 27)\n"),
        ("the log", RUN.replace("--log log", "--log /dev/full"), 2, "could not be written: No space left on device"),
        ("standard error", format!("{RUN} 2>/dev/full"), 0, ""),
    ] {
        let directory = place();
        let (ended, went, said) = run_through(directory.path(), &command, 0..5_000, true);
        assert_eq!((ended, went.len()), (code, 5_000), "{what}: {said}");
        assert!(said.contains(expected) && !said.contains("panicked"), "{what}: {said}");
        let whole = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        for name in ["log", "flows", "flows.journal"] {
            let text = whole(name);
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let torn = lines.find(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
            assert_eq!(torn, None, "{what}: {name}");
        }
    }
}

/// What was begun on a full disk is finished once there is room: no line is torn, those that are lost are counted, and flows that
/// the journal had no room for are in the file when it is next written.
#[test]
fn a_disk_that_has_room_again_is_written_to() {
    let directory = place();
    let directory = directory.path();
    let mut child = start(directory, &full(64, &format!("{RUN} --metrics 127.0.0.1:0")));
    let out = collect(child.stdout.take().unwrap());
    let mut stderr = child.stderr.take().unwrap();
    let clients = Clients::of(&mut child, 0);
    let mut said = String::new();
    let mut until = |expected: &str| {
        let mut some = [0; 4096];
        while !said.contains(expected) {
            let count = stderr.read(&mut some).unwrap();
            assert!(count > 0, "no {expected:?} in {said}");
            said += &String::from_utf8_lossy(&some[..count]);
        }
        said.clone()
    };
    let told = until("answering /metrics");
    let address = told.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let address: String = address.chars().filter(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    until("could not be written about flows, and traffic goes on: File too large");
    until("the flows were not saved");
    let mut asked = TcpStream::connect(&address).unwrap_or_else(|error| panic!("{address:?}: {error}"));
    asked.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut metrics = String::new();
    asked.read_to_string(&mut metrics).unwrap();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("lb_lines_unwritten_total "));
    assert!(lost.is_some_and(|lost| lost.parse::<u64>().unwrap() > 0), "{metrics}");

    let id = child.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &id, "--fsize=unlimited:"]).status().unwrap().success());
    let length = || fs::metadata(directory.join("log")).unwrap().len();
    let was = length();
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(100));
        if length() > was + 10_000 {
            break;
        }
    }
    let next = clients.stop();
    assert_eq!(child.wait().unwrap().code(), Some(2), "it says in the end that lines are lost");
    let went = backends(&out.join().unwrap());
    assert_eq!(went.len() as u32, next, "a packet did not go on");
    let mut end = String::new();
    stderr.read_to_string(&mut end).unwrap();
    let log = fs::read_to_string(directory.join("log")).unwrap();
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(log.len() > 64 * 512 && log.ends_with('\n') && events.len() > 100);
    let told = end.split("lines about flows could not be written").next().unwrap().rsplit([' ', '\n']).nth(1).unwrap();
    let told: usize = told.parse().unwrap_or_else(|_| panic!("{told:?} of {end}"));
    // Each flow is to have two lines in the log and one in the journal, of which those that were lost are counted, too.
    let missing = 2 * next as usize - events.len();
    assert!(
        missing > 0 && (missing..=missing + next as usize).contains(&told),
        "{missing} lines are missing, {told} told"
    );
    // All flows are in the file, also those that were never in the journal.
    let (code, after, said) = run_through(directory, RUN, 0..next, false);
    assert_eq!((code, after == went), (0, true), "{said}");
}

#[test]
fn what_cannot_be_written_whole_has_no_name() {
    let lives = "lb run -f objects.yaml --device pcap:in.pcap";
    let replays = "lb replay in.pcap -f objects.yaml";
    for (what, command, expected) in [
        ("a replay's packets", full(16, &format!("{replays} -o out")), "cannot write out: File too large"),
        ("a replay's log", full(16, &format!("{replays} --log out")), "cannot write out: File too large"),
        (
            "a replay's packets to a full device",
            format!("{replays} -o /dev/full"),
            "cannot write /dev/full: No space left",
        ),
        (
            "what is to be compared with",
            full(16, &format!("{replays} --expect out --update")),
            "cannot write out: File too large",
        ),
        ("rules", full(1, "lb compile -f objects.yaml -o out"), "cannot write out: File too large"),
        ("a capture as a device", full(16, &format!("{lives},out")), "pcap:in.pcap,out: File too large"),
        ("a full device as a device", format!("{lives},/dev/full"), "pcap:in.pcap,/dev/full: No space left"),
    ] {
        let directory = place();
        let many: Vec<u8> = header().into_iter().chain((0..20_000).flat_map(|client| record(client, true))).collect();
        fs::write(directory.path().join("in.pcap"), many).unwrap();
        let ran = start(directory.path(), &command).wait_with_output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{what}: {said}");
        assert!(said.contains(expected) && !said.contains("panicked"), "{what}: {said}");
        assert_eq!(names(directory.path()), ["in.pcap", "objects.yaml"], "{what}");
    }
}
