//! Objects followed at an API server's.

#![allow(unreachable_pub, reason = "its modules are one program")]

mod configuration;
#[path = "../endless/mod.rs"]
mod endless;
mod live;
mod server;

use std::time::Duration;

use lb_core::control::{Label, Mode};
use lb_host::k8s::Settings;
use lb_host::rules::Change;
use lb_host::run::api::Cluster;
use lb_host::run::{Notice, Objects, Reading};
use serde_json::{Value, json};

use server::{BLOCKS, Gone, NODES, SERVICES, SLICES, Server, tell};

/// Longer than it takes to try again.
const LONG: Duration = Duration::from_secs(20);
/// Long enough for what is not to happen.
const SHORT: Duration = Duration::from_millis(300);

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
fn told(reading: Reading) -> String {
    let names = |names: Vec<Label>| names.join(" ");
    match reading.objects {
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
}

/// Whoever lists again is told of what went meanwhile only by its not being there.
#[test]
fn what_vanished_meanwhile_is_gone_after_all_was_listed_again() {
    for gone in [Gone::Event, Gone::Status, Gone::Restored] {
        let server = Server::start();
        for name in ["web", "old"] {
            server.put(SERVICES, name, service(name, 80));
        }
        for name in ["web-1", "old-1"] {
            server.put(SLICES, name, slice(name, "10.244.0.11"));
        }
        server.put(NODES, "worker-1", node(json!([])));
        let (cluster, mut noticed) = follow(&server);
        assert!(noticed(LONG));
        cluster.read();
        server.until_watched();

        server.with(|state| state.forgotten = Some(gone));
        server.hang_up();
        server.delete(SERVICES, "old");
        server.delete(SLICES, "old-1");
        server.delete(NODES, "worker-1");
        server.put(SERVICES, "new", service("new", 80));
        server.until(|state| [SERVICES, SLICES, NODES].iter().all(|path| state.told_gone.contains(path)));
        server.with(|state| state.forgotten = None);
        let expected = ["no default/old", "no default/old-1", "worker-1 false", "default/new:80"];
        let mut heard = Vec::new();
        while !expected.iter().all(|news| heard.iter().any(|one| one == news)) {
            assert!(noticed(LONG), "heard only {heard:?}");
            heard.extend(told(cluster.read()).split(", ").map(str::to_owned));
        }
        heard.retain(|one| !one.is_empty() && !expected.contains(&one.as_str()));
        assert!(heard.is_empty(), "what is as it was is no news: {heard:?}");
        // It is back, as a node is that was made anew.
        server.until_watched();
        server.put(NODES, "worker-1", node(json!([])));
        until_told(&cluster, &mut noticed, "worker-1 true");
    }
}

#[test]
fn pages_are_put_together_and_begun_anew_when_one_is_lost() {
    let server = Server::start();
    for name in ["a", "b", "c"] {
        server.put(SERVICES, name, service(name, 80));
    }
    server.put(NODES, "worker-1", node(json!([])));
    server.with(|state| state.pages = Some(1));
    let (cluster, mut noticed) = follow(&server);
    assert!(noticed(LONG));
    assert_eq!(told(cluster.read()), "all: default/a default/b default/c; ; worker-1 true");
}

#[test]
fn a_server_that_ends_every_watch_is_not_besieged() {
    let server = Server::start();
    server.put(NODES, "worker-1", node(json!([])));
    server.with(|state| state.ends_at_once = true);
    let (_cluster, mut noticed) = follow(&server);
    assert!(noticed(LONG));
    std::thread::sleep(Duration::from_secs(3));
    let asked = server.with(|state| state.requests.clone());
    let watches = asked.iter().filter(|request| request.starts_with(NODES) && request.contains("watch=true")).count();
    assert!((2..=6).contains(&watches), "once a second: {asked:?}");
}

#[test]
fn what_is_refused_is_counted_and_the_rest_goes_on() {
    let server = Server::start();
    server.put(SERVICES, "web", service("web", 80));
    server.put(NODES, "worker-1", node(json!([])));
    let (cluster, mut noticed) = follow(&server);
    assert!(noticed(LONG));
    assert_eq!(cluster.read().refused, 0);
    server.until_watched();
    let mut many = service("web", 80);
    many["spec"]["ports"][0]["port"] = 80_000.into();
    let mut no_object = service("odd", 80);
    no_object["spec"]["clusterIP"] = 7.into();
    for (what, name, object) in [("no port", "web", many), ("not of its type", "odd", no_object)] {
        server.put(SERVICES, name, object);
        assert!(noticed(LONG), "{what}");
        let reading = cluster.read();
        assert_eq!(reading.refused, 1, "{what}");
        assert_eq!(told(reading), "", "{what}: what was before stays");
    }
    server.put(SERVICES, "web", service("web", 81));
    until_told(&cluster, &mut noticed, "default/web:81");
    assert_eq!(cluster.read().refused, 0, "they were told");
}

/// The blocks of ClusterIPs that are read: of the node, or of what became of it.
fn blocks(reading: Reading) -> String {
    let node = match reading.objects {
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
