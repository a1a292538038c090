//! `lb lint`, run as it is built: what is found in which manifest, and what is not.

use assert_cmd::Command;

fn lint(arguments: &[&str], input: &str) -> assert_cmd::assert::Assert {
    let mut command = Command::cargo_bin("lb").expect("lb is built");
    command.arg("lint").args(arguments).write_stdin(input).assert()
}

/// What is found, as `severity object field: message` of JSON items, whose exit code must fit.
fn found(arguments: &[&str], input: &str) -> Vec<String> {
    let assert = lint(&[&["-f", "-", "-o", "json"], arguments].concat(), input);
    let output = assert.get_output();
    let items: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}\n{input}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let refused = items.iter().any(|item| item["severity"] == "error");
    assert_eq!(output.status.code(), Some(i32::from(refused)), "{input}");
    let text = |item: &serde_json::Value, key: &str| item[key].as_str().expect("text").to_owned();
    let line = |item| {
        let [severity, object, field, message] = ["severity", "object", "field", "message"].map(|key| text(item, key));
        format!("{severity} {object} {field}: {message}")
    };
    items.iter().map(line).collect()
}

/// A Service of this spec that is fine but for what the spec has, and a slice for it.
fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{{spec}}}\n---\n{SLICE}")
}

const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}, \
     addressType: IPv4, ports: [], endpoints: []}\n";

/// Each finding must begin as one expected does, and contain the rest of it after `...`.
fn same(found: &[String], expected: &[&str]) -> bool {
    let fits = |(found, expected): (&String, &&str)| {
        let mut parts = expected.split("...").map(str::trim);
        found.starts_with(parts.next().unwrap_or_default()) && parts.all(|part| found.contains(part))
    };
    found.len() == expected.len() && found.iter().zip(expected).all(fits)
}

fn check(name: &str, arguments: &[&str], input: &str, expected: &[&str]) {
    let found = found(arguments, input);
    assert!(same(&found, expected), "{name}:\n{found:#?}\nexpected\n{expected:#?}");
}

const PORT: &str = "ports: [{port: 80}]";

#[test]
fn what_an_api_server_refuses_is_an_error() {
    for (name, spec, expected) in [
        ("nothing", "ports: [{port: 80}]".to_owned(), &[][..]),
        (
            "a port too large",
            "ports: [{port: 65536}]".into(),
            &["error Service default/a spec.ports[0].port: is 65536"],
        ),
        ("the largest port", "ports: [{port: 65535}]".into(), &[]),
        (
            "everything at once",
            "type: Nodeport, sessionAffinity: Client, ports: [{port: 0}, {port: 80, name: A}]".into(),
            &[
                "error Service default/a spec.type",
                "error Service default/a spec.sessionAffinity",
                "error Service default/a spec.ports[0].name: is missing",
                "error Service default/a spec.ports[0].port: is 0",
                "error Service default/a spec.ports[1].name",
            ],
        ),
        ("a target port's name", "ports: [{port: 80, targetPort: http}]".into(), &[]),
        (
            "a target port's number",
            "ports: [{port: 80, targetPort: 65536}]".into(),
            &["error ... spec.ports[0].targetPort"],
        ),
        (
            "16 letters",
            "ports: [{port: 80, targetPort: abcdefghijklmnop}]".into(),
            &["error ... spec.ports[0].targetPort"],
        ),
        ("no letter", r#"ports: [{port: 80, targetPort: "80"}]"#.into(), &["error ... spec.ports[0].targetPort"]),
        ("two hyphens", "ports: [{port: 80, targetPort: a--b}]".into(), &["error ... spec.ports[0].targetPort"]),
        (
            "below the range",
            "type: NodePort, ports: [{port: 80, nodePort: 29999}]".into(),
            &["error ... 29999, outside"],
        ),
        ("its first", "type: NodePort, ports: [{port: 80, nodePort: 30000}]".into(), &[]),
        ("its last", "type: NodePort, ports: [{port: 80, nodePort: 32767}]".into(), &[]),
        ("a NodePort of a ClusterIP", "ports: [{port: 80, nodePort: 30000}]".into(), &["error ... of type ClusterIP"]),
        (
            "headless, with a NodePort",
            format!("type: NodePort, clusterIP: None, {PORT}"),
            &["error ... spec.clusterIP"],
        ),
        (
            "ranges without a load balancer",
            format!("loadBalancerSourceRanges: [10.0.0.0/8], {PORT}"),
            &["error ... spec.loadBalancerSourceRanges: is set, which only Services with type LoadBalancer"],
        ),
        (
            "the kubelet's port",
            "type: LoadBalancer, ports: [{port: 10250}]".into(),
            &["error ... spec.ports[0].port: is 10250"],
        ),
        (
            "a class that is no name",
            format!("type: LoadBalancer, loadBalancerClass: a b, {PORT}"),
            &["error ... spec.loadBalancerClass"],
        ),
        ("an application protocol", "ports: [{port: 80, appProtocol: kubernetes.io/h2c}]".into(), &[]),
        ("none", "ports: [{port: 80, appProtocol: a/b/c}]".into(), &["error ... spec.ports[0].appProtocol"]),
        ("a selector", format!("selector: {{a.b/c: '', d_E: f.g}}, {PORT}"), &[]),
        ("one of no label", format!("selector: {{-a: b}}, {PORT}"), &["error ... spec.selector: has \"-a\""]),
        (
            "None and more",
            format!("clusterIP: None, clusterIPs: [None, 10.96.0.9], {PORT}"),
            &["error ... spec.clusterIPs: has None"],
        ),
        (
            "clusterIPs alone",
            format!("clusterIPs: [10.96.0.9], {PORT}"),
            &["error ... spec.clusterIPs[0]: is 10.96.0.9, while"],
        ),
        ("automatic node ports without one", format!("allocateLoadBalancerNodePorts: true, {PORT}"), &["error ..."]),
        ("a class without one", format!("loadBalancerClass: a/b, {PORT}"), &["error ... spec.loadBalancerClass"]),
        (
            "eTP that nothing reaches",
            format!("externalTrafficPolicy: Cluster, {PORT}"),
            &["error ... spec.externalTraffic"],
        ),
        (
            "a health check for nobody",
            format!("type: LoadBalancer, healthCheckNodePort: 30001, {PORT}"),
            &["error ... spec.health"],
        ),
        (
            "an affinity's time without affinity",
            format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 60}}}}, {PORT}"),
            &["error ... spec.sessionAffinityConfig"],
        ),
        (
            "an affinity too long",
            format!(
                "sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 86401}}}}, {PORT}"
            ),
            &["error ... is 86401"],
        ),
        ("a distribution", format!("trafficDistribution: PreferFar, {PORT}"), &["error ... spec.trafficDistribution"]),
        ("no external name", "type: ExternalName".into(), &["error ... spec.externalName: is missing"]),
        (
            "addresses that nothing reaches",
            format!(
                "externalIPs: [127.0.0.1, 0.0.0.0, 169.254.0.1, 224.0.0.1, '::', '::1', 'fe80::1', 'ff02::1'], {PORT}"
            ),
            &[
                "warning Service default/a spec.externalIPs: is deprecated",
                "error ... externalIPs[0] ... a loopback address",
                "error ... externalIPs[1] ... the unspecified address",
                "error ... externalIPs[2] ... a link-local address",
                "error ... externalIPs[3] ... a link-local multicast address",
                "error ... externalIPs[4] ... the unspecified address",
                "error ... externalIPs[5] ... a loopback address",
                "error ... externalIPs[6] ... a link-local address",
                "error ... externalIPs[7] ... a link-local multicast address",
            ],
        ),
        // §16.7: wider multicast is let through.
        ("wide multicast", format!("externalIPs: [224.0.1.1, 'ff05::1'], {PORT}"), &["warning ... is deprecated"]),
        (
            "families that disagree",
            format!(
                "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4], clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00::9'], {PORT}"
            ),
            &["error ... spec.clusterIPs[0]: is 10.96.0.9, while", "error ... spec.clusterIPs[1]: is fd00::9, while"],
        ),
        (
            "two families, one stack",
            format!("ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], {PORT}"),
            &["error ... spec.ipFamilies: has two entries"],
        ),
        (
            "a family twice",
            format!("ipFamilies: [IPv4, IPv4], {PORT}"),
            &["error ... spec.ipFamilies[1]: is IPv4 once more"],
        ),
        (
            "a wrong type",
            "ports: [{port: eighty}]".into(),
            &["error Service default/a spec.ports[0].port: cannot be read"],
        ),
        (
            "an unknown field",
            format!("prots: 1, {PORT}"),
            &["warning Service default/a spec.prots: is an unknown field"],
        ),
    ] {
        // The order is that of the input, and both of an external IP's findings stand at one place.
        check(name, &[], &service(&spec), expected);
    }
}

#[test]
fn external_names() {
    for (external, expected) in [
        ("payments.example.com", &["warning ... is an alias in DNS"][..]),
        ("payments.example.com.", &["warning ... is an alias in DNS"]),
        ("Payments.example.com", &["error ... which is no DNS subdomain", "warning ..."]),
        ("pay_ments.example.com", &["error ... which is no DNS subdomain", "warning ..."]),
        ("203.0.113.9", &["warning ... for which DNS has no such record"]),
    ] {
        check(external, &[], &service(&format!("type: ExternalName, externalName: {external}")), expected);
    }
    let spec = "type: ExternalName, externalName: a.example, clusterIP: 10.96.0.9, ports: [{port: 80}]";
    let expected = ["warning ... alias", "error ... spec.clusterIP: is set", "warning ... spec.ports: has no effect"];
    check("more than a name", &[], &service(spec), &expected);
}

#[test]
fn what_the_cluster_is_like_is_told_by_flags() {
    let node_port = service("type: NodePort, ports: [{port: 80, nodePort: 40000}]");
    let both = service("ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]");
    let v6 = service("ipFamilies: [IPv6], clusterIP: 'fd00::7', ports: [{port: 80}]");
    for (input, arguments, expected) in [
        (&node_port, &[][..], &["error ... outside the cluster's range 30000-32767", "warning ... as a source"][..]),
        (&node_port, &["--service-node-port-range", "1-65535"], &["warning ... is 40000, a port that nodes also take"]),
        (&both, &[], &[]),
        (&both, &["--ip-families", "IPv4,IPv6"], &[]),
        (&both, &["--ip-families", "IPv4"], &["error ... spec.ipFamilyPolicy"]),
        (&both, &["--service-cluster-ip-range", "10.0.0.0/16"], &["error ... spec.ipFamilyPolicy"]),
        (&v6, &["--ip-families", "IPv6"], &[]),
        (
            &v6,
            &["--ip-families", "IPv4"],
            &["error ... spec.ipFamilies[0]: is IPv6, which this cluster does not serve"],
        ),
        (
            &v6,
            &["--service-cluster-ip-range", "10.0.0.0/16,fd01::/112"],
            &["warning ... is fd00::7, outside the blocks"],
        ),
    ] {
        check(&format!("{arguments:?}"), arguments, input, expected);
    }
}

#[test]
fn slices_and_endpoints() {
    let long = |count: usize| vec!["10.0.0.1"; count].join(", ");
    let hints = |count: usize| (0..count).map(|zone| format!("{{name: z{zone}}}")).collect::<Vec<_>>().join(", ");
    let slice = |family: &str, rest: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}, \
             addressType: {family}, {rest}}}\n"
        )
    };
    for (name, input, expected) in [
        ("nothing", slice("IPv4", "endpoints: [{addresses: [10.0.0.1]}]"), &[][..]),
        ("a family", slice("IPv5", "endpoints: []"), &["error EndpointSlice default/a-1 addressType"]),
        ("the other family", slice("IPv4", "endpoints: [{addresses: ['fd00::1']}]"), &["error ... an IPv6 address in a slice of IPv4"]),
        ("loopback", slice("IPv4", "endpoints: [{addresses: [127.0.0.1]}]"), &["error ... a loopback address"]),
        ("link-local", slice("IPv6", "endpoints: [{addresses: ['fe80::1']}]"), &["error ... a link-local address"]),
        ("no address", slice("IPv4", "endpoints: [{addresses: []}]"), &["error ... is missing or empty"]),
        ("two addresses", slice("IPv4", "endpoints: [{addresses: [10.0.0.1, 10.0.0.2]}]"), &["warning ... only the first is used"]),
        ("100 addresses", slice("IPv4", &format!("endpoints: [{{addresses: [{}]}}]", long(100))), &["warning ..."]),
        ("101 addresses", slice("IPv4", &format!("endpoints: [{{addresses: [{}]}}]", long(101))), &["error ... has 101 entries", "warning ..."]),
        ("8 hints", slice("IPv4", &format!("endpoints: [{{addresses: [10.0.0.1], hints: {{forZones: [{}]}}}}]", hints(8))), &[]),
        ("9 hints", slice("IPv4", &format!("endpoints: [{{addresses: [10.0.0.1], hints: {{forZones: [{}]}}}}]", hints(9))), &["error ... has 9 entries"]),
        ("a hint twice", slice("IPv4", "endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: a}]}}]"), &["error ... forZones[1].name: is a once more"]),
        ("a hint for nobody", slice("IPv4", "endpoints: [{addresses: [10.0.0.1], hints: {forNodes: [{name: ''}]}}]"), &["error ... forNodes[0].name: is missing"]),
        ("a node of no name", slice("IPv4", "endpoints: [{addresses: [10.0.0.1], nodeName: A_b}]"), &["error ... endpoints[0].nodeName"]),
        ("a protocol of no name", slice("IPv4", "ports: [{name: a, port: 1, appProtocol: 'a b'}]"), &["error ... ports[0].appProtocol"]),
        (
            "what a load balancer reports",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, ports: [{port: 80}]}, \
             status: {loadBalancer: {ingress: [{ip: x}, {ip: 203.0.113.1, ipMode: vip}, {hostname: a.b, ipMode: VIP}, {hostname: 203.0.113.1}]}}}\n".into(),
            &["warning ...", "error ... ingress[0].ip", "error ... ingress[1].ipMode", "error ... ingress[2].ipMode", "error ... ingress[3].hostname"],
        ),
        ("a hostname", slice("IPv4", "endpoints: [{addresses: [10.0.0.1], hostname: a.b}]"), &["error ... endpoints[0].hostname"]),
        ("a port's name twice", slice("IPv4", "ports: [{name: a, port: 1}, {name: a, port: 2}]"), &["error ... ports[1].name: is that of ports[0]"]),
        ("a name that is none", slice("FQDN", "endpoints: [{addresses: ['-a']}]"), &["warning ... FQDN", "error ... no DNS subdomain"]),
        (
            "nobody's slice",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: b}, addressType: IPv4}\n".into(),
            &["warning EndpointSlice default/b metadata.labels: has no kubernetes.io/service-name"],
        ),
        (
            "Endpoints of no Service",
            "{apiVersion: v1, kind: Endpoints, metadata: {name: b}, subsets: [{addresses: [{ip: 127.0.0.1}], ports: [{port: 1}]}]}\n".into(),
            &["warning Endpoints default/b subsets: is read by no proxy, and there is no Service", "error ... a loopback address"],
        ),
        (
            "some ready endpoints without hints",
            slice("IPv4", "endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}]}}, {addresses: [10.0.0.2]}]"),
            &["warning ... endpoints[1].hints.forZones: is missing ... (§5.4)"],
        ),
    ] {
        check(name, &[], &input, expected);
    }
}

#[test]
fn limits_of_a_slice() {
    for (count, refused) in [(1000, false), (1001, true)] {
        let endpoints: Vec<_> =
            (0..count).map(|n| format!("{{addresses: [10.1.{}.{}]}}", n / 250, n % 250 + 1)).collect();
        let input = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a, labels: {{kubernetes.io/service-name: a}}}}, \
             addressType: IPv4, endpoints: [{}]}}\n",
            endpoints.join(", ")
        );
        let expected = if refused { &["error ... endpoints: has 1001 entries; give at most 1000"][..] } else { &[] };
        check(&count.to_string(), &[], &input, expected);
    }
}

const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2, labels: {topology.kubernetes.io/zone: b}}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}, status: {podIP: 10.244.1.1, conditions: [{type: Ready, status: 'True'}]}}
---
";

#[test]
fn what_surprises_is_a_warning() {
    let one = |spec: &str| format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{{spec}}}}}\n");
    let two = |a: &str, b: &str| {
        let service = |name: &str, spec: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: web}}, ports: [{{port: 80}}], {spec}}}}}\n"
            )
        };
        format!("{}---\n{}", service("a", a), service("b", b))
    };
    let web = "selector: {app: web}, ports: [{port: 80}]";
    for (name, input, expected) in [
        ("nothing", one(web), &[][..]),
        ("a selector of nobody", one("selector: {app: wbe}, ports: [{port: 80}]"), &["warning ... spec.selector: matches none"]),
        ("no selector", one("ports: [{port: 80}]"), &["warning ... spec.selector: is missing"]),
        ("a named target port", one("selector: {app: web}, ports: [{port: 80, targetPort: http}]"), &[]),
        ("one that no Pod has", one("selector: {app: web}, ports: [{port: 80, targetPort: https}]"), &["warning ... targetPort: is https"]),
        (
            "one of another protocol",
            one("selector: {app: web}, ports: [{port: 80, protocol: UDP, targetPort: http}]"),
            &["warning ... no UDP container port"],
        ),
        ("iTP Local", one(&format!("internalTrafficPolicy: Local, {web}")), &["warning ... no usable endpoint on n2: what dials the ClusterIP there is dropped"]),
        (
            "eTP Local",
            one(&format!("type: NodePort, externalTrafficPolicy: Local, {web}")),
            &["warning ... spec.externalTrafficPolicy: is Local ... on n2: what arrives there"],
        ),
        (
            "a zone without endpoints",
            one(&format!("trafficDistribution: PreferSameZone, {web}")),
            &["warning ... have no hint for b"],
        ),
        ("another proxy's", "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: x}}, spec: {selector: {app: web}, ports: [{port: 80}]}}".into(), &["warning ... metadata.labels"]),
        ("unready Pods", one(&format!("publishNotReadyAddresses: true, {web}")), &["warning ... spec.publishNotReady"]),
        (
            "affinity behind a load balancer",
            one(&format!("type: LoadBalancer, sessionAffinity: ClientIP, {web}")),
            &["warning ... spec.sessionAffinity: is ClientIP, which each node remembers"],
        ),
        (
            "ranges and NodePorts",
            one(&format!("type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24], {web}")),
            &["warning ... does not hold for the NodePorts"],
        ),
        (
            "ranges without NodePorts",
            one(&format!("type: LoadBalancer, allocateLoadBalancerNodePorts: false, loadBalancerSourceRanges: [203.0.113.0/24], {web}")),
            &[],
        ),
        (
            "UDP behind a load balancer",
            one("type: LoadBalancer, selector: {app: web}, ports: [{port: 53, protocol: UDP}]"),
            &["warning ... is UDP behind a load balancer"],
        ),
        (
            "one external IP, two Services",
            two("externalIPs: [198.51.100.1]", "externalIPs: [198.51.100.1]"),
            &["warning ... deprecated", "warning ... deprecated", "warning Service default/b ... default/a has it"],
        ),
        ("a node's address", one(&format!("externalIPs: [192.0.2.2], {web}")), &["warning ... deprecated", "warning ... an address of Node n2"]),
        ("leading zeros", one(&format!("clusterIP: 10.96.0.010, {web}")), &["warning ... read as 10.96.0.10"]),
        (
            "Endpoints where a selector decides",
            one(web) + "---\n{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}",
            &["warning Endpoints default/a ... has a selector, which decides"],
        ),
        (
            "a slice whose port has another name",
            one("ports: [{name: http, port: 80}]")
                + "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, ports: [{name: web, port: 80}], endpoints: [{addresses: [10.0.0.1]}]}",
            &["warning ... spec.ports[0].name: is \"http\", and no slice"],
        ),
        (
            "annotations that few heed",
            one(web).replace(
                "name: a}",
                "name: a, annotations: {preserve-destination: 'true', service.kubernetes.io/topology-aware-hints: auto}}",
            ),
            &["warning ... preserve-destination, which only Windows", "warning ... topology-aware-hints, the deprecated name"],
        ),
        (
            "hints by CPU where none is known",
            one(web).replace("name: a}", "name: a, annotations: {service.kubernetes.io/topology-mode: Auto}}"),
            &["warning ... metadata.annotations: asks for hints ... Node n1 has no zone label, or no allocatable CPU"],
        ),
        ("a leading digit", one(web).replace("name: a", "name: 1a"), &["warning ... metadata.name: begins with a digit"]),
    ] {
        check(name, &[], &format!("{CLUSTER}{input}"), expected);
    }
}

#[test]
fn text_has_places_and_exit_codes_are_three() {
    let input = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 70000}]\n---\napiVersion: v1\nkind: Foo\n";
    lint(&["-f", "-"], &format!("{input}---\n{SLICE}")).code(1).stdout(
        "-:5:18: error: Service default/a: spec.ports[0].port: is 70000, which is no port; give a number from 1 to 65535\n\
         -:8:7: error: kind Foo of apiVersion v1 is not one that service routing reads; kinds read: Service, Endpoints, Pod, Node, Namespace, EndpointSlice, ServiceCIDR\n",
    );
    lint(&["-f", "-"], "").code(0).stdout("").stderr("");
    lint(&["-f", "-", "-o", "json"], "").code(0).stdout("[]\n");
    lint(&["-f", "-"], "a: [").code(2).stdout("");
    lint(&["-f", "missing.yaml"], "").code(2).stdout("").stderr(
        "error: missing.yaml: cannot be read: No such file or directory (os error 2); check the path given to -f\n",
    );
    lint(&[], "").code(2).stdout("");
}

/// What is the matter with `object`, warnings aside.
fn refused(name: &str, object: &str, expected: &[&str]) {
    let errors: Vec<_> = found(&[], object).into_iter().filter(|item| item.starts_with("error")).collect();
    assert!(same(&errors, expected), "{name}:\n{errors:#?}\nexpected\n{expected:#?}");
}

#[test]
fn metadata_is_looked_at() {
    for (name, metadata, expected) in [
        ("plain", "labels: {app: web, example.com/tier: '', a.b_c-D: 'x.y_z-1'}", &[][..]),
        (
            "a label's value",
            "labels: {app: 'x y'}",
            &["error Service default/a metadata.labels: has \"app\": \"x y\", which no label"],
        ),
        ("a label's key", "labels: {-app: web}", &["error Service default/a metadata.labels: has \"-app\""]),
        ("two slashes", "labels: {a/b/c: web}", &["error Service default/a metadata.labels: has \"a/b/c\""]),
        ("an upper-case domain", "labels: {Example.com/app: web}", &["error Service default/a metadata.labels: has"]),
        ("annotations say anything", "annotations: {Example.com/app: 'x y / z', a: ''}", &[]),
        (
            "an annotation's key",
            "annotations: {a b: c}",
            &["error Service default/a metadata.annotations: has \"a b\", which no"],
        ),
    ] {
        let object = format!("{{apiVersion: v1, kind: Service, metadata: {{name: a, {metadata}}}, spec: {{{PORT}}}}}");
        refused(name, &object, expected);
    }
}

#[test]
fn annotated_source_ranges_are_read_as_the_field() {
    let wrong =
        "error Service default/a metadata.annotations: has service.beta.kubernetes.io/load-balancer-source-ranges with";
    for (ranges, spec, expected) in [
        ("1.2.3.4/8,  5.6.7.8/16", "", None),
        ("  ", "", None),
        ("foo.bar", "", Some("foo.bar")),
        ("1.2.3.4/33", "", Some("1.2.3.4/33")),
        ("10.0.0.1/32,", "", Some("")),
        // The field wins, and the annotation is not read then.
        ("foo.bar", "loadBalancerSourceRanges: [203.0.113.0/24], ", None),
    ] {
        let expected = expected.map(|range| format!("{wrong} {range:?}"));
        let metadata =
            format!("name: a, annotations: {{service.beta.kubernetes.io/load-balancer-source-ranges: '{ranges}'}}");
        let spec = format!("type: LoadBalancer, {spec}{PORT}");
        let object = format!("{{apiVersion: v1, kind: Service, metadata: {{{metadata}}}, spec: {{{spec}}}}}");
        refused(ranges, &object, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn subsets_of_endpoints_are_looked_at() {
    for (subset, expected) in [
        ("addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]", &[][..]),
        ("notReadyAddresses: [{ip: 10.0.0.1}]", &[]),
        ("ports: [{port: 80}]", &["error Endpoints default/a subsets[0]: has no address"]),
        ("addresses: [], notReadyAddresses: []", &["error Endpoints default/a subsets[0]: has no address"]),
        (
            "addresses: [{ip: 10.0.0.1}], ports: [{port: 80, name: a}, {port: 81}]",
            &["error Endpoints default/a subsets[0].ports[1].name: is missing"],
        ),
        (
            "addresses: [{ip: 10.0.0.1}], ports: [{port: 80, name: A}]",
            &["error Endpoints default/a subsets[0].ports[0].name: is \"A\""],
        ),
    ] {
        let object = format!("{{apiVersion: v1, kind: Endpoints, metadata: {{name: a}}, subsets: [{{{subset}}}]}}");
        refused(subset, &object, expected);
    }
}
