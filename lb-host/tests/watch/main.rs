//! Objects followed at an API server's: a small stand-in that lists, watches, forgets and hangs up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_core::control::{Label, Mode};
use lb_host::k8s::Settings;
use lb_host::rules::Change;
use lb_host::run::api::Cluster;
use lb_host::run::{Notice, Objects};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";
const BLOCKS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

/// Longer than it takes to try again.
const LONG: Duration = Duration::from_secs(20);
/// Long enough for what is not to happen.
const SHORT: Duration = Duration::from_millis(300);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    watchers: Vec<(&'static str, TcpStream)>,
    requests: Vec<String>,
    /// Lists of these are refused, by this status.
    unavailable: Vec<(&'static str, u16)>,
    /// The server does not know these kinds.
    unheard_of: Vec<&'static str>,
    /// Watches are answered with 410 Gone.
    forgotten: bool,
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = Self { state: Arc::default(), address };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = serving.clone();
                // Whoever hangs up has what it wanted.
                std::thread::spawn(move || server.answer(stream).ok());
            }
        });
        server
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("the state"))
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let path = [SERVICES, SLICES, NODES, BLOCKS].into_iter().find(|known| *known == path).expect("a known path");
        let is_watch = query.contains("watch=true");
        let mut state = self.state.lock().expect("the state");
        state.requests.push(target.clone());
        if !is_watch {
            let refused = state.unavailable.iter().find(|(kind, _)| *kind == path).map(|(_, code)| *code);
            let (code, body) = match (refused, state.unheard_of.contains(&path)) {
                (Some(code), _) => (code, status(code)),
                (_, true) => (404, status(404)),
                _ => {
                    let items: Vec<_> = state.objects.entry(path).or_default().values().cloned().collect();
                    let version = state.version.to_string();
                    (
                        200,
                        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
                    )
                }
            };
            let body = body.to_string();
            return write!(
                stream,
                "HTTP/1.1 {code} As asked\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        if state.forgotten {
            return send(&mut stream, "ERROR", &status(410));
        }
        // What happened since the version that is asked for.
        let since =
            query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).and_then(|n| n.parse().ok());
        let since: u64 = since.expect("a version");
        let missed: Vec<_> = state.objects.entry(path).or_default().values().cloned().collect();
        for object in missed.iter().filter(|object| version(object) > since) {
            send(&mut stream, "MODIFIED", object)?;
        }
        state.watchers.push((path, stream));
        Ok(())
    }

    /// Stores an object and tells who watches.
    fn put(&self, path: &'static str, name: &str, mut object: Value) {
        self.with(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let before = state.objects.entry(path).or_default().insert(name.to_owned(), object.clone());
            tell(state, path, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        });
    }

    fn delete(&self, path: &'static str, name: &str) {
        self.with(|state| {
            state.version += 1;
            let object = state.objects.entry(path).or_default().remove(name).expect("an object");
            tell(state, path, "DELETED", &object);
        });
    }

    fn hang_up(&self) {
        self.with(|state| {
            state.watchers.drain(..).for_each(|(_, stream)| drop(stream.shutdown(std::net::Shutdown::Both)))
        });
    }

    fn until_watched(&self) {
        for _ in 0..2000 {
            if self.with(|state| {
                [SERVICES, SLICES, NODES].iter().all(|path| state.watchers.iter().any(|(of, _)| of == path))
            }) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody watches: {:?}", self.with(|state| state.requests.clone()));
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn tell(state: &mut State, path: &str, event: &str, object: &Value) {
    state.watchers.retain_mut(|(of, stream)| *of != path || send(stream, event, object).is_ok());
}

fn send(stream: &mut TcpStream, event: &str, object: &Value) -> std::io::Result<()> {
    let line = format!("{}\n", json!({"type": event, "object": object}));
    write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
    stream.flush()
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "message": "as asked", "code": code})
}

fn service(name: &str, port: u16) -> Value {
    let last = name.bytes().map(u32::from).sum::<u32>() % 250 + 1;
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": format!("10.96.0.{last}"), "ports": [{"port": port, "protocol": "TCP"}]},
    })
}

fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

fn node(taints: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}, "spec": {"taints": taints},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

/// Follows the server as a node does.
fn follow(server: &Server) -> (Cluster, impl FnMut(Duration) -> bool) {
    follow_as(server, Settings::default())
}

fn follow_as(server: &Server, settings: Settings) -> (Cluster, impl FnMut(Duration) -> bool) {
    let file = kubeconfig(server);
    let (notice, noticed) = Notice::alone();
    let cluster = Cluster::watch(Some(file.path()), "worker-1", settings, notice).expect("a configuration");
    (cluster, noticed)
}

fn kubeconfig(server: &Server) -> tempfile::NamedTempFile {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}", server.address)}}],
        "users": [{"name": "lab", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), config.to_string()).expect("written");
    file
}

/// What is read, in words.
fn told(objects: Objects) -> String {
    let names = |names: Vec<Label>| names.join(" ");
    match objects {
        Objects::Cluster { services, slices, node, eligible } => format!(
            "all: {}; {}; {} {eligible}",
            names(services.into_iter().map(|one| one.name).collect()),
            names(slices.into_iter().map(|one| one.name).collect()),
            node.name
        ),
        Objects::Changes { changes, eligible } => {
            let one = |change: &Change| match change {
                Change::Service(service) => format!("{}:{}", service.name, service.ports[0].port),
                Change::NoService(name) | Change::NoSlice(name) => format!("no {name}"),
                Change::Slice(slice) => format!("{} {}", slice.name, slice.endpoints[0].address),
                Change::Node(node) => format!("{} {eligible}", node.name),
            };
            changes.iter().map(one).collect::<Vec<_>>().join(", ")
        }
        Objects::Image(_) => "an image".to_owned(),
    }
}

/// Waits for notices until all of this was read.
fn until_told(cluster: &Cluster, noticed: &mut impl FnMut(Duration) -> bool, expected: &str) {
    let mut all = Vec::new();
    while noticed(LONG) {
        let news = told(cluster.read());
        if !news.is_empty() {
            all.push(news);
        }
        if all.join(", ") == expected {
            return;
        }
    }
    panic!("was told {all:?}, never {expected:?}");
}

#[test]
fn nothing_is_told_before_everything_was_listed() {
    let server = Server::start();
    server.put(SERVICES, "web", service("web", 80));
    server.put(SLICES, "web-1", slice("web-1", "10.244.0.11"));
    server.put(NODES, "worker-1", node(json!([])));
    // Broken, starting, overloaded, or its administrator is late with the role.
    for code in [500, 503, 429, 403] {
        server.with(|state| state.unavailable = vec![(SLICES, code)]);
        let (cluster, mut noticed) = follow(&server);
        assert!(!noticed(Duration::from_secs(1)), "§2.8: EndpointSlices are not known yet");
        server.with(|state| state.unavailable.clear());
        assert!(noticed(LONG), "after {code} it is tried again");
        assert_eq!(told(cluster.read()), "all: default/web; default/web-1; worker-1 true");
    }
    let asked = server.with(|state| state.requests.clone());
    let ours = |request: &&String| request.starts_with(SERVICES) || request.starts_with(SLICES);
    assert!(asked.iter().filter(ours).all(|request| request.contains("service-proxy-name")), "§2.2: {asked:?}");
    assert!(asked.iter().any(|request| request.contains("metadata.name%3Dworker-1")), "its own node only: {asked:?}");
}

#[test]
fn what_happens_is_told_and_nothing_is_lost() {
    let server = Server::start();
    server.put(SERVICES, "web", service("web", 80));
    server.put(SERVICES, "old", service("old", 80));
    server.put(NODES, "worker-1", node(json!([])));
    let (cluster, mut noticed) = follow(&server);
    assert!(noticed(LONG));
    assert_eq!(told(cluster.read()), "all: default/old default/web; ; worker-1 true");
    server.until_watched();

    server.put(SERVICES, "web", service("web", 81));
    until_told(&cluster, &mut noticed, "default/web:81");
    server.put(SLICES, "web-1", slice("web-1", "10.244.0.11"));
    until_told(&cluster, &mut noticed, "default/web-1 10.244.0.11");
    server.delete(SLICES, "web-1");
    until_told(&cluster, &mut noticed, "no default/web-1");
    server.put(NODES, "worker-1", node(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}])));
    until_told(&cluster, &mut noticed, "worker-1 false");

    // A bookmark moves on where to resume, and is nobody's news.
    let bookmark = server.with(|state| {
        state.version += 1000;
        let version = state.version.to_string();
        let object =
            json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "spec": {}});
        tell(state, SERVICES, "BOOKMARK", &object);
        version
    });
    assert!(!noticed(SHORT));
    // The server hangs up, and something happens before the client is back.
    server.hang_up();
    server.put(SERVICES, "web", service("web", 82));
    until_told(&cluster, &mut noticed, "default/web:82");
    let resumed = format!("resourceVersion={bookmark}");
    let asked = server.with(|state| state.requests.clone());
    assert!(asked.iter().any(|request| request.starts_with(SERVICES) && request.contains(&resumed)), "{asked:?}");

    // The server has forgotten what it was asked from: all is listed again, and what is not there is gone.
    server.until_watched();
    server.with(|state| state.forgotten = true);
    server.hang_up();
    server.delete(SERVICES, "old");
    server.put(SERVICES, "new", service("new", 80));
    std::thread::sleep(SHORT);
    server.with(|state| state.forgotten = false);
    let mut heard = String::new();
    while !(heard.contains("no default/old") && heard.contains("default/new:80")) {
        assert!(noticed(LONG), "heard only {heard:?}");
        heard += &told(cluster.read());
    }
}

/// The blocks of ClusterIPs that are read: of the node, or of what became of it.
fn blocks(objects: Objects) -> String {
    let node = match objects {
        Objects::Cluster { node, .. } => Some(*node),
        Objects::Changes { changes, .. } => changes.into_iter().find_map(|change| match change {
            Change::Node(node) => Some(node),
            _ => None,
        }),
        Objects::Image(_) => None,
    };
    let blocks = node.map(|node| node.proxy.service_cidrs).unwrap_or_default();
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn nftables_mode_follows_the_blocks_of_cluster_ips() {
    let block = |cidrs: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
    let nftables = Settings { mode: Mode::NFTABLES, ..Settings::default() };
    let server = Server::start();
    server.put(NODES, "worker-1", node(json!([])));
    server.put(BLOCKS, "kubernetes", {
        let mut first = block(json!(["10.96.0.0/16"]));
        first["metadata"]["name"] = "kubernetes".into();
        first
    });
    server.with(|state| state.unavailable = vec![(BLOCKS, 503)]);
    let (cluster, mut noticed) = follow_as(&server, nftables.clone());
    assert!(!noticed(Duration::from_secs(1)), "§2.8: they are not known yet");
    server.with(|state| state.unavailable.clear());
    assert!(noticed(LONG), "it is tried again");
    assert_eq!(blocks(cluster.read()), "10.96.0.0/16");
    server.until_watched();
    server.put(BLOCKS, "more", block(json!(["10.200.0.0/24", "fd00:96::/112"])));
    assert!(noticed(LONG));
    assert_eq!(blocks(cluster.read()), "10.96.0.0/16 10.200.0.0/24 fd00:96::/112");
    server.delete(BLOCKS, "more");
    assert!(noticed(LONG));
    assert_eq!(blocks(cluster.read()), "10.96.0.0/16");

    // A server that has none: the flags' blocks.
    let server = Server::start();
    server.put(NODES, "worker-1", node(json!([])));
    server.with(|state| state.unheard_of = vec![BLOCKS]);
    let (cluster, mut noticed) = follow_as(&server, nftables);
    assert!(noticed(LONG));
    assert_eq!(blocks(cluster.read()), "10.96.0.0/12");

    // §2.1: no other mode asks.
    let (_cluster, mut noticed) = follow(&server);
    let before = server.with(|state| state.requests.iter().filter(|request| request.starts_with(BLOCKS)).count());
    assert!(noticed(LONG) && !noticed(SHORT));
    let after = server.with(|state| state.requests.iter().filter(|request| request.starts_with(BLOCKS)).count());
    assert!(after <= before + 1, "only the first follower tries again");
}

/// A process that ends with the test.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever starts `lb run` in a cluster asks it how it is from the start, and wants to know what it waits for.
#[test]
fn it_is_alive_while_it_waits_and_says_for_what() {
    let server = Server::start();
    server.put(SERVICES, "web", service("web", 80));
    server.with(|state| state.unavailable = vec![(SLICES, 503)]);
    let config = kubeconfig(&server);
    let directory = tempfile::tempdir().expect("a directory");
    let input = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed/walk.pcap");
    let child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["run", "--device", &format!("pcap:{input},{}", directory.path().join("out.pcapng").display())])
        .args(["--node", "worker-1", "--metrics", "127.0.0.1:0", "--kubeconfig"])
        .arg(config.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lb");
    let mut child = Mortal(child);
    let (says, heard) = std::sync::mpsc::channel();
    let lines = BufReader::new(child.0.stderr.take().expect("its words")).lines().map_while(Result::ok);
    std::thread::spawn(move || lines.for_each(|line| drop(says.send(line))));
    let mut said: Vec<String> = Vec::new();
    let mut until = |what: &str| {
        loop {
            if let Some(line) = said.iter().find(|line| line.contains(what)) {
                return line.clone();
            }
            said.push(heard.recv_timeout(LONG).unwrap_or_else(|_| panic!("it never said {what:?}: {said:#?}")));
        }
    };
    let answering = until("answering /metrics");
    let address =
        answering.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    let asked = |path: &str| {
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").expect("sent");
        let answer = BufReader::new(stream).lines().next().expect("a line").expect("text");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    until("503");
    assert_eq!([asked("/livez"), asked("/healthz"), asked("/metrics")], ["200", "503", "200"]);
    // To read again what it has not yet read is no reason to end.
    let hang_up = Command::new("kill").args(["-HUP", &child.0.id().to_string()]).status().expect("kill");
    assert!(hang_up.success());
    until("SIGHUP");
    server.with(|state| state.unavailable.clear());
    until("there is no Node \"worker-1\"");
    assert_eq!([asked("/livez"), asked("/healthz")], ["200", "503"]);
    server.put(NODES, "worker-1", node(json!([])));
    until("forwarding");
    assert_eq!(child.0.wait().expect("its end").code(), Some(0));
}
