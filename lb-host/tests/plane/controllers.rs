//! The controllers: endpoints that follow Pods, nodes that are lost.

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_host::cluster::api::Api;
use lb_host::cluster::controllers::{Controllers, Patience};
use lb_host::k8s::Placed;
use serde_json::{Value, json};

use super::{api, apply, at, value};

const NODES: &str = "
{apiVersion: v1, kind: Node, metadata: {name: one, labels: {topology.kubernetes.io/zone: z1}}, spec: {podCIDRs: [10.244.1.0/24]}}
---
{apiVersion: v1, kind: Node, metadata: {name: two, labels: {topology.kubernetes.io/zone: z2}}, spec: {podCIDRs: [10.244.2.0/24]}}
";
const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, labels: {team: a}},
  spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}}";

fn controllers() -> Controllers {
    Controllers::new(Patience::default(), 3)
}

/// A Pod of `web` on node one, with the status that a kubelet would report.
fn pod(api: &mut Api, name: &str, ip: &str, ready: bool) {
    let yaml = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{nodeName: one,
          containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}}}"
    );
    apply(api, at(0), &yaml);
    status(api, name, ip, ready);
}

fn status(api: &mut Api, name: &str, ip: &str, ready: bool) {
    let mut pod = Placed::clone(api.get::<Pod>(&format!("default/{name}")).expect("a Pod"));
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": ready}]});
    pod.object.status = serde_json::from_value(status).ok();
    api.update_status(pod).expect("stored");
}

/// The slices of a Service: name, ports and endpoints as `address ready/serving/terminating`.
fn slices(api: &Api) -> Vec<(String, Vec<String>)> {
    let letters = |conditions: &Value| {
        ["ready", "serving", "terminating"].map(|name| match conditions[name].as_bool() {
            Some(true) => name[..1].to_uppercase(),
            Some(false) => "-".to_owned(),
            None => "?".to_owned(),
        })
    };
    let of = |slice: &Placed<EndpointSlice>| {
        let json = serde_json::to_value(&slice.object).expect("JSON");
        let endpoints = json["endpoints"].as_array().cloned().unwrap_or_default();
        let say = |one: &Value| {
            format!("{} {}", one["addresses"][0].as_str().unwrap_or(""), letters(&one["conditions"]).concat())
        };
        (slice.name().to_owned(), endpoints.iter().map(say).collect())
    };
    api.list::<EndpointSlice>().map(|slice| of(slice)).collect()
}

#[test]
fn endpoints_follow_pods_by_their_conditions() {
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), NODES);
    apply(&mut api, at(0), WEB);
    controllers.reconcile(&mut api, at(0)).expect("reconciled");
    let first = slices(&api);
    assert_eq!((first.len(), first[0].1.len()), (1, 0), "§18.8: a placeholder");
    let name = first[0].0.clone();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    let mut step = |api: &mut Api, rule: &str, expected: &[&str], v1: &str| {
        controllers.reconcile(api, at(1)).expect("reconciled");
        let got = slices(api);
        assert_eq!(got, [(name.clone(), expected.iter().map(|one| (*one).to_owned()).collect())], "{rule}");
        let subset = value::<Endpoints>(api, "default/web", "/subsets/0");
        let list = |field: &str| {
            let all = subset[field].as_array().cloned().unwrap_or_default();
            all.iter().filter_map(|one| one["ip"].as_str().map(str::to_owned)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(format!("{}|{}", list("addresses"), list("notReadyAddresses")), v1, "{rule}");
        let settled = api.version();
        controllers.reconcile(api, at(1)).expect("reconciled");
        assert_eq!(api.version(), settled, "{rule}: nothing more to say");
    };
    // R ready, S serving, T terminating (§18.3); the v1 Endpoints as ready|not ready (§18.4).
    pod(&mut api, "a", "10.244.1.2", false);
    step(&mut api, "§18.3 not ready", &["10.244.1.2 ---"], "|10.244.1.2");
    status(&mut api, "a", "10.244.1.2", true);
    step(&mut api, "§18.3 ready", &["10.244.1.2 RS-"], "10.244.1.2|");
    pod(&mut api, "b", "10.244.1.3", true);
    step(&mut api, "one more", &["10.244.1.2 RS-", "10.244.1.3 RS-"], "10.244.1.2 10.244.1.3|");
    api.delete::<Pod>(at(2), "default/a", None).expect("it is there");
    step(&mut api, "§18.3 it drains", &["10.244.1.2 -ST", "10.244.1.3 RS-"], "10.244.1.3|");
    status(&mut api, "a", "10.244.1.2", false);
    step(&mut api, "§18.3 and fails", &["10.244.1.2 --T", "10.244.1.3 RS-"], "10.244.1.3|");
    api.delete::<Pod>(at(3), "default/a", Some(0)).expect("it is there");
    step(&mut api, "it is gone", &["10.244.1.3 RS-"], "10.244.1.3|");
    pod(&mut api, "c", "10.244.1.2", true);
    step(&mut api, "its address is another's", &["10.244.1.3 RS-", "10.244.1.2 RS-"], "10.244.1.3 10.244.1.2|");
    let mut relabelled = Placed::clone(api.get::<Pod>("default/b").expect("a Pod"));
    relabelled.object.metadata.labels = None;
    api.update(relabelled).expect("relabelled");
    step(&mut api, "§18.1 the selector does not match any more", &["10.244.1.2 RS-"], "10.244.1.2|");
    api.delete::<Service>(at(4), "default/web", None).expect("it is there");
    controllers.reconcile(&mut api, at(4)).expect("reconciled");
    assert_eq!((slices(&api).len(), api.list::<Endpoints>().count()), (0, 0), "all goes with the Service");
}

#[test]
fn a_hundred_endpoints_fill_a_slice_and_a_change_touches_one() {
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), NODES);
    apply(&mut api, at(0), WEB);
    let sizes = |api: &Api| {
        let mut sizes: Vec<_> = slices(api).into_iter().map(|(_, endpoints)| endpoints.len()).collect();
        sizes.sort_unstable();
        sizes
    };
    (0..230).for_each(|number| pod(&mut api, &format!("p{number:03}"), &format!("10.244.1.{}", number + 2), true));
    controllers.reconcile(&mut api, at(0)).expect("reconciled");
    assert_eq!(sizes(&api), [30, 100, 100], "§16.8");
    let before = api.version();
    api.delete::<Pod>(at(1), "default/p000", Some(0)).expect("it is there");
    controllers.reconcile(&mut api, at(1)).expect("reconciled");
    let written = api.watch(before).iter().filter(|event| event.of::<EndpointSlice>().is_some()).count();
    assert_eq!((sizes(&api), written), (vec![30, 99, 100], 1), "the others stay where they are");
}

#[test]
fn slices_follow_ports_labels_and_zones() {
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), NODES);
    apply(&mut api, at(0), WEB);
    pod(&mut api, "a", "10.244.1.2", true);
    controllers.reconcile(&mut api, at(0)).expect("reconciled");
    let name = slices(&api)[0].0.clone();
    let at_slice = |api: &Api, pointer: &str| value::<EndpointSlice>(api, &format!("default/{name}"), pointer);
    assert_eq!(at_slice(&api, "/ports/0/port"), 8080);
    assert_eq!(at_slice(&api, "/endpoints/0/zone"), "z1");
    assert_eq!(at_slice(&api, "/metadata/labels/team"), "a");
    assert_eq!(at_slice(&api, "/metadata/ownerReferences/0/name"), "web");
    let changed = WEB.replace("targetPort: http", "targetPort: 9090").replace("team: a", "team: b");
    apply(&mut api, at(1), &changed.replace("selector", "trafficDistribution: PreferSameNode, selector"));
    apply(&mut api, at(1), &NODES.replace("zone: z1", "zone: z9"));
    controllers.reconcile(&mut api, at(1)).expect("reconciled");
    assert_eq!(slices(&api).len(), 1, "the slice that was there has been made into the new one");
    assert_eq!(at_slice(&api, "/ports/0/port"), 9090);
    assert_eq!(at_slice(&api, "/endpoints/0/zone"), "z9");
    assert_eq!(at_slice(&api, "/metadata/labels/team"), "b");
    assert_eq!(
        at_slice(&api, "/endpoints/0/hints"),
        json!({"forZones": [{"name": "z9"}], "forNodes": [{"name": "one"}]})
    );
}

#[test]
fn endpoints_made_by_hand_are_mirrored() {
    // §18.10
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 5432}]}}");
    let by_hand = |ip: &str, label: &str| {
        format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: db, labels: {{{label}}}}},
              subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 5432}}]}}]}}"
        )
    };
    apply(&mut api, at(0), &by_hand("192.0.2.7", ""));
    controllers.reconcile(&mut api, at(0)).expect("reconciled");
    let first = slices(&api);
    assert_eq!(first[0].1, ["192.0.2.7 R??"]);
    let manager = value::<EndpointSlice>(&api, &format!("default/{}", first[0].0), "/metadata/labels");
    assert_eq!(manager["endpointslice.kubernetes.io/managed-by"], "endpointslicemirroring-controller.k8s.io");
    apply(&mut api, at(1), &by_hand("192.0.2.8", ""));
    controllers.reconcile(&mut api, at(1)).expect("reconciled");
    assert_eq!(slices(&api), [(first[0].0.clone(), vec!["192.0.2.8 R??".to_owned()])], "under the same name");
    apply(&mut api, at(2), &by_hand("192.0.2.8", "endpointslice.kubernetes.io/skip-mirror: 'true'"));
    controllers.reconcile(&mut api, at(2)).expect("reconciled");
    assert_eq!(slices(&api), []);
}

#[test]
fn a_node_that_falls_silent_is_lost_and_found() {
    // Heartbeats of node one end at 20. Looked at every 5 s, it is found silent for 50 s at 70; its Pods are to
    // leave 300 s later, but for those that tolerate it longer or shorter.
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), NODES);
    apply(&mut api, at(0), WEB);
    pod(&mut api, "a", "10.244.1.2", true);
    for (name, seconds) in [("short", "tolerationSeconds: 30,"), ("ever", "")] {
        apply(
            &mut api,
            at(0),
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: one, containers: [{{name: c}}],
                  tolerations: [{{key: node.kubernetes.io/unreachable, {seconds} effect: NoExecute}}]}}}}"
            ),
        );
    }
    let mut log = Vec::new();
    for second in 0..=500u64 {
        let now = at(second);
        if second <= 20 || second >= 450 {
            api.renew_lease(now, "one");
        }
        api.renew_lease(now, "two");
        let before = api.version();
        controllers.reconcile(&mut api, now).expect("reconciled");
        assert!(controllers.next_deadline().is_some_and(|next| next > now));
        for event in api.watch(before).iter().filter(|_| second > 0) {
            if let Some(node) = event.of::<Node>() {
                let taints = node.object.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).count();
                let state = value::<Node>(&api, node.name(), "/status/conditions/0/status");
                log.push(format!("{second} node {} {} {taints}", node.name(), state.as_str().unwrap_or("?")));
            }
            if let Some(pod) = event.of::<Pod>() {
                let going = pod.object.metadata.deletion_timestamp.is_some();
                log.push(format!(
                    "{second} pod {}{}",
                    pod.name(),
                    if going { " is to leave" } else { " is not ready" }
                ));
            }
            if event.of::<EndpointSlice>().is_some() {
                log.push(format!("{second} slice {}", slices(&api)[0].1.join(" ")));
            }
        }
    }
    assert_eq!(
        log,
        [
            "70 node one Unknown 0",
            "70 node one Unknown 2",
            "70 pod a is not ready",
            "70 slice 10.244.1.2 ---",
            "100 pod short is to leave",
            "370 pod a is to leave",
            "370 slice 10.244.1.2 --T",
            "450 node one Unknown 0",
        ]
    );
}

#[test]
fn pods_without_a_node_are_spread_over_those_that_are_ready() {
    let mut api = api();
    let mut controllers = controllers();
    apply(&mut api, at(0), NODES);
    for (name, selector) in [("a", ""), ("b", ""), ("c", ""), ("d", "nodeSelector: {topology.kubernetes.io/zone: z2},")]
    {
        apply(
            &mut api,
            at(0),
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{selector} containers: [{{name: c}}]}}}}"
            ),
        );
    }
    controllers.reconcile(&mut api, at(0)).expect("reconciled");
    let place =
        |api: &Api| ["a", "b", "c", "d"].map(|name| value::<Pod>(api, &format!("default/{name}"), "/spec/nodeName"));
    assert_eq!(place(&api), [Value::Null, Value::Null, Value::Null, Value::Null], "no node is ready yet");
    for name in ["one", "two"] {
        let mut node = Placed::clone(api.get::<Node>(name).expect("a node"));
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        node.object.status = serde_json::from_value(ready).ok();
        api.update_status(node).expect("stored");
    }
    controllers.reconcile(&mut api, at(1)).expect("reconciled");
    assert_eq!(place(&api), ["one", "two", "one", "two"]);
}
