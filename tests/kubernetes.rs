//! Kubernetes objects in, the control plane's objects out: SEMANTICS §2-4, §17 and §18 as tables.

use lb_core::control::{NodePortAddresses, Service, Slice};
use lb_host::k8s::{Cluster, Manifests, Ranges, Settings, Taken, address, config, settings};

fn as_written(text: &str) -> Cluster {
    let mut manifests = Manifests::default();
    manifests.add("in.yaml", text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    Cluster::new(manifests, &Taken::AsWritten).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn applied(text: &str, ranges: &[&str]) -> Result<Cluster, String> {
    let mut manifests = Manifests::default();
    manifests.add("in.yaml", text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let cluster_ips = ranges.iter().map(|range| address::lenient_prefix(range).expect("a block")).collect();
    let ranges = Ranges { cluster_ips, node_ports: (30_000, 32_767), seed: 0 };
    Cluster::new(manifests, &Taken::Applied(ranges)).map_err(|problems| problems.to_string())
}

/// A Service `web` of this spec, with these other fields.
fn service(spec: &str, other: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}{other}}}\n---\n")
}

/// A Pod of label `app: web`.
fn pod(name: &str, spec: &str, status: &str, metadata: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}{metadata}}}, \
         spec: {{containers: []{spec}}}, status: {{{status}}}}}\n---\n"
    )
}

const READY: &str = r#", conditions: [{type: Ready, status: "True"}]"#;

#[test]
fn which_services_count() {
    for (rule, metadata, spec, names) in [
        ("§2.4 a ClusterIP", "", "clusterIP: 10.96.0.1", &["default/web"][..]),
        ("§2.4 no ClusterIP", "", "type: NodePort", &[]),
        ("§2.4 headless", "", "clusterIP: None", &[]),
        ("§2.4 ExternalName, even with a ClusterIP", "", "type: ExternalName, clusterIP: 10.96.0.1", &[]),
        (
            "§2.2 another proxy's",
            ", labels: {service.kubernetes.io/service-proxy-name: x}",
            "clusterIP: 10.96.0.1",
            &[],
        ),
        ("§2.2 even nobody's", ", labels: {service.kubernetes.io/service-proxy-name: ''}", "clusterIP: 10.96.0.1", &[]),
        (
            "§2.3 is about slices",
            ", labels: {service.kubernetes.io/headless: ''}",
            "clusterIP: 10.96.0.1",
            &["default/web"],
        ),
        ("§2.6 whatever the type", "", "type: Odd, clusterIP: 10.96.0.1", &["default/web"]),
        ("§2.5 no ClusterIP of a named family", "", "clusterIP: 10.96.0.1, ipFamilies: [IPv4]", &[]),
        ("its namespace", ", namespace: shop", "clusterIP: 10.96.0.1", &["shop/web"]),
    ] {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: web{metadata}}}, spec: {{{spec}}}}}");
        let services = as_written(&text).services;
        assert_eq!(services.iter().map(|service| &*service.name).collect::<Vec<_>>(), names, "{rule}");
    }
}

#[test]
fn what_is_taken_from_a_service() {
    type Field = fn(&Service) -> String;
    let ips: Field = |s| format!("{:?}", s.cluster_ips);
    let external: Field = |s| format!("{:?}", s.external_ips);
    let balancer: Field = |s| format!("{:?}", s.load_balancer_ips);
    let ranges: Field = |s| format!("{:?}", s.source_ranges);
    let policies: Field = |s| format!("{:?}/{:?}", s.internal_policy, s.external_policy);
    let affinity: Field = |s| format!("{:?}", s.affinity);
    let health: Field = |s| format!("{:?}", s.health_check_port);
    let ports: Field = |s| {
        let ports = s.ports.iter().map(|p| format!("{}:{}:{:?}:{:?}", p.name, p.protocol, p.port, p.node_port));
        ports.collect::<Vec<_>>().join(" ")
    };
    let ingress = |entries: &str| format!(", status: {{loadBalancer: {{ingress: [{entries}]}}}}");
    for (rule, field, spec, other, expected) in [
        ("§2.5", ips, "clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6]", "", "[10.96.0.1, fd00::1]"),
        ("§2.5 ipFamilies counts", ips, "clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4]", "", "[10.96.0.1]"),
        ("§2.5 without, clusterIP", ips, "clusterIPs: [10.96.0.1, 'fd00::1']", "", "[10.96.0.1]"),
        (
            "§3.2 leading zeros",
            external,
            "externalIPs: [172.30.0.041, nonsense, '2001:db8::1']",
            "",
            "[172.30.0.41, 2001:db8::1]",
        ),
        (
            "§3.2 blocks",
            ranges,
            "loadBalancerSourceRanges: [' 10.0.0.0/8 ', 203.0.113.000/025, nonsense]",
            "",
            "[10.0.0.0/8, 203.0.113.0/25]",
        ),
        ("§3.3 default", policies, "type: LoadBalancer", "", "Cluster/Cluster"),
        ("§3.3 LoadBalancer", policies, "type: LoadBalancer, externalTrafficPolicy: Local", "", "Cluster/Local"),
        ("§3.3 NodePort", policies, "type: NodePort, externalTrafficPolicy: Local", "", "Cluster/Local"),
        ("§3.3 ClusterIP", policies, "type: ClusterIP, externalTrafficPolicy: Local", "", "Cluster/Cluster"),
        ("§3.3 external IPs", policies, "externalIPs: [192.0.2.1], externalTrafficPolicy: Local", "", "Cluster/Local"),
        ("§3.3 internal", policies, "internalTrafficPolicy: Local", "", "Local/Cluster"),
        ("§3.4 an IP", balancer, "", &ingress("{ip: 203.0.113.1}"), "[203.0.113.1]"),
        ("§3.4 a hostname", balancer, "", &ingress("{hostname: lb.example.com}"), "[]"),
        ("§3.4 VIP", balancer, "", &ingress("{ip: 203.0.113.1, ipMode: VIP}"), "[203.0.113.1]"),
        ("§3.4 Proxy", balancer, "", &ingress("{ip: 203.0.113.1, ipMode: Proxy}"), "[]"),
        ("§2.6 whatever the type", balancer, "type: ClusterIP", &ingress("{ip: 203.0.113.1}"), "[203.0.113.1]"),
        ("§3.6 none", affinity, "sessionAffinity: None", "", "None"),
        ("§3.6 default", affinity, "sessionAffinity: ClientIP", "", "Some(10800)"),
        (
            "§3.6 set",
            affinity,
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}",
            "",
            "Some(60)",
        ),
        (
            "§10.1 all three",
            health,
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30100",
            "",
            "Some(30100)",
        ),
        ("§10.1 not Local", health, "type: LoadBalancer, healthCheckNodePort: 30100", "", "None"),
        (
            "§10.1 not LoadBalancer",
            health,
            "type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 30100",
            "",
            "None",
        ),
        ("§1 no name, TCP", ports, "ports: [{port: 80}]", "", ":tcp:80:None"),
        (
            "§2.6 a nodePort whatever the type",
            ports,
            "ports: [{name: a, port: 80, protocol: UDP, nodePort: 30080}, {name: b, port: 81, protocol: SCTP, nodePort: 0}]",
            "",
            "a:udp:80:Some(30080) b:sctp:81:None",
        ),
    ] {
        let text = service(&format!("clusterIP: 10.96.0.1, {spec}"), other);
        let services = as_written(&text).services;
        assert_eq!(field(&services[0]), expected, "{rule}: {spec}");
    }
}

/// A slice `web-x` with these fields.
fn slice(metadata: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-x{metadata}}}, {fields}}}\n---\n"
    )
}

const OF_WEB: &str = ", labels: {kubernetes.io/service-name: web}";

/// `service ports | endpoints`, each endpoint with R, S, T for ready, serving, terminating.
fn told(slice: &Slice) -> String {
    let ports = slice.ports.iter().map(|port| format!("{}:{}:{}", port.name, port.protocol, port.port));
    let endpoints = slice.endpoints.iter().map(|one| {
        let flags = [(one.ready, 'R'), (one.serving, 'S'), (one.terminating, 'T')];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
        let node = one.node.as_deref().map(|node| format!("@{node}")).unwrap_or_default();
        let hints = one.zone_hints.iter().map(|zone| format!("+z:{zone}"));
        let hints: String = hints.chain(one.node_hints.iter().map(|node| format!("+n:{node}"))).collect();
        format!("{}/{flags}{node}{hints}", one.address)
    });
    let (ports, endpoints): (Vec<_>, Vec<_>) = (ports.collect(), endpoints.collect());
    format!("{} {} | {}", slice.service, ports.join(" "), endpoints.join(" "))
}

#[test]
fn what_is_taken_from_a_slice() {
    let endpoints = "addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.0.1]}]";
    for (rule, metadata, fields, expected) in [
        ("§4.1", OF_WEB, endpoints, &["default/web :tcp:8080 | 10.0.0.1/RS"][..]),
        ("§4.1 no label", "", endpoints, &[]),
        ("§4.1 an empty label", ", labels: {kubernetes.io/service-name: ''}", endpoints, &[]),
        ("§4.1 names", OF_WEB, "addressType: FQDN, endpoints: [{addresses: [example.com]}]", &[]),
        ("§4.1 no type", OF_WEB, "addressType: '', endpoints: [{addresses: [10.0.0.1]}]", &[]),
        (
            "§2.2",
            ", labels: {kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: ''}",
            endpoints,
            &[],
        ),
        ("§2.3", ", labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}", endpoints, &[]),
        (
            "§4.2 nil name, nil and zero number",
            OF_WEB,
            "addressType: IPv4, ports: [{port: 1}, {name: a}, {name: b, port: 0}, {name: c, port: 2, protocol: UDP}], endpoints: null",
            &["default/web c:udp:2 | "],
        ),
        (
            "§4.3 the first address, of the slice's family",
            OF_WEB,
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: ['fd00::1']}, {addresses: []}, {addresses: [010.0.0.03]}]",
            &["default/web  | 10.0.0.1/RS 10.0.0.3/RS"],
        ),
        (
            "§4.5 conditions",
            OF_WEB,
            "addressType: IPv6, endpoints: [{addresses: ['fd00::1'], conditions: {}}, {addresses: ['fd00::2'], conditions: {ready: false}}, \
             {addresses: ['fd00::3'], conditions: {ready: false, serving: true, terminating: true}}, {addresses: ['fd00::4'], conditions: {serving: false}}]",
            &["default/web  | fd00::1/RS fd00::2/S fd00::3/ST fd00::4/R"],
        ),
        (
            "§4.6, §4.7",
            OF_WEB,
            "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: w1, hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: w1}]}}]",
            &["default/web  | 10.0.0.1/RS@w1+z:a+z:b+n:w1"],
        ),
    ] {
        let slices = as_written(&slice(metadata, fields)).slices;
        assert_eq!(slices.iter().map(told).collect::<Vec<_>>(), expected, "{rule}");
    }
}

#[test]
fn slices_are_made_of_pods() {
    let web = |spec: &str| service(&format!("clusterIP: 10.96.0.1, selector: {{app: web}}{spec}"), "");
    let ports = ", ports: [{name: http, port: 80, targetPort: 8080}]";
    let node = |name: &str, zone: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n---\n"
        )
    };
    let up = |name: &str, ip: &str| pod(name, "", &format!("podIP: {ip}{READY}"), "");
    for (rule, text, expected) in [
        ("a ready pod", web(ports) + &up("a", "10.0.0.1"), &["default/web http:tcp:8080 | 10.0.0.1/RS"][..]),
        ("§18.8 no pod: a placeholder", web(ports), &["default/web  | "]),
        (
            "§18.1 of another namespace",
            web(ports) + &pod("a", "", "podIP: 10.0.0.1", ", namespace: shop"),
            &["default/web  | "],
        ),
        (
            "§18.1 all labels must match",
            service("clusterIP: 10.96.0.1, selector: {app: web, tier: front}", "") + &up("a", "10.0.0.1"),
            &["default/web  | "],
        ),
        ("§18.1 an empty selector", service("clusterIP: 10.96.0.1, selector: {}", "") + &up("a", "10.0.0.1"), &[]),
        ("§18.2 no address", web(ports) + &pod("a", "", "phase: Pending", ""), &["default/web  | "]),
        ("§18.2 done", web(ports) + &pod("a", "", "phase: Succeeded, podIP: 10.0.0.1", ""), &["default/web  | "]),
        ("§18.2 failed", web(ports) + &pod("a", "", "phase: Failed, podIP: 10.0.0.1", ""), &["default/web  | "]),
        (
            "§18.3 not ready",
            web(ports) + &pod("a", "", "podIP: 10.0.0.1", ""),
            &["default/web http:tcp:8080 | 10.0.0.1/"],
        ),
        (
            "§18.3 terminating",
            web(ports)
                + &pod("a", "", &format!("podIP: 10.0.0.1{READY}"), ", deletionTimestamp: '2026-01-01T00:00:00Z'"),
            &["default/web http:tcp:8080 | 10.0.0.1/ST"],
        ),
        (
            "§18.3 published though not ready",
            web(&format!("{ports}, publishNotReadyAddresses: true")) + &pod("a", "", "podIP: 10.0.0.1", ""),
            &["default/web http:tcp:8080 | 10.0.0.1/R"],
        ),
        (
            "§16.2 no target port",
            web(", ports: [{port: 80}]") + &up("a", "10.0.0.1"),
            &["default/web :tcp:80 | 10.0.0.1/RS"],
        ),
        (
            "§18.5 a named port is each pod's own; one that lacks it has no port",
            web(", ports: [{port: 80, targetPort: http}]")
                + &pod(
                    "a",
                    ", containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]",
                    &format!("podIP: 10.0.0.1{READY}"),
                    "",
                )
                .replace("containers: [], ", "")
                + &pod(
                    "b",
                    ", containers: [{name: c, ports: [{name: http, containerPort: 8081}]}]",
                    &format!("podIP: 10.0.0.2{READY}"),
                    "",
                )
                .replace("containers: [], ", "")
                + &up("c", "10.0.0.3"),
            &[
                "default/web :tcp:8080 | 10.0.0.1/RS",
                "default/web :tcp:8081 | 10.0.0.2/RS",
                "default/web  | 10.0.0.3/RS",
            ],
        ),
        (
            "§18.5 of the port's protocol, and of init containers that stay",
            web(", ports: [{port: 80, targetPort: http}]")
                + &pod(
                    "a",
                    ", initContainers: [{name: i, ports: [{name: http, containerPort: 1}]}, \
                     {name: s, restartPolicy: Always, ports: [{name: http, containerPort: 2, protocol: UDP}, {name: http, containerPort: 3}]}]",
                    &format!("podIP: 10.0.0.1{READY}"),
                    "",
                ),
            &["default/web :tcp:3 | 10.0.0.1/RS"],
        ),
        (
            "§18.8 a slice for each family",
            service(
                "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], selector: {app: web}",
                "",
            ) + &pod("a", "", &format!("podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::a'}}]{READY}"), ""),
            &["default/web  | 10.0.0.1/RS", "default/web  | fd00::a/RS"],
        ),
        (
            "§18.6 a pod whose Node is missing",
            web(ports) + &node("w1", "a") + &pod("a", ", nodeName: w2", &format!("podIP: 10.0.0.1{READY}"), ""),
            &["default/web  | "],
        ),
        (
            "§18.6 no Node at all is missing none",
            web(ports) + &pod("a", ", nodeName: w2", &format!("podIP: 10.0.0.1{READY}"), ""),
            &["default/web http:tcp:8080 | 10.0.0.1/RS@w2"],
        ),
        (
            "§18.11 hints for zones, of ready endpoints",
            web(&format!("{ports}, trafficDistribution: PreferClose"))
                + &node("w1", "a")
                + &pod("a", ", nodeName: w1", &format!("podIP: 10.0.0.1{READY}"), "")
                + &pod("b", ", nodeName: w1", "podIP: 10.0.0.2", ""),
            &["default/web http:tcp:8080 | 10.0.0.1/RS@w1+z:a 10.0.0.2/@w1"],
        ),
        (
            "§18.11 hints for nodes as well",
            web(&format!("{ports}, trafficDistribution: PreferSameNode"))
                + &node("w1", "a")
                + &pod("a", ", nodeName: w1", &format!("podIP: 10.0.0.1{READY}"), ""),
            &["default/web http:tcp:8080 | 10.0.0.1/RS@w1+z:a+n:w1"],
        ),
        (
            "slices that are given win",
            web(ports) + &up("a", "10.0.0.1") + &slice(OF_WEB, "addressType: IPv4, endpoints: []"),
            &["default/web  | "],
        ),
    ] {
        let slices = as_written(&text).slices;
        assert_eq!(slices.iter().map(told).collect::<Vec<_>>(), expected, "{rule}");
    }
}

#[test]
fn slices_are_made_of_v1_endpoints() {
    let endpoints = |labels: &str| {
        format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: web{labels}}}, subsets: [{{addresses: [{{ip: 10.0.0.1, nodeName: w1}}, {{ip: 'fd00::1'}}], \
             notReadyAddresses: [{{ip: 10.0.0.2}}], ports: [{{port: 80}}]}}]}}\n---\n"
        )
    };
    let mirrored = &["default/web :tcp:80 | 10.0.0.1/RS@w1 10.0.0.2/S", "default/web :tcp:80 | fd00::1/RS"][..];
    for (rule, spec, labels, expected) in [
        ("§18.10 no selector", "clusterIP: 10.96.0.1", "", mirrored),
        (
            "§18.10 told not to",
            "clusterIP: 10.96.0.1",
            ", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}",
            &[],
        ),
        ("§2.1 a selector", "clusterIP: 10.96.0.1, selector: {app: web}", "", &["default/web  | "]),
    ] {
        let slices = as_written(&(service(spec, "") + &endpoints(labels))).slices;
        assert_eq!(slices.iter().map(told).collect::<Vec<_>>(), expected, "{rule}");
    }
}

#[test]
fn made_slices_say_whose_they_are() {
    let text =
        "{apiVersion: v1, kind: Service, metadata: {name: web, labels: {a: b, service.kubernetes.io/headless: mine}}, \
                spec: {clusterIP: None, selector: {app: web}}}\n---\n"
            .to_owned()
            + &pod("p", ", hostname: p, subdomain: web", "podIP: 10.0.0.1", "")
            + &pod("q", ", hostname: q, subdomain: other", "podIP: 10.0.0.2", "");
    let cluster = as_written(&text);
    let made = &cluster.manifests.slices[0].object;
    let labels: Vec<_> = made.metadata.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let expected = [
        "a=b",
        "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
        "kubernetes.io/service-name=web",
        "service.kubernetes.io/headless=",
    ];
    assert_eq!(labels, expected, "§18.9");
    let names: Vec<_> = made.endpoints.iter().flatten().map(|endpoint| endpoint.hostname.as_deref()).collect();
    assert_eq!(names, [Some("p"), None], "§18.7");
    assert!(cluster.slices.is_empty(), "§2.3");
}

#[test]
fn addresses_and_ports_are_allocated() {
    type Field = fn(&Service) -> String;
    let ips: Field = |s| format!("{:?}", s.cluster_ips);
    let ports: Field = |s| format!("{:?}", s.ports.iter().map(|port| port.node_port).collect::<Vec<_>>());
    let health: Field = |s| format!("{:?}", s.health_check_port);
    let (v4, v6) = ("10.96.0.0/30", "fd00::/126"); // 10.96.0.1 and fd00::1 are the API server's own (§17.4)
    for (rule, field, ranges, spec, expected) in [
        ("§17 one of the first range", ips, &[v4, v6][..], "", "[10.96.0.2]"),
        ("§17 one of the first range", ips, &[v6, v4], "", "[fd00::3]"),
        ("an explicit one stays", ips, &[v4], "clusterIP: 10.0.0.1, ", "[10.0.0.1]"),
        ("§13.2 a named family", ips, &[v4, "fd00::/127"], "ipFamilies: [IPv4], ", "[10.96.0.2]"),
        ("§13.2 a single stack", ips, &[v4, "fd00::/127"], "ipFamilyPolicy: SingleStack, ", "[10.96.0.2]"),
        ("§13.2 both, if there are both", ips, &[v4], "ipFamilyPolicy: PreferDualStack, ", "[10.96.0.2]"),
        ("§13.2 both", ips, &["fd00::/126", v4], "ipFamilyPolicy: PreferDualStack, ", "[fd00::3, 10.96.0.2]"),
        ("§16.3 ClusterIP has no node port", ports, &[v4], "", "[None]"),
        ("§16.3 told not to", ports, &[v4], "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ", "[None]"),
        ("§16.6 not Local", health, &[v4], "type: LoadBalancer, ", "None"),
    ] {
        let cluster = applied(&service(&format!("{spec}ports: [{{port: 80}}]"), ""), ranges).expect(rule);
        assert_eq!(field(&cluster.services[0]), expected, "{rule}");
    }
    let dynamic = 30_086..=32_767; // §17.3
    let local = service("type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]", "");
    let cluster = applied(&local, &[v4]).expect("room for one");
    let drawn = [cluster.services[0].ports[0].node_port, cluster.services[0].health_check_port];
    assert!(drawn.iter().all(|port| port.is_some_and(|port| dynamic.contains(&port))), "{drawn:?}");
    assert_ne!(drawn[0], drawn[1]);
    let dns = service(
        "type: NodePort, ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53}, {name: c, port: 54}]",
        "",
    );
    let cluster = applied(&dns, &[v4]).expect("room for one");
    let [a, b, c] = [0, 1, 2].map(|index| cluster.services[0].ports[index].node_port);
    assert!(a.is_some() && a == b && a != c, "§16.3: {a:?} {b:?} {c:?}");
    let both = service("ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]", "");
    let cluster = applied(&both, &["10.96.0.0/12", "fd00::/108"]).expect("room for one");
    assert_eq!(cluster.services[0].cluster_ips.len(), 2, "§13.2");
    let full =
        service("ports: [{port: 80}]", "") + &service("ports: [{port: 80}]", "").replace("name: web", "name: api");
    let problems = applied(&full, &[v4]).expect_err("one address for two");
    assert!(problems.starts_with("in.yaml:3:62: Service default/api: spec.clusterIP cannot be given"), "{problems}");
}

#[test]
fn what_is_allocated_depends_on_the_seed_and_on_nothing_else() {
    let one = service("type: NodePort, ports: [{port: 80}]", "");
    let other = one.replace("name: web", "name: api");
    let draw = |text: &str, seed: u64| {
        let mut manifests = Manifests::default();
        manifests.add("in.yaml", text).expect("well-formed");
        let ranges = Ranges { cluster_ips: Settings::default().service_cidrs, node_ports: (30_000, 32_767), seed };
        let cluster = Cluster::new(manifests, &Taken::Applied(ranges)).expect("fine");
        let web = cluster.services.iter().find(|service| &*service.name == "default/web").expect("there");
        (web.cluster_ips[0], web.ports[0].node_port)
    };
    assert_eq!(draw(&one, 0), draw(&one, 0));
    assert_ne!(draw(&one, 0), draw(&one, 1));
    assert_eq!(draw(&one, 0), draw(&format!("{other}{one}"), 0), "another Service does not move it");
}

#[test]
fn a_node_has_the_addresses_of_its_object() {
    let node = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: a}}}}, spec: {{podCIDRs: [10.244.1.0/24]}}, \
             status: {{addresses: [{{type: ExternalIP, address: 198.51.100.1}}, {{type: Hostname, address: 203.0.113.1}}, \
             {{type: InternalIP, address: 192.0.2.1}}, {{type: InternalIP, address: '2001:db8::1'}}]}}}}\n---\n"
        )
    };
    for (text, asked, expected) in [
        (node("w1"), None, Ok("w1 Some(\"a\") [192.0.2.1, 2001:db8::1, 198.51.100.1]")),
        (node("w1"), Some("w1"), Ok("w1 Some(\"a\") [192.0.2.1, 2001:db8::1, 198.51.100.1]")),
        (String::new(), None, Ok("node None []")),
        (String::new(), Some("w1"), Ok("w1 None []")),
        (node("w1"), Some("w2"), Err("no Node is called \"w2\" in the manifests; name one of theirs with --node: w1")),
        (node("w1") + &node("w2"), None, Err("the manifests have several Nodes; name one with --node: w1, w2")),
    ] {
        let node = as_written(&text).node(asked, &Settings::default());
        let told = node.map(|node| format!("{} {:?} {:?}", node.name, node.zone.as_deref(), node.addresses));
        assert_eq!(told.map_err(|error| error.to_string()), expected.map(str::to_owned).map_err(str::to_owned));
    }
}

#[test]
fn a_configuration_says_how_nodes_proxy() {
    let text =
        |fields: &str| format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}");
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|ip| address::lenient_address(ip).expect("an address"));
    let pods = [address::lenient_prefix("10.244.1.0/24").expect("a block")];
    for (name, fields, expected) in [
        ("nothing", "", "iptables None false All true"),
        ("§9.1 nftables", "mode: nftables", "nftables None false Primary true"),
        (
            "§8.4 the first of each family",
            "clusterCIDR: '10.244.0.0/16,fd00:1::/64,10.0.0.0/8'",
            "iptables Sources([10.244.0.0/16, fd00:1::/64]) false All true",
        ),
        ("§8.4 the node's own", "detectLocalMode: NodeCIDR", "iptables Sources([10.244.1.0/24]) false All true"),
        (
            "§8.4 an interface",
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            "iptables Interface false All true",
        ),
        ("§8.1", "iptables: {masqueradeAll: true, localhostNodePorts: false}", "iptables None true All false"),
        ("§8.1 of the mode", "mode: nftables\niptables: {masqueradeAll: true}", "nftables None false Primary true"),
        ("§9.1 a word", "nodePortAddresses: [primary]", "iptables None false Primary true"),
        (
            "§9.2 a family without a block",
            "nodePortAddresses: [192.0.2.0/24]",
            "iptables None false Inside([192.0.2.0/24, ::/0]) true",
        ),
        (
            "§9.1 mixed",
            "nodePortAddresses: [primary, 198.51.100.0/24]",
            "iptables None false Inside([192.0.2.1/32, 2001:db8::1/128, 198.51.100.0/24]) true",
        ),
        (
            "what moves no packet",
            "conntrack: {min: 0}\niptables: {syncPeriod: 30s}\noomScoreAdj: -999",
            "iptables None false All true",
        ),
    ] {
        let config = config::parse("in.yaml", &text(fields)).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        assert_eq!(config.unknown, [], "{name}");
        let proxy = config.settings.proxy(&addresses, &pods);
        let (mode, all) = (proxy.mode.name, proxy.masquerade_all);
        let told =
            format!("{mode} {:?} {all} {:?} {}", proxy.detector, proxy.node_port_addresses, proxy.localhost_node_ports);
        assert_eq!(told, expected, "{name}");
    }
    for (name, fields, expected) in [
        ("a mode", "mode: ebpf", "in.yaml:3:7: mode is \"ebpf\", which is not known; give one of "),
        ("a type", "iptables: {masqueradeAll: 3}", "in.yaml:3:27: iptables.masqueradeAll cannot be read: invalid type"),
        (
            "a block",
            "nodePortAddresses: [eth0]",
            "in.yaml:3:21: nodePortAddresses[0] is \"eth0\", which is not known; give a block",
        ),
        (
            "an interface",
            "detectLocalMode: BridgeInterface",
            "in.yaml:3:18: detectLocalMode is BridgeInterface, but detectLocal names no",
        ),
    ] {
        let problems = config::parse("in.yaml", &text(fields)).expect_err(name).to_string();
        assert!(problems.starts_with(expected), "{name}: {problems}");
    }
    let unknown = config::parse("in.yaml", &text("iptables: {masqerade: 1}")).expect("fine").unknown;
    let expected = ["in.yaml:3:23: iptables.masqerade is an unknown field; it is not read: correct or remove it"];
    assert_eq!(unknown.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    assert_eq!(Settings::default().proxy(&addresses, &pods).node_port_addresses, NodePortAddresses::All);
}

#[test]
fn a_range_of_ports_is_read_as_the_api_server_reads_it() {
    for (text, expected) in [
        ("30000-32767", Some((30_000, 32_767))),
        ("30000+100", Some((30_000, 30_100))),
        ("8080-8080", Some((8080, 8080))),
        ("32767-30000", None),
        ("0-100", None),
        ("65000+1000", None),
        ("30000", None),
        ("all", None),
    ] {
        assert_eq!(settings::port_range(text).ok(), expected, "{text}");
    }
}
