//! kube-proxy's iptables mode as input of `iptables-restore` (SEMANTICS §14.1), but for its dice: they count where
//! kube-proxy's draw, so that a seed's traffic is the same each time.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use lb_core::Family;

use crate::endpoints::{self, Port};
use crate::objects::Objects;
use crate::script;

/// The chains and rules of both tables, as they are written.
#[derive(Default)]
struct Tables {
    chains: Vec<String>,
    nat: String,
    filter_services: String,
    filter_external: String,
    filter_firewall: String,
    node_ports: String,
}

/// All rules of one moment.
pub fn rules(objects: &Objects, ports: &[Port]) -> String {
    let mut tables = Tables::default();
    for port in ports {
        tables.service(objects, port);
    }
    let chains: String = tables.chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
    let Tables { nat, filter_services, filter_external, filter_firewall, node_ports, .. } = tables;
    let masquerade = masquerade();
    // What has no business on loopback addresses (§9.5).
    let loopback = if objects.family == Family::V4 { "127.0.0.0/8" } else { "::1" };
    let guard = format!("! -s {loopback} -d {loopback} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT");
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
{masquerade}-A KUBE-POSTROUTING -j MASQUERADE
{nat}{node_ports}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A INPUT {guard} -j DROP
-A OUTPUT {guard} -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{filter_services}{filter_external}{filter_firewall}COMMIT
"
    )
}

/// kube-proxy says `--random-fully`.
fn masquerade() -> String {
    let rule = |protocol: &str, port: u16| {
        let to = script::masqueraded(port);
        format!("-A KUBE-POSTROUTING -p {protocol} --sport {port} -j MASQUERADE --to-ports {to}\n")
    };
    script::client_ports().flat_map(|port| ["tcp", "udp", "sctp"].map(|protocol| rule(protocol, port))).collect()
}

impl Tables {
    fn service(&mut self, objects: &Objects, port: &Port) {
        let Port { name, protocol, .. } = port;
        let to = |ip: &IpAddr, number: u16| format!("-d {ip} -p {protocol} -m {protocol} --dport {number}");
        let has_internal = port.has_any && !(port.internal_local && port.local.is_empty());
        let has_external = port.has_any && !(port.external_local && port.local.is_empty());
        let unserved = if port.has_any { "DROP" } else { "REJECT" };
        let internal = if port.internal_local { "SVL" } else { "SVC" };

        let cluster_ip = to(&port.cluster_ip, port.port);
        match has_internal {
            true => writeln!(self.nat, "-A KUBE-SERVICES {cluster_ip} -j {internal}-{name}").unwrap(),
            false => writeln!(self.filter_services, "-A KUBE-SERVICES {cluster_ip} -j {unserved}").unwrap(),
        }
        let is_guarded = port.has_any && !port.ranges.is_empty();
        for (ips, is_guarded) in [(&port.external_ips, false), (&port.load_balancer_ips, is_guarded)] {
            for ip in ips {
                let vip = to(ip, port.port);
                if port.has_any {
                    let chain = if is_guarded { "FW" } else { "EXT" };
                    writeln!(self.nat, "-A KUBE-SERVICES {vip} -j {chain}-{name}").unwrap();
                }
                if is_guarded {
                    writeln!(self.filter_firewall, "-A KUBE-PROXY-FIREWALL {vip} -j DROP").unwrap();
                }
                if !has_external {
                    writeln!(self.filter_external, "-A KUBE-EXTERNAL-SERVICES {vip} -j {unserved}").unwrap();
                }
            }
        }
        if let Some(node_port) = port.node_port {
            let matched = format!("-p {protocol} -m {protocol} --dport {node_port}");
            if port.has_any {
                writeln!(self.node_ports, "-A KUBE-NODEPORTS {matched} -j EXT-{name}").unwrap();
            }
            if !has_external {
                let local = "-m addrtype --dst-type LOCAL";
                writeln!(self.filter_external, "-A KUBE-EXTERNAL-SERVICES {local} {matched} -j {unserved}").unwrap();
            }
        }
        if is_guarded && !port.load_balancer_ips.is_empty() {
            self.chains.push(format!("FW-{name}"));
            for range in &port.ranges {
                writeln!(self.nat, "-A FW-{name} -s {range} -j EXT-{name}").unwrap();
            }
        }
        self.policies(objects, port, internal, has_external);
        for endpoint in port.in_use() {
            self.endpoint(port, endpoint);
        }
    }

    /// The chains of one service port: SVC for the policy Cluster, SVL for Local, EXT for what comes from outside.
    fn policies(&mut self, objects: &Objects, port: &Port, internal: &str, has_external: bool) {
        let Port { name, protocol, .. } = port;
        for (policy, pool) in [("SVC", port.pool(false)), ("SVL", port.pool(true))] {
            if pool.is_empty() {
                continue;
            }
            self.chains.push(format!("{policy}-{name}"));
            let whose = match (objects.node.proxy.masquerade_all, endpoints::pod_block(objects)) {
                (true, _) => Some(String::new()),
                (false, Some(pods)) => Some(format!("! -s {pods} ")),
                (false, None) => None,
            };
            if let Some(whose) = whose.filter(|_| policy == internal) {
                let (ip, number) = (port.cluster_ip, port.port);
                let vip = format!("-d {ip} -p {protocol} -m {protocol} --dport {number}");
                writeln!(self.nat, "-A {policy}-{name} {whose}{vip} -j KUBE-MARK-MASQ").unwrap();
            }
            for endpoint in pool.iter().filter(|_| port.affinity.is_some()) {
                let (chain, seconds) = (chain(port, *endpoint), port.affinity.unwrap_or(0));
                let known = format!("-m recent --name {chain} --rcheck --seconds {seconds} --reap");
                writeln!(self.nat, "-A {policy}-{name} {known} -j {chain}").unwrap();
            }
            for (nth, endpoint) in pool.iter().enumerate() {
                // kube-proxy: `--mode random --probability`, of what is left.
                let left = pool.len() - nth;
                let turn = match left {
                    1 => String::new(),
                    _ => format!("-m statistic --mode nth --every {left} --packet 0 "),
                };
                writeln!(self.nat, "-A {policy}-{name} {turn}-j {}", chain(port, *endpoint)).unwrap();
            }
        }
        if !port.has_any || !port.is_external() {
            return;
        }
        self.chains.push(format!("EXT-{name}"));
        if !port.external_local {
            writeln!(self.nat, "-A EXT-{name} -j KUBE-MARK-MASQ").unwrap();
        } else if !port.cluster.is_empty() {
            if let Some(pods) = endpoints::pod_block(objects) {
                writeln!(self.nat, "-A EXT-{name} -s {pods} -j SVC-{name}").unwrap();
            }
            let own = "-m addrtype --src-type LOCAL";
            writeln!(self.nat, "-A EXT-{name} {own} -j KUBE-MARK-MASQ\n-A EXT-{name} {own} -j SVC-{name}").unwrap();
        }
        if has_external {
            let policy = if port.external_local { "SVL" } else { "SVC" };
            writeln!(self.nat, "-A EXT-{name} -j {policy}-{name}").unwrap();
        }
    }

    fn endpoint(&mut self, port: &Port, endpoint: SocketAddr) {
        let (chain, ip, protocol) = (chain(port, endpoint), endpoint.ip(), &port.protocol);
        self.chains.push(chain.clone());
        writeln!(self.nat, "-A {chain} -s {ip} -j KUBE-MARK-MASQ").unwrap();
        let remembered =
            if port.affinity.is_some() { format!("-m recent --name {chain} --set ") } else { String::new() };
        writeln!(self.nat, "-A {chain} -p {protocol} -m {protocol} {remembered}-j DNAT --to-destination {endpoint}")
            .unwrap();
    }
}

/// An endpoint's chain and its list of clients; chains have short names, so addresses are cut down to their ends.
fn chain(port: &Port, endpoint: SocketAddr) -> String {
    let end = match endpoint.ip() {
        IpAddr::V4(ip) => format!("{}-{}", ip.octets()[2], ip.octets()[3]),
        IpAddr::V6(ip) => format!("{}-{}", ip.segments()[2], ip.segments()[7]),
    };
    format!("SEP-{}-{end}-{}", port.name, endpoint.port())
}
