//! The API server's store.

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_host::cluster::api::{Api, Change, Refusal};
use lb_host::k8s::Placed;
use serde_json::{Value, json};

use super::{api, api_of, apply, at, object, value};

/// A Service's YAML with this spec.
fn service(name: &str, spec: &str) -> Placed<Service> {
    object(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}"))
}

fn spec(api: &Api, name: &str, field: &str) -> Value {
    value::<Service>(api, &format!("default/{name}"), &format!("/spec/{field}"))
}

#[test]
fn a_service_is_completed_as_the_api_server_does() {
    let mut api = api();
    api.create(at(3), service("web", "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]"))
        .expect("admitted");
    for (field, expected) in [
        ("ports/0/protocol", json!("TCP")),
        ("ports/0/targetPort", json!(80)),
        ("internalTrafficPolicy", json!("Cluster")),
        ("sessionAffinity", json!("None")),
        ("allocateLoadBalancerNodePorts", json!(true)),
        ("ipFamilies", json!(["IPv4"])),
    ] {
        assert_eq!(spec(&api, "web", field), expected, "{field}");
    }
    let number = |field| spec(&api, "web", field).as_u64().expect("a number");
    let (node_port, health) = (number("ports/0/nodePort"), number("healthCheckNodePort"));
    // §17.3: drawn from the dynamic band.
    assert!((30_086..=32_767).contains(&node_port) && (30_086..=32_767).contains(&health) && node_port != health);
    assert_eq!(spec(&api, "web", "clusterIP"), spec(&api, "web", "clusterIPs/0"));
    let metadata = |field| value::<Service>(&api, "default/web", &format!("/metadata/{field}"));
    assert_eq!(metadata("resourceVersion"), "1");
    assert_eq!(metadata("creationTimestamp"), "2026-01-01T00:00:03Z");
    assert_eq!(metadata("namespace"), "default");
    assert_eq!(metadata("uid").as_str().map(str::len), Some(36));
}

#[test]
fn what_is_refused_says_which_field_and_why() {
    let mut api = api();
    api.create(at(0), service("web", "clusterIP: 10.96.0.200, type: NodePort, ports: [{port: 80, nodePort: 30080}]"))
        .expect("admitted");
    #[rustfmt::skip]
    let cases = [
        // rule, the Service's spec, what is said
        ("§16.3 another's",   "type: NodePort, ports: [{port: 80, nodePort: 30080}]", "spec.ports[0].nodePort is 30080, which is already allocated"),
        ("§16.3 range",       "type: NodePort, ports: [{port: 80, nodePort: 80}]",    "spec.ports[0].nodePort is 80, outside the cluster's range"),
        ("§16.3 twice",       "type: NodePort, ports: [{port: 1, name: a, nodePort: 30001}, {port: 2, name: b, nodePort: 30001}]", "spec.ports[1].nodePort is 30001, which Service default/new has"),
        ("§16.3 type",        "ports: [{port: 80, nodePort: 30081}]",                 "spec.ports[0].nodePort is set on a Service of type ClusterIP"),
        ("§16.4 another's",   "clusterIP: 10.96.0.200, ports: [{port: 80}]",          "spec.clusterIP is 10.96.0.200, which is already allocated"),
        ("§16.4 range",       "clusterIP: 10.97.0.1, ports: [{port: 80}]",            "spec.clusterIP is 10.97.0.1, outside the cluster's 10.96.0.0/16, fd00:10:96::/112"),
        ("§17.4 network",     "clusterIP: 10.96.0.0, ports: [{port: 80}]",            "spec.clusterIP is 10.96.0.0, the network's own"),
        ("§17.4 the API's",   "clusterIP: 10.96.0.1, ports: [{port: 80}]",            "spec.clusterIP is 10.96.0.1, which is already allocated"),
        ("§16.2 no ports",    "selector: {a: b}",                                     "spec.ports is missing or empty"),
        ("§16.6 not local",   "type: LoadBalancer, healthCheckNodePort: 30090, ports: [{port: 80}]", "spec.healthCheckNodePort is set"),
        ("§16.7 ranges",      "loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]", "spec.loadBalancerSourceRanges is set"),
    ];
    for (rule, spec, expected) in cases {
        let refusal = api.create(at(1), service("new", spec)).expect_err(rule);
        assert!(matches!(refusal, Refusal::Invalid(_)), "{rule}");
        assert!(refusal.to_string().contains(expected), "{rule}: {refusal}");
    }
    assert_eq!(api.version(), 1, "nothing was stored");
    let again = api.create(at(1), service("web", "ports: [{port: 80}]")).expect_err("there is one");
    assert_eq!(again.to_string(), "Service default/web already exists; update it, or delete it first");
    let missing = api.update(service("nobody", "ports: [{port: 80}]")).expect_err("there is none");
    assert_eq!(missing.to_string(), "Service default/nobody not found; create it first");
    // What was asked for in vain was not kept.
    api.create(at(2), service("free", "type: NodePort, ports: [{port: 1, nodePort: 30001}]")).expect("30001 is free");
}

#[test]
fn an_update_is_based_on_what_is_stored() {
    let mut api = api();
    let first = api.create(at(0), service("web", "ports: [{port: 80}]")).expect("admitted");
    let mut mine = Placed::clone(&first);
    mine.object.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let mut theirs = mine.clone();
    theirs.object.metadata.labels = Some([("c".to_owned(), "d".to_owned())].into());
    let second = api.update(mine.clone()).expect("it is the first");
    let refusal = api.update(theirs).expect_err("it is late");
    let expected = "Service default/web was read at resource version 1 and is at 2 now; read it again";
    assert_eq!(refusal.to_string(), expected);
    // The same once more is no change.
    let third = api.update(Placed::clone(&second)).expect("nothing new");
    assert_eq!((third.object.metadata.resource_version.as_deref(), api.version()), (Some("2"), 2));
    // An update leaves the status alone, and a status nothing but itself.
    let mut status = Placed::clone(&third);
    status.object.metadata.labels = None;
    status.object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).ok();
    api.update_status(status).expect("stored");
    assert_eq!(value::<Service>(&api, "default/web", "/metadata/labels"), json!({"a": "b"}));
    api.apply(at(1), service("web", "ports: [{port: 80}]")).expect("applied");
    assert_eq!(value::<Service>(&api, "default/web", "/status/loadBalancer/ingress/0/ip"), "192.0.2.1");
}

#[test]
fn what_was_allocated_stays_or_is_wiped_with_the_type() {
    // §16.3, §16.4, §16.6: what a Service was, what it is made, and what becomes of its numbers.
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]";
    #[rustfmt::skip]
    let cases = [
        // before, after, ClusterIP kept, NodePort kept (None: wiped), health-check port there
        ("type: NodePort, ports: [{port: 80}]", "type: NodePort, ports: [{port: 80, targetPort: 8080}]", true,  Some(true), false),
        ("type: NodePort, ports: [{port: 80}]", "type: LoadBalancer, ports: [{port: 80}]",               true,  Some(true), false),
        ("type: NodePort, ports: [{port: 80}]", "ports: [{port: 80}]",                                   true,  None,       false),
        (local,                                 "type: LoadBalancer, ports: [{port: 80}]",               true,  Some(true), false),
        (local,                                 local,                                                   true,  Some(true), true),
        ("type: NodePort, ports: [{port: 80}]", "type: NodePort, ports: [{port: 81}]",                   true,  Some(false), false),
    ];
    for (before, after, same_ip, node_port, health) in cases {
        let mut api = api();
        api.create(at(0), service("web", before)).expect(before);
        let old = [spec(&api, "web", "clusterIP"), spec(&api, "web", "ports/0/nodePort")];
        let old_health = spec(&api, "web", "healthCheckNodePort");
        api.apply(at(1), service("web", after)).expect(after);
        let new = [spec(&api, "web", "clusterIP"), spec(&api, "web", "ports/0/nodePort")];
        assert_eq!(old[0] == new[0], same_ip, "{before} -> {after}");
        match node_port {
            None => assert_eq!(new[1], Value::Null, "{before} -> {after}"),
            Some(same) => {
                assert!(new[1].is_number(), "{before} -> {after}");
                assert_eq!(old[1] == new[1], same, "{before} -> {after}");
            }
        }
        let new_health = spec(&api, "web", "healthCheckNodePort");
        assert_eq!(new_health.is_number(), health, "{before} -> {after}");
        assert!(!health || new_health == old_health, "{before} -> {after}");
    }
}

#[test]
fn read_modify_write_of_the_type_wipes_too() {
    let mut api = api();
    let created = api
        .create(at(0), service("web", "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]"))
        .expect("admitted");
    let mut web = Placed::clone(&created);
    web.object.spec.as_mut().expect("a spec").type_ = Some("ClusterIP".to_owned());
    api.update(web).expect("a plain one");
    for field in ["ports/0/nodePort", "healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert_eq!(spec(&api, "web", field), Value::Null, "{field}");
    }
    let mut web = Placed::clone(api.get::<Service>("default/web").expect("it is there"));
    let spec_of = web.object.spec.as_mut().expect("a spec");
    (spec_of.type_, spec_of.external_name) = (Some("ExternalName".to_owned()), Some("db.example.com".to_owned()));
    api.update(web).expect("a name");
    assert_eq!([spec(&api, "web", "clusterIP"), spec(&api, "web", "clusterIPs")], [Value::Null, Value::Null]);
    // §16.4: and from a name an address may come again.
    api.apply(at(1), service("web", "clusterIP: 10.96.0.9, ports: [{port: 80}]")).expect("an address");
    let refusal = api.apply(at(1), service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]")).expect_err("§16.4");
    assert!(refusal.to_string().contains("spec.clusterIP is \"10.96.0.10\", and was \"10.96.0.9\": it cannot change"));
}

#[test]
fn numbers_are_given_back_and_given_again() {
    // A /29 has .2 to .6 besides the API server's .1, and there are two NodePorts.
    let mut api = api_of(&["10.96.0.0/29"], (30_000, 30_001), 1);
    let one = "type: NodePort, ports: [{port: 80}]";
    api.create(at(0), service("a", one)).expect("the first");
    api.create(at(0), service("b", one)).expect("the second");
    let refusal = api.create(at(0), service("c", one)).expect_err("there is no third");
    assert!(refusal.to_string().contains("spec.ports[0].nodePort cannot be given: no NodePort is free"), "{refusal}");
    let freed = spec(&api, "a", "ports/0/nodePort");
    api.delete::<Service>(at(1), "default/a", None).expect("it is there");
    api.create(at(1), service("c", one)).expect("one was given back");
    assert_eq!(spec(&api, "c", "ports/0/nodePort"), freed);
    // A failed create gave back its ClusterIP as well: three are left of five.
    for name in ["d", "e", "f"] {
        api.create(at(2), service(name, "ports: [{port: 80}]")).expect(name);
    }
    let refusal = api.create(at(2), service("g", "ports: [{port: 80}]")).expect_err("all five are taken");
    assert!(refusal.to_string().contains("no IPv4 ClusterIP is free"), "{refusal}");
    api.create(at(2), service("kubernetes", "ports: [{port: 443}]")).expect("§17.4: its own is kept for it");
    assert_eq!(spec(&api, "kubernetes", "clusterIP"), "10.96.0.1");
}

#[test]
fn a_service_gains_and_loses_its_second_family() {
    let mut api = api();
    api.create(at(0), service("web", "ports: [{port: 80}]")).expect("admitted");
    let first = spec(&api, "web", "clusterIP");
    api.apply(at(1), service("web", "ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]")).expect("two");
    assert_eq!(spec(&api, "web", "ipFamilies"), json!(["IPv4", "IPv6"]));
    assert_eq!(spec(&api, "web", "clusterIPs/0"), first);
    api.apply(at(2), service("web", "ipFamilyPolicy: SingleStack, ports: [{port: 80}]")).expect("one");
    assert_eq!(spec(&api, "web", "ipFamilies"), json!(["IPv4"]));
    assert_eq!(spec(&api, "web", "clusterIPs"), json!([first]));
}

#[test]
fn watchers_read_each_at_their_own_pace() {
    let mut api = api();
    let told = |api: &Api, since: u64| -> Vec<String> {
        let say = |event: &lb_host::cluster::api::Event| {
            let name = event.of::<Service>().map(|service| service.name().to_owned());
            format!("{} {:?} {}", event.version, event.change, name.unwrap_or_else(|| "other".to_owned()))
        };
        api.watch(since).iter().map(say).collect()
    };
    api.create(at(0), service("a", "ports: [{port: 80}]")).expect("admitted");
    apply(&mut api, at(0), "{apiVersion: v1, kind: Node, metadata: {name: one}}");
    let eager = api.version();
    api.apply(at(1), service("a", "ports: [{port: 81}]")).expect("admitted");
    api.delete::<Service>(at(2), "default/a", None).expect("it is there");
    assert_eq!(told(&api, eager), ["3 Modified a", "4 Deleted a"]);
    assert_eq!(told(&api, 0), ["1 Added a", "2 Added other", "3 Modified a", "4 Deleted a"]);
    assert_eq!(told(&api, api.version()), [""; 0]);
    assert_eq!(api.list::<Service>().count() + api.list::<Node>().count(), 1);
}

#[test]
fn pods_and_what_is_held_go_in_their_own_time() {
    let mut api = api();
    let pod = |name: &str, node: &str| {
        object::<Pod>(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{node} containers: [{{name: c}}]}}}}"
        ))
    };
    api.create(at(0), pod("bound", "nodeName: one, terminationGracePeriodSeconds: 20,")).expect("admitted");
    api.create(at(0), pod("loose", "")).expect("admitted");
    for key in ["default/bound", "default/loose"] {
        api.delete::<Pod>(at(5), key, None).expect("it is there");
    }
    assert!(api.get::<Pod>("default/loose").is_none(), "no node has to end it");
    let deletion = |api: &Api| value::<Pod>(api, "default/bound", "/metadata/deletionTimestamp");
    assert_eq!(deletion(&api), "2026-01-01T00:00:25Z");
    // A second request can make it shorter only.
    api.delete::<Pod>(at(6), "default/bound", Some(60)).expect("it is there");
    assert_eq!(deletion(&api), "2026-01-01T00:00:25Z");
    api.delete::<Pod>(at(6), "default/bound", Some(2)).expect("it is there");
    assert_eq!(deletion(&api), "2026-01-01T00:00:08Z");
    api.delete::<Pod>(at(7), "default/bound", Some(0)).expect("by force");
    assert!(api.get::<Pod>("default/bound").is_none());
    // A finalizer holds a Service until it is taken off.
    let mut web = service("web", "ports: [{port: 80}]");
    web.object.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    api.create(at(8), web).expect("admitted");
    api.delete::<Service>(at(9), "default/web", None).expect("it is there");
    let mut held = Placed::clone(api.get::<Service>("default/web").expect("it is held"));
    held.object.metadata.finalizers = None;
    api.update(held).expect("it is let go");
    assert!(api.get::<Service>("default/web").is_none());
    let last = api.watch(api.version() - 1).iter().map(|event| event.change).collect::<Vec<_>>();
    assert_eq!(last, [Change::Deleted]);
}

#[test]
fn fields_that_cannot_change_do_not() {
    let mut api = api();
    api.create(
        at(0),
        object::<EndpointSlice>(
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv4, endpoints: []}",
        ),
    )
    .expect("admitted");
    let mut slice = Placed::clone(api.get::<EndpointSlice>("default/s").expect("it is there"));
    slice.object.address_type = "IPv6".to_owned();
    let refusal = api.update(slice).expect_err("§16.8");
    assert!(refusal.to_string().contains("addressType is IPv6, and was IPv4: it cannot change"), "{refusal}");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: a, containers: [{name: c}]}}";
    api.create(at(0), object::<Pod>(pod)).expect("admitted");
    for (change, expected) in [
        ("nodeName: b, containers: [{name: c}]", "spec.nodeName was a: it cannot change"),
        ("nodeName: a, containers: [{name: d}]", "spec cannot change but for its images"),
    ] {
        let pod = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{change}}}}}");
        let refusal = api.apply(at(1), object::<Pod>(&pod)).expect_err(change);
        assert!(refusal.to_string().contains(expected), "{refusal}");
    }
}

#[test]
fn the_seed_draws_and_nothing_else() {
    let numbers = |seed: u64| {
        let mut api = api_of(&["10.96.0.0/16"], (30_000, 32_767), seed);
        for name in ["a", "b", "c"] {
            api.create(at(0), service(name, "type: NodePort, ports: [{port: 80}]")).expect(name);
        }
        api.delete::<Service>(at(1), "default/a", None).expect("it is there");
        api.create(at(2), service("a", "type: NodePort, ports: [{port: 80}]")).expect("again");
        let all = api.list::<Service>().map(|service| serde_json::to_string(&service.object).expect("JSON"));
        all.collect::<Vec<_>>()
    };
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
}
