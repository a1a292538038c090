//! From a Pod: DNS, then the ClusterIP.

use lb_core::Family::V4;

use super::{EXAMPLE, SHELL, alphas, cluster_ip, is_of, keeps_clients, shares, told_shares};
use crate::demo::Error;
use crate::demo::stage::{Stage, doll};

pub(super) fn tell(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "A Pod calls a Service by its name. The name is no more than one question to DNS; the answer is the ClusterIP, an \
         address that no machine has. The node of whoever calls puts a Pod's address in its place.",
    )?;
    let visit = stage.visit(SHELL, "http://example:8081/", V4)?;
    stage.tell_answer(&visit)?;
    stage.page.gap()?;
    stage.tell_lookups(&visit.lookups)?;
    stage.tell_journey(&visit.journey, SHELL, visit.served_by())?;
    let service_ip = cluster_ip(&stage.it, EXAMPLE, V4);
    stage.check(
        visit.fetched.to.map(|to| to.0) == service_ip && alphas(&stage.it).contains_key(visit.served_by()),
        "DNS gave the ClusterIP, and a Pod with the label app=alpha answered",
    )?;
    if keeps_clients(stage) {
        stage.check(is_of(&stage.it, SHELL, visit.client_seen()), "that Pod saw the caller's own address")?;
    } else {
        let seen = super::is_node(&stage.it, visit.client_seen());
        stage.check(seen, "that Pod saw a node: in userspace mode the proxy calls in its own name")?;
    }
    stage.say(
        "Names with fewer than five dots are looked for in the Pod's search list first. So the full name, written without \
         its last dot, is asked for three times in vain:",
    )?;
    let visit = stage.visit(SHELL, "http://example.default.svc.cluster.local:8081/", V4)?;
    stage.tell_answer(&visit)?;
    stage.page.gap()?;
    stage.tell_lookups(&visit.lookups)?;
    let misses = visit.lookups.iter().filter(|asked| asked.found.is_none()).count();
    let dns = visit.lookups.first().map(|asked| asked.server);
    stage.check(
        misses == 3 && visit.lookups.len() == 4 && visit.fetched.to.map(|to| to.0) == service_ip,
        "three times NXDOMAIN, then the ClusterIP",
    )?;
    let dotted = stage.visit(SHELL, "http://example.default.svc.cluster.local.:8081/", V4)?;
    stage.check(dotted.lookups.len() == 1 && dotted.fetched.result.is_ok(), "with the last dot it is one question")?;
    if let (Some(dns), Some(journey)) = (dns, &visit.dns) {
        let server = crate::path::socket(dns.0, dns.1);
        stage.say(&format!("{server}, whom the Pod asks, is a Service too, with Pods behind it. Each question went through the same doll:"))?;
        stage.page.gap()?;
        stage.show(&doll(journey))?;
    }
    let asked = visit.dns.as_ref().is_some_and(|journey| journey.doll.len() > 1);
    stage.check(asked, "DNS itself goes through the balancer")?;
    stage.say("Who serves is decided anew for each connection. Thirty more:")?;
    let visits = stage.visits(SHELL, "http://example:8081/", V4, 30)?;
    stage.page.gap()?;
    let shares = shares(&visits);
    stage.show(&told_shares(&shares))?;
    let all = alphas(&stage.it);
    stage.check(shares.keys().eq(all.keys()), "each of the three Pods had some, and nothing failed")
}
