//! The control plane of the box, looked at from outside: objects in, events and actions out, on a clock that
//! the test turns.

mod api;
mod cloud;
mod controllers;
mod kubelet;
mod story;

use std::sync::Arc;

use lb_core::{Address, Instant, Prefix};
use lb_host::cluster::api::{Api, Kind};
use lb_host::k8s::{Document, Manifests, Placed, Ranges};
use serde_json::Value;

/// An empty store of two families.
fn api() -> Api {
    api_of(&["10.96.0.0/16", "fd00:10:96::/112"], (30_000, 32_767), 7)
}

fn api_of(blocks: &[&str], node_ports: (u16, u16), seed: u64) -> Api {
    let blocks = blocks.iter().map(|block| prefix(block)).collect();
    Api::new(&Ranges { cluster_ips: blocks, node_ports, seed })
}

fn prefix(text: &str) -> Prefix {
    lb_host::k8s::address::lenient_prefix(text).expect("a block")
}

fn address(text: &str) -> Address {
    lb_host::k8s::address::lenient_address(text).expect("an address")
}

/// The second `second` of the clock.
fn at(second: u64) -> Instant {
    Instant::from_secs(second)
}

/// The only object of a YAML text.
fn object<T: Kind + serde::de::DeserializeOwned>(yaml: &str) -> Placed<T> {
    let document = Document::parse("test", yaml).expect("YAML").remove(0);
    Placed::from(document.read::<T>().expect("an object of its kind").value)
}

/// Applies YAML, whatever it holds.
fn apply(api: &mut Api, now: Instant, yaml: &str) {
    let mut manifests = Manifests::default();
    manifests.add("test", yaml).expect("manifests");
    api.apply_all(now, manifests).expect("they are admitted");
}

/// The value at a JSON pointer of the object of this name, null if there is none.
fn value<T: Kind + serde::Serialize>(api: &Api, key: &str, pointer: &str) -> Value {
    let object: Option<&Arc<Placed<T>>> = api.get::<T>(key);
    let json = object.map(|object| serde_json::to_value(&object.object).expect("JSON")).unwrap_or_default();
    json.pointer(pointer).cloned().unwrap_or_default()
}
