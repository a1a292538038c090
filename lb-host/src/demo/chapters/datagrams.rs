//! UDP, where only the balancer remembers who talks to whom.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use lb_core::Family::V4;
use lb_core::Protocol;

use super::{SHELL, cluster_ip, ready_pods};
use crate::cluster::program::DatagramClient;
use crate::demo::Error;
use crate::demo::journey::Journey;
use crate::demo::stage::{Stage, between, doll, read_socket};
use crate::path::socket;

/// The client's port, always the same: resolvers of old had one.
const PORT: u16 = 40_053;
/// Datagrams, one each tenth of a second.
const COUNT: u64 = 60;

pub(super) fn tell(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.say(
        "A UDP client that keeps its port looks like one endless flow. When its Pod goes, nothing closes; if the balancer \
         did not notice, the client would talk to nobody for ever.",
    )?;
    stage.apply("echo.yaml", include_str!("../../../examples/demo/echo.yaml"))?;
    stage.wait_for(|it| ready_pods(it, "app", "echo").len() == 2);
    stage.settle();
    stage.kubectl_get::<Service>("service echo", false, |service| service.name() == "echo")?;
    let Some(address) = cluster_ip(&stage.it, "default/echo", V4) else {
        return stage.check(false, "the Service has a ClusterIP");
    };
    stage.look_away();
    let client = DatagramClient::new(PORT, (address, 7), COUNT, Duration::from_millis(100));
    let client = stage.it.run_in("default/shell", client)?;
    stage.wait(2);
    let at =
        |stage: &Stage<'_>| stage.it.world().program(client).map(DatagramClient::queries).unwrap_or_default().to_vec();
    let first = at(stage).iter().find_map(|query| Some(query.result.as_ref()?.1.as_ref().ok()?.served_by.clone()));
    let Some(first) = first else { return stage.check(false, "somebody answers a datagram") };
    stage.typed("", &format!("kubectl delete pod {first}"))?;
    stage.it.delete::<Pod>(&format!("default/{first}"))?;
    stage.wait(6);
    let queries = at(stage);
    let passages = stage.it.world_mut().passages();
    let machine = stage.it.machine(SHELL)?;
    let own = stage.it.world().addresses(machine).iter().copied().find(|own| own.is_v4());
    // Those that follow each other and were answered by the same.
    let mut runs: Vec<(String, usize)> = Vec::new();
    let mut ways: Vec<String> = Vec::new();
    let to = socket(address, 7);
    for query in &queries {
        let answer = query.result.as_ref().and_then(|(_, result)| result.as_ref().ok());
        let who = answer.map_or_else(|| "nobody".to_owned(), |answer| answer.served_by.clone());
        let seen = answer.and_then(|answer| read_socket(&answer.seen_as));
        let end = query.sent.saturating_add(Duration::from_millis(100));
        let journey =
            own.map(|own| Journey::of(between(&passages, query.sent, end), own, (address, 7), Protocol::UDP, seen));
        let journey = journey.unwrap_or_default();
        stage.book(SHELL, &format!("{to}/udp"), &journey, &who, seen.map(|(address, _)| address));
        let way = doll(&journey);
        if ways.last() != Some(&way) {
            ways.push(way);
        }
        match runs.last_mut() {
            Some((last, count)) if *last == who => *count += 1,
            _ => runs.push((who, 1)),
        }
    }
    let told: Vec<_> = runs.iter().map(|(who, count)| format!("{count} by {who}")).collect();
    stage.page.gap()?;
    stage.show(&format!("{} datagrams from port {PORT}, answered:\n{}", queries.len(), told.join(", then ")))?;
    stage.page.gap()?;
    stage.show(&ways.join("\n"))?;
    let lost = runs.iter().filter(|(who, _)| who == "nobody").map(|(_, count)| count).sum::<usize>();
    let last = runs.last().map_or("", |(who, _)| who);
    let all = queries.len() as u64 == COUNT;
    if matches!(stage.mode(), "userspace" | "kernelspace") {
        let claim = "this mode forgets nothing while the client keeps sending: it is left with the Pod that is gone";
        return stage.check(all && last == "nobody", claim);
    }
    stage.check(
        all && last != first && last.starts_with("echo-"),
        &format!("after {first} was deleted {last} answers the same socket"),
    )?;
    stage.check(lost <= 10, &format!("lost, while the caller's node had not yet heard of it: {lost} of {COUNT}"))
}
