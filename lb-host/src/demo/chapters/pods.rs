//! Pods that are not ready, that leave, and that clients come back to.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Pod};
use lb_core::Family::V4;

use super::{EXAMPLE, SHELL, alpha_address, alphas, endpoint_addresses, served, shares, told_log, told_shares};
use crate::cluster::kubernetes::Kubernetes;
use crate::demo::Error;
use crate::demo::stage::{Stage, Visit};

const CALL: &str = "http://example:8081/";

pub(super) fn leave(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "Readiness decides who gets new connections, and only that. Somebody holds a connection open and asks on it four \
         times a second; then the Pod at its other end fails its probe.",
    )?;
    stage.look_away();
    let (machine, fetch) = stage.it.prepare(SHELL, CALL, &[V4])?;
    let open = stage.it.world_mut().run(machine, fetch.keep_alive().times(u64::MAX, Duration::from_millis(250)));
    stage.wait(2);
    let holder = |it: &Kubernetes| {
        let last = it.fetched(open).last().and_then(|one| one.result.as_ref().ok());
        last.map(|reply| reply.served_by.clone()).unwrap_or_default()
    };
    let who = holder(&stage.it);
    let Some(address) = alpha_address(&stage.it, &who) else {
        return stage.check(false, "the open connection is served by one of the Pods");
    };
    let opened = stage.opened(SHELL, open)?;
    let begun = stage.it.log().len();
    stage.it.set_ready(&format!("default/{who}"), false)?;
    let since = stage.it.now();
    let out = stage.wait_for(|it| !endpoint_addresses(it, EXAMPLE).contains(&address));
    let took = stage.it.now().saturating_since(since);
    stage.settle();
    let told = told_log(stage, begun, &["Pod default/alpha", "EndpointSlice default/example"]);
    stage.page.gap()?;
    stage.show(&told)?;
    stage.kubectl_get::<Pod>("pods -l app=alpha", false, |pod| pod.label("app") == Some("alpha"))?;
    stage.kubectl_get::<Endpoints>("endpoints example", false, |endpoints| endpoints.key() == EXAMPLE)?;
    let before = stage.it.fetched(open).len();
    let visits = new_connections(stage)?;
    let since = &stage.it.fetched(open)[before..];
    let lives = !since.is_empty() && since.iter().all(|one| served_by(one) == who);
    stage.check(
        out,
        &format!(
            "{who} left the endpoints {:.1} s after it stopped being ready: its probe had to fail three times",
            took.as_secs_f64()
        ),
    )?;
    stage.check(
        served(&visits, 20) && visits.iter().all(|visit| visit.served_by() != who),
        &format!("twenty new connections, and none went to {who}"),
    )?;
    stage.check(lives, &format!("the open connection lives on, still with {who}"))?;
    stage.it.set_ready(&format!("default/{who}"), true)?;
    let back = stage.wait_for(|it| endpoint_addresses(it, EXAMPLE).contains(&address));
    stage.settle();
    stage.check(back, "ready again, it is an endpoint again")?;

    stage.say(
        "A Pod that is deleted is not dead at once. It is an endpoint that terminates: new connections go elsewhere, it \
         finishes what it has, and a Deployment has long made another.",
    )?;
    stage.typed("", &format!("kubectl delete pod {who}"))?;
    stage.it.delete::<Pod>(&format!("default/{who}"))?;
    stage.wait_for(|it| !endpoint_addresses(it, EXAMPLE).contains(&address));
    stage.settle();
    stage.kubectl_get::<Pod>("pods -l app=alpha", false, |pod| pod.label("app") == Some("alpha"))?;
    let before = stage.it.fetched(open).len();
    let visits = new_connections(stage)?;
    let draining = stage.it.fetched(open)[before..].iter().any(|one| served_by(one) == who);
    stage.check(
        served(&visits, 20) && visits.iter().all(|visit| visit.served_by() != who),
        &format!("{who} is terminating, and no new connection goes there"),
    )?;
    stage.check(draining, &format!("the open connection is still with {who}, which drains"))?;
    let replaced = stage.wait_for(|it| it.pod(&format!("default/{who}")).is_err() && alphas(it).len() == 3);
    stage.settle();
    stage.kubectl_get::<Endpoints>("endpoints example", false, |endpoints| endpoints.key() == EXAMPLE)?;
    stage.wait(2);
    stage.it.finish(open);
    let after = holder(&stage.it);
    let all = stage.visited(SHELL, CALL, open, Some(opened))?;
    let failed = all.iter().filter(|visit| visit.fetched.result.is_err()).count();
    stage.check(replaced, "another Pod has taken its place among the endpoints")?;
    stage.check(
        failed == 0 && !after.is_empty() && after != who,
        &format!("of {} requests on the connection held open none failed: at the end {after} has them", all.len()),
    )
}

fn served_by(fetched: &crate::cluster::program::Fetched) -> &str {
    fetched.result.as_ref().map_or("", |reply| &reply.served_by)
}

/// Twenty, and who had them.
fn new_connections(stage: &mut Stage<'_>) -> Result<Vec<Visit>, Error> {
    let visits = stage.visits(SHELL, CALL, V4, 20)?;
    stage.page.gap()?;
    stage.show(&format!("20 new connections: {}", told_shares(&shares(&visits))))?;
    Ok(visits)
}

pub(super) fn affinity(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "Each connection is dealt to a Pod of its own. With sessionAffinity ClientIP the first deal counts for all that \
         the same address sends, until it has been silent for timeoutSeconds.",
    )?;
    stage.apply("sticky.yaml", include_str!("../../../examples/demo/sticky.yaml"))?;
    stage.settle();
    let mut told = Vec::new();
    let mut stick = true;
    let node = stage.it.node_names().next().unwrap_or_default().to_owned();
    let Some(address) = super::cluster_ip(&stage.it, "default/sticky", V4) else {
        return stage.check(false, "the Service has a ClusterIP");
    };
    for from in [SHELL, &node] {
        let to = crate::demo::stage::url((address, 80));
        let visits = stage.visits(from, &to, V4, 10)?;
        let shares = shares(&visits);
        stick &= shares.len() == 1 && served(&visits, 10);
        told.push(format!("{from}: {}", told_shares(&shares)));
    }
    stage.page.gap()?;
    stage.show(&told.join("\n"))?;
    stage.check(stick, "ten connections each from a Pod and from a node, and each client had one Pod")
}
