//! The rules in force: loaded in one step, as kube-proxy does it, and the clean-up after it.

use std::collections::BTreeSet;

use lb_core::Family;

use crate::cleanup;
use crate::endpoints::Port;
use crate::iptables;
use crate::nftables;
use crate::objects::Objects;
use crate::router::run;

/// What has been loaded so far.
#[derive(Default)]
pub struct Rules {
    /// Endpoints that remember their clients, by their names in nftables.
    sticky: BTreeSet<String>,
    is_loaded: bool,
}

impl Rules {
    pub fn load(&mut self, objects: &Objects, ports: &[Port]) {
        if objects.is_iptables() {
            let program = if objects.family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
            run(program, "-w 10", &iptables::rules(objects, ports));
        } else {
            let sticky = ports.iter().filter(|port| port.affinity.is_some());
            let now: BTreeSet<String> = sticky
                .flat_map(|port| port.in_use().into_iter().map(|endpoint| nftables::name(port, endpoint)))
                .collect();
            let gone: Vec<String> = self.sticky.difference(&now).cloned().collect();
            run("nft", "-f -", &nftables::rules(objects, ports, &gone));
            self.sticky = now;
        }
        if std::mem::replace(&mut self.is_loaded, true) {
            cleanup::clean(objects.family, ports);
        }
    }
}
