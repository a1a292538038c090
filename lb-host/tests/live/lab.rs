//! A node, its Pods and a client in network namespaces of their own, wired as the README's picture shows.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_host::clock::now;

/// How `lb run` hangs on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stick {
    /// A TAP interface.
    Tap,
    /// The same with several queues.
    TapQueues,
    /// A pair of veths, of which `lb run` has one end by a packet socket.
    Veth,
    /// Not at all: the kernel does what is done.
    None,
}

/// Pods there are.
pub(crate) const PODS: usize = 3;

pub(crate) struct Lab {
    id: String,
    spaces: Vec<String>,
    pub(crate) stick: Stick,
    directory: tempfile::TempDir,
    children: Vec<Child>,
}

/// Whether labs can be made here. If not says so; in CI that is a failure.
pub(crate) fn possible(programs: &[&str]) -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let missing: Vec<_> = programs.iter().filter(|program| !has(program)).collect();
    let possible = root && missing.is_empty();
    if !possible {
        let why = format!("live traffic needs root (here: {root}) and the programs that are missing: {missing:?}");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("!!! NOT CHECKED: {why}");
    }
    possible
}

fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program} >/dev/null")])
        .status()
        .is_ok_and(|status| status.success())
}

/// The last part of a Pod's addresses, 10.244.0.N and fd00:244::N.
pub(crate) fn pod_number(pod: usize) -> usize {
    11 + pod
}

/// What a namespace that routes needs: with early demultiplexing packets would be tied to sockets before they went round.
const ROUTES: &str = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.ip_early_demux=0 \
                      net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0";

impl Lab {
    /// A node with its Pods and a client.
    pub(crate) fn new(stick: Stick, mtu: usize) -> Self {
        let mut lab = Self::of(stick, &["client", "pod0", "pod1", "pod2"]);
        lab.router("node");
        lab.link("client", "192.0.2.100", "2001:db8::100", "192.0.2.1", mtu);
        lab.ip("node", "addr add 2001:db8::1/128 dev lo\n");
        for pod in 0..PODS {
            let number = pod_number(pod);
            let (v4, v6) = (format!("10.244.0.{number}"), format!("fd00:244::{number}"));
            lab.link(&format!("pod{pod}"), &v4, &v6, "10.244.0.1", mtu);
        }
        if stick != Stick::None {
            lab.hang("node", mtu, ["192.0.2.1", "2001:db8::1"]);
        }
        lab
    }

    /// Machines that nothing connects yet.
    pub(crate) fn of(stick: Stick, machines: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("lb{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a directory");
        let mut lab = Self { id, spaces: Vec::new(), stick, directory, children: Vec::new() };
        machines.iter().for_each(|name| lab.machine(name));
        lab
    }

    fn machine(&mut self, name: &str) {
        run(Command::new("ip").args(["netns", "add", &self.space(name)]));
        self.spaces.push(name.to_owned());
    }

    /// One more machine, which forwards.
    pub(crate) fn router(&mut self, name: &str) {
        self.machine(name);
        self.ip(name, "link set lo up\n");
        self.sysctl(name, ROUTES);
    }

    /// A link between the node and another machine, which has these addresses and its gateway at its other end.
    fn link(&self, name: &str, v4: &str, v6: &str, gateway: &str, mtu: usize) {
        let peer = self.space(name);
        self.ip("node", &format!("link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}\n"));
        self.sysctl("node", &format!("net.ipv6.conf.{name}.accept_dad=0"));
        self.ip(
            "node",
            &format!(
                "link set {name} up\naddr add {gateway}/32 dev {name}\naddr add fe80::1/64 dev {name} nodad\n\
                 route add {v4} dev {name}\n-6 route add {v6} dev {name}\n"
            ),
        );
        self.ip(
            name,
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
                 route add default via {gateway} dev eth0 onlink\n-6 route add default via fe80::1 dev eth0\n"
            ),
        );
    }

    /// The stick of a machine, that traffic goes to and comes back from: all TCP, UDP, SCTP and ICMP that does not come from
    /// it. The machine's own has these addresses.
    pub(crate) fn hang(&self, on: &str, mtu: usize, own: [&str; 2]) {
        match self.stick {
            Stick::None => {}
            Stick::Tap | Stick::TapQueues => {
                let queues = if self.stick == Stick::Tap { "" } else { " multi_queue" };
                self.ip(on, &format!("tuntap add lb0 mode tap vnet_hdr{queues}\nlink set lb0 mtu {mtu}\n"));
            }
            Stick::Veth => {
                self.ip(on, &format!("link add lb0 mtu {mtu} type veth peer name lb1 mtu {mtu}\n"));
                self.sysctl(on, "net.ipv6.conf.lb1.disable_ipv6=1");
                self.ip(on, "link set lb1 arp off up\n");
            }
        }
        self.sysctl(
            on,
            "net.ipv6.conf.lb0.accept_dad=0 net.ipv4.conf.lb0.rp_filter=0 net.ipv4.conf.lb0.accept_local=1",
        );
        let mut batch = String::from("link set lb0 arp off up\n");
        for (family, own, loopback, icmp) in [("-4", own[0], "127.0.0.0/8", "icmp"), ("-6", own[1], "::1", "ipv6-icmp")]
        {
            batch += &format!("{family} rule add pref 1 iif lb0 lookup local\n");
            batch += &format!("{family} rule add pref 2 iif lb0 lookup main\n");
            batch += &format!("{family} rule add pref 3 iif lb0 unreachable\n");
            batch += &format!("{family} rule add pref 4 to {loopback} lookup local\n");
            for protocol in ["tcp", "udp", "sctp", icmp] {
                batch += &format!("{family} rule add pref 10 ipproto {protocol} lookup 100\n");
            }
            batch += &format!("{family} rule add pref 20 lookup local\n{family} rule del pref 0\n");
            batch += &format!("{family} route add default dev lb0 table 100 src {own}\n");
        }
        self.ip(on, &batch);
    }

    pub(crate) fn space(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Has `ip` do these lines in a namespace.
    pub(crate) fn ip(&self, name: &str, lines: &str) {
        for (family, lines) in by_family(lines) {
            let mut child = Command::new("ip")
                .args(["-n", &self.space(name)])
                .args(family)
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("ip");
            child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("written");
            assert!(child.wait().expect("its end").success(), "ip in {name}: {lines}");
        }
    }

    pub(crate) fn sysctl(&self, name: &str, settings: &str) {
        run(self.command(name, "sysctl").arg("-qw").args(settings.split(' ')));
    }

    /// A program in a namespace.
    pub(crate) fn command(&self, name: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(name), program]).stdin(Stdio::null());
        command
    }

    /// Starts a program that lives as long as the lab.
    pub(crate) fn start(&mut self, name: &str, program: &str, arguments: &[&str]) -> u32 {
        let log = std::fs::File::options().append(true).create(true).open(self.path("programs.log")).expect("a log");
        let mut command = self.command(name, program);
        command.args(arguments).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = command.spawn().expect(program);
        let id = child.id();
        self.children.push(child);
        id
    }

    /// Waits until someone listens on this TCP port of a namespace.
    pub(crate) fn await_port(&self, name: &str, port: u16) {
        let listening = || {
            let output = self.command(name, "ss").args(["-Htln", &format!("sport = :{port}")]).output().expect("ss");
            !output.stdout.is_empty()
        };
        until(&format!("port {port} of {name}"), listening);
    }

    /// Waits until nobody waits to be accepted at a TCP port of a namespace to which no new connections go.
    pub(crate) fn until_accepted(&self, name: &str, port: u16) {
        let mut looks = 0;
        let accepted = || {
            let these = ["-Htn", "state", "listening", "state", "syn-recv", &format!("sport = :{port}")];
            let sockets = text(self.command(name, "ss").args(these).output().expect("ss")).expect("sockets");
            let waits = |line: &str| {
                let mut words = line.split_whitespace();
                let (state, queued) = (words.next(), words.next());
                state == Some("SYN-RECV") || (state == Some("LISTEN") && queued != Some("0"))
            };
            // What was sent there last may be on its way.
            looks = if sockets.lines().any(waits) { 0 } else { looks + 1 };
            looks == 3
        };
        until(&format!("port {port} of {name} to have accepted all"), accepted);
    }

    /// What curl gets from a namespace: the body, or curl's complaint.
    pub(crate) fn curl(&self, name: &str, url: &str) -> Result<String, String> {
        let output = self.command(name, "curl").args(["-sS", "-m", "5", url]).output().expect("curl");
        text(output)
    }

    /// The value of a metric of the node's `lb run`; 0 if there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metric_of("node", name)
    }

    /// The same of another machine's.
    pub(crate) fn metric_of(&self, machine: &str, name: &str) -> f64 {
        let text = self.curl(machine, "http://127.0.0.1:10249/metrics").expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

/// Lines that begin with `-4` or `-6` are for an `ip` of that family.
fn by_family(lines: &str) -> Vec<(Option<&'static str>, String)> {
    let mut batches: Vec<(Option<&'static str>, String)> = Vec::new();
    for line in lines.lines() {
        let (family, line) = match line.split_at_checked(3) {
            Some(("-4 ", line)) => (Some("-4"), line),
            Some(("-6 ", line)) => (Some("-6"), line),
            _ => (None, line),
        };
        match batches.last_mut() {
            Some((last, batch)) if *last == family => *batch += &format!("{line}\n"),
            _ => batches.push((family, format!("{line}\n"))),
        }
    }
    batches
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("programs.log")).unwrap_or_default());
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.spaces {
            // What a program started in there goes with it.
            let inside = Command::new("ip").args(["netns", "pids", &self.space(name)]).output();
            let inside = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            for id in inside.split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", id]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", &self.space(name)]).status();
        }
    }
}

/// `lb run` on the node, and what it says.
pub(crate) struct Lb {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Lb {
    /// Starts it on the node and waits until it forwards.
    pub(crate) fn start(lab: &Lab, manifests: &Path, more: &[&str]) -> Self {
        let cluster = ["--node", "worker-1", "--cluster-cidr", "10.244.0.0/16,fd00:244::/64"];
        Self::start_on(lab, "node", manifests, &[&cluster, more].concat())
    }

    /// Starts it on a machine and waits until it forwards.
    pub(crate) fn start_on(lab: &Lab, machine: &str, manifests: &Path, more: &[&str]) -> Self {
        let device = if lab.stick == Stick::Veth { "af_packet:lb1" } else { "tap:lb0" };
        let mut command = lab.command(machine, env!("CARGO_BIN_EXE_lb"));
        command.args(["run", "--device", device, "--metrics", "127.0.0.1:10249"]);
        command.args(["--service-cluster-ip-range", "10.96.0.0/12,fd00:96::/112"]);
        command.arg("-f").arg(manifests).args(more).stderr(Stdio::piped());
        let mut child = command.spawn().expect("lb");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (BufReader::new(child.stderr.take().expect("its words")), said.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                heard.lock().expect("the lines").push(line);
            }
        });
        let lb = Self { child, said };
        lb.until("forwarding", 1);
        lb
    }

    /// How many lines say this.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.said.lock().expect("the lines").iter().filter(|line| line.contains(what)).count()
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("the lines").join("\n")
    }

    /// Waits until so many lines say this.
    pub(crate) fn until(&self, what: &str, count: usize) {
        let begun = now();
        while self.count(what) < count {
            assert!(now() - begun < Duration::from_secs(20), "lb never said {what:?} {count} times:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.child.id().to_string()]));
    }

    /// Its exit code; `None` if a signal ended it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.wait().expect("its end").code()
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = now();
    while !is_so() {
        assert!(now() - begun < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a program printed, or its complaint.
pub(crate) fn text(output: Output) -> Result<String, String> {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(of(&output.stdout)),
        false => Err(format!("{}{}{}", output.status, of(&output.stdout), of(&output.stderr))),
    }
}

pub(crate) fn run(command: &mut Command) {
    let status = command.status().expect("a program");
    assert!(status.success(), "{command:?}: {status}");
}
