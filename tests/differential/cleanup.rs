//! What kube-proxy does to the kernel's flows after its rules changed: UDP entries of service ports that something serves, to a
//! backend that does not, are deleted (SEMANTICS §11.5).

use std::net::SocketAddr;

use lb_core::Family;

use crate::endpoints::Port;
use crate::router::run;

/// Deletes what kube-proxy would.
pub fn clean(family: Family, ports: &[Port]) {
    let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let table = run("conntrack", &format!("-L -p udp -f {family}"), "");
    for entry in table.lines().filter_map(Entry::read) {
        let Some(port) = ports.iter().find(|port| port.protocol == "udp" && port.is_dialled_by(entry.to)) else {
            continue;
        };
        if !port.serving.is_empty() && !port.serving.contains(&entry.answers) {
            let Entry { from, to, .. } = entry;
            let tuple = format!("-s {} -d {} --sport {} --dport {}", from.ip(), to.ip(), from.port(), to.port());
            run("conntrack", &format!("-D -p udp -f {family} {tuple}"), "");
        }
    }
}

struct Entry {
    from: SocketAddr,
    to: SocketAddr,
    /// Who sends the replies.
    answers: SocketAddr,
}

impl Entry {
    /// Reads a line of `conntrack -L`: the tuple of each direction, source first.
    fn read(line: &str) -> Option<Self> {
        let all = |key: &str| -> Vec<&str> { line.split(' ').filter_map(|word| word.strip_prefix(key)).collect() };
        let (sources, destinations) = (all("src="), all("dst="));
        let (source_ports, destination_ports) = (all("sport="), all("dport="));
        let socket = |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
        Some(Self {
            from: socket(sources.first()?, source_ports.first()?)?,
            to: socket(destinations.first()?, destination_ports.first()?)?,
            answers: socket(sources.get(1)?, source_ports.get(1)?)?,
        })
    }
}
