//! The built `lb run` at an API server.

use std::process::Command;

use serde_json::json;
use tempfile::NamedTempFile;

use super::endless::{self, Live};
use super::server::{NODES, SERVICES, SLICES, Server};
use super::{kubeconfig, node, service, slice};

/// A capture that is read to its end.
const WALK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed/walk.pcap");

fn start(config: &NamedTempFile, device: &str) -> Live {
    let config = config.path().to_str().expect("a path");
    Live::start(["--device", device, "--node", "worker-1", "--kubeconfig", config])
}

/// Whoever starts `lb run` in a cluster asks it how it is from the start, and wants to know what it waits for.
#[test]
fn it_is_alive_while_it_waits_and_says_for_what() {
    let server = Server::start();
    server.put(SERVICES, "web", service("web", 80));
    server.with(|state| state.unavailable = vec![(SLICES, 503)]);
    let (config, directory) = (kubeconfig(&server), tempfile::tempdir().expect("a directory"));
    let mut live = start(&config, &format!("pcap:{WALK},{}", directory.path().join("out.pcapng").display()));
    live.until("the API server: it answers 503");
    assert_eq!(["/livez", "/healthz", "/metrics"].map(|path| live.status(path)), ["200", "503", "200"]);
    // To read again what it has not yet read is no reason to end.
    let hang_up = Command::new("kill").args(["-HUP", &live.child.id().to_string()]).status().expect("kill");
    assert!(hang_up.success());
    live.until("SIGHUP");
    server.with(|state| state.unavailable.clear());
    live.until("there is no Node \"worker-1\"");
    assert_eq!(["/livez", "/healthz"].map(|path| live.status(path)), ["200", "503"]);
    server.put(NODES, "worker-1", node(json!([])));
    live.until("forwarding");
    assert_eq!(live.child.wait().expect("its end").code(), Some(0));
}

/// What users of kube-proxy look at.
#[test]
fn metrics_tell_of_endpoints() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start();
    server.put(NODES, "worker-1", node(json!([])));
    let mut local = service("web", 80);
    local["spec"]["internalTrafficPolicy"] = "Local".into();
    server.put(SERVICES, "web", local);
    let now = || jiff::Timestamp::now().to_string();
    let old = slice("web-1", "10.244.0.11");
    server.put(SLICES, "web-1", old);
    let config = kubeconfig(&server);
    let mut live = start(&config, &endless::device(directory.path()));
    live.until("forwarding");
    server.until_watched();
    let lacking = |policy: &str, count: u32| {
        format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{{traffic_policy=\"{policy}\"}} {count}")
    };
    live.until_metric(&lacking("internal", 1));
    live.until_metric(&lacking("external", 0));
    live.until_metric("kubeproxy_network_programming_duration_seconds_count 0");

    let mut here = slice("web-1", "10.244.0.12");
    here["endpoints"][0]["nodeName"] = "worker-1".into();
    here["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": now()});
    server.put(SLICES, "web-1", here.clone());
    live.until_metric(&lacking("internal", 0));
    live.until_metric("kubeproxy_network_programming_duration_seconds_count 1");
    live.until_metric("kubeproxy_network_programming_duration_seconds_bucket{le=\"0.0\"} 0");
    live.until_metric("kubeproxy_network_programming_duration_seconds_bucket{le=\"60.0\"} 1");

    // What it tells was before: nobody could be quick about it.
    here["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "2020-01-01T00:00:00Z"});
    here["endpoints"][0]["addresses"][0] = "10.244.0.13".into();
    server.put(SLICES, "web-1", here);
    live.until_metric("kubeproxy_sync_proxy_rules_endpoint_changes_total 3");
    live.until_metric("kubeproxy_network_programming_duration_seconds_count 1");
    live.until_metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending 0");

    live.until_metric("lb_reloads_refused_total 0");
    let mut refused = service("other", 80);
    refused["spec"]["ports"][0]["port"] = 80_000.into();
    server.put(SERVICES, "other", refused);
    live.until_metric("lb_reloads_refused_total 1");
}
