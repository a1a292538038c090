//! More than one machine: two balancers that know the same objects behind a router that shares flows out between them (ECMP),
//! because both announce the Vips to it by BGP (FRR's daemons). One dies: what becomes of its connections?
//!
//! ```text
//!                      .-- balancer0 (lb run, bgpd) --.
//!   client -- router --+                              +-- worker (8 Pods)
//!             (bgpd)   '-- balancer1 (lb run, bgpd) --'
//! ```
//! The worker answers a connection through the balancer that its last packet came from. A balancer's own BGP session
//! passes its `lb run` as all TCP does, so it ends when that dies, and with it the routes.

use std::process::Command;

use crate::connections::{self, Connections};
use crate::lab::{self, Lab, Lb, Stick, run, until};

/// Connections to each address.
const EACH: usize = 200;

/// What is dialled, and whether its connections outlive the balancer that they were made through: not where it chose a
/// source port for them, which no other balancer knows.
const VIPS: [(&str, &str, bool); 3] = [
    ("ClusterIP", "10.96.0.10", true),
    ("load balancer, externalTrafficPolicy Local", "203.0.113.10", true),
    ("load balancer, externalTrafficPolicy Cluster: masqueraded", "203.0.113.20", false),
];

const OBJECTS: &str = r#"apiVersion: v1
kind: Node
metadata: {name: edge}
status: {addresses: [{type: InternalIP, address: 203.0.113.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.10
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}
---
apiVersion: v1
kind: Service
metadata: {name: cluster}
spec: {type: LoadBalancer, clusterIP: 10.96.0.20, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.20}]}}
"#;

fn balancer(number: usize) -> String {
    format!("balancer{number}")
}

/// The machines and what connects them.
fn machines() -> Lab {
    let mut lab = Lab::of(Stick::Tap, &["client"]);
    for name in ["router", "worker", "balancer0", "balancer1"] {
        lab.router(name);
    }
    // Flows are shared out by addresses and ports; no link has more than two ends.
    lab.sysctl("router", "net.ipv4.fib_multipath_hash_policy=1");
    let link = |a: &str, to_b: &str, b: &str, to_a: &str, subnet: &str| {
        lab.ip(a, &format!("link add {to_b} type veth peer name {to_a} netns {}\n", lab.space(b)));
        for (machine, interface, number) in [(a, to_b, 1), (b, to_a, 2)] {
            lab.ip(machine, &format!("addr add {subnet}.{number}/24 dev {interface}\nlink set {interface} up\n"));
        }
    };
    link("router", "client", "client", "eth0", "192.0.2");
    lab.ip("client", "link set lo up\nroute add default via 192.0.2.1\n");
    for number in 0..2 {
        let (name, marked) = (balancer(number), number + 1);
        link("router", &name, &name, "eth0", &format!("198.51.{number}"));
        link("worker", &name, &name, "pods", &format!("10.9.{number}"));
        lab.ip(
            &name,
            &format!("route add default via 198.51.{number}.1\nroute add 10.244.0.0/24 via 10.9.{number}.1\n"),
        );
        lab.ip(&name, "addr add 2001:db8::1/128 dev lo\n");
        lab.hang(&name, 1500, [&format!("198.51.{number}.2"), "2001:db8::1"]);
        lab.ip(
            "worker",
            &format!(
                "route add default via 10.9.{number}.2 table {marked}\n-4 rule add fwmark {marked} lookup {marked}\n"
            ),
        );
    }
    lab.ip("worker", "route add default via 10.9.0.2\n");
    for pod in 1..=8 {
        lab.ip("worker", &format!("addr add 10.244.0.{pod}/32 dev lo\n"));
    }
    let rules = lab.path("worker.nft");
    let back = "table ip back {
        chain in { type filter hook prerouting priority mangle; iifname balancer0 ct mark set 1; iifname balancer1 ct mark set 2; }
        chain out { type route hook output priority mangle; meta mark set ct mark; }
    }";
    std::fs::write(&rules, back).expect("written");
    lab::text(lab.command("worker", "nft").arg("-f").arg(rules).output().expect("nft")).expect("rules");
    lab
}

/// Starts FRR's two daemons on a machine, with this configuration of BGP.
fn speak_bgp(lab: &mut Lab, machine: &str, bgp: &str) {
    let home = lab.path(&format!("frr-{machine}"));
    std::fs::create_dir(&home).expect("a directory");
    let home = home.to_str().expect("a path").to_owned();
    // They give up root for a user of their own.
    run(Command::new("chmod").arg("o+x").arg(lab.path("")));
    run(Command::new("chown").args(["frr:frr", &home]));
    for (daemon, config) in [("zebra", ""), ("bgpd", bgp)] {
        let file = format!("{home}/{daemon}.conf");
        std::fs::write(&file, config).expect("written");
        let (socket, id) = (format!("{home}/zserv"), format!("{home}/{daemon}.pid"));
        // Port 0: nobody configures them by terminal.
        let arguments = ["-P", "0", "--vty_socket", &home, "-f", &file, "-z", &socket, "-i", &id, "--log", "stdout"];
        lab.start(machine, &format!("/usr/lib/frr/{daemon}"), &arguments);
        until(daemon, || std::path::Path::new(&id).exists());
    }
}

/// The balancers between which the router shares out flows to an address.
fn ways(lab: &Lab, address: &str) -> usize {
    let mut command = lab.command("router", "ip");
    let routes = lab::text(command.args(["route", "show", address]).output().expect("ip")).expect("routes");
    routes.matches("via 198.51.").count()
}

#[test]
fn connections_outlive_one_of_two_balancers() {
    if !lab::possible(&["/usr/lib/frr/bgpd", "/usr/lib/frr/zebra", "nft", "python3", "ss", "curl"]) {
        return;
    }
    let mut lab = machines();
    connections::serve(&mut lab, "worker", 8080);

    let objects = lab.path("objects.yaml");
    let mut text = OBJECTS.to_owned();
    for service in ["local", "cluster"] {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080, protocol: TCP}}]\nendpoints:\n"
        );
        text.extend((1..=8).map(|pod| format!("- {{addresses: [10.244.0.{pod}], nodeName: edge}}\n")));
    }
    std::fs::write(&objects, text).expect("written");
    // The same objects, node, scheduler and key: the same backend for a connection, whoever is asked.
    let same = ["--node", "edge", "--scheduler", "maglev", "--key", "000102030405060708090a0b0c0d0e0f"];
    let start = |lab: &Lab, number: usize| Lb::start_on(lab, &balancer(number), &objects, &same);
    let mut running = [start(&lab, 0), start(&lab, 1)];

    let router = "router bgp 65000\n bgp router-id 192.0.2.1\n no bgp ebgp-requires-policy\n timers bgp 2 6\n \
                  bgp bestpath as-path multipath-relax\n \
                  neighbor 198.51.0.2 remote-as 65001\n neighbor 198.51.0.2 ebgp-multihop\n \
                  neighbor 198.51.1.2 remote-as 65002\n neighbor 198.51.1.2 ebgp-multihop\n \
                  neighbor 198.51.0.2 timers connect 1\n neighbor 198.51.1.2 timers connect 1\n";
    speak_bgp(&mut lab, "router", router);
    for number in 0..2 {
        // Two hops more: the session passes the balancer's own `lb run`.
        let bgp = format!(
            "router bgp 6500{}\n bgp router-id 198.51.{number}.2\n no bgp ebgp-requires-policy\n \
             no bgp network import-check\n timers bgp 2 6\n neighbor 198.51.{number}.1 remote-as 65000\n \
             neighbor 198.51.{number}.1 ebgp-multihop\n neighbor 198.51.{number}.1 timers connect 1\n \
             address-family ipv4 unicast\n  network 10.96.0.0/12\n  network 203.0.113.0/24\n exit-address-family\n",
            number + 1
        );
        speak_bgp(&mut lab, &balancer(number), &bgp);
    }
    let announced = |count: usize| ["10.96.0.0/12", "203.0.113.0/24"].iter().all(|to| ways(&lab, to) == count);
    until("two ways to each Vip", || announced(2));

    let vips = VIPS.map(|(_, address, _)| format!("{address}:80"));
    let vips = vips.each_ref().map(String::as_str);
    let mut client = Connections::open(&lab, EACH, &["192.0.2.2".to_owned()], &vips);
    assert_eq!(client.answered(), [EACH; 3]);
    let carried = [0, 1].map(|number| lab.metric_of(&balancer(number), "lb_flows"));
    assert!(carried.iter().all(|flows| *flows > EACH as f64 / 2.0), "flows are shared out: {carried:?}");

    running[0].signal("-KILL");
    assert_eq!(running[0].ended(), None);
    let killed = lb_host::clock::now();
    until("its routes to be withdrawn", || announced(1));
    let withdrawn = lb_host::clock::now() - killed;
    let kept = client.ask();

    println!(
        "a balancer with {} of {} connections was killed; its routes went after {withdrawn:.1?}",
        carried[0],
        EACH * 3
    );
    for ((what, address, outlives), kept) in VIPS.iter().zip(kept.clone()) {
        println!("{what} ({address}): {kept} of {EACH} connections go on");
        let expected = if *outlives { kept == EACH } else { (1..EACH).contains(&kept) };
        assert!(expected, "{what}: {kept} of {EACH}");
    }
    // It is back: half of the flows are sent its way again, with which it has never had to do.
    running[0] = start(&lab, 0);
    until("two ways again", || announced(2));
    let again = client.ask();
    for ((what, _, outlives), (kept, again)) in VIPS.iter().zip(kept.into_iter().zip(again)) {
        assert!(!outlives || again == kept, "{what}: {again} of {kept} after it came back");
    }
    assert!(lab.metric_of("balancer0", "lb_flows") > EACH as f64 / 2.0);
}
