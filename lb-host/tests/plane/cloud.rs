//! The cloud: load balancers that come later, and the health of the nodes behind them.

use k8s_openapi::api::core::v1::{Node, Service};
use lb_core::{Address, Protocol};
use lb_host::cluster::api::Api;
use lb_host::cluster::cloud::{Checks, Cloud, Empty, IpMode, LoadBalancer, Question, Settings};
use lb_host::k8s::Placed;
use serde_json::{Value, json};

use super::{address, api, apply, at, object, prefix, value};

fn nodes(api: &mut Api, names: &[&str]) {
    for (number, name) in names.iter().enumerate() {
        let yaml = format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, status: {{conditions: [{{type: Ready, status: 'True'}}],
              addresses: [{{type: InternalIP, address: 192.0.2.{0}}}, {{type: InternalIP, address: '2001:db8::{0}'}}]}}}}",
            number + 1
        );
        apply(api, at(0), &yaml);
    }
}

fn service(name: &str, spec: &str) -> Placed<Service> {
    object(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}"))
}

fn ingress(api: &Api, name: &str) -> Value {
    value::<Service>(api, &format!("default/{name}"), "/status/loadBalancer/ingress")
}

fn cloud(settings: Settings) -> Cloud {
    Cloud::new(Settings { pools: vec![prefix("203.0.113.0/29"), prefix("2001:db8:1::/120")], ..settings })
}

/// Every load balancer's listeners and targets.
fn shape(cloud: &Cloud) -> Vec<String> {
    let (services, slices) = cloud.objects();
    let list = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let of = |(service, slice): (&lb_core::control::Service, &lb_core::control::Slice)| {
        let ports = service.ports.iter().zip(&slice.ports).map(|(port, at)| format!("{}>{}", port.port, at.port));
        let ready: Vec<_> = slice.endpoints.iter().filter(|one| one.ready).map(|one| one.address).collect();
        format!("{} {} -> {}", list(&service.cluster_ips), ports.collect::<Vec<_>>().join(" "), list(&ready))
    };
    services.iter().zip(&slices).map(of).collect()
}

const WEB: &str = "type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]";

#[test]
fn a_load_balancer_comes_and_goes_in_its_time() {
    let mut api = api();
    nodes(&mut api, &["one", "two"]);
    let mut cloud = cloud(Settings::default());
    api.create(at(10), service("web", WEB)).expect("admitted");
    let mut log = Vec::new();
    for second in 10..=40u64 {
        match second {
            20 => drop(api.apply(at(20), service("web", "type: NodePort, ports: [{port: 80}]")).expect("admitted")),
            30 => drop(api.apply(at(30), service("web", WEB)).expect("admitted")),
            36 => api.delete::<Service>(at(36), "default/web", None).expect("it is there"),
            _ => {}
        }
        cloud.reconcile(&mut api, at(second)).expect("reconciled");
        let here = api.get::<Service>("default/web").is_some();
        let state =
            if here { ingress(&api, "web")[0]["ip"].as_str().unwrap_or("none").to_owned() } else { "gone".into() };
        if log.last().is_none_or(|(_, last)| *last != state) {
            log.push((second, state));
        }
    }
    // Four seconds to make one and to take one down; a deleted Service stays until that is done.
    let expected = [(10, "none"), (14, "203.0.113.1"), (24, "none"), (34, "203.0.113.1"), (40, "gone")];
    assert_eq!(log, expected.map(|(second, state)| (second, state.to_owned())));
    assert_eq!(cloud.objects().0.len(), 0);
}

#[test]
fn a_load_balancer_is_as_its_service_asks() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[&str])] = &[
        // rule, spec, the load balancer: addresses, port>nodePort, nodes
        ("plain",                    WEB, &["203.0.113.1 80>30080 -> 192.0.2.1 192.0.2.2"]),
        ("an address per family",    "type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, nodePort: 30080}]",
                                     &["203.0.113.1 2001:db8:1::1 80>30080 -> 192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::2"]),
        ("IPv6 alone",               "type: LoadBalancer, ipFamilies: [IPv6], ports: [{port: 80, nodePort: 30080}]",
                                     &["2001:db8:1::1 80>30080 -> 2001:db8::1 2001:db8::2"]),
        ("§16.3 no NodePort, not served", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: 30081}]",
                                     &["203.0.113.1 81>30081 -> 192.0.2.1 192.0.2.2"]),
        ("another's class",          "type: LoadBalancer, loadBalancerClass: example.com/other, ports: [{port: 80}]", &[]),
        ("another type",             "type: NodePort, ports: [{port: 80}]", &[]),
    ];
    for (rule, spec, expected) in cases {
        let mut api = api();
        nodes(&mut api, &["one", "two"]);
        let mut cloud = cloud(Settings::default());
        api.create(at(0), service("web", spec)).expect(rule);
        cloud.reconcile(&mut api, at(0)).expect("reconciled");
        assert_eq!(shape(&cloud), [""; 0], "{rule}: not yet");
        cloud.reconcile(&mut api, at(4)).expect("reconciled");
        assert_eq!(shape(&cloud), *expected, "{rule}");
        let deadline = cloud.next_deadline();
        assert_eq!(deadline.is_some(), !expected.is_empty(), "{rule}: checks are due if there is one");
    }
}

#[test]
fn nodes_and_ports_are_followed() {
    let mut api = api();
    nodes(&mut api, &["one", "two", "three"]);
    let mut cloud = cloud(Settings { ip_mode: IpMode::Proxy, ..Settings::default() });
    api.create(at(0), service("web", WEB)).expect("admitted");
    cloud.reconcile(&mut api, at(0)).expect("reconciled");
    cloud.reconcile(&mut api, at(4)).expect("reconciled");
    assert_eq!(ingress(&api, "web"), json!([{"ip": "203.0.113.1", "ipMode": "Proxy"}]));
    let edit = |api: &mut Api, name: &str, change: &dyn Fn(&mut Node)| {
        let mut node = Placed::clone(api.get::<Node>(name).expect("a node"));
        change(&mut node.object);
        let node = api.update(node).expect("updated");
        let mut node = Placed::clone(&*node);
        change(&mut node.object);
        api.update_status(node).expect("updated");
    };
    let mut after = |api: &mut Api| {
        cloud.reconcile(api, at(5)).expect("reconciled");
        shape(&cloud).concat()
    };
    edit(&mut api, "two", &|node| {
        let label = "node.kubernetes.io/exclude-from-external-load-balancers".to_owned();
        node.metadata.labels = Some([(label, String::new())].into());
    });
    assert_eq!(after(&mut api), "203.0.113.1 80>30080 -> 192.0.2.1 192.0.2.3", "excluded by its label");
    edit(&mut api, "three", &|node| {
        let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut());
        conditions.into_iter().flatten().for_each(|condition| condition.status = "Unknown".to_owned());
    });
    assert_eq!(after(&mut api), "203.0.113.1 80>30080 -> 192.0.2.1", "it is not ready");
    api.apply(at(5), service("web", "type: LoadBalancer, ports: [{port: 8080, nodePort: 30081}]")).expect("admitted");
    assert_eq!(after(&mut api), "203.0.113.1 8080>30081 -> 192.0.2.1", "another port");
}

#[test]
fn health_takes_so_many_answers_in_a_row() {
    // Up after two successes, down after three failures, a check every 10 s from the moment it is there.
    let checks = Checks { unhealthy: 3, ..Checks::default() };
    #[rustfmt::skip]
    let cases = [
        // rule, what is done without healthy nodes, answers of node one and two check by check, ready after each
        ("open: all until one is well", Empty::Open,   "+++---+", "-------", ["1 2", "1", "1", "1", "1", "1 2", "1 2"]),
        ("closed: none until then",     Empty::Closed, "+++---+", "-------", ["", "1", "1", "1", "1", "", ""]),
        ("two that are well",           Empty::Open,   "++++-++", "+-++--+", ["1 2", "1", "1", "1 2", "1 2", "1 2", "1 2"]),
    ];
    for (rule, empty, one, two, expected) in cases {
        let mut api = api();
        nodes(&mut api, &["one", "two"]);
        let mut cloud = cloud(Settings { empty, checks, ..Settings::default() });
        api.create(at(0), service("web", WEB)).expect("admitted");
        cloud.reconcile(&mut api, at(0)).expect("reconciled");
        cloud.reconcile(&mut api, at(4)).expect("reconciled");
        for (round, expected) in expected.iter().enumerate() {
            let now = at(4 + 10 * round as u64);
            assert_eq!(cloud.next_deadline(), Some(now), "{rule}");
            for check in cloud.due(now) {
                assert_eq!(check.question, Question::Connect(30_080));
                let answers = if check.node == "one" { one } else { two };
                cloud.result(check.id, answers.as_bytes()[round] == b'+');
            }
            let ready = cloud.objects().1.remove(0).endpoints.into_iter().filter(|one| one.ready);
            let ready: Vec<_> = ready.map(|one| (one.address.bits() & 0xff).to_string()).collect();
            assert_eq!(ready.join(" "), *expected, "{rule}, check {round}");
        }
    }
}

#[test]
fn a_check_without_an_answer_fails_with_its_timeout() {
    let mut api = api();
    nodes(&mut api, &["one"]);
    let mut cloud =
        cloud(Settings { checks: Checks { healthy: 1, unhealthy: 1, ..Checks::default() }, ..Settings::default() });
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30999, ports: [{port: 80}]";
    api.create(at(0), service("web", local)).expect("admitted");
    cloud.reconcile(&mut api, at(0)).expect("reconciled");
    cloud.reconcile(&mut api, at(4)).expect("reconciled");
    let healthy = |cloud: &Cloud| cloud.balancers().flat_map(LoadBalancer::targets).all(|(.., healthy)| healthy);
    let check = cloud.due(at(4)).remove(0);
    assert_eq!(check.question, Question::Healthz(30_999), "§10.1 where only some nodes serve");
    cloud.result(check.id, true);
    assert!(healthy(&cloud));
    let late = cloud.due(at(14)).remove(0);
    assert_eq!(cloud.next_deadline(), Some(at(19)));
    assert!(cloud.due(at(19)).is_empty() && !healthy(&cloud));
    cloud.result(late.id, true);
    assert!(!healthy(&cloud), "an answer that comes late is none");
}

#[test]
fn addresses_are_given_back_and_source_ranges_kept() {
    let mut api = api();
    nodes(&mut api, &["one"]);
    let mut cloud = cloud(Settings::default());
    // A /29 has .1 to .6 for load balancers.
    for number in 1..=7 {
        let spec =
            format!("type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], ports: [{{port: {number}}}]");
        api.create(at(0), service(&format!("s{number}"), &spec)).expect("admitted");
    }
    cloud.reconcile(&mut api, at(0)).expect("reconciled");
    cloud.reconcile(&mut api, at(4)).expect("reconciled");
    assert_eq!(ingress(&api, "s6")[0]["ip"], "203.0.113.6");
    assert_eq!(ingress(&api, "s7"), Value::Null, "it waits");
    api.delete::<Service>(at(5), "default/s3", None).expect("it is there");
    for second in 5..=9 {
        cloud.reconcile(&mut api, at(second)).expect("reconciled");
    }
    assert_eq!(ingress(&api, "s7")[0]["ip"], "203.0.113.3");
    for (client, admitted) in [("198.51.100.9", true), ("192.0.2.99", false), ("2001:db8::9", true)] {
        assert_eq!(cloud.admits(address("203.0.113.3"), address(client)), admitted, "{client}");
    }
}

#[test]
fn a_load_balancer_of_ones_own_needs_no_controller() {
    let mut cloud = cloud(Settings::default());
    let nodes = [("one".to_owned(), address("192.0.2.1")), ("two".to_owned(), address("192.0.2.2"))];
    cloud.add(LoadBalancer::by_hand("own", (address("198.51.100.1"), 443), Protocol::TCP, 30_443, &nodes, at(0)));
    assert_eq!(shape(&cloud), ["198.51.100.1 443>30443 -> 192.0.2.1 192.0.2.2"]);
    for round in 0..2 {
        for check in cloud.due(at(10 * round)) {
            assert_eq!((check.balancer.as_str(), check.question), ("own", Question::Connect(30_443)));
            cloud.result(check.id, check.node == "two");
        }
    }
    assert_eq!(shape(&cloud), ["198.51.100.1 443>30443 -> 192.0.2.2"]);
    assert!(cloud.take("own").is_some() && cloud.objects().0.is_empty());
}
