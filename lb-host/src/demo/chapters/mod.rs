//! The story, a file for what belongs together.

mod appears;
mod by_hand;
mod datagrams;
mod inside;
mod modes;
mod names;
mod outside;
mod pods;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use lb_core::control::Mode;
use lb_core::{Address, Family};

use super::stage::{Stage, Visit, clock};
use super::{Error, Options};
use crate::cluster::kubernetes::Kubernetes;
use crate::k8s::service::{cluster_ips, ingress_ips};
use crate::table;

/// A client outside.
const LAPTOP: &str = "laptop";
/// A client inside.
const SHELL: &str = "shell";
/// A machine outside that a Service leads to; the first after the laptop, as `outside.yaml` has its address.
const WAREHOUSE: &str = "warehouse.example.com";
/// The Service that most of it is about.
const EXAMPLE: &str = "default/example";

/// Tells all of it.
pub(super) fn tell(stage: &mut Stage<'_>, options: Options, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    type Chapter = fn(&mut Stage<'_>) -> Result<(), Error>;
    let chapters: [(&str, Chapter); 11] = [
        ("A Service appears, and what it needs arrives bit by bit", appears::tell),
        ("From a Pod: a name, then an address, then another Pod", inside::tell),
        ("From outside: load balancer, node, Service, Pod, and all the way back", outside::load_balancer),
        ("A NodePort alone, and a load balancer of one's own in front of it", outside::node_port),
        ("A Pod is not ready, and another leaves", pods::leave),
        ("Session affinity: a client comes back to the same Pod", pods::affinity),
        ("ExternalName: one name, a database for each environment", names::external),
        ("Headless: names for Pods, and nothing in between", names::headless),
        ("No selector: a Service for a machine outside", by_hand::outside),
        ("Hairpin: a Pod calls its own Service and meets itself", by_hand::hairpin),
        ("UDP: no connection, and a Pod that goes", datagrams::tell),
    ];
    open(stage, options)?;
    for (title, chapter) in chapters {
        progress(title);
        stage.chapter(title)?;
        chapter(stage)?;
        stage.page.flush()?;
    }
    let title = "The same calls, by every way of proxying";
    progress(title);
    stage.chapter(title)?;
    modes::tell(stage, options.mode)?;
    close(stage)
}

/// The cluster, before anything happens.
fn open(stage: &mut Stage<'_>, options: Options) -> Result<(), Error> {
    stage.page.heading(&format!(
        "Matryoshka: a Service, opened layer by layer (seed {}, kube-proxy mode {})",
        options.seed,
        stage.mode()
    ))?;
    stage.say(
        "This is a Kubernetes cluster in memory: nodes whose every packet goes through Matryoshka's engine, Pods and \
         clients with real TCP/IP, kubelets that probe, controllers, DNS, a cloud with a load balancer. Time is its own. \
         What is printed is read from its objects and packets.",
    )?;
    stage.it.add_nodes(4)?;
    stage.it.add_dns()?;
    stage.it.add_client(LAPTOP);
    for (name, port) in [(WAREHOUSE, 8080), ("prod.database.example.com", 5432), ("dev.database.example.com", 5432)] {
        // The names are constants, and names.
        let _ = stage.it.add_site(name, port);
    }
    let ready = |it: &Kubernetes| ready_pods(it, "k8s-app", "coredns").len() == 2;
    let up = stage.wait_for(ready);
    stage.settle();
    stage.kubectl_get::<Node>("nodes", false, |_| true)?;
    let machines = stage.it.node_names().map(str::to_owned).chain([LAPTOP, WAREHOUSE].map(str::to_owned));
    let rows: Vec<Vec<String>> = machines
        .map(|name| {
            let machine = stage.it.machine(&name);
            let own = machine.map(|machine| stage.it.world().addresses(machine)).unwrap_or_default();
            std::iter::once(name).chain(own.iter().map(ToString::to_string)).collect()
        })
        .collect();
    let mut told = Vec::new();
    table::write(&mut told, &["MACHINE", "IPV4", "IPV6"], &rows)?;
    stage.page.gap()?;
    stage.show(&String::from_utf8_lossy(&told))?;
    stage.check(up, "four nodes, and cluster DNS runs on two of them")
}

/// What was sent where, and whether all was as told.
fn close(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.page.heading("What was sent where")?;
    stage.table()?;
    let (checks, failed, requests) = (stage.page.checks(), stage.page.failures(), stage.requests());
    let verdict = match failed {
        0 => format!("{requests} requests; {checks} claims checked, and all hold."),
        failed => format!("{requests} requests; {checks} claims checked, and {failed} DO NOT HOLD."),
    };
    stage.say(&verdict)?;
    Ok(stage.page.flush()?)
}

/// Whether so many requests were made, and all were answered.
fn served(visits: &[Visit], count: usize) -> bool {
    visits.len() == count && visits.iter().all(|visit| visit.fetched.result.is_ok())
}

/// How many requests each server had.
fn shares(visits: &[Visit]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for visit in visits {
        let who = match &visit.fetched.result {
            Ok(reply) => reply.served_by.clone(),
            Err(failure) => failure.to_string(),
        };
        *shares.entry(who).or_default() += 1;
    }
    shares
}

fn told_shares(shares: &BTreeMap<String, usize>) -> String {
    shares.iter().map(|(who, count)| format!("{who} {count}")).collect::<Vec<_>>().join(", ")
}

/// The Pods of a name's beginning that are ready and stay, and their nodes and addresses.
fn ready_pods(it: &Kubernetes, label: &str, begins: &str) -> BTreeMap<String, (String, Vec<Address>)> {
    let pods = it.api().list::<Pod>().filter(|pod| {
        let conditions = pod.object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
        ready
            && pod.object.metadata.deletion_timestamp.is_none()
            && pod.label(label).is_some()
            && pod.name().starts_with(begins)
    });
    pods.map(|pod| {
        let node = pod.object.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let ips = pod.object.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        (pod.name().to_owned(), (node, ips.into_iter().filter_map(|ip| address(&ip.ip)).collect()))
    })
    .collect()
}

/// What was logged since there were so many entries, of those whom it is about.
fn told_log(stage: &Stage<'_>, begun: usize, about: &[&str]) -> String {
    let entries =
        stage.it.log().iter().skip(begun).filter(|entry| about.iter().any(|about| entry.who.starts_with(about)));
    // Of a Service's two slices the one of IPv4.
    let entries = entries.filter(|entry| !(entry.who.starts_with("EndpointSlice") && entry.what.contains("fd00:")));
    let entries = entries.filter(|entry| !entry.what.starts_with("Pending") && entry.what != "no endpoints");
    let lines = entries.map(|entry| {
        let who = entry.who.replace("default/", "");
        let what = match who.split(' ').next() {
            Some("EndpointSlice") => ready_of(&entry.what),
            // What came last.
            Some("Service") => match entry.what.split_once(" external ") {
                Some((_, external)) => format!("external {}", external.replace("external ", "")),
                None => entry.what.clone(),
            },
            _ => entry.what.clone(),
        };
        format!("{:>9}  {who}: {what}", clock(entry.time))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Of a slice's endpoints those that are ready.
fn ready_of(endpoints: &str) -> String {
    let ready = endpoints.split(", ").filter_map(|one| address(one.strip_suffix(" ready")?));
    let ready: Vec<_> = ready.map(|address| address.to_string()).collect();
    if ready.is_empty() { "nobody is ready".to_owned() } else { format!("ready: {}", ready.join(", ")) }
}

/// The Pods of the example that serve.
fn alphas(it: &Kubernetes) -> BTreeMap<String, (String, Vec<Address>)> {
    ready_pods(it, "app", "alpha")
}

/// The IPv4 address of one of them.
fn alpha_address(it: &Kubernetes, name: &str) -> Option<Address> {
    alphas(it).get(name).and_then(|(_, own)| own.iter().copied().find(|own| own.is_v4()))
}

/// The addresses that a Service's Endpoints object lists as ready.
fn endpoint_addresses(it: &Kubernetes, key: &str) -> BTreeSet<Address> {
    let subsets = it.api().get::<Endpoints>(key).and_then(|endpoints| endpoints.object.subsets.clone());
    let addresses = subsets.into_iter().flatten().flat_map(|subset| subset.addresses.into_iter().flatten());
    addresses.filter_map(|one| address(&one.ip)).collect()
}

fn service(it: &Kubernetes, key: &str) -> Service {
    it.api().get::<Service>(key).map(|service| service.object.clone()).unwrap_or_default()
}

/// A Service's ClusterIP of a family.
fn cluster_ip(it: &Kubernetes, key: &str, family: Family) -> Option<Address> {
    let spec = service(it, key).spec?;
    cluster_ips(&spec).into_iter().find(|address| address.family() == family)
}

/// The address that the cloud gave a Service.
fn external_ip(it: &Kubernetes, key: &str, family: Family) -> Option<Address> {
    ingress_ips(&service(it, key)).into_iter().find(|address| address.family() == family)
}

/// A Service's first port, and its NodePort.
fn ports(it: &Kubernetes, key: &str) -> (u16, u16) {
    let spec = service(it, key).spec.unwrap_or_default();
    let first = spec.ports.unwrap_or_default().into_iter().next().unwrap_or_default();
    let number = |port: i32| u16::try_from(port).unwrap_or(0);
    (number(first.port), number(first.node_port.unwrap_or(0)))
}

/// A node's IPv4 address.
fn node_address(it: &Kubernetes, node: &str) -> Option<Address> {
    it.node_address(node, Family::V4)
}

/// The nodes that have an address.
fn is_node(it: &Kubernetes, address: Option<Address>) -> bool {
    let own = |name: &str| it.node(name).map(|machine| it.world().addresses(machine).to_vec()).unwrap_or_default();
    address.is_some_and(|address| it.node_names().any(|name| own(name).contains(&address)))
}

/// Whether somebody has an address.
fn is_of(it: &Kubernetes, who: &str, address: Option<Address>) -> bool {
    let machine = it.machine(who);
    address.is_some_and(|address| machine.is_ok_and(|machine| it.world().addresses(machine).contains(&address)))
}

/// A node on which none of the example's Pods run.
fn node_without(it: &Kubernetes) -> Option<String> {
    let with: BTreeSet<String> = alphas(it).into_values().map(|(node, _)| node).collect();
    it.node_names().find(|name| !with.contains(*name)).map(str::to_owned)
}

fn address(text: &str) -> Option<Address> {
    text.parse::<std::net::IpAddr>().ok().map(Address::from)
}

/// Nothing that a Service translates hides its client, but a proxy does.
fn keeps_clients(stage: &Stage<'_>) -> bool {
    stage.mode() != Mode::USERSPACE.name
}
