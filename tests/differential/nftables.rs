//! kube-proxy's nftables mode as a transaction for `nft -f` (SEMANTICS §14.2), but for its dice: they count where
//! kube-proxy's draw, so that a seed's traffic is the same each time.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use lb_core::Family;

use crate::endpoints::{self, Port};
use crate::objects::Objects;
use crate::script;
use crate::world::{self, NODE};

/// Rules, sets and maps of one moment. `gone` are endpoints that the rules before these used and these do not: the clients
/// that they were to serve are forgotten.
pub fn rules(objects: &Objects, ports: &[Port], gone: &[String]) -> String {
    let (table, address) = match objects.family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let mut text = frame(objects, table, address);
    let mut elements = Elements::default();
    for port in ports {
        service(&mut text, &mut elements, objects, table, address, port);
    }
    text.push_str("}\n");
    for (name, all) in elements.sorted() {
        writeln!(text, "add element {table} kube-proxy {name} {{ {} }}", all.join(", ")).unwrap();
    }
    for name in gone {
        writeln!(text, "flush set {table} kube-proxy affinity-{name}").unwrap();
    }
    text
}

/// What an endpoint of a service port is called in the rules.
pub fn name(port: &Port, endpoint: SocketAddr) -> String {
    let address = endpoint.to_string().replace(['.', ':', '[', ']'], "_");
    format!("{}-{address}", port.name)
}

/// Sets and maps by name, with what is to be in them.
#[derive(Default)]
struct Elements(std::collections::BTreeMap<&'static str, Vec<String>>);

impl Elements {
    fn add(&mut self, name: &'static str, element: String) {
        let all = self.0.entry(name).or_default();
        if !all.contains(&element) {
            all.push(element);
        }
    }

    fn sorted(self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        self.0.into_iter()
    }
}

/// Everything but the services: base chains, checks, the masquerade.
fn frame(objects: &Objects, table: &str, address: &str) -> String {
    let node_port_ip = world::of(objects.family, NODE);
    let service_cidr = if objects.family == Family::V4 { "10.96.0.0/12" } else { "fd00:96::/64" };
    let masquerade = masquerade();
    let vips = format!("{address} . inet_proto . inet_service : verdict");
    let dialled = format!("{table} daddr . meta l4proto . th dport");
    let maps = ["service-ips", "no-endpoint-services", "firewall-ips"].map(|name| (name, vips.as_str()));
    let node_ports =
        ["service-nodeports", "no-endpoint-nodeports"].map(|name| (name, "inet_proto . inet_service : verdict"));
    let mut text = format!("add table {table} kube-proxy\nflush table {table} kube-proxy\n");
    for (name, kind) in maps.iter().chain(&node_ports) {
        writeln!(text, "add map {table} kube-proxy {name} {{ type {kind}; }}\nflush map {table} kube-proxy {name}")
            .unwrap();
    }
    for name in ["cluster-ips", "nodeport-ips"] {
        writeln!(text, "add set {table} kube-proxy {name} {{ type {address}; }}\nflush set {table} kube-proxy {name}")
            .unwrap();
    }
    write!(
        text,
        "add element {table} kube-proxy nodeport-ips {{ {node_port_ip} }}
table {table} kube-proxy {{
chain filter-prerouting {{ type filter hook prerouting priority -110
 ct state new jump firewall-check
}}
chain filter-input {{ type filter hook input priority -110
 ct state new jump nodeport-endpoints-check
 ct state new jump service-endpoints-check
}}
chain filter-forward {{ type filter hook forward priority -110
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}}
chain filter-output {{ type filter hook output priority -110
 ct state new jump service-endpoints-check
 ct state new jump firewall-check
}}
chain filter-output-post-dnat {{ type filter hook output priority -90
 ct state new jump cluster-ips-check
}}
chain nat-prerouting {{ type nat hook prerouting priority -100
 jump services
}}
chain nat-output {{ type nat hook output priority -100
 jump services
}}
chain nat-postrouting {{ type nat hook postrouting priority 100
 jump masquerading
}}
chain services {{
 {dialled} vmap @service-ips
 {table} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}}
chain mark-for-masquerade {{
 meta mark set meta mark or 0x4000
}}
chain masquerading {{
 meta mark and 0x4000 == 0 return
 meta mark set meta mark xor 0x4000
{masquerade} masquerade
}}
chain reject-chain {{
 reject
}}
chain firewall-check {{
 {dialled} vmap @firewall-ips
}}
chain service-endpoints-check {{
 {dialled} vmap @no-endpoint-services
}}
chain nodeport-endpoints-check {{
 {table} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}}
chain cluster-ips-check {{
 {table} daddr @cluster-ips reject
 {table} daddr {{ {service_cidr} }} drop
}}
"
    )
    .unwrap();
    text
}

/// kube-proxy says `fully-random`.
fn masquerade() -> String {
    let rule = |protocol: &str, port: u16| {
        let to = script::masqueraded(port);
        format!(" {protocol} sport {port} masquerade to :{to}\n")
    };
    // A map of ranges would give the first of each only.
    script::client_ports().flat_map(|port| ["tcp", "udp", "sctp"].map(|protocol| rule(protocol, port))).collect()
}

fn service(text: &mut String, elements: &mut Elements, objects: &Objects, table: &str, address: &str, port: &Port) {
    let Port { name, protocol, .. } = port;
    let vip = |ip: &IpAddr| format!("{ip} . {protocol} . {}", port.port);
    let has_internal = port.has_any && !(port.internal_local && port.local.is_empty());
    let has_external = port.has_any && !(port.external_local && port.local.is_empty());
    let unserved = if port.has_any { "drop" } else { "goto reject-chain" };
    let internal = if port.internal_local { "local" } else { "cluster" };

    elements.add("cluster-ips", port.cluster_ip.to_string());
    match has_internal {
        true => elements.add("service-ips", format!("{} : goto {internal}-{name}", vip(&port.cluster_ip))),
        false => elements.add("no-endpoint-services", format!("{} : {unserved}", vip(&port.cluster_ip))),
    }
    for ip in port.external_ips.iter().chain(&port.load_balancer_ips) {
        if port.has_any {
            elements.add("service-ips", format!("{} : goto external-{name}", vip(ip)));
        }
        if !has_external {
            elements.add("no-endpoint-services", format!("{} : {unserved}", vip(ip)));
        }
    }
    if let Some(node_port) = port.node_port {
        if port.has_any {
            elements.add("service-nodeports", format!("{protocol} . {node_port} : goto external-{name}"));
        }
        if !has_external {
            elements.add("no-endpoint-nodeports", format!("{protocol} . {node_port} : {unserved}"));
        }
    }
    if !port.ranges.is_empty() && !port.load_balancer_ips.is_empty() {
        for ip in &port.load_balancer_ips {
            elements.add("firewall-ips", format!("{} : goto firewall-{name}", vip(ip)));
        }
        writeln!(text, "chain firewall-{name} {{\n {table} saddr != {{ {} }} drop\n}}", port.ranges.join(", "))
            .unwrap();
    }

    for endpoint in port.in_use() {
        let endpoint_name = self::name(port, endpoint);
        if let Some(seconds) = port.affinity {
            writeln!(
                text,
                "set affinity-{endpoint_name} {{ type {address}; flags dynamic,timeout; timeout {seconds}s; }}"
            )
            .unwrap();
        }
        writeln!(text, "chain endpoint-{endpoint_name} {{\n {table} saddr {} jump mark-for-masquerade", endpoint.ip())
            .unwrap();
        if port.affinity.is_some() {
            writeln!(text, " update @affinity-{endpoint_name} {{ {table} saddr }}").unwrap();
        }
        writeln!(text, " meta l4proto {protocol} dnat to {endpoint}\n}}").unwrap();
    }
    for (policy, pool) in [("cluster", port.pool(false)), ("local", port.pool(true))] {
        if pool.is_empty() {
            continue;
        }
        writeln!(text, "chain {policy}-{name} {{").unwrap();
        if policy == internal {
            let whose = match (objects.node.proxy.masquerade_all, endpoints::pod_block(objects)) {
                (true, _) => Some(String::new()),
                (false, Some(pods)) => Some(format!("{table} saddr != {pods} ")),
                (false, None) => None,
            };
            if let Some(whose) = whose {
                let (ip, number) = (port.cluster_ip, port.port);
                writeln!(text, " {table} daddr {ip} {protocol} dport {number} {whose}jump mark-for-masquerade")
                    .unwrap();
            }
        }
        let names: Vec<_> = pool.iter().map(|endpoint| self::name(port, *endpoint)).collect();
        if port.affinity.is_some() {
            for name in &names {
                writeln!(text, " {table} saddr @affinity-{name} goto endpoint-{name}").unwrap();
            }
        }
        let turns: Vec<_> =
            names.iter().enumerate().map(|(nth, name)| format!("{nth} : goto endpoint-{name}")).collect();
        // kube-proxy: `numgen random`.
        writeln!(text, " numgen inc mod {} vmap {{ {} }}\n}}", names.len(), turns.join(", ")).unwrap();
    }
    if port.has_any && port.is_external() {
        writeln!(text, "chain external-{name} {{").unwrap();
        if !port.external_local {
            writeln!(text, " jump mark-for-masquerade").unwrap();
        } else if !port.cluster.is_empty() {
            if let Some(pods) = endpoints::pod_block(objects) {
                writeln!(text, " {table} saddr {pods} goto cluster-{name}").unwrap();
            }
            writeln!(text, " fib saddr type local jump mark-for-masquerade\n fib saddr type local goto cluster-{name}")
                .unwrap();
        }
        if has_external {
            writeln!(text, " goto {}-{name}", if port.external_local { "local" } else { "cluster" }).unwrap();
        }
        writeln!(text, "}}").unwrap();
    }
}
