//! Manifests in, objects or the exact place of the mistake out.

use lb_host::k8s::{Cluster, Manifests, Ranges, Settings, Taken};

/// The problems of a text that is read as `in.yaml`, one a line; empty if there is none.
fn problems(text: &str) -> String {
    Manifests::default().add("in.yaml", text).map_or_else(|problems| problems.to_string(), |()| String::new())
}

#[test]
fn bad_input_is_told_with_its_place() {
    for (name, text, expected) in [
        (
            "a wrong type",
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports:\n  - name: http\n    port: eighty\n",
            r#"in.yaml:7:11: Service default/web: spec.ports[0].port cannot be read: invalid type: string "eighty", expected i32; give a value of the type that the field has"#,
        ),
        (
            "a number for a name",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: 80\n",
            "in.yaml:4:9: Service: metadata.name cannot be read: invalid type: integer `80`, expected a string; give a value of the type that the field has",
        ),
        (
            "a wrong type in JSON",
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": true}\n}",
            "in.yaml:4:23: Service: metadata.name cannot be read: invalid type: boolean `true`, expected a string; give a value of the type that the field has",
        ),
        (
            "an unknown kind",
            "apiVersion: v1\nkind: Foo\nmetadata: {name: web}\n",
            "in.yaml:2:7: kind Foo of apiVersion v1 is not one that service routing reads; kinds read: Service, Endpoints, Pod, Node, Namespace, EndpointSlice, ServiceCIDR",
        ),
        (
            "a misspelt kind in the second item of a list",
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Servcie}\n",
            "in.yaml:5:26: kind Servcie of apiVersion v1 is not one that service routing reads; did you mean Service?",
        ),
        (
            "no kind",
            "apiVersion: v1\nmetadata: {name: web}\n",
            "in.yaml:1:1: an object without kind; say which, e.g. apiVersion: v1, kind: Service",
        ),
        (
            "no name",
            "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: shop\n",
            "in.yaml:4:3: Service shop/: metadata.name is missing; name the object",
        ),
        (
            "twice the same object, in the second document",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: default, name: a}\n",
            "in.yaml:7:38: Pod default/a: metadata.name is that of the one at in.yaml:3:18; remove one",
        ),
        (
            "two mistakes",
            "{apiVersion: v1, kind: Foo}\n---\n{apiVersion: v1, kind: Pods}\n",
            "in.yaml:1:24: kind Foo of apiVersion v1 is not one that service routing reads; kinds read: Service, Endpoints, Pod, Node, Namespace, EndpointSlice, ServiceCIDR\n\
             in.yaml:3:24: kind Pods of apiVersion v1 is not one that service routing reads; did you mean Pod?",
        ),
    ] {
        assert_eq!(problems(text), expected, "{name}");
    }
}

#[test]
fn what_is_not_yaml_is_told_with_its_place() {
    for (name, text, place) in [
        ("a tab", "a: b\n\tc: d\n", "in.yaml:1:4:"),
        ("an open bracket", "a: [1, 2\nb: 3\n", "in.yaml:2:2:"),
        ("a key twice", "kind: a\nmetadata: {}\nkind: b\n", "in.yaml:3:1:"),
        ("an alias of itself", "a: 1\nb: &b [*b]\n", "in.yaml:2:8:"),
        ("an alias of nothing", "a: 1\nb: *nowhere\n", "in.yaml:2:4:"),
        (
            "a bomb",
            "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
             d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
             g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
            "in.yaml:",
        ),
    ] {
        let problems = problems(text);
        assert!(problems.starts_with(place) && problems.contains("not valid YAML"), "{name}: {problems}");
        assert!(
            !problems.contains("Options") && !problems.contains("types"),
            "{name}, to who wrote a parser: {problems}"
        );
    }
}

#[test]
fn objects_are_read_from_every_wrapping() {
    let pod = |name: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}");
    for (name, text, pods) in [
        ("nothing", String::new(), 0),
        ("empty documents", "---\n---\n# a comment\n...\n".to_owned(), 0),
        ("one document", pod("a"), 1),
        ("several documents", format!("---\n{}\n---\n{}\n", pod("a"), pod("b")), 2),
        ("a List", format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n", pod("a"), pod("b")), 2),
        ("a typed list", "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n".to_owned(), 1),
        ("an empty list", "apiVersion: v1\nkind: PodList\nitems: null\n".to_owned(), 0),
        (
            "an alias",
            "apiVersion: v1\nkind: Pod\nmetadata: {labels: &l {app: a}, name: a}\nspec: {nodeSelector: *l}\n"
                .to_owned(),
            1,
        ),
    ] {
        let mut manifests = Manifests::default();
        manifests.add("in.yaml", &text).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        assert_eq!(manifests.pods.len(), pods, "{name}");
    }
}

#[test]
fn a_dump_of_a_whole_cluster_is_read() {
    let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for index in 0..20_000 {
        text.push_str(&format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: s{index}, labels: {{a: b, c: d}}}}\n"
        ));
    }
    let mut manifests = Manifests::default();
    manifests.add("in.yaml", &text).expect("a long list is no bomb");
    assert_eq!(manifests.services.len(), 20_000);
}

#[test]
fn well_known_kinds_are_passed_over_and_unknown_fields_told() {
    let mut manifests = Manifests::default();
    let text = "{apiVersion: apps/v1, kind: Deployment}\n---\n{apiVersion: apps/v1, kind: Deployment}\n---\n\
                {apiVersion: serving.knative.dev/v1, kind: Service}\n---\n\
                apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports: [{port: 80, targetport: 8080}, {targetport: 1}]\n";
    manifests.add("in.yaml", text).expect("nothing wrong");
    let passed = "passed over 2 Deployment, 1 Service: service routing does not read them";
    assert_eq!(manifests.passed_over().as_deref(), Some(passed));
    let unknown: Vec<_> = manifests.unknown_fields().map(|field| field.to_string()).collect();
    assert_eq!(
        unknown,
        [
            "in.yaml:11:34: Service default/web: spec.ports[0].targetport is an unknown field (and 1 more); it is not read: correct or remove it"
        ]
    );
}

/// What is wrong with Services of these specs, the first called `a`, the next `b`; and where the `^` in each spec,
/// which is not part of it, stood.
fn refused(specs: &[&str]) -> (String, Vec<String>) {
    let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
    let mut places = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let name = ["a", "b"][index];
        let item = format!("- {{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n");
        places.extend(item.find('^').map(|column| format!("in.yaml:{}:{}", index + 4, column + 1)));
        text.push_str(&item.replace('^', ""));
    }
    let mut manifests = Manifests::default();
    manifests.add("in.yaml", &text).expect("well-formed");
    let ranges = Ranges { cluster_ips: Settings::default().service_cidrs, node_ports: (30_000, 32_767), seed: 0 };
    let cluster = Cluster::new(manifests, &Taken::Applied(ranges));
    (cluster.map_or_else(|problems| problems.to_string(), |_| String::new()), places)
}

#[test]
fn what_an_api_server_would_refuse_is_told_with_its_place() {
    for (name, specs, expected) in [
        ("nothing", &["ports: [{port: 80}]"][..], ""),
        (
            "a port of 70000",
            &["ports: [{port: ^70000}]"],
            "$0: Service default/a: spec.ports[0].port is 70000, which is no port; give a number from 1 to 65535",
        ),
        (
            "no port number",
            &["ports: [^{name: http}]"],
            "$0: Service default/a: spec.ports[0].port is 0 or missing, which is no port; give a number from 1 to 65535",
        ),
        (
            "a protocol that Services do not have",
            &["ports: [{port: 80, protocol: ^ICMP}]"],
            r#"$0: Service default/a: spec.ports[0].protocol is "ICMP", which is no protocol of Services; give TCP, UDP or SCTP"#,
        ),
        (
            "a clusterIP that is no address",
            &["clusterIP: ^10.96.0.300, ports: [{port: 80}]"],
            r#"$0: Service default/a: spec.clusterIP is "10.96.0.300", which is no IP address; give one like 10.0.0.1 or 2001:db8::1"#,
        ),
        ("leading zeros, which were stored once", &["clusterIP: 10.96.0.010, ports: [{port: 80}]"], ""),
        (
            "no ports",
            &["type: NodePort"],
            "in.yaml:4:62: Service default/a: spec.ports is missing or empty; give at least one port, or clusterIP: None",
        ),
        ("no ports, headless", &["clusterIP: None"], ""),
        ("no ports, ExternalName", &["type: ExternalName, externalName: example.com"], ""),
        (
            "a type that is misspelt",
            &["type: ^Nodeport, ports: [{port: 80}]"],
            r#"$0: Service default/a: spec.type is "Nodeport", which is not known; give one of ClusterIP, NodePort, LoadBalancer, ExternalName"#,
        ),
        (
            "several ports, one without a name",
            &["ports: [{name: http, port: 80}, ^{port: 81}]"],
            "$0: Service default/a: spec.ports[1].name is missing; name every port where there are several",
        ),
        (
            "one port twice",
            &["ports: [{name: a, port: 53}, {name: b, port: ^53}]"],
            "$0: Service default/a: spec.ports[1].port is 53/TCP, as that of spec.ports[0]; remove one, or change its protocol",
        ),
        ("one port over two protocols", &["ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]"], ""),
        (
            "one NodePort, two Services",
            &[
                "type: NodePort, ports: [{port: 80, nodePort: ^30080}]",
                "type: NodePort, ports: [{port: 81, nodePort: ^30080}]",
            ],
            "$1: Service default/b: spec.ports[0].nodePort is 30080, which Service default/a has at $0; give each its own number, or leave it out to get one",
        ),
        (
            "one NodePort, two Services, two protocols",
            &["ports: [{port: 80, nodePort: ^30080}]", "ports: [{port: 80, protocol: UDP, nodePort: ^30080}]"],
            "$1: Service default/b: spec.ports[0].nodePort is 30080, which Service default/a has at $0; give each its own number, or leave it out to get one",
        ),
        (
            "one NodePort, one Service, one port over two protocols",
            &[
                "type: NodePort, ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, protocol: UDP, nodePort: 30053}]",
            ],
            "",
        ),
        (
            "one NodePort, one Service, two ports",
            &["ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 54, protocol: UDP, nodePort: ^30053}]"],
            "$0: Service default/a: spec.ports[1].nodePort is 30053, which Service default/a has at in.yaml:4:101; give each its own number, or leave it out to get one",
        ),
        (
            "one ClusterIP, two Services",
            &["clusterIP: ^10.96.0.10, ports: [{port: 80}]", "clusterIP: ^10.96.0.010, ports: [{port: 81}]"],
            "$1: Service default/b: spec.clusterIP is 10.96.0.010, which is that of Service default/a at $0; give each Service its own ClusterIP",
        ),
        (
            "two ClusterIPs of one family",
            &["clusterIPs: [10.96.0.10, ^10.96.0.11], ports: [{port: 80}]"],
            "$0: Service default/a: spec.clusterIPs[1] is the second of its family; give at most one IPv4 and one IPv6 address",
        ),
        (
            "an affinity of no time",
            &["sessionAffinityConfig: {clientIP: {timeoutSeconds: ^0}}, ports: [{port: 80}]"],
            "$0: Service default/a: spec.sessionAffinityConfig.clientIP.timeoutSeconds is 0; give 1 to 86400 seconds",
        ),
        (
            "a source range without its length",
            &["loadBalancerSourceRanges: [^203.0.113.0], ports: [{port: 80}]"],
            r#"$0: Service default/a: spec.loadBalancerSourceRanges[0] is "203.0.113.0", which is no block of addresses; give one like 203.0.113.0/24"#,
        ),
        (
            "a family that the cluster does not serve",
            &["ipFamilies: ^[IPv6], ports: [{port: 80}]"],
            "$0: Service default/a: spec.ipFamilies asks for IPv6, which this cluster does not serve; add an IPv6 block to --service-cluster-ip-range",
        ),
    ] {
        let (problems, places) = refused(specs);
        let place = |expected: String, (index, place): (usize, &String)| expected.replace(&format!("${index}"), place);
        let expected = places.iter().enumerate().fold(expected.to_owned(), place);
        assert_eq!(problems, expected, "{name}");
    }
}
