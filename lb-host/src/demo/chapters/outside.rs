//! From outside: the cloud's load balancer, a NodePort, a load balancer of one's own.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use lb_core::Family::{V4, V6};
use lb_core::{Address, Protocol};

use super::{
    EXAMPLE, LAPTOP, alphas, external_ip, is_node, is_of, keeps_clients, node_address, node_without, ports, served,
    service, shares, told_shares,
};
use crate::cluster::kubernetes::Kubernetes;
use crate::demo::Error;
use crate::demo::stage::{Stage, doll, url};
use crate::table;

/// A load balancer of one's own, and its address.
const OWN: (&str, [u8; 4]) = ("own-balancer", [203, 0, 113, 80]);

pub(super) fn load_balancer(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "The cloud's load balancer knows no Pods. It sends to a port of a node, any healthy node, and keeps the client's \
         address. The node opens what is left of the doll: NodePort, ClusterIP, Pod.",
    )?;
    let (port, _) = ports(&stage.it, EXAMPLE);
    for family in [V4, V6] {
        let Some(address) = external_ip(&stage.it, EXAMPLE, family) else {
            stage.check(false, &format!("the Service has an external address of {family:?}"))?;
            continue;
        };
        let visit = stage.visit(LAPTOP, &url((address, port)), family)?;
        match family {
            V4 => {
                stage.tell(&visit)?;
                let words: Vec<String> = visit.journey.doll.iter().map(|layer| layer.kind.to_string()).collect();
                let last = words.last().map(String::as_str);
                stage.check(
                    words.get(..3).is_some_and(|outer| outer == ["lb", "node", "service"]) && last == Some("pod"),
                    "lb, node, service, pod: every layer was opened, and the answer came back through all of them",
                )?;
                stage.check(
                    is_node(&stage.it, visit.client_seen()),
                    "the Pod saw a node, not the laptop: externalTrafficPolicy Cluster masquerades, so that the answer \
                     comes back through the node that knows the way",
                )?;
            }
            V6 => {
                stage.tell_answer(&visit)?;
                stage.page.gap()?;
                stage.show(&doll(&visit.journey))?;
                let served = alphas(&stage.it).contains_key(visit.served_by());
                stage.check(served, "the same over IPv6, from end to end")?;
            }
        }
    }
    stage.say(
        "With externalTrafficPolicy Local the client's address is kept. The price: only nodes that run an endpoint may \
         serve, and the load balancer has to find out which, by asking each node's healthCheckNodePort.",
    )?;
    stage.apply("local.yaml", include_str!("../../../examples/demo/local.yaml"))?;
    let healthy = |it: &Kubernetes| -> BTreeSet<String> {
        let balancer = it.cloud().balancers().find(|balancer| balancer.name() == EXAMPLE);
        let targets = balancer.into_iter().flat_map(|balancer| balancer.targets());
        targets.filter(|(.., well)| *well).map(|(node, ..)| node.to_owned()).collect()
    };
    let with = |it: &Kubernetes| alphas(it).into_values().map(|(node, _)| node).collect::<BTreeSet<String>>();
    let found = stage.wait_for(|it| healthy(it) == with(it));
    stage.settle();
    let spec = service(&stage.it, EXAMPLE).spec.unwrap_or_default();
    let check_port = spec.health_check_node_port.unwrap_or_default();
    let mut rows = Vec::new();
    for node in stage.it.node_names() {
        let pods = alphas(&stage.it).into_iter().filter(|(_, (at, _))| at == node).map(|(name, _)| name);
        let well = if healthy(&stage.it).contains(node) { "healthy" } else { "unhealthy" };
        rows.push(vec![node.to_owned(), table::list(pods), well.to_owned()]);
    }
    let mut told = Vec::new();
    let heading = format!("GET :{check_port}/healthz");
    table::write(&mut told, &["NODE", "ENDPOINTS", &heading], &rows)?;
    stage.page.gap()?;
    stage.show(&String::from_utf8_lossy(&told))?;
    stage.check(found, "the load balancer takes the nodes with an endpoint for healthy, and no others")?;
    let Some(address) = external_ip(&stage.it, EXAMPLE, V4) else {
        return stage.check(false, "the Service still has its external address");
    };
    let visits = stage.visits(LAPTOP, &url((address, port)), V4, 8)?;
    if let Some(visit) = visits.first() {
        stage.tell(visit)?;
    }
    if keeps_clients(stage) {
        let kept = served(&visits, 8) && visits.iter().all(|visit| is_of(&stage.it, LAPTOP, visit.client_seen()));
        stage.check(kept, "eight calls, and each Pod saw the laptop's own address")?;
    } else {
        stage.check(
            served(&visits, 8),
            "eight calls were answered; userspace mode knows no Local and hides clients all the same",
        )?;
    }
    let (_, node_port) = ports(&stage.it, EXAMPLE);
    let node = node_without(&stage.it).unwrap_or_default();
    if let Some(address) = node_address(&stage.it, &node) {
        let visit = stage.visit(LAPTOP, &url((address, node_port)), V4)?;
        stage.tell_answer(&visit)?;
        let answered = visit.fetched.result.is_ok();
        if keeps_clients(stage) {
            stage.check(!answered, &format!("{node} runs no endpoint: what comes there directly gets no answer"))?;
        } else {
            stage.check(
                answered,
                &format!("{node} runs no endpoint; its proxy knows no Local, and serves all the same"),
            )?;
        }
    } else {
        stage.check(false, "there is a node without one of the Pods")?;
    }
    stage.say("Back to Cluster, as it was:")?;
    stage.apply("example.yaml", include_str!("../../../examples/demo/example.yaml"))?;
    stage.wait_for(|it| healthy(it).len() == it.node_names().count());
    stage.settle();
    Ok(())
}

pub(super) fn node_port(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "A NodePort is the same without the cloud: one port, open on every node, also on one that runs none of the Pods.",
    )?;
    stage.apply("node-port.yaml", include_str!("../../../examples/demo/node-port.yaml"))?;
    stage.settle();
    stage.kubectl_get::<Service>("service doorway", false, |service| service.name() == "doorway")?;
    let (_, node_port) = ports(&stage.it, "default/doorway");
    let node = node_without(&stage.it).unwrap_or_default();
    let Some(address) = node_address(&stage.it, &node) else {
        return stage.check(false, "there is a node without one of the Pods");
    };
    let visit = stage.visit(LAPTOP, &url((address, node_port)), V4)?;
    stage.tell(&visit)?;
    let elsewhere = alphas(&stage.it).get(visit.served_by()).is_some_and(|(at, _)| *at != node);
    stage.check(
        elsewhere,
        &format!("{node} runs none of the Pods, and still serves: it sends on to a node that does"),
    )?;
    stage.say(
        "Without a cloud, point a load balancer that you have at that port: a list of nodes and a number is all that it \
         needs. The Service never hears of it.",
    )?;
    let (name, address) = (OWN.0, Address::v4(OWN.1));
    stage.it.balance_by_hand(name, (address, 80), Protocol::TCP, node_port)?;
    let checked = stage.wait_for(|it| {
        let balancer = it.cloud().balancers().find(|balancer| balancer.name() == name);
        balancer.is_some_and(|balancer| balancer.targets().count() == 4 && balancer.targets().all(|(.., well)| well))
    });
    stage.settle();
    let visits = stage.visits(LAPTOP, &url((address, 80)), V4, 8)?;
    if let Some(visit) = visits.first() {
        stage.tell(visit)?;
    }
    stage.page.gap()?;
    stage.show(&format!("8 calls: {}", told_shares(&shares(&visits))))?;
    stage.check(checked && served(&visits, 8), "it finds all four nodes well, and all its clients are served")?;
    stage.check(
        external_ip(&stage.it, "default/doorway", V4).is_none(),
        "the Service has no external address: nothing told it",
    )
}
