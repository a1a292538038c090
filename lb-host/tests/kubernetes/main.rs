//! Kubernetes in a box, from outside: objects in, requests answered.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use lb_core::Family::{V4, V6};
use lb_core::Instant;
use lb_core::control::Mode;
use lb_host::cluster::kubectl;
use lb_host::cluster::kubernetes::{Kubernetes, Plan};
use lb_host::cluster::program::Failure;
use lb_host::cluster::settings;
use lb_host::host::Error;

const SECOND: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: alpha}, spec: {replicas: 3, selector: {matchLabels: {app: alpha}},
  template: {metadata: {labels: {app: alpha}}, spec: {containers: [{name: alpha,
    lifecycle: {preStop: {sleep: {seconds: 5}}},
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 2},
    ports: [{containerPort: 8080}]}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: example}, spec: {type: LoadBalancer, selector: {app: alpha},
  ipFamilyPolicy: PreferDualStack, ports: [{name: main, port: 8081, targetPort: 8080, nodePort: 32255}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: database}, spec: {type: ExternalName,
  externalName: prod.database.example.com}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shell}, spec: {containers: [{name: shell, image: shell}]}}
";

/// Three nodes, DNS, the example, somebody outside; up and running.
fn example(seed: u64, mode: Mode) -> Kubernetes {
    let mut it = Kubernetes::new(Plan::of(seed, mode)).unwrap();
    it.add_nodes(3).unwrap();
    it.add_dns().unwrap();
    it.add_client("laptop");
    it.add_site("prod.database.example.com", 5432).unwrap();
    it.apply(EXAMPLE).unwrap();
    it.run_for(40 * SECOND);
    it
}

#[test]
fn the_example_is_reached_by_every_name_it_has() {
    for mode in Mode::ALL {
        let mut it = example(1, *mode);
        let now = it.now();
        let services = kubectl::get::<Service>(it.api(), Some("default"), false, now);
        let pods = kubectl::get::<Pod>(it.api(), None, true, now);
        let about = format!("{}\n{services}{pods}", mode.name);
        assert!(services.contains("203.0.113.1"), "{about}");
        let mut served = BTreeSet::new();
        for to in ["http://example:8081/", "http://example.default.svc.cluster.local:8081", "example.default:8081"] {
            let fetched = it.get("shell", to).unwrap();
            served.insert(fetched.result.unwrap_or_else(|why| panic!("{to}: {why}\n{about}")).served_by);
        }
        assert!(served.iter().all(|name| name.starts_with("alpha-1-")), "{served:?}\n{about}");
        for family in [V4, V6] {
            let address = it.load_balancer_address("default/example", family).expect("it has one");
            let fetched = it.get("laptop", (address, 8081)).unwrap();
            assert!(fetched.result.is_ok(), "{family:?}: {fetched}\n{about}");
            let node = it.node_address("worker-2", family).unwrap();
            let fetched = it.get("laptop", (node, 32_255)).unwrap();
            assert!(fetched.result.is_ok(), "{family:?}: {fetched}\n{about}");
        }
        let fetched = it.get("shell", "http://database:5432/").unwrap();
        assert_eq!(
            fetched.result.unwrap_or_else(|why| panic!("{why}\n{about}")).served_by,
            "prod.database.example.com"
        );
        assert_eq!(it.get("shell", "nothing").unwrap().result, Err(Failure::NoName));
    }
}

#[test]
fn a_rolling_update_fails_no_request() {
    for mode in Mode::ALL {
        let mut it = example(2, *mode);
        let inside = it.keep_fetching("shell", "http://example:8081/", SECOND / 10).unwrap();
        let address = it.load_balancer_address("default/example", V4).unwrap();
        let outside = it.keep_fetching("laptop", (address, 8081), SECOND / 10).unwrap();
        it.run_for(SECOND);
        it.roll("default/alpha").unwrap();
        it.run_for(90 * SECOND);
        for id in [inside, outside] {
            it.finish(id);
            let results = it.fetched(id);
            assert!(results.len() > 800, "{}", results.len());
            let failed: Vec<_> = results.iter().filter(|one| one.result.is_err()).collect();
            let log: Vec<_> = it.log().iter().map(ToString::to_string).collect();
            assert!(failed.is_empty(), "{}: {failed:#?}\n{}", mode.name, log.join("\n"));
            let last = results.last().unwrap().result.as_ref().unwrap();
            assert!(last.served_by.starts_with("alpha-2-"), "{}: {}", mode.name, last.served_by);
        }
    }
}

#[test]
fn a_seed_is_a_history() {
    let history = |seed: u64| {
        let mut it = example(seed, Mode::IPTABLES);
        it.world_mut().record().unwrap();
        it.get("shell", "http://example:8081/").unwrap();
        it.roll("default/alpha").unwrap();
        it.run_for(30 * SECOND);
        (it.log().to_vec(), it.world_mut().capture().unwrap())
    };
    let (first, again, other) = (history(5), history(5), history(6));
    assert!(first.1.len() > 10_000);
    assert!(first == again, "the same seed, another history");
    assert!(first.1 != other.1, "another seed, the same packets");
}

#[test]
fn a_lost_node_is_left_and_comes_back() {
    let mut it = example(3, Mode::NFTABLES);
    let on = |it: &Kubernetes, node: &str| {
        let pods = it.running_pods().filter(|(key, at)| *at == node && key.contains("alpha"));
        pods.map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
    };
    let shell_on = it.running_pods().find(|(key, _)| *key == "default/shell").unwrap().1.to_owned();
    let mut nodes = ["worker-1", "worker-2", "worker-3"].into_iter();
    let lost = nodes.find(|node| *node != shell_on && !on(&it, node).is_empty()).unwrap();
    it.power_off(lost).unwrap();
    // Until the node is given up it is dialled in vain.
    it.run_for(70 * SECOND);
    let id = it.keep_fetching("shell", "http://example:8081/", SECOND / 10).unwrap();
    it.run_for(20 * SECOND);
    it.finish(id);
    let log: Vec<_> = it.log().iter().map(ToString::to_string).collect();
    let wrong: Vec<_> = it.fetched(id).iter().filter(|one| one.result.is_err()).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{}", log.join("\n"));
    it.power_on(lost).unwrap();
    it.run_for(60 * SECOND);
    assert!(!on(&it, lost).is_empty());
    let node = it.node_address(lost, V4).unwrap();
    assert!(it.get("laptop", (node, 32_255)).unwrap().result.is_ok());
}

#[test]
fn what_is_applied_again_stays_as_it_is() {
    let mut it = example(4, Mode::IPTABLES);
    let before: Vec<_> = it.running_pods().map(|(key, node)| (key.to_owned(), node.to_owned())).collect();
    it.apply(EXAMPLE).unwrap();
    it.run_for(10 * SECOND);
    let after: Vec<_> = it.running_pods().map(|(key, node)| (key.to_owned(), node.to_owned())).collect();
    assert_eq!(before, after);
}

#[test]
fn a_mode_is_changed_for_another() {
    let mut it = example(6, Mode::IPTABLES);
    for mode in Mode::ALL.iter().chain(Mode::ALL) {
        it.set_proxy(settings(*mode)).unwrap();
        it.run_for(2 * SECOND);
        for family in [V4, V6] {
            let address = it.load_balancer_address("default/example", family).unwrap();
            for from in ["shell", "laptop"] {
                let fetched = it.get(from, (address, 8081)).unwrap();
                assert!(fetched.result.is_ok(), "{} {from} {family:?}: {fetched}", mode.name);
            }
        }
    }
    assert!(it.world().failures().is_empty(), "{:?}", it.world().failures());
}

#[test]
fn what_is_not_there_is_refused() {
    let mut it = example(4, Mode::IPTABLES);
    it.delete::<Service>("default/example").unwrap();
    it.run_for(20 * SECOND);
    let node = it.node_address("worker-1", V4).unwrap();
    let fetched = it.get("laptop", (node, 32_255)).unwrap();
    assert_eq!(fetched.result, Err(Failure::Connection(Error::Refused)));
    assert!(it.api().get::<Service>("default/example").is_none());
    assert!(it.now() > Instant::from_secs(60));
}
